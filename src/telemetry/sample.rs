//! One thread (or, from `/proc`, one process) as a source has seen it, and where samples come from.

use super::{Source, TelemetryError};
use crate::job::Usage;

/// `PF_KTHREAD`: a thread of the kernel, which belongs to no user and cannot move.
pub(super) const PF_KTHREAD: u32 = 0x0020_0000;

/// Where a task belongs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CgroupRef {
    /// Inode number of the cgroup's directory.
    Id(u64),
    /// Path below the mount point of the unified hierarchy, beginning with `/`.
    Path(String),
}

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSample {
    /// Thread id.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// Process id of the parent.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// Kernel thread.
    pub is_kernel: bool,
    /// As `ps` shows it: R, S, D, T, t, Z, X, I.
    pub state: char,
    /// CLOCK_BOOTTIME.
    pub start_ns: u64,
    /// What it uses. A leader's counters include its threads that have ended; what belongs to the
    /// process as a whole, its memory and how many threads it has, is the leader's alone.
    pub usage: Usage,
    /// Where it belongs.
    pub cgroup: CgroupRef,
    /// Its name (at most 15 bytes).
    pub comm: String,
}

/// Where samples come from. Two for real (BPF, `/proc`), and [`MemoryTasks`] for tests.
pub trait TaskSource: Send {
    /// Every task there is now.
    ///
    /// # Errors
    /// When the source cannot be read at all; single tasks that vanish meanwhile are left out.
    fn sample(&mut self) -> Result<Vec<TaskSample>, TelemetryError>;

    /// What this is, for the reader of a snapshot.
    fn source(&self) -> Source;
}

/// A source for tests: hands out what was put in.
#[derive(Debug, Clone, Default)]
pub struct MemoryTasks {
    /// What the next sample consists of.
    pub tasks: Vec<TaskSample>,
}

impl TaskSource for MemoryTasks {
    fn sample(&mut self) -> Result<Vec<TaskSample>, TelemetryError> {
        Ok(self.tasks.clone())
    }

    fn source(&self) -> Source {
        Source::Memory
    }
}
