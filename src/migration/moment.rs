//! Freezes a process tree at a moment at which it can be dumped: outside the vDSO, and outside
//! vfork.
//!
//! The vDSO is code that the kernel of a node lends to each program (vdso(7)). On a node with
//! another kernel CRIU puts that kernel's in its place, and lets the old one's functions jump
//! there. A thread that stood still *inside* a vDSO would resume at an address where other code is
//! now, or none.
//!
//! A process that has called vfork waits in the kernel until its child, which runs in its memory,
//! has executed a program or ended. The freezer counts it as frozen, but CRIU cannot stop it, and a
//! child that is frozen does not let it continue: CRIU would wait until its limit is over. Shells
//! and `make` start each of their programs so.
//!
//! The freezer counts a thread as frozen a moment before it leaves its CPU, and until then the
//! kernel does not tell where it stands.
//!
//! None of this lasts long: then the process tree runs on for a moment and is frozen anew.

use std::{fs, io, path::Path, time::Duration};

use super::freeze::{FreezeError, Frozen, NotNow, freeze};
use crate::sys::{
    cgroup::members,
    proc::{Process, is_gone},
};

/// How often a process tree is frozen anew. A program that does nothing but ask for the time is in
/// its vDSO half of the time.
const ATTEMPTS: u32 = 40;
/// For how long it runs on in between.
const PAUSE: Duration = Duration::from_millis(1);

/// Freezes `cgroup` at a moment at which it can be dumped. See [`freeze()`] for `nudge`.
///
/// # Errors
/// As [`freeze()`]; if it cannot be dumped each time.
pub async fn freeze_dumpable(cgroup: &Path, nudge: impl Fn()) -> Result<Frozen, FreezeError> {
    let mut last = NotNow::InVdso;
    for attempt in 0..ATTEMPTS {
        let frozen = freeze(cgroup, &nudge).await?;
        let mut why = None;
        for process in members(cgroup)?.iter().filter(|process| process.state != 'Z') {
            why = not_now(process).map_err(FreezeError::Threads)?;
            if why.is_some() {
                break;
            }
        }
        let Some(why) = why else { return Ok(frozen) };
        tracing::debug!(attempt, %why, "frozen anew");
        last = why;
        frozen.thaw()?;
        tokio::time::sleep(PAUSE).await;
    }
    Err(FreezeError::NotDumpable(last))
}

/// Why a process that stands still cannot be dumped now.
fn not_now(process: &Process) -> io::Result<Option<NotNow>> {
    let Some(maps) = unless_gone(fs::read_to_string(process.proc("maps")))? else { return Ok(None) };
    let vdso = maps.lines().find_map(vdso_range).unwrap_or_default();
    let Some(threads) = unless_gone(fs::read_dir(process.proc("task")))? else { return Ok(None) };
    for thread in threads {
        let thread = thread?.path();
        let Some(text) = unless_gone(fs::read_to_string(thread.join("syscall")))? else { continue };
        match program_counter(&text) {
            None => return Ok(Some(NotNow::OnCpu)),
            Some(counter) if vdso.contains(&counter) => return Ok(Some(NotNow::InVdso)),
            Some(_) => {}
        }
        if is_in_fork(&text)
            && let Some(stat) = unless_gone(fs::read_to_string(thread.join("stat")))?
            && is_uninterruptible(&stat)
        {
            return Ok(Some(NotNow::InVfork));
        }
    }
    Ok(None)
}

/// Whether the text of /proc/PID/task/TID/syscall is of a thread in one of the system calls that
/// can do what vfork does.
fn is_in_fork(text: &str) -> bool {
    let call = text.split_whitespace().next().and_then(|number| number.parse().ok());
    call.is_some_and(|call: i64| [libc::SYS_vfork, libc::SYS_clone, libc::SYS_clone3].contains(&call))
}

/// Whether the text of /proc/PID/task/TID/stat is of a thread that waits uninterruptibly; the
/// freezer itself lets threads wait otherwise.
fn is_uninterruptible(stat: &str) -> bool {
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
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

/// The last word of /proc/PID/task/TID/syscall (proc_pid_syscall(5)); `None` of a thread that is on
/// a CPU.
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
        not_now(&own).unwrap();
    }

    #[test]
    fn a_process_that_is_still_on_a_cpu_is_not_dumped() {
        let mut busy = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = i32::try_from(busy.id()).unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(20);
        let mut found = None;
        while found != Some(NotNow::OnCpu) && std::time::Instant::now() < until {
            found = Process::read(pid).unwrap().and_then(|process| not_now(&process).unwrap());
        }
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert_eq!(found, Some(NotNow::OnCpu));
    }

    #[test]
    fn a_process_in_vfork_is_told_from_others() {
        // `vfork`'s child sleeps: posix_spawn's would execute at once.
        let code = "import ctypes, time\nlibc = ctypes.CDLL(None)\n\
                    if libc.vfork() == 0: time.sleep(100)\n";
        let mut parent = std::process::Command::new("python3").args(["-c", code]).spawn().unwrap();
        let pid = i32::try_from(parent.id()).unwrap();
        let of = |pid| Process::read(pid).unwrap().map(|process| not_now(&process).unwrap());
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while of(pid) != Some(Some(NotNow::InVfork)) && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let found = of(pid);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let child: i32 = children.trim().parse().unwrap();
        let of_child = of(child);
        for pid in [pid, child] {
            // SAFETY: a plain system call; both are processes of this test that end only by this.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        parent.wait().unwrap();
        assert_eq!((found, of_child), (Some(Some(NotNow::InVfork)), Some(None)));
    }
}
