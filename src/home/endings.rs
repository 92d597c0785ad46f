//! Ends in order: what a process wrote is in home's pipes before its deputy ends, what it left
//! unread is back in the terminal.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::home::relay::HomeRelays;
use crate::protocol::ExitStatus;

/// An end that the guest has reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Of a process.
    Exited {
        /// Its pid at home.
        pid: i32,
        /// How.
        status: ExitStatus,
        /// Whether it is the job's root, whose end gives the terminal back.
        is_root: bool,
    },
    /// Of the whole process tree.
    Ended,
}

/// Ends that may wait.
const QUEUE_ENDINGS: usize = 1024;

/// An ending, and the relays that must first be empty.
pub(super) type Waiting = (Ending, Option<Arc<HomeRelays>>);

/// Starts the task; ends put into the first come out of the second when all before them is done.
pub(super) fn start() -> (mpsc::Sender<Waiting>, mpsc::Receiver<Ending>) {
    let (sender, mut queue) = mpsc::channel::<(Ending, Option<Arc<HomeRelays>>)>(QUEUE_ENDINGS);
    let (done, ended) = mpsc::channel(QUEUE_ENDINGS);
    tokio::spawn(async move {
        while let Some((ending, relays)) = queue.recv().await {
            if let Some(relays) = relays {
                relays.settle().await;
                if matches!(ending, Ending::Exited { is_root: true, .. }) {
                    relays.give_back().await;
                }
            }
            if done.send(ending).await.is_err() {
                return;
            }
        }
    });
    (sender, ended)
}
