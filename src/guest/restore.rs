//! How CRIU is started in a guest: which descriptors it gets under which numbers, and which process
//! numbers stay free for the process tree.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

use super::{error::GuestError, init::Init};
use crate::{
    migration::{
        criu::{Connection, FIRST_FREE_FD, HOST_ROOT_FD, IMAGES_FD, Program, RPC_FD},
        target::{Arrival, StartedCriu},
    },
    proto::criu::PstreeEntry,
    protocol::{
        home::ChannelKind,
        init::Restore,
        moves::{Begin, Relayed},
    },
};

/// How many process numbers CRIU may use up while it restores.
const CRIU_PIDS: i32 = 1000;
/// The lowest number that new processes of a guest get: those below are often daemons' at home, and
/// after a wrap-around the kernel starts here too.
const FIRST_PID: i32 = 300;

/// The process tree's end of a relayed pipe.
pub struct RelayedEnd {
    /// What CRIU calls it in this dump.
    pub criu_key: String,
    /// The end of a pipe of this node.
    pub descriptor: OwnedFd,
}

/// What a start of CRIU gives.
pub struct Started {
    /// For the target engine.
    pub criu: StartedCriu,
    /// CRIU's number in the guest.
    pub criu_pid: i32,
    /// The master of the guest's terminal, if the process tree has one.
    pub terminal: Option<OwnedFd>,
}

/// Starts CRIU in the guest, below `cgroup`, with the process tree's ends of its pipes.
pub async fn start(
    init: &Init,
    program: &Program,
    cgroup: &Path,
    arrival: &Arrival<'_>,
    ends: Vec<RelayedEnd>,
) -> Result<Started, GuestError> {
    let (connection, theirs) = Connection::pair()?;
    let open = |path: &Path, flags: OFlags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| GuestError::Open { path: path.into(), source: errno.into() })
    };
    let procs = open(&cgroup.join("cgroup.procs"), OFlags::WRONLY)?;
    let images = open(arrival.images, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let root = open(Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut passed: Vec<(BorrowedFd<'_>, RawFd)> =
        vec![(procs.as_fd(), -1), (theirs.as_fd(), RPC_FD), (images.as_fd(), IMAGES_FD), (root.as_fd(), HOST_ROOT_FD)];
    passed.extend(ends.iter().map(|end| end.descriptor.as_fd()).zip(FIRST_FREE_FD..));
    let inherited = ends.iter().map(|end| end.criu_key.clone()).zip(FIRST_FREE_FD..).collect();
    let (line, environment) = program.in_guest();
    let restore = Restore {
        line: line.into_iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        numbers: passed.iter().map(|(_, number)| *number).collect(),
        terminal: has_terminal(&arrival.begin.descriptors.relayed),
        last_pid: free_pids(arrival.tree, pid_max()).ok_or(GuestError::NoNumbers)?,
        clock_offsets_ns: clock_offsets(arrival.begin),
    };
    let descriptors: Vec<BorrowedFd<'_>> = passed.iter().map(|(fd, _)| *fd).collect();
    let restoring = init.restore(restore, &descriptors).await?;
    let criu = StartedCriu { connection, inherited };
    Ok(Started { criu, criu_pid: restoring.criu_pid, terminal: restoring.terminal })
}

fn has_terminal(relayed: &[Relayed]) -> bool {
    relayed.iter().any(|relayed| relayed.channel.kind == ChannelKind::Tty)
}

/// What to add to this node's clocks so that the process tree's continue where they stood.
fn clock_offsets(begin: &Begin) -> (i64, i64) {
    let now = |clock| {
        let time = rustix::time::clock_gettime(clock);
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
    };
    let monotonic = begin.monotonic_ns.saturating_sub(now(rustix::time::ClockId::Monotonic));
    let boottime = begin.boottime_ns.saturating_sub(now(rustix::time::ClockId::Boottime));
    (monotonic, boottime)
}

fn pid_max() -> i32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    // The kernel's own default.
    text.trim().parse().unwrap_or(32768)
}

/// The highest gap of [`CRIU_PIDS`] numbers that no thread of the process tree has: the number
/// before its first.
fn free_pids(tree: &[PstreeEntry], pid_max: i32) -> Option<i32> {
    let mut used: Vec<i32> = tree
        .iter()
        .flat_map(|process| process.threads.iter().copied().chain([process.pid, process.pgid, process.sid]))
        .filter_map(|pid| i32::try_from(pid).ok())
        .filter(|pid| *pid >= FIRST_PID)
        .collect();
    used.push(FIRST_PID);
    used.sort_unstable();
    used.dedup();
    let mut end = pid_max;
    for pid in used.into_iter().rev() {
        if end - pid > CRIU_PIDS {
            return Some(pid);
        }
        end = end.min(pid);
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn process(pid: u32, threads: Vec<u32>) -> PstreeEntry {
        PstreeEntry { pid, ppid: 1, pgid: pid, sid: pid, threads }
    }

    #[test]
    fn numbers_are_found_above_or_between() {
        assert_eq!(free_pids(&[process(500, vec![500, 700])], 32768), Some(700));
        assert_eq!(free_pids(&[process(32000, vec![32000])], 32768), Some(300));
        assert_eq!(free_pids(&[process(900, vec![900])], 1500), None);
    }

    proptest! {
        #[test]
        fn numbers_are_free(pids in prop::collection::vec(1u32..6000, 1..40), pid_max in 2000i32..8000) {
            let tree: Vec<_> = pids.iter().map(|pid| process(*pid, vec![*pid])).collect();
            if let Some(last) = free_pids(&tree, pid_max) {
                prop_assert!(last >= FIRST_PID && last + CRIU_PIDS < pid_max);
                prop_assert!(pids.iter().all(|pid| !(last + 1..=last + CRIU_PIDS).contains(&(*pid as i32))));
            }
        }
    }
}
