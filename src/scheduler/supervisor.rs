//! The thread that owns the attachment.
//!
//! ```text
//!                    start
//!                      v
//!   Unsupported <-- [check] ----------- ok ---------> [attach] --> Running --- stop --> Off
//!        (kernel or rights;            ^                 |            |
//!         for good)                    |              refused    ejected by the kernel
//!                                      |                 v            v
//!                                      +--- wait ----- Ejected{reason, retry_at}
//! ```
//!
//! A kernel that lacks something will lack it in a minute, too: `Unsupported` is final. Another
//! scheduler in force, a refused load, an ejection: each is tried again, after a wait that doubles
//! (see [`super::backoff`]).

use std::mem::MaybeUninit;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{oneshot, watch};

use super::abi::SchedulerStats;
use super::attachment::{Attachment, Exit};
use super::backoff::Backoff;
use super::config::Config;
use super::hints::{HintTarget, Hints, start_time_of};
use super::{SchedulerError, State, Tier, check};

/// How often the attachment is looked at for an ejection: the kernel schedules meanwhile.
const POLL: Duration = Duration::from_secs(1);
/// How often hints of processes that have ended are removed.
const PRUNE: Duration = Duration::from_secs(10);

/// What the handles ask of the thread.
pub(super) enum Command {
    SetTier(HintTarget, Option<Tier>),
    SetJob(u64, bool),
    SetSpeed(u32, Option<u32>),
    Stats(oneshot::Sender<Result<SchedulerStats, SchedulerError>>),
    Stop,
}

/// How an attachment, or a wait for the next, ended.
enum End {
    Stopped,
    Exited(Exit),
    Waited,
}

/// What the thread does: returns after [`Command::Stop`], or when all handles are gone.
pub(super) fn supervise(
    commands: &Receiver<Command>,
    state: &watch::Sender<State>,
    config: &Config,
    mut backoff: Backoff,
) {
    let mut hints = Hints::default();
    loop {
        let attempt = Instant::now();
        let mut object = MaybeUninit::uninit();
        let attached = check::check().and_then(|()| Attachment::new(&mut object, config, &hints));
        let (reason, restart) = match attached {
            Ok(mut attachment) => {
                tracing::info!("scheduler attached: agents first, then this node's own programs, then guests");
                state.send_replace(State::Running { since: SystemTime::now() });
                let end = attend(commands, &mut hints, Some(&mut attachment), None);
                attachment.detach();
                match end {
                    End::Exited(exit) => (exit.reason, exit.restart),
                    End::Stopped | End::Waited => {
                        state.send_replace(State::Off { reason: "stopped".to_owned() });
                        return;
                    }
                }
            }
            Err(error) if error.is_permanent() => {
                tracing::warn!("no scheduler of ours on this machine: {error}");
                state.send_replace(State::Unsupported { reason: error.to_string() });
                // Hints and questions are still taken (and answered "not running"), until the
                // handles go.
                attend(commands, &mut hints, None, None);
                return;
            }
            Err(error) => (error.to_string(), false),
        };
        let wait = if restart { Duration::ZERO } else { backoff.ended_after(attempt.elapsed()) };
        tracing::warn!("scheduler not in force: {reason}; the kernel's own has taken over, next attempt in {wait:?}");
        state.send_replace(State::Ejected { reason, retry_at: SystemTime::now() + wait });
        if let End::Stopped = attend(commands, &mut hints, None, Some(Instant::now() + wait)) {
            state.send_replace(State::Off { reason: "stopped".to_owned() });
            return;
        }
    }
}

/// Serves commands until told to stop, until the attachment ends, or until `deadline`.
fn attend(
    commands: &Receiver<Command>,
    hints: &mut Hints,
    mut attachment: Option<&mut Attachment<'_>>,
    deadline: Option<Instant>,
) -> End {
    let mut next_prune = Instant::now() + PRUNE;
    loop {
        if let Some(exit) = attachment.as_ref().and_then(|attachment| attachment.exited()) {
            return End::Exited(exit);
        }
        let wait = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return End::Waited,
            Some(left) => left.min(POLL),
            None => POLL,
        };
        match commands.recv_timeout(wait) {
            Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return End::Stopped,
            Ok(command) => serve(command, hints, attachment.as_deref_mut()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() >= next_prune {
            next_prune = Instant::now() + PRUNE;
            let gone = hints.prune(start_time_of);
            if !gone.is_empty() {
                apply(gone, hints, attachment.as_deref_mut());
            }
        }
    }
}

fn serve(command: Command, hints: &mut Hints, attachment: Option<&mut Attachment<'_>>) {
    match command {
        Command::SetTier(target, tier) => {
            let change = hints.set_tier(target, tier, start_time_of);
            apply(vec![change], hints, attachment);
        }
        Command::SetJob(cgroup, is_job) => {
            let change = hints.set_job(cgroup, is_job);
            apply(vec![change], hints, attachment);
        }
        Command::SetSpeed(pid, speed_permille) => {
            let change = hints.set_speed(pid, speed_permille, start_time_of);
            apply(vec![change], hints, attachment);
        }
        // The caller may have gone meanwhile: nothing to do then.
        Command::Stats(reply) => {
            let _ = reply.send(attachment.map_or(Err(SchedulerError::NotRunning), |attachment| attachment.stats()));
        }
        // Taken by the caller.
        Command::Stop => {}
    }
}

fn apply(changes: Vec<super::hints::Change>, hints: &Hints, attachment: Option<&mut Attachment<'_>>) {
    let Some(attachment) = attachment else { return };
    let written = changes.into_iter().try_for_each(|change| attachment.write(change));
    if let Err(error) = written.and_then(|()| attachment.publish(hints)) {
        // A hint is advice: scheduling continues without it.
        tracing::warn!("{error}");
    }
}
