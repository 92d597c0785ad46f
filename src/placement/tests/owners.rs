//! Owners' programs and guests at one node, and jobs that may not be where they are.

use std::iter;

use super::*;

/// With sched_ext in force; the programs of the node's own users ask for so much of its CPU.
fn owned(name: &str, load_milli: u32, demand_milli: u32) -> NodeView {
    let weight_nano = u64::from(demand_milli) * WEIGHT_NANO / 1_000;
    NodeView { owners: Some(Owners { demand_milli, weight_nano }), ..node(name, load_milli) }
}

fn guest(id: &str, home: &str) -> JobView {
    JobView { since_last_move_ms: Some(60_000), ..job(id, home, "n1") }
}

#[test]
fn an_owner_has_his_machine_back_and_his_guests_leave() {
    let home = || node("n2", 2_000);
    let alike = one(vec![node("n1", 2_000), home()], guest("n2/1", "n2"));
    assert_eq!(alike.action, Action::Stay, "two share the CPU here, three would there: {alike:?}");
    let decision = one(vec![owned("n1", 2_000, 1_000), home()], guest("n2/1", "n2"));
    assert!(moves_to(&decision, "n2", Cause::Home), "{decision:?}");
    assert_eq!(
        lines(&decision),
        [
            "n1: programs of its own users come first and ask for 1.00 of 1 CPUs: guests get the rest",
            "n2 (home): 3.00 for itself + 2.00 for others + 0.03 for the move (0.6 s stopped) + 1.10 least gain = 6.13 < 22.00 here",
            "moves to n2: the best node",
        ]
    );
    let idle = one(vec![owned("n1", 1_000, 0), home()], guest("n2/1", "n2"));
    assert_eq!(idle.action, Action::Stay, "no owner wants the CPU: {idle:?}");
}

#[test]
fn guests_are_no_reason_for_an_owners_program_to_leave() {
    let crowded = |here| one(vec![here, node("n2", 0)], job("n1/1", "n1", "n1"));
    assert!(moves_to(&crowded(node("n1", 4_000)), "n2", Cause::Load));
    assert_eq!(crowded(owned("n1", 4_000, 1_000)).verdict().unwrap().rule(), "nothing_better");
    assert_eq!(crowded(owned("n1", 4_000, 900)).verdict().unwrap().rule(), "below_threshold");
    assert!(moves_to(&crowded(owned("n1", 4_000, 2_000)), "n2", Cause::Load));
    // Nor to stay away.
    let away = guest("n2/1", "n2");
    assert!(moves_to(&one(vec![node("n1", 1_000), owned("n2", 3_000, 0)], away), "n2", Cause::Home));
}

#[test]
fn who_must_leave_waits_for_no_other_but_is_not_sent_twice() {
    let mut placement = placement();
    let of = |jobs: Vec<JobView>, now_ms| Input {
        draining: true,
        now_ms,
        ..input(vec![node("n1", 2_000), node("n2", 0), node("n3", 0)], jobs)
    };
    let mut gone = |jobs: Vec<JobView>, now_ms| -> Vec<String> {
        let decisions = placement.decide(&of(jobs, now_ms), 1);
        decisions
            .iter()
            .filter(|decision| decision.target().is_some())
            .map(|decision| decision.job.to_string())
            .collect()
    };
    let (first, second) = (guest("n2/1", "n2"), guest("n3/2", "n3"));
    assert_eq!(gone(vec![first.clone()], 1_000), ["n2/1"]);
    // Its move is over and it is seen a moment longer.
    assert_eq!(gone(vec![first.clone()], 2_000), [""; 0]);
    assert_eq!(gone(vec![first.clone(), second], 3_000), ["n3/2"]);
    assert_eq!(gone(vec![first], 9_000), ["n2/1"], "it is here indeed");
}

#[test]
fn guests_of_a_tree_share_a_machine_with_its_busy_owner() {
    let brother = |id: &str| JobView {
        since_last_move_ms: Some(4_000),
        frozen_bytes: 0,
        ..with(guest(id, "n2"), |job| job.spec.tree = Some(1))
    };
    let leaves = |here: NodeView| {
        let input = input(vec![here, node("n2", 1_000)], vec![brother("n2/1"), brother("n2/2")]);
        placement().decide(&input, 1).iter().any(|decision| decision.target().is_some())
    };
    assert!(!leaves(owned("n1", 2_000, 0)), "what the one gained the other would lose");
    assert!(leaves(owned("n1", 3_000, 1_000)), "the owner has it all");
}

#[test]
fn nodes_named_by_a_user_are_always_compared() {
    let nodes: Vec<NodeView> =
        iter::once(node("n1", 9_000)).chain((2..1_000).map(|n| node(&format!("n{n}"), 0))).collect();
    let job = with(job("n1/1", "n1", "n1"), |job| job.constraints.allowed_nodes = vec!["n700".into()]);
    let mut input = input(nodes, vec![job.clone()]);
    for seed in 0..8 {
        let decision = placement().decide(&input, seed).remove(0);
        assert!(moves_to(&decision, "n700", Cause::Load), "{decision:?}");
    }
    input.jobs.clear();
    let begins = placement().assign(&input, &job, Some(100_000), 1);
    assert!(moves_to(&begins, "n700", Cause::Initial), "{begins:?}");
}

#[test]
fn a_busy_owner_is_no_host() {
    let nodes = vec![node("n1", 5_000), owned("n2", 1_000, 1_000), owned("n3", 1_500, 0)];
    assert!(moves_to(&one(nodes, job("n1/1", "n1", "n1")), "n3", Cause::Load));
}

#[test]
fn what_was_sent_counts_where_it_will_run() {
    let mut placement = placement();
    let nodes = || vec![node("n1", 5_000), owned("n2", 0, 0)];
    let there = |placement: &mut Placement, job: JobView| {
        let decision = decide(placement, &input(nodes(), vec![job])).remove(0);
        lines(&decision).into_iter().find(|line| line.starts_with("n2")).unwrap()
    };
    // What comes home there is no burden to it, and leaves guests nothing.
    assert!(there(&mut placement, guest("n2/1", "n2")).starts_with("n2 (home): 1.00 for itself"));
    let mut placement = Placement::new(Config { moves_per_target: 9, ..Config::default() }).unwrap();
    assert!(there(&mut placement, guest("n2/1", "n2")).starts_with("n2 (home): 1.00 for itself"));
    let late = |id: &str| with(guest(id, "n3"), |job| job.history.age_ms = 61_000);
    assert!(there(&mut placement, late("n3/1")).starts_with("n2: 20.00 for itself"), "n2/1 comes home");
}

#[test]
fn who_drains_a_node_sends_its_guests_away_whatever_that_costs() {
    let drained = |nodes, jobs| decide(&mut placement(), &Input { draining: true, ..input(nodes, jobs) });
    // Below the threshold, idle, pinned, just started, and dearer there: it leaves all the same.
    let idle = with(guest("n2/1", "n2"), |job| {
        job.history.demand_milli = 10;
        job.constraints.stay = true;
        job.history.age_ms = 10
    });
    let busy = || node("n2", 3_000);
    let decision = drained(vec![node("n1", 0), busy()], vec![idle.clone()]).remove(0);
    assert!(moves_to(&decision, "n2", Cause::Evacuate), "{decision:?}");
    assert_eq!((lines(&decision)[0].as_str(), decision.limit_milli), ("n1 is being drained: guests must leave", None));
    // This node's own stay, and wait while a guest leaves.
    let own = job("n1/1", "n1", "n1");
    let decisions = drained(vec![node("n1", 2_000), busy(), node("n3", 0)], vec![own.clone(), idle.clone()]);
    assert!(moves_to(&decisions[1], "n3", Cause::Evacuate), "{decisions:?}");
    assert_eq!(decisions[0].verdict().unwrap().to_string(), "stays: n2/1 leaves n1 first, 1 at a time");
    assert_eq!(
        drained(vec![node("n1", 900), busy()], vec![own]).remove(0).verdict().unwrap().rule(),
        "below_threshold"
    );
    // No node has room.
    let full = NodeView { free_memory_bytes: 0, ..busy() };
    let decision = drained(vec![node("n1", 0), full], vec![idle]).remove(0);
    assert_eq!(decision.verdict().unwrap().to_string(), "stays: no other node can take it");
}

#[test]
fn a_job_leaves_a_node_that_its_user_does_not_allow() {
    let only_n3 = with(guest("n2/1", "n2"), |job| job.constraints.allowed_nodes = vec!["n3".into()]);
    let nodes = vec![node("n1", 0), node("n2", 1_500), node("n3", 400), node("n4", 0)];
    let decision = one(nodes.clone(), only_n3.clone());
    assert!(moves_to(&decision, "n3", Cause::Evacuate), "{decision:?}");
    assert_eq!(lines(&decision)[0], "n1 is not among the nodes allowed for this job: it must leave");
    let at_home = with(only_n3, |job| job.id.home = "n1".into());
    assert_eq!(one(nodes, at_home).verdict().unwrap().rule(), "below_threshold", "home is always allowed");
}
