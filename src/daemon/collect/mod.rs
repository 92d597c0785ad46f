//! The first stage: what is measured here each second, and what others are asked for.
//!
//! ```text
//!   telemetry ──► figures, loads, trees ─┐
//!   /proc     ──► movability             ├──► Measured, for the stages after this one to read
//!   hosts     ──► rows of jobs away      ┘
//!   other nodes ──► cpus      execs, exits ──► programs      moves, agents' ends ──► learned
//! ```

pub mod cpus;
pub mod figures;
pub mod learned;
mod load;
pub mod movability;
mod programs;
mod trees;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use self::{
    cpus::Cpus,
    figures::{DepletionRate, Figures, PartOfLoad, Smoothed, Summing},
    learned::Learned,
    load::LoadByOwner,
    programs::Programs,
    trees::Trees,
};
use super::shared::{GUESTS_CGROUP, Shared, agents::AgentView, jobs::Job, under_way::UnderWay};
use crate::{
    api::view::ProcessSummary,
    job::SessionId,
    node::SchedExtState,
    placement::{Config, cost::tasks_per_cpu},
    sys::{
        cgroup,
        lock::{Mutex, MutexGuard},
    },
    telemetry::Snapshot,
};

/// How long it counts what a hosting node said of a job.
const AWAY_ROWS_VALID: Duration = Duration::from_secs(15);

/// All that this stage knows. Only this stage changes it.
pub struct Collected {
    /// On which CPUs programs from here can run.
    pub cpus: Cpus,
    /// What moves took, and programs needed.
    pub learned: Learned,
    programs: Programs,
    measured: Mutex<Arc<Measured>>,
    summing: Mutex<Summing>,
    young_ms: u64,
}

/// Figures that are renewed every second, and what is derived from them.
#[derive(Clone, Default)]
pub struct Measured {
    /// Use by cgroup.
    pub figures: HashMap<PathBuf, Figures>,
    /// Why a job of this node that runs here cannot move, by session; jobs that can are not in it.
    pub cannot_move: HashMap<SessionId, String>,
    /// CPU time by what users of this node started.
    pub trees: Trees,
    /// How busy this node's CPUs are, in percent.
    pub cpu_busy_percent: f64,
    /// Events that telemetry has lost since it began.
    pub lost_events: u64,
    /// The weights of all that belongs neither to a job nor to scx_mosix, in 1/s.
    pub others_weight: Smoothed,
    /// The part of the load that moves and the daemon make. It is no reason to move others: it ends
    /// by itself, and what a move costs is part of its price.
    pub own_load: PartOfLoad,
    /// The memory depletion rate.
    pub depletion: DepletionRate,
    /// What hosting nodes say of jobs of this node, and when they said it.
    away: HashMap<i32, (Instant, ProcessSummary)>,
    /// When guests arrived, by migration.
    arrived: HashMap<SessionId, Instant>,
    /// The part of the load that belongs to this node's own users.
    owners_load: PartOfLoad,
    /// The part that belongs to its guests.
    guests_load: PartOfLoad,
}

impl Measured {
    /// How long ago a guest arrived, in ms.
    pub fn since_arrival_ms(&self, migration: SessionId) -> u64 {
        self.arrived.get(&migration).map_or(0, |at| at.elapsed().as_millis() as u64)
    }

    /// The share of the load that programs of this node's own users make, in thousandths.
    pub fn owners_permille(&self) -> u16 {
        self.owners_load.permille_beside(&self.guests_load)
    }

    /// What its host said lately of a job of this node.
    pub fn away(&self, root_pid: i32) -> Option<&ProcessSummary> {
        self.away.get(&root_pid).filter(|(at, _)| at.elapsed() < AWAY_ROWS_VALID).map(|(_, row)| row)
    }

    /// Counts what the jobs of this node have had, here or elsewhere.
    fn note_trees(&mut self, jobs: &[Job]) {
        let Self { figures, away, trees, .. } = self;
        trees.update(jobs.iter().map(|job| {
            let here_ms = figures.get(&job.cgroup).map_or(0, |figures| figures.usage.counters.cpu_ms());
            let away_ms = away.get(&job.root_pid).map_or(0, |(_, row)| row.usage.counters.cpu_ms());
            (job.tree(), job.root_pid, here_ms.max(away_ms))
        }));
    }
}

impl Collected {
    /// Nothing yet, of programs that run on the CPUs of this node, where `criu --version` takes so
    /// long.
    pub fn new(shared: &Shared, config: &Config, criu_takes: Option<Duration>) -> Self {
        Self {
            cpus: Cpus::new(shared.info.cpu.clone()),
            learned: Learned::new(config.learning, criu_takes),
            programs: Programs::default(),
            measured: Mutex::default(),
            summing: Mutex::default(),
            young_ms: config.young_ms,
        }
    }

    /// What was measured last. Its reader holds no lock, so other locks may be taken meanwhile.
    pub fn measured(&self) -> Arc<Measured> {
        self.lock().clone()
    }

    /// Changes what was measured. `change` takes no lock; a panic of it leaves each field whole.
    fn change<T>(&self, change: impl FnOnce(&mut Measured) -> T) -> T {
        // Who reads the last figures at this moment keeps them as they are.
        change(Arc::make_mut(&mut self.lock()))
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Measured>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Config::young_ms`].
    pub fn young_ms(&self) -> u64 {
        self.young_ms
    }

    /// Takes what a second has shown of all tasks.
    pub fn second(&self, shared: &Shared, agents: &AgentView, under_way: &UnderWay, snapshot: &Snapshot) {
        let guests = cgroup::directory(GUESTS_CGROUP);
        let jobs: Vec<PathBuf> = shared.jobs().iter().map(|job| job.cgroup.clone()).collect();
        let wanted = |cgroup: &Path| cgroup.starts_with(&guests) || jobs.iter().any(|job| job == cgroup);
        let figures = self.summing.lock().unwrap_or_else(PoisonError::into_inner).update(snapshot, wanted);
        let load = LoadByOwner::of(&snapshot.tasks, &shared.node, agents, self.young_ms, wanted);
        let cluster = shared.cluster.view();
        self.learned.keep_only(|node| cluster.entries.iter().any(|entry| entry.name.as_str() == node));
        let free_bytes = shared.available_bytes() + under_way.reserved_bytes;
        let busy: u64 = snapshot.tasks.iter().map(|task| task.cpu_now_milli).sum();
        let jobs: Vec<Job> = shared.jobs().iter().cloned().collect();
        self.change(|measured| {
            measured.figures = figures;
            measured.lost_events = snapshot.lost_events;
            measured.note_trees(&jobs);
            measured.others_weight.step(load.others_weight);
            measured.own_load.step(load.own_milli);
            measured.owners_load.step(load.owners_milli);
            measured.guests_load.step(load.guests_milli);
            measured.depletion.step(free_bytes, snapshot.interval_ms, under_way.has_reservations);
            measured.cpu_busy_percent = busy as f64 * 100.0 / f64::from(shared.info.allotment.cpus.milli());
        });
    }

    /// Takes which guests are here.
    pub fn note_arrivals(&self, agents: &AgentView) {
        self.change(|Measured { arrived, .. }| {
            arrived.retain(|migration, _| agents.guests.contains_key(migration));
            for migration in agents.guests.keys() {
                arrived.entry(*migration).or_insert_with(Instant::now);
            }
        });
    }

    /// Asks a node that hosts jobs of this one how these are.
    pub async fn ask_host(&self, shared: &Shared, host: &str) -> Vec<ProcessSummary> {
        let mut rows = match shared.peers.processes(host).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::debug!(host, %error, "a host does not say how its guests are");
                return Vec::new();
            }
        };
        rows.retain(|row| row.home == shared.node && row.runs_on == host);
        rows
    }

    /// Takes what a host has said of jobs of this node.
    pub fn note_away(&self, rows: Vec<ProcessSummary>) {
        let rows = rows.into_iter().map(|row| (row.pid, (Instant::now(), row)));
        self.change(|measured| measured.away.extend(rows));
    }

    /// Forgets what hosts have not said again.
    pub fn forget_away(&self) {
        self.change(|measured| measured.away.retain(|_, (at, _)| at.elapsed() < AWAY_ROWS_VALID));
    }

    /// The runnable tasks that share each CPU of this node with a program of its own users, as last
    /// sampled.
    pub fn tasks_per_cpu(&self, shared: &Shared) -> f64 {
        shared.own_report().map_or(0.0, |report| {
            let all = tasks_per_cpu(report.load.load_milli, report.summary.speed_permille);
            let is_first = report.summary.sched_ext == SchedExtState::Attached;
            if is_first { all * f64::from(self.measured().owners_permille()) / 1_000.0 } else { all }
        })
    }
}
