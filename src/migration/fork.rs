//! Going on as one's own child, which a new or entered pid namespace needs.

use std::io;

/// Forks: the child returns and goes on, for instance to exec; the caller stays behind, holds nothing open, and ends as the child
/// ends. If the one that stays behind is killed, the kernel kills the child.
///
/// # Safety
/// To be called in a process with one thread, as between fork and exec, whose descriptors nobody else relies on.
pub unsafe fn go_on_as_child() -> io::Result<()> {
    // SAFETY: plain system calls with valid arguments; the caller vouches for the rest.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            }
            child => {
                // Among these is the pipe that tells our parent whether exec worked.
                libc::close_range(0, libc::c_uint::MAX, 0);
                let mut status = 0;
                while libc::waitpid(child, &mut status, 0) < 0 && *libc::__errno_location() == libc::EINTR {}
                libc::_exit(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 255 })
            }
        }
    }
}
