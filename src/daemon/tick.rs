//! The daemon's second: measure, tidy up, show, decide, move.

mod leftovers;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{
    constraints, cpus, draining, execs,
    figures::Summing,
    jobs::{CGROUP_ROOT, Job, cgroup_directory},
    movability,
    rows::{AWAY_ROWS_VALID, AgentView, Own, RowContext, nodes, users},
    state::{Measured, State},
};
use crate::{
    agent::process::AGENTS_CGROUP,
    api::{name::ProcessName, view::ProcessSummary},
    placement::{Action, slowdown},
    scheduler::{HintTarget, Tier, TierHints},
    telemetry::{TaskLoad, TelemetryHandle},
};

/// The step of MOSIX's decays, and so of everything that follows from them.
const STEP: Duration = Duration::from_secs(1);

/// How often the hosts of this node's jobs are asked how these are.
const SLOW_STEPS: u32 = 3;

/// How often files are removed that nobody needs any more.
const TIDY_STEPS: u32 = 60;

/// The cgroup below which all guests of this node live.
pub const GUESTS_CGROUP: &str = "scx_mosix";

/// Ticks until the daemon ends.
pub async fn run(state: Arc<State>, mut telemetry: TelemetryHandle, hints: Option<TierHints>) {
    let mut steps = interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut summing = Summing::default();
    let mut hinted = Hinted::new();
    let mut looking: Option<JoinHandle<()>> = None;
    let mut changes = state.agents.changes();
    let mut count: u32 = 0;
    // Whoever does not hear of this node for seconds takes it for dead, so it waits for no program.
    let own_pid = std::process::id();
    let own = HintTarget::Process(own_pid);
    if let Some(Err(error)) = hints.as_ref().map(|hints| hints.set_tier(own, Some(Tier::Agent))) {
        tracing::warn!(%error, "this daemon competes with programs for CPU time");
    }
    loop {
        let is_step = tokio::select! {
            _ = steps.tick() => true,
            // Who begins to move; and a guest that has just begun, which is served before its host's owners until it has its hint.
            () = state.moves.step().notified() => false,
            Ok(()) = changes.changed() => false,
            () = state.stop.cancelled() => return execs::let_all_go(&state).await,
        };
        if !is_step {
            if let Some(hints) = &hints {
                give_hints(hints, &state, &state.agent_view(), &mut hinted);
            }
            continue;
        }
        match telemetry.sample().await {
            Ok(snapshot) => {
                let guests = Path::new(CGROUP_ROOT).join(GUESTS_CGROUP);
                let jobs: Vec<PathBuf> = state.jobs().iter().map(|job| job.cgroup.clone()).collect();
                let wanted = |cgroup: &Path| cgroup.starts_with(&guests) || jobs.iter().any(|job| job == cgroup);
                if state.balance {
                    execs::promote_grown(&state, &snapshot.tasks);
                }
                let figures = summing.update(&snapshot, wanted);
                let load = LoadByOwner::of(&snapshot.tasks, &state, wanted);
                let free_bytes = state.available_bytes() + state.host.reserved_bytes();
                let arrives = !state.host.arriving().is_empty();
                let busy: u64 = snapshot.tasks.iter().map(|task| task.cpu_now_milli).sum();
                let mut measured = state.measured();
                measured.figures = figures;
                note_trees(&state, &mut measured);
                measured.others_weight.step(load.others_weight);
                measured.own_load.step(load.own_milli);
                measured.owners_load.step(load.owners_milli);
                measured.guests_load.step(load.guests_milli);
                measured.memory_falls.step(free_bytes, snapshot.interval_ms, arrives);
                measured.cpu_busy_percent = busy as f64 / 10.0 / f64::from(state.info.cpus.max(1));
            }
            Err(error) => tracing::warn!(%error, "no figures this second"),
        }
        for job in state.jobs().remove_ended() {
            tracing::info!(pid = job.root_pid, "job ended");
        }
        state.host.settle();
        let agents = state.agent_view();
        leftovers::recover(&state);
        if count.is_multiple_of(TIDY_STEPS) {
            leftovers::tidy(&state);
        }
        note_arrivals(&state, &agents);
        if let Some(hints) = &hints {
            give_hints(hints, &state, &agents, &mut hinted);
        }
        if looking.as_ref().is_none_or(JoinHandle::is_finished) {
            looking = Some(tokio::spawn(movability::look_at_all(state.clone())));
        }
        if count.is_multiple_of(SLOW_STEPS) {
            tokio::spawn(ask_hosts(state.clone(), agents.homes.values().map(|home| home.runs_on.clone()).collect()));
            tokio::spawn(cpus::ask(state.clone()));
        }
        show(&state, &agents);
        if state.address.is_some() {
            decide(&state);
        }
        count = count.wrapping_add(1);
    }
}

/// Counts what the jobs of this node have had, here or elsewhere.
fn note_trees(state: &State, measured: &mut Measured) {
    let jobs = state.jobs();
    let Measured { figures, away, trees, .. } = measured;
    trees.update(jobs.iter().map(|job| {
        let here_ms = figures.get(&job.cgroup).map_or(0, |figures| figures.cpu_time_ms);
        let away_ms = away.get(&job.root_pid).map_or(0, |(_, row)| row.cpu_time_ms);
        (job.tree(), job.root_pid, here_ms.max(away_ms))
    }));
}

fn agents_cgroup() -> PathBuf {
    Path::new(CGROUP_ROOT).join(AGENTS_CGROUP)
}

/// What tasks used or waited for in the last second, by whose they are.
#[derive(Default)]
struct LoadByOwner {
    /// scx_mosix's own, in thousandths of a CPU. Nobody waits for what agents do but the programs that they move, whose cost it is.
    own_milli: u64,
    /// This node's own users', in thousandths of a CPU.
    owners_milli: u64,
    /// Guests', in thousandths of a CPU.
    guests_milli: u64,
    /// The weights of the owners' that belong to no job, in 1/s.
    others_weight: f64,
}

impl LoadByOwner {
    /// `is_job` knows the cgroups of jobs and guests.
    fn of(tasks: &[TaskLoad], state: &State, is_job: impl Fn(&Path) -> bool) -> Self {
        let young_s = state.placing.young_ms() as f64 / 1_000.0;
        let (own_pid, agents, guests) =
            (std::process::id(), agents_cgroup(), Path::new(CGROUP_ROOT).join(GUESTS_CGROUP));
        // Of those that run; in one that does not run yet is CRIU.
        let hosted: HashMap<PathBuf, String> =
            state.agent_view().guests.into_values().map(|guest| (guest.cgroup, guest.home)).collect();
        let mut load = Self::default();
        for task in tasks {
            let cgroup = cgroup_directory(&task.cgroup);
            let asked_milli = task.cpu_now_milli + task.wait_now_milli;
            let home = hosted.get(&cgroup);
            if task.pid == own_pid || cgroup.starts_with(&agents) || (home.is_none() && cgroup.starts_with(&guests)) {
                load.own_milli += asked_milli;
            } else if home.is_none_or(|home| *home == state.node) {
                load.owners_milli += asked_milli;
                if !is_job(&cgroup) {
                    load.others_weight += weight(task, young_s);
                }
            } else {
                load.guests_milli += asked_milli;
            }
        }
        load
    }
}

/// What a second matters to a process that belongs to no job, in 1/s.
fn weight(task: &TaskLoad, young_s: f64) -> f64 {
    let demand = (task.cpu_now_milli + task.wait_now_milli) as f64 / 1_000.0;
    slowdown::weight(demand, task.cpu_ms_total as f64 / 1_000.0, young_s)
}

/// Lets placement look at every job here, or if it is not to balance at those that may not be here; and starts the moves that it wants.
fn decide(state: &Arc<State>) {
    let mut jobs = state.job_views();
    jobs.retain(|job| state.balance || (job.is_guest() && state.draining.is_on()) || !job.allows(&state.node));
    if jobs.is_empty() && !state.balance {
        return;
    }
    let decisions = state.placing.decide(state.node_views(), jobs, state.in_flight(), state.draining.is_on());
    for decision in decisions {
        let Action::Move { target, cause } = &decision.action else { continue };
        let Some(process) = parse_job(&decision.job) else { continue };
        let why = decision.reasons.iter().rev().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        tracing::info!(%process, %target, %cause, why, "placement moves a job");
        state.carry_out(&process, &decision, why);
    }
}

fn parse_job(id: &str) -> Option<ProcessName> {
    let (node, pid) = id.rsplit_once('/')?;
    Some(ProcessName { node: node.into(), pid: pid.parse().ok()? })
}

/// Renews the tables of the API.
fn show(state: &State, agents: &AgentView) {
    let users = users();
    let mut migrations = HashMap::new();
    for record in state.views.migrations.all() {
        // Newest first: the first one seen of a job stays.
        migrations.entry(record.process.clone()).or_insert(record.id);
    }
    let jobs: Vec<Job> = state.jobs().iter().cloned().collect();
    let measured = state.measured();
    let context = RowContext {
        node: &state.node,
        memory_bytes: state.info.memory_total_bytes,
        figures: &measured.figures,
        users: &users,
        migrations: &migrations,
    };
    let mut rows: Vec<ProcessSummary> = Vec::new();
    for job in &jobs {
        let home = agents.homes.get(&job.session);
        let hosted_here = agents.guests.values().find(|guest| guest.session == job.session);
        let here = hosted_here.map(|guest| context.guest(guest));
        let away = measured.away.get(&job.root_pid).filter(|(at, _)| at.elapsed() < AWAY_ROWS_VALID);
        let away = here.as_ref().or(away.map(|(_, row)| row));
        let cannot_move = measured.cannot_move.get(&job.session).cloned();
        rows.push(context.job(job, home, away, cannot_move));
    }
    let guests = agents.guests.values().filter(|guest| guest.home != state.node);
    rows.extend(guests.map(|guest| context.guest(guest)));
    state.views.processes.replace_all(rows);

    let own = Own {
        jobs: u32::try_from(jobs.len()).unwrap_or(u32::MAX),
        sched_ext_note: super::scheduler_note(&state.scheduler.borrow()),
        sched_ext_disabled: matches!(&*state.scheduler.borrow(), crate::scheduler::State::Off { .. }),
        criu_version: state.info.features.criu.map(|version| version.to_string()),
        missing: super::missing(&state.info),
        cpu_busy_percent: measured.cpu_busy_percent,
        start_time_ms: state.start_time_ms,
        refuses_because: state.draining.is_on().then(|| draining::REFUSAL.into()),
    };
    drop(measured);
    state.views.nodes.replace_all(nodes(&state.cluster.view(), &own, state.address.is_some()));
}

fn note_arrivals(state: &State, agents: &AgentView) {
    let mut measured = state.measured();
    measured.arrived.retain(|migration, _| agents.guests.contains_key(migration));
    for migration in agents.guests.keys() {
        measured.arrived.entry(*migration).or_insert_with(Instant::now);
    }
}

/// A cgroup's hints as they were given last: its inode number and tier.
type Hinted = HashMap<PathBuf, (u64, Option<Tier>)>;

/// Guests get what home's own programs leave, agents come first, and of jobs the young before the old. A program that stands still to be
/// moved comes before others too: CRIU has it carry out system calls, and it would wait for its turn at each. So does a guest that does
/// not run yet, as long as it has no hint of its own: that is CRIU.
fn give_hints(hints: &TierHints, state: &State, agents: &AgentView, known: &mut Hinted) {
    use std::os::unix::fs::MetadataExt;
    let standing = state.moves.standing_still();
    let tier = |node: &str, pid, tier| {
        let stands = standing.iter().any(|process| process.node == *node && process.pid == pid);
        if stands { Some(Tier::Agent) } else { tier }
    };
    let jobs: Vec<_> =
        state.jobs().iter().map(|job| (job.cgroup.clone(), tier(&state.node, job.root_pid, None), true)).collect();
    let guests = agents.guests.values();
    // Who has come back is no guest.
    let by_home = |home: &str| if home == state.node { Tier::Home } else { Tier::Guest };
    let guests =
        guests.map(|guest| (guest.cgroup.clone(), tier(&guest.home, guest.root_pid, Some(by_home(&guest.home))), true));
    let arriving = Path::new(CGROUP_ROOT).join(GUESTS_CGROUP);
    let own = [agents_cgroup(), arriving].map(|cgroup| (cgroup, Some(Tier::Agent), false));
    let mut present = HashMap::new();
    for (cgroup, tier, is_job) in jobs.into_iter().chain(guests).chain(own) {
        let Ok(inode) = fs::metadata(&cgroup).map(|metadata| metadata.ino()) else { continue };
        let give = || {
            hints.set_tier(HintTarget::Cgroup(inode), tier)?;
            hints.set_job(inode, is_job)
        };
        if known.get(&cgroup) != Some(&(inode, tier))
            && let Err(error) = give()
        {
            tracing::debug!(%error, "hint not given; tried again in a second");
            continue;
        }
        present.insert(cgroup, (inode, tier));
    }
    for (_, (inode, _)) in known.iter().filter(|(cgroup, _)| !present.contains_key(*cgroup)) {
        // The scheduler may have stopped; then there is nothing to take back.
        let _ = hints.set_tier(HintTarget::Cgroup(*inode), None);
        let _ = hints.set_job(*inode, false);
    }
    *known = present;
}

/// Asks the nodes that host jobs of this node how these are, and tells them what may be done with these if they are wrong.
async fn ask_hosts(state: Arc<State>, mut hosts: Vec<String>) {
    let guests = state.agent_view().guests;
    let came_back = guests.values().filter(|guest| guest.home == state.node);
    constraints::correct(&state, came_back.map(|guest| (guest.root_pid, &guest.constraints))).await;
    hosts.sort();
    hosts.dedup();
    for host in hosts.into_iter().filter(|host| *host != state.node) {
        match state.peers.processes(&host).await {
            Ok(mut rows) => {
                rows.retain(|row| row.home == state.node && row.runs_on == host);
                constraints::correct(&state, rows.iter().map(|row| (row.pid, &row.constraints))).await;
                let mut measured = state.measured();
                measured.away.extend(rows.into_iter().map(|row| (row.pid, (Instant::now(), row))));
            }
            Err(error) => tracing::debug!(host, %error, "a host does not say how its guests are"),
        }
    }
    let mut measured = state.measured();
    measured.away.retain(|_, (at, _)| at.elapsed() < AWAY_ROWS_VALID);
}
