//! How a body comes to this guest: what the target engine asks of the agent.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{
    DAEMON_GONE,
    daemon::Daemons,
    home::{Decision, Home},
    restore,
    stdio::{Ends, HeldFile, hold_files},
    world::{World, look_ahead},
};
use crate::{
    control::SessionId,
    home::{relay::guest::GuestRelays, wire::GuestToHome},
    migration::{
        criu::{self, Program},
        process::{Process, members},
        source::{Relayed, explain},
        target::{Arrival, Host, StartedCriu},
    },
};

/// The body as this agent holds it.
pub struct Body {
    /// Root in the body's own numbering.
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

/// The guest in which a body arrives.
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
    shared_files: Vec<crate::home::wire::SharedFile>,
    root_pid: i32,
    criu_pid: i32,
    pids: BTreeSet<i32>,
    body: Option<Body>,
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

    /// The body, once it is complete.
    pub fn into_body(self) -> Option<Body> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).body
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes hold of what is needed of the restored processes, which stand still.
    fn take_body(&self) -> Result<Arc<GuestRelays>, String> {
        let mut state = self.state();
        let (root_pid, criu_pid) = (state.root_pid, state.criu_pid);
        // CRIU itself is in the cgroup too until it lets go.
        let mut originals = members(&self.world.cgroup).map_err(explain)?;
        originals.retain(|process| state.pids.contains(&process.inner_pid));
        let host_pid = originals.iter().find(|process| process.inner_pid == root_pid).map(|process| process.pid);
        let host_pid = host_pid.ok_or("the restored program is not where it should be")?;
        let files = hold_files(&state.shared_files, &originals)
            .map_err(|error| format!("a shared file of the program cannot be taken: {error}"))?;
        let ends = state.ends.take().ok_or("the program's channels were not made")?;
        let (relays, relayed) = ends.relay(&self.home.sender.stdio()).map_err(explain)?;
        state.body = Some(Body { root_pid, host_pid, criu_pid, originals, relays: relays.clone(), relayed, files });
        Ok(relays)
    }
}

#[async_trait]
impl Host for Arriving<'_> {
    async fn start_criu(&self, arrival: &Arrival<'_>) -> Result<StartedCriu, String> {
        // The body stands still elsewhere by now, which it did not when the world was made: what was heard then is forgotten.
        self.world.files.stands_still();
        match criu::paths(arrival.images) {
            Ok(paths) => look_ahead(&self.world.files, paths.into_iter().collect()),
            Err(error) => tracing::warn!(%error, "criu will ask home for each file by itself"),
        }
        let descriptors = &arrival.begin.descriptors;
        let (mut ends, bodies) = Ends::make(&descriptors.relayed).map_err(explain)?;
        let started = restore::start(&self.world.init, self.program, &self.world.cgroup, arrival, bodies).await?;
        ends.add_terminal(started.terminal).map_err(explain)?;
        let mut state = self.state();
        state.ends = Some(ends);
        state.shared_files = descriptors.shared_files.clone();
        state.root_pid = arrival.begin.root_pid;
        state.criu_pid = started.criu_pid;
        state.pids = arrival.tree.iter().filter_map(|process| i32::try_from(process.pid).ok()).collect();
        Ok(started.criu)
    }

    async fn given_up(&self) -> String {
        self.daemons.gone().await;
        DAEMON_GONE.into()
    }

    async fn decide(&self) -> Result<u64, String> {
        let relays = self.take_body()?;
        // Steps may follow home's word at once.
        self.home.set_relays(relays.clone());
        self.home.tell(GuestToHome::Restored { migration: self.migration }).await;
        match self.home.decision(self.migration).await {
            Decision::Run(epoch) => {
                self.world.files.runs();
                relays.arm().await;
                Ok(epoch)
            }
            Decision::Aborted(reason) => Err(format!("home gave it up: {reason}")),
            Decision::Gone => Err("home takes this copy for an old one".into()),
        }
    }
}
