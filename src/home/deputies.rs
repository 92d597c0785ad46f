//! The deputies of a job: each has a task that carries its signals to the guest and the guest's
//! news to it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::home::deputy::{DeputySocket, Told};
use crate::home::inject::Deputised;
use crate::home::relay::HomeRelays;
use crate::protocol::{ExitStatus, deputy::Command, home::Signal};
use crate::sys::proc;

/// `si_code` of a signal that the kernel sent, the terminal for one.
const SI_KERNEL: i32 = 0x80;
/// `si_code` of kill(2).
const SI_USER: i32 = 0;
/// The greatest exit code.
const CODE_MASK: i32 = 0xff;

/// All deputies of a job.
#[derive(Default)]
pub(super) struct Deputies {
    deputies: BTreeMap<i32, Deputy>,
}

struct Deputy {
    socket: Arc<DeputySocket>,
    /// Stopped by [`Command::Stop`], which its SIGCONT ends.
    is_stopped: bool,
    /// Found stopped by SIGSTOP, which cannot be seen otherwise.
    is_halted: bool,
    _pidfd: OwnedFd,
    task: CancellationToken,
}

/// What a deputy's task tells the core.
pub(super) enum FromDeputy {
    /// The deputy told something.
    Told { pid: i32, told: Told },
    /// The deputy is gone.
    Gone { pid: i32 },
}

impl Drop for Deputy {
    fn drop(&mut self) {
        self.task.cancel();
    }
}

impl Deputies {
    /// Takes over a deputy. `events` hears of it until it is dropped.
    ///
    /// # Errors
    /// If its socket cannot be watched.
    pub(super) fn add(&mut self, deputised: Deputised, events: mpsc::Sender<FromDeputy>) -> io::Result<()> {
        let Deputised { pid, pidfd, socket } = deputised;
        let socket = Arc::new(DeputySocket::new(socket)?);
        let task = CancellationToken::new();
        tokio::spawn(listen(pid, socket.clone(), events, task.clone()));
        let deputy = Deputy { socket, is_stopped: false, is_halted: false, _pidfd: pidfd, task };
        self.deputies.insert(pid, deputy);
        Ok(())
    }

    pub(super) fn pids(&self) -> Vec<i32> {
        self.deputies.keys().copied().collect()
    }

    pub(super) fn remove(&mut self, pid: i32) {
        self.deputies.remove(&pid);
    }

    /// Sends a command, with the terminal for [`Command::Terminal`]. A deputy that is gone is told
    /// nothing.
    pub(super) async fn command(&self, pid: i32, command: Command, descriptor: Option<BorrowedFd<'_>>) {
        let Some(deputy) = self.deputies.get(&pid) else { return };
        if let Err(error) = deputy.socket.send(command, descriptor).await {
            tracing::info!(pid, %error, ?command, "a deputy does not take a command");
        }
    }

    /// The guest process of `pid` was stopped by `signal`; so is its deputy.
    pub(super) async fn stop(&mut self, pid: i32, signal: i32) {
        if let Some(deputy) = self.deputies.get_mut(&pid)
            && !deputy.is_halted
        {
            deputy.is_stopped = true;
            self.command(pid, Command::Stop(signal as u8), None).await;
        }
    }

    /// The signal to pass on for what a deputy told, if any.
    pub(super) fn signal(&mut self, pid: i32, told: &Told, relays: Option<&HomeRelays>) -> Option<Signal> {
        let deputy = self.deputies.get_mut(&pid)?;
        match *told {
            // The guest's terminal sends its own when it gets the new size.
            Told::Signal { signal: libc::SIGWINCH, code: SI_KERNEL, .. } if relays.is_some_and(HomeRelays::resized) => {
                None
            }
            Told::Signal { signal, code, value } => {
                if signal == libc::SIGCONT {
                    (deputy.is_halted, deputy.is_stopped) = (false, false);
                }
                Some(Signal { pid, signal, code, value })
            }
            // No SIGCONT did it, so nothing else tells the guest process.
            Told::Continued if std::mem::take(&mut deputy.is_stopped) => {
                Some(Signal { pid, signal: libc::SIGCONT, code: SI_USER, value: 0 })
            }
            _ => None,
        }
    }

    /// Deputies that have been stopped by SIGSTOP since the last look: their guest processes are to
    /// be stopped.
    pub(super) fn halted(&mut self) -> Vec<Signal> {
        let mut found = Vec::new();
        for (pid, deputy) in &mut self.deputies {
            if !deputy.is_stopped && !deputy.is_halted && is_stopped(*pid) {
                deputy.is_halted = true;
                found.push(Signal { pid: *pid, signal: libc::SIGSTOP, code: SI_USER, value: 0 });
            }
        }
        found
    }
}

/// Whether /proc shows the process as stopped.
fn is_stopped(pid: i32) -> bool {
    proc::stat(format!("/proc/{pid}")).is_ok_and(|stat| stat.state == 'T')
}

/// How a deputy ends as its guest process did.
pub(super) fn ending(status: ExitStatus) -> Command {
    match status {
        ExitStatus::Exited(code) => Command::Exit((code & CODE_MASK) as u8),
        ExitStatus::Killed(signal) => Command::Kill(signal as u8),
    }
}

async fn listen(pid: i32, socket: Arc<DeputySocket>, events: mpsc::Sender<FromDeputy>, end: CancellationToken) {
    loop {
        let told = tokio::select! {
            told = socket.recv() => told,
            () = end.cancelled() => return,
        };
        let event = match told {
            Ok(Some(told)) => FromDeputy::Told { pid, told },
            Ok(None) => FromDeputy::Gone { pid },
            Err(error) => {
                tracing::warn!(pid, %error, "a deputy cannot be heard any more");
                FromDeputy::Gone { pid }
            }
        };
        let is_last = matches!(event, FromDeputy::Gone { .. });
        if events.send(event).await.is_err() || is_last {
            return;
        }
    }
}
