//! The control groups of a node: one in the unified hierarchy, which the node sees as its root, and
//! one in each legacy hierarchy that controls CPUs or memory here.

use super::fuse;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The period of a CPU quota. A node that has used its quota stands still until the next period,
/// which the kernel's default of 100 ms would make a part of each move's downtime. A slower CPU has
/// no such pauses.
const PERIOD_US: u64 = 10_000;

/// How long the processes of a node may take to end once they are killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// The control groups of one node, whether they exist or not.
pub struct NodeGroups {
    unified: PathBuf,
    cpu: Option<PathBuf>,
    memory: Option<PathBuf>,
}

/// What a node may use.
#[derive(Clone, Copy)]
pub struct Limits {
    /// CPUs; 0.5 is half of one.
    pub cpus: f64,
    /// Memory, MiB.
    pub memory_mib: u32,
}

/// Where the unified hierarchy is mounted.
pub fn unified_mount() -> Option<PathBuf> {
    mounts().into_iter().find(|mount| mount.kind == "cgroup2").map(|mount| mount.path)
}

struct Mount {
    path: PathBuf,
    kind: String,
    options: String,
}

fn mounts() -> Vec<Mount> {
    parse_mounts(&fs::read_to_string("/proc/mounts").unwrap_or_default())
}

fn parse_mounts(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let mut words = line.split(' ').skip(1).map(str::to_owned);
        Some(Mount { path: words.next()?.into(), kind: words.next()?, options: words.next()? })
    };
    text.lines().filter_map(parse).collect()
}

/// The mount of the legacy hierarchy that has `controller`.
fn legacy_mount(mounts: &[Mount], controller: &str) -> Option<PathBuf> {
    let has = |mount: &&Mount| mount.kind == "cgroup" && mount.options.split(',').any(|option| option == controller);
    mounts.iter().find(has).map(|mount| mount.path.clone())
}

impl NodeGroups {
    /// The groups of node `node` of the cluster with this identifier.
    pub fn of(cluster: &str, node: usize) -> Result<Self> {
        let mounts = mounts();
        let below = |mount: PathBuf| mount.join(format!("scx-mosix-{cluster}")).join(format!("n{node}"));
        let unified = unified_mount().context("no cgroup v2 hierarchy is mounted")?;
        Ok(Self {
            unified: below(unified),
            cpu: legacy_mount(&mounts, "cpu").map(below),
            memory: legacy_mount(&mounts, "memory").map(below),
        })
    }

    /// The directory of each group.
    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.unified).chain(&self.cpu).chain(&self.memory)
    }

    /// Makes the groups and sets the limits, by whichever hierarchy has the controller.
    pub fn create(&self, limits: Limits) -> Result<()> {
        for dir in self.dirs() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
        }
        for dir in self.unified.ancestors().skip(1).take(2) {
            // Each controller by itself: a hierarchy that lacks one refuses the whole line.
            for controller in ["+cpu", "+memory", "+pids", "+io"] {
                let _ = fs::write(dir.join("cgroup.subtree_control"), controller);
            }
        }
        let quota_us = (limits.cpus * PERIOD_US as f64) as u64;
        match &self.cpu {
            Some(dir) => {
                set(&dir.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                set(&dir.join("cpu.cfs_quota_us"), &quota_us.to_string())?;
            }
            None => set(&self.unified.join("cpu.max"), &format!("{quota_us} {PERIOD_US}"))?,
        }
        let bytes = (u64::from(limits.memory_mib) << 20).to_string();
        match &self.memory {
            Some(dir) => set(&dir.join("memory.limit_in_bytes"), &bytes),
            None => set(&self.unified.join("memory.max"), &bytes),
        }
    }

    /// Whether the limits lie in hierarchies that the node does not see.
    pub fn limits_are_hidden(&self) -> bool {
        self.cpu.is_some() || self.memory.is_some()
    }

    /// Moves this process into the groups.
    pub fn enter(&self) -> Result<()> {
        for dir in self.dirs() {
            set(&dir.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Kills every process of the node at once and removes the groups. Right for a node in any
    /// state.
    pub fn destroy(&self) -> Result<()> {
        if self.unified.is_dir() {
            let connections = fuse::connections(&processes(&self.unified));
            set(&self.unified.join("cgroup.kill"), "1")?;
            // A process that serves a mount and has a file of it open waits for itself as it ends.
            fuse::abort(&connections);
        }
        let until = Instant::now() + KILL_TIMEOUT;
        for dir in self.dirs() {
            while let Err(error) = remove_tree(dir) {
                if Instant::now() > until {
                    return Err(error).with_context(|| format!("cannot remove the cgroup {}", dir.display()));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // The cluster's own group goes with its last node.
        for dir in self.dirs() {
            let _ = dir.parent().map(fs::remove_dir);
        }
        Ok(())
    }
}

/// The processes of a group and those below it.
fn processes(dir: &Path) -> Vec<u32> {
    let own = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(processes(&entry.path()));
        }
    }
    pids
}

fn set(file: &Path, value: &str) -> Result<()> {
    if !file.exists() {
        bail!("{} is missing: this kernel's hierarchy lacks the controller", file.display());
    }
    fs::write(file, value).with_context(|| format!("cannot write {value:?} to {}", file.display()))
}

/// Removes a group and those below it, which must be empty.
fn remove_tree(dir: &Path) -> std::io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_wherever_they_are_mounted() {
        let mixed = parse_mounts(
            "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
             cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
             cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n",
        );
        assert_eq!(legacy_mount(&mixed, "cpu").as_deref(), Some(Path::new("/sys/fs/cgroup/cpu")));
        assert_eq!(legacy_mount(&mixed, "pids"), None);
        let unified = parse_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n");
        assert_eq!(legacy_mount(&unified, "cpu"), None);
        assert_eq!(unified[0].path, Path::new("/sys/fs/cgroup"));
    }
}
