//! Clusters for tests.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    model::{Effect, Event, Link, Model, Pane, Rights, list::Batch},
    settings::Settings,
};
use crate::{
    api::view::{
        Figure, MigrationStep, MigrationSummary, NodeState, NodeSummary, PlacementCandidate, PlacementDecision,
        PlacementReason, PlacementReasons, Pressure, ProcessState, ProcessSummary, SchedExt, Trigger,
    },
    job::{Constraints, Counters, JobId, SessionId, Usage},
    protocol::MoveState,
};

/// When it is, in ms since the epoch.
pub const NOW_MS: u64 = 1_800_000_000_000;

/// What the machine's own user may do.
pub const LOCAL: Rights = Rights { read_only: false, is_local: true, has_credentials: false };

/// A key without Ctrl.
pub fn key(code: KeyCode) -> Event {
    Event::Key(KeyEvent::new(code, KeyModifiers::NONE))
}

/// Presses keys: characters, `\n` for Enter, `\x1b` for Esc.
pub fn press(model: &mut Model, keys: &str) -> Vec<Effect> {
    let code = |c| match c {
        '\n' => KeyCode::Enter,
        '\x1b' => KeyCode::Esc,
        c => KeyCode::Char(c),
    };
    keys.chars().flat_map(|c| model.update(key(code(c)))).collect()
}

/// All rows of a list.
pub fn whole<R, K>(put: Vec<R>) -> Batch<R, K> {
    Batch { whole: true, put, deleted: Vec::new() }
}

/// What changed of a list.
pub fn change<R, K>(put: Vec<R>, deleted: Vec<K>) -> Batch<R, K> {
    Batch { whole: false, put, deleted }
}

/// A model that knows of nothing yet, on a screen of 80×24.
pub fn empty(rights: Rights) -> Model {
    let mut model = Model::new(&Settings::default(), rights);
    model.update(Event::Resized(80, 24));
    model.update(Event::Time(NOW_MS));
    model
}

/// Three nodes, five programs, three moves; the reasons for n1/4711.
pub fn small(rights: Rights) -> Model {
    let mut model = empty(rights);
    for pane in [Pane::Nodes, Pane::Programs, Pane::Moves] {
        model.update(Event::Link(pane, Link::Live));
    }
    model.update(Event::Nodes(whole(vec![node("n1", 1.85), node("n2", 0.4), node("n3", 0.05)])));
    model.update(Event::Programs(whole(vec![
        program(4711, "n2", "zstd -19 big.tar", 99.8),
        ProcessSummary { part_of: Some(4711), ..program(4720, "n1", "cc1 -O2 main.c", 50.2) },
        ProcessSummary {
            constraints: Constraints { stay: true, allowed_nodes: vec!["n2".into()] },
            ..program(900, "n1", "render --frames 100", 12.0)
        },
        ProcessSummary {
            cannot_move: Some("descriptor 5 is an inet socket".into()),
            state: ProcessState::Sleeping,
            ..program(12345, "n1", "server\x1b[2J --port 80", 0.0)
        },
        ProcessSummary { home: "n3".into(), cwd: "/srv/data".into(), ..program(77, "n1", "gzip x", 30.0) },
    ])));
    let chosen = JobId::new("n1", 4711);
    model.programs.select(&chosen, 10);
    assert_eq!(model.update(Event::Time(NOW_MS)), [Effect::AskWhy(chosen.clone())]);
    model.update(Event::Reasons(chosen, Ok(reasons())));
    model.update(Event::Moves(whole(vec![
        MigrationSummary {
            state: MoveState::Stream,
            memory_bytes: 40 << 20,
            downtime_us: None,
            end_time_ms: None,
            create_time_ms: NOW_MS - 2_000,
            ..ended(1, "n3")
        },
        ended(2, "n2"),
        MigrationSummary {
            state: MoveState::Aborted,
            reason: "n3 does not take it: 10 MiB left".into(),
            downtime_us: None,
            create_time_ms: NOW_MS - 700_000,
            ..ended(3, "n3")
        },
    ])));
    model.update(Event::Time(NOW_MS + 1_000));
    model
}

/// A node; n1 is the one that is asked.
pub fn node(name: &str, load: f64) -> NodeSummary {
    let local = name == "n1";
    NodeSummary {
        node: name.into(),
        state: NodeState::Alive,
        local,
        address: Some(format!("192.0.2.1{}:7470", name.trim_start_matches('n'))),
        version: "0.1.0".into(),
        cpus: 4,
        cpu_speed: 1.0,
        cpu_busy_percent: if local { 87.0 } else { 0.0 },
        load,
        memory_total_bytes: 8 << 30,
        memory_available_bytes: 3 << 30,
        pressure: Pressure { cpu_some_percent: 12.0, ..Pressure::default() },
        guests: if local { 1 } else { 0 },
        refuses_because: (name == "n3").then(|| "no guests while it is being drained or its daemon stops".into()),
        kernel_release: "7.0.1".into(),
        sched_ext: if local { SchedExt::Attached } else { SchedExt::Unsupported },
        age_ms: if local { 0 } else { 340 },
        expected_age_ms: 500,
        expected_max_age_ms: 1_000,
        ..NodeSummary::default()
    }
}

/// A program of n1.
pub fn program(pid: i32, runs_on: &str, command: &str, cpu_percent: f64) -> ProcessSummary {
    let counters = Counters { cpu_ns: 61_000_000_000, ..Counters::default() };
    ProcessSummary {
        pid,
        home: "n1".into(),
        runs_on: runs_on.into(),
        state: if pid == 4711 { ProcessState::Moving } else { ProcessState::Running },
        comm: command.split(' ').next().unwrap_or_default().into(),
        command_line: command.split(' ').map(Into::into).collect(),
        uid: 1000,
        user: "anna".into(),
        cwd: "/home/anna/a/long/way/down".into(),
        cpu_percent,
        usage: Usage { counters, resident_bytes: 83 << 20, mapped_bytes: 0, processes: 1, threads: 2 },
        memory_percent: 1.0,
        moves: u32::from(runs_on != "n1"),
        visited: if runs_on == "n1" { vec!["n1".into()] } else { vec!["n1".into(), runs_on.into()] },
        start_time_ms: Some(NOW_MS - 3_700_000),
        ..ProcessSummary::default()
    }
}

/// A move of n1/4711 that has ended.
pub fn ended(id: u8, target: &str) -> MigrationSummary {
    MigrationSummary {
        id: SessionId([id; 16]),
        process: JobId::new("n1", 4711),
        source: if target == "n2" { "n1".into() } else { "n2".into() },
        target: target.into(),
        state: MoveState::Run,
        trigger: Trigger::Balance,
        steps: vec![MigrationStep { state: MoveState::Reserve, at_ms: NOW_MS - 65_000 }],
        memory_bytes: 83 << 20,
        wire_bytes: 20 << 20,
        downtime_us: Some(312_000),
        reason: format!("moves to {target}: the best node"),
        create_time_ms: NOW_MS - 65_000,
        end_time_ms: Some(NOW_MS - 64_000),
    }
}

/// Why n1/4711 is where it is.
pub fn reasons() -> PlacementReasons {
    let figure = |name: &str, value| Figure { name: name.into(), value };
    let candidate = |node: &str, cost: f64, text: &str| PlacementCandidate {
        node: node.into(),
        chosen: node == "n3",
        text: text.into(),
        figures: vec![figure("predicted downtime, seconds", 0.25), figure("cost there", cost)],
    };
    PlacementReasons {
        process: JobId::new("n1", 4711),
        decision: PlacementDecision::Move,
        target: Some("n3".into()),
        summary: "moves to n3: the best node".into(),
        reasons: vec![PlacementReason {
            code: "CHOSEN".into(),
            text: "moves to n3: the best node".into(),
            figures: vec![],
        }],
        candidates: vec![
            candidate("n1", 2.9, "(home): 2.85 for itself + 0.05 for the move (0.2 s stopped) = 2.90 ≥ 1.40 here"),
            candidate("n3", 1.05, "1.00 for itself + 0.05 for the move (0.2 s stopped) = 1.05 < 1.40 here"),
        ],
        decide_time_ms: Some(NOW_MS),
        migrations: vec![ended(2, "n2")],
        cannot_move: None,
    }
}

/// As large as the monitor must be able to show: 10,000 programs on 1,000 nodes.
pub fn large() -> Model {
    let mut model = empty(LOCAL);
    for pane in [Pane::Nodes, Pane::Programs, Pane::Moves] {
        model.update(Event::Link(pane, Link::Live));
    }
    let nodes = (1..=1_000).map(|number| node(&format!("n{number}"), f64::from(number % 17) / 10.0)).collect();
    model.update(Event::Nodes(whole(nodes)));
    model.update(Event::Programs(whole((1..=10_000).map(large_program).collect())));
    model.update(Event::Moves(whole(Vec::new())));
    model
}

/// One of the programs of the large cluster.
pub fn large_program(pid: i32) -> ProcessSummary {
    program(pid, &format!("n{}", pid % 1_000 + 1), "workload --steps 100", f64::from(pid % 101))
}
