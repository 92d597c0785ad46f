//! Moves whose agent and target these tests play.

use std::{future::pending, path::Path};

use async_trait::async_trait;

use super::*;
use crate::{
    api::{
        backend::{GuestReservation, MoveRequest, NodeDetails},
        view::{PlacementReasons, ProcessSummary},
    },
    control::{
        AgentState, BodyFacts, FromAgent, StreamKind, ToAgent,
        packet::{PacketListener, PacketSocket},
        socket_path,
    },
    daemon::agents::Agents,
};

/// A target that never answers.
struct Silent;

#[async_trait]
impl Peers for Silent {
    async fn reserve(&self, _: &str, _: GuestReservation) -> Result<String, ApiError> {
        pending().await
    }

    async fn release(&self, _: &str, _: SessionId, _: &str) {
        pending().await
    }

    async fn request_move(&self, _: &str, _: MoveRequest) -> Result<MigrationSummary, ApiError> {
        Err(ApiError::Leaving)
    }

    fn report(&self, _: MigrationSummary) {}

    async fn guest_reasons(&self, _: &str, _: SessionId) -> Result<PlacementReasons, ApiError> {
        Err(ApiError::Leaving)
    }

    async fn constrain(&self, _: &str, _: SessionId, _: Constraints) -> Result<(), ApiError> {
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

/// A node whose target never answers.
pub struct Node {
    /// Its moves.
    pub moves: Arc<Moves>,
    ended: mpsc::Receiver<Ended>,
    dir: tempfile::TempDir,
}

impl Node {
    /// No move yet.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sender, ended) = mpsc::channel(8);
        let moves = Moves::new("n1", Arc::default(), Arc::new(Silent), dir.path().into(), sender);
        Self { moves, ended, dir }
    }

    async fn ended(&mut self) -> Ended {
        timeout(LIMIT, self.ended.recv()).await.expect("the move does not end").unwrap()
    }
}

/// A move of `process`.
pub fn order(process: &ProcessName, trigger: Trigger) -> Order {
    Order {
        migration: SessionId::random(),
        process: process.clone(),
        session: SessionId::random(),
        home_address: "192.0.2.1:7470".into(),
        comm: "cc".into(),
        constraints: Constraints::default(),
        target: "n2".into(),
        past: JobPast::default(),
        limit_milli: None,
        trigger,
        reason: "a test".into(),
    }
}

fn process(node: &str) -> ProcessName {
    ProcessName { node: node.into(), pid: 7 }
}

/// How an agent answers `Begin`.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Nothing,
    Refusal,
    Begun,
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
        let state = AgentState::Home {
            session,
            root_pid: 7,
            epoch: 0,
            runs_on: "n1".into(),
            visited: Vec::new(),
            moving: None,
            ended: None,
        };
        daemon.send(&FromAgent::State(state), None).await.unwrap();
        while let Ok(Some((request, _))) = daemon.recv().await {
            if let ToAgent::Begin { migration, .. } = &request
                && answer != Answer::Nothing
            {
                let refused = (answer == Answer::Refusal).then(|| "it has a socket".to_owned());
                let body = refused.is_none().then(BodyFacts::default);
                let begun = FromAgent::Begun { migration: *migration, refused, body };
                daemon.send(&begun, None).await.unwrap();
            }
            heard.send(request).await.unwrap();
        }
    });
    (agents.attach((StreamKind::Home, session), LIMIT).await.unwrap(), requests)
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
async fn an_agent_that_does_not_answer_in_time_hears_that_the_move_is_given_up() {
    let mut node = Node::new();
    let (agent, mut requests) = agent(node.dir.path(), Answer::Nothing).await;
    node.moves.start(order(&process("n1"), Trigger::Initial), Requirements::default(), async { Ok(agent) }).unwrap();
    assert!(matches!(heard(&mut requests).await, ToAgent::Begin { .. }));
    assert!(matches!(heard(&mut requests).await, ToAgent::Cancel { .. }));
    assert_eq!(node.ended().await.record.state, MoveState::Aborted);
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
