//! The state machine of membership and gossip: fed with payloads and the time, it emits payloads
//! and events. It reads no clock and touches no socket, so that tests and the simulator run many of
//! it in one thread.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

use foca::{Foca, Member, NoCustomBroadcast, State};
use rand::{SeedableRng, rngs::StdRng, seq::IteratorRandom};

use super::{
    ClusterView, Event, GossipConfig, JoinRefusal, LocalState, NodeEntry, NodeId, NodeReport, NodeState, Traffic,
    WireError,
    codec::MemberCodec,
    effects::{Effects, swim_config},
    gossip::GossipState,
    intake::Intakes,
    joiner::Joiner,
    loads::{LoadBoard, MAX_NODES, Said},
    wire::{self, Payload},
};
use crate::keys::NodeName;

/// Entries of nodes that are no members are kept this long: members may be heard of late.
const STRANGER_KEPT_MS: u64 = 60_000;
/// Nodes that are told directly that this one leaves.
const FAREWELLS: usize = 8;

/// One node's membership and gossip. Times are milliseconds of any clock that only goes forward.
pub struct Core {
    foca: Foca<NodeId, MemberCodec, StdRng, NoCustomBroadcast>,
    gossip: GossipConfig,
    /// At the last turn.
    gossip_state: GossipState,
    board: LoadBoard,
    intakes: Intakes,
    joiner: Joiner,
    local: LocalState,
    rng: StdRng,
    next_gossip_ms: u64,
    left: bool,
    effects: Effects,
}

impl Core {
    /// A node that is alone. `gossip` must be valid; `seed` is for the choice of whom to talk to,
    /// nothing secret depends on it.
    pub fn new(me: NodeId, local: LocalState, gossip: GossipConfig, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        let board = LoadBoard::new(me.name.clone(), me.incarnation, Said::new(&local, false), MAX_NODES, 0);
        let foca = Foca::new(me, swim_config(), StdRng::seed_from_u64(seed.wrapping_add(1)), MemberCodec);
        Self {
            foca,
            gossip,
            gossip_state: gossip.among(1),
            board,
            intakes: Intakes::new(gossip.period_ms),
            joiner: Joiner::default(),
            local,
            rng,
            next_gossip_ms: 0,
            left: false,
            effects: Effects::default(),
        }
    }

    /// Who this node is now.
    pub fn me(&self) -> &NodeId {
        self.foca.identity()
    }

    /// Replaces the addresses to join; this node's own is ignored.
    pub fn set_seeds(&mut self, seeds: BTreeSet<SocketAddr>) {
        self.joiner.set_seeds(seeds);
    }

    /// Replaces what this node says of itself, from the next gossip on. It knows that itself at
    /// once.
    pub fn set_local(&mut self, local: LocalState) {
        self.local = local;
        self.effects.changed = true;
    }

    /// Takes an opened payload that came from `from`.
    ///
    /// # Errors
    /// [`WireError`] if it cannot be read, or its sender sends too much; it had no effect then.
    pub fn receive(&mut self, now_ms: u64, from: SocketAddr, payload: &[u8]) -> Result<(), WireError> {
        self.effects.now_ms = now_ms;
        let payload = Payload::decode(payload)?;
        if self.left {
            return Ok(());
        }
        if !self.intakes.admit(now_ms, from, &payload, self.gossip_state.window)? {
            return Ok(());
        }
        match payload {
            Payload::Membership(packet) => {
                let result = self.foca.handle_data(packet, &mut self.effects);
                note(result);
            }
            Payload::Load(entries) => {
                for entry in wire::load_entries(entries)? {
                    let leaver = entry.said.leaving.then(|| (entry.node.clone(), entry.version.incarnation));
                    let is_news = self.board.take(entry, now_ms);
                    self.effects.changed |= is_news;
                    if let Some((name, incarnation)) = leaver.filter(|_| is_news) {
                        self.bury_leaver(&name, incarnation);
                    }
                }
            }
            Payload::Join { from: newcomer, asked } => self.answer_join(from, newcomer, asked),
            Payload::Welcome { from: host, asked } => {
                self.joiner.answered(asked, host.addr);
                let result = self.foca.announce(host, &mut self.effects);
                note(result);
            }
            Payload::Refusal(reason) => self.effects.events.push_back(Event::JoinRefused { by: from, reason }),
        }
        self.settle();
        Ok(())
    }

    /// Does what is due at `now_ms`; to be called when [`Self::next_deadline_ms`] has come, no harm
    /// if earlier.
    pub fn tick(&mut self, now_ms: u64) {
        self.effects.now_ms = now_ms;
        if self.left {
            return;
        }
        while let Some(timer) = self.effects.pop_due() {
            let result = self.foca.handle_timer(timer, &mut self.effects);
            note(result);
        }
        if self.next_gossip_ms <= now_ms {
            self.next_gossip_ms = self.gossip.next_turn_ms(now_ms, &mut self.rng);
            self.gossip_state = self.gossip.among(self.foca.num_members() + 1);
            self.say_own(now_ms, false);
            // Who may be dead hears nothing but probes.
            let alive = self.foca.iter_members().filter(|member| member.state() == State::Alive);
            if let Some(target) = alive.choose(&mut self.rng).map(|member| member.id().addr) {
                for payload in self.message() {
                    self.effects.send(target, payload);
                }
            }
            self.ask_to_join(now_ms);
            self.forget_strangers(now_ms);
        }
        self.settle();
    }

    /// When [`Self::tick`] has something to do next; `None` after leaving.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        (!self.left).then(|| self.next_gossip_ms.min(self.effects.next_timer_ms()))
    }

    /// Says good-bye. What is to be sent is to be taken once more; afterwards this node is deaf and
    /// mute.
    pub fn leave(&mut self, now_ms: u64) {
        if self.left {
            return;
        }
        self.effects.now_ms = now_ms;
        self.say_own(now_ms, true);
        let told = self.foca.iter_members().map(|member| member.id().addr).sample(&mut self.rng, FAREWELLS);
        // Twice, against loss: the second copy goes out after all the first.
        self.send_newest(&[told.as_slice(), told.as_slice()].concat());
        let result = self.foca.leave_cluster(&mut self.effects);
        note(result);
        self.left = true;
        self.effects.changed = true;
    }

    /// What to send, in order: payloads to be sealed.
    pub fn take_outgoing(&mut self) -> impl Iterator<Item = (SocketAddr, Vec<u8>)> {
        self.effects.outgoing.drain(..)
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> {
        self.effects.events.drain(..)
    }

    /// Whether the view may have changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.effects.changed)
    }

    /// The cluster as this node sees it.
    pub fn view(&self, now_ms: u64) -> ClusterView {
        let me = self.foca.identity();
        let my_state = if self.left { NodeState::Left } else { NodeState::Alive };
        let report = NodeReport { summary: self.local.summary.clone(), load: self.local.load, age_ms: 0 };
        let mine = NodeEntry {
            name: me.name.clone(),
            addr: me.addr,
            incarnation: me.incarnation,
            state: my_state,
            report: Some(report),
        };
        let mut by_name: HashMap<NodeName, NodeEntry> = HashMap::new();
        for member in self.foca.iter_membership_state().filter(|member| member.id().name != me.name) {
            let entry = self.entry(member, now_ms);
            // A node that changed its address is there twice for a while: the living one, else the
            // later one, counts.
            let rank = |entry: &NodeEntry| (is_active(entry.state), entry.incarnation);
            if by_name.get(&entry.name).is_none_or(|known| rank(known) < rank(&entry)) {
                by_name.insert(entry.name.clone(), entry);
            }
        }
        let mut entries: Vec<NodeEntry> = by_name.into_values().chain([mine]).collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        ClusterView { me: me.name.clone(), entries, gossip: self.gossip_state, traffic: Traffic::default() }
    }

    fn entry(&self, member: &Member<NodeId>, now_ms: u64) -> NodeEntry {
        let NodeId { name, addr, incarnation } = member.id().clone();
        let state = match member.state() {
            State::Alive => NodeState::Alive,
            State::Suspect => NodeState::Suspect,
            State::Down if self.board.has_left(&name, incarnation) => NodeState::Left,
            State::Down => NodeState::Down,
        };
        let report = self.board.report(&name, incarnation, now_ms);
        NodeEntry { name, addr, incarnation, state, report }
    }

    fn answer_join(&mut self, from: SocketAddr, newcomer: NodeId, asked: SocketAddr) {
        let me = self.foca.identity();
        if newcomer.addr == me.addr {
            // One list of nodes to join for all nodes is handy: this node is in it, by loopback
            // perhaps.
            self.joiner.answered(asked, me.addr);
            return;
        }
        let is_conflict = |id: &NodeId| id.name == newcomer.name && id.addr != newcomer.addr;
        let holder =
            std::iter::once(me).chain(self.foca.iter_members().map(Member::id)).find(|id| is_conflict(id)).cloned();
        match holder {
            Some(holder) => {
                self.effects.send(from, wire::refusal(JoinRefusal::NameTaken));
                self.effects.events.push_back(Event::NameConflict { newcomer, holder });
            }
            None => {
                let welcome = wire::welcome(me, asked);
                self.effects.send(from, welcome);
            }
        }
    }

    /// A node said its last word: SWIM need not find out by probing.
    fn bury_leaver(&mut self, name: &NodeName, incarnation: u64) {
        let leaver =
            self.foca.iter_members().map(Member::id).find(|id| id.name == *name && id.incarnation <= incarnation);
        if let Some(leaver) = leaver.cloned() {
            let result = self.foca.apply_many(std::iter::once(Member::down(leaver)), true, &mut self.effects);
            note(result);
        }
        // SWIM's word may have come first, when the good-bye was not known yet.
        self.effects.changed = true;
    }

    /// This node's word, said now.
    fn say_own(&mut self, now_ms: u64, leaving: bool) {
        self.board.say(self.foca.identity().incarnation, Said::new(&self.local, leaving), now_ms);
        self.effects.changed = true;
    }

    /// The payloads of a load message.
    fn message(&self) -> Vec<Vec<u8>> {
        wire::load(&self.board.window(self.gossip_state.window, self.effects.now_ms))
    }

    /// Sends the beginning of a load message, one payload, to each of `targets`: this node's own
    /// word and some more.
    fn send_newest(&mut self, targets: &[SocketAddr]) {
        if targets.is_empty() {
            return;
        }
        if let Some(payload) = self.message().into_iter().next() {
            for target in targets {
                self.effects.send(*target, payload.clone());
            }
        }
    }

    /// Ends a turn. A new member learns at once how loaded this node is, not when chance brings it;
    /// and who went down is told apart from who left.
    fn settle(&mut self) {
        let mut newcomers = std::mem::take(&mut self.effects.newcomers);
        newcomers.truncate(FAREWELLS);
        self.send_newest(&newcomers);
        for event in &mut self.effects.events {
            if let Event::Down { node, left } = event {
                *left = self.board.has_left(&node.name, node.incarnation);
            }
        }
    }

    fn ask_to_join(&mut self, now_ms: u64) {
        let alone = self.foca.num_members() == 0;
        let alive: BTreeSet<SocketAddr> = self.foca.iter_members().map(|member| member.id().addr).collect();
        let is_gone = |id: &NodeId| !alive.contains(&id.addr) && !self.board.has_left(&id.name, id.incarnation);
        let gone: Vec<SocketAddr> =
            self.foca.iter_membership_state().map(Member::id).filter(|id| is_gone(id)).map(|id| id.addr).collect();
        let me = self.foca.identity();
        for target in self.joiner.due(now_ms, me.addr, |addr| alive.contains(&addr), &gone, alone) {
            self.effects.send(target, wire::join(me, target));
            if self.joiner.is_worrying(target) {
                self.effects.events.push_back(Event::NoAnswer { from: target });
            }
        }
    }

    fn forget_strangers(&mut self, now_ms: u64) {
        let mut members: BTreeSet<&NodeName> =
            self.foca.iter_membership_state().map(|member| &member.id().name).collect();
        members.insert(&self.foca.identity().name);
        self.board.forget(STRANGER_KEPT_MS, now_ms, |name| members.contains(name));
    }
}

fn is_active(state: NodeState) -> bool {
    matches!(state, NodeState::Alive | NodeState::Suspect)
}

/// SWIM's complaints about single packets (stale, from a former life, for another node) are
/// everyday matters.
fn note(result: Result<(), foca::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "gossip");
    }
}
