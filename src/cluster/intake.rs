//! Protection against floods: how many messages of one kind a node takes into account in a period,
//! from one sender and from all.
//!
//! A sender is an address. Datagrams are sealed and none is taken twice, so that only nodes of the
//! cluster count: a broken one that talks without end, or several that were given the same
//! settings. What is beyond the bound is not even read.

use std::{collections::HashMap, net::SocketAddr};

use super::{
    WireError,
    wire::{Payload, load_payloads},
};

/// Load messages of one sender that are taken in a period. It sends one; two may come in one period
/// of ours, and one more when it meets us or leaves.
const LOAD_MESSAGES: usize = 4;
/// Senders of load messages heard in a period. One speaks to us on average, all do when we are new.
const LOAD_SENDERS: usize = 64;
/// Payloads about joining taken from one sender in a period; it asks once in several.
const JOINS: usize = 4;
/// Senders that may ask in a period: many nodes may start at once.
const JOIN_SENDERS: usize = 1024;
/// SWIM packets taken from one sender in a period, several times what the only other node of a
/// cluster sends.
const MEMBERSHIPS: usize = 128;
/// Senders of SWIM packets heard in a period, several times what ever speak to one node.
const MEMBERSHIP_SENDERS: usize = 4096;

/// The counters of a node, one for each kind of payload: load messages cannot drown those about
/// membership.
pub(super) struct Intakes {
    loads: Intake,
    joins: Intake,
    memberships: Intake,
}

impl Intakes {
    /// For periods of `period_ms` milliseconds.
    pub(super) fn new(period_ms: u64) -> Self {
        Self {
            loads: Intake::new(period_ms, LOAD_SENDERS),
            joins: Intake::new(period_ms, JOIN_SENDERS),
            memberships: Intake::new(period_ms, MEMBERSHIP_SENDERS),
        }
    }

    /// Whether `payload` of `from` is to be taken, where load messages have `window` entries.
    ///
    /// # Errors
    /// [`WireError::Flood`] if not, and it is its sender's fault.
    pub(super) fn admit(
        &mut self,
        now_ms: u64,
        from: SocketAddr,
        payload: &Payload<'_>,
        window: usize,
    ) -> Result<bool, WireError> {
        let admission = match payload {
            Payload::Load(_) => self.loads.admit(now_ms, from, LOAD_MESSAGES * load_payloads(window)),
            Payload::Membership(_) => self.memberships.admit(now_ms, from, MEMBERSHIPS),
            Payload::Join { .. } | Payload::Welcome { .. } | Payload::Refusal(_) => {
                self.joins.admit(now_ms, from, JOINS)
            }
        };
        match admission {
            Admission::Taken => Ok(true),
            Admission::Crowded => Ok(false),
            Admission::TooMany => Err(WireError::Flood),
        }
    }
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    /// It is to be taken.
    Taken,
    /// Its sender has had its share of this period.
    TooMany,
    /// So many others have spoken in this period that its sender has to wait for the next.
    Crowded,
}

/// Counts the messages of a period.
struct Intake {
    period_ms: u64,
    most_senders: usize,
    since_ms: u64,
    taken: HashMap<SocketAddr, usize>,
}

impl Intake {
    /// In each `period_ms` milliseconds, messages of at most `most_senders` senders.
    fn new(period_ms: u64, most_senders: usize) -> Self {
        Self { period_ms, most_senders, since_ms: 0, taken: HashMap::new() }
    }

    /// Decides on a message of `from`, which may send `share` of them in a period.
    fn admit(&mut self, now_ms: u64, from: SocketAddr, share: usize) -> Admission {
        if now_ms.saturating_sub(self.since_ms) >= self.period_ms {
            self.since_ms = now_ms;
            self.taken.clear();
        }
        if self.taken.len() >= self.most_senders && !self.taken.contains_key(&from) {
            return Admission::Crowded;
        }
        let taken = self.taken.entry(from).or_default();
        if *taken >= share {
            return Admission::TooMany;
        }
        *taken += 1;
        Admission::Taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(n: u32) -> SocketAddr {
        SocketAddr::from((n.to_be_bytes(), 7470))
    }

    #[test]
    fn each_sender_has_its_own_share_of_a_period() {
        let mut intake = Intake::new(500, 10);
        let admissions: Vec<Admission> = (0..5).map(|n| intake.admit(1000 + n, sender(1), 3)).collect();
        use Admission::{Taken, TooMany};
        assert_eq!(admissions, [Taken, Taken, Taken, TooMany, TooMany]);
        assert_eq!(intake.admit(1100, sender(2), 3), Taken);
        assert_eq!(intake.admit(1499, sender(1), 3), TooMany);
        assert_eq!(intake.admit(1500, sender(1), 3), Taken);
    }

    #[test]
    fn many_senders_make_no_more_work_and_take_no_more_memory() {
        let mut intake = Intake::new(500, 64);
        let taken = (0..100_000).filter(|n| intake.admit(7, sender(n % 10_000), 2) == Admission::Taken).count();
        assert_eq!((taken, intake.taken.len()), (128, 64));
        assert_eq!(intake.admit(7, sender(20_000), 2), Admission::Crowded);
        assert_eq!(intake.admit(507, sender(20_000), 2), Admission::Taken);
    }
}
