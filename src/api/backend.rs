//! What the services need of the daemon.

use async_trait::async_trait;

use super::{
    ApiError, Caller,
    table::Table,
    view::{ClusterEvent, MigrationSummary, NodeSummary, PlacementReasons, ProcessSummary, Trigger},
};
use crate::{
    job::{Constraints, JobId, JobRecord, SessionId},
    node::CpuFeatures,
    protocol::TreeFacts,
};

/// What the API shows. The daemon writes, lists and watches read; neither waits for the other.
#[derive(Default)]
pub struct Views {
    /// The nodes of the cluster, this one included.
    pub nodes: Table<NodeSummary>,
    /// The jobs whose home is here, and the guests.
    pub processes: Table<ProcessSummary>,
    /// The migrations of these jobs, current ones and the last that ended.
    pub migrations: Table<MigrationSummary>,
    /// What happened, the oldest first.
    pub events: Table<ClusterEvent>,
}

/// Where a job should go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To this node.
    Node(String),
    /// Back home.
    Home,
    /// Wherever placement thinks it best.
    Best,
}

/// How a process is to be taken under management.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// The process.
    pub pid: i32,
    /// What its user lets placement do with it.
    pub constraints: Constraints,
    /// The class of the node's settings whose constraints hold as well; may be empty.
    pub class: String,
}

/// What is to change of a job's constraints; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConstraintsChange {
    /// See [`Constraints::stay`].
    pub stay: Option<bool>,
    /// See [`Constraints::allowed_nodes`].
    pub allowed_nodes: Option<Vec<String>>,
}

impl ConstraintsChange {
    /// What it makes of `constraints`.
    #[must_use]
    pub fn applied_to(&self, constraints: &Constraints) -> Constraints {
        Constraints {
            stay: self.stay.unwrap_or(constraints.stay),
            allowed_nodes: self.allowed_nodes.clone().unwrap_or_else(|| constraints.allowed_nodes.clone()),
        }
    }
}

/// The daemon behind the public API. The services have authorised the caller before they call; he
/// is passed on for the log.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// This node's name.
    fn local_node(&self) -> &str;

    /// What there is to see. After a command has returned, its effect is in the views.
    fn views(&self) -> &Views;

    /// Takes a process of this machine under management; for one that is managed already, its job.
    ///
    /// # Errors
    /// [`ApiError::ProcessUnknown`], [`ApiError::CannotRegister`], [`ApiError::Invalid`] for an
    /// unknown class.
    async fn register(&self, caller: &Caller, wanted: Registration) -> Result<ProcessSummary, ApiError>;

    /// Sends the guests of this node away and takes no others, or ends that.
    ///
    /// # Errors
    /// [`ApiError::Internal`].
    async fn drain(&self, caller: &Caller, on: bool) -> Result<NodeSummary, ApiError>;

    /// Changes what placement may do with a job.
    ///
    /// # Errors
    /// As `ProcessService.ConstrainProcess` says.
    async fn constrain(
        &self,
        caller: &Caller,
        process: &JobId,
        change: ConstraintsChange,
    ) -> Result<ProcessSummary, ApiError>;

    /// Starts to move a job; returns when the migration has its id and record.
    ///
    /// # Errors
    /// As `ProcessService.MigrateProcess` says.
    async fn migrate(&self, caller: &Caller, process: &JobId, to: Destination) -> Result<MigrationSummary, ApiError>;

    /// Asks a migration to give up; returns at once with its record. One that was given up already
    /// is returned as it is.
    ///
    /// # Errors
    /// [`ApiError::MigrationUnknown`], [`ApiError::AlreadyCommitted`], [`ApiError::Unreachable`].
    async fn cancel(&self, caller: &Caller, migration: SessionId, reason: &str) -> Result<MigrationSummary, ApiError>;

    /// Why a job is where it is. For a job that is away the hosting node is asked.
    ///
    /// # Errors
    /// [`ApiError::ProcessUnknown`], [`ApiError::Unreachable`].
    async fn placement_reasons(&self, process: &JobId) -> Result<PlacementReasons, ApiError>;
}

/// What a node has that a guest might need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDetails {
    /// Its name.
    pub node: String,
    /// Its release of scx_mosix.
    pub version: String,
    /// The version of the formats between nodes.
    pub protocol: u32,
    /// What `uname -r` says.
    pub kernel_release: String,
    /// The version of CRIU.
    pub criu_version: Option<String>,
    /// What programs can use of its cpus.
    pub cpu: CpuFeatures,
    /// Memory that could be given to programs without swapping.
    pub available_bytes: u64,
    /// What it cannot do, one sentence each.
    pub missing: Vec<String>,
}

/// What a job needs of its host, beside room for `TreeFacts::resident_bytes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// The version of the formats between nodes.
    pub protocol: u32,
    /// What the cpus have that it may have come to depend on; the target must have all of it.
    pub cpu: CpuFeatures,
    /// What `uname -r` says at the source.
    pub kernel_release: String,
    /// The version of CRIU that will write the images.
    pub criu_version: String,
}

/// A node is asked to take a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestReservation {
    /// The migration; names the guest at the target from then on.
    pub migration: SessionId,
    /// The node that it comes from.
    pub source_node: String,
    /// The job.
    pub job: JobRecord,
    /// Where home's port is, `address:port`.
    pub home_address: String,
    /// Whether a user asked for the move.
    pub by_request: bool,
    /// What it may cost at the target at most, in thousandths of its own slowdown; `None` if it is
    /// to go whatever it costs.
    pub limit_milli: Option<u32>,
    /// Facts about the process tree.
    pub facts: TreeFacts,
    /// What it needs.
    pub requirements: Requirements,
}

/// Home asks the node that hosts a guest to move it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveRequest {
    /// The job's home session.
    pub session: SessionId,
    /// Where to; home's own name brings it home.
    pub target_node: String,
    /// The migration that this will be, chosen by home.
    pub migration: SessionId,
    /// Who wanted it.
    pub trigger: Trigger,
    /// Why, one sentence.
    pub reason: String,
}

/// The daemon behind the peer service; `peer` is the node that calls, as its certificate says.
#[async_trait]
pub trait PeerBackend: Send + Sync + 'static {
    /// What this node has.
    ///
    /// # Errors
    /// [`ApiError::Leaving`].
    async fn node_details(&self) -> Result<NodeDetails, ApiError>;

    /// Checks this node, keeps room, starts the guest's agent and waits until it is prepared.
    /// Returns where its stream is expected, `address:port`. The service has checked that `peer` is
    /// the source.
    ///
    /// # Errors
    /// [`ApiError::TargetRefused`], [`ApiError::TargetFull`], [`ApiError::Leaving`].
    async fn reserve_guest(&self, peer: &str, reservation: GuestReservation) -> Result<String, ApiError>;

    /// Gives a reservation back that `peer` made; a guest that runs, or an unknown one, is left
    /// alone.
    ///
    /// # Errors
    /// [`ApiError::NotAllowed`] if another node made it.
    async fn release_guest(&self, peer: &str, migration: SessionId, reason: &str) -> Result<(), ApiError>;

    /// Starts to move a guest on; `peer` must be its home, which is for this method to check.
    ///
    /// # Errors
    /// [`ApiError::NotHome`], and as [`Backend::migrate`].
    async fn request_move(&self, peer: &str, request: MoveRequest) -> Result<MigrationSummary, ApiError>;

    /// Notes what placement may do with a guest; `peer` must be its home, which is for this method
    /// to check.
    ///
    /// # Errors
    /// [`ApiError::ProcessUnknown`], [`ApiError::NotHome`].
    async fn constrain_guest(&self, peer: &str, session: SessionId, constraints: Constraints) -> Result<(), ApiError>;

    /// Notes how far a migration is of a job whose home is here. The service has checked that
    /// `peer` is its source and that the job's home is here.
    ///
    /// # Errors
    /// [`ApiError::ProcessUnknown`].
    async fn report_migration(&self, peer: &str, migration: MigrationSummary) -> Result<(), ApiError>;

    /// Why the guest of this session is here.
    ///
    /// # Errors
    /// [`ApiError::ProcessUnknown`].
    async fn guest_reasons(&self, peer: &str, session: SessionId) -> Result<PlacementReasons, ApiError>;
}
