//! What this node's kernel and tools can do for us.

use std::{cmp::Ordering, fmt};

use serde::{Deserialize, Serialize};

/// How things stand with sched_ext on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SchedExtState {
    /// The kernel has no sched_ext: it schedules by itself, and load comes from tracepoints.
    #[default]
    Unsupported,
    /// The kernel has it; our scheduler is not attached.
    Available,
    /// Our scheduler runs.
    Attached,
    /// Our scheduler ran and was ejected; the kernel's own runs until it attaches again.
    Ejected,
}

/// Version of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CriuVersion {
    /// Major version; 4 or newer is needed.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Patch level.
    pub patch: u16,
}

/// What was found on this node. The fields are facts; [`super::check`] says what follows from them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Features {
    /// State of sched_ext. At start [`SchedExtState::Unsupported`] or `Available`; the daemon keeps
    /// it up to date.
    pub sched_ext: SchedExtState,
    /// Kernel type information for CO-RE (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// Version of the `criu` found in PATH; `None` if there is none or it does not run.
    pub criu: Option<CriuVersion>,
    /// userfaultfd for kernel faults, which restoring needs.
    pub userfaultfd: bool,
    /// `/dev/fuse` can be opened.
    pub fuse: bool,
    /// The unified cgroup hierarchy is mounted at `/sys/fs/cgroup`.
    pub cgroup2: bool,
    /// Pressure stall information.
    pub psi: bool,
    /// Time namespaces.
    pub time_namespace: bool,
    /// PAGEMAP_SCAN (Linux 6.7).
    pub pagemap_scan: bool,
    /// ptrace of other processes is not forbidden altogether (`kernel.yama.ptrace_scope` below 3).
    pub ptrace: bool,
    /// Memory files may be executed (`vm.memfd_noexec` below 2), as the deputies of this node's own
    /// programs are.
    pub memfd_exec: bool,
    /// The caller has root's rights.
    pub root: bool,
}

impl Features {
    /// Whether this node can host guests and give processes away; without [`Self::memfd_exec`] it
    /// only hosts.
    pub fn can_migrate(&self) -> bool {
        self.criu.is_some_and(CriuVersion::is_enough)
            && self.userfaultfd
            && self.fuse
            && self.cgroup2
            && self.time_namespace
            && self.ptrace
            && self.root
    }
}

impl CriuVersion {
    /// The oldest that will do.
    pub const MINIMUM: Self = Self { major: 4, minor: 0, patch: 0 };

    /// Whether this version will do.
    pub fn is_enough(self) -> bool {
        self.cmp(&Self::MINIMUM) != Ordering::Less
    }

    /// Finds the version in what `criu --version` prints ("Version: 4.1.1" and perhaps a git id).
    pub fn parse(output: &str) -> Option<Self> {
        let text = output.lines().find_map(|line| line.trim().strip_prefix("Version:"))?.trim();
        let mut numbers = text.split(['.', '-', ' ']).map(|part| part.parse().ok());
        let major = numbers.next()??;
        let mut next = || numbers.next().flatten().unwrap_or(0);
        Some(Self { major, minor: next(), patch: next() })
    }
}

impl SchedExtState {
    /// One word for tables and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::Available => "available",
            Self::Attached => "attached",
            Self::Ejected => "ejected",
        }
    }
}

impl fmt::Display for SchedExtState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for CriuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_criu_are_read_as_criu_prints_them() {
        let version = |major, minor, patch| Some(CriuVersion { major, minor, patch });
        assert_eq!(CriuVersion::parse("Version: 4.1.1\n"), version(4, 1, 1));
        assert_eq!(CriuVersion::parse("Version: 3.17.1\nGitID: v3.17.1\n"), version(3, 17, 1));
        assert_eq!(CriuVersion::parse("Version: 4.2-rc1"), version(4, 2, 0));
        for bad in ["", "criu: not found", "Version:", "Version: x"] {
            assert_eq!(CriuVersion::parse(bad), None, "{bad}");
        }
        assert!(CriuVersion::parse("Version: 4.0").unwrap().is_enough());
        assert!(!CriuVersion::parse("Version: 3.19").unwrap().is_enough());
    }
}
