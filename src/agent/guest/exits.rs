//! How the body's processes end, also those whose parent is another process of the body.
//!
//! A pidfd tells that a process has ended. How, is in /proc as long as it is a zombie, and afterwards in the pidfd itself
//! (kernels from 6.15 on keep it there).

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

use crate::{control::ExitStatus, home::inject::pidfd_open, migration::process::Process};

/// A process that has ended: its number in the body's numbering, and how; `None` if that cannot be known any more.
pub type Exit = (i32, Option<ExitStatus>);

/// Watches `processes`; each is reported once when it ends.
///
/// # Errors
/// If one of them is not there any more.
pub fn watch(processes: &[Process], exits: &mpsc::Sender<Exit>) -> io::Result<()> {
    for process in processes {
        let pidfd = pidfd_open(process.pid)?;
        // SAFETY: an `OwnedFd` owns its descriptor for as long as it lives and never hands out another.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        let (pid, inner_pid, exits) = (process.pid, process.inner_pid, exits.clone());
        tokio::spawn(async move {
            if pidfd.readable().await.is_ok() {
                let status = zombie_status(pid).or_else(|| kept_status(pidfd.get_ref()));
                // Nobody listens any more if the guest is being torn down.
                let _ = exits.send((inner_pid, status)).await;
            }
        });
    }
    Ok(())
}

/// The status of a process that nobody has waited for yet.
fn zombie_status(pid: i32) -> Option<ExitStatus> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // The state is field 3 of the file, the exit code field 52.
    (fields.first() == Some(&"Z")).then_some(())?;
    Some(decode(fields.get(52 - 3)?.parse().ok()?))
}

/// `struct pidfd_info` of linux/pidfd.h in its first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// Of `mask`: the exit code is there.
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16) | (0xff << 8) | 11;

/// The status that the pidfd of a process keeps after it was waited for.
fn kept_status(pidfd: &OwnedFd) -> Option<ExitStatus> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..Default::default() };
    // SAFETY: the structure has the size that the request tells, and lives through the call.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| decode(info.exit_code))
}

/// A status as `wait` gives it.
fn decode(status: i32) -> ExitStatus {
    match status & 0x7f {
        0 => ExitStatus::Exited((status >> 8) & 0xff),
        signal => ExitStatus::Killed(signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn end_of(script: &str, reap: bool) -> Option<ExitStatus> {
        let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
        let process = Process::read(child.id() as i32).unwrap().unwrap();
        let (sender, mut exits) = mpsc::channel(1);
        watch(&[process], &sender).unwrap();
        if reap {
            child.wait().unwrap();
        }
        let (_, status) = exits.recv().await.unwrap();
        child.wait().unwrap();
        status
    }

    #[tokio::test]
    async fn ends_are_exact() {
        assert_eq!(end_of("sleep 0.05; exit 7", false).await, Some(ExitStatus::Exited(7)));
        assert_eq!(end_of("sleep 0.05; kill -9 $$", false).await, Some(ExitStatus::Killed(9)));
    }

    #[tokio::test]
    async fn an_end_that_was_waited_for_is_known_on_new_kernels() {
        match end_of("sleep 0.05; exit 3", true).await {
            Some(status) => assert_eq!(status, ExitStatus::Exited(3)),
            None => {
                let release = rustix::system::uname().release().to_string_lossy().into_owned();
                let numbers: Vec<u32> = release.split('.').take(2).filter_map(|number| number.parse().ok()).collect();
                assert!(numbers.as_slice() < [6, 15].as_slice(), "kernel {release} keeps it");
            }
        }
    }
}
