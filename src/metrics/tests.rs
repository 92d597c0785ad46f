//! What all metrics look like, and that they say what happened.

use std::sync::Arc;

use super::*;
use crate::{
    api::view::{MigrationStep, NodeState, NodeSummary, Trigger},
    cluster::Traffic,
    job::{JobId, SessionId},
    placement::{Action, Reason},
    protocol::MoveState,
};

fn row(node: &str, local: bool, age_ms: u64) -> Arc<NodeSummary> {
    Arc::new(NodeSummary {
        node: node.into(),
        state: NodeState::Alive,
        local,
        cpus: 2,
        load: 0.5,
        age_ms,
        ..NodeSummary::default()
    })
}

fn told() -> Metrics {
    let metrics = Metrics::new();
    let traffic = Traffic {
        received_datagrams: 3,
        received_bytes: 300,
        sent_datagrams: 4,
        sent_bytes: 400,
        refused_datagrams: 1,
    };
    let nodes = [row("n1", true, 0), row("n2", false, 2_500)];
    metrics.node_is(&Figures { nodes: &nodes, away: 1, guests: 2, moves: 0, lost_events: 7, traffic });
    metrics.scheduler_did(Some(&SchedulerStats { nr_direct: 5, ..SchedulerStats::default() }));
    metrics.moved(&record(MoveState::Run));
    metrics
}

fn decision() -> Decision {
    Decision { job: JobId::new("n1", 7), action: Action::Stay, limit_milli: None, reasons: vec![Reason::NothingBetter] }
}

fn record(state: MoveState) -> MigrationSummary {
    let steps = [(MoveState::Reserve, 1_000), (MoveState::Freeze, 1_250), (state, 1_750)];
    MigrationSummary {
        id: SessionId::random(),
        process: JobId::new("n1", 7),
        source: "n1".into(),
        target: "n2".into(),
        state,
        trigger: Trigger::Balance,
        steps: steps.map(|(state, at_ms)| MigrationStep { state, at_ms }).to_vec(),
        memory_bytes: 1 << 20,
        wire_bytes: 1 << 19,
        downtime_us: (state == MoveState::Run).then_some(500_000),
        reason: String::new(),
        create_time_ms: 1_000,
        end_time_ms: Some(1_750),
    }
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no line {line}\n{text}");
}

#[test]
fn figures_of_the_node_and_its_cluster_are_told() {
    let text = told().text(Format::OpenMetrics);
    for line in [
        "scx_mosix_cpus 2.0",
        "scx_mosix_load 0.5",
        "scx_mosix_agents{side=\"guest\"} 2.0",
        "scx_mosix_nodes{state=\"alive\"} 2.0",
        "scx_mosix_nodes{state=\"dead\"} 0.0",
        "scx_mosix_gossip_oldest_report_seconds 2.5",
        "scx_mosix_gossip_bytes_total{direction=\"sent\"} 400",
        "scx_mosix_telemetry_lost_events_total 7",
        "scx_mosix_scheduler_steps_total{step=\"direct\"} 5",
        "scx_mosix_accepts_guests 1.0",
    ] {
        has(&text, line);
    }
}

#[test]
fn a_move_is_counted_with_its_phases() {
    let metrics = told();
    metrics.moved(&record(MoveState::Aborted));
    let text = metrics.text(Format::OpenMetrics);
    for line in [
        "scx_mosix_moves_total{trigger=\"balance\",outcome=\"moved\"} 1",
        "scx_mosix_moves_total{trigger=\"balance\",outcome=\"aborted\"} 1",
        "scx_mosix_move_downtime_seconds_count 1",
        "scx_mosix_move_downtime_seconds_sum 0.5",
        "scx_mosix_move_phase_seconds_count{phase=\"freeze\"} 2",
        "scx_mosix_move_phase_seconds_sum{phase=\"reserve\"} 0.5",
        "scx_mosix_move_memory_bytes_sum 1048576.0",
    ] {
        has(&text, line);
    }
}

#[test]
fn a_decision_is_counted_by_its_rule() {
    let metrics = Metrics::new();
    metrics.decided(&decision());
    metrics.decided(&decision());
    has(
        &metrics.text(Format::OpenMetrics),
        "scx_mosix_placement_decisions_total{action=\"stay\",rule=\"nothing_better\"} 2",
    );
}

#[test]
fn a_move_that_is_not_over_is_not_counted() {
    let metrics = Metrics::new();
    metrics.moved(&record(MoveState::Stream));
    assert!(!metrics.text(Format::OpenMetrics).contains("moves_total{"));
}

#[test]
fn the_scheduler_says_nothing_while_it_is_not_in_force() {
    let metrics = told();
    metrics.scheduler_did(None);
    assert!(!metrics.text(Format::OpenMetrics).contains("scheduler_steps"));
}

/// A list of all metrics, for who writes a dashboard; also, no name, unit or help changes by
/// accident.
#[test]
fn names_units_and_help_are_those_of_the_last_release() {
    let text = told().text(Format::OpenMetrics);
    let described: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
    insta::assert_snapshot!(described.join("\n"));
}

/// The rules of `promtool check metrics`, where that is not at hand.
#[test]
fn the_older_format_describes_every_series() {
    let text = told().text(Format::Prometheus);
    let named = |keyword: &str| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.strip_prefix(keyword)?.split(' ').next()?.to_owned())).collect()
    };
    let (help, types) = (named("# HELP "), named("# TYPE "));
    assert_eq!(help, types);
    assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let described = help.iter().any(|help| help == name || of_histogram == Some(help));
        assert!(described, "{line}\n{text}");
        assert_eq!(
            name.ends_with("_total"),
            text.contains(&format!("# TYPE {name} counter\n")),
            "counters, and only these, end in _total: {line}"
        );
    }
}

/// What the dashboard and the alerts ask for is told.
#[test]
fn dashboard_and_alerts_ask_for_metrics_that_exist() {
    let metrics = told();
    metrics.decided(&decision());
    let text = metrics.text(Format::Prometheus);
    for asked in
        [include_str!("../../packaging/grafana/dashboard.json"), include_str!("../../packaging/grafana/alerts.yml")]
    {
        let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let names =
            asked.match_indices("scx_mosix_").map(|(at, _)| asked[at..].split(|c| !is_of_name(c)).next().unwrap());
        let mut count = 0;
        for name in names {
            let told =
                text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
            assert!(told, "{name}\n{text}");
            count += 1;
        }
        assert!(count > 5);
    }
}
