//! Control groups of version 2: each is a directory whose files tell and change what its processes
//! do.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::proc::{self, Process};

/// Where cgroup v2 is usually mounted, alone or below version 1.
const USUAL: &str = "/sys/fs/cgroup";

/// What could not be done with a cgroup.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} cgroup {}: {cause}", path.display())]
pub struct CgroupError {
    /// What was tried.
    pub what: &'static str,
    /// The cgroup.
    pub path: PathBuf,
    /// The system's error.
    pub cause: io::Error,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |cause| CgroupError { what, path: path.into(), cause }
}

/// What the kernel tells of a cgroup and those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// It has a process.
    pub populated: bool,
    /// All its processes stand still.
    pub frozen: bool,
}

/// Where the cgroup v2 hierarchy is mounted.
///
/// # Errors
/// If none is.
pub fn root() -> Result<&'static Path, CgroupError> {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(root) = ROOT.get() {
        return Ok(root);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(failed("find the mounts of", Path::new(USUAL)))?;
    let found = mounted_at(&mounts).ok_or_else(|| {
        failed("find the hierarchy of version 2 of", Path::new(USUAL))(io::ErrorKind::NotFound.into())
    })?;
    Ok(ROOT.get_or_init(|| found))
}

/// Of the mounts of version 2 one below the usual place, if there is one.
fn mounted_at(mounts: &str) -> Option<PathBuf> {
    let of_version_2 = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (path, file_system) = (words.next()?, words.next()?);
        (file_system == "cgroup2").then(|| PathBuf::from(path))
    };
    let found: Vec<PathBuf> = mounts.lines().filter_map(of_version_2).collect();
    found.iter().find(|path| path.starts_with(USUAL)).or(found.first()).cloned()
}

/// The directory of the cgroup that has this path in the hierarchy. Without a hierarchy it is at
/// the usual place, where there is none.
pub fn directory(name: &str) -> PathBuf {
    root().unwrap_or(Path::new(USUAL)).join(name.trim_start_matches('/'))
}

/// The directory of the cgroup of a process; `None` if there is no such process or hierarchy.
pub fn of(pid: i32) -> Option<PathBuf> {
    let name = proc::cgroup(Path::new(&format!("/proc/{pid}")))?;
    Some(root().ok()?.join(name.trim_start_matches('/')))
}

/// Whether a process is in a cgroup or below it. One that has ended is where it was
/// (proc_pid_cgroup(5)), until its parent asks for it.
pub fn is_in(pid: i32, path: &Path) -> bool {
    let Some(name) = proc::cgroup(Path::new(&format!("/proc/{pid}"))) else { return false };
    directory(name.strip_suffix(" (deleted)").unwrap_or(&name)).starts_with(path)
}

/// Makes a cgroup and those above it, as far as they are missing.
///
/// # Errors
/// If the system refuses.
pub fn create(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(failed("create", path))
}

/// Moves a process into a cgroup; 0 stands for the caller.
///
/// # Errors
/// If the system refuses.
pub fn enter(path: &Path, pid: i32) -> Result<(), CgroupError> {
    fs::write(path.join("cgroup.procs"), pid.to_string()).map_err(failed("move a process into", path))
}

/// Has all processes stand still soon; [`events`] tells when they do.
///
/// # Errors
/// If the system refuses.
pub fn freeze(path: &Path) -> Result<(), CgroupError> {
    fs::write(path.join("cgroup.freeze"), "1").map_err(failed("freeze", path))
}

/// Undoes [`freeze`].
///
/// # Errors
/// If the system refuses.
pub fn thaw(path: &Path) -> Result<(), CgroupError> {
    fs::write(path.join("cgroup.freeze"), "0").map_err(failed("thaw", path))
}

/// Whether [`freeze`] was called for it, and [`thaw`] was not since; not of a cgroup that is gone.
pub fn is_to_freeze(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
}

/// Kills all processes, also those that are frozen.
///
/// # Errors
/// If the system refuses.
pub fn kill(path: &Path) -> Result<(), CgroupError> {
    fs::write(path.join("cgroup.kill"), "1").map_err(failed("kill the processes of", path))
}

/// Whether it has processes, and whether they stand still.
///
/// # Errors
/// If there is no such cgroup.
pub fn events(path: &Path) -> Result<Events, CgroupError> {
    let text = fs::read_to_string(path.join("cgroup.events")).map_err(failed("look at the events of", path))?;
    let says = |event: &str| text.lines().any(|line| line == event);
    Ok(Events { populated: says("populated 1"), frozen: says("frozen 1") })
}

/// Whether there is such a cgroup with a process.
pub fn is_populated(path: &Path) -> bool {
    events(path).is_ok_and(|events| events.populated)
}

/// All processes of a cgroup and those below it, by number; those that end meanwhile are left out.
///
/// # Errors
/// If they cannot be listed, or one that is there cannot be looked at.
pub fn members(path: &Path) -> Result<Vec<Process>, CgroupError> {
    let mut found = Vec::new();
    let mut cgroups = vec![path.to_owned()];
    while let Some(cgroup) = cgroups.pop() {
        let mut list = || -> io::Result<()> {
            for line in fs::read_to_string(cgroup.join("cgroup.procs"))?.lines() {
                // 0 stands for a process that is outside of our pid namespace; it cannot be in a
                // cgroup of ours.
                if let Ok(pid) = line.parse() {
                    found.extend(Process::read(pid)?);
                }
            }
            for entry in fs::read_dir(&cgroup)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    cgroups.push(entry.path());
                }
            }
            Ok(())
        };
        list().map_err(failed("list the processes of", path))?;
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::{
        process::Command,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn the_usual_mount_is_preferred() {
        let (v1, other) = ("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n", "none /mnt/cg cgroup2 rw 0 0\n");
        assert_eq!(mounted_at(v1), None);
        assert_eq!(mounted_at(&format!("{v1}{other}")), Some("/mnt/cg".into()));
        let usual = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mounted_at(&format!("{v1}{other}{usual}")), Some("/sys/fs/cgroup/unified".into()));
    }

    /// Needs root and a writable hierarchy, as all tests of moves do.
    #[test]
    fn a_process_is_frozen_thawed_and_killed() {
        let cgroup = directory(&format!("scx_mosix-test-cgroup-{}", std::process::id()));
        create(&cgroup).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        let wait_for = |wanted: Events| {
            let limit = Instant::now() + Duration::from_secs(10);
            while events(&cgroup).unwrap() != wanted {
                assert!(Instant::now() < limit, "it is not {wanted:?}");
            }
        };
        assert!(!is_populated(&cgroup) && !is_to_freeze(&cgroup));
        enter(&cgroup, pid).unwrap();
        assert_eq!(of(pid), Some(cgroup.clone()));
        assert_eq!(members(cgroup.as_path()).unwrap().iter().map(|process| process.pid).collect::<Vec<_>>(), [pid]);
        freeze(&cgroup).unwrap();
        wait_for(Events { populated: true, frozen: true });
        assert!(is_to_freeze(&cgroup));
        thaw(&cgroup).unwrap();
        wait_for(Events { populated: true, frozen: false });
        kill(&cgroup).unwrap();
        child.wait().unwrap();
        wait_for(Events { populated: false, frozen: false });
        fs::remove_dir(&cgroup).unwrap();
        let error = thaw(&cgroup).unwrap_err().to_string();
        assert!(error.starts_with("cannot thaw cgroup") && error.contains("No such file"), "{error}");
    }
}
