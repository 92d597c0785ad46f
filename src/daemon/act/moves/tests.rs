//! Moves whose agent and target these tests play.

use std::{future::pending, path::Path};

use async_trait::async_trait;

use super::*;
use crate::{
    api::{
        backend::{GuestReservation, MoveRequest, NodeDetails, Requirements},
        view::{PlacementReasons, ProcessSummary},
    },
    daemon::shared::agents::{Agent, Agents},
    protocol::{
        AgentState, FromAgent, StreamKind, ToAgent, TreeFacts,
        packet::{PacketListener, PacketSocket},
        socket_path,
    },
};

/// A target that takes every guest, or one that never answers.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    Silent,
    Willing,
}

#[async_trait]
impl Peers for Target {
    async fn reserve(&self, _: &str, _: GuestReservation) -> Result<String, ApiError> {
        match self {
            Self::Silent => pending().await,
            Self::Willing => Ok("192.0.2.2:7470".into()),
        }
    }

    async fn release(&self, _: &str, _: SessionId, _: &str) {
        pending().await
    }

    async fn request_move(&self, _: &str, _: MoveRequest) -> Result<MigrationSummary, ApiError> {
        Err(ApiError::Leaving)
    }

    async fn cancel(&self, _: &str, _: SessionId, _: &str) -> Result<MigrationSummary, ApiError> {
        Err(ApiError::Leaving)
    }

    fn report(&self, _: MigrationSummary) {}

    async fn guest_reasons(&self, _: &str, _: SessionId) -> Result<PlacementReasons, ApiError> {
        Err(ApiError::Leaving)
    }

    async fn constrain(&self, _: &str, _: SessionId, _: crate::job::Constraints) -> Result<(), ApiError> {
        Err(ApiError::Leaving)
    }

    async fn details(&self, _: &str) -> Result<NodeDetails, ApiError> {
        Err(ApiError::Leaving)
    }

    async fn processes(&self, _: &str) -> Result<Vec<ProcessSummary>, ApiError> {
        Err(ApiError::Leaving)
    }
}

const LIMIT: Duration = Duration::from_secs(10);

/// A node with one target.
pub struct Node {
    /// Its moves.
    pub moves: Arc<Moves>,
    ended: mpsc::Receiver<Ended>,
    dir: tempfile::TempDir,
}

impl Node {
    /// Its target never answers.
    pub fn new() -> Self {
        Self::beside(Target::Silent)
    }

    fn beside(target: Target) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sender, ended) = mpsc::channel(8);
        let moves = Moves::new("n1", Arc::default(), Arc::new(target), dir.path().into(), sender);
        Self { moves, ended, dir }
    }

    async fn ended(&mut self) -> Ended {
        timeout(LIMIT, self.ended.recv()).await.expect("the move does not end").unwrap()
    }
}

/// A move of `process`.
pub fn order(process: &JobId, trigger: Trigger) -> Order {
    Order {
        migration: SessionId::random(),
        job: crate::job::tests::record(&process.home, process.pid),
        home_address: "192.0.2.1:7470".into(),
        target: "n2".into(),
        limit_milli: None,
        trigger,
        reason: "a test".into(),
    }
}

fn process(node: &str) -> JobId {
    JobId::new(node, 7)
}

/// How an agent answers `Begin`.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Nothing,
    Refusal,
    Begun,
    /// And it moves the program, but says that the move is over some time before it says that it
    /// has forgotten it.
    Moved,
    /// And it says that the move goes back.
    Backwards,
}

/// An agent that hears of everything; all requests go to the channel.
async fn agent(dir: &Path, answer: Answer) -> (Arc<Agent>, mpsc::Receiver<ToAgent>) {
    let session = SessionId::random();
    let (reports, mut kept) = mpsc::channel(8);
    let agents = Agents::new(dir, reports).unwrap();
    let listener = PacketListener::bind(&socket_path(dir, StreamKind::Home, session)).unwrap();
    let (heard, requests) = mpsc::channel(8);
    tokio::spawn(async move { while kept.recv().await.is_some() {} });
    tokio::spawn(async move {
        let daemon: PacketSocket<FromAgent, ToAgent> = listener.accept().await.unwrap();
        daemon.greet().await.unwrap();
        let state = |moving| {
            FromAgent::State(AgentState::Home {
                session,
                root_pid: 7,
                epoch: 0,
                runs_on: "n1".into(),
                visited: Vec::new(),
                moving,
                ended: None,
            })
        };
        daemon.send(&state(None), None).await.unwrap();
        while let Ok(Some((request, _))) = daemon.recv().await {
            if let ToAgent::Begin { migration, .. } = &request
                && answer != Answer::Nothing
            {
                let refused = (answer == Answer::Refusal).then(|| "it has a socket".to_owned());
                let facts = refused.is_none().then(TreeFacts::default);
                let begun = FromAgent::Begun { migration: *migration, refused, facts };
                daemon.send(&state(Some((*migration, "n2".into()))), None).await.unwrap();
                daemon.send(&begun, None).await.unwrap();
            }
            if let ToAgent::Move { migration, .. } = &request {
                let states: &[MoveState] = match answer {
                    Answer::Moved => &[MoveState::Run],
                    Answer::Backwards => &[MoveState::Dump, MoveState::Freeze],
                    _ => &[],
                };
                for state in states {
                    daemon.send(&FromAgent::Progress(progress(*migration, *state)), None).await.unwrap();
                }
                if answer == Answer::Moved {
                    sleep(Duration::from_millis(50)).await;
                    daemon.send(&state(None), None).await.unwrap();
                }
            }
            heard.send(request).await.unwrap();
        }
    });
    (agents.attach((StreamKind::Home, session), LIMIT).await.unwrap(), requests)
}

fn progress(migration: SessionId, state: MoveState) -> MoveProgress {
    let (memory_bytes, wire_bytes, downtime_us) = (4096, 1024, Some(7_000));
    MoveProgress { migration, state, at_ms: 5, memory_bytes, wire_bytes, downtime_us, reason: None }
}

async fn heard(requests: &mut mpsc::Receiver<ToAgent>) -> ToAgent {
    timeout(LIMIT, requests.recv()).await.expect("the agent hears nothing").unwrap()
}

#[tokio::test]
async fn a_start_at_a_silent_target_is_given_up_soon() {
    let mut node = Node::new();
    let (agent, mut requests) = agent(node.dir.path(), Answer::Begun).await;
    let order = order(&process("n1"), Trigger::Initial);
    let migration = order.migration;
    node.moves.start(order, Requirements::default(), async { Ok(agent) }).unwrap();
    assert!(matches!(heard(&mut requests).await, ToAgent::Begin { .. }));
    assert!(matches!(heard(&mut requests).await, ToAgent::Cancel { migration: given_up, .. } if given_up == migration));
    let Ended { record, obstacle } = node.ended().await;
    assert_eq!((record.state, obstacle), (MoveState::Aborted, Obstacle::Other));
    let states: Vec<MoveState> = record.steps.iter().map(|step| step.state).collect();
    assert_eq!(states, [MoveState::Reserve, MoveState::Prepare, MoveState::Aborted]);
}

#[tokio::test]
async fn a_program_that_cannot_move_is_told_from_what_else_goes_wrong() {
    let mut node = Node::new();
    let (agent, _requests) = agent(node.dir.path(), Answer::Refusal).await;
    node.moves.start(order(&process("n1"), Trigger::Initial), Requirements::default(), async { Ok(agent) }).unwrap();
    let Ended { record, obstacle } = node.ended().await;
    assert_eq!((&*record.reason, obstacle), ("it has a socket", Obstacle::CannotMove));
}

#[tokio::test]
async fn an_agent_that_answers_too_late_is_told_to_abort() {
    let mut node = Node::new();
    let (agent, mut requests) = agent(node.dir.path(), Answer::Nothing).await;
    node.moves.start(order(&process("n1"), Trigger::Initial), Requirements::default(), async { Ok(agent) }).unwrap();
    assert!(matches!(heard(&mut requests).await, ToAgent::Begin { .. }));
    assert!(matches!(heard(&mut requests).await, ToAgent::Cancel { .. }));
    assert_eq!(node.ended().await.record.state, MoveState::Aborted);
}

#[tokio::test]
async fn who_sees_the_end_of_a_move_may_ask_for_another() {
    let mut node = Node::beside(Target::Willing);
    let (agent, _requests) = agent(node.dir.path(), Answer::Moved).await;
    let order = order(&process("n1"), Trigger::Request);
    let (migration, owner) = (order.migration, agent.clone());
    let mut changes = node.moves.views.migrations.subscribe();
    node.moves.start(order, Requirements::default(), async { Ok(owner) }).unwrap();
    let record = loop {
        timeout(LIMIT, changes.changed()).await.expect("the move does not end").unwrap();
        let record = node.moves.record(migration).unwrap();
        if record.is_over() {
            break record;
        }
    };
    assert_eq!((record.state, record.memory_bytes, record.downtime_us), (MoveState::Run, 4096, Some(7_000)));
    assert!(matches!(agent.state(), Some(AgentState::Home { moving: None, .. })), "its agent moves it still");
    assert!(!node.moves.is_moving(&process("n1")));
    assert_eq!(node.ended().await.record.id, migration);
}

#[tokio::test]
async fn a_report_of_an_illegal_step_aborts_the_move() {
    let mut node = Node::beside(Target::Willing);
    let (agent, mut requests) = agent(node.dir.path(), Answer::Backwards).await;
    node.moves.start(order(&process("n1"), Trigger::Request), Requirements::default(), async { Ok(agent) }).unwrap();
    assert!(matches!(heard(&mut requests).await, ToAgent::Begin { .. }));
    assert!(matches!(heard(&mut requests).await, ToAgent::Move { .. }));
    assert!(matches!(heard(&mut requests).await, ToAgent::Cancel { .. }));
    let Ended { record, .. } = node.ended().await;
    assert_eq!(record.state, MoveState::Aborted);
    assert!(record.reason.contains("cannot go from Dump to Freeze"), "{}", record.reason);
}

#[tokio::test]
async fn a_move_is_cancelled_unless_it_is_committed() {
    let mut node = Node::new();
    let (agent, mut requests) = agent(node.dir.path(), Answer::Begun).await;
    let order = order(&process("n1"), Trigger::Request);
    let migration = order.migration;
    node.moves.start(order, Requirements::default(), async { Ok(agent) }).unwrap();
    assert!(matches!(heard(&mut requests).await, ToAgent::Begin { .. }));
    assert!(!node.moves.cancel(migration, "not wanted").unwrap().is_over());
    let Ended { record, .. } = node.ended().await;
    assert_eq!((record.state, &*record.reason), (MoveState::Aborted, "not wanted"));
    assert_eq!(node.moves.cancel(migration, "again").unwrap().reason, "not wanted");
    let committed = MigrationSummary { id: SessionId::random(), state: MoveState::Commit, ..record };
    node.moves.views.migrations.put(committed.clone());
    assert!(matches!(node.moves.cancel(committed.id, "late"), Err(ApiError::AlreadyCommitted { .. })));
    let unknown = node.moves.cancel(SessionId::random(), "what");
    assert!(matches!(unknown, Err(ApiError::MigrationUnknown { .. })));
}

#[tokio::test]
async fn jobs_of_other_nodes_with_the_same_pid_are_others() {
    let node = Node::new();
    let moving = process("n2");
    node.moves.start(order(&moving, Trigger::Balance), Requirements::default(), pending()).unwrap();
    assert!(node.moves.is_moving(&moving) && !node.moves.is_moving(&process("n1")));
    assert_eq!(node.moves.unless_moving(&moving, || ()), None);
    assert_eq!(node.moves.unless_moving(&process("n1"), || ()), Some(()));
}

#[tokio::test]
async fn a_daemon_that_ends_gives_up_what_no_agent_makes_yet() {
    let mut node = Node::new();
    let (agent, mut requests) = agent(node.dir.path(), Answer::Begun).await;
    node.moves.start(order(&process("n1"), Trigger::Balance), Requirements::default(), async { Ok(agent) }).unwrap();
    assert!(matches!(heard(&mut requests).await, ToAgent::Begin { .. }));
    node.moves.close(LIMIT).await;
    assert!(!node.moves.is_moving(&process("n1")));
    assert!(matches!(heard(&mut requests).await, ToAgent::Cancel { .. }));
    assert!(node.ended().await.record.reason.contains("daemon"));
    let another = node.moves.start(order(&process("n1"), Trigger::Balance), Requirements::default(), pending());
    assert!(matches!(another, Err(ApiError::Leaving)));
}
