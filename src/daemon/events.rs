//! What happened, told from how the API's tables change: nodes that come and go, moves that end.
//!
//! ```text
//!   tables of nodes and moves ──► Seen: what is new? ──► events ──► table of events (the last 1000)
//! ```

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::pipeline::Pipeline;
use crate::{
    api::{
        backend::Views,
        table::Row,
        view::{ClusterEvent, EventKind, MigrationSummary, NodeState, NodeSummary, ProcessSummary, SchedExt, Trigger},
    },
    job::SessionId,
    protocol::MoveState,
    sys::clock::now_ms,
};

/// How many events are kept.
const MAX_EVENTS: usize = 1_000;

/// Writes events until the daemon ends.
pub async fn run(pipeline: Arc<Pipeline>) {
    let views = &pipeline.tables;
    let (mut nodes, mut migrations) = (views.nodes.subscribe(), views.migrations.subscribe());
    let mut seen = Seen::default();
    let looks = async {
        loop {
            seen.look(views).into_iter().for_each(|event| keep(views, event));
            tokio::select! {
                Ok(()) = nodes.changed() => {}
                Ok(()) = migrations.changed() => {}
                else => return,
            }
        }
    };
    pipeline.shared.stop.run_until_cancelled(looks).await;
}

/// Gives an event the next id and the time, and drops those that are too many.
fn keep(views: &Views, event: ClusterEvent) {
    let kept = views.events.all();
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    // Ids grow also where the clock was set back.
    let next = kept.last().map_or(0, |last| last.id + 1);
    let id = u64::try_from(now_us).unwrap_or(u64::MAX).max(next);
    views.events.put(ClusterEvent { id, at_ms: now_ms(), ..event });
    for old in kept.iter().take((kept.len() + 1).saturating_sub(MAX_EVENTS)) {
        views.events.remove(&old.key());
    }
}

/// What was seen at the last look.
#[derive(Default)]
struct Seen {
    nodes: HashMap<String, Arc<NodeSummary>>,
    /// Moves that were over. What the tables forget is forgotten here.
    over: HashSet<SessionId>,
}

impl Seen {
    /// What happened since the last look.
    fn look(&mut self, views: &Views) -> Vec<ClusterEvent> {
        let mut events = Vec::new();
        let nodes = views.nodes.all();
        for node in &nodes {
            events.extend(of_node(self.nodes.get(&node.node).map(|old| &**old), node));
        }
        self.nodes = nodes.into_iter().map(|node| (node.node.clone(), node)).collect();
        let migrations = views.migrations.all();
        // The table has the newest first.
        for migration in migrations.iter().rev().filter(|migration| !self.over.contains(&migration.id)) {
            let process = views.processes.get(&ProcessSummary::key_of(&migration.process));
            events.extend(of_move(migration, process.as_deref()));
        }
        self.over = migrations.iter().filter(|migration| migration.is_over()).map(|migration| migration.id).collect();
        events
    }
}

fn event(kind: EventKind, node: &str, text: String) -> ClusterEvent {
    ClusterEvent { id: 0, at_ms: 0, kind, node: node.to_owned(), process: None, uid: None, migration: None, text }
}

/// What happened to a node; `old` is how it was, if it was known. Several things may have.
fn of_node(old: Option<&NodeSummary>, new: &NodeSummary) -> Vec<ClusterEvent> {
    let (node, mut events) = (&new.node, Vec::new());
    let mut tell = |kind, text: String| events.push(event(kind, node, text));
    let was = old.map(|old| old.state);
    // Who is suspected may answer yet.
    let is_there = |state: NodeState| matches!(state, NodeState::Alive | NodeState::Suspect);
    let was_there = was.is_some_and(is_there);
    match new.state {
        // This node has not joined itself.
        _ if new.local && old.is_none() => {}
        NodeState::Alive if !was_there => {
            let memory_gib = new.memory_total_bytes as f64 / f64::from(1 << 30);
            let has = match new.cpus {
                // Its first report is on its way.
                0 => String::new(),
                cpus => format!(", with {cpus} CPUs and {memory_gib:.1} GiB of memory"),
            };
            tell(EventKind::Joined, format!("{node} joined the cluster{has}"));
        }
        NodeState::Leaving if was != Some(NodeState::Leaving) => {
            tell(EventKind::Left, format!("{node} left the cluster"));
        }
        NodeState::Dead if was != Some(NodeState::Dead) => {
            tell(
                EventKind::Died,
                format!("{node} does not answer any more: its guests are lost unless it comes back soon"),
            );
        }
        _ => {}
    }
    let Some(old) = old else { return events };
    if new.local && old.refuses_because != new.refuses_because {
        match &new.refuses_because {
            Some(why) => tell(EventKind::Drained, format!("{node} sends its guests away: {why}")),
            None => tell(EventKind::Undrained, format!("{node} takes guests again")),
        }
    }
    if (old.sched_ext, new.sched_ext) == (SchedExt::Attached, SchedExt::Detached) {
        let why = new.sched_ext_note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        tell(EventKind::Ejected, format!("the scheduler of {node} is no longer in force, the kernel's own is{why}"));
    }
    events
}

/// What came of a move, if it is over; `process` is the program, if it is still known.
fn of_move(migration: &MigrationSummary, process: Option<&ProcessSummary>) -> Option<ClusterEvent> {
    let MigrationSummary { source, target, reason, .. } = migration;
    let program = match process {
        Some(process) => format!("{} ({})", migration.process, process.comm),
        None => migration.process.to_string(),
    };
    let stopped = migration.downtime_us.map(|us| format!(", stopped for {} ms", us / 1_000)).unwrap_or_default();
    let (kind, text) = match (migration.state, migration.trigger) {
        (MoveState::Run, Trigger::Memory) => (
            EventKind::Ushered,
            format!("{program} moved from {source} to {target} as memory is short at {source}{stopped}"),
        ),
        (MoveState::Run, _) => {
            (EventKind::Moved, format!("{program} moved from {source} to {target}{stopped}: {reason}"))
        }
        (MoveState::Aborted, _) => {
            (EventKind::Refused, format!("{program} stays at {source} and does not move to {target}: {reason}"))
        }
        (MoveState::Failed, _) => {
            (EventKind::Lost, format!("{program} was lost on its way from {source} to {target}: {reason}"))
        }
        _ => return None,
    };
    Some(ClusterEvent {
        process: Some(migration.process.clone()),
        uid: process.map(|process| process.uid),
        migration: Some(migration.id),
        ..event(kind, source, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;

    fn node(state: NodeState) -> NodeSummary {
        NodeSummary { node: "n2".into(), state, cpus: 2, memory_total_bytes: 4 << 30, ..NodeSummary::default() }
    }

    fn migration(state: MoveState, trigger: Trigger) -> MigrationSummary {
        MigrationSummary {
            id: SessionId::random(),
            process: JobId::new("n1", 7),
            source: "n1".into(),
            target: "n2".into(),
            state,
            trigger,
            steps: Vec::new(),
            memory_bytes: 0,
            wire_bytes: 0,
            downtime_us: (state == MoveState::Run).then_some(312_000),
            reason: "it costs less there".into(),
            create_time_ms: 5,
            end_time_ms: Some(6),
        }
    }

    fn kinds(events: &[ClusterEvent]) -> Vec<EventKind> {
        events.iter().map(|event| event.kind).collect()
    }

    #[test]
    fn a_node_joins_dies_and_comes_back() {
        let (alive, suspect, dead) = (node(NodeState::Alive), node(NodeState::Suspect), node(NodeState::Dead));
        let joined = of_node(None, &alive);
        assert_eq!(joined[0].text, "n2 joined the cluster, with 2 CPUs and 4.0 GiB of memory");
        assert!(of_node(Some(&alive), &suspect).is_empty());
        assert!(of_node(Some(&suspect), &alive).is_empty());
        assert_eq!(kinds(&of_node(Some(&suspect), &dead)), [EventKind::Died]);
        assert!(of_node(Some(&dead), &dead).is_empty());
        assert_eq!(kinds(&of_node(Some(&dead), &alive)), [EventKind::Joined]);
        assert_eq!(kinds(&of_node(Some(&alive), &node(NodeState::Leaving))), [EventKind::Left]);
    }

    #[test]
    fn a_node_does_not_join_itself() {
        assert!(of_node(None, &NodeSummary { local: true, ..node(NodeState::Alive) }).is_empty());
    }

    #[test]
    fn draining_is_told_by_the_node_itself() {
        let takes = NodeSummary { local: true, ..node(NodeState::Alive) };
        let refuses = NodeSummary { refuses_because: Some("it is being drained".into()), ..takes.clone() };
        let drained = of_node(Some(&takes), &refuses);
        assert_eq!(drained[0].text, "n2 sends its guests away: it is being drained");
        assert_eq!(kinds(&of_node(Some(&refuses), &takes)), [EventKind::Undrained]);
        let elsewhere = NodeSummary { local: false, ..refuses };
        assert!(of_node(Some(&node(NodeState::Alive)), &elsewhere).is_empty());
    }

    #[test]
    fn an_ejected_scheduler_is_told_with_its_reason() {
        let attached = NodeSummary { sched_ext: SchedExt::Attached, ..node(NodeState::Alive) };
        let ejected = NodeSummary {
            sched_ext: SchedExt::Detached,
            sched_ext_note: Some("runnable task stall".into()),
            ..attached.clone()
        };
        let events = of_node(Some(&attached), &ejected);
        assert!(events[0].text.ends_with("the kernel's own is: runnable task stall"), "{events:?}");
        assert!(of_node(Some(&ejected), &attached).is_empty());
    }

    #[test]
    fn a_move_is_told_once_when_it_is_over() {
        let (views, mut seen) = (Views::default(), Seen::default());
        let process =
            ProcessSummary { pid: 7, home: "n1".into(), comm: "zstd".into(), uid: 1_000, ..ProcessSummary::default() };
        views.processes.put(process);
        let moving = migration(MoveState::Stream, Trigger::Balance);
        views.migrations.put(moving.clone());
        assert!(seen.look(&views).is_empty());
        views.migrations.put(MigrationSummary { state: MoveState::Run, downtime_us: Some(312_999), ..moving.clone() });
        let told = seen.look(&views);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].text, "n1/7 (zstd) moved from n1 to n2, stopped for 312 ms: it costs less there");
        assert_eq!((told[0].uid, told[0].migration), (Some(1_000), Some(moving.id)));
        views.migrations.put(MigrationSummary { state: MoveState::Run, wire_bytes: 1, ..moving });
        assert!(seen.look(&views).is_empty());
    }

    #[test]
    fn each_end_of_a_move_has_its_kind() {
        let kind = |state, trigger| of_move(&migration(state, trigger), None).map(|event| event.kind);
        assert_eq!(kind(MoveState::Run, Trigger::Memory), Some(EventKind::Ushered));
        assert_eq!(kind(MoveState::Run, Trigger::Request), Some(EventKind::Moved));
        assert_eq!(kind(MoveState::Aborted, Trigger::Memory), Some(EventKind::Refused));
        assert_eq!(kind(MoveState::Failed, Trigger::Balance), Some(EventKind::Lost));
        assert_eq!(kind(MoveState::Commit, Trigger::Balance), None);
    }

    #[test]
    fn the_newest_events_are_kept_in_order() {
        let views = Views::default();
        for n in 0..=MAX_EVENTS {
            keep(&views, event(EventKind::Joined, "n2", n.to_string()));
        }
        let kept = views.events.all();
        assert_eq!((kept.len(), &*kept[0].text), (MAX_EVENTS, "1"));
        assert!(kept.is_sorted_by(|a, b| a.id < b.id));
    }
}
