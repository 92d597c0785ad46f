//! Placement with its memory: makes its input of views, keeps its last decisions, and shows them to
//! the API.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, PoisonError},
    time::Instant,
};

use crate::{
    api::{
        backend::GuestReservation,
        view::{PlacementCandidate, PlacementDecision, PlacementReason, PlacementReasons, Trigger},
    },
    bounds::OutOfBounds,
    job::JobId,
    placement::{
        Action, Cause, Config, Decision, InFlight, Input, JobView, NodeView, Placement, Prospect, Reason, StartTakes,
        Wish,
    },
    sys::{
        clock::now_ms,
        lock::{Mutex, MutexGuard},
    },
};

/// Placement with its memory, and what it decided last about each job.
pub struct Placing {
    here: Arc<str>,
    started: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    placement: Placement,
    seeds: RandomState,
    decided: HashMap<JobId, Decided>,
}

/// The last decision about a job.
struct Decided {
    at_ms: u64,
    decision: Decision,
    /// What it rested on, unless a user asked for it: then its reasons are complete.
    round: Option<Arc<Round>>,
}

/// What the decisions about all jobs rest on, for explanations.
struct Round {
    before: Placement,
    input: Input,
    seed: u64,
}

impl Placing {
    /// Placement for the node `here`.
    pub fn new(here: &str, config: Config) -> Result<Self, OutOfBounds> {
        let inner = Inner { placement: Placement::new(config)?, seeds: RandomState::new(), decided: HashMap::new() };
        Ok(Self { here: here.into(), started: Instant::now(), inner: Mutex::new(inner) })
    }

    /// The decisions for all jobs that run here. Jobs that are no longer here are forgotten.
    pub fn decide(
        &self,
        nodes: Vec<NodeView>,
        jobs: Vec<JobView>,
        in_flight: Vec<InFlight>,
        draining: bool,
    ) -> Vec<Decision> {
        let input = Input { draining, ..self.input(nodes, jobs, in_flight) };
        let mut inner = self.lock();
        let seed = inner.seeds.hash_one(input.now_ms);
        let before = inner.placement.clone();
        let decisions = inner.placement.decide(&input, seed);
        let round = Arc::new(Round { before, input, seed });
        inner.decided.clear();
        for decision in &decisions {
            inner.note(decision, Some(round.clone()));
        }
        decisions
    }

    /// The decision about a user's wish for one job.
    pub fn request(
        &self,
        nodes: Vec<NodeView>,
        jobs: Vec<JobView>,
        in_flight: Vec<InFlight>,
        job: &JobId,
        wish: &Wish,
    ) -> Decision {
        let input = self.input(nodes, jobs, in_flight);
        let mut inner = self.lock();
        let seed = inner.seeds.hash_one(input.now_ms);
        let decision = inner.placement.request(&input, job, wish, seed);
        inner.note(&decision, None);
        decision
    }

    /// What is worth doing about a program that probably needs so much CPU time, in ms, where so
    /// many tasks share each CPU, and a start elsewhere takes so much.
    pub fn prospect(&self, expected_ms: Option<u64>, takes: StartTakes, tasks_per_cpu: f64) -> Prospect {
        self.lock().placement.prospect(expected_ms, takes, tasks_per_cpu)
    }

    /// Where a program that begins here is to run that probably needs so much CPU time, in ms, and
    /// whose start elsewhere holds it up for `held_ms`.
    pub fn assign(
        &self,
        nodes: Vec<NodeView>,
        in_flight: Vec<InFlight>,
        job: &JobView,
        expected_ms: u64,
        held_ms: u64,
    ) -> Decision {
        let mut input = self.input(nodes, Vec::new(), in_flight);
        input.nodes.iter_mut().for_each(|node| node.freeze_ms = node.freeze_ms.max(held_ms));
        let mut inner = self.lock();
        let seed = inner.seeds.hash_one(input.now_ms);
        let decision = inner.placement.assign(&input, job, Some(expected_ms), seed);
        inner.note(&decision, None);
        decision
    }

    /// Whether a guest that was announced may come here.
    pub fn admit(
        &self,
        nodes: Vec<NodeView>,
        in_flight: Vec<InFlight>,
        job: &JobView,
        want: &GuestReservation,
    ) -> Result<(), Reason> {
        let input = self.input(nodes, Vec::new(), in_flight);
        let cause = if want.by_request { Cause::Request } else { Cause::Load };
        self.lock().placement.admit(&input, job, cause, want.limit_milli)
    }

    /// A guest that was admitted does not come.
    pub fn released(&self, job: &JobId) {
        self.lock().placement.released(job, &self.here);
    }

    /// A move that placement had decided did not come about.
    pub fn failed(&self, job: &JobId, target: &str) {
        self.lock().placement.failed(job, target, self.now_ms());
    }

    /// A move that placement had decided was not admitted by its target; a start elsewhere takes
    /// `held_ms`.
    pub fn busy(&self, job: &JobId, target: &str, held_ms: u64) {
        self.lock().placement.busy(job, target, self.now_ms(), held_ms);
    }

    /// What was decided last about a job, as the API shows it; its migrations are left to the
    /// caller.
    pub fn reasons(&self, process: &JobId) -> PlacementReasons {
        let inner = self.lock();
        let blank = PlacementReasons {
            process: process.clone(),
            decision: PlacementDecision::Unknown,
            target: None,
            summary: "not looked at yet: placement looks at every job that is here once a second".into(),
            reasons: Vec::new(),
            candidates: Vec::new(),
            decide_time_ms: None,
            migrations: Vec::new(),
            cannot_move: None,
        };
        let Some(Decided { at_ms, decision, round }) = inner.decided.get(process) else {
            return blank;
        };
        let explain = |round: &Arc<Round>| round.before.explain(&round.input, decision, round.seed);
        let reasons = round.as_ref().map_or_else(|| decision.reasons.clone(), explain);
        PlacementReasons {
            decision: match decision.action {
                Action::Stay => PlacementDecision::Stay,
                Action::Move { .. } => PlacementDecision::Move,
            },
            target: decision.target().map(|node| node.to_string()),
            summary: summary(decision),
            reasons: reasons.iter().filter(|r| candidate(r, decision).is_none()).map(reason).collect(),
            candidates: reasons.iter().filter_map(|reason| candidate(reason, decision)).collect(),
            decide_time_ms: Some(*at_ms),
            ..blank
        }
    }

    fn input(&self, nodes: Vec<NodeView>, jobs: Vec<JobView>, in_flight: Vec<InFlight>) -> Input {
        Input { here: self.here.clone(), now_ms: self.now_ms(), nodes, jobs, in_flight, draining: false }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Placement's state is consistent between any two of its calls.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note(&mut self, decision: &Decision, round: Option<Arc<Round>>) {
        let decided = Decided { at_ms: now_ms(), decision: decision.clone(), round };
        self.decided.insert(decision.job.clone(), decided);
    }
}

/// A decision in one sentence.
pub fn summary(decision: &Decision) -> String {
    let text = decision.verdict().map_or_else(|| "no reason was given".into(), Reason::to_string);
    // What shows it says first what was decided.
    text.strip_prefix("stays: ").map_or_else(|| text.clone(), str::to_owned)
}

/// The API's word for placement's cause.
pub fn trigger(cause: Cause) -> Trigger {
    match cause {
        Cause::Load => Trigger::Balance,
        Cause::Memory => Trigger::Memory,
        Cause::Initial => Trigger::Initial,
        Cause::Request => Trigger::Request,
        Cause::Home => Trigger::Home,
        Cause::Evacuate => Trigger::Evacuate,
    }
}

fn reason(reason: &Reason) -> PlacementReason {
    PlacementReason { code: reason.rule().to_uppercase(), text: reason.to_string(), figures: figures(reason) }
}

fn candidate(reason: &Reason, decision: &Decision) -> Option<PlacementCandidate> {
    let node = match reason {
        Reason::Compared(comparison) => &comparison.node,
        Reason::Excluded { node, .. } => node,
        _ => return None,
    };
    Some(PlacementCandidate {
        node: node.to_string(),
        chosen: decision.target() == Some(node),
        text: without_node(&reason.to_string(), node),
        figures: figures(reason),
    })
}

/// The node stands before the text already.
fn without_node(text: &str, node: &str) -> String {
    text.strip_prefix(node).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text).to_owned()
}

fn figures(reason: &Reason) -> Vec<crate::api::view::Figure> {
    let Reason::Compared(c) = reason else { return Vec::new() };
    let named = [
        ("its own slowdown there", c.stretch),
        ("what it adds to the slowdown of others there", c.others),
        ("being away from home", c.away),
        ("its files over the link", c.link),
        ("the move", c.price),
        ("predicted downtime, seconds", c.downtime_s),
        ("least gain", c.least_gain),
        ("cost there", c.total),
        ("cost here", c.here),
    ];
    named.into_iter().map(|(name, value)| crate::api::view::Figure { name: name.into(), value }).collect()
}
