//! Finds out the [`Features`] of a machine: looks at files, tries a system call, runs
//! `criu --version`.

use std::{
    fs::OpenOptions,
    io::Read,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use userfaultfd::UffdBuilder;

use super::{CriuVersion, Features, Machine, SchedExtState};

/// How long `criu --version` may take; a loaded machine under emulation needs seconds.
const CRIU_TIMEOUT: Duration = Duration::from_secs(10);
/// CRIU prints two lines; more is cut off.
const CRIU_OUTPUT_BYTES: u64 = 4096;

impl Features {
    /// Looks at `machine`. What needs a system call or a program is tried on the running system.
    /// Blocks for as long as `criu --version` takes, at most ten seconds.
    pub fn probe(machine: &Machine) -> Self {
        let kernel = kernel_version(&machine.line("/proc/sys/kernel/osrelease").unwrap_or_default());
        let sched_ext = match machine.exists("/sys/kernel/sched_ext") {
            true => SchedExtState::Available,
            false => SchedExtState::Unsupported,
        };
        Self {
            sched_ext,
            btf: machine.exists("/sys/kernel/btf/vmlinux"),
            criu: criu_version("criu"),
            userfaultfd: UffdBuilder::new().close_on_exec(true).user_mode_only(false).create().is_ok(),
            fuse: OpenOptions::new().read(true).write(true).open(machine.path("/dev/fuse")).is_ok(),
            cgroup2: machine.exists("/sys/fs/cgroup/cgroup.controllers"),
            psi: matches!(machine.pressure(), Ok(Some(_))),
            time_namespace: machine.exists("/proc/self/ns/time_for_children"),
            pagemap_scan: kernel >= (6, 7),
            ptrace: machine.line("/proc/sys/kernel/yama/ptrace_scope").map_or(true, |scope| scope != "3"),
            memfd_exec: machine.line("/proc/sys/vm/memfd_noexec").map_or(true, |setting| setting != "2"),
            root: rustix::process::geteuid().is_root(),
        }
    }
}

/// Major and minor version in a kernel release; (0, 0) if there are none.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-', '+']).map(|part| part.parse().ok());
    let mut next = || numbers.next().flatten().unwrap_or(0);
    (next(), next())
}

/// How long `criu --version` takes: how quick this machine is at starting programs. `None` if there
/// is no CRIU. Blocks for as long. To be called after [`Features::probe`], which runs it for the
/// first time and so has it read from the disk.
#[must_use]
pub fn criu_takes() -> Option<Duration> {
    let began = Instant::now();
    criu_version("criu").map(|_| began.elapsed())
}

/// Runs `program --version`; `None` if it is not there, fails, hangs or prints something else.
fn criu_version(program: &str) -> Option<CriuVersion> {
    let mut child = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + CRIU_TIMEOUT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(10)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                tracing::warn!(program, "--version does not end; it is treated as missing");
                return None;
            }
        }
    };
    let mut output = String::new();
    // A pipe's buffer holds what CRIU prints, so it could end before it was read.
    child.stdout.take()?.take(CRIU_OUTPUT_BYTES).read_to_string(&mut output).ok()?;
    if status.success() { CriuVersion::parse(&output) } else { None }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::node::machine::tests::machine;

    #[test]
    fn kernel_releases_are_understood() {
        for (release, expected) in
            [("6.18.44-fc", (6, 18)), ("7.3+deb13-cloud-amd64", (7, 3)), ("6.7", (6, 7)), ("", (0, 0))]
        {
            assert_eq!(kernel_version(release), expected, "{release}");
        }
    }

    #[test]
    fn features_are_what_the_files_say() {
        let (_dir, with) = machine(&[
            ("/proc/sys/kernel/osrelease", "7.3.1-cloud\n"),
            ("/sys/kernel/sched_ext/state", "disabled\n"),
            ("/sys/kernel/btf/vmlinux", ""),
            ("/sys/fs/cgroup/cgroup.controllers", "cpu\n"),
            ("/dev/fuse", ""),
            ("/proc/sys/kernel/yama/ptrace_scope", "1\n"),
        ]);
        let seen = Features::probe(&with);
        assert_eq!(seen.sched_ext, SchedExtState::Available);
        assert!(seen.btf && seen.cgroup2 && seen.fuse && seen.ptrace && seen.pagemap_scan);
        assert!(!seen.psi && !seen.time_namespace);
        assert!(seen.memfd_exec, "a kernel before 6.3 has no such setting");

        let (_dir, without) =
            machine(&[("/proc/sys/kernel/yama/ptrace_scope", "3\n"), ("/proc/sys/vm/memfd_noexec", "2\n")]);
        let seen = Features::probe(&without);
        assert_eq!(seen.sched_ext, SchedExtState::Unsupported);
        assert!(!(seen.btf || seen.cgroup2 || seen.fuse || seen.ptrace || seen.pagemap_scan || seen.memfd_exec));
    }

    #[test]
    fn criu_is_run_and_a_wrong_program_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            criu_version(path.to_str().unwrap())
        };
        assert_eq!(script("good", "echo Version: 4.1"), Some(CriuVersion { major: 4, minor: 1, patch: 0 }));
        assert_eq!(script("failing", "echo Version: 4.1; exit 1"), None);
        assert_eq!(script("other", "echo hello"), None);
        assert_eq!(criu_version("/nonexistent/criu"), None);
    }
}
