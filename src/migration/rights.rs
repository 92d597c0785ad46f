//! What a process may do, where that is not the same elsewhere: a reason not to move it.

use std::{fs, io};

use super::process::Process;
use crate::telemetry::landlock::Confined;

/// What is wrong with what a process may do: words that follow its name.
///
/// # Errors
/// If /proc cannot be read, as when it has ended.
pub(super) fn check(process: &Process, confined: &Confined) -> io::Result<Option<String>> {
    let status = fs::read_to_string(process.proc("status"))?;
    Ok(bad_confinement(process.pid, &status, confined).map(str::to_owned))
}

/// CRIU does not know Landlock: it would fail with the program frozen, or the program would be free at the target.
fn bad_confinement(pid: i32, status: &str, confined: &Confined) -> Option<&'static str> {
    match confined {
        Confined::Known(pids) if pids.contains(&pid) => {
            Some("has confined itself by Landlock, which cannot be carried over")
        }
        // Landlock wants that of programs without privileges.
        Confined::Unknown if field(status, "NoNewPrivs") == "1" => Some(
            "may have confined itself by Landlock: it cannot gain privileges any more, and this node cannot tell why \
             (the daemon's log says what is missing)",
        ),
        _ => None,
    }
}

/// The value of a field in the text of /proc/PID/status; empty if it is not there.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confined_programs_stay_and_in_doubt_those_that_may_be() {
        let (plain, sworn) = ("NoNewPrivs:\t0\nSeccomp:\t0\n", "NoNewPrivs:\t1\n");
        let known = Confined::Known([204].into());
        assert!(bad_confinement(204, sworn, &known).unwrap().contains("Landlock"));
        assert_eq!(bad_confinement(205, sworn, &known), None);
        assert_eq!(bad_confinement(204, sworn, &Confined::Never), None);
        assert!(bad_confinement(204, sworn, &Confined::Unknown).unwrap().contains("may have"));
        assert_eq!(bad_confinement(204, plain, &Confined::Unknown), None);
    }
}
