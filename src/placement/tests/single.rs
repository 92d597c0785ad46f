//! Single jobs: where they start, what their users ask for, whom a target admits.

use super::*;

#[test]
fn eight_jobs_started_at_once_are_assigned_all_over() {
    let mut placement = placement();
    let input = input(vec![node("n1", 0), node("n2", 0), node("n3", 0)], Vec::new());
    let mut counts = std::collections::BTreeMap::new();
    // Assignment in the same instant: only the charges tell of those before. Several may be on
    // their way to a node.
    placement.config.moves_per_target = 8;
    for id in 1..9 {
        let fresh = with(job(&format!("n1/{id}"), "n1", "n1"), |job| {
            job.history.demand_milli = 0;
            job.history.age_ms = 0
        });
        let decision = placement.assign(&input, &fresh, None, id);
        let node = decision.target().map_or("n1", |name| &**name).to_owned();
        *counts.entry(node).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().max(), Some(3), "{:?}", placement.leases());
}

#[test]
fn a_long_program_starts_elsewhere_if_that_repays_the_start() {
    let nodes = || vec![node("n1", 3_000), NodeView { freeze_ms: 15_000, ..node("n2", 0) }];
    let fresh = with(job("n1/1", "n1", "n1"), |job| {
        job.history.demand_milli = 0;
        job.history.counters.cpu_ns = 0;
        job.history.age_ms = 0
    });
    let starts = |expected_ms| placement().assign(&input(nodes(), Vec::new()), &fresh, Some(expected_ms), 1);
    assert!(moves_to(&starts(60_000), "n2", Cause::Initial), "{:?}", lines(&starts(60_000)));
    assert_eq!(starts(2_500).verdict().unwrap().to_string(), "starts on n1, where it is: no other node is better");
    let idle = input(vec![node("n1", 0), node("n2", 0)], Vec::new());
    assert_eq!(placement().assign(&idle, &fresh, Some(60_000), 1).target(), None);
}

#[test]
fn unknown_and_short_programs_stay_in_their_job() {
    let placement = placement();
    let start = |held_ms, work_ms| StartTakes { held_ms, work_ms };
    assert_eq!(placement.prospect(None, start(300, 0), 1.0), Prospect::Short);
    assert_eq!(placement.prospect(Some(1_999), start(300, 0), 8.0), Prospect::Short);
    assert_eq!(placement.prospect(Some(2_000), start(300, 0), 1.0), Prospect::Long(2_000));
    assert_eq!(placement.prospect(Some(11_999), start(6_000, 0), 0.5), Prospect::Short, "its start takes half of that");
    assert_eq!(placement.prospect(Some(12_000), start(6_000, 0), 1.0), Prospect::Long(12_000));
    assert_eq!(
        placement.prospect(Some(3_000), start(6_000, 0), 4.0),
        Prospect::Long(3_000),
        "among four it takes as long"
    );
    assert_eq!(
        placement.prospect(Some(5_999), start(300, 3_000), 8.0),
        Prospect::Short,
        "it saves half of its CPU time"
    );
    assert_eq!(placement.prospect(Some(6_000), start(300, 3_000), 8.0), Prospect::Long(6_000));
    let off = Placement::new(Config { start_elsewhere: false, ..Config::default() }).unwrap();
    assert_eq!(off.prospect(Some(60_000), start(300, 0), 1.0), Prospect::Short);
}

#[test]
fn cpu_cost_of_a_move_is_weighed_against_the_relief() {
    let nodes = |work_ms| vec![node("n1", 4_000), NodeView { work_ms, ..node("n2", 0) }];
    let fresh = with(job("n1/1", "n1", "n1"), |job| {
        job.history.demand_milli = 0;
        job.history.counters.cpu_ns = 0;
        job.history.age_ms = 0
    });
    let start = |work_ms| placement().assign(&input(nodes(work_ms), Vec::new()), &fresh, Some(8_000), 1);
    let price = |decision: &Decision| {
        let mut compared = decision.reasons.iter();
        compared.find_map(|reason| if let Reason::Compared(c) = reason { Some(c.price) } else { None })
    };
    let (free, dear) = (start(0), start(4_000));
    assert!(moves_to(&free, "n2", Cause::Initial) && moves_to(&dear, "n2", Cause::Initial), "{:?}", lines(&dear));
    // It stands still for 0.6 s in both cases. Four others, who have had a minute where it counts
    // as having had one second, wait for 4 s.
    let (free, dear) = (price(&free).unwrap(), price(&dear).unwrap());
    assert!((dear - free - 4.0 / 60.0 * (4.0 - 0.6) / 8.0).abs() < 1e-6, "{free} {dear}");
    let vain = start(4_001);
    assert_eq!(vain.target(), None);
    let why = "n2: a move takes 4.0 s of CPU time at either end, but it will probably need 8.0 s only";
    assert!(lines(&vain).iter().any(|line| line == why), "{:?}", lines(&vain));

    let here = |work_ms| input(nodes(work_ms), vec![job("n1/1", "n1", "n1")]);
    assert!(moves_to(&placement().decide(&here(ATTAINED_MS / 2), 1)[0], "n2", Cause::Load));
    assert_eq!(placement().decide(&here(ATTAINED_MS / 2 + 1), 1)[0].target(), None);
    let asked = placement().request(&here(ATTAINED_MS), &JobId::new("n1", 1), &"n2".into(), 1);
    assert!(moves_to(&asked, "n2", Cause::Request), "a user's word counts more");
}

#[test]
fn requests_override_balance_but_not_facts() {
    let pinned = with(job("n1/1", "n1", "n1"), |job| {
        job.constraints.stay = true;
        job.history.age_ms = 0;
        job.history.demand_milli = 0
    });
    let nodes = vec![node("n1", 0), node("n2", 5_000), NodeView { accepting: false, ..node("n3", 0) }];
    let ask = |job: &JobView, word: &str| {
        placement().request(&input(nodes.clone(), vec![job.clone()]), &JobId::new("n1", 1), &Wish::from(word), 1)
    };
    assert!(moves_to(&ask(&pinned, "n2"), "n2", Cause::Request));
    for (word, line) in [
        ("n1", "stays: it is on n1 already"),
        ("home", "stays: it is on n1 already"),
        ("best", "stays: no other node is better"),
        ("n3", "n3: it accepts no guests while it is being drained or its daemon stops"),
        ("n9", "there is no node n9 in this cluster; `scx_mosix nodes` lists them"),
    ] {
        let decision = ask(&pinned, word);
        assert_eq!((decision.action.clone(), decision.verdict().unwrap().to_string()), (Action::Stay, line.to_owned()));
    }
    let stuck = JobView { movable: Err("process 12 has a raw socket".into()), ..pinned };
    assert_eq!(lines(&ask(&stuck, "n2")), ["cannot move: process 12 has a raw socket"]);
    let unknown = placement().request(&input(nodes.clone(), Vec::new()), &JobId::new("n1", 1), &Wish::Best, 1);
    assert_eq!(lines(&unknown), ["no job n1/1 runs here; `scx_mosix ps` lists them"]);
}

#[test]
fn a_request_for_the_best_node_counts_no_price() {
    let input = input(vec![node("n1", 2_200), node("n2", 1_000)], vec![job("n1/1", "n1", "n1")]);
    let decision = placement().request(&input, &JobId::new("n1", 1), &Wish::Best, 1);
    assert!(moves_to(&decision, "n2", Cause::Request));
    assert_eq!(lines(&decision)[0], "n2: 2.00 for itself + 1.00 for others + 0.20 away from home = 3.20 < 3.40 here");
}

#[test]
fn a_target_that_will_lack_memory_admits_no_job() {
    let guest = JobView { working_set_bytes: 100 * MIB, frozen_bytes: 100 * MIB, ..job("n1/1", "n1", "n2") };
    let admit = |falls_mib: u64| {
        let here = NodeView { free_memory_bytes: 300 * MIB, depletion_bytes_per_s: falls_mib * MIB, ..node("n1", 0) };
        placement().admit(&input(vec![here, node("n2", 0)], Vec::new()), &guest, Cause::Load, None)
    };
    // A second and 1.4 s to come, and as much to go.
    assert_eq!(admit(20), Ok(()));
    let refusal = admit(40).unwrap_err().to_string();
    assert_eq!(refusal, "n1: 108.0 MiB left, but this job needs 100.0 MiB and 64.0 MiB must remain");
}

#[test]
fn a_target_admits_one_at_a_time_and_only_what_fits() {
    let mut placement = placement();
    let here = NodeView { free_memory_bytes: 200 * MIB, ..node("n1", 0) };
    let mut input = input(vec![here, node("n2", 9_000)], Vec::new());
    let guest = |id: &str| JobView { working_set_bytes: 90 * MIB, ..job(id, "n2", "n2") };
    assert_eq!(placement.admit(&input, &guest("n2/1"), Cause::Load, None), Ok(()));
    let refusal = placement.admit(&input, &guest("n2/2"), Cause::Request, None).unwrap_err();
    assert_eq!(refusal.to_string(), "n1: 110.0 MiB left, but this job needs 90.0 MiB and 64.0 MiB must remain");
    let small = JobView { working_set_bytes: MIB, ..guest("n2/3") };
    let refusal = placement.admit(&input, &small, Cause::Load, None).unwrap_err();
    assert_eq!(refusal.to_string(), "n1: it is receiving 1 other job(s), limit 1");
    assert_eq!(placement.admit(&input, &small, Cause::Request, None), Ok(()), "a user's request does not wait");
    input.now_ms += 6_000;
    assert_eq!(placement.admit(&input, &guest("n2/2"), Cause::Load, None), Ok(()), "the leases have ended");
}

#[test]
fn programs_start_at_a_node_where_a_large_one_must_wait() {
    let mut placement = placement();
    let input = input(vec![node("n1", 0), node("n2", 9_000)], Vec::new());
    let starts = |id: &str| JobView { working_set_bytes: 16 << 10, ..job(id, "n2", "n2") };
    assert_eq!(placement.admit(&input, &starts("n2/1"), Cause::Load, None), Ok(()));
    let refusal = placement.admit(&input, &job("n2/2", "n2", "n2"), Cause::Load, None).unwrap_err();
    assert_eq!(refusal.to_string(), "n1: it is receiving 1 other job(s), limit 1");
    assert_eq!(placement.admit(&input, &starts("n2/3"), Cause::Load, None), Ok(()));
    assert_eq!(placement.admit(&input, &starts("n2/4"), Cause::Load, None), Ok(()));
    let refusal = placement.admit(&input, &starts("n2/5"), Cause::Load, None).unwrap_err();
    assert_eq!(refusal.to_string(), "n1: it is receiving 3 other job(s), limit 3");
}

#[test]
fn a_target_looks_again_at_what_the_source_compared() {
    let guest = job("n2/1", "n2", "n2");
    let admit = |load_milli: u32, limit_milli: Option<u32>| {
        let nodes = vec![node("n1", load_milli), node("n2", 9_000)];
        placement().admit(&input(nodes, Vec::new()), &guest, Cause::Load, limit_milli)
    };
    assert_eq!(admit(0, Some(4_000)), Ok(()));
    let refusal = admit(3_000, Some(4_000)).unwrap_err();
    assert_eq!(refusal.to_string(), "n1: it would cost 7.40 there by now, and must stay below 4.00");
    assert_eq!(admit(3_000, None), Ok(()));
}

#[test]
fn programs_of_one_tree_are_waited_for_together() {
    let young_ms = Config::default().young_ms;
    let weight = |attained_ms: u64, tree_attained_ms| {
        with(job("n1/1", "n1", "n1"), |job| {
            job.history.counters.cpu_ns = attained_ms * 1_000_000;
            job.history.tree_attained_ms = tree_attained_ms
        })
        .load(young_ms)
        .weight
    };
    assert_eq!(weight(500_000, 700_000).to_bits(), weight(0, 700_000).to_bits());
    assert!(weight(500_000, 0) < weight(0, 0));
    assert_eq!(weight(500_000, 0).to_bits(), weight(500_000, 500_000).to_bits());
}

#[test]
fn a_job_leaves_its_tree_for_a_free_cpu_or_a_cheap_move() {
    let of = |tree, attained_ms: u64, id: &str| {
        with(job(id, "n1", "n1"), |job| {
            job.spec.tree = tree;
            job.history.counters.cpu_ns = attained_ms * 1_000_000;
            job.history.tree_attained_ms = ATTAINED_MS
        })
    };
    let jobs = |tree, attained_ms| vec![of(tree, attained_ms, "n1/1"), of(tree, attained_ms, "n1/2")];
    let look = |n1_milli, n2_milli, jobs| {
        let input = input(vec![node("n1", n1_milli), node("n2", n2_milli)], jobs);
        let decisions = decide(&mut placement(), &input);
        (decisions.iter().any(|decision| decision.target().is_some()), lines(&decisions[0]).join("\n"))
    };
    assert!(look(3_000, 1_000, jobs(None, 10_000)).0, "strangers");
    let (leaves, why) = look(2_000, 300, jobs(Some(9), 10_000));
    assert!(!leaves && why.contains("with its own tree; no CPU is free there"), "{why}");
    assert!(look(2_000, 100, jobs(Some(9), 10_000)).0, "a CPU is free there");
    assert!(look(4_000, 1_000, jobs(Some(9), 10_000)).0, "two strangers are here as well");
    assert!(look(2_000, 300, jobs(Some(9), ATTAINED_MS)).0, "it takes half a second, and two minutes are to come");
}
