//! One thread (or, from `/proc`, one process) as a source has seen it, and where samples come from.

use super::{Source, TelemetryError};

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

/// Counters of one thread, since it began. Those of a group leader include its threads that have ended.
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
    /// Threads of the process.
    pub nr_threads: u32,
    /// Kernel thread.
    pub is_kernel: bool,
    /// As `ps` shows it: R, S, D, T, t, Z, X, I.
    pub state: char,
    /// CLOCK_BOOTTIME.
    pub start_ns: u64,
    /// Time on a CPU.
    pub run_ns: u64,
    /// Time runnable, but waiting for a CPU.
    pub wait_ns: u64,
    /// Page faults served from memory.
    pub min_flt: u64,
    /// Page faults that waited for a disk.
    pub maj_flt: u64,
    /// Times taken off a CPU.
    pub switches: u64,
    /// Memory in use; 0 but for leaders.
    pub rss_bytes: u64,
    /// What of it is of mapped files.
    pub file_bytes: u64,
    /// Read from disks and written to files. A leader's include its children's that were waited for.
    pub io_bytes: u64,
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
