use super::*;

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
