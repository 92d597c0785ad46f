//! Lock requests of the guest's programs.
//!
//! ```text
//!  which lock? -> (give back: pages home first) -> ask home -> granted: drop pages, note it, answer
//!                                                     ^  | held by another
//!                                                     |  v
//!                                          pause <- not waiting? EAGAIN; signalled or being frozen? EINTR
//! ```
//!
//! Two things that fuser 0.18 does not pass on are read from `/proc` of the thread that asks, which
//! sleeps in its system call until it is answered: whether it called `fcntl` or `flock`, and
//! whether a signal waits for it.

use std::time::Duration;

use fuser::{Errno, INodeNo, ReplyEmpty};

use super::HomeFs;
use super::answer::errno;
use crate::protocol::files::{Caller, Lock, Op, Reply};

/// Pauses between attempts at a lock that another holds: doubled from the first to the longest.
const FIRST_PAUSE_MS: u64 = 1;
const LONGEST_PAUSE_MS: u64 = 50;

/// `fcntl` and `fcntl64` on i386; no 64-bit call with these numbers can lock a file.
const I386_FCNTL: [i64; 2] = [55, 221];

/// How often the thread's state is looked at until it has gone to sleep, with a millisecond's pause
/// each.
const LOOKS: u32 = 1000;

/// One request for a lock.
#[derive(Debug)]
pub(super) struct LockRequest {
    pub(super) caller: Caller,
    /// The thread that asks, in this process's pid namespace.
    pub(super) tid: u32,
    pub(super) node: u64,
    pub(super) handle: u64,
    pub(super) owner: u64,
    pub(super) lock: Lock,
    pub(super) wait: bool,
}

impl LockRequest {
    /// Does what is asked and answers the kernel.
    pub(super) async fn serve(self, fs: HomeFs, reply: ReplyEmpty) {
        match self.decide(&fs).await {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    async fn decide(&self, fs: &HomeFs) -> Result<(), Errno> {
        let flock = self.is_whole_file() && !self.called_fcntl().await?;
        if self.lock.kind == libc::F_UNLCK {
            fs.drop_pages(INodeNo(self.node)).await;
        }
        let rounds = fs.wait_rounds();
        let mut pause_ms = FIRST_PAUSE_MS;
        loop {
            let Self { node, handle, owner, lock, .. } = *self;
            let op = Op::Setlk { node, handle, owner, lock, flock };
            match fs.channel().ask(self.caller, op).await {
                Ok(Reply::Done {}) => break,
                Ok(Reply::Error { errno: libc::EAGAIN }) if self.wait => {}
                other => return Err(errno(other)),
            }
            if fs.wait_rounds() != rounds || self.is_signalled() {
                return Err(Errno::EINTR);
            }
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            pause_ms = (pause_ms * 2).min(LONGEST_PAUSE_MS);
        }
        fs.note_lock(self.node, self.handle, self.owner, self.lock, flock);
        if self.lock.kind != libc::F_UNLCK {
            fs.drop_pages(INodeNo(self.node)).await;
        }
        Ok(())
    }

    /// All `flock` requests are for the whole file.
    fn is_whole_file(&self) -> bool {
        self.lock.start == 0 && self.lock.end == i64::MAX as u64
    }

    /// Whether the lock is a POSIX or OFD one. The kernel gives those back by other requests than
    /// this one when a file is closed, but `flock` locks by this one, from within any system call:
    /// so what is not `fcntl` is `flock`.
    async fn called_fcntl(&self) -> Result<bool, Errno> {
        for _ in 0..LOOKS {
            let Ok(text) = std::fs::read_to_string(format!("/proc/{}/syscall", self.tid)) else { break };
            if let Some(is_fcntl) = parse_is_fcntl(&text) {
                return Ok(is_fcntl);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tracing::warn!(tid = self.tid, "cannot tell flock from fcntl for this thread, so its lock is refused");
        Err(Errno::ENOLCK)
    }

    fn is_signalled(&self) -> bool {
        // A thread that is gone needs no lock.
        std::fs::read_to_string(format!("/proc/{}/status", self.tid)).map_or(true, |status| parse_is_signalled(&status))
    }
}

/// From `/proc/TID/syscall`; `None` while the thread still runs.
fn parse_is_fcntl(text: &str) -> Option<bool> {
    let number = text.split_whitespace().next()?;
    // -1: in the kernel, but not in a system call, such as on the way out.
    let number: i64 = number.parse().ok()?;
    Some(number == libc::SYS_fcntl || I386_FCNTL.contains(&number))
}

/// From `/proc/TID/status`: whether a signal is pending that is not blocked.
fn parse_is_signalled(status: &str) -> bool {
    let mask = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_calls_are_told_apart() {
        assert_eq!(parse_is_fcntl("72 0x3 0x7 0x7ffe 0x0 0x0 0x0 0x7ffe 0x7f1c\n"), Some(true));
        assert_eq!(parse_is_fcntl("73 0x3 0x2 0x0 0x0 0x0 0x0 0x7ffe 0x7f1c\n"), Some(false));
        assert_eq!(parse_is_fcntl("-1 0x7ffe 0x7f1c\n"), Some(false));
        assert_eq!(parse_is_fcntl("running\n"), None);
    }

    #[test]
    fn blocked_signals_do_not_count() {
        let status = |pending, shared, blocked| {
            format!("SigQ:\t1/2\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\n")
        };
        assert!(!parse_is_signalled(&status("0000000000000000", "0000000000000000", "0000000000000000")));
        assert!(parse_is_signalled(&status("0000000000000002", "0000000000000000", "0000000000000000")));
        assert!(parse_is_signalled(&status("0000000000000000", "0000000000004002", "0000000000004000")));
        assert!(!parse_is_signalled(&status("0000000000000200", "0000000000004000", "0000000000004200")));
    }
}
