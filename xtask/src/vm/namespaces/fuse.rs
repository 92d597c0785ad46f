//! FUSE connections of a node that ends: each is aborted, so that no process waits for an answer
//! that nothing can give.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where the kernel lists connections (Documentation/filesystems/fuse.rst).
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// The connections behind the mounts that these processes see.
pub fn connections(pids: &[u32]) -> BTreeSet<String> {
    let mountinfo = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    pids.iter().map(mountinfo).flat_map(|text| text.lines().filter_map(connection).collect::<Vec<_>>()).collect()
}

/// A connection is named by the minor number of its file system's device (proc_pid_mountinfo(5)).
fn connection(line: &str) -> Option<String> {
    let (mount, file_system) = line.split_once(" - ")?;
    let kind = file_system.split(' ').next()?;
    let is_fuse = kind == "fuse" || kind == "fuseblk" || kind.starts_with("fuse.");
    let device = mount.split(' ').nth(2)?.strip_prefix("0:")?;
    is_fuse.then(|| device.to_owned())
}

/// Aborts them. One that is gone already is as wanted.
pub fn abort(connections: &BTreeSet<String>) {
    if connections.is_empty() {
        return;
    }
    let is_mounted = fs::read_dir(CONNECTIONS).is_ok_and(|mut entries| entries.next().is_some());
    if !is_mounted {
        let _ = Command::new("mount").args(["-t", "fusectl", "none", CONNECTIONS]).status();
    }
    for connection in connections {
        let _ = fs::write(Path::new(CONNECTIONS).join(connection).join("abort"), "1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuse_mount_names_its_connection() {
        let line = "55 24 0:47 / /run/x rw,nosuid,nodev shared:3 - fuse.scx_mosix home rw,user_id=0";
        assert_eq!(connection(line).as_deref(), Some("47"));
        assert_eq!(connection("55 24 0:47 / /sys/fs/fuse/connections rw - fusectl none rw"), None);
        assert_eq!(connection("25 1 254:0 / / rw,relatime - ext4 /dev/vda rw"), None);
    }
}
