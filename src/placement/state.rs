//! What placement remembers between decisions: leases and failures, which are few and expire by
//! themselves.
//!
//! ```text
//!   decided / admitted        under way                 arrived
//!   lease ───────────────── seen in flight ──────────── lease_ms ──> gone
//!     ├─ released(job, target): gone at once
//!     └─ failed(job, target):   gone at once, and the pair is left alone for retry_ms; for settle_ms if the target was busy
//! ```
//!
//! None of these times ends before the target has spoken since: what it said before cannot show
//! what came of it. What it has said since shows the job's weight and memory at once, and its
//! demand as a load rises: the charge is what is missing.

use super::config::Config;
use super::input::{Input, JobView, NodeName, NodeView};
use super::slowdown::Load;
use crate::job::JobId;

/// What a load does not show yet of a task after a second, as a share: MOSIX's decay (see `node`).
const RISE: f64 = 5.0 / 8.0;

/// A charge to a node for a job that was sent there and may not show in its load yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// Its home; `None` if this node knows it by a move only.
    pub home: Option<NodeName>,
    /// The node that it leaves; the same as `target` for a new job that was assigned to the node
    /// where it started.
    pub source: NodeName,
    /// The node that is charged.
    pub target: NodeName,
    /// What the job asks for.
    pub load: Load,
    /// The memory that it needs, in bytes.
    pub working_set_bytes: u64,
    /// When it was granted or last seen under way, on the clock of [`Input::now_ms`].
    pub seen_ms: u64,
}

impl Lease {
    /// Whether the node that it leaves is its home.
    pub(super) fn is_from_home(&self) -> bool {
        self.home.as_ref() == Some(&self.source)
    }
}

#[derive(Debug, Clone)]
struct Failure {
    /// The job that failed; `None` if the target refused admission, which concerns all.
    job: Option<JobId>,
    target: NodeName,
    at_ms: u64,
    /// How long the pair is left alone from then on.
    hold_ms: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    now_ms: u64,
    leases: Vec<Lease>,
    failures: Vec<Failure>,
}

impl State {
    /// Keeps leases of moves under way alive, drops what has expired, and makes up leases for moves
    /// that this node did not decide (those of a daemon before its restart).
    pub(super) fn refresh(&mut self, input: &Input, config: &Config) {
        let now_ms = input.now_ms;
        self.now_ms = now_ms;
        for flight in input.in_flight.iter().filter(|flight| flight.source != flight.target) {
            let same = |lease: &&mut Lease| {
                lease.job == flight.job && lease.source == flight.source && lease.target == flight.target
            };
            let known = self.leases.iter_mut().find(same);
            if let Some(lease) = known {
                lease.seen_ms = now_ms;
                continue;
            }
            let job = input.jobs.iter().find(|job| *job.id() == flight.job);
            self.leases.push(Lease {
                job: flight.job.clone(),
                home: job.map(|job| job.home().clone()),
                source: flight.source.clone(),
                target: flight.target.clone(),
                load: job.map_or(Load::NONE, |job| job.load(config.young_ms)),
                working_set_bytes: job.map_or(0, |job| job.working_set_bytes),
                seen_ms: now_ms,
            });
        }
        let holds = |since_ms: u64, target: &str, for_ms: u64| {
            let passed_ms = now_ms.saturating_sub(since_ms);
            // What is stale is no target, and not worth remembering for.
            let age_ms = || input.node(target).map_or(0, |node| node.age_ms.min(config.stale_ms));
            passed_ms < for_ms || passed_ms < age_ms()
        };
        self.leases.retain(|lease| holds(lease.seen_ms, &lease.target, config.lease_ms));
        self.failures.retain(|failure| holds(failure.at_ms, &failure.target, failure.hold_ms));
    }

    pub(super) fn leases(&self) -> &[Lease] {
        &self.leases
    }

    /// Charges `target` for `job` from now on.
    pub(super) fn grant(&mut self, job: &JobView, target: &NodeName, now_ms: u64, config: &Config) {
        self.leases.retain(|lease| lease.job != *job.id() || lease.target != *target);
        self.leases.push(Lease {
            job: job.id().clone(),
            home: Some(job.home().clone()),
            source: job.running_on.clone(),
            target: target.clone(),
            load: job.load(config.young_ms),
            working_set_bytes: job.working_set_bytes,
            seen_ms: now_ms,
        });
    }

    pub(super) fn released(&mut self, job: &JobId, target: &str) {
        self.leases.retain(|lease| lease.job != *job || *lease.target != *target);
    }

    pub(super) fn failed(&mut self, job: &JobId, target: &str, at_ms: u64, hold_ms: u64) {
        self.released(job, target);
        self.leave_alone(Failure { job: Some(job.clone()), target: target.into(), at_ms, hold_ms });
    }

    pub(super) fn busy(&mut self, job: &JobId, target: &str, at_ms: u64, hold_ms: u64) {
        self.released(job, target);
        self.leave_alone(Failure { job: None, target: target.into(), at_ms, hold_ms });
    }

    fn leave_alone(&mut self, failure: Failure) {
        self.failures.retain(|other| other.job != failure.job || other.target != failure.target);
        self.failures.push(failure);
    }

    /// How long ago `job`, or `None` for any, failed to get to `target`, if it did lately, and how
    /// long that is left alone, both in milliseconds.
    pub(super) fn failed_lately(&self, job: Option<&JobId>, target: &str, now_ms: u64) -> Option<(u64, u64)> {
        self.failures
            .iter()
            .find(|failure| failure.job.as_ref() == job && &*failure.target == target)
            .map(|failure| (now_ms.saturating_sub(failure.at_ms), failure.hold_ms))
    }

    /// What this view of a node does not show yet, each job with whether it is at home there.
    pub(super) fn unseen<'a>(&'a self, node: &'a NodeView) -> impl Iterator<Item = (Load, bool)> + 'a {
        let said_ms = self.now_ms.saturating_sub(node.age_ms);
        self.charges(&node.name).map(move |lease| {
            let load = match said_ms.saturating_sub(lease.seen_ms) {
                0 => lease.load,
                since_ms => Load { demand: lease.load.demand * RISE.powf(since_ms as f64 / 1_000.0), ..Load::NONE },
            };
            (load, lease.home.as_ref() == Some(&node.name))
        })
    }

    /// The jobs that were sent to `node` lately.
    fn charges<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Lease> {
        self.leases.iter().filter(move |lease| &*lease.target == node)
    }

    /// The memory that is on its way to `node`, in bytes.
    pub(super) fn charged_bytes(&self, node: &str) -> u64 {
        self.charges(node).fold(0, |bytes, lease| bytes.saturating_add(lease.working_set_bytes))
    }

    /// The moves from `source` that are under way or were decided just now.
    pub(super) fn leaving<'a>(&'a self, source: &'a str, now_ms: u64) -> impl Iterator<Item = &'a Lease> {
        self.leases
            .iter()
            .filter(move |lease| &*lease.source == source && lease.target != lease.source && lease.seen_ms >= now_ms)
    }

    /// How long ago, in milliseconds, the last move from `source` ended (or was decided without
    /// having begun), if it is remembered; of `job` only, if one is named.
    pub(super) fn last_left_ms(&self, source: &str, job: Option<&JobId>, now_ms: u64) -> Option<u64> {
        self.leases
            .iter()
            .filter(|lease| &*lease.source == source && lease.target != lease.source && lease.seen_ms < now_ms)
            .filter(|lease| job.is_none_or(|job| lease.job == *job))
            .map(|lease| now_ms - lease.seen_ms)
            .min()
    }

    /// The number of jobs that are on their way to `target` or arrived less than `settle_ms` ago.
    pub(super) fn arriving(&self, target: &str, now_ms: u64, settle_ms: u64) -> u32 {
        let is_arriving = |lease: &&Lease| {
            lease.source != lease.target && (lease.seen_ms >= now_ms || now_ms - lease.seen_ms < settle_ms)
        };
        u32::try_from(self.charges(target).filter(is_arriving).count()).unwrap_or(u32::MAX)
    }

    /// Where `job` is on its way to, if it is.
    pub(super) fn under_way(&self, job: &JobId, now_ms: u64) -> Option<&NodeName> {
        self.leases
            .iter()
            .find(|lease| lease.job == *job && lease.source != lease.target && lease.seen_ms >= now_ms)
            .map(|lease| &lease.target)
    }
}
