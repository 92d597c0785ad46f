//! Processes that come, become another program, and go.
//!
//! ```text
//!   tp_btf programs --> ring buffer (256 KiB) --> reader task --> bounded channel --> daemon
//!                          full: counted              full: counted
//!                                  \______________________/
//!                                   TaskEvent::Lost { count }, and Snapshot::lost_events
//! ```
//!
//! Nothing is lost in silence: the reader of `Lost` looks at the next snapshot, which is complete
//! by itself.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Array, MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::abi;

/// A process, named for ever: pids are used again, a pid with its start time is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// Process id.
    pub pid: u32,
    /// CLOCK_BOOTTIME.
    pub start_ns: u64,
}

/// What happened to a process. `time_ns` is CLOCK_BOOTTIME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEvent {
    /// A new process. Threads are not reported.
    Forked {
        /// The child.
        process: ProcessId,
        /// Its parent.
        ppid: u32,
        /// Real user id.
        uid: u32,
        /// Inode number of its cgroup's directory.
        cgroup_id: u64,
        /// Its name: still the parent's.
        comm: String,
        /// When.
        time_ns: u64,
    },
    /// A process became another program.
    Execed {
        /// Which.
        process: ProcessId,
        /// Real user id, after set-user-id bits.
        uid: u32,
        /// Inode number of its cgroup's directory.
        cgroup_id: u64,
        /// Its new name.
        comm: String,
        /// CPU time since it was forked: what it had under its names before.
        cpu_ms_total: u64,
        /// When.
        time_ns: u64,
    },
    /// The last thread of a process ended. Reported once.
    Exited {
        /// Which.
        process: ProcessId,
        /// Its parent.
        ppid: u32,
        /// As wait(2) gives it.
        wait_status: i32,
        /// CPU time since it was forked.
        cpu_ms_total: u64,
        /// When.
        time_ns: u64,
    },
    /// This many events, at about this place, could not be delivered.
    Lost {
        /// How many.
        count: u64,
    },
}

/// Exits remembered, to report each once: two threads that end at the same moment can both look
/// like the last.
const EXITS_REMEMBERED: usize = 256;

/// The exits reported last.
#[derive(Debug, Default)]
struct RecentExits {
    order: VecDeque<ProcessId>,
    known: HashSet<ProcessId>,
}

impl RecentExits {
    /// Whether this is the first report of it.
    fn is_first(&mut self, process: ProcessId) -> bool {
        if !self.known.insert(process) {
            return false;
        }
        self.order.push_back(process);
        if self.order.len() > EXITS_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// Passes events on and keeps the books of those that were lost.
struct Outlet {
    to: mpsc::Sender<TaskEvent>,
    exits: RecentExits,
    /// Lost, and not yet told to the receiver.
    untold: u64,
    /// Lost since start.
    lost: Arc<AtomicU64>,
}

impl Outlet {
    fn lose(&mut self, count: u64) {
        self.untold += count;
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    /// Tells of what was lost, as soon as there is room for it.
    fn tell(&mut self) {
        if self.untold > 0 && self.to.try_send(TaskEvent::Lost { count: self.untold }).is_ok() {
            self.untold = 0;
        }
    }

    fn deliver(&mut self, event: TaskEvent) {
        if let TaskEvent::Exited { process, .. } = &event
            && !self.exits.is_first(*process)
        {
            return;
        }
        self.tell();
        if self.untold > 0 || self.to.try_send(event).is_err() {
            self.lose(1);
        }
    }
}

/// Reads the ring buffer until the receiver is gone. `lost_in_kernel` holds the kernel's count,
/// `lost` sums up both.
pub(super) async fn read(
    ring: RingBuf<MapData>,
    lost_in_kernel: Array<MapData, u64>,
    to: mpsc::Sender<TaskEvent>,
    lost: Arc<AtomicU64>,
) {
    // SAFETY: the ring buffer owns one descriptor, hands out that one only, and keeps it open as
    // long as it lives.
    let mut ring = match unsafe { AsyncFd::register(ring) } {
        Ok(ring) => ring,
        Err(error) => {
            tracing::error!("task events cannot be waited for, none will come: {error}");
            return;
        }
    };
    let mut outlet = Outlet { to, exits: RecentExits::default(), untold: 0, lost };
    let mut known_lost = 0;
    let closed = outlet.to.clone();
    loop {
        let mut guard = tokio::select! {
            guard = ring.readable_mut() => match guard {
                Ok(guard) => guard,
                Err(error) => {
                    tracing::error!("task events cannot be waited for any longer: {error}");
                    return;
                }
            },
            () = closed.closed() => return,
        };
        while let Some(record) = guard.get_inner_mut().next() {
            match abi::decode_event(&record) {
                Some(event) => outlet.deliver(event),
                None => outlet.lose(1),
            }
        }
        guard.clear_ready();
        let total = lost_in_kernel.get(&0, 0).unwrap_or(known_lost);
        if total > known_lost {
            tracing::debug!("the kernel had no room for {} task events", total - known_lost);
            outlet.lose(total - known_lost);
            known_lost = total;
        }
        outlet.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(pid: u32) -> TaskEvent {
        TaskEvent::Exited {
            process: ProcessId { pid, start_ns: 1 },
            ppid: 1,
            wait_status: 0,
            cpu_ms_total: 0,
            time_ns: 2,
        }
    }

    fn outlet(capacity: usize) -> (Outlet, mpsc::Receiver<TaskEvent>) {
        let (to, from) = mpsc::channel(capacity);
        (Outlet { to, exits: RecentExits::default(), untold: 0, lost: Arc::default() }, from)
    }

    #[test]
    fn an_exit_is_delivered_once() {
        let (mut outlet, mut from) = outlet(4);
        outlet.deliver(exited(7));
        outlet.deliver(exited(7));
        outlet.deliver(exited(8));
        assert_eq!((from.try_recv(), from.try_recv()), (Ok(exited(7)), Ok(exited(8))));
        assert!(from.try_recv().is_err());
        (0..10 * EXITS_REMEMBERED as u32).for_each(|pid| outlet.deliver(exited(pid)));
        assert_eq!(outlet.exits.known.len(), EXITS_REMEMBERED);
    }

    #[test]
    fn what_does_not_fit_is_told_in_its_place() {
        let (mut outlet, mut from) = outlet(1);
        outlet.deliver(exited(1));
        outlet.deliver(exited(2));
        outlet.deliver(exited(3));
        assert_eq!(from.try_recv(), Ok(exited(1)));
        outlet.tell();
        assert_eq!(from.try_recv(), Ok(TaskEvent::Lost { count: 2 }));
        outlet.deliver(exited(4));
        assert_eq!(from.try_recv(), Ok(exited(4)));
        assert_eq!(outlet.lost.load(Ordering::Relaxed), 2);
    }
}
