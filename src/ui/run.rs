//! `run`: registers this process, then becomes the program: same pid, same parent, nothing in
//! between.
//!
//! Whatever goes wrong with registering, the program runs: here, and unmanaged, after one line of
//! warning. It finds signals and descriptors as the user gave them.

use std::{
    convert::Infallible,
    ffi::{CString, OsString},
    os::unix::ffi::OsStringExt,
    process::ExitCode,
    time::Duration,
};

use nix::{errno::Errno, unistd::execvp};

use super::{UiError, args::RunArgs, block_on, client};
use crate::{api::backend::Registration, causes::explain, job::Constraints, sys::startup};

/// How long registering may hold up the program.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);

/// The program was found but cannot be run, as shells say it.
const CANNOT_RUN: u8 = 126;
/// There is no such program, as shells say it.
const NOT_FOUND: u8 = 127;

/// Becomes the program. Returns only if that is impossible.
#[must_use]
pub fn run(args: RunArgs) -> ExitCode {
    if is_managed() {
        if args.stay || !args.nodes.is_empty() || args.class.is_some() {
            eprintln!(
                "scx_mosix: this is part of a job already, for which `scx_mosix lock` and `allow` say what it may do"
            );
        }
    } else {
        // The runtime and its descriptors are gone when this returns.
        let registered = block_on(async {
            let pid = i32::try_from(std::process::id()).unwrap_or_default();
            let failed = UiError::of_call(&args.run_dir);
            let allowed_nodes = args.nodes.iter().map(ToString::to_string).collect();
            let constraints = Constraints { stay: args.stay, allowed_nodes };
            let wanted = Registration { pid, constraints, class: args.class.clone().unwrap_or_default() };
            client(&args.run_dir).register(&wanted, REGISTER_TIMEOUT).await.map_err(failed)?;
            Ok(ExitCode::SUCCESS)
        });
        if let Err(error) = registered {
            eprintln!("scx_mosix: the program runs here only: {}", explain(&error));
        }
    }
    let name = args.command.first().cloned().unwrap_or_default();
    match become_program(args.command) {
        Err(error) => {
            eprintln!("scx_mosix: {}: {}", name.display(), error.desc());
            ExitCode::from(if error == Errno::ENOENT { NOT_FOUND } else { CANNOT_RUN })
        }
    }
}

/// Whether this process belongs to a job already: a job's descendants need no registering.
fn is_managed() -> bool {
    std::fs::read_to_string("/proc/self/cgroup").is_ok_and(|cgroups| in_job(&cgroups))
}

/// Whether a text like `/proc/PID/cgroup` names a job's cgroup, `scx_mosix.PID`, or a guest's,
/// `scx_mosix/guest-ID`.
fn in_job(cgroups: &str) -> bool {
    let is_job = |part: &str| {
        let pid = part.trim_end().strip_prefix("scx_mosix.");
        pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
    };
    cgroups.split('/').any(is_job) || cgroups.contains("/scx_mosix/guest-")
}

fn become_program(command: Vec<OsString>) -> Result<Infallible, Errno> {
    // Arguments come from the kernel as C strings, so none has a zero byte in it.
    let command: Result<Vec<CString>, _> = command.into_iter().map(|word| CString::new(word.into_vec())).collect();
    let command = command.map_err(|_| Errno::EINVAL)?;
    startup::restore();
    execvp(command.first().ok_or(Errno::ENOENT)?, &command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_descendants_are_known_by_their_cgroup() {
        assert!(in_job("0::/user.slice/user-1000.slice/session-3.scope/scx_mosix.4711\n"));
        assert!(in_job("0::/a/scx_mosix.4711/deeper\n"));
        assert!(in_job("0::/scx_mosix/guest-00112233445566778899aabbccddeeff\n"));
        assert!(!in_job("0::/system.slice/scx_mosix.service\n"));
        assert!(!in_job("0::/scx_mosix.\n0::/x.scx_mosix.4\n"));
        assert!(!in_job(""));
    }
}
