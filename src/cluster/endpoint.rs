//! A [`Core`] behind the seal: datagrams in, datagrams out, still without I/O.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use super::{ClusterView, Core, Event, LocalState, Traffic};
use crate::keys::{OpenError, Sealer};

/// The same complaint about the same machine is logged once in this time.
const COMPLAINT_INTERVAL_MS: u64 = 60_000;
/// A machine of another cluster is told so once in this time.
const REFUSAL_INTERVAL_MS: u64 = 1000;
/// Machines that complaints are remembered of.
const MAX_REMEMBERED: usize = 256;

/// One node on the network.
pub struct Endpoint {
    core: Core,
    sealer: Option<Sealer>,
    complaints: RateLimit,
    refusals: RateLimit,
    outgoing: Vec<(SocketAddr, Vec<u8>)>,
    traffic: Traffic,
}

impl Endpoint {
    /// A node that talks through `sealer`.
    pub fn new(core: Core, sealer: Sealer) -> Self {
        Self { sealer: Some(sealer), ..Self::alone(core) }
    }

    /// A node that talks to no other.
    pub fn alone(core: Core) -> Self {
        Self {
            core,
            sealer: None,
            complaints: RateLimit::new(COMPLAINT_INTERVAL_MS),
            refusals: RateLimit::new(REFUSAL_INTERVAL_MS),
            outgoing: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    /// Takes a datagram, which may be anything from any host. Gives back what is to be logged about
    /// it, seldom enough.
    pub fn receive(&mut self, now_ms: u64, from: SocketAddr, datagram: &[u8]) -> Option<Complaint> {
        let sealer = self.sealer.as_mut()?;
        self.traffic.received_datagrams += 1;
        self.traffic.received_bytes += datagram.len() as u64;
        let about = match sealer.open(datagram) {
            Ok(opened) => match self.core.receive(now_ms, from, &opened.payload) {
                Ok(()) => return None,
                Err(error) => About::Payload(error),
            },
            Err(error) => {
                if matches!(error, OpenError::ForeignCluster(_)) && self.refusals.allows(now_ms, from.ip(), 0) {
                    self.outgoing.push((from, sealer.refusal()));
                }
                About::Datagram(error)
            }
        };
        self.traffic.refused_datagrams += 1;
        // A few late datagrams are an everyday matter of networks.
        if matches!(about, About::Datagram(OpenError::Replayed)) {
            return None;
        }
        self.complaints.allows(now_ms, from.ip(), about.kind()).then_some(Complaint { from, about })
    }

    /// See [`Core::tick`].
    pub fn tick(&mut self, now_ms: u64) {
        self.core.tick(now_ms);
    }

    /// See [`Core::next_deadline_ms`].
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.core.next_deadline_ms()
    }

    /// See [`Core::leave`].
    pub fn leave(&mut self, now_ms: u64) {
        self.core.leave(now_ms);
    }

    /// See [`Core::set_seeds`].
    pub fn set_seeds(&mut self, seeds: BTreeSet<SocketAddr>) {
        self.core.set_seeds(seeds);
    }

    /// See [`Core::set_local`].
    pub fn set_local(&mut self, local: LocalState) {
        self.core.set_local(local);
    }

    /// See [`Core::view`]; with the traffic.
    pub fn view(&self, now_ms: u64) -> ClusterView {
        ClusterView { traffic: self.traffic, ..self.core.view(now_ms) }
    }

    /// See [`Core::take_changed`].
    pub fn take_changed(&mut self) -> bool {
        self.core.take_changed()
    }

    /// See [`Core::take_events`].
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> {
        self.core.take_events()
    }

    /// The datagrams to be sent now, in order.
    pub fn take_datagrams(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut datagrams = std::mem::take(&mut self.outgoing);
        if let Some(sealer) = &mut self.sealer {
            for (to, payload) in self.core.take_outgoing() {
                match sealer.seal(&payload) {
                    Ok(datagram) => datagrams.push((to, datagram)),
                    Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "gossip cannot be sent"),
                }
            }
        } else {
            self.core.take_outgoing().for_each(drop);
        }
        self.traffic.sent_datagrams += datagrams.len() as u64;
        self.traffic.sent_bytes += datagrams.iter().map(|(_, datagram)| datagram.len() as u64).sum::<u64>();
        datagrams
    }
}

/// Something wrong with what a machine sends, to be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The machine.
    pub from: SocketAddr,
    /// What is wrong.
    pub about: About,
}

/// What can be wrong with a datagram.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum About {
    /// It cannot be opened.
    #[error(transparent)]
    Datagram(OpenError),
    /// It was opened, and what is in it cannot be read.
    #[error(transparent)]
    Payload(super::WireError),
}

impl About {
    /// Tells apart what is to be logged apart.
    fn kind(&self) -> u8 {
        match self {
            Self::Datagram(OpenError::Alien) => 1,
            Self::Datagram(OpenError::Version(_)) => 2,
            Self::Datagram(OpenError::ForeignCluster(_)) => 3,
            Self::Datagram(OpenError::Refused(_)) => 4,
            Self::Datagram(OpenError::Forged) => 5,
            Self::Datagram(OpenError::Replayed) => 6,
            Self::Datagram(OpenError::StaleEpoch { .. }) => 7,
            Self::Payload(_) => 8,
        }
    }
}

/// Lets the first of a kind through, then one per interval, for each machine.
struct RateLimit {
    interval_ms: u64,
    last_ms: HashMap<(IpAddr, u8), u64>,
}

impl RateLimit {
    fn new(interval_ms: u64) -> Self {
        Self { interval_ms, last_ms: HashMap::new() }
    }

    fn allows(&mut self, now_ms: u64, who: IpAddr, kind: u8) -> bool {
        let interval_ms = self.interval_ms;
        self.last_ms.retain(|_, last_ms| now_ms.saturating_sub(*last_ms) < interval_ms);
        // Where there are so many (forged addresses, say), silence is better than a flood.
        if self.last_ms.contains_key(&(who, kind)) || self.last_ms.len() >= MAX_REMEMBERED {
            return false;
        }
        self.last_ms.insert((who, kind), now_ms);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_passes_then_one_per_interval_and_machine() {
        let mut limit = RateLimit::new(1000);
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        assert!(limit.allows(0, a, 1) && limit.allows(0, b, 1) && limit.allows(0, a, 2));
        assert!(!limit.allows(999, a, 1));
        assert!(limit.allows(1000, a, 1));
    }

    #[test]
    fn many_machines_do_not_take_much_memory() {
        let mut limit = RateLimit::new(1000);
        let passed = (0..10_000u32).filter(|n| limit.allows(5, IpAddr::from(n.to_be_bytes()), 1)).count();
        assert_eq!((passed, limit.last_ms.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
        assert!(limit.allows(2000, IpAddr::from([1, 2, 3, 4]), 1));
    }
}
