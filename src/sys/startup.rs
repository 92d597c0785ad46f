//! What this process was given by its parent and Rust's start-up code takes away: it ignores
//! SIGPIPE, and opens /dev/null in place of closed standard descriptors. `run` gives the program
//! both back as they were, so it must know; a function that runs before that code looks.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);
/// Bit n: descriptor n was closed.
static CLOSED: AtomicU8 = AtomicU8::new(0);

// SAFETY: the section holds pointers to functions that the C library calls, one after another,
// before main; `look` is such a function.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: a zeroed sigaction is a valid one, and with no new action the call only fills it in.
    let ignored = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    };
    SIGPIPE_IGNORED.store(ignored, Relaxed);
    let mut closed = 0;
    for fd in 0..3 {
        // SAFETY: the call reads a flag, of any number.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            closed |= 1 << fd;
        }
    }
    CLOSED.store(closed, Relaxed);
}

/// Makes signals and standard descriptors what they were when this process was started. Standard
/// descriptors that were closed are gone after this: nothing may be written any more.
pub fn restore() {
    if !SIGPIPE_IGNORED.load(Relaxed) {
        // SAFETY: the default action runs no code of this process.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }
    let closed = CLOSED.load(Relaxed);
    for fd in (0..3).filter(|fd| closed & (1 << fd) != 0) {
        // SAFETY: start-up code opened it, to /dev/null; nothing uses it between here and exec.
        unsafe { libc::close(fd) };
    }
}
