//! What this version cannot move, found before anything is frozen: one readable reason, or the
//! facts about the process tree.
//!
//! Everything here is read from /proc or asked of the kernel; nothing of the program is touched.
//! Descriptors are judged by [`crate::descriptors`], which the home agent asks itself of a job at
//! home, what a process may do by [`super::rights`]; here is the rest: the shape of the tree,
//! threads, namespaces, memory, locks. The checks are made again once the process tree stands
//! still, because it may have changed meanwhile.
//!
//! While a program runs, what is read of it does not fit together: processes start and end between
//! two reads. So a reason counts only if it is found each time ([`lasting`]).

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    rights,
    source::{Place, ProcessTree},
};
use crate::{
    descriptors::{self, TakeError, own_directory},
    protocol::TreeFacts,
    sys::{
        cgroup::{self, is_in, members},
        proc::{self, Process, is_gone},
    },
    telemetry::landlock::Confined,
};

/// Why a process tree cannot move: words that complete "cannot move: …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CannotMove(pub String);

/// Why a program cannot move that has ended. Children that are left do not move without it.
const ENDED: &str = "its first process has ended";

fn refuse<T>(why: impl Into<String>) -> Result<T, CannotMove> {
    Err(CannotMove(why.into()))
}

/// Namespaces that a process tree must share with the place where it runs. The time namespace of a
/// guest is its own and goes along.
const NAMESPACES: [&str; 7] = ["mnt", "pid", "ipc", "uts", "net", "user", "cgroup"];

/// How often it is looked for a reason in a program that runs.
pub const LOOKS: u32 = 8;
/// Between two looks: a process that is just starting or ending has done so by the next.
pub const LOOK_PAUSE: Duration = Duration::from_millis(4);

/// What `look` finds of the processes of `cgroup`; its error only if it finds one each time, or
/// while they stand still.
///
/// # Errors
/// The last one that `look` returned.
pub fn lasting<T, E>(cgroup: &Path, look: impl Fn() -> Result<T, E>) -> Result<T, E> {
    for _ in 1..LOOKS {
        let stands_still = cgroup::events(cgroup).is_ok_and(|events| events.frozen);
        match look() {
            Err(_) if !stands_still => std::thread::sleep(LOOK_PAUSE),
            found => return found,
        }
    }
    look()
}

/// The facts about a process tree that can move. Blocks for some milliseconds if there is a reason
/// why it cannot.
///
/// # Errors
/// A reason found why it cannot.
pub fn check(tree: &ProcessTree) -> Result<TreeFacts, CannotMove> {
    lasting(&tree.cgroup, || check_once(tree))
}

/// As [`check`], of one look at a program that may run.
///
/// # Errors
/// The first reason found, which may not last.
pub fn check_once(tree: &ProcessTree) -> Result<TreeFacts, CannotMove> {
    if let Some(why) = rights::bad_place(tree.place) {
        return refuse(why);
    }
    let processes = members(&tree.cgroup).map_err(|error| unreadable(error.cause))?;
    check_tree(&processes, tree.root_pid)?;
    check_strangers(&processes, &tree.cgroup).map_err(unreadable)??;
    let place = match tree.place {
        Place::Here => PathBuf::from("/proc/self"),
        Place::Guest { init } => PathBuf::from(format!("/proc/{init}")),
    };
    let in_guest = matches!(tree.place, Place::Guest { .. });
    let root = root_of(tree.root_pid).map_err(unreadable)?;
    let confined = Confined::look();
    for process in processes.iter().filter(|process| process.state != 'Z') {
        match check_process(process, &place, root, in_guest, &confined) {
            // It may end while we look; then there is nothing to refuse.
            Err(Problem::Io(error)) if is_gone(&error) => {}
            Err(Problem::Io(error)) => return Err(unreadable(error)),
            Err(Problem::Refused(why)) => return refuse(why),
            Ok(()) => {}
        }
    }
    if in_guest {
        let alive = processes.iter().filter(|process| process.state != 'Z');
        let pids: Vec<i32> = alive.map(|process| process.pid).collect();
        match descriptors::check_guest(&pids) {
            Err(TakeError::Io { source, .. }) => return Err(unreadable(source)),
            judged => judged.map_err(|error| CannotMove(error.to_string()))?,
        }
    }
    facts(&processes, tree).map_err(unreadable)
}

/// What it means that the root or the cgroup cannot be looked at.
fn unreadable(error: io::Error) -> CannotMove {
    CannotMove(if is_gone(&error) { ENDED.into() } else { format!("its state in /proc cannot be read: {error}") })
}

/// All processes must hang together below the root, which must live.
fn check_tree(processes: &[Process], root_pid: i32) -> Result<(), CannotMove> {
    let name = |process: &Process| format!("process {} ({})", process.pid, process.comm);
    if !processes.iter().any(|process| process.pid == root_pid && process.state != 'Z') {
        return refuse(ENDED);
    }
    let mut connected = BTreeSet::from([root_pid]);
    loop {
        let more: Vec<i32> = processes
            .iter()
            .filter(|process| connected.contains(&process.parent) && !connected.contains(&process.pid))
            .map(|process| process.pid)
            .collect();
        if more.is_empty() {
            break;
        }
        connected.extend(more);
    }
    match processes.iter().find(|process| !connected.contains(&process.pid)) {
        Some(orphan) => refuse(format!("{} has lost its parent and no longer belongs to the job's tree", name(orphan))),
        None => Ok(()),
    }
}

/// Children from before `run` registered their parent, and those that have become jobs of their
/// own, are not of the job: CRIU would find them in the tree and not frozen. A child that is not
/// among `processes` may have begun since, or have ended and wait for its parent.
fn check_strangers(processes: &[Process], cgroup: &Path) -> io::Result<Result<(), CannotMove>> {
    for process in processes.iter().filter(|process| process.state != 'Z') {
        let children = match fs::read_to_string(process.proc(&format!("task/{}/children", process.pid))) {
            Err(error) if is_gone(&error) => continue,
            children => children?,
        };
        let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        for child in children.filter(|child| !processes.iter().any(|process| process.pid == *child)) {
            if is_in(child, cgroup) {
                continue;
            }
            if let Some(stranger) = Process::read(child)? {
                let Process { pid, comm, .. } = process;
                let why =
                    format!("process {pid} ({comm}) has a child that is not of this job, {child} ({})", stranger.comm);
                return Ok(refuse(why));
            }
        }
    }
    Ok(Ok(()))
}

enum Problem {
    Refused(String),
    Io(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Device and inode of a process's root directory.
fn root_of(pid: i32) -> io::Result<(u64, u64)> {
    let root = fs::metadata(format!("/proc/{pid}/root"))?;
    Ok((root.dev(), root.ino()))
}

fn check_process(
    process: &Process,
    place: &Path,
    root: (u64, u64),
    in_guest: bool,
    confined: &Confined,
) -> Result<(), Problem> {
    let Process { pid, comm, .. } = process;
    let bad = |why: String| Err(Problem::Refused(format!("process {pid} ({comm}) {why}")));
    if process.tracer != 0 {
        return bad(format!("is traced by process {}", process.tracer));
    }
    // The first thread of a process that lives on is not a zombie unless it has exited before the
    // others.
    if proc::stat(process.proc(&format!("task/{pid}")))?.state == 'Z' && process.threads > 0 {
        return bad("has threads that outlive its first".into());
    }
    if let Some(why) = rights::check(process, confined)? {
        return bad(why);
    }
    for namespace in NAMESPACES {
        let own = fs::read_link(process.proc("ns").join(namespace))?;
        if own != fs::read_link(place.join("ns").join(namespace))? {
            return bad(format!("has a {namespace} namespace of its own (is it a container or sandbox?)"));
        }
    }
    let children_time = fs::read_link(process.proc("ns/time_for_children"))?;
    if children_time != fs::read_link(process.proc("ns/time"))? {
        return bad("has prepared a time namespace for its children".into());
    }
    if root_of(*pid)? != root {
        return bad("has another root directory than the job's first process".into());
    }
    // A guest's is made by its agent; to look there would ask home.
    if !in_guest && !process.proc("root/proc/version").exists() {
        return bad("runs in a root directory without /proc".into());
    }
    let cwd = fs::read_link(process.proc("cwd"))?;
    if cwd.to_string_lossy().ends_with(" (deleted)") {
        return bad("works in a directory that was removed".into());
    }
    if let Some(dir) = own_directory(&cwd) {
        return bad(format!("works in {}, and {dir} is not home's on another node", cwd.display()));
    }
    for line in fs::read_to_string(process.proc("maps"))?.lines() {
        if let Some(why) = bad_mapping(line) {
            return bad(why);
        }
    }
    for entry in fs::read_dir(process.proc("fdinfo"))? {
        let entry = entry?;
        // Descriptors come and go while the program runs.
        let Ok(info) = fs::read_to_string(entry.path()) else { continue };
        let number = entry.file_name();
        if info.lines().any(|line| line.starts_with("lock:")) {
            return bad(format!("holds a file lock (descriptor {})", number.display()));
        }
    }
    Ok(())
}

/// What is wrong with a line of /proc/PID/maps.
fn bad_mapping(line: &str) -> Option<String> {
    let mut words = line.splitn(6, ' ').map(str::trim);
    let path = words.nth(5)?.trim_start();
    if path.starts_with("/SYSV") {
        return Some("uses System V shared memory".into());
    }
    if path.starts_with("/anon_hugepage") || path.starts_with("/memfd:hugetlb") {
        return Some("uses huge pages that were reserved for it".into());
    }
    if path == "[aio]" || path.starts_with("/[aio]") {
        return Some("uses the kernel's asynchronous I/O".into());
    }
    if let Some(inode) = path.strip_prefix("anon_inode:") {
        return Some(format!("has {inode} in its memory, which cannot be carried over"));
    }
    // Shared anonymous memory is called a deleted /dev/zero, and is carried over.
    if path.starts_with("/dev/zero") || path.starts_with("/memfd:") {
        return None;
    }
    let dir = own_directory(path)?;
    Some(format!("has {path} in its memory, and {dir} is not home's on another node"))
}

fn facts(processes: &[Process], tree: &ProcessTree) -> io::Result<TreeFacts> {
    let (monotonic_ns, boottime_ns) = clocks(tree)?;
    let hostname = rustix::system::uname();
    let hostname = match tree.place {
        Place::Here => hostname.nodename().to_string_lossy().into_owned(),
        // A guest's own, which is home's: seen through the file that shows the reader's namespace
        // it would be this node's.
        Place::Guest { .. } => String::new(),
    };
    Ok(TreeFacts {
        // Who shares memory shares most of it with the others.
        resident_bytes: processes.iter().map(|process| process.anonymous_bytes).sum::<u64>()
            + processes.iter().map(|process| process.shared_bytes).max().unwrap_or(0),
        processes: u32::try_from(processes.len()).unwrap_or(u32::MAX),
        threads: processes.iter().map(|process| process.threads).sum(),
        monotonic_ns,
        boottime_ns,
        hostname,
    })
}

/// `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` as the process tree sees them now, in ns.
pub fn clocks(tree: &ProcessTree) -> io::Result<(i64, i64)> {
    let now = |clock| {
        let time = rustix::time::clock_gettime(clock);
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
    };
    let (mut monotonic, mut boottime) = (now(rustix::time::ClockId::Monotonic), now(rustix::time::ClockId::Boottime));
    if let Place::Guest { .. } = tree.place {
        let offsets = fs::read_to_string(format!("/proc/{}/timens_offsets", tree.root_pid))?;
        monotonic = monotonic.saturating_add(offset_ns(&offsets, "monotonic"));
        boottime = boottime.saturating_add(offset_ns(&offsets, "boottime"));
    }
    Ok((monotonic, boottime))
}

/// The offset of one clock in the text of /proc/PID/timens_offsets.
fn offset_ns(offsets: &str, clock: &str) -> i64 {
    let words = offsets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words
        .filter_map(|words| match words.as_slice() {
            [name, seconds, ns] if *name == clock => {
                Some(seconds.parse::<i64>().ok()?.saturating_mul(1_000_000_000).saturating_add(ns.parse().ok()?))
            }
            _ => None,
        })
        .next()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, os::unix::process::CommandExt};

    use super::*;

    /// What a user reads is what the page for users goes by.
    #[test]
    fn the_page_of_refusals_quotes_what_is_said() {
        let page = include_str!("../../docs/my-program-does-not-move.md");
        let said = [
            include_str!("movable.rs"),
            include_str!("rights.rs"),
            include_str!("../descriptors/classify.rs"),
            include_str!("../daemon/shared/whereabouts.rs"),
            include_str!("../daemon/shared/agents.rs"),
            include_str!("../daemon/backend.rs"),
            include_str!("../placement/reason.rs"),
        ];
        let first_cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
        let quotes: Vec<&str> =
            first_cells.flat_map(|cell| cell.split('`').step_by(2)).filter(|q| q.len() > 2).collect();
        assert!(quotes.len() > 30, "{quotes:?}");
        for quote in quotes {
            assert!(said.iter().any(|text| text.contains(quote)), "{quote} is not said anywhere");
        }
    }

    fn process(pid: i32, parent: i32, state: char) -> Process {
        Process {
            pid,
            inner_pid: pid,
            parent,
            state,
            comm: "xz".into(),
            tracer: 0,
            threads: 1,
            anonymous_bytes: 0,
            shared_bytes: 0,
        }
    }

    #[test]
    fn a_tree_must_hang_together() {
        let tree = [process(7, 3, 'R'), process(5, 8, 'S'), process(8, 7, 'Z')];
        assert_eq!(check_tree(&tree, 7), Ok(()));
        assert!(check_tree(&tree, 9).unwrap_err().0.contains("first process has ended"));
        assert!(check_tree(&tree[2..], 8).unwrap_err().0.contains("first process has ended"));
        let orphan = [process(7, 3, 'R'), process(9, 1, 'R')];
        assert!(check_tree(&orphan, 7).unwrap_err().0.contains("process 9 (xz) has lost its parent"));
    }

    #[test]
    fn a_reason_counts_only_if_it_lasts() {
        let dir = tempfile::tempdir().unwrap();
        let look = |fails: u32| {
            let count = Cell::new(0);
            let found = lasting(dir.path(), || {
                count.set(count.get() + 1);
                if count.get() > fails { Ok(()) } else { Err(()) }
            });
            (found, count.get())
        };
        std::fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert_eq!(look(0), (Ok(()), 1));
        assert_eq!(look(LOOKS - 1), (Ok(()), LOOKS));
        assert_eq!(look(LOOKS), (Err(()), LOOKS));
        std::fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        assert_eq!(look(1), (Err(()), 1));
    }

    #[test]
    fn memory_that_stays_behind_is_named() {
        let map = |path: &str| bad_mapping(&format!("7f00-7f01 rw-s 00000000 00:01 32768                     {path}"));
        assert!(map("/SYSV00000000 (deleted)").unwrap().contains("System V"));
        assert!(map("/dev/dri/card0").unwrap().contains("/dev/dri/card0"));
        assert!(map("anon_inode:[io_uring]").unwrap().contains("[io_uring]"));
        for fine in ["/usr/bin/xz", "[heap]", "/dev/zero (deleted)", "/memfd:x (deleted)", "", "/devices/x", "[vdso]"] {
            assert_eq!(map(fine), None, "{fine}");
        }
    }

    #[test]
    fn offsets_of_clocks_are_read() {
        let text = "monotonic           5 7\nboottime           -3         0\n";
        assert_eq!((offset_ns(text, "monotonic"), offset_ns(text, "boottime")), (5_000_000_007, -3_000_000_000));
        assert_eq!(offset_ns("", "monotonic"), 0);
    }

    #[test]
    fn a_child_of_this_test_runs_in_namespaces_of_its_node() {
        let mut command = std::process::Command::new("sleep");
        command.arg("100").current_dir("/");
        if rustix::process::geteuid().is_root() {
            // Root's programs do not move.
            command.uid(65534).gid(65534);
        }
        let mut child = command.spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::read(pid).unwrap().unwrap();
        let root = root_of(pid).unwrap();
        match check_process(&process, Path::new("/proc/self"), root, false, &Confined::Never) {
            Ok(()) => {}
            Err(Problem::Refused(why)) => panic!("{why}"),
            Err(Problem::Io(error)) => panic!("{error}"),
        }
        let elsewhere = check_process(&process, Path::new("/proc/self"), (0, 0), false, &Confined::Never);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(elsewhere, Err(Problem::Refused(_))));
    }
}
