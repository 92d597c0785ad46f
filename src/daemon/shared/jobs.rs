//! The jobs of this node: what `scx_mosix run` started here, wherever it runs now.
//!
//! A job is a process and all its descendants. They are kept together by a cgroup of their own,
//! made *below* the cgroup in which the program was started, so that the limits and the session of
//! its user stay in force; descendants inherit it. A small file per job in the run-time directory
//! lets a restarted daemon find them again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    job::{Constraints, SessionId},
    sys::{
        cgroup::{self, CgroupError},
        clock::now_ms,
        proc,
    },
    telemetry::boottime_ns,
};

/// The cgroup of the job whose root is `pid` has this name followed by the pid.
const CGROUP_PREFIX: &str = "scx_mosix.";

/// Why a process cannot become a job.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// There is no such process (any more).
    #[error("there is no process {pid}")]
    NoProcess {
        /// The pid asked for.
        pid: i32,
        /// The system's error.
        source: io::Error,
    },
    /// A user may register only processes of his own.
    #[error("process {pid} belongs to uid {owner}, not to uid {caller}")]
    NotYours {
        /// The pid asked for.
        pid: i32,
        /// Whose it is.
        owner: u32,
        /// Who asked.
        caller: u32,
    },
    /// The process is in no cgroup of the unified hierarchy.
    #[error("process {pid} is in no cgroup v2; mount the unified hierarchy at /sys/fs/cgroup")]
    NoCgroup {
        /// The pid asked for.
        pid: i32,
    },
    /// The job's cgroup could not be made or entered.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// There is a cgroup of the job's name with other processes.
    #[error("cgroup {path} of an earlier job still has processes")]
    Occupied {
        /// The cgroup.
        path: PathBuf,
    },
    /// The job's file could not be made.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// One job, as its file keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The process that `run` became; the job's number in `ps`.
    pub root_pid: i32,
    /// Its start time in clock ticks since boot: tells it from a later process with the same pid.
    pub start_time_ticks: u64,
    /// Its owner.
    pub uid: u32,
    /// Names the job in the cluster.
    pub session: SessionId,
    /// Its cgroup, an absolute path.
    pub cgroup: PathBuf,
    /// When its root process began, in ms since the epoch.
    pub began_ms: u64,
    /// What its user lets placement do with it.
    #[serde(flatten)]
    pub constraints: Constraints,
    /// The root of the job that its user started, if it is a descendant of that.
    #[serde(default)]
    pub part_of: Option<i32>,
}

impl Job {
    /// The root of the job that its user started: this one, or one that it is a descendant of.
    pub fn tree(&self) -> i32 {
        self.part_of.unwrap_or(self.root_pid)
    }

    /// Whether any process of the job, or a deputy of it, is left.
    pub fn is_alive(&self) -> bool {
        cgroup::is_populated(&self.cgroup)
    }
}

/// The table of jobs and its directory of files.
pub struct Jobs {
    directory: PathBuf,
    by_pid: BTreeMap<i32, Job>,
}

impl Jobs {
    /// Reads what an earlier daemon left in `run_dir` and forgets the jobs that ended meanwhile.
    pub fn load(run_dir: &Path) -> Result<Self, RegisterError> {
        let directory = run_dir.join("jobs");
        fs::create_dir_all(&directory).map_err(io_error("create directory", &directory))?;
        let mut jobs = Self { directory, by_pid: BTreeMap::new() };
        for entry in fs::read_dir(&jobs.directory).map_err(io_error("read", &jobs.directory))?.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path)
                .map_err(|e| e.to_string())
                .and_then(|text| serde_json::from_slice::<Job>(&text).map_err(|e| e.to_string()))
            {
                Ok(job) => drop(jobs.by_pid.insert(job.root_pid, job)),
                Err(error) => tracing::warn!(path = %path.display(), error, "job file not understood; left alone"),
            }
        }
        jobs.remove_ended();
        Ok(jobs)
    }

    /// Makes `pid` and its future descendants a job. A process that is in a job already gives that
    /// job.
    ///
    /// `caller` is the uid that asks; 0 may register any process.
    pub fn register(&mut self, pid: i32, caller: u32, constraints: Constraints) -> Result<Job, RegisterError> {
        let no_process = |source| RegisterError::NoProcess { pid, source };
        let owner = proc::status(format!("/proc/{pid}")).map_err(no_process)?.ruid;
        if caller != 0 && caller != owner {
            return Err(RegisterError::NotYours { pid, owner, caller });
        }
        let current = cgroup::of(pid).ok_or(RegisterError::NoCgroup { pid })?;
        if let Some(job) = self.in_cgroup(&current) {
            return Ok(job.clone());
        }
        let cgroup = current.join(format!("{CGROUP_PREFIX}{pid}"));
        let job = Job { cgroup, ..describe(pid, owner, constraints)? };
        self.enter(job, &current)
    }

    /// Makes `pid`, a descendant in the job `of`, a job of its own beside that one, with the
    /// descendants that it will have.
    pub fn promote(&mut self, pid: i32, of: &Job) -> Result<Job, RegisterError> {
        let beside = cgroup::of(pid).filter(|current| *current == of.cgroup);
        let beside = beside.as_deref().and_then(Path::parent).ok_or(RegisterError::NoCgroup { pid })?;
        let cgroup = beside.join(format!("{CGROUP_PREFIX}{pid}"));
        // As it is now: `of` may be older.
        let constraints = &self.get(of.root_pid).filter(|now| now.session == of.session).unwrap_or(of).constraints;
        let job = Job { cgroup, part_of: Some(of.tree()), ..describe(pid, of.uid, constraints.clone())? };
        self.enter(job, &of.cgroup)
    }

    /// Puts a job's root into its cgroup; back to `current` if that fails.
    fn enter(&mut self, job: Job, current: &Path) -> Result<Job, RegisterError> {
        let pid = job.root_pid;
        // An empty one may be left of an earlier process with this pid.
        if cgroup::is_populated(&job.cgroup) {
            return Err(RegisterError::Occupied { path: job.cgroup });
        }
        cgroup::create(&job.cgroup)?;
        let enter = || {
            cgroup::enter(&job.cgroup, pid)?;
            self.store(&job)
        };
        if let Err(error) = enter() {
            let _ = cgroup::enter(current, pid);
            let _ = fs::remove_dir(&job.cgroup);
            return Err(error);
        }
        self.by_pid.insert(pid, job.clone());
        Ok(job)
    }

    /// Changes what placement may do with the job to which `pid` belongs; if that is what its user
    /// started, also with the descendants of it that became jobs of their own. Gives all of them,
    /// the one asked for first; none if there is no such job. `caller` is the uid that asks; 0 may
    /// change any job.
    pub fn constrain(
        &mut self,
        pid: i32,
        caller: u32,
        change: impl Fn(&Constraints) -> Constraints,
    ) -> Result<Vec<Job>, RegisterError> {
        let Some(asked) = self.containing(pid).cloned() else { return Ok(Vec::new()) };
        let owner = asked.uid;
        if caller != 0 && caller != owner {
            return Err(RegisterError::NotYours { pid, owner, caller });
        }
        let parts = self.iter().filter(|job| job.part_of == Some(asked.root_pid)).cloned();
        let mut changed = Vec::new();
        for job in std::iter::once(asked.clone()).chain(parts.collect::<Vec<_>>()) {
            let job = Job { constraints: change(&job.constraints), ..job };
            self.store(&job)?;
            self.by_pid.insert(job.root_pid, job.clone());
            changed.push(job);
        }
        Ok(changed)
    }

    /// The job whose root is `pid`.
    pub fn get(&self, pid: i32) -> Option<&Job> {
        self.by_pid.get(&pid)
    }

    /// The job to which process `pid` belongs, be it the root or a descendant.
    pub fn containing(&self, pid: i32) -> Option<&Job> {
        self.get(pid).or_else(|| {
            let cgroup = cgroup::of(pid)?;
            self.in_cgroup(&cgroup)
        })
    }

    /// The job that has this cgroup.
    pub fn in_cgroup(&self, cgroup: &Path) -> Option<&Job> {
        self.iter().find(|job| job.cgroup == *cgroup)
    }

    /// All jobs by pid.
    pub fn iter(&self) -> impl Iterator<Item = &Job> {
        self.by_pid.values()
    }

    /// Forgets the jobs that have no process left and returns them.
    pub fn remove_ended(&mut self) -> Vec<Job> {
        let ended: Vec<Job> = self.iter().filter(|job| !job.is_alive()).cloned().collect();
        for job in &ended {
            self.by_pid.remove(&job.root_pid);
            // Gone already when the user's session ended and systemd removed it.
            let _ = fs::remove_dir(&job.cgroup);
            let _ = fs::remove_file(self.file(job));
        }
        ended
    }

    fn store(&self, job: &Job) -> Result<(), RegisterError> {
        let path = self.file(job);
        let text = serde_json::to_vec(job).map_err(|e| io_error("describe", &path)(e.into()))?;
        // At once or not at all: the next daemon could not read half of it.
        let new = path.with_extension("new");
        fs::write(&new, text).map_err(io_error("write", &new))?;
        fs::rename(&new, &path).map_err(io_error("write", &path))
    }

    fn file(&self, job: &Job) -> PathBuf {
        self.directory.join(format!("{}.json", job.root_pid))
    }
}

/// A process as a job, without its cgroup.
fn describe(pid: i32, uid: u32, constraints: Constraints) -> Result<Job, RegisterError> {
    let stat = proc::stat(format!("/proc/{pid}")).map_err(|source| RegisterError::NoProcess { pid, source })?;
    Ok(Job {
        root_pid: pid,
        start_time_ticks: stat.starttime,
        uid,
        session: SessionId::random(),
        cgroup: PathBuf::new(),
        began_ms: now_ms().saturating_sub(age_ms(stat.starttime)),
        constraints,
        part_of: None,
    })
}

/// The age of a process that began so many clock ticks after boot, in ms.
fn age_ms(start_time_ticks: u64) -> u64 {
    (boottime_ns() / 1_000_000).saturating_sub(start_time_ticks * 1_000 / rustix::param::clock_ticks_per_second())
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegisterError {
    move |source| RegisterError::Io { what, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_process_and_a_foreign_one_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut jobs = Jobs::load(dir.path()).unwrap();
        assert!(matches!(jobs.register(i32::MAX, 0, Constraints::default()), Err(RegisterError::NoProcess { .. })));
        let own = std::process::id().cast_signed();
        let result = jobs.register(own, 54_321, Constraints::default());
        assert!(matches!(result, Err(RegisterError::NotYours { caller: 54_321, .. })), "{result:?}");
    }

    fn job(root_pid: i32, part_of: Option<i32>) -> Job {
        Job {
            root_pid,
            start_time_ticks: 2,
            uid: 3,
            session: SessionId::random(),
            cgroup: "/no-such-cgroup".into(),
            began_ms: 4,
            constraints: Constraints { stay: true, allowed_nodes: vec!["n2".into()] },
            part_of,
        }
    }

    #[test]
    fn who_constrains_a_command_constrains_what_came_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut jobs = Jobs::load(dir.path()).unwrap();
        for job in [job(1, None), job(5, Some(1)), job(6, Some(1)), job(7, None), job(8, Some(7))] {
            jobs.by_pid.insert(job.root_pid, job);
        }
        let free = |constraints: &Constraints| Constraints { stay: false, ..constraints.clone() };
        let mut changed = |pid, caller| -> Result<Vec<i32>, RegisterError> {
            Ok(jobs.constrain(pid, caller, free)?.iter().map(|job| job.root_pid).collect())
        };
        assert_eq!(changed(1, 3).unwrap(), [1, 5, 6]);
        assert_eq!(changed(8, 0).unwrap(), [8]);
        assert!(changed(i32::MAX, 0).unwrap().is_empty());
        assert!(matches!(changed(7, 4), Err(RegisterError::NotYours { owner: 3, caller: 4, .. })));
        let stay: Vec<bool> = jobs.iter().map(|job| job.constraints.stay).collect();
        assert_eq!(stay, [false, false, false, true, false]);
    }

    #[test]
    fn jobs_that_ended_while_no_daemon_ran_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let job = job(1, None);
        Jobs::load(dir.path()).unwrap().store(&job).unwrap();
        assert!(!dir.path().join("jobs/1.new").exists());
        let text = fs::read(dir.path().join("jobs/1.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Job>(&text).unwrap(), job);
        fs::write(dir.path().join("jobs/9.json"), "not json").unwrap();
        assert_eq!(Jobs::load(dir.path()).unwrap().iter().count(), 0);
        assert!(!dir.path().join("jobs/1.json").exists());
        assert!(dir.path().join("jobs/9.json").exists());
    }
}
