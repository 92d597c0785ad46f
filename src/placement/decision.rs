//! Decisions: what is to be done with a job, and why.

use std::fmt;

use super::candidates::Choice;
use super::input::{JobView, NodeName};
use super::reason::Reason;
use crate::job::JobId;

/// What is to be done with one job, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The job.
    pub job: JobId,
    /// What to do.
    pub action: Action,
    /// What the job may cost at the target at most, for the move to be worth it still, in
    /// thousandths of its own slowdown; the target looks again, as it knows itself better. `None`
    /// if the job stays, or is to go whatever it costs.
    pub limit_milli: Option<u32>,
    /// Why: what was compared, then the rule that decided, which is last.
    pub reasons: Vec<Reason>,
}

impl Decision {
    /// The job stays.
    pub(super) fn stays(job: &JobView, reasons: Vec<Reason>) -> Self {
        Self { job: job.id().clone(), action: Action::Stay, limit_milli: None, reasons }
    }

    /// The job moves.
    pub(super) fn moves(job: &JobView, choice: Choice, cause: Cause, reasons: Vec<Reason>) -> Self {
        let Choice { node: target, limit_milli, .. } = choice;
        Self { job: job.id().clone(), action: Action::Move { target, cause }, limit_milli, reasons }
    }

    /// Where the job is to go, if it is to go.
    #[must_use]
    pub fn target(&self) -> Option<&NodeName> {
        match &self.action {
            Action::Stay => None,
            Action::Move { target, .. } => Some(target),
        }
    }

    /// The rule that decided.
    #[must_use]
    pub fn verdict(&self) -> Option<&Reason> {
        self.reasons.last()
    }
}

/// What to do with a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It continues where it is.
    Stay,
    /// It moves.
    Move {
        /// To this node.
        target: NodeName,
        /// For this cause.
        cause: Cause,
    },
}

/// Why a job moves, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The cost is lower there.
    Load,
    /// Memory runs out here.
    Memory,
    /// It was just started.
    Initial,
    /// A user asked for it.
    Request,
    /// Home has room for it again.
    Home,
    /// It may not be here any more.
    Evacuate,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Load => "load",
            Self::Memory => "memory",
            Self::Initial => "initial",
            Self::Request => "request",
            Self::Home => "home",
            Self::Evacuate => "evacuate",
        })
    }
}
