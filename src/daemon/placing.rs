//! Between the daemon's state and placement: makes its input, keeps its last decisions, and shows them to the API.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::now_ms;
use crate::{
    api::{
        backend::GuestReservation,
        name::ProcessName,
        view::{MigrationSummary, PlacementCandidate, PlacementDecision, PlacementReason, PlacementReasons, Trigger},
    },
    bounds::OutOfBounds,
    placement::{
        Action, Cause, Config, Decision, History, InFlight, Input, JobView, MoveTimes, MoveWork, NodeView, Placement,
        Program, Prospect, Reason, StartTakes, Wish,
    },
};

/// How long `criu --version` takes on a 3 GHz x86 core of 2020. Where it takes longer, so will moves, which start that program four times.
const CRIU_TAKES: Duration = Duration::from_millis(6);

/// Placement with its memory, and what it decided last about each job.
pub struct Placing {
    here: Arc<str>,
    started: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    placement: Placement,
    seeds: RandomState,
    decided: HashMap<Arc<str>, Decided>,
    /// What moves between here and each node took, and between here and any.
    times: HashMap<Arc<str>, MoveTimes>,
    all_times: MoveTimes,
    /// How long moves took from the order to the end, but for their memory, in ms, smoothed: a program that starts elsewhere stands still
    /// for all of that.
    start_ms: Option<f64>,
    work: MoveWork,
    history: History,
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
    /// Placement for the node `here`, where `criu --version` takes so long.
    pub fn new(here: &str, config: Config, criu_takes: Option<Duration>) -> Result<Self, OutOfBounds> {
        let slowness = criu_takes.map_or(1.0, |takes| takes.div_duration_f64(CRIU_TAKES).max(1.0));
        let learning = config.learning;
        let placement = Placement::new(config)?;
        let inner = Inner {
            placement,
            seeds: RandomState::new(),
            decided: HashMap::new(),
            times: HashMap::new(),
            all_times: MoveTimes::on_a_machine(slowness, learning),
            start_ms: None,
            work: MoveWork::new(learning),
            history: History::new(learning),
        };
        Ok(Self { here: here.into(), started: Instant::now(), inner: Mutex::new(inner) })
    }

    /// See [`Config::young_ms`].
    pub fn young_ms(&self) -> u64 {
        self.lock().placement.config().young_ms
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
        inner.times.retain(|node, _| input.node(node).is_some());
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
        job: &str,
        wish: &Wish,
    ) -> Decision {
        let input = self.input(nodes, jobs, in_flight);
        let mut inner = self.lock();
        let seed = inner.seeds.hash_one(input.now_ms);
        let decision = inner.placement.request(&input, job, wish, seed);
        inner.note(&decision, None);
        decision
    }

    /// What is worth doing about a program that begins here, where so many tasks share each CPU.
    pub fn prospect(&self, program: &Program, tasks_per_cpu: f64) -> Prospect {
        let inner = self.lock();
        inner.placement.prospect(inner.history.expected_ms(program), inner.start_takes(self.now_ms()), tasks_per_cpu)
    }

    /// What is worth doing about a descendant that has had so much CPU time, in ms, by now.
    pub fn prospect_of(&self, cpu_ms: u64, tasks_per_cpu: f64) -> Prospect {
        let inner = self.lock();
        inner.placement.prospect(Some(cpu_ms), inner.start_takes(self.now_ms()), tasks_per_cpu)
    }

    /// A program has ended after so much CPU time, in ms.
    pub fn learn(&self, program: &Program, cpu_ms: u64) {
        self.lock().history.learn(program, cpu_ms);
    }

    /// Where a program that begins here, and probably needs so much CPU time, in ms, is to run.
    pub fn assign(&self, nodes: Vec<NodeView>, in_flight: Vec<InFlight>, job: &JobView, expected_ms: u64) -> Decision {
        let mut input = self.input(nodes, Vec::new(), in_flight);
        let mut inner = self.lock();
        let start_ms = inner.start_ms();
        input.nodes.iter_mut().for_each(|node| node.freeze_ms = node.freeze_ms.max(start_ms));
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
    pub fn released(&self, job: &str) {
        self.lock().placement.released(job, &self.here);
    }

    /// A move that placement had decided did not come about; `was_busy` if the target had its hands full, or knew better.
    pub fn failed(&self, job: &str, target: &str, was_busy: bool) {
        let now_ms = self.now_ms();
        let inner = &mut *self.lock();
        if was_busy {
            inner.placement.busy(job, target, now_ms, inner.start_ms());
        } else {
            inner.placement.failed(job, target, now_ms);
        }
    }

    /// A move has succeeded: what it took is what the next one will be expected to take.
    pub fn moved(&self, record: &MigrationSummary) {
        let Some(downtime_us) = record.downtime_us else { return };
        let mut inner = self.lock();
        let learning = inner.placement.config().learning;
        inner.note_times(&record.target, record.memory_bytes, downtime_us);
        let took_ms = record.end_time_ms.unwrap_or(record.create_time_ms).saturating_sub(record.create_time_ms) as f64;
        // A program that starts has no memory.
        let memory_ms = record.memory_bytes as f64 / inner.all_times.bytes_per_s() as f64 * 1_000.0;
        let took_ms = (took_ms - memory_ms).max(0.0);
        let start_ms = inner.start_ms.get_or_insert(took_ms);
        *start_ms = learning.blend(*start_ms, took_ms);
    }

    /// A guest has come from `source`: a move there is expected to take as long.
    pub fn arrived(&self, source: &str, memory_bytes: u64, downtime_us: u64) {
        self.lock().note_times(source, memory_bytes, downtime_us);
    }

    /// A home agent has ended after so much CPU time, in ms: what the absence of its program took here is what the next one is expected to
    /// take.
    pub fn worked(&self, cpu_ms: u64) {
        self.lock().work.note(cpu_ms, self.now_ms());
    }

    /// See [`NodeView::work_ms`]: what was measured here is taken to hold for the other end too.
    pub fn work_ms(&self) -> u64 {
        self.lock().work.ms(self.now_ms())
    }

    /// What a move to a node is expected to take.
    pub fn times(&self, target: &str) -> MoveTimes {
        let inner = self.lock();
        inner.times.get(target).map_or_else(|| inner.all_times.clone(), |times| times.among(&inner.all_times))
    }

    /// What was decided last about a job, as the API shows it; its migrations are left to the caller.
    pub fn reasons(&self, process: &ProcessName) -> PlacementReasons {
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
        let Some(Decided { at_ms, decision, round }) = inner.decided.get(process.to_string().as_str()) else {
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
    /// How long a start elsewhere takes, in ms.
    fn start_ms(&self) -> u64 {
        self.start_ms.map_or_else(|| self.all_times.freeze_ms(), |start_ms| start_ms as u64)
    }

    fn start_takes(&self, now_ms: u64) -> StartTakes {
        StartTakes { held_ms: self.start_ms(), work_ms: self.work.ms(now_ms) }
    }

    fn note_times(&mut self, node: &str, memory_bytes: u64, downtime_us: u64) {
        let learning = self.placement.config().learning;
        let to_node = self.times.entry(node.into()).or_insert_with(|| MoveTimes::on_a_machine(1.0, learning));
        for times in [to_node, &mut self.all_times] {
            times.note(memory_bytes, downtime_us / 1_000);
        }
    }

    fn note(&mut self, decision: &Decision, round: Option<Arc<Round>>) {
        let decided = Decided { at_ms: now_ms(), decision: decision.clone(), round };
        self.decided.insert(decision.job.clone(), decided);
    }
}

/// A decision in one sentence.
pub fn summary(decision: &Decision) -> String {
    let text = decision.verdict().map_or_else(|| "no reason was given".into(), Reason::to_string);
    // Whoever shows it says first what was decided.
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
