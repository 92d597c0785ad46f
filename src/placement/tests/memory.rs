//! Nodes short of memory.

use super::*;

#[test]
fn memory_counts_like_ten_tasks_and_overrides_load_if_need_be() {
    let here = NodeView { free_memory_bytes: 11 * MIB, ..node("n1", 100) };
    let jobs = [(1, 300), (2, 60), (3, 30), (4, 4)].map(|(id, mib)| JobView {
        working_set_bytes: mib * MIB,
        frozen_bytes: mib * MIB,
        ..with(job(&format!("n1/{id}"), "n1", "n1"), |job| job.history.demand_milli = 10)
    });
    let moving = |decisions: &[Decision]| -> Vec<(String, String)> {
        decisions.iter().filter_map(|d| Some((d.job.to_string(), d.target()?.to_string()))).collect()
    };
    // 5 % of 1 GiB is 51.2 MiB, so 40.2 MiB are missing: 60 MiB cure it, and take less time
    // than 300.
    let idle = node("n2", 0);
    let decisions = placement().decide(&input(vec![here.clone(), idle], jobs.to_vec()), 1);
    assert_eq!(moving(&decisions), [("n1/2".into(), "n2".into())]);
    assert_eq!(decisions[1].action, Action::Move { target: "n2".into(), cause: Cause::Memory });
    assert_eq!(lines(&decisions[1])[0], "n1: 11.0 MiB of memory free, below 51.1 MiB: something must leave");
    assert_eq!(lines(&decisions[3]).last().unwrap(), "stays: asks for 0.01 CPU, moves from 0.25 CPU on");
    // No cost is lower on a node that is so busy, but memory must be had.
    let busy = NodeView { load_milli: 90_000, weight_nano: 90 * 500_000_000, ..node("n2", 0) };
    let decisions = placement().decide(&input(vec![here.clone(), busy.clone()], jobs.to_vec()), 1);
    assert_eq!(moving(&decisions), [("n1/2".into(), "n2".into())]);
    assert_eq!(decisions[1].limit_milli, None);
    assert_eq!(lines(&decisions[3])[1], "uses 4.0 MiB: too little to relieve memory, 16.0 MiB at least");
    // No node has room.
    let full = NodeView { free_memory_bytes: 70 * MIB, ..busy };
    let decisions = placement().decide(&input(vec![here, full], jobs.to_vec()), 1);
    assert_eq!(moving(&decisions), []);
    assert_eq!(decisions[0].reasons[0].rule(), "memory_short");
}

#[test]
fn who_relieves_memory_goes_before_who_only_asks_for_cpu() {
    // 41.2 MiB are missing. One that is busy and would gain has 20 MiB; one that is idle would cure
    // it.
    let here = NodeView { free_memory_bytes: 10 * MIB, ..node("n1", 2_000) };
    let busy = job("n1/1", "n1", "n1");
    let idle = |id: &str, mib: u64| JobView {
        working_set_bytes: mib * MIB,
        frozen_bytes: mib * MIB,
        ..with(job(id, "n1", "n1"), |job| job.history.demand_milli = 10)
    };
    let first = |here: &NodeView, jobs: Vec<JobView>| {
        let decisions = placement().decide(&input(vec![here.clone(), node("n2", 0)], jobs), 1);
        let gone: Vec<String> = decisions.iter().filter(|d| d.target().is_some()).map(|d| d.job.to_string()).collect();
        gone.join(" ")
    };
    assert_eq!(first(&here, vec![busy.clone(), idle("n1/2", 400)]), "n1/2");
    // Too small to relieve anything, however much it would gain.
    let small = JobView { working_set_bytes: 5 * MIB, frozen_bytes: 5 * MIB, ..busy.clone() };
    assert_eq!(first(&here, vec![small.clone(), idle("n1/2", 400)]), "n1/2");
    // What no node can relieve is no reason to stay where it is crowded.
    assert_eq!(first(&here, vec![small]), "n1/1");
    // No job cures it alone: the one that frees most.
    assert_eq!(first(&here, vec![idle("n1/2", 20), idle("n1/3", 30)]), "n1/3");
    // Where all stand still what is missing is unknown; 20 MiB would not change it.
    let stalled = NodeView { memory_stall_centi: 2_000, ..node("n1", 2_000) };
    assert_eq!(first(&stalled, vec![busy, idle("n1/2", 100)]), "n1/2");
}

#[test]
fn what_is_urgent_does_not_wait_for_what_left_before() {
    let here = NodeView { free_memory_bytes: 10 * MIB, ..node("n1", 2_000) };
    let [first, second, third] = [1, 2, 3].map(|id| JobView {
        working_set_bytes: 60 * MIB,
        frozen_bytes: 60 * MIB,
        ..job(&format!("n1/{id}"), "n1", "n1")
    });
    let flight = |job: &JobView| InFlight { job: job.id().clone(), source: "n1".into(), target: "n3".into() };
    let mut placement = placement();
    let mut moving = |here: &NodeView, flying: &[&JobView]| {
        let nodes = vec![here.clone(), node("n2", 0), node("n3", 0)];
        let in_flight = flying.iter().map(|job| flight(job)).collect();
        let input = Input { in_flight, ..input(nodes, vec![first.clone(), second.clone(), third.clone()]) };
        placement.decide(&input, 1).iter().filter(|decision| decision.target().is_some()).count()
    };
    assert_eq!(
        moving(&NodeView { free_memory_bytes: 500 * MIB, ..here.clone() }, &[&first]),
        0,
        "for load one at a time"
    );
    // What is on its way out is as good as gone: 60 MiB are enough.
    assert_eq!(moving(&NodeView { free_memory_bytes: 30 * MIB, ..here.clone() }, &[&first]), 0);
    let scarce = NodeView { depletion_bytes_per_s: 30 * MIB, ..here };
    assert_eq!(moving(&scarce, &[&first]), 1, "and one that is urgent beside it");
    assert_eq!(moving(&scarce, &[&first, &second]), 0);
}

#[test]
fn jobs_that_cannot_leave_do_not_make_others_leave_early() {
    let here = NodeView { free_memory_bytes: 300 * MIB, depletion_bytes_per_s: 50 * MIB, ..node("n1", 500) };
    let large = JobView { working_set_bytes: 900 * MIB, frozen_bytes: 900 * MIB, ..job("n1/1", "n1", "n1") };
    let small = JobView { working_set_bytes: 30 * MIB, frozen_bytes: 30 * MIB, ..job("n1/2", "n1", "n1") };
    let leaves = |large: JobView| {
        let nodes = vec![here.clone(), NodeView { free_memory_bytes: 600 * MIB, ..node("n2", 0) }];
        let decisions = placement().decide(&input(nodes, vec![large, small.clone()]), 1);
        decisions[1].target().is_some()
    };
    assert!(leaves(large.clone()), "the large one, which finds no place, would take ten seconds");
    assert!(!leaves(with(large.clone(), |job| job.constraints.stay = true)));
    assert!(!leaves(JobView { movable: Err("it has a socket".into()), ..large }));
}

#[test]
fn something_leaves_before_memory_is_exhausted() {
    let big = JobView { working_set_bytes: 200 * MIB, frozen_bytes: 200 * MIB, ..job("n1/1", "n1", "n1") };
    let decide = |here: NodeView| placement().decide(&input(vec![here, node("n2", 0)], vec![big.clone()]), 1).remove(0);
    let here = NodeView { free_memory_bytes: 300 * MIB, ..node("n1", 500) };
    assert_eq!(decide(here.clone()).action, Action::Stay);
    // It takes 3.4 s until the job has left: 0.4 s and 200 MiB at 100 MiB/s, after a second for the
    // decision.
    let falling = decide(NodeView { depletion_bytes_per_s: 80 * MIB, ..here.clone() });
    assert!(moves_to(&falling, "n2", Cause::Memory), "{falling:?}");
    assert_eq!(
        lines(&falling)[0],
        "n1: 300.0 MiB of memory free and 80.0 MiB less each second, so below 51.1 MiB within 3.4 s: something must leave"
    );
    assert_eq!(decide(NodeView { depletion_bytes_per_s: 50 * MIB, ..here.clone() }).action, Action::Stay);
    let stalled = decide(NodeView { memory_stall_centi: 1_234, ..here });
    assert!(moves_to(&stalled, "n2", Cause::Memory), "{stalled:?}");
    assert_eq!(
        lines(&stalled)[0],
        "n1: all tasks stood still for lack of memory 12.34 % of the time, limit 10 %: something must leave"
    );
}
