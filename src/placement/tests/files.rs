//! Files: what they cost over the link while a job is away from home, and when it comes to a node
//! that has none of them.

use super::*;

/// Reads and writes so many MiB in each second of its CPU time.
fn reader(mib_per_s: u64, running_on: &str) -> JobView {
    with(job("n1/7", "n1", running_on), |job| job.history.counters.io_bytes = mib_per_s * MIB * ATTAINED_MS / 1_000)
}

fn one_at(here: &str, nodes: Vec<NodeView>, job: JobView) -> Decision {
    decide(&mut placement(), &Input { here: here.into(), ..input(nodes, vec![job]) }).remove(0)
}

/// A link carries 100 MiB/s.
fn at_home(mib_per_s: u64) -> Decision {
    one(vec![node("n1", 3_000), node("n2", 0)], reader(mib_per_s, "n1"))
}

#[test]
fn who_reads_and_writes_much_stays_with_his_files() {
    assert!(moves_to(&at_home(20), "n2", Cause::Load), "{:?}", lines(&at_home(20)));
    let much = at_home(400);
    assert!(lines(&much)[0].contains(" + 4.00 for its files over the link + "), "{:?}", lines(&much));
    assert_eq!(much.verdict().unwrap().rule(), "nothing_better");
    let slow = vec![node("n1", 3_000), NodeView { link_bytes_per_s: 5 * MIB, ..node("n2", 0) }];
    assert_eq!(one(slow, reader(20, "n1")).verdict().unwrap().rule(), "nothing_better", "a slow link costs as much");
}

#[test]
fn away_from_home_a_job_returns_for_its_files_only_to_home() {
    let from_n2 = |mib_per_s: u64, nodes: Vec<NodeView>| {
        one_at("n2", nodes, JobView { since_last_move_ms: Some(60_000), ..reader(mib_per_s, "n2") })
    };
    let two = || vec![node("n1", 1_500), node("n2", 1_000)];
    assert_eq!(from_n2(0, two()).target(), None);
    let back = from_n2(400, two());
    assert!(moves_to(&back, "n1", Cause::Home), "{:?}", lines(&back));
    // Of the link between its home and another node nothing is known but that the one between its
    // home and here is slow.
    let slow_home = NodeView { link_bytes_per_s: MIB, ..node("n1", 60_000) };
    let elsewhere = from_n2(50, vec![slow_home, node("n2", 1_000), node("n3", 0)]);
    assert_eq!(elsewhere.target(), None, "{:?}", lines(&elsewhere));
}

#[test]
fn what_it_has_mapped_must_be_fetched_again() {
    let mapped = |mib: u64| {
        let job = JobView {
            mapped_bytes: mib * MIB,
            ..with(job("n1/7", "n1", "n1"), |job| job.history.counters.cpu_ns = 5_000 * 1_000_000)
        };
        one(vec![NodeView { weight_nano: 24 * WEIGHT_NANO, ..node("n1", 3_000) }, node("n2", 0)], job)
    };
    assert!(moves_to(&mapped(10), "n2", Cause::Load), "{:?}", lines(&mapped(10)));
    assert!(
        lines(&mapped(10))[0].contains("(0.6 s stopped, 0.1 s until it has its files)"),
        "{:?}",
        lines(&mapped(10))
    );
    let much = mapped(2_000);
    assert!(lines(&much)[0].contains("(0.6 s stopped, 20.0 s until it has its files)"), "{:?}", lines(&much));
    assert_eq!(much.target(), None);
}

#[test]
fn a_target_does_not_judge_the_link_to_another_home() {
    let mut source = placement();
    let nodes = vec![node("n1", 6_000), node("n2", 0)];
    let decision = source.decide(&input(nodes.clone(), vec![reader(300, "n1")]), 1).remove(0);
    assert!(decision.target().is_some(), "{:?}", lines(&decision));
    // It knows its own links by other moves.
    let slow = vec![node("n1", 6_000), NodeView { link_bytes_per_s: MIB, ..node("n2", 0) }];
    let there = Input { here: "n2".into(), ..input(slow, Vec::new()) };
    assert_eq!(placement().admit(&there, &reader(300, "n1"), Cause::Load, decision.limit_milli), Ok(()));
}

#[test]
fn a_known_slow_link_does_not_bring_a_job_back() {
    let nodes = || vec![NodeView { link_bytes_per_s: 5 * MIB, ..node("n1", 1_500) }, node("n2", 1_000)];
    let from_n2 = |home_link_bytes_per_s| {
        let guest = JobView {
            frozen_bytes: 0,
            since_last_move_ms: Some(60_000),
            ..with(reader(20, "n2"), |job| job.history.home_link_bytes_per_s = home_link_bytes_per_s)
        };
        one_at("n2", nodes(), guest)
    };
    assert!(moves_to(&from_n2(None), "n1", Cause::Home), "{:?}", lines(&from_n2(None)));
    assert_eq!(from_n2(Some(100 * MIB)).target(), None, "{:?}", lines(&from_n2(Some(100 * MIB))));
}
