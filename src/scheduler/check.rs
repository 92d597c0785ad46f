//! What this machine must offer before the scheduler can be attached, checked one by one so that
//! the answer names what is missing.

use std::path::Path;

use super::SchedulerError;

/// Where sched_ext shows its state; absent when the kernel lacks it.
const SCHED_EXT: &str = "/sys/kernel/sched_ext";

/// Whether the scheduler could be attached now.
///
/// # Errors
/// One of `NoSchedExt`, `NoBtf`, `NotPermitted`, `Occupied`, the first that applies.
pub fn check() -> Result<(), SchedulerError> {
    if !Path::new(SCHED_EXT).is_dir() {
        return Err(SchedulerError::NoSchedExt { release: kernel_release() });
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(SchedulerError::NoBtf);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(SchedulerError::NotPermitted);
    }
    match attached_scheduler() {
        Some(name) => Err(SchedulerError::Occupied { name }),
        None => Ok(()),
    }
}

/// The sched_ext scheduler that is in force now, ours or not.
pub fn attached_scheduler() -> Option<String> {
    let state = std::fs::read_to_string(format!("{SCHED_EXT}/state")).ok()?;
    if state.trim() == "disabled" {
        return None;
    }
    let name = std::fs::read_to_string(format!("{SCHED_EXT}/root/ops")).unwrap_or_default();
    Some(if name.trim().is_empty() { state.trim().to_owned() } else { name.trim().to_owned() })
}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
