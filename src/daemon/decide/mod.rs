//! The third stage: where jobs run, and which programs start elsewhere; decided from a view of this
//! moment, and not yet carried out.

mod placing;
mod refused;

pub use self::placing::{Placing, summary, trigger};
use self::refused::Refused;
use super::{collect::Collected, shared::Shared, view::View};
use crate::{
    bounds::OutOfBounds,
    job::{JobId, SessionId},
    placement::{Config, Decision, JobView, Program, Prospect, Wish},
    telemetry::TaskLoad,
};

/// What decisions rest on beside the view.
pub struct Deciding {
    /// Placement, and what it decided last.
    pub placing: Placing,
    /// Whether jobs move without a wish of their users or of the administrator.
    pub balance: bool,
    refused: Refused,
}

impl Deciding {
    /// For the node `here`.
    pub fn new(here: &str, config: Config, balance: bool) -> Result<Self, OutOfBounds> {
        Ok(Self { placing: Placing::new(here, config)?, balance, refused: Refused::default() })
    }

    /// What placement decides about all jobs here; if it is not to balance, about those that may
    /// not be here.
    pub fn all(&self, shared: &Shared, view: &View<'_>) -> Vec<Decision> {
        let is_draining = shared.draining.is_on();
        let mut jobs = view.jobs();
        jobs.retain(|job| self.balance || (job.is_guest() && is_draining) || !job.allows(&shared.node));
        if jobs.is_empty() && !self.balance {
            return Vec::new();
        }
        self.placing.decide(view.nodes(), jobs, view.in_flight(), is_draining)
    }

    /// What comes of a user's wish.
    pub fn wish(&self, view: &View<'_>, process: &JobId, wish: &Wish) -> Decision {
        self.placing.request(view.nodes(), view.jobs(), view.in_flight(), process, wish)
    }

    /// How much CPU time a program that begins probably needs, in ms, if that is long enough to
    /// start it elsewhere.
    pub fn prospect(&self, shared: &Shared, collected: &Collected, program: &Program) -> Option<u64> {
        let expected_ms = collected.learned.expected_ms(program);
        let (takes, tasks_per_cpu) = (collected.learned.start_takes(), collected.tasks_per_cpu(shared));
        match self.placing.prospect(expected_ms, takes, tasks_per_cpu) {
            Prospect::Long(expected_ms) => Some(expected_ms),
            Prospect::Short => None,
        }
    }

    /// Those of the tasks that are worth jobs of their own, by the CPU time that they have had.
    pub fn grown<'t>(&self, shared: &Shared, collected: &Collected, tasks: &'t [TaskLoad]) -> Vec<&'t TaskLoad> {
        let (takes, tasks_per_cpu) = (collected.learned.start_takes(), collected.tasks_per_cpu(shared));
        let has_grown = |task: &&TaskLoad| {
            let prospect = self.placing.prospect(Some(task.usage.counters.cpu_ms()), takes, tasks_per_cpu);
            matches!(prospect, Prospect::Long(_)) && collected.program_of(task.pid).is_some()
        };
        tasks.iter().filter(has_grown).collect()
    }

    /// Where a program runs that has just begun as a job of its own, and probably needs so much CPU
    /// time, in ms; `None` if it cannot move.
    pub fn start(&self, collected: &Collected, view: &View<'_>, process: &JobId, expected_ms: u64) -> Option<Decision> {
        let is_it = |job: &JobView| job.id() == process && job.movable.is_ok();
        let mut job = view.jobs().into_iter().find(is_it)?;
        let history = &mut job.record.history;
        (history.counters.cpu_ns, history.demand_milli) = (0, 1_000);
        let held_ms = collected.learned.start_takes().held_ms;
        Some(self.placing.assign(view.nodes(), view.in_flight(), &job, expected_ms, held_ms))
    }

    /// A program, named in the job that its user started, could not move at its start.
    pub fn could_not_start(&self, program: (SessionId, String)) {
        self.refused.note(program);
    }

    /// Whether it could not move at its start a short while ago.
    pub fn is_refused(&self, program: &(SessionId, String)) -> bool {
        self.refused.holds(program)
    }
}
