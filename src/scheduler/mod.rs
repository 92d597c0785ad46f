//! The kernel scheduler, as seen from user space: attach, supervise, hint.
//!
//! The scheduler itself is BPF (`bpf/main.bpf.c`, which opens with its design). Here a thread of
//! its own loads it with libbpf-rs, watches it and attaches it again when the kernel has ejected
//! it; everything else talks to that thread by messages:
//!
//! ```text
//!   migration, home --TierHints--> bounded channel --> supervisor thread --> maps of the BPF half
//!   daemon, api <---watch<State>-----------------------------+   |
//!   daemon, api <---oneshot (statistics)-------------------------+
//! ```
//!
//! Scheduling never waits for any of this: if the process is stopped the scheduler continues as it
//! is, and if the process ends, however it ends, the kernel closes the link and its own scheduler
//! takes over.

mod abi;
mod attachment;
mod attained;
mod backoff;
mod check;
mod config;
mod foreground;
mod hints;
mod skel;
mod supervisor;
mod topology;

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};

pub use abi::{SchedulerStats, Tier, TierStats};
pub use attained::AttainedService;
pub use backoff::Backoff;
pub use check::{attached_scheduler, check};
pub use config::Config;
pub use foreground::run_foreground;
pub use hints::HintTarget;
pub use topology::Topology;

use supervisor::Command;

/// Commands that may wait for the supervisor. It serves one in microseconds, or, while a scheduler
/// is loaded, after half a second.
const COMMANDS: usize = 1024;
/// How long a question may take: loading and verifying takes 0.5 s, under software emulation a
/// multiple of it.
const ANSWER: Duration = Duration::from_secs(10);

/// What can go wrong with the scheduler.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The kernel was built without sched_ext.
    #[error(
        "kernel {release} has no sched_ext (CONFIG_SCHED_CLASS_EXT): the kernel's own scheduler stays in force; \
         a kernel that has it is Debian's linux-image-cloud-amd64 of trixie-backports, or any 6.12 or newer built with it"
    )]
    NoSchedExt {
        /// Release of the running kernel.
        release: String,
    },
    /// The kernel does not describe its types.
    #[error("/sys/kernel/btf/vmlinux is missing: boot a kernel built with CONFIG_DEBUG_INFO_BTF")]
    NoBtf,
    /// Not root.
    #[error("attaching a scheduler needs root: start scx_mosix as root")]
    NotPermitted,
    /// Another sched_ext scheduler is in force.
    #[error("the sched_ext scheduler {name} is in force: stop it to let scx_mosix's take over")]
    Occupied {
        /// As the kernel names it.
        name: String,
    },
    /// `/sys/devices/system/cpu` is unreadable.
    #[error("the CPUs' layout cannot be read from /sys/devices/system/cpu")]
    Topology(#[source] std::io::Error),
    /// The kernel did not take the programs.
    #[error("the kernel refused the scheduler's programs: {0}")]
    Load(String),
    /// The kernel did not put it in force.
    #[error("the kernel refused to put the scheduler in force: {0}")]
    Attach(String),
    /// A hint was not taken; scheduling continues without it.
    #[error("a scheduling hint was not taken: {0}")]
    Hint(String),
    /// Statistics could not be read.
    #[error("the scheduler's statistics cannot be read: {0}")]
    Read(String),
    /// Nothing is attached now; [`Scheduler::state`] says why.
    #[error("the scheduler is not in force")]
    NotRunning,
    /// The supervisor has too much to do, or does not answer in time: try again.
    #[error("the scheduler's supervisor is busy")]
    Busy,
    /// The supervisor has ended.
    #[error("the scheduler was stopped")]
    Stopped,
    /// No thread for the supervisor.
    #[error("no thread could be started for the scheduler's supervisor")]
    Thread(#[source] std::io::Error),
    /// The foreground command cannot wait for signals.
    #[error("signals cannot be waited for")]
    Signals(#[source] std::io::Error),
}

impl SchedulerError {
    /// Whether trying again cannot help while this kernel and process run.
    fn is_permanent(&self) -> bool {
        matches!(self, Self::NoSchedExt { .. } | Self::NoBtf | Self::NotPermitted)
    }
}

/// Where the scheduler stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not wanted, not yet attached, or stopped.
    Off {
        /// Which of these.
        reason: String,
    },
    /// In force.
    Running {
        /// Since when.
        since: SystemTime,
    },
    /// The kernel ejected or refused it; the kernel's own scheduler is in force.
    Ejected {
        /// As the kernel says it.
        reason: String,
        /// When it will be attached again.
        retry_at: SystemTime,
    },
    /// This machine cannot have it.
    Unsupported {
        /// What is missing, and what to do.
        reason: String,
    },
}

/// The supervisor. Dropping it detaches the scheduler and waits until the kernel's own has taken
/// over (about 0.1 s).
pub struct Scheduler {
    commands: SyncSender<Command>,
    state: watch::Receiver<State>,
    thread: Option<JoinHandle<()>>,
}

impl Scheduler {
    /// Starts the supervisor's thread, which attaches the scheduler. Whether that succeeds,
    /// [`Scheduler::state`] tells.
    ///
    /// # Errors
    /// Only when no thread could be started.
    pub fn start(config: Config, backoff: Backoff) -> Result<Self, SchedulerError> {
        libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Info, log_libbpf)));
        let (commands, inbox) = sync_channel(COMMANDS);
        let (state_tx, state) = watch::channel(State::Off { reason: "starting".to_owned() });
        let thread = std::thread::Builder::new()
            .name("scheduler".to_owned())
            .spawn(move || supervisor::supervise(&inbox, &state_tx, &config, backoff))
            .map_err(SchedulerError::Thread)?;
        Ok(Self { commands, state, thread: Some(thread) })
    }

    /// The present state, and its changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// A handle for those who give hints.
    pub fn hints(&self) -> TierHints {
        TierHints { commands: self.commands.clone() }
    }

    /// A handle for those who want statistics.
    pub fn statistics(&self) -> Statistics {
        Statistics { commands: self.commands.clone() }
    }

    /// Detaches, and waits until that is done. In async code call it by `spawn_blocking`.
    pub fn stop(mut self) {
        self.stop_thread();
    }

    fn stop_thread(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Fails only when the thread has ended already.
            let _ = self.commands.send(Command::Stop);
            if thread.join().is_err() {
                tracing::error!("the scheduler's supervisor panicked");
            }
        }
    }
}

/// libbpf's messages go where ours go; when the kernel refuses a program its warnings contain the
/// verifier's log.
fn log_libbpf(level: libbpf_rs::PrintLevel, message: String) {
    match level {
        libbpf_rs::PrintLevel::Warn => tracing::warn!(target: "libbpf", "{}", message.trim_end()),
        libbpf_rs::PrintLevel::Info | libbpf_rs::PrintLevel::Debug => {
            tracing::debug!(target: "libbpf", "{}", message.trim_end());
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.stop_thread();
    }
}

/// Tells the scheduler who is a guest, who an agent, who a job, and who has to slow down. Hints are
/// remembered: they hold again after a re-attachment, and cost nothing while no scheduler is
/// attached. Calls do not block.
#[derive(Clone)]
pub struct TierHints {
    commands: SyncSender<Command>,
}

impl TierHints {
    /// Puts `target` into `tier`; `None` takes the hint back. A process's hint ends with the
    /// process.
    ///
    /// # Errors
    /// `Busy`, `Stopped`.
    pub fn set_tier(&self, target: HintTarget, tier: Option<Tier>) -> Result<(), SchedulerError> {
        send(&self.commands, Command::SetTier(target, tier))
    }

    /// Says whether the cgroup, by the inode number of its directory, is that of a job: what is in
    /// it and below makes room for processes with less attained service when
    /// [`Config::attained_service`] is [`AttainedService::Jobs`].
    ///
    /// # Errors
    /// `Busy`, `Stopped`.
    pub fn set_job(&self, cgroup: u64, is_job: bool) -> Result<(), SchedulerError> {
        send(&self.commands, Command::SetJob(cgroup, is_job))
    }

    /// Lets each thread of process `pid` use at most `speed_permille` thousandths of a CPU; `None`,
    /// 0 or 1000 and above: as much as it can get; below about 40 it gets 40. For pre-copy against
    /// a program that writes faster than the link is; ends with the process.
    ///
    /// # Errors
    /// `Busy`, `Stopped`.
    pub fn set_throttle(&self, pid: u32, speed_permille: Option<u32>) -> Result<(), SchedulerError> {
        send(&self.commands, Command::SetSpeed(pid, speed_permille.filter(|speed| (1..1000).contains(speed))))
    }
}

/// Reads what the scheduler did.
#[derive(Clone)]
pub struct Statistics {
    commands: SyncSender<Command>,
}

impl Statistics {
    /// What the scheduler did since it was attached.
    ///
    /// # Errors
    /// `NotRunning`, `Busy`, `Stopped`, `Read`.
    pub async fn read(&self) -> Result<SchedulerStats, SchedulerError> {
        let (reply, answer) = oneshot::channel();
        send(&self.commands, Command::Stats(reply))?;
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(SchedulerError::Stopped),
            Err(_) => Err(SchedulerError::Busy),
        }
    }
}

fn send(commands: &SyncSender<Command>, command: Command) -> Result<(), SchedulerError> {
    commands.try_send(command).map_err(|error| match error {
        TrySendError::Full(_) => SchedulerError::Busy,
        TrySendError::Disconnected(_) => SchedulerError::Stopped,
    })
}

#[cfg(test)]
mod tests;
