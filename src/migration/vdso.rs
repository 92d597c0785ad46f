//! Keeps threads out of the vDSO when a body is frozen.
//!
//! The vDSO is code that the kernel of a node lends to each program (vdso(7)). On a node with another kernel CRIU puts that kernel's
//! in its place, and lets the old one's functions jump there. A thread that stood still *inside* a vDSO would go on at an address
//! where other code is now, or none. It is never there for long: then the body runs on for a moment and is frozen anew.

use std::{fs, io, path::Path, time::Duration};

use super::{
    freeze::{FreezeError, Frozen, freeze},
    process::{Process, is_gone, members},
};

/// How often a body is frozen anew. A program that does nothing but ask for the time is in its vDSO half of the time.
const ATTEMPTS: u32 = 40;
/// For how long it runs on in between.
const PAUSE: Duration = Duration::from_millis(1);

/// Freezes `cgroup` at a moment at which no thread is in a vDSO. See [`freeze()`] for `nudge`.
///
/// # Errors
/// As [`freeze()`]; if a thread is in the vDSO each time.
pub async fn freeze_outside(cgroup: &Path, nudge: impl Fn()) -> Result<Frozen, FreezeError> {
    let failed = |source| FreezeError::Cgroup { cgroup: cgroup.into(), source };
    for attempt in 0..ATTEMPTS {
        let frozen = freeze(cgroup, &nudge).await?;
        let mut is_inside = false;
        for process in members(cgroup).map_err(failed)? {
            is_inside |= process.state != 'Z' && any_thread_inside(&process).map_err(failed)?;
        }
        if !is_inside {
            return Ok(frozen);
        }
        tracing::debug!(attempt, "a thread is in the vDSO: frozen anew");
        frozen.thaw()?;
        tokio::time::sleep(PAUSE).await;
    }
    Err(FreezeError::InVdso)
}

fn any_thread_inside(process: &Process) -> io::Result<bool> {
    let Some(maps) = unless_gone(fs::read_to_string(process.proc("maps")))? else { return Ok(false) };
    let Some(vdso) = maps.lines().find_map(vdso_range) else { return Ok(false) };
    let Some(threads) = unless_gone(fs::read_dir(process.proc("task")))? else { return Ok(false) };
    for thread in threads {
        let Some(text) = unless_gone(fs::read_to_string(thread?.path().join("syscall")))? else { continue };
        if program_counter(&text).is_some_and(|counter| vdso.contains(&counter)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if is_gone(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// The addresses of a line of /proc/PID/maps that is a vDSO.
fn vdso_range(line: &str) -> Option<std::ops::Range<u64>> {
    let (start, end) = line.strip_suffix("[vdso]")?.split_whitespace().next()?.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// The last word of /proc/PID/task/TID/syscall (proc_pid_syscall(5)); `None` of a thread that runs, which no frozen one does.
fn program_counter(text: &str) -> Option<u64> {
    u64::from_str_radix(text.split_whitespace().next_back()?.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vdso_and_the_program_counter_are_found() {
        let line = "7ffc1a5f2000-7ffc1a5f4000 r-xp 00000000 00:00 0                          [vdso]";
        assert_eq!(vdso_range(line), Some(0x7ffc_1a5f_2000..0x7ffc_1a5f_4000));
        assert_eq!(vdso_range("8e000-90000 r-xp 00000000 00:00 0 [vvar]"), None);
        assert_eq!(program_counter("202 0x7f 0x80 0x0 0x0 0x0 0x0 0x7ffd8 0x8eca8\n"), Some(0x8eca8));
        assert_eq!(program_counter("-1 0x7ffd8 0x55aa\n"), Some(0x55aa));
        assert_eq!(program_counter("running\n"), None);
    }

    #[test]
    fn this_process_has_a_vdso_and_its_main_thread_waits_elsewhere() {
        let own = Process::read(i32::try_from(std::process::id()).unwrap()).unwrap().unwrap();
        assert!(fs::read_to_string("/proc/self/maps").unwrap().lines().any(|line| vdso_range(line).is_some()));
        any_thread_inside(&own).unwrap();
    }
}
