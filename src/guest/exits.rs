//! How processes of the tree end, also those whose parent is another process of it.
//!
//! A pidfd tells that a process has ended. How, is in /proc as long as it is a zombie, and
//! afterwards in the pidfd itself (kernels from 6.15 on keep it there).

use std::io;

use tokio::{io::Interest, sync::mpsc};

use crate::{
    protocol::ExitStatus,
    sys::{
        descriptor::register,
        pidfd,
        proc::{self, Process},
    },
};

/// A process that has ended: its number in the tree's numbering, and how; `None` if that cannot be
/// known any more.
pub type Exit = (i32, Option<ExitStatus>);

/// Watches `processes`; each is reported once when it ends.
///
/// # Errors
/// If one of them is not there any more.
pub fn watch(processes: &[Process], exits: &mpsc::Sender<Exit>) -> io::Result<()> {
    for process in processes {
        let pidfd = register(pidfd::open(process.pid)?, Interest::READABLE)?;
        let (pid, inner_pid, exits) = (process.pid, process.inner_pid, exits.clone());
        tokio::spawn(async move {
            if pidfd.readable().await.is_ok() {
                let status = zombie_status(pid).or_else(|| pidfd::kept_status(pidfd.get_ref()).map(decode));
                // The receiver is gone if the guest is being torn down.
                let _ = exits.send((inner_pid, status)).await;
            }
        });
    }
    Ok(())
}

/// The status of a process that was not waited for yet.
fn zombie_status(pid: i32) -> Option<ExitStatus> {
    let stat = proc::stat(format!("/proc/{pid}")).ok().filter(|stat| stat.state == 'Z')?;
    stat.exit_code.map(decode)
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
