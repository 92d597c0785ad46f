//! The processes of a body, as this node's /proc shows them.

use std::{
    io,
    path::{Path, PathBuf},
};

/// One process of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number on this node.
    pub pid: i32,
    /// Its number in its own pid namespace, which is how CRIU's images call it.
    pub inner_pid: i32,
    /// Its parent's number on this node.
    pub parent: i32,
    /// Its state as in /proc/PID/stat, as `R` or `Z`.
    pub state: char,
    /// Its name.
    pub comm: String,
    /// The process that traces it, 0 if none does.
    pub tracer: i32,
    /// Number of its threads that still run.
    pub threads: u32,
    /// Anonymous memory, in bytes; what is in swap too, as all of it will be resident where it is restored.
    pub anonymous_bytes: u64,
    /// Memory that it shares with others, in bytes.
    pub shared_bytes: u64,
}

impl Process {
    /// Reads /proc/PID/status. `Ok(None)` if there is no such process.
    pub fn read(pid: i32) -> io::Result<Option<Self>> {
        match std::fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) => Ok(Some(parse_status(pid, &status))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file below /proc/PID.
    pub fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

/// Whether an error says that the process has ended meanwhile.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// All processes of `cgroup` and the cgroups below it; those that end meanwhile are left out.
pub fn members(cgroup: &Path) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    let mut dirs = vec![cgroup.to_owned()];
    while let Some(dir) = dirs.pop() {
        for line in std::fs::read_to_string(dir.join("cgroup.procs"))?.lines() {
            // 0 stands for a process that is outside of our pid namespace; it cannot be in a cgroup of ours.
            if let Ok(pid) = line.parse()
                && let Some(process) = Process::read(pid)?
            {
                found.push(process);
            }
        }
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

fn parse_status(pid: i32, status: &str) -> Process {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim).unwrap_or_default()
    };
    let number = |text: &str| text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let bytes = |name: &str| {
        let kib: u64 = field(name).split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        kib.saturating_mul(1024)
    };
    Process {
        pid,
        inner_pid: field("NSpid").split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(pid),
        parent: number(field("PPid")),
        state: field("State").chars().next().unwrap_or('?'),
        comm: field("Name").to_owned(),
        tracer: number(field("TracerPid")),
        threads: u32::try_from(number(field("Threads"))).unwrap_or(0),
        anonymous_bytes: bytes("RssAnon").saturating_add(bytes("VmSwap")),
        shared_bytes: bytes("RssShmem"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_understood() {
        let status = "Name:\txz\nState:\tR (running)\nPPid:\t12\nTracerPid:\t0\nNSpid:\t345\t7\nRssAnon:\t  2048 kB\nRssShmem:\t  8 kB\nVmSwap:\t  1024 kB\nThreads:\t4\n";
        let process = parse_status(345, status);
        assert_eq!((process.inner_pid, process.parent, process.state, process.threads), (7, 12, 'R', 4));
        assert_eq!((process.comm.as_str(), process.anonymous_bytes, process.shared_bytes), ("xz", 3 << 20, 8 << 10));
    }

    #[test]
    fn this_process_can_be_read_and_no_other_number() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(Process::read(pid).unwrap().unwrap().pid, pid);
        assert!(Process::read(i32::MAX).unwrap().is_none());
    }
}
