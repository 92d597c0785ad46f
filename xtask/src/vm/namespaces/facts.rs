//! Whether this machine can run nodes as namespaces, and with which restrictions.

use crate::cmd;
use crate::setup::Host;
use rustix::process::geteuid;
use std::process::Command;

/// The bit of CAP_SYS_RESOURCE (`capabilities(7)`).
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// Why nodes cannot be namespaces here, in one sentence; `None` if they can.
pub fn obstacle() -> Option<String> {
    let host = Host::this();
    if !host.root && !host.have("sudo") {
        return Some("it needs root, and there is no sudo".to_owned());
    }
    if let Some(program) = ["ip", "tc", "unshare"].into_iter().find(|program| !host.have(program)) {
        return Some(format!("the program {program} is missing: install iproute2 and util-linux"));
    }
    if super::cgroups::unified_mount().is_none() {
        return Some("no cgroup v2 hierarchy is mounted".to_owned());
    }
    if !std::path::Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse: run `modprobe fuse` as root".to_owned());
    }
    // Without root the answer comes when the hub starts: asking now would ask for a password twice.
    if host.root {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--net", "--uts", "--ipc", "--cgroup", "mount", "-t", "tmpfs", "none", "/mnt"]);
        if let Err(error) = cmd::output(&mut unshare) {
            return Some(format!("namespaces are forbidden here: {error:#}"));
        }
    }
    None
}

/// `program`, to be run as root: by sudo if this process is not root.
pub fn as_root(program: &std::path::Path) -> Command {
    if geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    command
}

/// Whether this process may raise resource limits. A sandbox may withhold that from root; CRIU then
/// cannot set the limits of a program of another user.
pub fn may_raise_limits() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_capabilities(&status) & CAP_SYS_RESOURCE != 0
}

fn effective_capabilities(status: &str) -> u64 {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        let restricted = "Name:\tx\nCapPrm:\t000001fffeffffff\nCapEff:\t000001fffeffffff\n";
        assert_eq!(effective_capabilities(restricted) & CAP_SYS_RESOURCE, 0);
        assert_ne!(effective_capabilities("CapEff:\t000001ffffffffff\n") & CAP_SYS_RESOURCE, 0);
        assert_eq!(effective_capabilities(""), 0);
    }
}
