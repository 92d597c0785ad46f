//! Jobs, nodes and moves as placement sees them.

use std::{path::PathBuf, sync::Arc};

use super::View;
use crate::{
    api::backend::GuestReservation,
    cluster::{NodeEntry, NodeState},
    daemon::{
        collect::{Measured, figures::Figures},
        shared::{agents::GuestView, jobs::Job},
    },
    job::{History, JobRecord, JobSpec, SessionId},
    keys::NodeName,
    node::SchedExtState,
    placement::{InFlight, JobView, NodeView, Owners, cost::tasks_per_cpu},
    sys::clock::now_ms,
};

impl View<'_> {
    /// The sums of the weights, in thousand-millionths per second, of all that runs here, and of
    /// what belongs to this node's own users.
    pub fn weights_nano(&self) -> (u64, u64) {
        let young_ms = self.collected.young_ms();
        let views = self.jobs();
        let weight = |guests: bool| -> f64 {
            let busy = views.iter().filter(|job| job.record.history.demand_milli > 0 && job.is_guest() == guests);
            busy.map(|job| job.load(young_ms).weight).sum()
        };
        let owners = weight(false) + self.collected.measured().others_weight.get();
        let nano = |weight: f64| (weight * 1e9) as u64;
        (nano(owners + weight(true)), nano(owners))
    }

    /// The nodes as placement sees them.
    pub fn nodes(&self) -> Vec<NodeView> {
        let view = self.shared.cluster.view();
        let weights = self.weights_nano();
        let work_ms = self.collected.learned.work_ms();
        view.entries.iter().filter_map(|entry| self.view_of(entry, &view.me, weights, work_ms)).collect()
    }

    /// A node as placement at `me` sees it, which has such weights itself, and whose moves take so
    /// much CPU time.
    fn view_of(&self, entry: &NodeEntry, me: &NodeName, weights_nano: (u64, u64), work_ms: u64) -> Option<NodeView> {
        let report = entry.report.as_ref()?;
        let (summary, load) = (&report.summary, &report.load);
        let differs = self.shared.info.protocol_version != summary.protocol_version;
        let features_ok = if !summary.can_migrate {
            Err("something that hosting needs is missing there (`scx_mosix check` says what)".into())
        } else if differs {
            Err(format!("it speaks version {} with its peers", summary.protocol_version).into())
        } else {
            self.collected.cpus.fit(summary.features_hash)
        };
        let is_here = entry.name == *me;
        let times = self.collected.learned.times(entry.name.as_str());
        let (weight_nano, owners_weight_nano) =
            if is_here { weights_nano } else { (load.weight_nano, load.owners_weight_nano) };
        let tasks_milli = tasks_per_cpu(load.load_milli, summary.speed_permille) * f64::from(summary.cpus) * 1_000.0;
        let owners_permille = if is_here { self.collected.measured().owners_permille() } else { load.owners_permille };
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
            free_memory_bytes: load.memory_free_bytes + if is_here { self.under_way.reserved_bytes } else { 0 },
            total_memory_bytes: summary.memory_total_bytes,
            swapped_bytes: load.swapped_bytes,
            depletion_bytes_per_s: if is_here { self.collected.measured().depletion.bytes_per_s() } else { 0 },
            memory_stall_centi: load.pressure.map_or(0, |pressure| pressure.memory_full_centi),
            link_bytes_per_s: times.bytes_per_s(),
            freeze_ms: times.freeze_ms(),
            work_ms,
            age_ms: if is_here { 0 } else { report.age_ms },
            accepting: load.accepting && !(is_here && self.shared.draining.is_on()),
            alive: entry.state == NodeState::Alive,
            features_ok,
        })
    }

    /// A job of this node that never moved.
    pub fn record_of_job(&self, job: &Job) -> JobRecord {
        self.record(job, &self.collected.measured())
    }

    /// A guest, which `migration` brought.
    pub fn record_of_guest(&self, migration: SessionId, guest: &GuestView) -> JobRecord {
        record_of(migration, guest, &self.collected.measured())
    }

    fn record(&self, job: &Job, measured: &Measured) -> JobRecord {
        let figures = measured.figures.get(&job.cgroup);
        JobRecord {
            id: self.shared.name_of(job),
            session: job.session,
            spec: JobSpec {
                comm: figures.and_then(|figures| figures.root_comm(job.root_pid)).unwrap_or_default(),
                uid: job.uid,
                tree: Some(job.tree()),
            },
            constraints: job.constraints.clone(),
            history: History {
                counters: figures.map(|figures| figures.usage.counters).unwrap_or_default(),
                tree_attained_ms: measured.trees.attained_ms(job.tree()),
                age_ms: now_ms().saturating_sub(job.began_ms),
                demand_milli: figures.map_or(0, |figures| figures.demand_milli),
                home_link_bytes_per_s: None,
            },
        }
    }

    /// The jobs that run here as placement sees them: this node's own and guests.
    pub fn jobs(&self) -> Vec<JobView> {
        let (agents, measured) = (&self.agents, self.collected.measured());
        let measured = &*measured;
        let view = |record, cgroup: &PathBuf, since_last_move_ms, cannot_move: Option<&String>| {
            let figures = measured.figures.get(cgroup);
            let usage = figures.map(|figures| figures.usage).unwrap_or_default();
            JobView {
                record,
                running_on: self.shared.node.as_str().into(),
                working_set_bytes: figures.map_or(0, Figures::working_set_bytes),
                // All of its memory crosses while it stands still.
                frozen_bytes: usage.resident_bytes,
                mapped_bytes: usage.mapped_bytes,
                since_last_move_ms,
                movable: cannot_move.map_or(Ok(()), |why| Err(why.as_str().into())),
            }
        };
        let jobs = self.shared.jobs();
        let at_home = jobs.iter().filter(|job| !agents.has_moved(job.session));
        let at_home = at_home.map(|job| {
            let cannot_move = measured.cannot_move.get(&job.session);
            view(self.record(job, measured), &job.cgroup, None, cannot_move)
        });
        let guests = agents.guests.iter().map(|(migration, guest)| {
            let record = record_of(*migration, guest, measured);
            view(record, &guest.cgroup, Some(measured.since_arrival_ms(*migration)), guest.cannot_move.as_ref())
        });
        at_home.chain(guests).collect()
    }

    /// The moves out of here and to here that are under way.
    pub fn in_flight(&self) -> Vec<InFlight> {
        let here: Arc<str> = self.shared.node.as_str().into();
        let leaving = self.under_way.leaving.iter().map(|(_, process, target)| InFlight {
            job: process.clone(),
            source: here.clone(),
            target: target.as_str().into(),
        });
        let arriving = self.under_way.arriving.iter().map(|guest| InFlight {
            job: guest.job.clone(),
            source: guest.source.as_str().into(),
            target: here.clone(),
        });
        leaving.chain(arriving).collect()
    }
}

/// A guest as it is now: what it did before it came continues here.
fn record_of(migration: SessionId, guest: &GuestView, measured: &Measured) -> JobRecord {
    let mut record = guest.job.clone();
    let History { counters, tree_attained_ms, age_ms, demand_milli, .. } = &mut record.history;
    let figures = measured.figures.get(&guest.cgroup);
    *demand_milli = figures.map_or(0, |figures| figures.demand_milli);
    *age_ms += measured.since_arrival_ms(migration);
    if let Some(Figures { usage, .. }) = figures {
        *counters += usage.counters;
        *tree_attained_ms += usage.counters.cpu_ms();
    }
    record
}

/// A job that another node wants to send here, as placement sees it.
pub fn announced(guest: &GuestReservation) -> JobView {
    JobView {
        record: guest.job.clone(),
        running_on: guest.source_node.as_str().into(),
        working_set_bytes: guest.facts.resident_bytes,
        frozen_bytes: guest.facts.resident_bytes,
        // The source knows, and has counted it.
        mapped_bytes: 0,
        since_last_move_ms: None,
        movable: Ok(()),
    }
}
