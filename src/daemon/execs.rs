//! Programs that begin: those that will probably need long are placed at once, before they have memory that would have to be moved.
//!
//! ```text
//!   exec in a job at home ──► history: long? ──► a job of its own ──► placement: elsewhere? ──► launched, and held by the freezer
//!   a second's figures    ──► has had long?  ──► a job of its own, for the balancer                until it runs there
//!   exit ──► history learns its CPU time                                          │
//!                                                     the move fails: it goes on here (tick's `recover`)
//! ```
//!
//! Only a process that has executed a program since its fork becomes a job of its own: until then it shares memory with its parent.
//! One whose user wants it to stay is left alone.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use super::{
    jobs::{CGROUP_ROOT, Job, unified_cgroup},
    placing,
    state::State,
};
use crate::{
    api::name::ProcessName,
    control::SessionId,
    placement::{Action, JobView, Program, Prospect},
    telemetry::{ProcessId, TaskEvent, TaskLoad},
};

/// Programs followed from exec to exit at a time; of more nothing is learned.
const CAPACITY: usize = 65_536;

/// The programs that descendants of jobs, and jobs themselves, are running.
#[derive(Default)]
pub struct Execs(Mutex<HashMap<ProcessId, Running>>);

/// A program that runs.
struct Running {
    program: Program,
    /// CPU time that its process had had before, in ms.
    before_ms: u64,
}

impl Execs {
    fn lock(&self) -> MutexGuard<'_, HashMap<ProcessId, Running>> {
        // Entries come and go whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process has executed a program since it was followed.
    fn knows(&self, pid: u32) -> bool {
        self.lock().keys().any(|process| process.pid == pid)
    }
}

/// Follows events until the daemon ends; places programs that begin if `balance`.
pub async fn run(state: Arc<State>, mut events: mpsc::Receiver<TaskEvent>, balance: bool) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = state.stop.cancelled() => return,
        };
        match event {
            Some(TaskEvent::Execed { process, cpu_ms_total, .. }) => {
                if let Some((job, program)) = begins(&state, process, cpu_ms_total)
                    && balance
                    && let Prospect::Long(expected_ms) = state.placing.prospect(&program)
                {
                    place(&state, process.pid.cast_signed(), &job, expected_ms);
                }
            }
            Some(TaskEvent::Exited { process, cpu_ms_total, .. }) => ended(&state, process, cpu_ms_total),
            // What was lost is not learned; a lost exit is noticed as its pid is used again, or below.
            Some(TaskEvent::Lost { .. }) => {
                state.execs.lock().retain(|process, _| fs::exists(format!("/proc/{}", process.pid)).unwrap_or(true));
            }
            Some(TaskEvent::Forked { .. }) => {}
            None => return,
        }
    }
}

/// Remembers a program that begins in a job that is at home.
fn begins(state: &State, process: ProcessId, before_ms: u64) -> Option<(Job, Program)> {
    state.jobs().iter().next()?;
    let pid = process.pid.cast_signed();
    let cgroup = unified_cgroup(&procfs::process::Process::new(pid).ok()?)?;
    let job = state.jobs().iter().find(|job| job.cgroup == cgroup).cloned()?;
    if state.agent_view().homes.get(&job.session).is_some_and(|home| home.epoch > 0) {
        return None;
    }
    let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let program = Program::new(&executable.to_string_lossy(), arguments.split(|byte| *byte == 0));
    let mut running = state.execs.lock();
    running.retain(|other, _| other.pid != process.pid);
    if running.len() < CAPACITY {
        running.insert(process, Running { program: program.clone(), before_ms });
    }
    Some((job, program))
}

/// Learns from a program that has ended. Of one that ran elsewhere, what its host said last of its CPU time stands for all of it, if it was alone
/// in its job.
fn ended(state: &State, process: ProcessId, cpu_ms_total: u64) {
    let Some(Running { program, before_ms }) = state.execs.lock().remove(&process) else { return };
    let pid = process.pid.cast_signed();
    let session = state.jobs().get(pid).map(|job| job.session);
    let has_moved =
        session.is_some_and(|session| state.agent_view().homes.get(&session).is_some_and(|home| home.epoch > 0));
    let total_ms = if has_moved {
        state.measured().away.get(&pid).filter(|(_, row)| row.processes == 1).map(|(_, row)| row.cpu_time_ms)
    } else {
        Some(cpu_ms_total)
    };
    if let Some(total_ms) = total_ms {
        state.placing.learn(&program, total_ms.saturating_sub(before_ms));
    }
}

/// Makes descendants that have needed long jobs of their own, so that the balancer can move them by themselves.
pub fn promote_grown(state: &State, tasks: &[TaskLoad]) {
    let jobs: Vec<Job> = state.jobs().iter().filter(|job| !job.stay).cloned().collect();
    for task in tasks {
        let Prospect::Long(_) = state.placing.prospect_of(task.cpu_ms_total) else { continue };
        let cgroup = Path::new(CGROUP_ROOT).join(task.cgroup.trim_start_matches('/'));
        let Some(of) = jobs.iter().find(|job| job.cgroup == cgroup) else { continue };
        if of.root_pid != task.pid.cast_signed() && state.execs.knows(task.pid) {
            promote(state, task.pid.cast_signed(), of);
        }
    }
}

/// A job of its own for a process without children, unless it has one.
fn promote(state: &State, pid: i32, of: &Job) -> Option<Job> {
    if pid == of.root_pid {
        return Some(of.clone());
    }
    let is_at_home = state.agent_view().homes.get(&of.session).is_none_or(|home| home.epoch == 0 && !home.moving);
    let is_leaving = state.moves.under_way().iter().any(|(_, process, _)| process.pid == of.root_pid);
    if !is_at_home || is_leaving || has_children(pid) {
        return None;
    }
    match state.jobs().promote(pid, of) {
        Ok(job) => {
            tracing::debug!(pid, of = of.root_pid, "a descendant is a job of its own now");
            Some(job)
        }
        // It has ended already, or its user's session is being removed.
        Err(error) => {
            tracing::debug!(pid, %error, "a descendant stays in its job");
            None
        }
    }
}

fn has_children(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let mut children = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("children")));
    children.any(|children| children.is_ok_and(|children| !children.trim().is_empty()))
}

/// Lets placement choose where a program that has just begun runs, and starts the move if that is elsewhere.
fn place(state: &Arc<State>, pid: i32, of: &Job, expected_ms: u64) {
    if of.stay || state.address.is_none() {
        return;
    }
    let Some(job) = promote(state, pid, of) else { return };
    let process = ProcessName { node: state.node.clone(), pid };
    let id = process.to_string();
    let blank = || state.job_views().into_iter().find(|view| *view.id == *id);
    let Some(view) = blank().filter(|view| view.movable.is_ok()) else { return };
    let view = JobView { attained_ms: 0, demand_milli: 1_000, ..view };
    let decision = state.placing.assign(state.node_views(), state.in_flight(), &view, expected_ms);
    let Action::Move { target, cause } = &decision.action else { return };
    let why =
        format!("begins, and probably needs {:.1} s; {}", expected_ms as f64 / 1_000.0, placing::summary(&decision));
    tracing::info!(%process, %target, why, "placement starts a program elsewhere");
    let started =
        state.launch(&process, target, placing::trigger(*cause), why, decision.limit_milli, SessionId::random());
    match started {
        // Whatever becomes of the move, `recover` looks after what stands still without one.
        Ok(_) => {
            if let Err(error) = fs::write(job.cgroup.join("cgroup.freeze"), "1") {
                tracing::info!(%process, %error, "it cannot be held; it moves while it runs");
            }
        }
        Err(error) => {
            tracing::info!(%process, %error, "it starts here");
            state.placing.failed(&decision.job, target, false);
        }
    }
}
