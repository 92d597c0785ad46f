//! A container as seen from inside: the cgroup that is the root of what it sees, and the processes
//! in it.

use std::{
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use procfs::{FromRead, MountEntry, process::Status};

use super::{
    Machine, NodeError, Pressure,
    machine::{malformed, parse, pressure_in},
    memory::Usage,
};

/// Where the unified hierarchy is mounted.
const UNIFIED: &str = "/sys/fs/cgroup";

/// A container's own cgroup. Limits of the cgroups above it cannot be seen.
#[derive(Debug, Clone)]
pub(super) struct Container {
    proc: PathBuf,
    unified: PathBuf,
    /// Its cgroups of version 1, where these control CPUs and memory and are mounted in it.
    cpu_v1: Option<PathBuf>,
    memory_v1: Option<PathBuf>,
}

/// The processes, or threads, of a cgroup and of those below it.
pub(super) struct Members {
    pub(super) ids: Vec<u32>,
    /// In how many cgroups they are.
    pub(super) cgroups: usize,
}

impl Container {
    /// The container in which this daemon runs; `None` if it sees the whole machine.
    ///
    /// # Errors
    /// [`NodeError`] of `/proc/self/mounts`, in a container.
    pub(super) fn find(machine: &Machine) -> Result<Option<Self>, NodeError> {
        // All cgroups but the machine's root have a type.
        if !machine.exists(&format!("{UNIFIED}/cgroup.type")) {
            return Ok(None);
        }
        let mounts: Vec<MountEntry> = machine.parse("/proc/self/mounts")?;
        let v1 = |controller: &str| {
            let is_it = |mount: &&MountEntry| mount.fs_vfstype == "cgroup" && mount.fs_mntops.contains_key(controller);
            let directory = machine.path(&mounts.iter().rev().find(is_it)?.fs_file);
            // The machine's root has this file: its limits are not the container's.
            (!directory.join("release_agent").exists()).then_some(directory)
        };
        Ok(Some(Self {
            proc: machine.path("/proc"),
            unified: machine.path(UNIFIED),
            cpu_v1: v1("cpu"),
            memory_v1: v1("memory"),
        }))
    }

    /// How much of the CPUs' time it may use, in thousandths of a CPU; `None` for no quota.
    pub(super) fn quota_milli(&self) -> Result<Option<u64>, NodeError> {
        let path = self.unified.join("cpu.max");
        if let Some(text) = text(&path)? {
            let (quota, period) = text.trim().split_once(' ').unwrap_or_default();
            return quota_milli(quota, period).ok_or_else(|| malformed(&path));
        }
        let Some(directory) = &self.cpu_v1 else { return Ok(None) };
        let path = directory.join("cpu.cfs_quota_us");
        let (quota, period) = (text(&path)?, text(&directory.join("cpu.cfs_period_us"))?);
        let (Some(quota), Some(period)) = (quota, period) else { return Ok(None) };
        quota_milli(quota.trim(), period.trim()).ok_or_else(|| malformed(&path))
    }

    /// How much memory it may use, in bytes, and what it does; `None` where no controller of memory
    /// can be seen.
    pub(super) fn memory(&self) -> Result<Option<(u64, Usage)>, NodeError> {
        match self.memory_unified()? {
            None => self.memory_v1(),
            some => Ok(some),
        }
    }

    fn memory_unified(&self) -> Result<Option<(u64, Usage)>, NodeError> {
        let file = |name: &str| self.unified.join(name);
        let Some(current) = number(&file("memory.current"))? else { return Ok(None) };
        let limits = [number(&file("memory.max"))?, number(&file("memory.high"))?];
        let limit = limits.into_iter().flatten().min().unwrap_or(u64::MAX);
        let stat = Stat::read(file("memory.stat"))?;
        let reclaimable = stat.sum(&["active_file", "inactive_file", "slab_reclaimable"]);
        let usage = Usage {
            used_bytes: current.saturating_sub(reclaimable),
            swapped_bytes: number(&file("memory.swap.current"))?,
            fetched_bytes: stat.pages_in_bytes("workingset_refault_anon"),
        };
        Ok(Some((limit, usage)))
    }

    fn memory_v1(&self) -> Result<Option<(u64, Usage)>, NodeError> {
        let Some(directory) = &self.memory_v1 else { return Ok(None) };
        let usage = number(&directory.join("memory.usage_in_bytes"))?;
        let limit = number(&directory.join("memory.limit_in_bytes"))?;
        let (Some(usage), Some(limit)) = (usage, limit) else { return Ok(None) };
        let stat = Stat::read(directory.join("memory.stat"))?;
        let usage = Usage {
            used_bytes: usage.saturating_sub(stat.sum(&["total_active_file", "total_inactive_file"])),
            swapped_bytes: stat.get("total_swap"),
            fetched_bytes: stat.pages_in_bytes("total_workingset_refault_anon"),
        };
        Ok(Some((limit, usage)))
    }

    /// What its processes have of memory, for where no controller counts that. Anonymous pages that
    /// processes share count for each of them; files on a tmpfs that none has mapped do not count.
    pub(super) fn memory_of_processes(&self) -> Result<Usage, NodeError> {
        let mut usage = Usage { swapped_bytes: Some(0), ..Usage::default() };
        for process in self.members("cgroup.procs")?.ids {
            let Some(status) = self.of_process::<Status>(&format!("{process}/status"))? else { continue };
            let bytes = |kib: Option<u64>| kib.unwrap_or(0).saturating_mul(1024);
            usage.used_bytes += bytes(status.rssanon) + bytes(status.rssshmem);
            usage.swapped_bytes = usage.swapped_bytes.map(|sum| sum + bytes(status.vmswap));
        }
        Ok(usage)
    }

    /// Its pressure stall figures; `None` if the kernel keeps none of cgroups.
    pub(super) fn pressure(&self) -> Result<Option<Pressure>, NodeError> {
        pressure_in(|resource| self.unified.join(format!("{resource}.pressure")))
    }

    /// The numbers in `file` of its cgroup and of all below.
    pub(super) fn members(&self, file: &str) -> Result<Members, NodeError> {
        let mut found = Members { ids: Vec::new(), cgroups: 0 };
        let mut directories = vec![self.unified.clone()];
        while let Some(directory) = directories.pop() {
            let path = directory.join(file);
            match std::fs::read_to_string(&path) {
                // Those that other PID namespaces number are 0 here.
                Ok(text) => {
                    found.ids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|id| *id > 0));
                }
                Err(source) if found.cgroups == 0 => return Err(NodeError::Read { path, source }),
                // It was removed meanwhile; or it has threads of a process that the cgroup above
                // lists.
                Err(_) => {}
            }
            found.cgroups += 1;
            // A directory with two links has no directories in it, so its many files need not be
            // listed.
            if std::fs::metadata(&directory).is_ok_and(|metadata| metadata.nlink() == 2) {
                continue;
            }
            let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            directories.extend(below.map(|entry| entry.path()));
        }
        Ok(found)
    }

    /// A file of a process, or of a thread; `None` if that has ended.
    pub(super) fn of_process<T: FromRead>(&self, path: &str) -> Result<Option<T>, NodeError> {
        let path = self.proc.join(path);
        match std::fs::read(&path) {
            Ok(text) => parse(&text, &path).map(Some),
            Err(error) if has_ended(&error) => Ok(None),
            Err(source) => Err(NodeError::Read { path, source }),
        }
    }
}

fn has_ended(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// A file with a name and a number in each line.
struct Stat(String);

impl Stat {
    fn read(path: PathBuf) -> Result<Self, NodeError> {
        std::fs::read_to_string(&path).map(Self).map_err(|source| NodeError::Read { path, source })
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// The sum of some figures; a kernel that lacks one has none of that.
    fn sum(&self, names: &[&str]) -> u64 {
        names.iter().filter_map(|name| self.get(name)).fold(0, u64::saturating_add)
    }

    fn pages_in_bytes(&self, name: &str) -> Option<u64> {
        self.get(name).map(|pages| pages.saturating_mul(rustix::param::page_size() as u64))
    }
}

/// The text of a file; `None` if there is none.
fn text(path: &Path) -> Result<Option<String>, NodeError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NodeError::Read { path: path.into(), source }),
    }
}

/// The number in a file, where `max` is the largest; `None` if there is no such file.
fn number(path: &Path) -> Result<Option<u64>, NodeError> {
    let Some(text) = text(path)? else { return Ok(None) };
    match text.trim() {
        "max" => Ok(Some(u64::MAX)),
        number => number.parse().map(Some).map_err(|_| malformed(path)),
    }
}

/// A quota in thousandths of a CPU, `Some(None)` if there is none; `None` if this is no quota.
fn quota_milli(quota: &str, period: &str) -> Option<Option<u64>> {
    let period: u64 = period.parse().ok()?;
    if quota == "max" || quota == "-1" {
        return Some(None);
    }
    let milli = quota.parse::<u64>().ok()?.saturating_mul(1_000).checked_div(period)?;
    Some(Some(milli.max(1)))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::machine::tests::machine;

    const MOUNTS: &str = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n\
        cgroup /run/cg/cpu cgroup rw,relatime,cpu,cpuacct 0 0\ncgroup /run/cg/memory cgroup rw,memory 0 0\n";

    /// The inside of a container with these files.
    pub(in crate::node) fn container(files: &[(&str, &str)]) -> (tempfile::TempDir, Container) {
        let (dir, machine) = machine(&[("/sys/fs/cgroup/cgroup.type", "domain\n"), ("/proc/self/mounts", MOUNTS)]);
        for (path, text) in files {
            let path = machine.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let container = Container::find(&machine).unwrap().unwrap();
        (dir, container)
    }

    #[test]
    fn the_machines_root_is_no_container() {
        let (_dir, machine) = machine(&[("/sys/fs/cgroup/cgroup.controllers", "cpu\n")]);
        assert!(Container::find(&machine).unwrap().is_none());
        assert!(Container::find(&Machine::at("/nonexistent")).unwrap().is_none());
    }

    #[test]
    fn a_quota_is_read_from_either_version() {
        let quota = |files: &[(&str, &str)]| container(files).1.quota_milli().map_err(|error| error.to_string());
        let v2 = |text| quota(&[("/sys/fs/cgroup/cpu.max", text), ("/run/cg/cpu/cpu.cfs_quota_us", "70000\n")]);
        assert_eq!((v2("60000 100000\n"), v2("max 100000\n")), (Ok(Some(600)), Ok(None)));
        assert!(v2("60000\n").unwrap_err().contains("cpu.max is not as expected"));
        let v1 = |text, root: &str| {
            let (quota_us, period_us) = ("/run/cg/cpu/cpu.cfs_quota_us", "/run/cg/cpu/cpu.cfs_period_us");
            quota(&[(quota_us, text), (period_us, "50000\n"), (&format!("/run/cg/cpu/{root}"), "")])
        };
        assert_eq!((v1("70000\n", "tasks"), v1("-1\n", "tasks")), (Ok(Some(1_400)), Ok(None)));
        assert_eq!(v1("70000\n", "release_agent"), Ok(None), "the machine's own root");
        assert_eq!(quota(&[]), Ok(None));
    }

    #[test]
    fn memory_that_can_be_reclaimed_is_not_used() {
        let stat =
            "anon 300\nfile 9000\ninactive_file 40\nactive_file 20\nslab_reclaimable 10\nworkingset_refault_anon 3\n";
        let (_dir, v2) = container(&[
            ("/sys/fs/cgroup/memory.current", "400\n"),
            ("/sys/fs/cgroup/memory.max", "1000\n"),
            ("/sys/fs/cgroup/memory.high", "max\n"),
            ("/sys/fs/cgroup/memory.swap.current", "50\n"),
            ("/sys/fs/cgroup/memory.stat", stat),
        ]);
        let page = rustix::param::page_size() as u64;
        let usage = Usage { used_bytes: 330, swapped_bytes: Some(50), fetched_bytes: Some(3 * page) };
        assert_eq!(v2.memory().unwrap(), Some((1_000, usage)));
        let (_dir, v1) = container(&[
            ("/run/cg/memory/memory.usage_in_bytes", "400\n"),
            ("/run/cg/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/run/cg/memory/memory.stat", "active_file 1\ntotal_active_file 20\ntotal_inactive_file 40\n"),
        ]);
        let usage = Usage { used_bytes: 340, swapped_bytes: None, fetched_bytes: None };
        assert_eq!(v1.memory().unwrap(), Some((9_223_372_036_854_771_712, usage)));
        assert_eq!(container(&[]).1.memory().unwrap(), None);
    }

    #[test]
    fn what_processes_have_of_their_own_adds_up() {
        let status = "Name:\tcat\nRssAnon:\t 100 kB\nRssFile:\t 900 kB\nRssShmem:\t 20 kB\nVmSwap:\t 3 kB\n";
        let (dir, here) =
            container(&[("/sys/fs/cgroup/cgroup.procs", "41\n"), ("/sys/fs/cgroup/a/cgroup.procs", "42\n43\n")]);
        let whole = std::fs::read_to_string("/proc/self/status").unwrap();
        let is_replaced = |line: &&str| !status.lines().any(|new| new.split(':').next() == line.split(':').next());
        let rest: String = whole.lines().filter(is_replaced).map(|line| format!("{line}\n")).collect();
        for process in ["41", "42"] {
            let directory = dir.path().join("proc").join(process);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("status"), format!("{status}{rest}")).unwrap();
        }
        let expected = Usage { used_bytes: 240 << 10, swapped_bytes: Some(6 << 10), fetched_bytes: None };
        assert_eq!(here.memory_of_processes().unwrap(), expected);
    }

    proptest! {
        #[test]
        fn a_quota_is_its_part_of_the_period(quota in 1_000_u64..100_000_000, period in 1_000_u64..=1_000_000) {
            let milli = quota_milli(&quota.to_string(), &period.to_string()).unwrap().unwrap();
            prop_assert!(milli >= 1);
            prop_assert!((milli * period).abs_diff(quota * 1_000) <= period.max(1_000_000));
        }

        #[test]
        fn any_text_is_survived(quota in "\\PC*", period in "\\PC*") {
            quota_milli(&quota, &period);
            Stat(quota).get(&period);
        }
    }
}
