//! The arbiter of a job: decides which of its copies may run. Pure: messages in, actions out; no
//! clock, no I/O.
//!
//! ```text
//!   owner (home itself, or a guest)      arbiter                           candidate (a guest that holds a copy)
//!     ── Begin{m, target} ──────────────►  candidate = m  ──► Begun
//!                                          ◄──────────────── Hello{m} ─────
//!     ── Drained{m}: frozen, all sent ──►  ┐
//!                                          ◄──────────────── Restored{m} ──
//!                                          ┘ both, and m is connected: COMMIT, epoch + 1
//!     ◄─ Retire: its copy is dead ───────  owner = m        ── Run{epoch} ─►
//!     ── Abort{m} ──────────────────────►  no candidate any more, for ever: Aborted to both;
//!                                          after the commit: too late, Retire again
//! ```
//!
//! Why exactly one copy may run: a copy runs only as the owner. The owner changes only in `commit`,
//! which happens at most once for a migration, and never for one that was aborted: an id that was
//! used is not accepted again. The old owner is frozen then (it said `Drained`) and thaws only on
//! `Aborted`, which is never said of a migration that was committed. The new owner runs only on
//! `Run`, which is never said of one that was not. Messages may be lost, late or doubled.

use std::collections::BTreeSet;

use crate::job::SessionId;

/// Who holds a copy of the process tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Party {
    /// The home node: a job that has never moved.
    Home,
    /// The guest that this migration brought.
    Guest(SessionId),
}

/// What the arbiter wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer to a `Begin`.
    Begun {
        /// Who asked.
        to: Party,
        /// The migration.
        migration: SessionId,
        /// Why not.
        refused: Option<String>,
    },
    /// Tell that this migration will never be committed.
    Aborted {
        /// Whom.
        to: Party,
        /// The migration.
        migration: SessionId,
        /// Why.
        reason: String,
    },
    /// The epoch has begun: make it known before anything of it is done.
    Record {
        /// The epoch.
        epoch: u64,
    },
    /// This copy is dead: home turns it into deputies, a guest kills it.
    Retire {
        /// Who held it.
        party: Party,
        /// The migration that took the process tree away.
        migration: SessionId,
        /// The epoch that ended it.
        epoch: u64,
    },
    /// Let this guest's copy run.
    Run {
        /// The guest.
        migration: SessionId,
        /// Under this epoch.
        epoch: u64,
    },
}

/// A migration that may be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    migration: SessionId,
    target: String,
    is_connected: bool,
    is_drained: bool,
    is_restored: bool,
}

/// The state of one job.
#[derive(Clone, Debug)]
pub struct Arbiter {
    epoch: u64,
    owner: Party,
    candidate: Option<Candidate>,
    /// Migrations that were candidates once.
    used: BTreeSet<SessionId>,
    has_ended: bool,
}

impl Default for Arbiter {
    fn default() -> Self {
        Self { epoch: 0, owner: Party::Home, candidate: None, used: BTreeSet::new(), has_ended: false }
    }
}

impl Arbiter {
    /// How often the job was committed to another node.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Who may run the process tree.
    pub fn owner(&self) -> Party {
        self.owner
    }

    /// The current move and its target.
    pub fn moving(&self) -> Option<(SessionId, &str)> {
        self.candidate.as_ref().map(|candidate| (candidate.migration, candidate.target.as_str()))
    }

    /// `from` wants to move its process tree.
    pub fn begin(&mut self, from: Party, migration: SessionId, target: String) -> Vec<Action> {
        let refused = match &self.candidate {
            _ if self.has_ended => Some("the program has ended".into()),
            _ if from != self.owner => Some("the program runs on another node".into()),
            Some(candidate) if candidate.migration == migration => None,
            Some(candidate) => Some(format!("it is already moving to {}", candidate.target)),
            None if !self.used.insert(migration) => Some("this migration was given up before".into()),
            None => {
                let (is_connected, is_drained, is_restored) = (false, false, false);
                self.candidate = Some(Candidate { migration, target, is_connected, is_drained, is_restored });
                None
            }
        };
        vec![Action::Begun { to: from, migration, refused }]
    }

    /// A guest calls. `epoch` is the one under which it runs, if it does.
    ///
    /// # Errors
    /// Why it is turned away; it must end.
    pub fn hello(&mut self, migration: SessionId, epoch: Option<u64>) -> Result<Vec<Action>, String> {
        if self.has_ended {
            return Err("the program has ended".into());
        }
        if self.owner == Party::Guest(migration) {
            return match epoch {
                // It had been committed, but has not heard of it.
                None => Ok(vec![Action::Run { migration, epoch: self.epoch }]),
                Some(epoch) if epoch == self.epoch => Ok(Vec::new()),
                Some(epoch) => Err(format!("it says that it runs under epoch {epoch}, but this is {}", self.epoch)),
            };
        }
        match self.candidate.as_mut().filter(|candidate| candidate.migration == migration && epoch.is_none()) {
            Some(candidate) => {
                candidate.is_connected = true;
                Ok(self.commit_if_ready())
            }
            None => Err("this migration is not, or no longer, wanted at home".into()),
        }
    }

    /// The connection to a guest is lost. It may say hello again.
    pub fn disconnected(&mut self, migration: SessionId) {
        if let Some(candidate) = self.candidate.as_mut().filter(|candidate| candidate.migration == migration) {
            candidate.is_connected = false;
        }
    }

    /// The owner's copy stands still, and everything of it has left it.
    pub fn drained(&mut self, from: Party, migration: SessionId) -> Vec<Action> {
        match self.candidate.as_mut().filter(|candidate| candidate.migration == migration) {
            Some(candidate) if from == self.owner => {
                candidate.is_drained = true;
                self.commit_if_ready()
            }
            _ => Vec::new(),
        }
    }

    /// The candidate's copy is complete and held.
    pub fn restored(&mut self, migration: SessionId) -> Vec<Action> {
        if self.owner == Party::Guest(migration) {
            return vec![Action::Run { migration, epoch: self.epoch }];
        }
        match self.candidate.as_mut().filter(|candidate| candidate.migration == migration) {
            Some(candidate) => {
                candidate.is_restored = true;
                self.commit_if_ready()
            }
            None => {
                let reason = "the move was given up before the copy was complete".into();
                vec![Action::Aborted { to: Party::Guest(migration), migration, reason }]
            }
        }
    }

    /// The owner gives a move up, or asks what became of it.
    pub fn abort(&mut self, from: Party, migration: SessionId, reason: &str) -> Vec<Action> {
        let committed = self.used.contains(&migration) && from != self.owner;
        if committed {
            return vec![Action::Retire { party: from, migration, epoch: self.epoch }];
        }
        let aborted = |to| Action::Aborted { to, migration, reason: reason.to_owned() };
        // Also if it was never begun: then it never will be.
        self.used.insert(migration);
        if self.candidate.take_if(|candidate| candidate.migration == migration).is_some() {
            vec![aborted(Party::Guest(migration)), aborted(from)]
        } else {
            vec![aborted(from)]
        }
    }

    /// The process tree has ended, or was lost: nothing is committed any more.
    pub fn end(&mut self) -> Vec<Action> {
        self.has_ended = true;
        let Some(Candidate { migration, .. }) = self.candidate.take() else { return Vec::new() };
        vec![Action::Aborted { to: Party::Guest(migration), migration, reason: "the program has ended".into() }]
    }

    /// The only place where a move is committed.
    fn commit_if_ready(&mut self) -> Vec<Action> {
        let is_ready =
            |candidate: &mut Candidate| candidate.is_connected && candidate.is_drained && candidate.is_restored;
        let Some(Candidate { migration, .. }) = self.candidate.take_if(is_ready) else { return Vec::new() };
        let old = std::mem::replace(&mut self.owner, Party::Guest(migration));
        self.epoch += 1;
        let epoch = self.epoch;
        vec![
            Action::Record { epoch },
            Action::Retire { party: old, migration, epoch },
            Action::Run { migration, epoch },
        ]
    }
}

#[cfg(test)]
mod tests;
