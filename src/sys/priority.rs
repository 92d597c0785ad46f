//! The daemon and its agents come before the programs of their node, as programs wait for them
//! while they move and whenever they read a file of home.
//!
//! Our sched_ext scheduler has a tier for them. The kernel's own scheduler goes by nice values.

use std::io;

/// Nine times the weight of a program with nice value 0 (`sched_prio_to_weight` in the kernel).
const SERVICE_NICE: i32 = -10;

/// Puts the calling thread, and those that it will start, before programs. What CRIU restores has
/// the nice value that it had when it was dumped.
///
/// # Errors
/// If this process may not (CAP_SYS_NICE).
pub fn serve_first() -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, SERVICE_NICE)?)
}
