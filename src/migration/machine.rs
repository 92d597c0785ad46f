//! The states of a migration, which may follow which, and how long each took.
//!
//! ```text
//!   Reserve → Prepare → Precopy → Freeze → Dump → Stream → Restore → Commit → Run
//!      │         │         │         │       │       │        │         │
//!      └─────────┴─────────┴────┬────┴───────┴───────┴────────┘         └─► Failed
//!                               ▼
//!                            Aborted
//! ```
//!
//! Before `Commit` every state may abort, and then the program goes on at the source as if nothing had been. `Commit` is
//! home's decision: after it only the target's copy may run, and what goes wrong is a loss, not an abort.

use crate::control::{MoveState, SessionId};

/// A step that [`Machine`] does not allow: a bug of the caller or of a peer, never of the program that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a migration cannot go from {from:?} to {to:?}")]
pub struct IllegalStep {
    /// Where it stood.
    pub from: MoveState,
    /// Where it should have gone.
    pub to: MoveState,
}

/// Whether the migration has come to its end in `state`.
pub fn is_final(state: MoveState) -> bool {
    matches!(state, MoveState::Run | MoveState::Aborted | MoveState::Failed)
}

/// Whether `to` may directly follow `from`.
pub fn may_follow(from: MoveState, to: MoveState) -> bool {
    use MoveState::{Aborted, Commit, Dump, Failed, Freeze, Precopy, Prepare, Reserve, Restore, Run, Stream};
    match (from, to) {
        (Reserve, Prepare)
        | (Prepare, Precopy)
        | (Precopy, Freeze)
        | (Freeze, Dump)
        | (Dump, Stream)
        | (Stream, Restore)
        | (Restore, Commit)
        | (Commit, Run | Failed) => true,
        (from, Aborted) => from < Commit,
        _ => false,
    }
}

/// Whether the program stands still in `state`.
fn is_frozen(state: MoveState) -> bool {
    state >= MoveState::Freeze && state <= MoveState::Commit
}

/// One state that a migration went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state.
    pub state: MoveState,
    /// When it was entered, in µs on the clock of whoever drives the machine.
    pub entered_us: u64,
}

/// A migration's state and the steps that led to it.
#[derive(Clone, Debug)]
pub struct Machine {
    migration: SessionId,
    state: MoveState,
    steps: Vec<Step>,
}

impl Machine {
    /// A migration that asks for room at its target.
    pub fn new(migration: SessionId, now_us: u64) -> Self {
        Self::starting_at(migration, MoveState::Reserve, now_us)
    }

    /// A migration as an engine meets it which takes part from `state` on.
    pub fn starting_at(migration: SessionId, state: MoveState, now_us: u64) -> Self {
        Self { migration, state, steps: vec![Step { state, entered_us: now_us }] }
    }

    /// Which migration this is.
    pub fn migration(&self) -> SessionId {
        self.migration
    }

    /// Where it stands.
    pub fn state(&self) -> MoveState {
        self.state
    }

    /// Goes on to `to`.
    pub fn enter(&mut self, to: MoveState, now_us: u64) -> Result<(), IllegalStep> {
        if !may_follow(self.state, to) {
            return Err(IllegalStep { from: self.state, to });
        }
        self.state = to;
        self.steps.push(Step { state: to, entered_us: now_us });
        Ok(())
    }

    /// How long each state but the last took, in µs, in order.
    pub fn durations_us(&self) -> impl Iterator<Item = (MoveState, u64)> + '_ {
        self.steps.windows(2).map(|pair| (pair[0].state, pair[1].entered_us.saturating_sub(pair[0].entered_us)))
    }

    /// For how long the program stood still so far, in µs: from the freeze to the last step taken.
    pub fn downtime_us(&self) -> u64 {
        self.durations_us().filter(|(state, _)| is_frozen(*state)).map(|(_, us)| us).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [MoveState; 11] = [
        MoveState::Reserve,
        MoveState::Prepare,
        MoveState::Precopy,
        MoveState::Freeze,
        MoveState::Dump,
        MoveState::Stream,
        MoveState::Restore,
        MoveState::Commit,
        MoveState::Run,
        MoveState::Aborted,
        MoveState::Failed,
    ];

    #[test]
    fn the_whole_way_and_its_times() {
        let mut machine = Machine::new(SessionId([1; 16]), 0);
        for (index, state) in ALL[1..9].iter().enumerate() {
            machine.enter(*state, (index as u64 + 1) * 10).unwrap();
        }
        assert_eq!(machine.state(), MoveState::Run);
        assert_eq!(machine.durations_us().count(), 8);
        // Freeze at 30, Run at 80.
        assert_eq!(machine.downtime_us(), 50);
        assert_eq!(
            machine.enter(MoveState::Aborted, 90),
            Err(IllegalStep { from: MoveState::Run, to: MoveState::Aborted })
        );
    }

    #[test]
    fn abort_is_possible_exactly_before_commit() {
        for state in ALL {
            assert_eq!(may_follow(state, MoveState::Aborted), state < MoveState::Commit, "{state:?}");
            assert_eq!(may_follow(state, MoveState::Failed), state == MoveState::Commit, "{state:?}");
        }
    }

    proptest! {
        #[test]
        fn no_walk_leaves_a_final_state_or_goes_back(walk in prop::collection::vec(0..ALL.len(), 0..40)) {
            let mut machine = Machine::new(SessionId([2; 16]), 0);
            for (now, to) in walk.into_iter().enumerate() {
                let (from, to) = (machine.state(), ALL[to]);
                if machine.enter(to, now as u64).is_ok() {
                    prop_assert!(!is_final(from));
                    prop_assert!(to > from);
                } else {
                    prop_assert_eq!(machine.state(), from);
                }
            }
        }
    }
}
