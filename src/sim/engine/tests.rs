use super::*;
use crate::placement::Config;

fn scenario(name: &str) -> Scenario {
    let mut scenario = Scenario::named(name);
    scenario.arrivals.until_s = 1_000.0;
    scenario
}

#[test]
fn a_run_is_determined_by_its_seed_and_all_jobs_end() {
    for policy in PolicyName::ALL {
        let one = run(&scenario("oc-fit"), policy, 3);
        assert_eq!(one, run(&scenario("oc-fit"), policy, 3), "{policy:?}");
        // The fastest machine has speed 1, and each part of a parallel job has all of its demand.
        assert!(one.slowdowns.iter().all(|slowdown| *slowdown >= 1.0 - 1e-6), "{policy:?}");
    }
}

#[test]
fn a_job_alone_on_the_fastest_machine_is_not_slowed_down() {
    let mut scenario = scenario("oc-literal");
    scenario.arrivals.mean_gap_s = 1e9;
    scenario.arrivals.until_s = 3e9;
    scenario.parallel = None;
    scenario.jobs.most_memory_mib = 1.0;
    let seed = (0..).find(|seed| !workload::draw(&scenario, *seed).is_empty()).unwrap();
    let outcome = run(&scenario, PolicyName::Clairvoyant, seed);
    assert!(outcome.slowdowns.iter().all(|slowdown| (slowdown - 1.0).abs() < 1e-6), "{outcome:?}");
}

#[test]
fn moves_are_made_if_they_pay() {
    let moves = |freeze_s: f64| {
        let mut scenario = scenario("oc-fit");
        scenario.moves.freeze_s = freeze_s;
        let outcome = run(&scenario, PolicyName::ScxMosixReal, 3);
        assert!(outcome.slowdowns.iter().all(|slowdown| *slowdown >= 1.0 - 1e-6), "{outcome:?}");
        outcome.moves
    };
    let free = run(&scenario("oc-fit"), PolicyName::ScxMosix, 3).moves;
    assert!(free > 10, "{free}");
    assert!(moves(0.05) > free / 4, "{} of {free}", moves(0.05));
    assert_eq!(moves(1e6), 0);
}

#[test]
fn policies_see_the_need_of_a_job_only_if_it_is_known() {
    let told = |known: bool, name: PolicyName| {
        let mut scenario = scenario("memory-bound");
        scenario.arrivals.until_s = 50.0;
        scenario.jobs.memory_known = known;
        run(&scenario, name, 3)
    };
    assert_ne!(told(true, PolicyName::EPvm), told(false, PolicyName::EPvm));
    assert_ne!(told(true, PolicyName::ScxMosix), told(false, PolicyName::ScxMosix));
    assert_eq!(told(true, PolicyName::Clairvoyant), told(false, PolicyName::Clairvoyant), "it knows anyhow");
    assert_eq!(told(true, PolicyName::Pvm), told(false, PolicyName::Pvm), "it never asks");
    let told_cpu = |known: bool| {
        let mut scenario = scenario("oc-fit");
        scenario.jobs.cpu_known = known;
        run(&scenario, PolicyName::ScxMosixReal, 3)
    };
    assert_ne!(told_cpu(true), told_cpu(false));
}

#[test]
fn what_is_lost_makes_words_older() {
    let known = |loss: f64| {
        let mut scenario = Scenario::named("lossy");
        scenario.network.loss = loss;
        run(&scenario, PolicyName::ScxMosix, 3)
    };
    assert_ne!(known(0.0), known(0.33));
    assert_ne!(known(0.33), known(0.9));
}

/// A hundred machines as they are: they gossip, moves take their time, and placement is as it is by
/// default. Jobs come until 100 s and have work for longer than a test looks on.
fn lasting(mean_gap_s: f64) -> Scenario {
    let mut scenario = Scenario::named("leaving-1");
    scenario.placement = Config::default();
    scenario.leaves.clear();
    scenario.arrivals.mean_gap_s = mean_gap_s;
    scenario.arrivals.until_s = 100.0;
    (scenario.jobs.least_cpu_s, scenario.jobs.most_cpu_s, scenario.jobs.most_memory_mib) = (5_000.0, None, 8.0);
    scenario
}

#[test]
fn a_hundred_machines_that_see_one_idle_do_not_stampede() {
    let Config { moves_per_target, starts_per_target, .. } = Config::default();
    let with_memory = came(1.5);
    assert!(with_memory.iter().all(|coming| *coming <= moves_per_target), "{with_memory:?}");
    let with_little = came(0.1);
    assert!(with_little.iter().all(|coming| *coming <= starts_per_target), "{with_little:?}");
}

/// How many jobs were on their way to an idle machine that a hundred others saw, at each half
/// second, where jobs have so much memory.
fn came(memory_mib: f64) -> Vec<u32> {
    let mut scenario = lasting(0.25);
    (scenario.jobs.least_memory_mib, scenario.jobs.most_memory_mib) = (memory_mib, 4.0 * memory_mib);
    scenario.leaves = vec![Leave { at_s: 200.0, percent: 1.0, how: Departure::Drains, back_after_s: Some(50.0) }];
    let (mut idle, mut had) = (None, Vec::new());
    watch(&scenario, PolicyName::ScxMosixReal, 5, 0.5, &mut |cluster| {
        idle = idle.or_else(|| cluster.machines.iter().position(|machine| !machine.is_open));
        if let Some(idle) = idle.filter(|idle| cluster.machines[*idle].is_open) {
            let coming = cluster.flights.iter().filter(|flight| flight.to == idle).count();
            let others = cluster.machines.iter().enumerate().filter(|(other, _)| *other != idle);
            let fullest = others.map(|(_, machine)| machine.jobs.len()).max().unwrap();
            had.push((cluster.machines[idle].jobs.len(), coming, fullest));
        }
        if cluster.now_s < 350.0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    // No more than where they are from would have.
    assert!(had.iter().all(|(jobs, coming, fullest)| jobs + coming <= *fullest), "{had:?}");
    assert!(had.last().is_some_and(|(jobs, ..)| *jobs >= 3), "{had:?}");
    had.into_iter().map(|(_, coming, _)| u32::try_from(coming).unwrap()).collect()
}

#[test]
fn in_a_steady_state_no_job_moves() {
    let mut scenario = lasting(0.2);
    let [alike] = &scenario.machines[..] else { panic!() };
    let kind = |count, cpus, speed| crate::sim::scenario::MachineKind { count, cpus, speed, ..alike.clone() };
    scenario.machines = vec![kind(50, 1, 1.0), kind(30, 1, 0.5), kind(20, 4, 1.5)];
    let mut moves = Vec::new();
    watch(&scenario, PolicyName::ScxMosixReal, 3, 100.0, &mut |cluster| {
        moves.push(cluster.moves);
        if moves.len() < 9 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(moves[1] > 20, "{moves:?}");
    assert!(moves[5..].iter().all(|all| *all == moves[5]), "{moves:?}");
}
