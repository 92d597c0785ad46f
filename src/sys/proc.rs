//! Processes as this node's /proc shows them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use procfs::{
    FromRead, ProcError, ProcessCGroups,
    process::{Stat, Status},
};

/// One process of a cgroup.
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
    /// Anonymous memory, in bytes; what is in swap too, as all of it will be resident where it is
    /// restored.
    pub anonymous_bytes: u64,
    /// Memory that it shares with others, in bytes.
    pub shared_bytes: u64,
}

impl Process {
    /// Reads /proc/PID/status. `Ok(None)` if there is no such process.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn read(pid: i32) -> io::Result<Option<Self>> {
        match text(format!("/proc/{pid}/status")) {
            Ok(text) => Self::parse(pid, &text).map(Some).map_err(not_understood),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(pid: i32, text: &str) -> Result<Self, ProcError> {
        let status = Status::from_read(text.as_bytes())?;
        let bytes = |kib: Option<u64>| kib.unwrap_or(0).saturating_mul(1024);
        Ok(Self {
            pid,
            inner_pid: status.nspid.and_then(|numbers| numbers.last().copied()).unwrap_or(pid),
            parent: status.ppid,
            state: status.state.chars().next().unwrap_or('?'),
            // The crate cuts a name at a colon.
            comm: text.lines().next().and_then(|line| line.strip_prefix("Name:\t")).unwrap_or_default().to_owned(),
            tracer: status.tracerpid,
            threads: u32::try_from(status.threads).unwrap_or(u32::MAX),
            anonymous_bytes: bytes(status.rssanon).saturating_add(bytes(status.vmswap)),
            shared_bytes: bytes(status.rssshmem),
        })
    }

    /// A file below /proc/PID.
    pub fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

/// The name of a process; empty if it is gone.
pub fn comm(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| String::new(), |text| text.trim_end().to_owned())
}

/// Whether there is no such process any more, or only what its parent has not asked for yet.
pub fn has_ended(pid: i32) -> bool {
    matches!(Process::read(pid), Ok(None | Some(Process { state: 'Z' | 'X', .. })))
}

/// Whether an error says that the process has ended meanwhile.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// What `stat` in the directory of a process or thread in /proc says.
///
/// # Errors
/// If it has ended.
pub fn stat(directory: impl AsRef<Path>) -> io::Result<Stat> {
    read(directory.as_ref().join("stat"))
}

/// What `status` in the directory of a process or thread in /proc says.
///
/// # Errors
/// If it has ended.
pub fn status(directory: impl AsRef<Path>) -> io::Result<Status> {
    read(directory.as_ref().join("status"))
}

/// When a process began, in clock ticks since boot; `None` if there is none.
pub fn start_time_ticks(pid: i32) -> Option<u64> {
    Some(stat(format!("/proc/{pid}")).ok()?.starttime)
}

/// A process and no other that has its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number on this node.
    pub pid: i32,
    /// When it began, in clock ticks since boot.
    pub start_time_ticks: u64,
}

impl Identity {
    /// Of this process.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn own() -> io::Result<Self> {
        let pid = std::process::id().cast_signed();
        Ok(Self { pid, start_time_ticks: stat("/proc/self")?.starttime })
    }
}

/// `PF_EXITING` of linux/sched.h.
const EXITING: u32 = 4;

/// Whether a process has been killed, or is about to end for another reason, but has not ended.
pub fn is_killed(process: Identity) -> bool {
    let Ok(stat) = stat(format!("/proc/{}", process.pid)) else { return false };
    let kill_pending = stat.signal & (1 << (libc::SIGKILL - 1)) != 0;
    stat.starttime == process.start_time_ticks && (stat.flags & EXITING != 0 || kill_pending)
}

/// The path in the hierarchy of version 2 of the cgroup of the process that has this directory in
/// /proc; `None` if it has ended or is in none.
pub fn cgroup(directory: &Path) -> Option<String> {
    let groups: ProcessCGroups = read(directory.join("cgroup")).ok()?;
    groups.into_iter().find(|group| group.hierarchy == 0).map(|group| group.pathname)
}

/// A file of /proc as the crate `procfs` understands it.
///
/// # Errors
/// If it cannot be read or understood.
pub fn read<T: FromRead>(path: impl AsRef<Path>) -> io::Result<T> {
    T::from_read(text(path)?.as_bytes()).map_err(not_understood)
}

/// A file of /proc; in a name may be bytes that are no UTF-8.
fn text(path: impl AsRef<Path>) -> io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn not_understood(error: ProcError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn own() -> String {
        format!("/proc/{}", std::process::id())
    }

    #[test]
    fn status_is_understood() {
        let figures = "RssAnon:\t  2048 kB\nRssShmem:\t  8 kB\nVmSwap:\t  1024 kB\nThreads:\t4\n";
        let wanted =
            ["Name:", "State:", "PPid:", "TracerPid:", "NSpid:", "RssAnon:", "RssShmem:", "VmSwap:", "Threads:"];
        let rest: String = text(own() + "/status")
            .unwrap()
            .lines()
            .filter(|line| !wanted.iter().any(|name| line.starts_with(name)))
            .flat_map(|line| [line, "\n"])
            .collect();
        let names = "Name:\ta: b\nState:\tR (running)\nPPid:\t12\nTracerPid:\t3\nNSpid:\t345\t7\n";
        let process = Process::parse(345, &format!("{names}{figures}{rest}")).unwrap();
        assert_eq!((process.inner_pid, process.parent, process.state, process.threads), (7, 12, 'R', 4));
        assert_eq!((process.comm.as_str(), process.tracer), ("a: b", 3));
        assert_eq!((process.anonymous_bytes, process.shared_bytes), (3 << 20, 8 << 10));
    }

    #[test]
    fn this_process_can_be_read_and_no_other_number() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(Process::read(pid).unwrap().unwrap().pid, pid);
        assert!(Process::read(i32::MAX).unwrap().is_none());
        assert!(start_time_ticks(pid).unwrap() > 0);
        assert_eq!(start_time_ticks(i32::MAX), None);
        assert_eq!(status(own()).unwrap().pid, pid);
    }

    #[test]
    fn names_may_hold_anything() {
        let script = r"printf 'a) R (\377 b' > /proc/$$/comm; echo ready; read line";
        let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
        let mut child = Command::new("sh").args(["-c", script]).stdin(stdin).stdout(stdout).spawn().unwrap();
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
        let names = (stat(format!("/proc/{}", child.id())), Process::read(child.id().cast_signed()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(names.0.unwrap().comm, "a) R (\u{fffd} b");
        assert_eq!(names.1.unwrap().unwrap().comm, "a) R (\u{fffd} b");
    }

    #[test]
    fn the_cgroup_of_version_2_is_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup"), "3:cpu:/x\n0::/user.slice/a:b\n").unwrap();
        assert_eq!(cgroup(dir.path()).as_deref(), Some("/user.slice/a:b"));
        fs::write(dir.path().join("cgroup"), "3:cpu:/x\n").unwrap();
        assert_eq!(cgroup(dir.path()), None);
    }

    #[test]
    fn a_process_has_ended_before_its_parent_asks() {
        assert!(!has_ended(i32::try_from(std::process::id()).unwrap()));
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(!has_ended(pid));
        child.kill().unwrap();
        let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child));
        let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(id, options).unwrap();
        assert!(has_ended(pid));
        child.wait().unwrap();
        assert!(has_ended(pid));
    }
}
