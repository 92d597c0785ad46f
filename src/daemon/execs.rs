//! Programs that begin: those that will probably need long are placed at once, before they have
//! memory that would have to be moved.
//!
//! ```text
//!   exec in a job at home ──► history: long? ──► a job of its own ──► placement: elsewhere? ──► launched; an exec gate (the freezer)
//!   a second's figures    ──► has had long?  ──► a job of its own, for the balancer                holds it until it runs there
//!   exit ──► history learns its CPU time                                          │
//!                                                     the move fails: it resumes here (`not_started`)
//! ```
//!
//! Only a process that has executed a program since its fork becomes a job of its own: until then
//! it shares memory with its parent. One whose user wants it to stay is left alone, and for a while
//! what belongs to a job of which something could not move at its start.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    act::moves::{Ended, Obstacle},
    decide,
    pipeline::Pipeline,
    shared::{Shared, jobs::Job},
};
use crate::{
    job::{JobId, SessionId},
    sys::{cgroup, proc::comm},
    telemetry::{TaskEvent, TaskLoad},
};

/// Follows events until the daemon ends, and places programs that begin.
pub async fn run(pipeline: Arc<Pipeline>, mut events: mpsc::Receiver<TaskEvent>) {
    let Pipeline { shared, collected, deciding, .. } = &*pipeline;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = shared.stop.cancelled() => return,
        };
        match event {
            Some(TaskEvent::Execed { process, cpu_ms_total, .. }) => {
                if let Some((job, program)) = collected.program_begins(shared, process, cpu_ms_total)
                    && deciding.balance
                    && let Some(expected_ms) = deciding.prospect(shared, collected, &program)
                {
                    place(&pipeline, process.pid.cast_signed(), &job, expected_ms);
                }
            }
            Some(TaskEvent::Exited { process, cpu_ms_total, .. }) => {
                collected.program_ended(shared, process, cpu_ms_total);
            }
            Some(TaskEvent::Lost { .. }) => collected.programs_lost(),
            Some(TaskEvent::Forked { .. }) => {}
            None => return,
        }
    }
}

/// Makes descendants that have needed long jobs of their own, so that the balancer can move them by
/// themselves.
pub fn promote_grown(pipeline: &Pipeline, tasks: &[TaskLoad]) {
    let Pipeline { shared, collected, deciding, acting, .. } = pipeline;
    let jobs: Vec<Job> = shared.jobs().iter().filter(|job| !job.constraints.stay).cloned().collect();
    for task in deciding.grown(shared, collected, tasks) {
        let cgroup = cgroup::directory(&task.cgroup);
        if let Some(of) = jobs.iter().find(|job| job.cgroup == cgroup) {
            acting.promote(task.pid.cast_signed(), of);
        }
    }
}

/// A start elsewhere that came to nothing: placement chooses once more if the target refused
/// admission, else the program resumes here.
pub fn not_started(pipeline: &Pipeline, Ended { record, obstacle }: &Ended) {
    let (shared, process) = (&pipeline.shared, &record.process);
    match obstacle {
        Obstacle::TargetBusy => place_again(pipeline, process),
        Obstacle::CannotMove => {
            let job = shared.jobs().get(process.pid).cloned();
            if let Some(job) = job {
                pipeline.deciding.could_not_start(program_of(shared, process.pid, &job));
            }
        }
        Obstacle::Other => {}
    }
    pipeline.acting.resume(process);
}

/// The name of a program that belongs to `job`, in what its user started; in `job` itself if that
/// has ended.
fn program_of(shared: &Shared, pid: i32, job: &Job) -> (SessionId, String) {
    let session = shared.jobs().get(job.tree()).unwrap_or(job).session;
    (session, comm(pid))
}

/// Lets placement choose once more for a program whose start the target refused to admit.
fn place_again(pipeline: &Pipeline, process: &JobId) {
    let Pipeline { shared, collected, deciding, .. } = pipeline;
    let Some(job) = shared.jobs().get(process.pid).cloned() else { return };
    let program = collected.program_of(process.pid.cast_unsigned());
    if let Some(expected_ms) = program.and_then(|program| deciding.prospect(shared, collected, &program)) {
        place(pipeline, process.pid, &job, expected_ms);
    }
}

/// Lets placement choose where a program that has just begun runs, and starts the move if that is
/// elsewhere.
fn place(pipeline: &Pipeline, pid: i32, of: &Job, expected_ms: u64) {
    let Pipeline { shared, collected, deciding, acting, .. } = pipeline;
    if of.constraints.stay || shared.address.is_none() || deciding.is_refused(&program_of(shared, pid, of)) {
        return;
    }
    let Some(job) = acting.promote(pid, of) else { return };
    let (process, view) = (shared.name_of(&job), pipeline.view());
    let Some(decision) = deciding.start(collected, &view, &process, expected_ms) else { return };
    pipeline.metrics.decided(&decision);
    let Some(target) = decision.target() else { return };
    let why =
        format!("begins, and probably needs {:.1} s; {}", expected_ms as f64 / 1_000.0, decide::summary(&decision));
    tracing::info!(%process, %target, why, "placement starts a program elsewhere");
    // First, so that what the move's end thaws stays thawed; and not behind the back of another
    // move.
    match acting.hold(&process, &job) {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::info!(%process, %error, "it cannot be frozen at its exec; it moves while it runs"),
        None => return,
    }
    if !pipeline.carry_out(&view, &decision, why) {
        acting.resume(&process);
    }
}
