//! The last decision about the chosen program, as far as it is known here.

use crate::{api::view::PlacementReasons, job::JobId};

/// How often placement's reasons are asked for while the same program is chosen: placement decides
/// once a second, and no stream tells of it.
const ASK_AGAIN_MS: u64 = 2_000;

/// The last decision about a program.
#[derive(Default)]
pub struct Why {
    /// The program.
    pub program: Option<JobId>,
    /// What was decided about it, or why that is not known.
    pub reasons: Option<Result<PlacementReasons, String>>,
    /// The first line that is shown.
    pub line: u16,
    asked_ms: u64,
    is_asked: bool,
}

impl Why {
    /// Turns to a program. Returns it if the daemon is to be asked: one question at a time.
    pub fn turn_to(&mut self, program: Option<&JobId>, now_ms: u64) -> Option<JobId> {
        if self.program.as_ref() != program {
            *self = Self { program: program.cloned(), is_asked: self.is_asked, ..Self::default() };
        }
        let is_due = self.reasons.is_none() || now_ms.saturating_sub(self.asked_ms) >= ASK_AGAIN_MS;
        let program = self.program.clone().filter(|_| is_due && !self.is_asked)?;
        (self.is_asked, self.asked_ms) = (true, now_ms);
        Some(program)
    }

    /// Takes an answer; one about a program that was chosen before is of no use any more.
    pub fn answered(&mut self, program: &JobId, reasons: Result<PlacementReasons, String>) {
        self.is_asked = false;
        if self.program.as_ref() == Some(program) {
            self.reasons = Some(reasons);
        }
    }

    /// How long placement expects the program to stand still on its way to a node, in µs.
    pub fn expected_us(&self, node: &str) -> Option<u64> {
        let candidate = self.candidate(node)?;
        let figure = candidate.figures.iter().find(|figure| figure.name == DOWNTIME)?;
        Some((figure.value * 1e6) as u64)
    }

    /// What placement says of a node as a target.
    pub fn candidate(&self, node: &str) -> Option<&crate::api::view::PlacementCandidate> {
        let Some(Ok(reasons)) = &self.reasons else { return None };
        reasons.candidates.iter().find(|candidate| candidate.node == node)
    }
}

/// What the daemon calls the time that a move would stop a program.
const DOWNTIME: &str = "predicted downtime, seconds";
