//! The states of this node's agents, sorted by what they serve.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use super::Agents;
use crate::{
    job::{JobRecord, SessionId},
    protocol::{AgentState, StreamKind},
};

/// What is known of the agents of this node, by what they serve.
#[derive(Default)]
pub struct AgentView {
    /// Home agents by their job's session.
    pub homes: HashMap<SessionId, HomeView>,
    /// Guests by the migration that brought them.
    pub guests: HashMap<SessionId, GuestView>,
    /// The jobs whose home agent lives and does not answer, so that it is not known where they run.
    pub silent: HashSet<SessionId>,
}

/// A job's home agent.
#[derive(Clone)]
pub struct HomeView {
    /// How often the job was committed elsewhere.
    pub epoch: u64,
    /// Where it runs.
    pub runs_on: String,
    /// Where it has been.
    pub visited: Vec<String>,
    /// Whether it is being moved from here.
    pub moving: bool,
    /// Whether it has ended.
    pub ended: bool,
}

/// A guest.
#[derive(Clone)]
pub struct GuestView {
    /// The job as it came here, but with what placement may do with it now.
    pub job: JobRecord,
    /// Its root process here.
    pub host_pid: i32,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Under which epoch it runs.
    pub epoch: u64,
    /// Whether it is being moved on.
    pub moving: bool,
    /// Why it cannot move.
    pub cannot_move: Option<String>,
}

impl AgentView {
    /// The guest that `wanted` lets through. Of a job that was here before and has come again, the
    /// agent of before may not have ended yet.
    pub fn guest(&self, wanted: impl Fn(&GuestView) -> bool) -> Option<(SessionId, &GuestView)> {
        let guests = self.guests.iter().filter(|(_, guest)| wanted(guest));
        guests.max_by_key(|(_, guest)| guest.epoch).map(|(migration, guest)| (*migration, guest))
    }

    /// Whether the job was committed elsewhere, or may have been.
    pub fn has_moved(&self, session: SessionId) -> bool {
        self.silent.contains(&session) || self.homes.get(&session).is_some_and(|home| home.epoch > 0)
    }

    /// Whether that is so, or it may be being moved.
    pub fn is_moving_or_has_moved(&self, session: SessionId) -> bool {
        self.has_moved(session) || self.homes.get(&session).is_some_and(|home| home.moving)
    }

    /// Sorts the agents' states; guests that do not run yet are no guests.
    pub fn new(states: impl IntoIterator<Item = AgentState>) -> Self {
        let mut view = Self::default();
        for state in states {
            match state {
                AgentState::Home { session, epoch, runs_on, visited, moving, ended, .. } => {
                    let home = HomeView { epoch, runs_on, visited, moving: moving.is_some(), ended: ended.is_some() };
                    view.homes.insert(session, home);
                }
                AgentState::Guest {
                    migration,
                    job,
                    host_pid: Some(host_pid),
                    cgroup,
                    epoch: Some(epoch),
                    moving,
                    cannot_move,
                } => {
                    let moving = moving.is_some();
                    view.guests
                        .insert(migration, GuestView { job: *job, host_pid, cgroup, epoch, moving, cannot_move });
                }
                AgentState::Guest { .. } => {}
            }
        }
        view
    }
}

impl Agents {
    /// The agents' states, sorted.
    pub fn view(&self) -> AgentView {
        let view = AgentView::new(self.states().into_iter().map(|(_, state)| state));
        let silent = self.silent().into_iter();
        let homes = silent.filter(|(kind, _)| *kind == StreamKind::Home).map(|(_, session)| session);
        AgentView { silent: homes.collect(), ..view }
    }
}
