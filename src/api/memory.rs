//! A daemon that exists in memory only: the services' tests here, and the commands' tests in
//! `tests/cli.rs`, talk to it over real sockets. Both compile this file, so it calls the library by
//! name.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;

use scx_mosix::{
    api::{
        ApiError, Backend, Caller, PeerBackend,
        backend::{ConstraintsChange, Destination, GuestReservation, MoveRequest, NodeDetails, Registration, Views},
        view::{
            ClusterEvent, EventKind, MigrationStep, MigrationSummary, NodeState, NodeSummary, PlacementDecision,
            PlacementReason, PlacementReasons, ProcessState, ProcessSummary, Trigger,
        },
    },
    job::{Constraints, JobId, SessionId, Usage},
    protocol::MoveState,
};

/// Node `n1` of a cluster of two.
pub struct Memory {
    views: Views,
    /// How often someone has looked at the views.
    pub looks: AtomicUsize,
    /// What was asked for, in words, in order.
    pub calls: Mutex<Vec<String>>,
}

impl Default for Memory {
    fn default() -> Self {
        let memory = Self { views: Views::default(), looks: AtomicUsize::new(0), calls: Mutex::default() };
        for node in ["n1", "n2"] {
            memory.views.nodes.put(NodeSummary {
                node: node.into(),
                state: NodeState::Alive,
                local: node == "n1",
                cpus: 2,
                ..Default::default()
            });
        }
        memory
    }
}

impl Memory {
    /// Adds a job of `n1`.
    pub fn job(&self, pid: i32, uid: u32, command: &str) {
        self.views.processes.put(ProcessSummary {
            pid,
            uid,
            user: format!("user{uid}"),
            home: "n1".into(),
            runs_on: "n1".into(),
            state: ProcessState::Running,
            comm: command.split(' ').next().unwrap_or_default().into(),
            command_line: command.split(' ').map(Into::into).collect(),
            cwd: "/tmp".into(),
            visited: vec!["n1".into()],
            usage: Usage { processes: 1, threads: 1, ..Usage::default() },
            ..Default::default()
        });
    }

    /// A job of `n1` has ended.
    pub fn ended(&self, pid: i32) {
        self.views.processes.remove(&ProcessSummary::key_of(&JobId::new("n1", pid)));
    }

    /// Lets a migration enter a state.
    pub fn enter(&self, id: SessionId, state: MoveState) {
        let Some(mut migration) = self.find(id) else { return };
        migration.state = state;
        migration.steps.push(MigrationStep { state, at_ms: 0 });
        if state == MoveState::Run {
            migration.downtime_us = Some(12_345);
        }
        self.views.migrations.put(migration);
    }

    /// Lets all migrations that are not over enter a state.
    pub fn enter_all(&self, state: MoveState) {
        for migration in self.views.migrations.all().iter().filter(|migration| !migration.is_over()) {
            self.enter(migration.id, state);
        }
    }

    /// Lets something happen to a node.
    pub fn happened(&self, id: u64, text: &str) {
        self.views.events.put(ClusterEvent {
            id,
            at_ms: 1_000,
            kind: EventKind::Joined,
            node: "n2".into(),
            process: None,
            uid: None,
            migration: None,
            text: text.into(),
        });
    }

    fn find(&self, id: SessionId) -> Option<MigrationSummary> {
        self.views.migrations.all().iter().find(|migration| migration.id == id).map(|migration| (**migration).clone())
    }

    fn note(&self, call: String) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

#[async_trait]
impl Backend for Memory {
    fn local_node(&self) -> &str {
        "n1"
    }

    fn views(&self) -> &Views {
        self.looks.fetch_add(1, Ordering::Relaxed);
        &self.views
    }

    async fn register(&self, caller: &Caller, wanted: Registration) -> Result<ProcessSummary, ApiError> {
        let Registration { pid, constraints: Constraints { stay, allowed_nodes }, class } = wanted;
        if class == "unknown" {
            return Err(ApiError::invalid("class", "there is none of that name"));
        }
        self.note(format!("register {pid} stay {stay} nodes {allowed_nodes:?} class {class:?}"));
        let uid = if let Caller::Local { uid, .. } = caller { *uid } else { 0 };
        self.job(pid, uid, "registered");
        let name = JobId::new("n1", pid);
        let row = self.views.processes.get(&ProcessSummary::key_of(&name));
        row.map(|row| (*row).clone()).ok_or(ApiError::ProcessUnknown { process: name.to_string() })
    }

    async fn drain(&self, _: &Caller, on: bool) -> Result<NodeSummary, ApiError> {
        self.note(format!("drain {on}"));
        let row = self.views.nodes.get("n1").ok_or(ApiError::NodeUnknown { node: "n1".into() })?;
        let node = NodeSummary { refuses_because: on.then(|| "it is being drained".into()), ..(*row).clone() };
        self.views.nodes.put(node.clone());
        Ok(node)
    }

    async fn constrain(
        &self,
        _: &Caller,
        process: &JobId,
        change: ConstraintsChange,
    ) -> Result<ProcessSummary, ApiError> {
        self.note(format!("constrain {process} {:?} {:?}", change.stay, change.allowed_nodes));
        let row = self.views.processes.get(&ProcessSummary::key_of(process));
        let mut row = row.map(|row| (*row).clone()).ok_or(ApiError::ProcessUnknown { process: process.to_string() })?;
        row.constraints = change.applied_to(&row.constraints);
        self.views.processes.put(row.clone());
        Ok(row)
    }

    async fn migrate(&self, _: &Caller, process: &JobId, to: Destination) -> Result<MigrationSummary, ApiError> {
        let call = format!("migrate {process} {to:?}");
        let target = match to {
            Destination::Node(node) => node,
            Destination::Home => {
                return Err(ApiError::AlreadyThere { process: process.to_string(), node: "n1".into() });
            }
            Destination::Best => "n2".to_owned(),
        };
        if self.views.nodes.get(&target).is_none() {
            return Err(ApiError::NodeUnknown { node: target });
        }
        let migration = MigrationSummary {
            id: SessionId::random(),
            process: process.clone(),
            source: "n1".into(),
            target,
            state: MoveState::Reserve,
            trigger: Trigger::Request,
            steps: vec![MigrationStep { state: MoveState::Reserve, at_ms: 0 }],
            memory_bytes: 0,
            wire_bytes: 0,
            downtime_us: None,
            reason: "asked for".into(),
            create_time_ms: 0,
            end_time_ms: None,
        };
        self.views.migrations.put(migration.clone());
        self.note(call);
        Ok(migration)
    }

    async fn cancel(&self, _: &Caller, id: SessionId, reason: &str) -> Result<MigrationSummary, ApiError> {
        self.note(format!("cancel {reason}"));
        self.enter(id, MoveState::Aborted);
        self.find(id).ok_or(ApiError::MigrationUnknown { migration: id.to_string() })
    }

    async fn placement_reasons(&self, process: &JobId) -> Result<PlacementReasons, ApiError> {
        Ok(PlacementReasons {
            process: process.clone(),
            decision: PlacementDecision::Stay,
            target: None,
            summary: "home is below its threshold".into(),
            reasons: vec![PlacementReason {
                code: "BELOW_HOME_THRESHOLD".into(),
                text: "1 of 2".into(),
                figures: vec![],
            }],
            candidates: vec![],
            decide_time_ms: None,
            migrations: vec![],
            cannot_move: None,
        })
    }
}

#[async_trait]
impl PeerBackend for Memory {
    async fn node_details(&self) -> Result<NodeDetails, ApiError> {
        Ok(NodeDetails { node: "n1".into(), protocol: 1, ..Default::default() })
    }

    async fn reserve_guest(&self, peer: &str, reservation: GuestReservation) -> Result<String, ApiError> {
        self.note(format!("reserve from {peer}"));
        if reservation.facts.resident_bytes > 1 << 30 {
            return Err(ApiError::TargetFull { node: "n1".into(), why: "it has 1 GiB".into() });
        }
        Ok("127.0.0.1:7470".into())
    }

    async fn release_guest(&self, peer: &str, _: SessionId, reason: &str) -> Result<(), ApiError> {
        self.note(format!("release from {peer}: {reason}"));
        Ok(())
    }

    async fn request_move(&self, peer: &str, _: MoveRequest) -> Result<MigrationSummary, ApiError> {
        Err(ApiError::NotHome { node: peer.into() })
    }

    async fn constrain_guest(&self, peer: &str, _: SessionId, _: Constraints) -> Result<(), ApiError> {
        Err(ApiError::NotHome { node: peer.into() })
    }

    async fn report_migration(&self, peer: &str, migration: MigrationSummary) -> Result<(), ApiError> {
        self.note(format!("report from {peer}"));
        self.views.migrations.put(migration);
        Ok(())
    }

    async fn guest_reasons(&self, _: &str, session: SessionId) -> Result<PlacementReasons, ApiError> {
        Err(ApiError::ProcessUnknown { process: session.to_string() })
    }
}
