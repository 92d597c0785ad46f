//! What moves took, and what programs needed: what the next ones are expected to take and need.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    api::view::MigrationSummary,
    placement::{History, Learning, MoveTimes, MoveWork, Program, StartTakes},
    sys::lock::{Mutex, MutexGuard},
};

/// How long `criu --version` takes on a 3 GHz x86 core of 2020. Where it takes longer, so will
/// moves, which start that program four times.
const CRIU_TAKES: Duration = Duration::from_millis(6);

/// What was learned so far.
pub struct Learned {
    started: Instant,
    learning: Learning,
    inner: Mutex<Inner>,
}

struct Inner {
    /// What moves between here and each node took, and between here and any.
    times: HashMap<Arc<str>, MoveTimes>,
    all_times: MoveTimes,
    /// How long moves took from the order to the end, but for their memory, in ms, smoothed: a
    /// program that starts elsewhere stands still for all of that.
    start_ms: Option<f64>,
    work: MoveWork,
    history: History,
}

impl Learned {
    /// Nothing yet, where `criu --version` takes so long.
    pub fn new(learning: Learning, criu_takes: Option<Duration>) -> Self {
        let slowness = criu_takes.map_or(1.0, |takes| takes.div_duration_f64(CRIU_TAKES).max(1.0));
        let inner = Inner {
            times: HashMap::new(),
            all_times: MoveTimes::on_a_machine(slowness, learning),
            start_ms: None,
            work: MoveWork::new(learning),
            history: History::new(learning),
        };
        Self { started: Instant::now(), learning, inner: Mutex::new(inner) }
    }

    /// A program has ended after so much CPU time, in ms.
    pub fn program_needed(&self, program: &Program, cpu_ms: u64) {
        self.lock().history.learn(program, cpu_ms);
    }

    /// How much CPU time a program probably needs, in ms.
    pub fn expected_ms(&self, program: &Program) -> Option<u64> {
        self.lock().history.expected_ms(program)
    }

    /// A move has succeeded: what it took is what the next one will be expected to take.
    pub fn moved(&self, record: &MigrationSummary) {
        let Some(downtime_us) = record.downtime_us else { return };
        let inner = &mut *self.lock();
        inner.note_times(&record.target, record.memory_bytes, downtime_us, self.learning);
        let took_ms = record.end_time_ms.unwrap_or(record.create_time_ms).saturating_sub(record.create_time_ms) as f64;
        // A program that starts has no memory.
        let memory_ms = record.memory_bytes as f64 / inner.all_times.bytes_per_s() as f64 * 1_000.0;
        let took_ms = (took_ms - memory_ms).max(0.0);
        let start_ms = inner.start_ms.get_or_insert(took_ms);
        *start_ms = self.learning.blend(*start_ms, took_ms);
    }

    /// A guest has come from `source`: a move there is expected to take as long.
    pub fn arrived(&self, source: &str, memory_bytes: u64, downtime_us: u64) {
        self.lock().note_times(source, memory_bytes, downtime_us, self.learning);
    }

    /// A home agent has ended after so much CPU time, in ms: what the absence of its program took
    /// here is what the next one is expected to take.
    pub fn worked(&self, cpu_ms: u64) {
        self.lock().work.note(cpu_ms, self.now_ms());
    }

    /// See [`NodeView::work_ms`](crate::placement::NodeView::work_ms): what was measured here is
    /// taken to hold for the other end too.
    pub fn work_ms(&self) -> u64 {
        self.lock().work.ms(self.now_ms())
    }

    /// What a move to a node is expected to take.
    pub fn times(&self, target: &str) -> MoveTimes {
        let inner = self.lock();
        inner.times.get(target).map_or_else(|| inner.all_times.clone(), |times| times.among(&inner.all_times))
    }

    /// What a start elsewhere is expected to take.
    pub fn start_takes(&self) -> StartTakes {
        let inner = self.lock();
        let held_ms = inner.start_ms.map_or_else(|| inner.all_times.freeze_ms(), |start_ms| start_ms as u64);
        StartTakes { held_ms, work_ms: inner.work.ms(self.now_ms()) }
    }

    /// Forgets what moves to nodes took that are no longer known.
    pub fn keep_only(&self, is_known: impl Fn(&str) -> bool) {
        self.lock().times.retain(|node, _| is_known(node));
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each part is consistent between any two of its calls.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note_times(&mut self, node: &str, memory_bytes: u64, downtime_us: u64, learning: Learning) {
        let to_node = self.times.entry(node.into()).or_insert_with(|| MoveTimes::on_a_machine(1.0, learning));
        for times in [to_node, &mut self.all_times] {
            times.note(memory_bytes, downtime_us / 1_000);
        }
    }
}
