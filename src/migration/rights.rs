//! What a process may do, where that is not the same elsewhere: a reason not to move it.

use std::{fs, io};

use super::source::Place;
use crate::{
    sys::proc::{Process, is_gone},
    telemetry::landlock::Confined,
};

/// Which memory files may be executed: 2 is none.
const MEMFD_NOEXEC: &str = "/proc/sys/vm/memfd_noexec";

/// What is wrong with what a process may do: words that follow its name.
///
/// # Errors
/// If /proc cannot be read, as when it has ended.
pub(super) fn check(process: &Process, confined: &Confined) -> io::Result<Option<String>> {
    for entry in fs::read_dir(process.proc("task"))? {
        let status = match fs::read_to_string(entry?.path().join("status")) {
            // Threads come and go while the program runs.
            Err(error) if is_gone(&error) => continue,
            status => status?,
        };
        let bad = bad_confinement(process.pid, &status, confined).or_else(|| bad_seccomp(&status));
        let bad = bad.or_else(|| bad_capabilities(&status));
        if bad.is_some() {
            return Ok(bad.map(str::to_owned));
        }
    }
    Ok(None)
}

/// Why nothing can leave this place, if that is so. Looked at each time, since root may change it
/// at any time.
pub(super) fn bad_place(place: Place) -> Option<&'static str> {
    // Before Linux 6.3 there was no such setting.
    let setting = fs::read_to_string(MEMFD_NOEXEC).unwrap_or_default();
    match place {
        Place::Here => bad_memfd(&setting),
        // No deputy takes a guest's place.
        Place::Guest { .. } => None,
    }
}

/// The deputy that stays behind is started from a memory file.
fn bad_memfd(setting: &str) -> Option<&'static str> {
    (setting.trim() == "2").then_some(
        "this node forbids to execute memory files (sysctl vm.memfd_noexec=2), so that no deputy could stay behind",
    )
}

/// The deputy takes a process's place by system calls made in its name, and CRIU looks at it in the
/// same way; a filter may forbid any of them, would bind the deputy too, and may kill.
fn bad_seccomp(status: &str) -> Option<&'static str> {
    match field(status, "Seccomp") {
        // Nothing, or a kernel without it.
        "0" | "" => None,
        "1" => Some("has confined itself to reading and writing by seccomp's strict mode"),
        _ => Some("has its system calls filtered by seccomp, and what moving needs might be forbidden"),
    }
}

/// CRIU does not know Landlock: it would fail with the program frozen, or the program would be free
/// at the target.
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

/// A guest has namespaces of its own but for users: a capability that it holds is good for all of
/// the hosting node. What is listed here ends at the files and processes that a guest can see,
/// which are home's and its own. Not in it are those by which others could be had: `CAP_SETUID`,
/// `CAP_SETPCAP`, `CAP_SETFCAP`.
const HARMLESS: u64 = 1 << 0 // CAP_CHOWN
    | 1 << 1 // CAP_DAC_OVERRIDE
    | 1 << 3 // CAP_FOWNER
    | 1 << 4 // CAP_FSETID
    | 1 << 5 // CAP_KILL
    | 1 << 10; // CAP_NET_BIND_SERVICE

/// Capabilities are not taken away for a move, because the program could see it and would lack them
/// when it is home again.
fn bad_capabilities(status: &str) -> Option<&'static str> {
    let too_much = |name| u64::from_str_radix(field(status, name), 16).is_ok_and(|held| held & !HARMLESS != 0);
    // Whatever root executes gets all that its bounding set has.
    let is_root = field(status, "Uid").split_ascii_whitespace().any(|uid| uid == "0");
    if is_root && too_much("CapBnd") {
        return Some("runs as root, which could do anything to the node that hosts it");
    }
    ["CapPrm", "CapEff", "CapInh", "CapAmb"]
        .into_iter()
        .any(too_much)
        .then_some("holds capabilities that are good for all of the node that hosts it")
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

    #[test]
    fn filtered_programs_stay() {
        assert_eq!(bad_seccomp("Seccomp:\t0\nSeccomp_filters:\t0\n"), None);
        assert_eq!(bad_seccomp(""), None);
        assert!(bad_seccomp("Seccomp:\t1\n").unwrap().contains("strict"));
        assert!(bad_seccomp("Seccomp:\t2\nSeccomp_filters:\t1\n").unwrap().contains("filtered"));
    }

    #[test]
    fn the_mighty_stay() {
        let status = |uids: &str, held: u64, bounds: u64| {
            format!(
                "Uid:\t{uids}\nCapInh:\t0000000000000000\nCapPrm:\t{held:016x}\nCapEff:\t{held:016x}\nCapBnd:\t{bounds:016x}\n"
            )
        };
        let (all, admin, chown) = (0x1ff_ffff_ffff, 1 << 21, 1);
        assert_eq!(bad_capabilities(&status("1000\t1000\t1000\t1000", 0, all)), None);
        assert_eq!(bad_capabilities(&status("1000\t1000\t1000\t1000", chown, all)), None);
        assert_eq!(bad_capabilities(&status("0\t0\t0\t0", HARMLESS, HARMLESS)), None);
        let says = |uids, held, bounds, word| bad_capabilities(&status(uids, held, bounds)).unwrap().contains(word);
        assert!(says("0\t0\t0\t0", all, all, "as root"));
        // It has put its rights aside and could take them up again.
        assert!(says("1000\t1000\t0\t1000", 0, all, "as root"));
        assert!(says("1000\t1000\t1000\t1000", admin, all, "capabilities"));
        assert_eq!(bad_capabilities(""), None);
    }

    #[test]
    fn a_deputy_must_be_executable() {
        for fine in ["0\n", "1\n", ""] {
            assert_eq!(bad_memfd(fine), None, "{fine:?}");
        }
        assert!(bad_memfd("2\n").unwrap().contains("vm.memfd_noexec"));
        assert_eq!(bad_place(Place::Guest { init: 1 }), None);
    }
}
