//! One scenario for each rule.

use super::*;
use crate::job::{History, JobRecord, tests::record};

mod files;
mod memory;
mod owners;
mod single;

const MIB: u64 = 1 << 20;

/// The CPU time that tasks have had, in ms: their weight is 1/120 s.
const ATTAINED_MS: u64 = 60_000;
const WEIGHT_NANO: u64 = 1_000_000_000 / 120;

/// A node with one standard CPU and a GiB of memory, half of it free.
pub(super) fn node(name: &str, load_milli: u32) -> NodeView {
    NodeView {
        name: name.into(),
        cpus: 1,
        speed_milli: 1_000,
        load_milli,
        weight_nano: u64::from(load_milli) * WEIGHT_NANO / 1_000,
        owners: None,
        free_memory_bytes: 512 * MIB,
        total_memory_bytes: 1_024 * MIB,
        swapped_bytes: 0,
        depletion_bytes_per_s: 0,
        memory_stall_centi: 0,
        link_bytes_per_s: 100 * MIB,
        freeze_ms: 400,
        work_ms: 0,
        age_ms: 0,
        accepting: true,
        alive: true,
        features_ok: Ok(()),
    }
}

/// A CPU-bound job of 20 MiB, old enough to move, which takes 0.6 s.
pub(super) fn job(id: &str, home: &str, running_on: &str) -> JobView {
    let id: JobId = id.parse().unwrap();
    let view = JobView {
        record: record(home, id.pid),
        running_on: running_on.into(),
        working_set_bytes: 20 * MIB,
        frozen_bytes: 20 * MIB,
        mapped_bytes: 0,
        since_last_move_ms: None,
        movable: Ok(()),
    };
    with(view, |job| {
        job.history = History { demand_milli: 1_000, age_ms: 60_000, ..History::default() };
        job.history.counters.cpu_ns = ATTAINED_MS * 1_000_000;
    })
}

/// A job that differs in its record.
pub(super) fn with(mut view: JobView, change: impl FnOnce(&mut JobRecord)) -> JobView {
    change(&mut view.record);
    view
}

fn input(nodes: Vec<NodeView>, jobs: Vec<JobView>) -> Input {
    Input { here: "n1".into(), now_ms: 1_000_000, nodes, jobs, in_flight: Vec::new(), draining: false }
}

fn placement() -> Placement {
    Placement::new(Config::default()).unwrap()
}

fn lines(decision: &Decision) -> Vec<String> {
    decision.reasons.iter().map(ToString::to_string).collect()
}

/// Decides, and explains each decision in full.
fn decide(placement: &mut Placement, input: &Input) -> Vec<Decision> {
    let before = placement.clone();
    let mut decisions = placement.decide(input, 1);
    for decision in &mut decisions {
        let reasons = before.explain(input, decision, 1);
        assert!(decision.target().is_none() || reasons == decision.reasons, "moves are told in full at once");
        assert_eq!(reasons.last(), decision.verdict());
        decision.reasons = reasons;
    }
    decisions
}

/// Decides for one job and gives its decision.
fn one(nodes: Vec<NodeView>, job: JobView) -> Decision {
    decide(&mut placement(), &input(nodes, vec![job])).remove(0)
}

fn moves_to(decision: &Decision, to: &str, why: Cause) -> bool {
    decision.action == Action::Move { target: to.into(), cause: why }
}

#[test]
fn moves_where_all_jobs_together_lose_least_and_says_so() {
    let decision = one(vec![node("n1", 3_000), node("n2", 400), node("n3", 2_000)], job("n1/7", "n1", "n1"));
    assert!(moves_to(&decision, "n2", Cause::Load));
    assert_eq!(decision.limit_milli, Some(4_716), "what it is worth here, without the move's price and the least gain");
    assert_eq!(
        lines(&decision),
        [
            "n2: 1.40 for itself + 0.16 for others + 0.14 away from home + 0.03 for the move (0.6 s stopped) + 0.25 least gain = 1.98 < 5.00 here",
            "n3: 3.00 for itself + 2.00 for others + 0.30 away from home + 0.05 for the move (0.6 s stopped) + 1.50 least gain = 6.85 ≥ 5.00 here",
            "moves to n2: the best node",
        ]
    );
}

#[test]
fn stays_where_the_move_costs_more_than_it_gains() {
    let nodes = |weight_nano: u64| vec![NodeView { weight_nano, ..node("n1", 2_000) }, node("n2", 0)];
    let old = JobView { frozen_bytes: 2_000 * MIB, ..job("n1/7", "n1", "n1") };
    let mut patient = placement();
    let mut long = input(nodes(2 * WEIGHT_NANO), vec![old.clone()]);
    patient.decide(&long, 1);
    long.now_ms += 20_000;
    assert!(moves_to(&patient.decide(&long, 1)[0], "n2", Cause::Load), "20 s in a life of 60 s");
    // A process lives on for about as long as it has: this one will not live to see the gain.
    let recent = with(old.clone(), |job| job.history.counters.cpu_ns = 10_000 * 1_000_000);
    let mut any = Placement::new(Config { move_worth: 0, ..Config::default() }).unwrap();
    let dear = decide(&mut any, &input(nodes(12 * WEIGHT_NANO), vec![recent.clone()])).remove(0);
    assert_eq!(
        lines(&dear),
        [
            "n2: 1.00 for itself + 0.10 away from home + 4.08 for the move (20.4 s stopped) + 0.90 least gain = 6.08 ≥ 3.00 here",
            "stays: no other node is better"
        ]
    );
    // Nor is it moved for the sake of others if it stands still for most of the time that is left.
    assert_eq!(
        lines(&one(nodes(2 * WEIGHT_NANO), recent)),
        [
            "n2: a move stops it for 20.4 s, but it will probably be here for 20.0 s only",
            "stays: no other node is better"
        ]
    );
    // Nor does one gain that arrived a moment ago: what comes to it changes as fast as that.
    let restless = JobView { since_last_move_ms: Some(3_000), ..with(old, |job| job.id.home = "n3".into()) };
    assert_eq!(one(nodes(2 * WEIGHT_NANO), restless).verdict().unwrap().rule(), "nothing_better");
}

#[test]
fn a_long_job_makes_way_for_short_ones() {
    // The same load on both; those at n2 are old, their seconds matter little.
    let recent = NodeView { weight_nano: 2 * 500_000_000, ..node("n1", 3_000) };
    let old = NodeView { weight_nano: 3_000_000, ..node("n2", 3_000) };
    assert!(moves_to(&one(vec![recent, old], job("n1/7", "n1", "n1")), "n2", Cause::Load));
}

#[test]
fn nothing_leaves_below_the_home_threshold() {
    let here = NodeView { cpus: 4, load_milli: 990, ..node("n1", 0) };
    let decision = one(vec![here, node("n2", 0)], job("n1/7", "n1", "n1"));
    assert_eq!(
        lines(&decision),
        [
            "n2: 1.00 for itself + 0.10 away from home + 0.01 for the move (0.6 s stopped) = 1.11 ≥ 0.00 here",
            "n1: 0.99 runnable tasks per CPU, below the threshold of 1.00: this node's own jobs stay",
        ]
    );
}

#[test]
fn the_threshold_counts_tasks_not_speed() {
    // Half the speed: one task per CPU is load 2. With 0.9 tasks per CPU nothing is won elsewhere
    // but speed.
    let slow = NodeView { speed_milli: 500, load_milli: 1_800, ..node("n1", 0) };
    let decision = one(vec![slow, node("n2", 0)], job("n1/7", "n1", "n1"));
    assert_eq!(decision.verdict().unwrap().rule(), "below_threshold");
}

#[test]
fn a_free_cpu_elsewhere_is_no_better_than_a_free_cpu_here() {
    let big = NodeView { cpus: 16, ..node("n2", 0) };
    let decision = one(vec![node("n1", 1_000), big], job("n1/7", "n1", "n1"));
    assert_eq!(decision.verdict().unwrap().rule(), "nothing_better");
    let fast = NodeView { speed_milli: 2_000, ..node("n2", 0) };
    let decision = one(vec![node("n1", 1_000), fast], job("n1/7", "n1", "n1"));
    assert!(moves_to(&decision, "n2", Cause::Load));
}

#[test]
fn a_guest_goes_home_when_it_is_no_worse_there() {
    let guest = JobView { since_last_move_ms: Some(60_000), ..job("n2/7", "n2", "n1") };
    let decision = one(vec![node("n1", 1_000), node("n2", 0), node("n3", 0)], guest.clone());
    assert!(moves_to(&decision, "n2", Cause::Home), "{decision:?}");
    assert_eq!(
        lines(&decision)[0],
        "n2 (home): 1.00 for itself + 0.01 for the move (0.6 s stopped) + 0.05 least gain = 1.06 < 1.10 here"
    );
    // Home that takes no guests still takes its own.
    let closed = NodeView { accepting: false, ..node("n2", 0) };
    assert!(moves_to(&one(vec![node("n1", 1_000), closed], guest.clone()), "n2", Cause::Home));
    let decision = one(vec![node("n1", 900), node("n2", 1_000), node("n3", 0)], guest);
    assert_eq!(decision.action, Action::Stay, "below the threshold here, so n3 is not even looked at");
    assert_eq!(
        lines(&decision),
        [
            "n1: 0.90 runnable tasks per CPU, below the threshold of 1.00: a guest leaves for home only",
            "n2 (home): 2.00 for itself + 1.00 for others + 0.02 for the move (0.6 s stopped) + 0.30 least gain = 3.32 ≥ 1.00 here",
            "stays: no other node is better",
        ]
    );
}

#[test]
fn new_idle_pinned_and_unmovable_jobs_stay() {
    let plain = job("n1/7", "n1", "n1");
    let cases = [
        (
            with(plain.clone(), |job| job.history.age_ms = 1_500),
            "stays: started 1.5 s ago, moves after 2.0 s at the earliest",
        ),
        (with(plain.clone(), |job| job.history.demand_milli = 30), "stays: asks for 0.03 CPU, moves from 0.25 CPU on"),
        (
            with(plain.clone(), |job| job.constraints.stay = true),
            "stays: pinned here by its user; `scx_mosix migrate` still moves it",
        ),
        (JobView { movable: Err("it has a TCP socket".into()), ..plain.clone() }, "cannot move: it has a TCP socket"),
        (JobView { running_on: "n3".into(), ..plain }, "runs on n3, which decides about it"),
    ];
    for (job, line) in cases {
        let decision = one(vec![node("n1", 9_000), node("n2", 0)], job);
        // What it would cost elsewhere is told all the same, as long as it is here.
        let mut told = lines(&decision);
        assert_eq!((&decision.action, told.pop().as_deref()), (&Action::Stay, Some(line)));
        assert_eq!(
            told.iter().any(|told| told.starts_with("n2: 1.00 for itself")),
            !line.starts_with("runs on"),
            "{told:?}"
        );
    }
}

#[test]
fn every_node_that_is_no_target_is_named_with_its_reason() {
    let full = NodeView { free_memory_bytes: 80 * MIB, ..node("full", 0) };
    let nodes = vec![
        node("n1", 9_000),
        NodeView { alive: false, ..node("dead", 0) },
        NodeView { age_ms: 12_000, ..node("stale", 0) },
        NodeView { accepting: false, ..node("closed", 0) },
        NodeView { cpus: 0, ..node("empty", 0) },
        NodeView { features_ok: Err("its CPU lacks avx512f".into()), ..node("old", 0) },
        full,
        node("other", 0),
    ];
    let allowed = ["dead", "stale", "closed", "empty", "old", "full"].map(str::to_owned).to_vec();
    let decision = one(nodes, with(job("n1/7", "n1", "n1"), |job| job.constraints.allowed_nodes = allowed));
    assert_eq!(
        lines(&decision),
        [
            "closed: it accepts no guests while it is being drained or its daemon stops",
            "dead: it is not alive",
            "empty: it reports no usable CPU",
            "full: 80.0 MiB left, but this job needs 20.0 MiB and 64.0 MiB must remain",
            "old: it cannot run programs from here: its CPU lacks avx512f",
            "other: it is not among the nodes allowed for this job",
            "stale: not heard of for 12.0 s, limit 10.0 s",
            "stays: no other node can take it",
        ]
    );
}

#[test]
fn the_move_that_gains_most_per_second_goes_first() {
    let jobs = vec![
        with(job("n1/1", "n1", "n1"), |job| job.history.demand_milli = 500),
        JobView { frozen_bytes: 900 * MIB, ..job("n1/2", "n1", "n1") },
        job("n1/3", "n1", "n1"),
    ];
    let decisions = placement().decide(&input(vec![node("n1", 4_000), node("n2", 0)], jobs), 1);
    let moving = decisions.iter().filter(|decision| decision.target().is_some()).map(|decision| &decision.job);
    assert_eq!(moving.collect::<Vec<_>>(), [&JobId::new("n1", 3)]);
    assert_eq!(decisions[0].verdict().unwrap().to_string(), "stays: n1/3 leaves n1 first, 1 at a time");
}

#[test]
fn one_move_at_a_time_then_the_load_settles() {
    let mut placement = placement();
    let jobs = vec![job("n1/1", "n1", "n1"), job("n1/2", "n1", "n1"), job("n1/3", "n1", "n1")];
    let mut input = input(vec![node("n1", 6_000), node("n2", 0)], jobs);
    let first = placement.decide(&input, 1).into_iter().find(|decision| decision.target().is_some()).unwrap();
    input.now_ms += 1_000;
    input.in_flight = vec![InFlight { job: first.job.clone(), source: "n1".into(), target: "n2".into() }];
    let again = placement.decide(&input, 1);
    for decision in &again {
        let moving = decision.job == first.job;
        assert_eq!(
            decision.verdict().unwrap().rule(),
            if moving { "moving" } else { "no_target" },
            "n2 is receiving: {decision:?}"
        );
    }
    input.nodes.push(node("n3", 0));
    let again = placement.decide(&input, 1);
    assert!(again.iter().all(|decision| decision.target().is_none()));
    assert!(again.iter().any(|decision| decision.verdict().unwrap().rule() == "busy"), "{again:?}");
    input.in_flight.clear();
    input.jobs.retain(|job| *job.id() != first.job);
    input.now_ms += 1_000;
    let settling = placement.decide(&input, 1);
    assert!(settling.iter().all(|decision| decision.verdict().unwrap().rule() == "settling"), "{settling:?}");
    input.now_ms += 2_500;
    let next = placement.decide(&input, 1);
    let compared = next.iter().find(|decision| decision.target().is_some()).unwrap();
    assert!(moves_to(compared, "n3", Cause::Load), "n2 is still charged: {compared:?}");
    assert!(lines(compared)[1].starts_with("n2: 1.19 for itself"), "{compared:?}");
}

#[test]
fn an_imbalance_shorter_than_its_cure_moves_no_job() {
    let mut placement = placement();
    let far = || NodeView { freeze_ms: 10_000, ..node("n2", 0) };
    let old = with(job("n1/1", "n1", "n1"), |job| job.history.counters.cpu_ns = 100_000 * 1_000_000);
    let mut input = input(vec![node("n1", 3_000), far()], vec![old]);
    let first = placement.decide(&input, 1).remove(0);
    assert_eq!(
        first.verdict().unwrap().to_string(),
        "stays: another node has been better for 1.0 s only, and a move stops it for 10.2 s"
    );
    // It passes, and begins anew.
    input.now_ms += 5_000;
    input.nodes[1].load_milli = 3_000;
    assert_eq!(placement.decide(&input, 1)[0].verdict().unwrap().rule(), "nothing_better");
    input.nodes[1].load_milli = 0;
    for _ in 0..10 {
        input.now_ms += 1_000;
        assert_eq!(placement.decide(&input, 1)[0].verdict().unwrap().rule(), "passing");
    }
    input.now_ms += 1_000;
    assert!(moves_to(&placement.decide(&input, 1)[0], "n2", Cause::Load));
    // Where memory is short no job waits.
    let short = NodeView { free_memory_bytes: 10 * MIB, ..input.nodes[0].clone() };
    let big = JobView { working_set_bytes: 200 * MIB, ..input.jobs[0].clone() };
    let input = Input { nodes: vec![short, far()], jobs: vec![big], ..input };
    let decision = Placement::new(Config::default()).unwrap().decide(&input, 1).remove(0);
    assert!(moves_to(&decision, "n2", Cause::Memory), "{decision:?}");
}

#[test]
fn a_failed_move_waits_before_a_retry_but_a_released_one_not() {
    let mut placement = placement();
    let mut input = input(vec![node("n1", 3_000), node("n2", 0)], vec![job("n1/1", "n1", "n1")]);
    assert!(placement.decide(&input, 1)[0].target().is_some());
    placement.released(&JobId::new("n1", 1), "n2");
    assert!(placement.decide(&input, 1)[0].target().is_some());
    placement.failed(&JobId::new("n1", 1), "n2", input.now_ms);
    input.now_ms += 5_000;
    assert_eq!(
        lines(&decide(&mut placement, &input)[0])[0],
        "n2: this job failed to get there 5.0 s ago; tried again after 60.0 s"
    );
    input.now_ms += 55_000;
    assert!(placement.decide(&input, 1)[0].target().is_some());
    placement.busy(&JobId::new("n1", 1), "n2", input.now_ms, 0);
    assert!(placement.decide(&input, 1)[0].target().is_none());
    input.now_ms += 3_000;
    assert!(placement.decide(&input, 1)[0].target().is_some(), "a busy target is asked again soon");
    placement.busy(&JobId::new("n1", 1), "n2", input.now_ms, 20_000);
    input.now_ms += 19_000;
    assert!(placement.decide(&input, 1)[0].target().is_none(), "it admits none for as long as a move takes");
    input.now_ms += 1_000;
    assert!(placement.decide(&input, 1)[0].target().is_some());
}

#[test]
fn near_equals_are_chosen_by_chance() {
    let nodes = vec![node("n1", 5_000), node("n2", 0), node("n3", 10), node("n4", 500)];
    let mut seen = [0; 2];
    for seed in 0..100 {
        let decision = placement().decide(&input(nodes.clone(), vec![job("n1/1", "n1", "n1")]), seed).remove(0);
        match decision.target().map(|name| &**name) {
            Some("n2") => seen[0] += 1,
            Some("n3") => seen[1] += 1,
            other => panic!("{other:?} is not within 5 % of the best"),
        }
    }
    assert!(seen.iter().all(|count| *count > 30), "{seen:?}");
}

#[test]
fn reasons_stay_short_in_a_large_cluster() {
    let others = (2..1_000).map(|i| node(&format!("n{i}"), i * 10));
    let nodes = std::iter::once(node("n1", 5_000)).chain(others).collect();
    let decision = one(nodes, job("n1/1", "n1", "n1"));
    assert_eq!(decision.reasons.len(), Config::default().listed_nodes + 2);
    assert_eq!(decision.reasons[8].to_string(), "990 more nodes, none of those that were compared better");
    assert!(decision.target().is_some());
}

#[test]
fn of_many_nodes_some_are_compared_and_home_is_among_them() {
    let guest = job("n500/1", "n500", "n1");
    let others = (2..1_000).map(|i| node(&format!("n{i}"), if i == 500 { 0 } else { 4_000 }));
    let nodes: Vec<NodeView> = std::iter::once(node("n1", 5_000)).chain(others).collect();
    for seed in 0..20 {
        let decision = placement().decide(&input(nodes.clone(), vec![guest.clone()]), seed).remove(0);
        assert!(moves_to(&decision, "n500", Cause::Home), "{decision:?}");
    }
}
