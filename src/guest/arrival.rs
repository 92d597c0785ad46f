//! How a process tree comes to this guest: what the target engine asks of the agent.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{
    daemon::Daemons,
    error::GuestError,
    from_home::{Decision, Home},
    restore,
    stdio::{Ends, HeldFile, hold_files},
    world::{World, look_ahead},
};
use crate::{
    guest::relay::GuestRelays,
    job::SessionId,
    migration::{
        criu::{self, Program},
        target::{Arrival, Host, HostError, StartedCriu},
    },
    protocol::{
        home::{GuestToHome, SharedFile},
        moves::Relayed,
    },
    sys::{cgroup::members, proc::Process},
};

/// The process tree as this agent holds it.
pub struct ArrivedTree {
    /// Root in the process tree's own numbering.
    pub root_pid: i32,
    /// Root as this node numbers it.
    pub host_pid: i32,
    /// CRIU's number in the guest.
    pub criu_pid: i32,
    /// The processes that came: those that have deputies at home.
    pub originals: Vec<Process>,
    /// The relays of its channels.
    pub relays: Arc<GuestRelays>,
    /// Its channels and how CRIU will call them.
    pub relayed: Vec<Relayed>,
    /// Its shared files.
    pub files: Vec<HeldFile>,
}

/// The guest in which a process tree arrives.
pub struct Arriving<'a> {
    /// Names the migration and the guest.
    pub migration: SessionId,
    /// The guest's world.
    pub world: &'a World,
    /// Home.
    pub home: &'a Home,
    /// The CRIU to use.
    pub program: &'a Program,
    /// This node's daemons.
    pub daemons: &'a Daemons,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ends: Option<Ends>,
    shared_files: Vec<SharedFile>,
    root_pid: i32,
    criu_pid: i32,
    pids: BTreeSet<i32>,
    tree: Option<ArrivedTree>,
}

impl<'a> Arriving<'a> {
    /// Nothing has come yet.
    pub fn new(
        migration: SessionId,
        world: &'a World,
        home: &'a Home,
        program: &'a Program,
        daemons: &'a Daemons,
    ) -> Self {
        Self { migration, world, home, program, daemons, state: Mutex::default() }
    }

    /// The process tree, once it is complete.
    pub fn into_tree(self) -> Option<ArrivedTree> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).tree
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes hold of what is needed of the restored processes, which stand still.
    fn take_tree(&self) -> Result<Arc<GuestRelays>, GuestError> {
        let mut state = self.state();
        let (root_pid, criu_pid) = (state.root_pid, state.criu_pid);
        // CRIU itself is in the cgroup too until it releases the process tree.
        let mut originals = members(&self.world.cgroup)?;
        originals.retain(|process| state.pids.contains(&process.inner_pid));
        let host_pid = originals.iter().find(|process| process.inner_pid == root_pid).map(|process| process.pid);
        let host_pid = host_pid.ok_or(GuestError::NotThere)?;
        let files = hold_files(&state.shared_files, &originals);
        let files = files.map_err(GuestError::io("take a shared file of the program"))?;
        let ends = state.ends.take().ok_or(GuestError::OutOfStep)?;
        let relays = ends.relay(&self.home.sender.stdio());
        let (relays, relayed) = relays.map_err(GuestError::io("relay the program's channels"))?;
        state.tree =
            Some(ArrivedTree { root_pid, host_pid, criu_pid, originals, relays: relays.clone(), relayed, files });
        Ok(relays)
    }
}

#[async_trait]
impl Host for Arriving<'_> {
    async fn start_criu(&self, arrival: &Arrival<'_>) -> Result<StartedCriu, HostError> {
        // The process tree stands still elsewhere by now, which it did not when the world was made:
        // what was heard then is forgotten.
        self.world.files.stands_still();
        match criu::paths(arrival.images) {
            Ok(paths) => look_ahead(&self.world.files, paths.into_iter().collect()),
            Err(error) => tracing::warn!(%error, "criu will ask home for each file by itself"),
        }
        let descriptors = &arrival.begin.descriptors;
        let (mut ends, tree_ends) =
            Ends::make(&descriptors.relayed).map_err(GuestError::io("make the program's channels"))?;
        let started = restore::start(&self.world.init, self.program, &self.world.cgroup, arrival, tree_ends).await?;
        ends.add_terminal(started.terminal).map_err(GuestError::io("relay the program's terminal"))?;
        let mut state = self.state();
        state.ends = Some(ends);
        state.shared_files = descriptors.shared_files.clone();
        state.root_pid = arrival.begin.root_pid;
        state.criu_pid = started.criu_pid;
        state.pids = arrival.tree.iter().filter_map(|process| i32::try_from(process.pid).ok()).collect();
        Ok(started.criu)
    }

    async fn given_up(&self) -> HostError {
        self.daemons.gone().await;
        GuestError::DaemonGone.into()
    }

    async fn decide(&self) -> Result<u64, HostError> {
        let relays = self.take_tree()?;
        // Steps may follow home's word at once.
        self.home.set_relays(relays.clone());
        self.home.tell(GuestToHome::Restored { migration: self.migration }).await;
        match self.home.decision(self.migration).await {
            Decision::Run(epoch) => {
                self.world.files.runs();
                relays.arm().await;
                Ok(epoch)
            }
            Decision::Aborted(reason) => Err(GuestError::GivenUp(reason).into()),
            Decision::Gone => Err(GuestError::OldCopy.into()),
        }
    }
}
