//! What each job uses: telemetry's processes summed up by cgroup, with MOSIX's decay of what a job
//! asks for.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    job::Usage,
    node::FETCHED_DECAY,
    sys::{cgroup, clock::now_ms},
    telemetry::{Snapshot, decay::process_step},
};

/// What the processes of one cgroup use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// CPU use, decayed, in thousandths of a CPU.
    pub cpu_milli: u32,
    /// CPU use and time runnable but waiting, decayed, in thousandths of a CPU: the job's share of
    /// the runnable tasks.
    pub demand_milli: u32,
    /// What they use. CPU time includes that of processes that have ended, as far as it was spent
    /// in this cgroup.
    pub usage: Usage,
    /// What had to be fetched from a disk lately, in bytes, decayed.
    fetched_bytes: u64,
    /// When the oldest began, in ms since the epoch.
    pub start_time_ms: Option<u64>,
    /// Age of the oldest, in ms.
    pub age_ms: u64,
    members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq)]
struct Member {
    pid: i32,
    uid: u32,
    state: char,
    comm: String,
}

impl Figures {
    /// The memory that they work with, in bytes. What they had to fetch lately is part of their
    /// working set ([`FETCHED_DECAY`]), so if that is more than they have in memory, it did not
    /// fit.
    pub fn working_set_bytes(&self) -> u64 {
        self.usage.resident_bytes.max(self.fetched_bytes)
    }

    /// What process `pid`, as this node numbers it, does, as `ps` shows it.
    pub fn root_state(&self, pid: i32) -> Option<char> {
        self.member(pid).map(|member| member.state)
    }

    /// Whose process `pid` is.
    pub fn root_uid(&self, pid: i32) -> Option<u32> {
        self.member(pid).map(|member| member.uid)
    }

    /// The name of process `pid`.
    pub fn root_comm(&self, pid: i32) -> Option<String> {
        self.member(pid).map(|member| member.comm.clone())
    }

    fn member(&self, pid: i32) -> Option<&Member> {
        self.members.iter().find(|member| member.pid == pid)
    }
}

/// Sums up snapshot after snapshot.
#[derive(Default)]
pub struct Summing {
    demand_milli: HashMap<PathBuf, u64>,
    fetched_bytes: HashMap<PathBuf, u64>,
}

impl Summing {
    /// The figures of every cgroup that `wanted` lets through.
    pub fn update(&mut self, snapshot: &Snapshot, wanted: impl Fn(&Path) -> bool) -> HashMap<PathBuf, Figures> {
        let now = now_ms();
        let page_bytes = rustix::param::page_size() as u64;
        let kept = FETCHED_DECAY.powf(snapshot.interval_ms as f64 / 1_000.0);
        let mut all: HashMap<PathBuf, Figures> = HashMap::new();
        let mut asked: HashMap<PathBuf, u64> = HashMap::new();
        for task in &snapshot.tasks {
            let cgroup = cgroup::directory(&task.cgroup);
            if !wanted(&cgroup) {
                continue;
            }
            *asked.entry(cgroup.clone()).or_default() += task.cpu_now_milli + task.wait_now_milli;
            let figures = all.entry(cgroup).or_default();
            figures.cpu_milli = figures.cpu_milli.saturating_add(milli(task.cpu_share_milli));
            figures.usage += task.usage;
            let fetched_pages = task.major_faults_per_s.saturating_mul(snapshot.interval_ms) / 1_000;
            figures.fetched_bytes = figures.fetched_bytes.saturating_add(fetched_pages.saturating_mul(page_bytes));
            figures.age_ms = figures.age_ms.max(task.age_ms);
            figures.start_time_ms = Some(now.saturating_sub(figures.age_ms));
            let (pid, comm) = (task.pid.cast_signed(), task.comm.clone());
            figures.members.push(Member { pid, uid: task.uid, state: task.state, comm });
        }
        let decay = |(cgroup, asked): (PathBuf, u64)| {
            let old = self.demand_milli.get(&cgroup).copied().unwrap_or(0);
            (cgroup, process_step(old, asked, snapshot.interval_ms))
        };
        let demand: HashMap<PathBuf, u64> = asked.into_iter().map(decay).collect();
        for (cgroup, figures) in &mut all {
            let cpu_ns = &mut figures.usage.counters.cpu_ns;
            *cpu_ns = (*cpu_ns).max(spent_ns(cgroup).unwrap_or(0));
            figures.demand_milli = milli(demand.get(cgroup).copied().unwrap_or(0));
            let before_bytes = self.fetched_bytes.get(cgroup).copied().unwrap_or(0);
            figures.fetched_bytes = figures.fetched_bytes.saturating_add((before_bytes as f64 * kept) as u64);
        }
        self.fetched_bytes = all.iter().map(|(cgroup, figures)| (cgroup.clone(), figures.fetched_bytes)).collect();
        self.demand_milli = demand;
        all
    }
}

/// A figure that jumps, smoothed: half of it is what it was before.
#[derive(Clone, Default)]
pub struct Smoothed(f64);

impl Smoothed {
    /// Takes the next value.
    pub fn step(&mut self, new: f64) {
        self.0 = f64::midpoint(self.0, new);
    }

    /// The smoothed value.
    pub fn get(&self) -> f64 {
        self.0
    }
}

/// A part of a node's load, measured by its tasks.
#[derive(Clone, Default)]
pub struct PartOfLoad {
    tasks_milli: u64,
}

impl PartOfLoad {
    /// Takes how much of a CPU was used or waited for in the last second, in thousandths; folded as
    /// the load is ([`LoadTracker`](crate::node::LoadTracker)).
    pub fn step(&mut self, new_milli: u64) {
        let old = self.tasks_milli;
        self.tasks_milli = if new_milli > old { (5 * old + 3 * new_milli) / 8 } else { new_milli };
    }

    /// What share these tasks have of what they and `others` make, in thousandths; all of it if no
    /// task runs. Who lived only between two looks is seen in the load, and not here: he is taken
    /// to belong to the two in the same proportion.
    pub fn permille_beside(&self, others: &Self) -> u16 {
        let all = self.tasks_milli + others.tasks_milli;
        (self.tasks_milli * 1_000).checked_div(all).and_then(|share| u16::try_from(share).ok()).unwrap_or(1_000)
    }

    /// Of a load, in thousandths per standard CPU, what belongs to others.
    pub fn taken_from(&self, load_milli: u32, cpus: u32, speed_permille: u32) -> u32 {
        let own = self.tasks_milli.saturating_mul(1_000) / u64::from(speed_permille.max(1)) / u64::from(cpus.max(1));
        load_milli.saturating_sub(milli(own))
    }
}

/// The memory depletion rate: how fast free memory shrinks without moves.
#[derive(Clone, Default)]
pub struct DepletionRate {
    last_bytes: Option<u64>,
    bytes_per_s: Smoothed,
}

impl DepletionRate {
    /// Takes what is free now, `interval_ms` after it was told before. While guests arrive memory
    /// falls because of them, which was known before and will end: what was seen until then stands
    /// until they have.
    pub fn step(&mut self, free_bytes: u64, interval_ms: u64, guests_arrive: bool) {
        if guests_arrive {
            self.last_bytes = None;
        } else if let Some(last_bytes) = self.last_bytes.replace(free_bytes) {
            let fallen = last_bytes.saturating_sub(free_bytes);
            self.bytes_per_s.step(fallen as f64 * 1_000.0 / interval_ms.max(1) as f64);
        }
    }

    /// Bytes per second, smoothed; 0 if memory does not shrink.
    pub fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s.get() as u64
    }
}

/// The CPU time that was spent in a cgroup by all tasks in it, in ns.
fn spent_ns(cgroup: &Path) -> Option<u64> {
    spent_ns_of(&fs::read_to_string(cgroup.join("cpu.stat")).ok()?)
}

/// The same of the text of its `cpu.stat`.
fn spent_ns_of(stat: &str) -> Option<u64> {
    let usec: u64 = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()?;
    Some(usec.saturating_mul(1_000))
}

fn milli(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Source, TaskLoad};

    #[test]
    fn falling_memory_is_seen_within_seconds_and_rising_is_not() {
        let mut falls = DepletionRate::default();
        for free_mib in [900_u64, 850, 800, 750, 700] {
            falls.step(free_mib << 20, 1_000, false);
        }
        assert_eq!(falls.bytes_per_s() >> 20, 46);
        for _ in 0..8 {
            falls.step(900 << 20, 1_000, false);
        }
        assert!(falls.bytes_per_s() < 1 << 20);
    }

    #[test]
    fn what_does_not_fit_is_fetched_again_and_again() {
        let mut summing = Summing::default();
        let mut working_set_mib = |major_faults_per_s| {
            let task = TaskLoad {
                pid: 7,
                ppid: 1,
                comm: "big".into(),
                uid: 1000,
                start_time_ticks: 1,
                state: 'D',
                usage: Usage { resident_bytes: 40 << 20, ..Usage::default() },
                cpu_share_milli: 0,
                cpu_now_milli: 0,
                wait_now_milli: 0,
                major_faults_per_s,
                cgroup: "/x".into(),
                age_ms: 60_000,
            };
            let snapshot =
                Snapshot { taken_ns: 0, interval_ms: 1_000, source: Source::Memory, tasks: vec![task], lost_events: 0 };
            let figures = summing.update(&snapshot, |_| true);
            figures.values().next().unwrap().working_set_bytes() >> 20
        };
        assert_eq!(working_set_mib(1_000), 40, "4 MiB are part of what it has");
        let thrashing = (0..30).map(|_| working_set_mib(2_560)).last();
        assert_eq!(thrashing, Some(78), "10 MiB a second for eight seconds");
        assert_eq!((0..30).map(|_| working_set_mib(0)).last(), Some(40));
    }

    #[test]
    fn those_that_have_ended_count() {
        let stat = "usage_usec 61234567\nuser_usec 60000000\nsystem_usec 1234567\n";
        assert_eq!(spent_ns_of(stat), Some(61_234_567_000));
        assert_eq!((spent_ns_of("usage_usec many\n"), spent_ns_of("")), (None, None));
    }

    #[test]
    fn what_scx_mosix_does_is_no_load() {
        let mut own = PartOfLoad::default();
        assert_eq!(own.taken_from(1_500, 2, 500), 1_500);
        own.step(800);
        assert_eq!(own.taken_from(1_500, 2, 500), 1_200);
        let mut guests = PartOfLoad::default();
        assert_eq!((guests.permille_beside(&guests), own.permille_beside(&guests)), (1_000, 1_000));
        guests.step(2_400);
        assert_eq!((own.permille_beside(&guests), guests.permille_beside(&own)), (250, 750));
        own.step(100);
        assert_eq!((own.taken_from(1_500, 2, 500), own.taken_from(50, 2, 500)), (1_400, 0));
    }

    #[test]
    fn memory_that_guests_take_as_they_arrive_is_no_fall() {
        let mut falls = DepletionRate::default();
        let mut seen = Vec::new();
        for (free_mib, arrives) in [(300, false), (280, false), (220, true), (160, true), (160, false), (150, false)] {
            falls.step(free_mib << 20, 1_000, arrives);
            seen.push(falls.bytes_per_s() >> 20);
        }
        assert_eq!(seen, [0, 10, 10, 10, 10, 10]);
    }
}
