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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use super::{
    jobs::{Job, cgroup_directory, unified_cgroup},
    placing,
    state::State,
};
use crate::{
    api::name::ProcessName,
    placement::{JobView, Program, Prospect},
    telemetry::{ProcessId, TaskEvent, TaskLoad},
};

/// Programs followed from exec to exit at a time; of more nothing is learned.
const CAPACITY: usize = 65_536;

/// The programs that descendants of jobs, and jobs themselves, are running.
#[derive(Default)]
pub struct Execs(Mutex<HashMap<u32, Running>>);

/// A program that runs, by its pid.
struct Running {
    process: ProcessId,
    program: Program,
    /// CPU time that its process had had before, in ms.
    before_ms: u64,
}

impl Execs {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Running>> {
        // Entries come and go whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a process, and tells what it ran; not of an earlier one with its pid.
    fn take(&self, process: ProcessId) -> Option<Running> {
        let mut running = self.lock();
        running.get(&process.pid).filter(|running| running.process == process)?;
        running.remove(&process.pid)
    }

    /// Whether the process has executed a program since it was followed.
    fn knows(&self, pid: u32) -> bool {
        self.lock().contains_key(&pid)
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
                    && let Prospect::Long(expected_ms) = state.placing.prospect(&program, state.tasks_per_cpu())
                {
                    place(&state, process.pid.cast_signed(), &job, expected_ms);
                }
            }
            Some(TaskEvent::Exited { process, cpu_ms_total, .. }) => ended(&state, process, cpu_ms_total),
            // What was lost is not learned; a lost exit is noticed as its pid is used again, or below.
            Some(TaskEvent::Lost { .. }) => {
                state.execs.lock().retain(|pid, _| fs::exists(format!("/proc/{pid}")).unwrap_or(true));
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
    let job = state.jobs().in_cgroup(&cgroup).cloned()?;
    if state.agent_view().has_moved(job.session) {
        return None;
    }
    let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let program = Program::new(&executable.to_string_lossy(), arguments.split(|byte| *byte == 0));
    let mut running = state.execs.lock();
    running.remove(&process.pid);
    if running.len() < CAPACITY {
        running.insert(process.pid, Running { process, program: program.clone(), before_ms });
    }
    Some((job, program))
}

/// Learns from a program that has ended. Of one that ran elsewhere, what its host said last of its CPU time stands for all of it, if it was alone
/// in its job.
fn ended(state: &State, process: ProcessId, cpu_ms_total: u64) {
    let Some(Running { program, before_ms, .. }) = state.execs.take(process) else { return };
    let pid = process.pid.cast_signed();
    let session = state.jobs().get(pid).map(|job| job.session);
    let total_ms = if session.is_some_and(|session| state.agent_view().has_moved(session)) {
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
    let jobs: Vec<Job> = state.jobs().iter().filter(|job| !job.constraints.stay).cloned().collect();
    let tasks_per_cpu = state.tasks_per_cpu();
    for task in tasks.iter().filter(|task| state.execs.knows(task.pid)) {
        let Prospect::Long(_) = state.placing.prospect_of(task.cpu_ms_total, tasks_per_cpu) else { continue };
        let cgroup = cgroup_directory(&task.cgroup);
        let Some(of) = jobs.iter().find(|job| job.cgroup == cgroup) else { continue };
        promote(state, task.pid.cast_signed(), of);
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

/// Lets placement choose once more for a program that was to start where they had their hands full.
pub fn place_again(state: &Arc<State>, process: &ProcessName) {
    let Some(job) = state.jobs().get(process.pid).cloned() else { return };
    let program = state.execs.lock().get(&process.pid.cast_unsigned()).map(|running| running.program.clone());
    if let Some(Prospect::Long(expected_ms)) =
        program.map(|program| state.placing.prospect(&program, state.tasks_per_cpu()))
    {
        place(state, process.pid, &job, expected_ms);
    }
}

/// Lets placement choose where a program that has just begun runs, and starts the move if that is elsewhere.
fn place(state: &Arc<State>, pid: i32, of: &Job, expected_ms: u64) {
    if of.constraints.stay || state.address.is_none() {
        return;
    }
    let Some(job) = promote(state, pid, of) else { return };
    let process = ProcessName { node: state.node.clone(), pid };
    let id = process.to_string();
    let view = state.job_views().into_iter().find(|view| *view.id == *id && view.movable.is_ok());
    let Some(view) = view else { return };
    let view = JobView { attained_ms: 0, demand_milli: 1_000, ..view };
    let decision = state.placing.assign(state.node_views(), state.in_flight(), &view, expected_ms);
    let Some(target) = decision.target() else { return };
    let why =
        format!("begins, and probably needs {:.1} s; {}", expected_ms as f64 / 1_000.0, placing::summary(&decision));
    tracing::info!(%process, %target, why, "placement starts a program elsewhere");
    // Whatever becomes of the move, `recover` looks after what stands still without one.
    if state.carry_out(&process, &decision, why)
        && let Err(error) = fs::write(job.cgroup.join("cgroup.freeze"), "1")
    {
        tracing::info!(%process, %error, "it cannot be held; it moves while it runs");
    }
}
