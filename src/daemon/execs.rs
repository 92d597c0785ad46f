//! Programs that begin: those that will probably need long are placed at once, before they have memory that would have to be moved.
//!
//! ```text
//!   exec in a job at home ──► history: long? ──► a job of its own ──► placement: elsewhere? ──► launched, and held by the freezer
//!   a second's figures    ──► has had long?  ──► a job of its own, for the balancer                until it runs there
//!   exit ──► history learns its CPU time                                          │
//!                                                     the move fails: it goes on here (`not_started`)
//! ```
//!
//! Only a process that has executed a program since its fork becomes a job of its own: until then it shares memory with its parent.
//! One whose user wants it to stay is left alone, and for a while what belongs to a job of which something could not move at its start.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    jobs::{Job, cgroup_directory, unified_cgroup},
    moves::{Ended, Moves, Obstacle},
    placing,
    rows::comm,
    state::State,
};
use crate::{
    api::name::ProcessName,
    control::{SessionId, epoch_path},
    placement::{JobView, Program, Prospect},
    telemetry::{ProcessId, TaskEvent, TaskLoad},
};

/// Programs followed from exec to exit at a time; of more nothing is learned.
const CAPACITY: usize = 65_536;

/// The file of a cgroup that says whether it stands still.
const FREEZE: &str = "cgroup.freeze";

/// How long a program starts here if it could not move at its start in the same job: what is held for that in vain loses time, and what hinders
/// it is likely to hinder the next one too.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Programs of which that is known at a time.
const MAX_REFUSED: usize = 1_024;

/// How long moves that no agent makes yet may take to be given up, when the daemon ends.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The programs that descendants of jobs, and jobs themselves, are running.
#[derive(Default)]
pub struct Execs {
    running: Mutex<HashMap<u32, Running>>,
    refused: Mutex<Refused>,
}

/// What could not move at its start, and when that was: a program by its name, in the job that its user started.
#[derive(Default)]
struct Refused(HashMap<(SessionId, String), Instant>);

impl Refused {
    fn note(&mut self, program: (SessionId, String), now: Instant) {
        self.0.retain(|_, at| now.duration_since(*at) < REFUSED_FOR);
        if self.0.len() < MAX_REFUSED {
            self.0.insert(program, now);
        }
    }

    fn holds(&self, program: &(SessionId, String), now: Instant) -> bool {
        self.0.get(program).is_some_and(|at| now.duration_since(*at) < REFUSED_FOR)
    }
}

/// A program that runs, by its pid.
struct Running {
    process: ProcessId,
    program: Program,
    /// The job in which it began.
    session: SessionId,
    /// CPU time that its process had had before, in ms.
    before_ms: u64,
}

impl Execs {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Running>> {
        // Entries come and go whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Follows events until the daemon ends, and places programs that begin.
pub async fn run(state: Arc<State>, mut events: mpsc::Receiver<TaskEvent>) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = state.stop.cancelled() => return,
        };
        match event {
            Some(TaskEvent::Execed { process, cpu_ms_total, .. }) => {
                if let Some((job, program)) = begins(&state, process, cpu_ms_total)
                    && state.balance
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
    if pid == job.root_pid {
        // What was seen was another program; at first it is the client that registers, with its connection to this daemon.
        state.measured().cannot_move.remove(&job.session);
    }
    if state.agent_view().has_moved(job.session) {
        return None;
    }
    let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let program = Program::new(&executable.to_string_lossy(), arguments.split(|byte| *byte == 0));
    let mut running = state.execs.lock();
    running.remove(&process.pid);
    if running.len() < CAPACITY {
        running.insert(process.pid, Running { process, program: program.clone(), session: job.session, before_ms });
    }
    Some((job, program))
}

/// Learns from a program that has ended. Of one that ran elsewhere, what its host said last of its CPU time stands for all of it, if it was alone
/// in its job; else nobody knows it.
fn ended(state: &State, process: ProcessId, cpu_ms_total: u64) {
    let Some(Running { program, session, before_ms, .. }) = state.execs.take(process) else { return };
    let pid = process.pid.cast_signed();
    let own = state.jobs().get(pid).map(|job| job.session);
    let total_ms = if !state.agent_view().has_moved(own.unwrap_or(session)) {
        Some(cpu_ms_total)
    } else if own.is_some() {
        state.measured().away.get(&pid).filter(|(_, row)| row.processes == 1).map(|(_, row)| row.cpu_time_ms)
    } else {
        None
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
    let is_leaving = state.moves.is_moving(&state.name_of(of));
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

/// A start elsewhere that came to nothing: placement chooses once more if they had their hands full there, else the program goes on here.
pub fn not_started(state: &Arc<State>, Ended { record, obstacle }: &Ended) {
    let process = &record.process;
    match obstacle {
        Obstacle::TargetBusy => place_again(state, process),
        Obstacle::CannotMove => {
            let job = state.jobs().get(process.pid).cloned();
            if let Some(job) = job {
                let program = program_of(state, process.pid, &job);
                state.execs.refused().note(program, Instant::now());
            }
        }
        Obstacle::Other => {}
    }
    go_on(state, process);
}

/// The name of a program that belongs to `job`, in what its user started.
fn program_of(state: &State, pid: i32, job: &Job) -> (SessionId, String) {
    (tree(state, job), comm(pid))
}

/// Lets placement choose once more for a program that was to start where they had their hands full.
fn place_again(state: &Arc<State>, process: &ProcessName) {
    let Some(job) = state.jobs().get(process.pid).cloned() else { return };
    let program = state.execs.lock().get(&process.pid.cast_unsigned()).map(|running| running.program.clone());
    if let Some(Prospect::Long(expected_ms)) =
        program.map(|program| state.placing.prospect(&program, state.tasks_per_cpu()))
    {
        place(state, process.pid, &job, expected_ms);
    }
}

/// Lets a program go on here that was held for a start elsewhere, unless it is on its way, or was committed elsewhere.
pub fn go_on(state: &State, process: &ProcessName) {
    let Some(job) = state.jobs().get(process.pid).filter(|_| process.node == state.node).cloned() else { return };
    let is_elsewhere = state.agent_view().homes.get(&job.session).is_some_and(|home| home.epoch > 0 || home.moving);
    if !is_elsewhere && !is_committed(state, &job) && let_go(&state.moves, process, &job.cgroup) {
        tracing::info!(%process, "held, and does not move: it goes on here");
    }
}

/// The daemon ends: what is held goes on here, unless an agent moves it.
pub async fn let_all_go(state: &State) {
    state.moves.close(CLOSE_LIMIT).await;
    let jobs: Vec<ProcessName> = state.jobs().iter().map(|job| state.name_of(job)).collect();
    for process in jobs {
        go_on(state, &process);
    }
}

/// Whether it stood still, and goes on.
fn let_go(moves: &Moves, process: &ProcessName, cgroup: &Path) -> bool {
    let thaw = || match fs::write(cgroup.join(FREEZE), "0") {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%process, %error, "it cannot be let go on");
            false
        }
    };
    // A move that begins while this is done would find the program thawed behind its back.
    is_held(cgroup) && moves.unless_moving(process, thaw).unwrap_or(false)
}

/// Whether a cgroup is to stand still.
pub fn is_held(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join(FREEZE)).is_ok_and(|text| text.trim() == "1")
}

/// Whether a job was committed elsewhere, as its home agent marks it.
pub fn is_committed(state: &State, job: &Job) -> bool {
    epoch_path(&state.agent_settings.run_dir, job.session).exists()
}

/// The job that a user started, of which `job` is a part; `job` itself if that has ended.
fn tree(state: &State, job: &Job) -> SessionId {
    state.jobs().get(job.tree()).unwrap_or(job).session
}

/// Lets placement choose where a program that has just begun runs, and starts the move if that is elsewhere.
fn place(state: &Arc<State>, pid: i32, of: &Job, expected_ms: u64) {
    if of.constraints.stay || state.address.is_none() {
        return;
    }
    let program = program_of(state, pid, of);
    if state.execs.refused().holds(&program, Instant::now()) {
        return;
    }
    let Some(job) = promote(state, pid, of) else { return };
    let process = state.name_of(&job);
    let id = process.to_string();
    let view = state.job_views().into_iter().find(|view| *view.id == *id && view.movable.is_ok());
    let Some(view) = view else { return };
    let view = JobView { attained_ms: 0, demand_milli: 1_000, ..view };
    let decision = state.placing.assign(state.node_views(), state.in_flight(), &view, expected_ms);
    let Some(target) = decision.target() else { return };
    let why =
        format!("begins, and probably needs {:.1} s; {}", expected_ms as f64 / 1_000.0, placing::summary(&decision));
    tracing::info!(%process, %target, why, "placement starts a program elsewhere");
    // First, so that what the move's end thaws stays thawed; and not behind the back of another move.
    match state.moves.unless_moving(&process, || fs::write(job.cgroup.join(FREEZE), "1")) {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::info!(%process, %error, "it cannot be held; it moves while it runs"),
        None => return,
    }
    if !state.carry_out(&process, &decision, why) {
        go_on(state, &process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::view::Trigger,
        daemon::moves::tests::{Node, order},
    };

    #[tokio::test]
    async fn what_is_held_goes_on_unless_it_is_moving() {
        let (node, cgroup) = (Node::new(), tempfile::tempdir().unwrap());
        let process = ProcessName { node: "n1".into(), pid: 7 };
        let freeze = cgroup.path().join(FREEZE);
        let elsewhere = ProcessName { node: "n2".into(), ..process.clone() };
        for (moves, goes_on) in [(&elsewhere, true), (&process, false)] {
            fs::write(&freeze, "1\n").unwrap();
            node.moves.start(order(moves, Trigger::Initial), Default::default(), std::future::pending()).unwrap();
            assert_eq!(let_go(&node.moves, &process, cgroup.path()), goes_on);
            assert_eq!(is_held(cgroup.path()), !goes_on);
        }
        fs::write(&freeze, "0\n").unwrap();
        assert!(!let_go(&node.moves, &elsewhere, cgroup.path()));
    }

    #[test]
    fn what_could_not_move_is_not_held_again_for_a_while() {
        let mut refused = Refused::default();
        let (session, now) = (SessionId::random(), Instant::now());
        let program = (session, "cc1".to_owned());
        assert!(!refused.holds(&program, now));
        refused.note(program.clone(), now);
        assert!(refused.holds(&program, now + REFUSED_FOR / 2));
        assert!(!refused.holds(&(session, "ld".into()), now) && !refused.holds(&program, now + REFUSED_FOR));
        for _ in 0..2 * MAX_REFUSED {
            refused.note((SessionId::random(), "cc1".into()), now);
        }
        assert_eq!(refused.0.len(), MAX_REFUSED);
        refused.note(program.clone(), now + REFUSED_FOR);
        assert!(refused.holds(&program, now + REFUSED_FOR) && refused.0.len() == 1);
    }
}
