//! Whom to ask for admission, and when.
//!
//! Asked are the addresses that the user gave (*seeds*), each until a living member has answered
//! from it; and, when this node is alone, all the nodes that it knew. Each address is asked at
//! once, then after 0.5, 1, 2, … up to 15 seconds.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

const FIRST_DELAY_MS: u64 = 500;
const MAX_DELAY_MS: u64 = 15_000;
/// A seed that has not answered is complained of after this many questions (7.5 seconds)…
const FIRST_COMPLAINT: u32 = 5;
/// …and then every so many (five minutes).
const COMPLAINT_EVERY: u32 = 20;

/// Who was asked when.
#[derive(Default)]
pub(super) struct Joiner {
    seeds: BTreeSet<SocketAddr>,
    attempts: HashMap<SocketAddr, Attempt>,
}

#[derive(Default)]
struct Attempt {
    tries: u32,
    next_ms: u64,
    /// Under which address the node is known that answers here (machines have several).
    answered_by: Option<SocketAddr>,
}

impl Joiner {
    /// Replaces the seeds by what the user's list resolves to now.
    pub(super) fn set_seeds(&mut self, seeds: BTreeSet<SocketAddr>) {
        self.seeds = seeds;
    }

    /// Whom to ask now. `known` are the addresses of those that are gone, to be asked when no other
    /// is left.
    pub(super) fn due(
        &mut self,
        now_ms: u64,
        me: SocketAddr,
        is_alive: impl Fn(SocketAddr) -> bool,
        known: &[SocketAddr],
        alone: bool,
    ) -> Vec<SocketAddr> {
        let mut wanted = self.seeds.clone();
        if alone {
            wanted.extend(known);
        }
        let reached = |at: SocketAddr, attempt: Option<&Attempt>| {
            let known_as = attempt.and_then(|attempt| attempt.answered_by).unwrap_or(at);
            known_as == me || is_alive(at) || is_alive(known_as)
        };
        wanted.retain(|at| !reached(*at, self.attempts.get(at)));
        // Who is reached or not wanted any more starts afresh next time, except that seeds keep who
        // answered.
        self.attempts.retain(|at, attempt| {
            if !wanted.contains(at) {
                (attempt.tries, attempt.next_ms) = (0, 0);
            }
            wanted.contains(at) || self.seeds.contains(at)
        });
        let mut due = Vec::new();
        for at in wanted {
            let attempt = self.attempts.entry(at).or_default();
            if attempt.next_ms <= now_ms {
                attempt.next_ms = now_ms + (FIRST_DELAY_MS << attempt.tries.min(10)).min(MAX_DELAY_MS);
                attempt.tries += 1;
                due.push(at);
            }
        }
        due
    }

    /// Whether people should hear that seed `at` does not answer; to be asked once per question.
    pub(super) fn is_worrying(&self, at: SocketAddr) -> bool {
        let tries = self.attempts.get(&at).map_or(0, |attempt| attempt.tries);
        self.seeds.contains(&at)
            && tries >= FIRST_COMPLAINT
            && (tries - FIRST_COMPLAINT).is_multiple_of(COMPLAINT_EVERY)
    }

    /// Who was asked at `asked` answered, and is known by `known_as`.
    pub(super) fn answered(&mut self, asked: SocketAddr, known_as: SocketAddr) {
        if let Some(attempt) = self.attempts.get_mut(&asked) {
            attempt.answered_by = Some(known_as);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn times(joiner: &mut Joiner, until_ms: u64) -> Vec<u64> {
        (0..until_ms).step_by(100).filter(|now| !joiner.due(*now, at(1), |_| false, &[], true).is_empty()).collect()
    }

    #[test]
    fn a_silent_seed_is_asked_more_and_more_seldom() {
        let mut joiner = Joiner::default();
        joiner.set_seeds([at(2)].into());
        assert_eq!(times(&mut joiner, 50_000), [0, 500, 1500, 3500, 7500, 15_500, 30_500, 45_500]);
    }

    #[test]
    fn people_hear_of_a_silent_seed_but_seldom() {
        let mut joiner = Joiner::default();
        joiner.set_seeds([at(2)].into());
        let worries = (0..700_000u64).step_by(100).filter(|now| {
            joiner.due(*now, at(1), |_| false, &[at(3)], true).contains(&at(2)) && joiner.is_worrying(at(2))
        });
        assert_eq!(worries.collect::<Vec<_>>(), [7500, 300_500, 600_500]);
        assert!(!joiner.is_worrying(at(3)), "no join asked for that one");
    }

    #[test]
    fn a_seed_is_left_alone_while_who_answered_there_lives() {
        let mut joiner = Joiner::default();
        joiner.set_seeds([at(2), at(1)].into());
        assert_eq!(joiner.due(0, at(1), |_| false, &[], true), [at(2)]);
        // It is known by another address.
        joiner.answered(at(2), at(9));
        assert!(joiner.due(5000, at(1), |addr| addr == at(9), &[], false).is_empty());
        // This node itself, by its loopback address, is reached for good.
        joiner.set_seeds([at(2), at(7)].into());
        assert_eq!(joiner.due(5000, at(1), |addr| addr == at(9), &[], false), [at(7)]);
        joiner.answered(at(7), at(1));
        assert!(joiner.due(9000, at(1), |addr| addr == at(9), &[], false).is_empty());
        joiner.set_seeds([at(2), at(1)].into());
        // When it dies it is asked again, at once.
        assert_eq!(joiner.due(9100, at(1), |_| false, &[at(9)], false), [at(2)]);
    }

    #[test]
    fn a_lonely_node_asks_those_it_knew() {
        let mut joiner = Joiner::default();
        assert!(joiner.due(0, at(1), |_| true, &[at(5)], false).is_empty());
        assert_eq!(joiner.due(0, at(1), |_| false, &[at(5), at(6)], true), [at(5), at(6)]);
    }
}
