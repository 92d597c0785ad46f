//! The states of a migration, and which may follow which. Nothing but [`Machine`] changes one.
//!
//! ```text
//!   Reserve → Prepare → Precopy → Freeze → Dump → Stream → Restore → Commit → Run
//!      │         │         │         │       │       │        │         │
//!      └─────────┴─────────┴────┬────┴───────┴───────┴────────┘         └─► Failed
//!                               ▼
//!                            Aborted
//! ```
//!
//! Before `Commit` every state may abort, and then the program resumes at the source as if nothing
//! had been. `Commit` is home's decision: after it only the target's copy may run, and what goes
//! wrong is a loss, not an abort.

use crate::protocol::MoveState;

/// A step that [`Machine`] does not allow: a bug of the caller or of a peer, never of the program
/// that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a migration cannot go from {from:?} to {to:?}; run the same release of scx_mosix on all nodes")]
pub struct IllegalStep {
    /// Where it stood.
    pub from: MoveState,
    /// Where it should have gone.
    pub to: MoveState,
}

/// A migration's state.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    state: MoveState,
}

impl Machine {
    /// A migration as one meets it who takes part from `state` on.
    pub fn starting_at(state: MoveState) -> Self {
        Self { state }
    }

    /// Where it stands.
    pub fn state(self) -> MoveState {
        self.state
    }

    /// Proceeds to `to`, which must directly follow.
    pub fn enter(&mut self, to: MoveState) -> Result<(), IllegalStep> {
        self.go(to, may_follow(self.state, to))
    }

    /// Follows a report of how far it is. It may tell of the same state again, and reports of
    /// states in between may be lost.
    pub fn catch_up(&mut self, to: MoveState) -> Result<(), IllegalStep> {
        self.go(to, may_be_reported(self.state, to))
    }

    /// Ends what cannot continue: if home has committed, also without that this was known here, the
    /// program is lost, else it continues at the source. What has ended stays as it ended.
    pub fn give_up(&mut self, has_committed: bool) -> MoveState {
        if self.state < MoveState::Commit && !has_committed {
            self.state = MoveState::Aborted;
        } else if self.state <= MoveState::Commit {
            self.state = MoveState::Failed;
        }
        self.state
    }

    fn go(&mut self, to: MoveState, is_legal: bool) -> Result<(), IllegalStep> {
        if !is_legal {
            return Err(IllegalStep { from: self.state, to });
        }
        self.state = to;
        Ok(())
    }
}

/// Whether `to` may directly follow `from`.
fn may_follow(from: MoveState, to: MoveState) -> bool {
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

/// Whether a migration may be reported to be in `to` that was in `from` when it was heard of last.
fn may_be_reported(from: MoveState, to: MoveState) -> bool {
    let is_final = from > MoveState::Commit;
    !is_final && from <= to && (to != MoveState::Aborted || from < MoveState::Commit)
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
    fn a_move_goes_its_whole_way_and_no_further() {
        let mut machine = Machine::starting_at(MoveState::Reserve);
        for state in &ALL[1..9] {
            machine.enter(*state).unwrap();
        }
        assert_eq!(machine.state(), MoveState::Run);
        assert_eq!(
            machine.enter(MoveState::Aborted),
            Err(IllegalStep { from: MoveState::Run, to: MoveState::Aborted })
        );
    }

    #[test]
    fn abort_is_possible_exactly_before_commit() {
        for state in ALL {
            assert_eq!(may_follow(state, MoveState::Aborted), state < MoveState::Commit, "{state:?}");
            assert_eq!(may_be_reported(state, MoveState::Aborted), state < MoveState::Commit, "{state:?}");
            assert_eq!(may_follow(state, MoveState::Failed), state == MoveState::Commit, "{state:?}");
        }
    }

    #[test]
    fn reports_may_be_lost_or_repeated_but_not_go_back() {
        let mut machine = Machine::starting_at(MoveState::Precopy);
        for state in [MoveState::Freeze, MoveState::Stream, MoveState::Stream, MoveState::Run] {
            machine.catch_up(state).unwrap();
        }
        assert!(ALL.into_iter().all(|state| machine.catch_up(state).is_err()), "it has ended");
        let mut machine = Machine::starting_at(MoveState::Dump);
        assert_eq!(
            machine.catch_up(MoveState::Freeze),
            Err(IllegalStep { from: MoveState::Dump, to: MoveState::Freeze })
        );
        assert_eq!(machine.state(), MoveState::Dump);
    }

    #[test]
    fn what_cannot_continue_is_lost_only_after_commit() {
        for state in ALL {
            let (before, after) = match state {
                MoveState::Run | MoveState::Aborted | MoveState::Failed => (state, state),
                MoveState::Commit => (MoveState::Failed, MoveState::Failed),
                _ => (MoveState::Aborted, MoveState::Failed),
            };
            let end = |has_committed| Machine::starting_at(state).give_up(has_committed);
            assert_eq!((end(false), end(true)), (before, after), "{state:?}");
        }
    }

    proptest! {
        #[test]
        fn no_walk_leaves_a_final_state_or_goes_back(walk in prop::collection::vec(0..ALL.len(), 0..40)) {
            let mut machine = Machine::starting_at(MoveState::Reserve);
            for to in walk {
                let (from, to) = (machine.state(), ALL[to]);
                if machine.enter(to).is_ok() {
                    prop_assert!(!matches!(from, MoveState::Run | MoveState::Aborted | MoveState::Failed));
                    prop_assert!(to > from && may_be_reported(from, to));
                } else {
                    prop_assert_eq!(machine.state(), from);
                }
            }
        }
    }
}
