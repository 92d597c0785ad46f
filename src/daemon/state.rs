//! What the parts of one daemon share.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    agents::Agents,
    figures::Figures,
    host::{AgentSettings, Host},
    jobs::Jobs,
    moves::Moves,
    peers::Peers,
    placing::Placing,
    rows::AgentView,
};
use crate::{
    api::{
        backend::{Requirements, Views},
        view::ProcessSummary,
    },
    cluster::ClusterHandle,
    control::SessionId,
    node::NodeInfo,
    placement::{InFlight, JobView, NodeView},
};

/// The daemon's parts and what they know.
pub struct State {
    /// This node.
    pub info: NodeInfo,
    /// Its name, as text.
    pub node: String,
    /// Where its port is; `None` without a key.
    pub address: Option<String>,
    /// What agents are started with.
    pub agent_settings: AgentSettings,
    /// What the API shows.
    pub views: Arc<Views>,
    /// The jobs whose home is here.
    pub jobs: Mutex<Jobs>,
    /// The agents of this node.
    pub agents: Arc<Agents>,
    /// Moves out of here.
    pub moves: Arc<Moves>,
    /// Guests on their way here.
    pub host: Host,
    /// The other nodes' daemons.
    pub peers: Arc<dyn Peers>,
    /// The cluster.
    pub cluster: ClusterHandle,
    /// Decisions.
    pub placing: Placing,
    /// What was measured last.
    pub measured: Mutex<Measured>,
    /// Why the scheduler is not attached, if it is not.
    pub scheduler: watch::Receiver<crate::scheduler::State>,
    /// Cancelled when the daemon ends.
    pub stop: CancellationToken,
    /// When it began, in ms since the epoch.
    pub start_time_ms: u64,
}

/// Figures that are renewed every second, and what is derived from them.
#[derive(Default)]
pub struct Measured {
    /// Use by cgroup.
    pub figures: HashMap<PathBuf, Figures>,
    /// Why a job of this node that runs here cannot move, by session; jobs that can are not in it.
    pub cannot_move: HashMap<SessionId, String>,
    /// What hosting nodes say of jobs of this node, and when they said it.
    pub away: HashMap<i32, (Instant, ProcessSummary)>,
    /// When guests arrived, by migration.
    pub arrived: HashMap<SessionId, Instant>,
    /// How busy this node's CPUs are, in percent.
    pub cpu_busy_percent: f64,
}

impl State {
    /// The table of jobs.
    pub fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // Jobs are inserted and removed whole, so a panic elsewhere leaves the table usable.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was measured last.
    pub fn measured(&self) -> MutexGuard<'_, Measured> {
        // Each field is replaced whole.
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agents' states, sorted.
    pub fn agent_view(&self) -> AgentView {
        AgentView::new(self.agents.states().into_iter().map(|(_, state)| state))
    }

    /// What programs from here need of another node.
    pub fn requirements(&self) -> Requirements {
        Requirements {
            protocol: self.info.protocol_version,
            cpu: self.info.cpu.clone(),
            kernel_release: self.info.kernel_release.clone(),
            criu_version: self.info.features.criu.map(|version| version.to_string()).unwrap_or_default(),
        }
    }

    /// What could be given to programs now, in bytes, as last sampled.
    pub fn available_bytes(&self) -> u64 {
        let view = self.cluster.view();
        view.my_entry().and_then(|entry| entry.report.as_ref()).map_or(0, |report| report.load.memory_free_bytes)
    }

    /// The nodes as placement sees them.
    pub fn node_views(&self) -> Vec<NodeView> {
        let view = self.cluster.view();
        let own = view.my_entry().and_then(|entry| entry.report.clone());
        let of = |entry: &crate::cluster::NodeEntry| {
            let report = entry.report.as_ref()?;
            let (summary, load) = (&report.summary, &report.load);
            let differs = own.as_ref().is_some_and(|own| own.summary.protocol_version != summary.protocol_version);
            let features_ok = if !summary.can_migrate {
                Err("something that hosting needs is missing there (`scx_mosix check` says what)".into())
            } else if differs {
                Err(format!("it speaks version {} with its peers", summary.protocol_version).into())
            } else {
                Ok(())
            };
            Some(NodeView {
                name: entry.name.as_str().into(),
                cpus: summary.cpus,
                speed_milli: summary.speed_permille,
                load_milli: load.load_milli,
                free_memory_bytes: load.memory_free_bytes,
                total_memory_bytes: summary.memory_total_bytes,
                age_ms: if entry.name == view.me { 0 } else { report.age_ms },
                accepting: load.accepting,
                alive: entry.state == crate::cluster::NodeState::Alive,
                sched_ext: summary.sched_ext == crate::node::SchedExtState::Attached,
                features_ok,
            })
        };
        view.entries.iter().filter_map(of).collect()
    }

    /// The jobs that run here as placement sees them: this node's own and guests.
    pub fn job_views(&self) -> Vec<JobView> {
        let agents = self.agent_view();
        let measured = self.measured();
        let here: Arc<str> = self.node.as_str().into();
        let mut views = Vec::new();
        for job in self.jobs().iter() {
            let home = agents.homes.get(&job.session);
            if home.is_some_and(|home| home.epoch > 0) {
                continue;
            }
            let figures = measured.figures.get(&job.cgroup).cloned().unwrap_or_default();
            let cannot = measured.cannot_move.get(&job.session).cloned();
            views.push(JobView {
                id: format!("{}/{}", self.node, job.root_pid).into(),
                root_pid: job.root_pid,
                home: here.clone(),
                running_on: here.clone(),
                cpu_milli: figures.cpu_milli,
                demand_milli: figures.demand_milli,
                rss_bytes: figures.resident_bytes,
                age_ms: super::now_ms().saturating_sub(job.registered_ms),
                since_last_move_ms: None,
                moves: 0,
                threads: figures.threads,
                movable: cannot.map_or(Ok(()), |why| Err(why.into())),
                pinned: job.stay,
                allowed_nodes: None,
            });
        }
        for (migration, guest) in &agents.guests {
            let figures = measured.figures.get(&guest.cgroup).cloned().unwrap_or_default();
            let since = measured.arrived.get(migration).map_or(0, |at| at.elapsed().as_millis() as u64);
            views.push(JobView {
                id: format!("{}/{}", guest.home, guest.root_pid).into(),
                root_pid: guest.root_pid,
                home: guest.home.as_str().into(),
                running_on: here.clone(),
                cpu_milli: figures.cpu_milli,
                demand_milli: figures.demand_milli,
                rss_bytes: figures.resident_bytes,
                age_ms: figures.age_ms.max(since),
                since_last_move_ms: Some(since),
                moves: u32::try_from(guest.epoch).unwrap_or(u32::MAX),
                threads: figures.threads,
                movable: guest.cannot_move.clone().map_or(Ok(()), |why| Err(why.into())),
                pinned: guest.stay,
                allowed_nodes: None,
            });
        }
        views
    }

    /// The moves out of here that are under way, as placement sees them.
    pub fn in_flight(&self) -> Vec<InFlight> {
        let here: Arc<str> = self.node.as_str().into();
        let under_way = self.moves.under_way();
        under_way
            .into_iter()
            .map(|(_, process, target)| InFlight {
                job: process.to_string().into(),
                source: here.clone(),
                target: target.into(),
            })
            .collect()
    }
}
