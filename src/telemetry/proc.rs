//! The fall-back when BPF is refused: processes from `/proc`.
//!
//! Five files per process and sample instead of one pass in the kernel: some ten times the cost, CPU time in clock ticks, nothing
//! of processes that come and go between two samples, and no events. A snapshot says which source it has.

use std::path::{Path, PathBuf};

use super::sample::{CgroupRef, PF_KTHREAD, TaskSample, TaskSource};
use super::{Source, TelemetryError};

/// Reads `/proc`.
pub(super) struct ProcTasks {
    proc: PathBuf,
    reason: String,
    ns_per_tick: u64,
    page_bytes: u64,
}

impl ProcTasks {
    /// `reason`: why not BPF.
    pub(super) fn new(proc: &Path, reason: String) -> Self {
        Self {
            proc: proc.to_owned(),
            reason,
            ns_per_tick: 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1),
            page_bytes: rustix::param::page_size() as u64,
        }
    }

    fn process(&self, pid: u32) -> Option<TaskSample> {
        let dir = self.proc.join(pid.to_string());
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
        let mut sample = parse_stat(&read("stat")?, self.ns_per_tick, self.page_bytes)?;
        let status = read("status")?;
        sample.uid = parse_uid(&status)?;
        sample.file_bytes = parse_file_bytes(&status);
        // Without CONFIG_TASK_IO_ACCOUNTING nobody counts it.
        sample.io_bytes = read("io").map_or(0, |io| parse_io_bytes(&io));
        sample.cgroup = CgroupRef::Path(parse_cgroup(&read("cgroup")?));
        sample.wait_ns = self.wait_ns(&dir, sample.nr_threads);
        Some(sample)
    }

    /// Waiting time of all live threads. Absent without CONFIG_SCHED_INFO.
    fn wait_ns(&self, dir: &Path, nr_threads: u32) -> u64 {
        let of = |path: PathBuf| std::fs::read_to_string(path).ok().and_then(|text| parse_wait(&text)).unwrap_or(0);
        if nr_threads <= 1 {
            return of(dir.join("schedstat"));
        }
        let threads = std::fs::read_dir(dir.join("task")).into_iter().flatten().flatten();
        threads.map(|thread| of(thread.path().join("schedstat"))).fold(0, u64::saturating_add)
    }
}

impl TaskSource for ProcTasks {
    fn sample(&mut self) -> Result<Vec<TaskSample>, TelemetryError> {
        let entries =
            std::fs::read_dir(&self.proc).map_err(|source| TelemetryError::Read { path: self.proc.clone(), source })?;
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // A process that ends between two reads is left out.
        Ok(pids.filter_map(|pid| self.process(pid)).collect())
    }

    fn source(&self) -> Source {
        Source::Proc { reason: self.reason.clone() }
    }
}

/// `/proc/PID/stat`: see proc_pid_stat(5). The name may contain anything, also parentheses.
fn parse_stat(stat: &str, ns_per_tick: u64, page_bytes: u64) -> Option<TaskSample> {
    let (pid, rest) = stat.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Numbered as in the manual page, where the state is field 3.
    let field = |number: usize| fields.get(number - 3).copied();
    let number = |index: usize| field(index)?.parse::<u64>().ok();
    let pid = pid.parse().ok()?;
    Some(TaskSample {
        pid,
        tgid: pid,
        ppid: u32::try_from(number(4)?).ok()?,
        uid: 0,
        nr_threads: u32::try_from(number(20)?).ok()?,
        is_kernel: number(9)? & u64::from(PF_KTHREAD) != 0,
        state: field(3)?.chars().next()?,
        start_ns: number(22)?.checked_mul(ns_per_tick)?,
        run_ns: number(14)?.checked_add(number(15)?)?.checked_mul(ns_per_tick)?,
        wait_ns: 0,
        min_flt: number(10)?,
        maj_flt: number(12)?,
        switches: 0,
        rss_bytes: number(24)?.checked_mul(page_bytes)?,
        file_bytes: 0,
        io_bytes: 0,
        cgroup: CgroupRef::Path(String::new()),
        comm: comm.to_owned(),
    })
}

/// The real user id in `/proc/PID/status`.
fn parse_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()
}

/// The memory of mapped files in `/proc/PID/status`, which counts in KiB; 0 if the kernel does not say.
fn parse_file_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"));
    let kib: Option<u64> = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// What `/proc/PID/io` says was read from disks and written to files.
fn parse_io_bytes(io: &str) -> u64 {
    let of = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0_u64);
    of("read_bytes:").saturating_add(of("write_bytes:"))
}

/// The path in the unified hierarchy in `/proc/PID/cgroup`; `/` when there is none.
pub(super) fn parse_cgroup(cgroup: &str) -> String {
    cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned()
}

/// The second figure of `/proc/PID/schedstat`.
fn parse_wait(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) R b) S 1 7 7 0 -1 4194560 123 0 45 0 50 25 0 0 20 0 3 0 200 9000 10 18446744073709551615 0";
        let sample = parse_stat(stat, 10_000_000, 4096).unwrap();
        assert_eq!((sample.comm.as_str(), sample.state, sample.ppid, sample.nr_threads), ("a) R b", 'S', 1, 3));
        assert_eq!((sample.min_flt, sample.maj_flt, sample.run_ns), (123, 45, 750_000_000));
        assert_eq!((sample.start_ns, sample.rss_bytes, sample.is_kernel), (2_000_000_000, 40960, false));
    }

    #[test]
    fn this_process_is_found_with_its_user_and_cgroup() {
        let mut source = ProcTasks::new(Path::new("/proc"), "test".to_owned());
        let samples = source.sample().unwrap();
        let own = samples.iter().find(|sample| sample.pid == std::process::id()).unwrap();
        assert_eq!(own.uid, rustix::process::getuid().as_raw());
        assert!(own.rss_bytes > 0 && own.nr_threads > 0);
        assert!(matches!(&own.cgroup, CgroupRef::Path(path) if path.starts_with('/')));
    }

    #[test]
    fn mapped_files_and_traffic_are_read() {
        assert_eq!(parse_file_bytes("Name:\tcat\nRssAnon:\t  88 kB\nRssFile:\t    1636 kB\n"), 1636 * 1024);
        assert_eq!(parse_file_bytes("Name:\tkthreadd\n"), 0);
        let io = "rchar: 9000\nwchar: 8000\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n";
        assert_eq!(parse_io_bytes(io), 12_288);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC*") {
            parse_stat(&text, 10_000_000, 4096);
            parse_uid(&text);
            parse_wait(&text);
            parse_file_bytes(&text);
            parse_io_bytes(&text);
            prop_assert!(!parse_cgroup(&text).contains('\n'));
        }

        #[test]
        fn any_numbers_are_survived(numbers in prop::collection::vec(any::<u64>(), 0..60)) {
            let text = numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
            parse_stat(&format!("1 (x) S {text}"), 10_000_000, 4096);
        }
    }
}
