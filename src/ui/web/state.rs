//! The cluster as the page shows it, and what it is told of each change. Pure.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
};

use serde::Serialize;

use crate::{
    api::view::{MigrationSummary, NodeState, NodeSummary, ProcessSummary},
    job::{JobId, SessionId},
    ui::top::{Batch, Event, Link, Pane},
};

/// An hour of points, one each ten seconds.
const POINTS: usize = 360;
/// Nodes of which a history is kept.
const MAX_HISTORIES: usize = 1_000;

/// What the API told so far.
#[derive(Default)]
pub struct State {
    nodes: HashMap<String, NodeSummary>,
    programs: HashMap<JobId, ProcessSummary>,
    moves: HashMap<SessionId, MigrationSummary>,
    /// Why a stream is broken, by what it brings.
    broken: BTreeMap<&'static str, String>,
    history: BTreeMap<String, VecDeque<Point>>,
}

/// How a node was at a time: ms since the epoch, load, share of its memory that was in use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Point(u64, f64, f64);

/// What the page is told.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Message<'a> {
    /// Everything; what was told before does not count any more.
    Whole {
        read_only: bool,
        nodes: Vec<&'a NodeSummary>,
        programs: Vec<&'a ProcessSummary>,
        moves: Vec<&'a MigrationSummary>,
        broken: &'a BTreeMap<&'static str, String>,
        history: &'a BTreeMap<String, VecDeque<Point>>,
    },
    Nodes {
        whole: bool,
        put: &'a [NodeSummary],
        deleted: &'a [String],
    },
    Programs {
        whole: bool,
        put: &'a [ProcessSummary],
        deleted: Vec<String>,
    },
    Moves {
        whole: bool,
        put: &'a [MigrationSummary],
        deleted: Vec<String>,
    },
    Broken {
        broken: &'a BTreeMap<&'static str, String>,
    },
    /// The newest points of the history.
    Points {
        points: BTreeMap<&'a str, Point>,
    },
}

impl Message<'_> {
    fn json(&self) -> String {
        // Strings, numbers and maps by strings can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl State {
    /// Everything, as one message.
    pub fn whole(&self, read_only: bool) -> String {
        let Self { nodes, programs, moves, broken, history } = self;
        Message::Whole {
            read_only,
            nodes: nodes.values().collect(),
            programs: programs.values().collect(),
            moves: moves.values().collect(),
            broken,
            history,
        }
        .json()
    }

    /// Takes what a stream of the API brought; gives what the page is told of it.
    pub fn take(&mut self, event: Event) -> Option<String> {
        let message = match event {
            Event::Nodes(batch) => {
                merge(&mut self.nodes, &batch, |node| node.node.clone());
                Message::Nodes { whole: batch.whole, put: &batch.put, deleted: &batch.deleted }.json()
            }
            Event::Programs(batch) => {
                merge(&mut self.programs, &batch, ProcessSummary::name);
                let deleted = batch.deleted.iter().map(ToString::to_string).collect();
                Message::Programs { whole: batch.whole, put: &batch.put, deleted }.json()
            }
            Event::Moves(batch) => {
                merge(&mut self.moves, &batch, |step| step.id);
                let deleted = batch.deleted.iter().map(ToString::to_string).collect();
                Message::Moves { whole: batch.whole, put: &batch.put, deleted }.json()
            }
            Event::Link(pane, link) => {
                let stream = match pane {
                    Pane::Nodes => "nodes",
                    Pane::Programs | Pane::Why => "programs",
                    Pane::Moves => "moves",
                };
                match link {
                    Link::Lost { why, .. } => self.broken.insert(stream, why),
                    Link::Opening | Link::Live => self.broken.remove(stream),
                };
                Message::Broken { broken: &self.broken }.json()
            }
            _ => return None,
        };
        Some(message)
    }

    /// Adds a point to each node's history; gives what the page is told of it.
    pub fn sample(&mut self, now_ms: u64) -> String {
        let Self { nodes, history, .. } = self;
        history.retain(|node, _| nodes.contains_key(node));
        let mut points = BTreeMap::new();
        for node in nodes.values().filter(|node| node.state != NodeState::Dead) {
            if history.len() >= MAX_HISTORIES && !history.contains_key(&node.node) {
                continue;
            }
            let used = node.memory_total_bytes.saturating_sub(node.memory_available_bytes);
            let point = Point(now_ms, node.load, used as f64 / node.memory_total_bytes.max(1) as f64);
            let kept = history.entry(node.node.clone()).or_default();
            kept.push_back(point);
            if kept.len() > POINTS {
                kept.pop_front();
            }
            points.insert(&*node.node, point);
        }
        Message::Points { points }.json()
    }
}

/// Brings rows up to date with what a stream brought.
fn merge<K: Hash + Eq, R: Clone>(rows: &mut HashMap<K, R>, batch: &Batch<R, K>, key: impl Fn(&R) -> K) {
    if batch.whole {
        rows.clear();
    }
    for key in &batch.deleted {
        rows.remove(key);
    }
    rows.extend(batch.put.iter().map(|row| (key(row), row.clone())));
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn node(name: &str, load: f64) -> NodeSummary {
        NodeSummary {
            node: name.into(),
            load,
            memory_total_bytes: 4,
            memory_available_bytes: 1,
            state: NodeState::Alive,
            ..NodeSummary::default()
        }
    }

    fn nodes(whole: bool, put: &[(&str, f64)], deleted: &[&str]) -> Event {
        Event::Nodes(Batch {
            whole,
            put: put.iter().map(|(name, load)| node(name, *load)).collect(),
            deleted: deleted.iter().map(ToString::to_string).collect(),
        })
    }

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn names(state: &State) -> Vec<String> {
        let whole = json(&state.whole(false));
        let mut names: Vec<_> =
            whole["nodes"].as_array().unwrap().iter().map(|node| node["node"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_page_that_comes_later_sees_what_the_others_see() {
        let mut state = State::default();
        state.take(nodes(true, &[("n1", 0.5), ("n2", 1.0)], &[]));
        let told = json(&state.take(nodes(false, &[("n3", 0.0)], &["n2"])).unwrap());
        assert_eq!((&told["type"], &told["deleted"][0]), (&"nodes".into(), &"n2".into()));
        assert_eq!(names(&state), ["n1", "n3"]);
        // A stream that was opened again begins anew.
        state.take(nodes(true, &[("n2", 0.0)], &[]));
        assert_eq!(names(&state), ["n2"]);
    }

    #[test]
    fn the_history_is_an_hour_long() {
        let mut state = State::default();
        state.take(nodes(true, &[("n1", 0.5)], &[]));
        for n in 0..=POINTS as u64 {
            state.sample(n * 10_000);
        }
        let whole = json(&state.whole(true));
        let points = whole["history"]["n1"].as_array().unwrap();
        assert_eq!((points.len(), &points[0]), (POINTS, &serde_json::json!([10_000, 0.5, 0.75])));
        assert_eq!(whole["read_only"], true);
        state.take(nodes(true, &[], &[]));
        state.sample(0);
        assert!(json(&state.whole(false))["history"].as_object().unwrap().is_empty());
    }

    #[test]
    fn a_broken_stream_is_told_until_it_lives() {
        let mut state = State::default();
        let lost = Link::Lost { why: "no daemon".into(), retry_s: 1 };
        let told = json(&state.take(Event::Link(Pane::Moves, lost)).unwrap());
        assert_eq!(told["broken"]["moves"], "no daemon");
        let told = json(&state.take(Event::Link(Pane::Moves, Link::Live)).unwrap());
        assert!(told["broken"].as_object().unwrap().is_empty());
    }
}
