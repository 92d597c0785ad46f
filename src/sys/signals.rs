//! Signals by number, as they come from other nodes: real-time signals too.

use std::io;

/// Ignores these signals; what this process executes ignores them too.
pub fn ignore(signals: &[i32]) {
    for signal in signals {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// Sends a signal to a process, with the value that comes with a queued one. The value is never
/// used as a pointer here.
///
/// # Errors
/// If there is no such process, or no such signal.
pub fn send(pid: i32, signal: i32, value: Option<u64>) -> io::Result<()> {
    // SAFETY: plain system calls that take numbers only.
    let result = unsafe {
        match value {
            None => libc::kill(pid, signal),
            Some(value) => libc::sigqueue(pid, signal, libc::sigval { sival_ptr: value as *mut libc::c_void }),
        }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
