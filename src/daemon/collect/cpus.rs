//! Which kinds of CPU in the cluster lack what programs from here may use.
//!
//! ```text
//!   gossip: node, kind of its CPUs ──► ours? known? ──► placement: target or not
//!                                        └─ no: one node of that kind is asked what it has, once
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    cluster::{NodeEntry, NodeState},
    daemon::shared::Shared,
    node::CpuFeatures,
    sys::lock::{Mutex, MutexGuard},
};

/// When another node of a kind is asked, if the one before did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// What is known of kinds of CPU, by [`CpuFeatures::hash`].
pub struct Cpus {
    own: CpuFeatures,
    own_kind: u64,
    kinds: Mutex<HashMap<u64, Kind>>,
}

#[derive(Debug, PartialEq)]
enum Kind {
    Asked(Instant),
    Has,
    Lacks(Arc<str>),
}

impl Cpus {
    /// Of programs that run on such CPUs.
    pub fn new(own: CpuFeatures) -> Self {
        Self { own_kind: own.hash(), own, kinds: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Kind>> {
        // Entries are replaced whole.
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why programs from here cannot run on CPUs of a kind. Of one that is not known yet nothing is
    /// said: its node looks again itself.
    pub fn fit(&self, kind: u64) -> Result<(), Arc<str>> {
        match self.lock().get(&kind) {
            Some(Kind::Lacks(why)) => Err(why.clone()),
            Some(Kind::Has | Kind::Asked(_)) | None => Ok(()),
        }
    }

    /// Of these nodes, each with the kind of its CPUs, one that is to be asked now. Kinds that none
    /// of them has are forgotten.
    fn to_ask<'n>(&self, nodes: &[(&'n str, u64)], now: Instant) -> Option<(&'n str, u64)> {
        let mut kinds = self.lock();
        kinds.retain(|kind, _| nodes.iter().any(|(_, other)| other == kind));
        let is_open = |kind: &u64| match kinds.get(kind) {
            None => *kind != self.own_kind,
            Some(Kind::Asked(at)) => now.saturating_duration_since(*at) >= ASK_AGAIN,
            Some(Kind::Has | Kind::Lacks(_)) => false,
        };
        let (node, kind) = *nodes.iter().find(|(_, kind)| is_open(kind))?;
        kinds.insert(kind, Kind::Asked(now));
        Some((node, kind))
    }

    /// Takes what a node with CPUs of a kind answered.
    fn learn(&self, kind: u64, theirs: &CpuFeatures) {
        let lacking = self.own.missing_at(theirs);
        let known = if lacking.is_empty() {
            Kind::Has
        } else {
            Kind::Lacks(format!("its CPU lacks {}, which programs from here may use", lacking.join(", ")).into())
        };
        self.lock().insert(kind, known);
    }

    /// Asks one node with CPUs of a kind that is not known, if there is one.
    pub async fn ask(&self, shared: &Shared) {
        let view = shared.cluster.view();
        let alive = view.entries.iter().filter(|entry| entry.state == NodeState::Alive && entry.name != view.me);
        let kind = |entry: &NodeEntry| entry.report.as_ref().map(|report| report.summary.features_hash);
        let nodes: Vec<(&str, u64)> = alive.filter_map(|entry| Some((entry.name.as_str(), kind(entry)?))).collect();
        let Some((node, kind)) = self.to_ask(&nodes, Instant::now()) else { return };
        match shared.peers.details(node).await {
            Ok(details) => self.learn(kind, &details.cpu),
            Err(error) => tracing::info!(node, %error, "what its CPUs have is not known yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(flags: &[&str]) -> CpuFeatures {
        CpuFeatures { flags: flags.iter().map(ToString::to_string).collect(), ..CpuFeatures::default() }
    }

    #[test]
    fn each_kind_is_asked_for_once_and_again_without_an_answer() {
        let (own, more, less) = (cpu(&["avx2"]), cpu(&["avx2", "avx512f"]), cpu(&["sse2"]));
        let cpus = Cpus::new(own.clone());
        let nodes = [("n2", &own), ("n3", &more), ("n4", &less), ("n5", &less)];
        let nodes = nodes.map(|(node, cpu)| (node, cpu.hash()));
        let begin = Instant::now();
        let next = |after| cpus.to_ask(&nodes, begin + after).map(|(node, _)| node);
        assert_eq!(next(Duration::ZERO), Some("n3"));
        assert_eq!(next(Duration::ZERO), Some("n4"));
        assert_eq!(next(Duration::ZERO), None);
        cpus.learn(more.hash(), &more);
        assert_eq!(cpus.fit(less.hash()), Ok(()), "not known");
        assert_eq!(next(ASK_AGAIN), Some("n4"));
        cpus.learn(less.hash(), &less);
        assert_eq!(next(2 * ASK_AGAIN), None);
        assert_eq!((cpus.fit(own.hash()), cpus.fit(more.hash())), (Ok(()), Ok(())));
        assert_eq!(*cpus.fit(less.hash()).unwrap_err(), *"its CPU lacks avx2, which programs from here may use");
        assert_eq!(cpus.to_ask(&nodes[..1], begin), None);
        assert_eq!(cpus.fit(less.hash()), Ok(()), "no node has such CPUs any more");
    }
}
