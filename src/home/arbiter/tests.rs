//! Decisions one by one, then a world of copies that obey the arbiter while messages are late,
//! doubled and lost.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

fn id(number: u8) -> SessionId {
    SessionId([number; 16])
}

fn begun(arbiter: &mut Arbiter, from: Party, number: u8) -> Option<String> {
    match arbiter.begin(from, id(number), "n2".into()).remove(0) {
        Action::Begun { refused, .. } => refused,
        other => panic!("{other:?}"),
    }
}

/// An arbiter that has committed migration 1.
fn moved() -> Arbiter {
    let mut arbiter = Arbiter::default();
    assert_eq!(begun(&mut arbiter, Party::Home, 1), None);
    assert_eq!(arbiter.hello(id(1), None), Ok(vec![]));
    assert_eq!(arbiter.restored(id(1)), []);
    let commit = [
        Action::Record { epoch: 1 },
        Action::Retire { party: Party::Home, migration: id(1), epoch: 1 },
        Action::Run { migration: id(1), epoch: 1 },
    ];
    assert_eq!(arbiter.drained(Party::Home, id(1)), commit);
    arbiter
}

#[test]
fn a_move_commits_once_and_run_is_repeated_on_demand() {
    let mut arbiter = moved();
    assert_eq!((arbiter.epoch(), arbiter.owner(), arbiter.moving()), (1, Party::Guest(id(1)), None));
    let run = vec![Action::Run { migration: id(1), epoch: 1 }];
    assert_eq!(arbiter.restored(id(1)), run);
    assert_eq!(arbiter.hello(id(1), None), Ok(run));
    assert_eq!(arbiter.hello(id(1), Some(1)), Ok(vec![]));
    assert!(arbiter.hello(id(1), Some(2)).is_err());
}

#[test]
fn an_aborted_migration_never_comes_back() {
    let mut arbiter = Arbiter::default();
    begun(&mut arbiter, Party::Home, 1);
    arbiter.hello(id(1), None).unwrap();
    arbiter.drained(Party::Home, id(1));
    let aborted = |to| Action::Aborted { to, migration: id(1), reason: "x".into() };
    assert_eq!(arbiter.abort(Party::Home, id(1), "x"), [aborted(Party::Guest(id(1))), aborted(Party::Home)]);
    assert!(begun(&mut arbiter, Party::Home, 1).is_some());
    assert!(arbiter.hello(id(1), None).is_err());
    assert!(matches!(arbiter.restored(id(1))[..], [Action::Aborted { .. }]));
    assert_eq!(arbiter.owner(), Party::Home);
    assert_eq!(begun(&mut arbiter, Party::Home, 2), None);
}

#[test]
fn an_abort_that_comes_too_late_is_told_so() {
    let mut arbiter = moved();
    let retire = Action::Retire { party: Party::Home, migration: id(1), epoch: 1 };
    assert_eq!(arbiter.abort(Party::Home, id(1), "x"), [retire]);
    assert_eq!(arbiter.owner(), Party::Guest(id(1)));
}

#[test]
fn a_target_that_is_out_of_reach_is_not_committed_to() {
    let mut arbiter = Arbiter::default();
    begun(&mut arbiter, Party::Home, 1);
    arbiter.hello(id(1), None).unwrap();
    arbiter.restored(id(1));
    arbiter.disconnected(id(1));
    assert_eq!(arbiter.drained(Party::Home, id(1)), []);
    assert_eq!(arbiter.hello(id(1), None).unwrap().len(), 3, "committed when it is back");
}

#[test]
fn only_the_owner_moves_the_tree_and_one_move_at_a_time() {
    let mut arbiter = moved();
    assert!(begun(&mut arbiter, Party::Home, 2).is_some());
    assert_eq!(begun(&mut arbiter, Party::Guest(id(1)), 3), None);
    assert!(begun(&mut arbiter, Party::Guest(id(1)), 4).unwrap().contains("already moving"));
    assert_eq!(arbiter.end().len(), 1);
    assert!(begun(&mut arbiter, Party::Guest(id(1)), 5).is_some());
}

// === the world ===

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    Runs,
    /// Frozen for this migration.
    Frozen(u8),
    /// Restored and held.
    Held,
    Dead,
}

#[derive(Clone, Debug)]
enum Message {
    Begin(u8),
    Drained(u8),
    Abort(u8),
    Restored,
    Hello,
}

#[derive(Default)]
struct World {
    arbiter: Arbiter,
    copies: BTreeMap<Party, Copy>,
    /// To the arbiter, and from it; in order for each party, lost when its link breaks.
    up: BTreeMap<Party, VecDeque<Message>>,
    down: BTreeMap<Party, VecDeque<Action>>,
    migrations: u8,
}

fn number(migration: SessionId) -> u8 {
    migration.0[0]
}

impl World {
    fn send(&mut self, from: Party, message: Message) {
        self.up.entry(from).or_default().push_back(message);
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            let to = match &action {
                Action::Begun { to, .. } | Action::Aborted { to, .. } | Action::Retire { party: to, .. } => *to,
                Action::Run { migration, .. } => Party::Guest(*migration),
                Action::Record { .. } => continue,
            };
            self.down.entry(to).or_default().push_back(action);
        }
    }

    fn arbiter_hears(&mut self, from: Party) {
        let Some(message) = self.up.get_mut(&from).and_then(VecDeque::pop_front) else { return };
        let guest = if let Party::Guest(migration) = from { migration } else { id(0) };
        let actions = match message {
            Message::Begin(m) => self.arbiter.begin(from, id(m), "n".into()),
            Message::Drained(m) => self.arbiter.drained(from, id(m)),
            Message::Abort(m) => self.arbiter.abort(from, id(m), "x"),
            Message::Restored => self.arbiter.restored(guest),
            Message::Hello => match self.arbiter.hello(guest, None) {
                Ok(actions) => actions,
                Err(reason) => vec![Action::Aborted { to: from, migration: guest, reason }],
            },
        };
        self.act(actions);
    }

    fn party_hears(&mut self, party: Party) {
        let Some(action) = self.down.get_mut(&party).and_then(VecDeque::pop_front) else { return };
        let Some(copy) = self.copies.get(&party).copied() else { return };
        let next = match (copy, action) {
            (Copy::Runs, Action::Begun { migration, refused: None, .. }) => {
                let m = number(migration);
                self.copies.entry(Party::Guest(migration)).or_insert(Copy::Held);
                self.send(Party::Guest(migration), Message::Hello);
                self.send(party, Message::Drained(m));
                Copy::Frozen(m)
            }
            (Copy::Frozen(m), Action::Aborted { migration, .. }) if number(migration) == m => Copy::Runs,
            (Copy::Held, Action::Aborted { migration, .. }) if Party::Guest(migration) == party => Copy::Dead,
            (Copy::Held, Action::Run { .. }) => Copy::Runs,
            (_, Action::Retire { .. }) => Copy::Dead,
            (copy, _) => copy,
        };
        self.copies.insert(party, next);
    }

    fn step(&mut self, kind: u8, who: u8) {
        let parties: Vec<Party> = self.copies.keys().copied().collect();
        let party = parties[usize::from(who) % parties.len()];
        let copy = self.copies[&party];
        match (kind, copy) {
            (0..=3, _) => self.arbiter_hears(party),
            (4..=7, _) => self.party_hears(party),
            (8, Copy::Runs) => {
                self.migrations += 1;
                self.send(party, Message::Begin(self.migrations));
            }
            (9 | 10, Copy::Held) => self.send(party, Message::Restored),
            (11, Copy::Held) => self.send(party, Message::Hello),
            (12, Copy::Frozen(m)) => self.send(party, Message::Abort(m)),
            (13, Copy::Frozen(m)) => self.send(party, Message::Drained(m)),
            // The link breaks, with what is on it.
            (14, _) => {
                self.up.remove(&party);
                self.down.remove(&party);
                if let Party::Guest(migration) = party {
                    self.arbiter.disconnected(migration);
                    if copy == Copy::Held {
                        self.send(party, Message::Hello);
                    }
                }
            }
            // Something is heard twice.
            (15, _) => {
                if let Some(message) = self.up.get(&party).and_then(|queue| queue.front()).cloned() {
                    self.send(party, message);
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn at_most_one_copy_runs_and_the_job_never_dies_out(steps in prop::collection::vec((0_u8..16, any::<u8>()), 1..300)) {
        let mut world = World::default();
        world.copies.insert(Party::Home, Copy::Runs);
        for (kind, who) in steps {
            world.step(kind, who);
            let running: Vec<_> = world.copies.iter().filter(|(_, copy)| **copy == Copy::Runs).collect();
            prop_assert!(running.len() <= 1, "{:?}", running);
            prop_assert!(running.iter().all(|(party, _)| **party == world.arbiter.owner()), "{:?} runs, {:?} owns", running, world.arbiter.owner());
            let owners = world.copies[&world.arbiter.owner()];
            prop_assert!(owners != Copy::Dead, "the owner's copy is dead");
        }
    }
}
