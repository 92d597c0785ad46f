//! What the API shows, as plain values: the daemon fills them in, the services turn them into
//! messages, and clients turn messages back into them. Their serde form is the stable JSON of
//! `--output json`. Times are milliseconds since the epoch.

use serde::Serialize;

use super::table::Row;
use crate::{
    job::{Constraints, JobId, SessionId, Usage},
    protocol::MoveState,
};

/// How membership sees a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It answers.
    Alive,
    /// It did not answer lately.
    Suspect,
    /// It is leaving and takes no guests.
    Leaving,
    /// It is gone.
    Dead,
    /// A state that this release does not know.
    #[default]
    Unknown,
}

/// What our scheduler does at a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedExt {
    /// It schedules.
    Attached,
    /// It was detached or ejected; the kernel's own schedules.
    Detached,
    /// The kernel has no sched_ext.
    Unsupported,
    /// The daemon was told not to use it.
    Disabled,
    /// Not known yet.
    #[default]
    Unknown,
}

/// The kernel's pressure stall figures: shares of the last ten seconds, 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Some task waited for a cpu.
    pub cpu_some_percent: f64,
    /// Some task waited for memory.
    pub memory_some_percent: f64,
    /// All tasks waited for memory.
    pub memory_full_percent: f64,
    /// Some task waited for input or output.
    pub io_some_percent: f64,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeSummary {
    /// Its name.
    pub node: String,
    /// How membership sees it.
    pub state: NodeState,
    /// It is the node that answers.
    pub local: bool,
    /// Where its port is, `address:port`; `None` without a key.
    pub address: Option<String>,
    /// Its release of scx_mosix.
    pub version: String,
    /// Cpus that are online.
    pub cpus: u32,
    /// The measured speed of one of them; 1.0 is the standard cpu's.
    pub cpu_speed: f64,
    /// How busy they were over the last seconds, 0 to 100.
    pub cpu_busy_percent: f64,
    /// Names the features that programs may use.
    pub cpu_features_hash: String,
    /// Runnable tasks × standard speed / (speed × cpus), averaged.
    pub load: f64,
    /// All its memory.
    pub memory_total_bytes: u64,
    /// What could be given to programs without swapping.
    pub memory_available_bytes: u64,
    /// Pressure stall figures.
    pub pressure: Pressure,
    /// Jobs whose home it is.
    pub jobs: u32,
    /// Guests that it hosts.
    pub guests: u32,
    /// Why it takes no guests now; `None` if it does.
    pub refuses_because: Option<String>,
    /// What `uname -r` says there.
    pub kernel_release: String,
    /// What our scheduler does there.
    pub sched_ext: SchedExt,
    /// Why it is not attached.
    pub sched_ext_note: Option<String>,
    /// The version of CRIU.
    pub criu_version: Option<String>,
    /// What it cannot do, one sentence each.
    pub missing: Vec<String>,
    /// How old these figures are.
    pub age_ms: u64,
    /// How old they should be on average, by the size of the cluster; 0 at the node itself.
    pub expected_age_ms: u64,
    /// How old those of the node that was not heard of for longest should be; 0 at the node itself.
    pub expected_max_age_ms: u64,
    /// When the daemon was started.
    pub start_time_ms: Option<u64>,
}

impl Row for NodeSummary {
    fn key(&self) -> String {
        self.node.clone()
    }
}

/// What a job's root process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs or would like to.
    Running,
    /// It waits for something.
    Sleeping,
    /// A signal has stopped it.
    Stopped,
    /// It is being moved.
    Moving,
    /// It has ended and its parent has not yet asked how.
    Ended,
    /// Not known.
    #[default]
    Unknown,
}

/// A job: a program that `scx_mosix run` started, with its descendants.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ProcessSummary {
    /// The root process's pid at home.
    pub pid: i32,
    /// Where it was started.
    pub home: String,
    /// Where it runs.
    pub runs_on: String,
    /// What its root process does.
    pub state: ProcessState,
    /// The kernel's short name for it.
    pub comm: String,
    /// Its arguments, its own name first.
    pub command_line: Vec<String>,
    /// The user at home whose it is.
    pub uid: u32,
    /// That user's name.
    pub user: String,
    /// Its working directory, a path at home.
    pub cwd: String,
    /// Cpu time per time of all its processes, in percent of one cpu.
    pub cpu_percent: f64,
    /// What all its processes use; counted since it was started, wherever it was.
    #[serde(flatten)]
    pub usage: Usage,
    /// Its resident memory as a share of the memory of the node where it runs, 0 to 100.
    pub memory_percent: f64,
    /// How often it has been moved.
    pub moves: u32,
    /// Where it has been, in order, home first.
    pub visited: Vec<String>,
    /// Why it cannot be moved now.
    pub cannot_move: Option<String>,
    /// What placement may do with it.
    #[serde(flatten)]
    pub constraints: Constraints,
    /// Its current or last migration.
    pub migration: Option<SessionId>,
    /// When its root process was started.
    pub start_time_ms: Option<u64>,
    /// The pid at home of the job that its user started, if it is a descendant of that.
    pub part_of: Option<i32>,
}

impl ProcessSummary {
    /// Its name in the cluster.
    #[must_use]
    pub fn name(&self) -> JobId {
        JobId::new(&self.home, self.pid)
    }

    /// The key of the job called `name` in its table.
    #[must_use]
    pub fn key_of(name: &JobId) -> String {
        // Padded, so that 9 comes before 10.
        format!("{}/{:010}", name.home, name.pid)
    }
}

impl Row for ProcessSummary {
    fn key(&self) -> String {
        Self::key_of(&self.name())
    }
}

/// Who wanted a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Someone asked.
    Request,
    /// Another node has more room for it.
    Balance,
    /// Its node ran short of memory.
    Memory,
    /// Home has room for it again.
    Home,
    /// It was just started.
    Initial,
    /// Its node leaves, or wants its guests gone.
    Evacuate,
    /// Not known.
    #[default]
    Unknown,
}

/// A state that a migration has entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MigrationStep {
    /// The state.
    pub state: MoveState,
    /// When, by the source's clock.
    pub at_ms: u64,
}

/// A move of one job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MigrationSummary {
    /// Its id.
    pub id: SessionId,
    /// The job, `{node}/{pid}`.
    pub process: JobId,
    /// Where it comes from.
    pub source: String,
    /// Where it goes.
    pub target: String,
    /// How far it is.
    pub state: MoveState,
    /// Who wanted it.
    pub trigger: Trigger,
    /// The states that it has entered, in order.
    pub steps: Vec<MigrationStep>,
    /// Memory sent, before compression.
    pub memory_bytes: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// From the freeze to the first instruction at the target; known when it runs.
    pub downtime_us: Option<u64>,
    /// Why it was wanted, or why it was given up or lost.
    pub reason: String,
    /// When it was asked for.
    pub create_time_ms: u64,
    /// When it ended.
    pub end_time_ms: Option<u64>,
}

impl MigrationSummary {
    /// Whether nothing more will happen to it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, MoveState::Run | MoveState::Aborted | MoveState::Failed)
    }
}

impl Row for MigrationSummary {
    fn key(&self) -> String {
        // The newest first.
        format!("{:016x}-{}", u64::MAX - self.create_time_ms, self.id)
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A node is there.
    Joined,
    /// A node said good-bye.
    Left,
    /// A node does not answer any more.
    Died,
    /// A node sends its guests away and takes no others.
    Drained,
    /// A node takes guests again.
    Undrained,
    /// A node's sched_ext scheduler is no longer in force.
    Ejected,
    /// A program runs at another node.
    Moved,
    /// A program was moved as memory was short.
    Ushered,
    /// A move was given up; the program continues where it was.
    Refused,
    /// A program was lost in a move.
    Lost,
    /// A kind that this release does not know.
    #[default]
    Unknown,
}

impl EventKind {
    /// All that is known.
    pub const ALL: [Self; 10] = [
        Self::Joined,
        Self::Left,
        Self::Died,
        Self::Drained,
        Self::Undrained,
        Self::Ejected,
        Self::Moved,
        Self::Ushered,
        Self::Refused,
        Self::Lost,
    ];
}

/// Something that happened in the cluster, as one node saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterEvent {
    /// Grows from event to event, also over a restart of the daemon.
    pub id: u64,
    /// When the node saw it.
    pub at_ms: u64,
    /// What.
    pub kind: EventKind,
    /// The node that it is about; of a move, its source.
    pub node: String,
    /// The program that it is about.
    pub process: Option<JobId>,
    /// Whose that is, if that was known; it stays at the node.
    #[serde(skip)]
    pub uid: Option<u32>,
    /// The move that it is about.
    pub migration: Option<SessionId>,
    /// The event in one sentence.
    pub text: String,
}

impl Row for ClusterEvent {
    fn key(&self) -> String {
        // The oldest first.
        format!("{:020}", self.id)
    }
}

/// What placement did about a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlacementDecision {
    /// It stays.
    Stay,
    /// It moves.
    Move,
    /// It was not looked at yet.
    #[default]
    Unknown,
}

/// A figure that a decision rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What it is, with its unit.
    pub name: String,
    /// How much.
    pub value: f64,
}

/// One reason of a decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PlacementReason {
    /// Names the kind, such as `BELOW_HOME_THRESHOLD`.
    pub code: String,
    /// One sentence.
    pub text: String,
    /// What was compared.
    pub figures: Vec<Figure>,
}

/// A node that was looked at as a target.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PlacementCandidate {
    /// The node.
    pub node: String,
    /// Whether it was the chosen one.
    pub chosen: bool,
    /// Why, one sentence.
    pub text: String,
    /// What was compared.
    pub figures: Vec<Figure>,
}

/// Why a job is where it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlacementReasons {
    /// The job, `{node}/{pid}`.
    pub process: JobId,
    /// The last decision.
    pub decision: PlacementDecision,
    /// Where to, for a move.
    pub target: Option<String>,
    /// The decision in one sentence, with its figures.
    pub summary: String,
    /// Each reason on its own.
    pub reasons: Vec<PlacementReason>,
    /// Each node that was looked at.
    pub candidates: Vec<PlacementCandidate>,
    /// When it was decided.
    pub decide_time_ms: Option<u64>,
    /// Its last migrations, the newest first, at most ten.
    pub migrations: Vec<MigrationSummary>,
    /// Why it cannot be moved now.
    pub cannot_move: Option<String>,
}
