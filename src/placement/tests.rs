//! One scenario for each rule.

use super::*;

const MIB: u64 = 1 << 20;

/// A node with one standard CPU and a GiB of memory, half of it free.
pub(super) fn node(name: &str, load_milli: u32) -> NodeView {
    NodeView {
        name: name.into(),
        cpus: 1,
        speed_milli: 1_000,
        load_milli,
        free_memory_bytes: 512 * MIB,
        total_memory_bytes: 1_024 * MIB,
        age_ms: 0,
        accepting: true,
        alive: true,
        sched_ext: true,
        features_ok: Ok(()),
    }
}

/// A CPU-bound job of 20 MiB, old enough to move.
pub(super) fn job(id: &str, home: &str, running_on: &str) -> JobView {
    JobView {
        id: id.into(),
        root_pid: 100,
        home: home.into(),
        running_on: running_on.into(),
        cpu_milli: 300,
        demand_milli: 1_000,
        rss_bytes: 20 * MIB,
        age_ms: 60_000,
        since_last_move_ms: None,
        moves: 0,
        threads: 1,
        movable: Ok(()),
        pinned: false,
        allowed_nodes: None,
    }
}

fn input(nodes: Vec<NodeView>, jobs: Vec<JobView>) -> Input {
    Input { here: "n1".into(), now_ms: 1_000_000, nodes, jobs, in_flight: Vec::new() }
}

fn placement() -> Placement {
    Placement::new(Config::default()).unwrap()
}

fn lines(decision: &Decision) -> Vec<String> {
    decision.reasons.iter().map(ToString::to_string).collect()
}

/// Decides for one job and gives its decision.
fn one(nodes: Vec<NodeView>, job: JobView) -> Decision {
    placement().decide(&input(nodes, vec![job]), 1).remove(0)
}

fn moves_to(decision: &Decision, to: &str, why: Cause) -> bool {
    decision.action == Action::Move { target: to.into(), cause: why }
}

#[test]
fn moves_where_130_percent_of_it_fits_and_says_so() {
    let decision = one(vec![node("n1", 3_000), node("n2", 400), node("n3", 2_000)], job("n1/7", "n1", "n1"));
    assert!(moves_to(&decision, "n2", Cause::Load));
    assert_eq!(
        lines(&decision),
        [
            "n2: load 0.40 + this job 1.00 × 130 % = 1.70 < 3.00 here",
            "n3: load 2.00 + this job 1.00 × 130 % = 3.30 ≥ 3.00 here",
            "moves to n2: the best node",
        ]
    );
}

#[test]
fn stays_where_hysteresis_forbids() {
    let decision = one(vec![node("n1", 2_200), node("n2", 1_000)], job("n1/7", "n1", "n1"));
    assert_eq!(
        lines(&decision),
        ["n2: load 1.00 + this job 1.00 × 130 % = 2.30 ≥ 2.20 here", "stays: no other node is better"]
    );
}

#[test]
fn nothing_leaves_below_the_home_threshold() {
    let here = NodeView { cpus: 4, load_milli: 990, ..node("n1", 0) };
    let decision = one(vec![here, node("n2", 0)], job("n1/7", "n1", "n1"));
    assert_eq!(
        lines(&decision),
        ["n1: 0.99 runnable tasks per CPU, below the threshold of 1.00: this node's own jobs stay"]
    );
}

#[test]
fn the_threshold_counts_tasks_not_speed() {
    // Half the speed: one task per CPU is load 2. With 0.9 tasks per CPU nothing is won elsewhere but speed.
    let slow = NodeView { speed_milli: 500, load_milli: 1_800, ..node("n1", 0) };
    let decision = one(vec![slow, node("n2", 0)], job("n1/7", "n1", "n1"));
    assert_eq!(decision.verdict().unwrap().rule(), "below_threshold");
}

#[test]
fn a_free_cpu_elsewhere_is_no_better_than_a_free_cpu_here() {
    let big = NodeView { cpus: 16, ..node("n2", 0) };
    let decision = one(vec![node("n1", 1_000), big], job("n1/7", "n1", "n1"));
    assert_eq!(lines(&decision)[0], "n2: a CPU of its own 1.00 + least gain 0.05 = 1.05 ≥ 1.00 here");
    let fast = NodeView { speed_milli: 2_000, ..node("n2", 0) };
    let decision = one(vec![node("n1", 1_000), fast], job("n1/7", "n1", "n1"));
    assert!(moves_to(&decision, "n2", Cause::Load));
}

#[test]
fn a_guest_goes_home_as_soon_as_it_is_no_worse_there() {
    let guest = JobView { since_last_move_ms: Some(60_000), moves: 1, ..job("n2/7", "n2", "n1") };
    let decision = one(vec![node("n1", 1_000), node("n2", 0), node("n3", 0)], guest.clone());
    assert!(moves_to(&decision, "n2", Cause::Home), "{decision:?}");
    assert_eq!(lines(&decision)[0], "n2 (home): load 0.00 + this job 1.00 − 0.10 for home = 0.90 < 1.00 here");
    // Home that takes no guests still takes its own.
    let closed = NodeView { accepting: false, ..node("n2", 0) };
    assert!(moves_to(&one(vec![node("n1", 1_000), closed], guest.clone()), "n2", Cause::Home));
    let decision = one(vec![node("n1", 900), node("n2", 1_000), node("n3", 0)], guest);
    assert_eq!(decision.action, Action::Stay, "below the threshold here, so n3 is not even looked at");
    assert_eq!(
        lines(&decision),
        [
            "n1: 0.90 runnable tasks per CPU, below the threshold of 1.00: a guest leaves for home only",
            "n2 (home): load 1.00 + this job 1.00 − 0.10 for home = 1.90 ≥ 1.00 here",
            "stays: no other node is better",
        ]
    );
}

#[test]
fn young_resident_idle_pinned_and_unmovable_jobs_stay() {
    let plain = job("n1/7", "n1", "n1");
    let cases = [
        (JobView { age_ms: 1_500, ..plain.clone() }, "stays: started 1.5 s ago, moves after 2.0 s at the earliest"),
        (
            JobView { since_last_move_ms: Some(9_999), ..plain.clone() },
            "stays: arrived 9.9 s ago, moves again after 10.0 s at the earliest",
        ),
        (JobView { demand_milli: 30, ..plain.clone() }, "stays: asks for 0.03 CPU, moves from 0.25 CPU on"),
        (
            JobView { pinned: true, ..plain.clone() },
            "stays: pinned here by its user; `scx_mosix migrate` still moves it",
        ),
        (JobView { movable: Err("it has a TCP socket".into()), ..plain.clone() }, "cannot move: it has a TCP socket"),
        (JobView { running_on: "n3".into(), ..plain }, "runs on n3, which decides about it"),
    ];
    for (job, line) in cases {
        let decision = one(vec![node("n1", 9_000), node("n2", 0)], job);
        assert_eq!((decision.action.clone(), lines(&decision)), (Action::Stay, vec![line.to_owned()]));
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
    let allowed = ["dead", "stale", "closed", "empty", "old", "full"].map(NodeName::from).to_vec();
    let decision = one(nodes, JobView { allowed_nodes: Some(allowed), ..job("n1/7", "n1", "n1") });
    assert_eq!(
        lines(&decision),
        [
            "dead: it is not alive",
            "stale: not heard of for 12.0 s, limit 10.0 s",
            "closed: it accepts no guests now",
            "empty: it reports no usable CPU",
            "old: it cannot run programs from here: its CPU lacks avx512f",
            "full: 80.0 MiB free, but this job needs 20.0 MiB and 64.0 MiB must remain",
            "other: it is not among the nodes allowed for this job",
            "stays: no other node can take it",
        ]
    );
}

#[test]
fn second_highest_demand_goes_and_older_of_equals() {
    let jobs = vec![
        JobView { demand_milli: 2_000, ..job("n1/1", "n1", "n1") },
        JobView { demand_milli: 900, ..job("n1/2", "n1", "n1") },
        JobView { demand_milli: 900, age_ms: 70_000, ..job("n1/3", "n1", "n1") },
    ];
    let decisions = placement().decide(&input(vec![node("n1", 4_000), node("n2", 0)], jobs), 1);
    let moving: Vec<&str> =
        decisions.iter().filter(|decision| decision.target().is_some()).map(|decision| &*decision.job).collect();
    assert_eq!(moving, ["n1/3"]);
    assert_eq!(decisions[1].verdict().unwrap().to_string(), "stays: n1/3 leaves n1 first, 1 at a time");
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
    input.jobs.retain(|job| job.id != first.job);
    input.now_ms += 1_000;
    let settling = placement.decide(&input, 1);
    assert!(settling.iter().all(|decision| decision.verdict().unwrap().rule() == "settling"), "{settling:?}");
    input.now_ms += 2_500;
    let next = placement.decide(&input, 1);
    let compared = next.iter().find(|decision| decision.target().is_some()).unwrap();
    assert!(moves_to(compared, "n3", Cause::Load), "n2 is still charged: {compared:?}");
    assert!(
        lines(compared)
            .contains(&"n2: load 0.00 + 1.00 on its way + this job 1.00 × 130 % = 2.30 < 6.00 here".to_owned()),
        "{compared:?}"
    );
}

#[test]
fn a_failed_move_is_not_tried_again_at_once_but_a_released_one_is() {
    let mut placement = placement();
    let mut input = input(vec![node("n1", 3_000), node("n2", 0)], vec![job("n1/1", "n1", "n1")]);
    assert!(placement.decide(&input, 1)[0].target().is_some());
    placement.released("n1/1", "n2");
    assert!(placement.decide(&input, 1)[0].target().is_some());
    placement.failed("n1/1", "n2", input.now_ms);
    input.now_ms += 5_000;
    assert_eq!(
        lines(&placement.decide(&input, 1)[0])[0],
        "n2: this job failed to get there 5.0 s ago; tried again after 60.0 s"
    );
    input.now_ms += 55_000;
    assert!(placement.decide(&input, 1)[0].target().is_some());
}

#[test]
fn near_equals_are_chosen_by_chance() {
    let nodes = vec![node("n1", 5_000), node("n2", 0), node("n3", 30), node("n4", 500)];
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
fn memory_overrides_load_and_moves_the_smallest_cure() {
    let here = NodeView { free_memory_bytes: 11 * MIB, ..node("n1", 100) };
    let jobs = [(1, 300), (2, 60), (3, 30), (4, 4)].map(|(id, mib)| JobView {
        rss_bytes: mib * MIB,
        demand_milli: 10,
        ..job(&format!("n1/{id}"), "n1", "n1")
    });
    let busy = NodeView { load_milli: 9_000, ..node("n2", 0) };
    let decisions = placement().decide(&input(vec![here.clone(), busy.clone()], jobs.to_vec()), 1);
    // 5 % of 1 GiB is 51.2 MiB, so 40.2 MiB are missing: 60 MiB cure it.
    let moving: Vec<_> = decisions.iter().filter_map(|decision| Some((&*decision.job, decision.target()?))).collect();
    assert_eq!(moving, [("n1/2", &NodeName::from("n2"))]);
    assert_eq!(lines(&decisions[1])[0], "n1: 11.0 MiB of memory free, below 51.1 MiB: something must leave");
    assert_eq!(lines(&decisions[3])[1], "uses 4.0 MiB: too little to relieve memory, 16.0 MiB at least");
    // Nobody has room: memory cannot be cured, so load decides, and says that memory is short.
    let full = NodeView { free_memory_bytes: 70 * MIB, ..busy };
    let decisions = placement().decide(&input(vec![here, full], jobs.to_vec()), 1);
    assert!(decisions.iter().all(|decision| decision.target().is_none()));
    assert_eq!(decisions[0].reasons[0].rule(), "memory_short");
}

#[test]
fn eight_jobs_started_at_once_are_assigned_all_over() {
    let mut placement = placement();
    let input = input(vec![node("n1", 0), node("n2", 0), node("n3", 0)], Vec::new());
    let mut counts = std::collections::BTreeMap::new();
    // Assignment in the same instant: only the charges tell of those before. Several may be on their way to a node.
    placement.config.moves_per_target = 8;
    for id in 0..8 {
        let fresh = JobView { demand_milli: 0, age_ms: 0, ..job(&format!("n1/{id}"), "n1", "n1") };
        let decision = placement.assign(&input, &fresh, id);
        let node = decision.target().map_or("n1", |name| &**name).to_owned();
        *counts.entry(node).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().max(), Some(3), "{:?}", placement.leases());
}

#[test]
fn requests_override_balance_but_not_facts() {
    let pinned = JobView { pinned: true, age_ms: 0, demand_milli: 0, ..job("n1/1", "n1", "n1") };
    let nodes = vec![node("n1", 0), node("n2", 5_000), NodeView { accepting: false, ..node("n3", 0) }];
    let ask = |job: &JobView, word: &str| {
        placement().request(&input(nodes.clone(), vec![job.clone()]), "n1/1", &Wish::from(word), 1)
    };
    assert!(moves_to(&ask(&pinned, "n2"), "n2", Cause::Request));
    for (word, line) in [
        ("n1", "stays: it is on n1 already"),
        ("home", "stays: it is on n1 already"),
        ("best", "stays: no other node is better"),
        ("n3", "n3: it accepts no guests now"),
        ("n9", "there is no node n9 in this cluster; `scx_mosix nodes` lists them"),
    ] {
        let decision = ask(&pinned, word);
        assert_eq!((decision.action.clone(), decision.verdict().unwrap().to_string()), (Action::Stay, line.to_owned()));
    }
    let stuck = JobView { movable: Err("process 12 has a raw socket".into()), ..pinned };
    assert_eq!(lines(&ask(&stuck, "n2")), ["cannot move: process 12 has a raw socket"]);
    let unknown = placement().request(&input(nodes.clone(), Vec::new()), "n1/1", &Wish::Best, 1);
    assert_eq!(lines(&unknown), ["no job n1/1 runs here; `scx_mosix ps` lists them"]);
}

#[test]
fn a_request_for_the_best_node_needs_no_hysteresis() {
    let input = input(vec![node("n1", 2_200), node("n2", 1_000)], vec![job("n1/1", "n1", "n1")]);
    let decision = placement().request(&input, "n1/1", &Wish::Best, 1);
    assert!(moves_to(&decision, "n2", Cause::Request));
    assert_eq!(lines(&decision)[0], "n2: load 1.00 + this job 1.00 = 2.00 < 2.20 here");
}

#[test]
fn a_target_admits_one_at_a_time_and_only_what_fits() {
    let mut placement = placement();
    let here = NodeView { free_memory_bytes: 200 * MIB, ..node("n1", 0) };
    let mut input = input(vec![here, node("n2", 9_000)], Vec::new());
    let guest = |id: &str| JobView { rss_bytes: 90 * MIB, ..job(id, "n2", "n2") };
    assert_eq!(placement.admit(&input, &guest("n2/1"), Cause::Load), Ok(()));
    let refusal = placement.admit(&input, &guest("n2/2"), Cause::Request).unwrap_err();
    assert_eq!(refusal.to_string(), "n1: 110.0 MiB free, but this job needs 90.0 MiB and 64.0 MiB must remain");
    let small = JobView { rss_bytes: MIB, ..guest("n2/3") };
    let refusal = placement.admit(&input, &small, Cause::Load).unwrap_err();
    assert_eq!(refusal.to_string(), "n1: it is receiving 1 other job(s), limit 1");
    assert_eq!(placement.admit(&input, &small, Cause::Request), Ok(()), "a user's request does not wait");
    input.now_ms += 6_000;
    assert_eq!(placement.admit(&input, &guest("n2/2"), Cause::Load), Ok(()), "the leases have ended");
}

#[test]
fn reasons_stay_short_in_a_large_cluster() {
    let others = (2..1_000).map(|i| node(&format!("n{i}"), i * 10));
    let nodes = std::iter::once(node("n1", 5_000)).chain(others).collect();
    let decision = one(nodes, job("n1/1", "n1", "n1"));
    assert_eq!(decision.reasons.len(), Config::default().listed_nodes + 2);
    assert_eq!(decision.reasons[8].to_string(), "990 more nodes considered, none better than those listed");
}
