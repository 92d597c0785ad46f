//! What the parts of one daemon share.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    agents::Agents,
    cpus::Cpus,
    draining::Draining,
    execs::Execs,
    figures::{Figures, MemoryFalls, PartOfLoad, Smoothed},
    host::{AgentSettings, Host},
    jobs::{Job, Jobs},
    moves::Moves,
    peers::Peers,
    placing::Placing,
    rows::AgentView,
    trees::Trees,
};
use crate::{
    api::{
        backend::{GuestReservation, Requirements, Views},
        name::ProcessName,
        view::ProcessSummary,
    },
    cluster::{ClusterHandle, NodeEntry, NodeState},
    control::{Constraints, SessionId},
    keys::NodeName,
    node::{NodeInfo, SchedExtState},
    placement::{InFlight, JobView, NodeView, Owners, cost::tasks_per_cpu},
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
    /// What holds for jobs of a class, by its name.
    pub classes: BTreeMap<String, Constraints>,
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
    /// Whether placement moves jobs by itself.
    pub balance: bool,
    /// On which CPUs programs from here can run.
    pub cpus: Cpus,
    /// Whether this node sends its guests away.
    pub draining: Draining,
    /// The programs that jobs of this node run.
    pub execs: Execs,
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
    /// CPU time by what users of this node started.
    pub trees: Trees,
    /// When guests arrived, by migration.
    pub arrived: HashMap<SessionId, Instant>,
    /// How busy this node's CPUs are, in percent.
    pub cpu_busy_percent: f64,
    /// The weights of all that belongs neither to a job nor to scx_mosix, in 1/s.
    pub others_weight: Smoothed,
    /// The part of the load that moves and the daemon make. It is no reason to move others: it ends by itself, and what a move costs is part
    /// of its price.
    pub own_load: PartOfLoad,
    /// The part that belongs to this node's own users.
    pub owners_load: PartOfLoad,
    /// The part that belongs to its guests.
    pub guests_load: PartOfLoad,
    /// By how much free memory gets less.
    pub memory_falls: MemoryFalls,
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

    /// The name in the cluster of a job whose home is here.
    pub fn name_of(&self, job: &Job) -> ProcessName {
        ProcessName { node: self.node.clone(), pid: job.root_pid }
    }

    /// The guests that are here or on their way, of which each will have to leave if this node is drained.
    pub fn guests(&self) -> u32 {
        let here = self.agent_view().guests.into_values().filter(|guest| guest.home != self.node).count();
        let arriving = self.host.arriving().into_iter().filter(|(process, _)| process.node != self.node).count();
        u32::try_from(here + arriving).unwrap_or(u32::MAX)
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

    /// The runnable tasks that share each CPU of this node with a program of its own users, as last sampled.
    pub fn tasks_per_cpu(&self) -> f64 {
        let view = self.cluster.view();
        view.my_entry().and_then(|entry| entry.report.as_ref()).map_or(0.0, |report| {
            let all = tasks_per_cpu(report.load.load_milli, report.summary.speed_permille);
            let is_first = report.summary.sched_ext == SchedExtState::Attached;
            if is_first { all * f64::from(self.owners_permille()) / 1_000.0 } else { all }
        })
    }

    /// The sums of the weights, in thousand-millionths per second, of all that runs here, and of what belongs to this node's own users.
    pub fn weights_nano(&self) -> (u64, u64) {
        let young_ms = self.placing.young_ms();
        let views = self.job_views();
        let weight = |guests: bool| -> f64 {
            let busy = views.iter().filter(|job| job.demand_milli > 0 && job.is_guest() == guests);
            busy.map(|job| job.load(young_ms).weight).sum()
        };
        let owners = weight(false) + self.measured().others_weight.get();
        let nano = |weight: f64| (weight * 1e9) as u64;
        (nano(owners + weight(true)), nano(owners))
    }

    /// The share of the load that programs of this node's own users make, in thousandths.
    pub fn owners_permille(&self) -> u16 {
        let measured = self.measured();
        measured.owners_load.permille_beside(&measured.guests_load)
    }

    /// The nodes as placement sees them.
    pub fn node_views(&self) -> Vec<NodeView> {
        let view = self.cluster.view();
        let weights = self.weights_nano();
        let work_ms = self.placing.work_ms();
        view.entries.iter().filter_map(|entry| self.view_of(entry, &view.me, weights, work_ms)).collect()
    }

    /// A node as placement at `me` sees it, which has such weights itself, and whose moves take so much CPU time.
    fn view_of(&self, entry: &NodeEntry, me: &NodeName, weights_nano: (u64, u64), work_ms: u64) -> Option<NodeView> {
        let report = entry.report.as_ref()?;
        let (summary, load) = (&report.summary, &report.load);
        let differs = self.info.protocol_version != summary.protocol_version;
        let features_ok = if !summary.can_migrate {
            Err("something that hosting needs is missing there (`scx_mosix check` says what)".into())
        } else if differs {
            Err(format!("it speaks version {} with its peers", summary.protocol_version).into())
        } else {
            self.cpus.fit(summary.features_hash)
        };
        let is_here = entry.name == *me;
        let times = self.placing.times(entry.name.as_str());
        let (weight_nano, owners_weight_nano) =
            if is_here { weights_nano } else { (load.weight_nano, load.owners_weight_nano) };
        let tasks_milli = tasks_per_cpu(load.load_milli, summary.speed_permille) * f64::from(summary.cpus) * 1_000.0;
        let owners_permille = if is_here { self.owners_permille() } else { load.owners_permille };
        Some(NodeView {
            name: entry.name.as_str().into(),
            cpus: summary.cpus,
            speed_milli: summary.speed_permille,
            load_milli: load.load_milli,
            weight_nano,
            owners: (summary.sched_ext == SchedExtState::Attached).then(|| Owners {
                demand_milli: (tasks_milli * f64::from(owners_permille) / 1_000.0) as u32,
                weight_nano: owners_weight_nano,
            }),
            // What is reserved here placement knows by itself.
            free_memory_bytes: load.memory_free_bytes + if is_here { self.host.reserved_bytes() } else { 0 },
            total_memory_bytes: summary.memory_total_bytes,
            swapped_bytes: load.swapped_bytes,
            memory_falls_bytes_per_s: if is_here { self.measured().memory_falls.bytes_per_s() } else { 0 },
            memory_stall_centi: load.pressure.map_or(0, |pressure| pressure.memory_full_centi),
            link_bytes_per_s: times.bytes_per_s(),
            freeze_ms: times.freeze_ms(),
            work_ms,
            age_ms: if is_here { 0 } else { report.age_ms },
            accepting: load.accepting && !(is_here && self.draining.is_on()),
            alive: entry.state == NodeState::Alive,
            features_ok,
        })
    }

    /// The jobs that run here as placement sees them: this node's own and guests.
    pub fn job_views(&self) -> Vec<JobView> {
        let agents = self.agent_view();
        let measured = self.measured();
        let here: Arc<str> = self.node.as_str().into();
        let mut views = Vec::new();
        for job in self.jobs().iter() {
            if agents.has_moved(job.session) {
                continue;
            }
            let figures = measured.figures.get(&job.cgroup).cloned().unwrap_or_default();
            let cannot = measured.cannot_move.get(&job.session).cloned();
            views.push(JobView {
                id: format!("{}/{}", self.node, job.root_pid).into(),
                home: here.clone(),
                running_on: here.clone(),
                demand_milli: figures.demand_milli,
                attained_ms: figures.cpu_time_ms,
                tree: Some(job.tree()),
                tree_attained_ms: measured.trees.attained_ms(job.tree()),
                rss_bytes: figures.working_set_bytes(),
                // All of its memory crosses while it stands still.
                frozen_bytes: figures.resident_bytes,
                mapped_bytes: figures.mapped_bytes,
                io_bytes: figures.io_bytes,
                home_link_bytes_per_s: None,
                age_ms: super::now_ms().saturating_sub(job.began_ms),
                since_last_move_ms: None,
                movable: cannot.map_or(Ok(()), |why| Err(why.into())),
                pinned: job.constraints.stay,
                allowed_nodes: allowed(&job.constraints),
            });
        }
        for (migration, guest) in &agents.guests {
            let figures = measured.figures.get(&guest.cgroup).cloned().unwrap_or_default();
            let since = measured.arrived.get(migration).map_or(0, |at| at.elapsed().as_millis() as u64);
            views.push(JobView {
                id: format!("{}/{}", guest.home, guest.root_pid).into(),
                home: guest.home.as_str().into(),
                running_on: here.clone(),
                demand_milli: figures.demand_milli,
                attained_ms: guest.past.attained_ms + figures.cpu_time_ms,
                tree: guest.past.tree,
                tree_attained_ms: guest.past.tree_attained_ms + figures.cpu_time_ms,
                rss_bytes: figures.working_set_bytes(),
                frozen_bytes: figures.resident_bytes,
                mapped_bytes: figures.mapped_bytes,
                io_bytes: guest.past.io_bytes.saturating_add(figures.io_bytes),
                home_link_bytes_per_s: guest.past.home_link_bytes_per_s,
                age_ms: guest.past.age_ms + since,
                since_last_move_ms: Some(since),
                movable: guest.cannot_move.clone().map_or(Ok(()), |why| Err(why.into())),
                pinned: guest.constraints.stay,
                allowed_nodes: allowed(&guest.constraints),
            });
        }
        views
    }

    /// A job that another node wants to send here, as placement sees it.
    pub fn announced(&self, guest: &GuestReservation) -> JobView {
        JobView {
            id: format!("{}/{}", guest.home_node, guest.root_pid).into(),
            home: guest.home_node.as_str().into(),
            running_on: guest.source_node.as_str().into(),
            demand_milli: guest.past.demand_milli,
            attained_ms: guest.past.attained_ms,
            tree: guest.past.tree,
            tree_attained_ms: guest.past.tree_attained_ms,
            rss_bytes: guest.body.resident_bytes,
            frozen_bytes: guest.body.resident_bytes,
            // The source knows, and has counted it.
            mapped_bytes: 0,
            io_bytes: guest.past.io_bytes,
            home_link_bytes_per_s: guest.past.home_link_bytes_per_s,
            age_ms: guest.past.age_ms,
            since_last_move_ms: None,
            movable: Ok(()),
            pinned: guest.constraints.stay,
            allowed_nodes: allowed(&guest.constraints),
        }
    }

    /// The moves out of here and to here that are under way, as placement sees them.
    pub fn in_flight(&self) -> Vec<InFlight> {
        let here: Arc<str> = self.node.as_str().into();
        let leaving = self.moves.under_way().into_iter().map(|(_, process, target)| InFlight {
            job: process.to_string().into(),
            source: here.clone(),
            target: target.into(),
        });
        let arriving = self.host.arriving().into_iter().map(|(process, source)| InFlight {
            job: process.to_string().into(),
            source: source.into(),
            target: here.clone(),
        });
        leaving.chain(arriving).collect()
    }
}

/// The nodes where a job may run, as placement is told.
fn allowed(constraints: &Constraints) -> Option<Vec<Arc<str>>> {
    let nodes = &constraints.allowed_nodes;
    (!nodes.is_empty()).then(|| nodes.iter().map(|node| node.as_str().into()).collect())
}
