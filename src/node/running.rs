//! How many tasks are runnable: on a CPU, or waiting for one.
//!
//! The kernel counts those of the whole machine. Of a container's it does not, so its threads are
//! looked at one by one, a bounded number at a time: where there are more, a count takes several
//! steps. A thread that has used up its cgroup's quota is runnable too.

use std::{fs::File, os::unix::fs::FileExt, path::PathBuf};

use procfs::{LoadAverage, process::Stat};
use rustix::thread::gettid;

use super::{
    Machine, NodeError,
    container::{Container, Members},
    machine::parse,
};

/// Threads and cgroups looked at in a step. Each takes about 10 µs, so ten steps a second take at
/// most 2 % of a CPU.
const LOOKS_PER_STEP: usize = 200;

/// Counts runnable tasks.
#[derive(Debug)]
pub(super) enum Running {
    /// The machine's: `/proc/loadavg`, kept open, as it is read ten times a second.
    Machine(File, PathBuf),
    /// A container's, and the count that is not finished.
    Container(Container, Option<Count>),
}

/// A count under way.
#[derive(Debug)]
pub(super) struct Count {
    threads: Vec<u32>,
    /// What was looked at to find those and is not paid for.
    cgroups: usize,
    runnable: u32,
}

impl Running {
    /// Of all of `machine`.
    ///
    /// # Errors
    /// [`NodeError::Read`] of `/proc/loadavg`.
    pub(super) fn of_machine(machine: &Machine) -> Result<Self, NodeError> {
        let path = machine.path("/proc/loadavg");
        match File::open(&path) {
            Ok(file) => Ok(Self::Machine(file, path)),
            Err(source) => Err(NodeError::Read { path, source }),
        }
    }

    /// Of a container.
    pub(super) fn of_container(container: Container) -> Self {
        Self::Container(container, None)
    }

    /// Tasks that are runnable now, without the one that asks; `None` if the count takes more
    /// steps.
    ///
    /// # Errors
    /// [`NodeError::Read`], [`NodeError::Parse`].
    pub(super) fn step(&mut self) -> Result<Option<u32>, NodeError> {
        match self {
            Self::Machine(file, path) => {
                let unread = |source| NodeError::Read { path: path.clone(), source };
                // Three loads and three numbers.
                let mut text = [0; 128];
                let length = file.read_at(&mut text, 0).map_err(unread)?;
                let load: LoadAverage = parse(text.get(..length).unwrap_or_default(), path)?;
                Ok(Some(load.cur.saturating_sub(1)))
            }
            Self::Container(container, count) => {
                let mut current = match count.take() {
                    Some(current) => current,
                    None => Count::begin(container)?,
                };
                if current.step(container)? {
                    return Ok(Some(current.runnable));
                }
                *count = Some(current);
                Ok(None)
            }
        }
    }
}

impl Count {
    fn begin(container: &Container) -> Result<Self, NodeError> {
        let Members { ids, cgroups } = container.members("cgroup.threads")?;
        Ok(Self { threads: ids, cgroups, runnable: 0 })
    }

    /// Looks at some threads, and says whether these were the last.
    fn step(&mut self, container: &Container) -> Result<bool, NodeError> {
        let paid = self.cgroups.min(LOOKS_PER_STEP);
        self.cgroups -= paid;
        let rest = self.threads.len().saturating_sub(LOOKS_PER_STEP - paid);
        let own = gettid().as_raw_nonzero().get().unsigned_abs();
        for thread in self.threads.drain(rest..).filter(|thread| *thread != own) {
            // One that has ended meanwhile is not runnable.
            let stat: Option<Stat> = container.of_process(&format!("{thread}/task/{thread}/stat"))?;
            if stat.is_some_and(|stat| stat.state == 'R') {
                self.runnable += 1;
            }
        }
        Ok(self.threads.is_empty() && self.cgroups == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{container::tests::container, machine::tests::machine};

    fn stat(state: char) -> String {
        format!(
            "7 (a) R b) {state} 1 7 7 0 -1 4194560 123 0 45 0 50 25 0 0 20 0 3 0 200 9000 10 1844674 {}",
            "0 ".repeat(27)
        )
    }

    #[test]
    fn the_asking_thread_is_not_counted() {
        let (_dir, machine) = machine(&[("/proc/loadavg", "0.10 0.20 0.30 4/200 1234\n")]);
        assert_eq!(Running::of_machine(&machine).unwrap().step().unwrap(), Some(3));
        let own = gettid().as_raw_nonzero().to_string();
        let threads = [("/sys/fs/cgroup/cgroup.threads", &*format!("{own}\n41\n"))];
        let (dir, container) = container(&threads);
        for thread in [&own, "41"] {
            let directory = dir.path().join(format!("proc/{thread}/task/{thread}"));
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("stat"), stat('R')).unwrap();
        }
        assert_eq!(Running::of_container(container).step().unwrap(), Some(1));
    }

    #[test]
    fn runnable_threads_of_a_container_and_its_cgroups_count() {
        let (_dir, container) = container(&[
            ("/sys/fs/cgroup/cgroup.threads", ""),
            ("/sys/fs/cgroup/a/cgroup.threads", "41\n42\n0\n"),
            ("/sys/fs/cgroup/a/b/cgroup.threads", "43\n44\n"),
            ("/proc/41/task/41/stat", &stat('R')),
            ("/proc/42/task/42/stat", &stat('S')),
            ("/proc/43/task/43/stat", &stat('R')),
            ("/proc/45/task/45/stat", &stat('R')),
            ("/proc/loadavg", "0 0 0 9/100 9\n"),
        ]);
        assert_eq!(Running::of_container(container).step().unwrap(), Some(2), "44 has ended, 45 is not of it");
    }

    #[test]
    fn a_count_of_many_threads_takes_steps_of_bounded_work() {
        let ids = |range: std::ops::Range<usize>| range.map(|id| format!("{id}\n")).collect::<String>();
        let stat = stat('R');
        let paths: Vec<String> = (1_000..1_450).map(|id| format!("/proc/{id}/task/{id}/stat")).collect();
        let (root, below) = (ids(1_000..1_400), ids(1_400..1_450));
        let mut files: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), stat.as_str())).collect();
        files.extend([("/sys/fs/cgroup/cgroup.threads", &*root), ("/sys/fs/cgroup/a/cgroup.threads", &*below)]);
        let (_dir, container) = container(&files);
        let mut running = Running::of_container(container);
        for _ in 0..2 {
            assert_eq!([running.step().unwrap(), running.step().unwrap()], [None, None]);
            assert_eq!(running.step().unwrap(), Some(450), "and again from the start");
        }
    }

    #[test]
    fn a_missing_cgroup_is_an_error_that_names_the_file() {
        let (_dir, container) = container(&[]);
        let error = Running::of_container(container).step().unwrap_err();
        assert!(error.to_string().contains("cgroup.threads"), "{error}");
    }

    #[test]
    fn damaged_files_are_errors_that_name_the_file() {
        let (_dir, machine) = machine(&[("/proc/loadavg", "rubbish")]);
        assert!(Running::of_machine(&machine).unwrap().step().unwrap_err().to_string().contains("loadavg"));
    }

    #[test]
    fn this_machine_can_be_counted() {
        assert!(Running::of_machine(&Machine::this()).unwrap().step().unwrap().is_some());
    }
}
