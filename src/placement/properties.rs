//! What holds for any input.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::tests::{job, node, with};
use super::*;

const NAMES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];

fn any_name() -> impl Strategy<Value = NodeName> {
    prop::sample::select(&NAMES[..]).prop_map(NodeName::from)
}

/// Ordinary values, with extremes among them.
fn figure(usual: std::ops::Range<u32>) -> impl Strategy<Value = u32> {
    prop_oneof![8 => usual, 1 => Just(0), 1 => Just(u32::MAX)]
}

fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![8 => (0_u64..2_048).prop_map(|mib| mib << 20), 1 => Just(0), 1 => Just(u64::MAX)]
}

fn any_node(name: &'static str) -> impl Strategy<Value = NodeView> {
    let capacity = (figure(1..9), figure(300..4_000), figure(0..8_000));
    let flags = (
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.9),
        prop_oneof![9 => Just(0_u16), 1 => any::<u16>()],
        prop::option::of((figure(0..8_000), 0_u64..80_000_000)),
    );
    (capacity, bytes(), bytes(), 0_u64..14_000, flags).prop_map(move |(capacity, free, total, age_ms, flags)| {
        NodeView {
            cpus: capacity.0,
            speed_milli: capacity.1,
            load_milli: capacity.2,
            weight_nano: u64::from(capacity.2) * 10_000,
            owners: flags.4.map(|(demand_milli, weight_nano)| Owners { demand_milli, weight_nano }),
            swapped_bytes: total / 8,
            depletion_bytes_per_s: free / 64,
            memory_stall_centi: flags.3,
            work_ms: free % 10_000,
            free_memory_bytes: free,
            total_memory_bytes: total,
            age_ms,
            accepting: flags.0,
            alive: flags.1,
            features_ok: if flags.2 { Ok(()) } else { Err("no AVX".into()) },
            ..node(name, 0)
        }
    })
}

fn any_job(id: usize) -> impl Strategy<Value = JobView> {
    let whereabouts = (any_name(), prop_oneof![9 => Just(NodeName::from("n1")), 1 => any_name()]);
    let times = (0_u64..30_000, prop::option::of(0_u64..30_000), 0_u64..60_000, prop::option::of(1..3));
    let limits = (
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.1),
        prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(any_name(), 1..4)],
    );
    (whereabouts, figure(0..4_000), bytes(), times, limits).prop_map(
        move |(whereabouts, demand_milli, working_set_bytes, times, limits)| JobView {
            running_on: whereabouts.1,
            working_set_bytes,
            frozen_bytes: working_set_bytes,
            mapped_bytes: working_set_bytes / 3,
            since_last_move_ms: times.1,
            movable: if limits.0 { Ok(()) } else { Err("a socket".into()) },
            ..with(job(&format!("n1/{}", id + 1), &whereabouts.0, "n1"), |job| {
                job.history.demand_milli = demand_milli;
                job.history.counters.io_bytes = working_set_bytes.wrapping_mul(2_654_435_761) >> 24;
                job.history.counters.cpu_ns = times.0 * 1_000_000;
                job.spec.tree = times.3;
                job.history.tree_attained_ms = times.2;
                job.history.age_ms = times.0;
                job.constraints.stay = limits.1;
                job.constraints.allowed_nodes = limits.2.iter().map(ToString::to_string).collect()
            })
        },
    )
}

prop_compose! {
    fn any_input()(
        a in any_node("n1"), b in any_node("n2"), c in any_node("n3"), d in any_node("n4"), e in any_node("n5"),
        known in 1_usize..6,
        jobs in (any_job(0), any_job(1), any_job(2), any_job(3), any_job(4), any_job(5)),
        count in 0_usize..7,
        flights in prop::collection::vec((0_usize..8, any_name(), any_name()), 0..3),
        now_ms in prop_oneof![Just(0_u64), 0_u64..1_000_000, Just(u64::MAX)],
        draining in prop::bool::weighted(0.2),
    ) -> Input {
        let mut nodes = vec![a, b, c, d, e];
        nodes.truncate(known);
        let mut jobs = vec![jobs.0, jobs.1, jobs.2, jobs.3, jobs.4, jobs.5];
        jobs.truncate(count);
        let name = |id: usize| jobs.get(id).map_or_else(|| JobId::new("n1", 1 + id as i32), |job| job.id().clone());
        let in_flight = flights.into_iter().map(|(id, source, target)| InFlight { job: name(id), source, target }).collect();
        Input { here: "n1".into(), now_ms, nodes, jobs, in_flight, draining }
    }
}

/// What only a user who names the node may ignore.
fn is_fresh(input: &Input, target: &NodeName) -> Result<(), TestCaseError> {
    prop_assert!(input.node(target).unwrap().age_ms <= Config::default().stale_ms);
    Ok(())
}

/// What no mover may ignore.
fn facts_hold(input: &Input, job: &JobView, target: &NodeName) -> Result<(), TestCaseError> {
    let config = Config::default();
    prop_assert!(job.movable.is_ok() && job.running_on == input.here && *target != input.here);
    prop_assert!(!input.in_flight.iter().any(|flight| flight.job == *job.id() && flight.source != flight.target));
    let node = input.node(target).unwrap();
    prop_assert!(node.alive && node.cpus > 0 && node.speed_milli > 0);
    prop_assert!(node.features_ok.is_ok() && job.allows(target) && (node.accepting || *job.home() == *target));
    let flying = input.in_flight.iter().filter(|flight| flight.target == *target && flight.source != flight.target);
    let charged = flying
        .filter_map(|flight| input.jobs.iter().find(|job| *job.id() == flight.job))
        .map(|job| u128::from(job.working_set_bytes));
    let needed = u128::from(job.working_set_bytes)
        + u128::from(config.memory_margin_bytes)
        + charged.collect::<std::collections::BTreeSet<_>>().last().unwrap_or(&0);
    prop_assert!(u128::from(node.free_memory_bytes) >= needed);
    Ok(())
}

proptest! {
    #[test]
    fn decisions_respect_every_limit(input in any_input(), seed: u64) {
        let config = Config::default();
        let mut placement = Placement::new(config.clone()).unwrap();
        let decisions = placement.decide(&input, seed);
        prop_assert_eq!(decisions.len(), input.jobs.len());
        let leaves = |flight: &&InFlight| flight.source == input.here && flight.target != input.here;
        let leaving: BTreeSet<_> = input.in_flight.iter().filter(leaves).map(|flight| (&flight.job, &flight.target)).collect();
        let leaving = leaving.len();
        let moves = decisions.iter().filter(|decision| decision.target().is_some()).count();
        let is_urgent = |decision: &Decision| {
            matches!(decision.action, Action::Move { cause: Cause::Evacuate | Cause::Memory, .. })
        };
        let limit = 1 + usize::from(decisions.iter().any(is_urgent));
        prop_assert!(moves <= 1 && (moves == 0 || leaving < limit), "one move at a time, and one that is urgent");
        for (decision, job) in decisions.iter().zip(&input.jobs) {
            prop_assert_eq!(&decision.job, job.id());
            prop_assert!(!decision.reasons.is_empty(), "each decision has its reasons");
            for reason in &decision.reasons {
                let line = reason.to_string();
                prop_assert!(!line.contains('\n') && !line.contains("NaN") && !line.contains("inf"), "{}", line);
            }
            let Action::Move { target, cause } = &decision.action else { continue };
            facts_hold(&input, job, target)?;
            is_fresh(&input, target)?;
            let must_leave = !job.allows("n1") || (input.draining && job.is_guest());
            prop_assert_eq!(must_leave, *cause == Cause::Evacuate);
            prop_assert!(must_leave || !job.is_pinned());
            let limit = if job.working_set_bytes < config.start_bytes { config.starts_per_target } else { config.moves_per_target };
            let comes = |flight: &&InFlight| flight.target == *target && flight.source != *target && flight.job != *job.id();
            let coming: BTreeSet<_> =
                input.in_flight.iter().filter(comes).map(|flight| (&flight.job, &flight.source)).collect();
            prop_assert!(coming.len() < limit as usize);
            let here = input.node("n1").unwrap();
            prop_assert!(here.cpus > 0 && here.speed_milli > 0);
            if must_leave {
                continue;
            }
            if *cause == Cause::Memory {
                prop_assert!(job.working_set_bytes >= config.usher_min_bytes);
                continue;
            }
            prop_assert!(job.record.history.demand_milli >= config.min_demand_milli && job.record.history.age_ms >= config.min_age_ms);
            prop_assert!(here.tasks_per_cpu(!job.is_guest()) >= 1.0 || *target == *job.home(), "the home threshold");
            prop_assert_eq!(*cause == Cause::Home, *target == *job.home());
        }
    }

    /// Nothing goes for the sake of load while something is here that may not be, and could go.
    #[test]
    fn who_must_leave_goes_first(input in any_input(), seed: u64) {
        let decisions = Placement::new(Config::default()).unwrap().decide(&input, seed);
        let must_leave = |job: &JobView| !job.allows("n1") || (input.draining && job.is_guest());
        let held_up = |decision: &Decision| matches!(decision.verdict(), Some(Reason::Busy { moving, .. }) if *moving != decision.job);
        let waits = input.jobs.iter().zip(&decisions).any(|(job, decision)| must_leave(job) && held_up(decision));
        let goes = input.jobs.iter().zip(&decisions).find(|(_, decision)| decision.target().is_some());
        if let Some((job, _)) = goes {
            prop_assert!(must_leave(job) || !waits);
        }
    }

    #[test]
    fn the_same_seed_decides_the_same(input in any_input(), seed: u64) {
        let mut placements = [Placement::new(Config::default()).unwrap(), Placement::new(Config::default()).unwrap()];
        let first = placements[0].decide(&input, seed);
        let mut shuffled = input.clone();
        shuffled.nodes.reverse();
        let again = placements[1].decide(&input, seed);
        prop_assert_eq!(&first, &again);
        prop_assert_eq!(placements[0].leases(), placements[1].leases());
        let targets = |decisions: &[Decision]| decisions.iter().map(|decision| decision.target().cloned()).collect::<Vec<_>>();
        let turned = Placement::new(Config::default()).unwrap().decide(&shuffled, seed);
        prop_assert_eq!(targets(&first), targets(&turned), "the order of nodes does not matter");
    }

    #[test]
    fn requests_and_assignments_respect_facts(input in any_input(), seed: u64, word in prop::sample::select(&["home", "best", "n1", "n2", "n3", "n9"][..]), expected_ms: Option<u64>) {
        for job in &input.jobs {
            let asked = Placement::new(Config::default()).unwrap().request(&input, job.id(), &Wish::from(word), seed);
            prop_assert!(!asked.reasons.is_empty());
            if let Some(target) = asked.target() {
                facts_hold(&input, job, target)?;
                if word == "best" {
                    is_fresh(&input, target)?;
                }
                prop_assert!(word == "best" || **target == *word || (word == "home" && *target == *job.home()));
            }
            let assigned = Placement::new(Config::default()).unwrap().assign(&input, job, expected_ms, seed);
            prop_assert!(!assigned.reasons.is_empty());
            if let Some(target) = assigned.target() {
                facts_hold(&input, job, target)?;
                is_fresh(&input, target)?;
                prop_assert!(!job.is_pinned());
            }
        }
    }

    /// Most nodes are not looked at once a good one is found. That one is about as good as the best
    /// of all even so.
    #[test]
    fn none_is_much_better_than_the_chosen(input in any_input(), seed: u64, expected_ms: Option<u64>, asked: bool) {
        let config = Config::default();
        for job in &input.jobs {
            let mut placement = Placement::new(config.clone()).unwrap();
            let decision =
                if asked { placement.request(&input, job.id(), &Wish::Best, seed) } else { placement.assign(&input, job, expected_ms, seed) };
            let compared = decision.reasons.iter().filter_map(|reason| match reason {
                Reason::Compared(comparison) => Some(comparison),
                _ => None,
            });
            let better: Vec<_> = compared.filter(|comparison| comparison.better()).collect();
            let best = better.iter().map(|comparison| comparison.total).min_by(f64::total_cmp);
            let chosen = better.iter().find(|comparison| Some(&comparison.node) == decision.target());
            prop_assert_eq!(chosen.is_some(), best.is_some());
            if let Some((chosen, best)) = chosen.zip(best) {
                prop_assert!(chosen.total <= best * (1.0 + f64::from(config.near_best_percent) / 100.0));
            }
        }
    }

    #[test]
    fn a_charged_target_is_charged_and_then_forgotten(input in any_input(), seed: u64) {
        let mut placement = Placement::new(Config::default()).unwrap();
        let decisions = placement.decide(&input, seed);
        for (decision, job) in decisions.iter().zip(&input.jobs) {
            if let Some(target) = decision.target() {
                let lease = placement.leases().iter().find(|lease| lease.job == *job.id() && lease.target == *target).unwrap();
                prop_assert_eq!((lease.load, lease.working_set_bytes), (job.load(Config::default().young_ms), job.working_set_bytes));
            }
        }
        let Config { lease_ms, stale_ms, .. } = Config::default();
        if let Some(later_ms) = input.now_ms.checked_add(lease_ms.max(stale_ms)) {
            let idle = Input { now_ms: later_ms, jobs: Vec::new(), in_flight: Vec::new(), ..input };
            placement.decide(&idle, seed);
            prop_assert!(placement.leases().is_empty());
        }
    }

    /// Once a job has moved and both nodes show it, no rule moves it back: whatever the loads,
    /// sizes, speeds, and wherever home is.
    #[test]
    fn no_ping_pong(
        sizes in ((1_u32..65, 100_u32..5_000), (1_u32..65, 100_u32..5_000)),
        loads in (0_u32..8_000, 0_u32..8_000),
        weights in (0_u64..4_000_000_000, 0_u64..4_000_000_000),
        owned in prop::option::of((0_u32..1_001, 0_u32..1_001)),
        demand_milli in 250_u32..16_000,
        attained_ms in 0_u64..1_000_000,
        home in prop::sample::select(&["n1", "n2", "n3"][..]),
        io_bytes in 0_u64..100_000_000_000,
        links in prop::array::uniform5(1_000_000_u64..1_000_000_000),
    ) {
        // What n1 and n2 have measured of their links need not agree.
        let [n1_to_n2, n1_to_n3, n2_to_n1, n2_to_n3, estimated] = links;
        let ((cpus_1, speed_1), (cpus_2, speed_2)) = sizes;
        let share = |cpus: u32, speed: u32| (demand_milli * 1_000).div_ceil(cpus * speed);
        let guest = JobView { since_last_move_ms: Some(60_000), ..with(job("n1/1", home, "n1"), |job| { job.history.demand_milli = demand_milli; job.history.counters.cpu_ns = attained_ms * 1_000_000; job.history.counters.io_bytes = io_bytes }) };
        let home_link_bytes_per_s = match home {
            "n1" => None,
            "n2" => Some(n2_to_n1),
            _ => Some(estimated),
        };
        let guest = with(guest, |job| job.history.home_link_bytes_per_s = home_link_bytes_per_s);
        let weight = (guest.load(Config::default().young_ms).weight * 1e9) as u64;
        // Here the job is part of the load.
        // Owners' programs, this job not counted, are a part of what is there, in thousandths.
        let owners = |name: &str, part_milli: u32, view: NodeView, is_there: bool| {
            let of = |all: u64| all * u64::from(part_milli) / 1_000;
            let (load_milli, weight_nano) = if name == "n1" { (loads.0, weights.0) } else { (loads.1, weights.1) };
            let asked_milli = of(u64::from(load_milli) * u64::from(view.speed_milli) * u64::from(view.cpus) / 1_000) as u32;
            let (more_milli, more_nano) = if is_there && home == name { (demand_milli, weight) } else { (0, 0) };
            let owners = Owners { demand_milli: asked_milli + more_milli, weight_nano: of(weight_nano) + more_nano };
            NodeView { owners: owned.map(|_| owners), ..view }
        };
        let parts = owned.unwrap_or_default();
        let n1 = NodeView { cpus: cpus_1, speed_milli: speed_1, weight_nano: weights.0 + weight, ..node("n1", loads.0 + share(cpus_1, speed_1)) };
        let n1 = owners("n1", parts.0, n1, true);
        let n2 = NodeView { cpus: cpus_2, speed_milli: speed_2, link_bytes_per_s: n1_to_n2, weight_nano: weights.1, ..node("n2", loads.1) };
        let n2 = owners("n2", parts.1, n2, false);
        // It takes nothing but what is at home there.
        let n3 = NodeView { accepting: false, link_bytes_per_s: n1_to_n3, ..node("n3", 60_000) };
        let there = Input { here: "n1".into(), now_ms: 0, nodes: vec![n1.clone(), n2.clone(), n3.clone()], jobs: vec![guest.clone()], in_flight: vec![], draining: false };
        let first = Placement::new(Config::default()).unwrap().decide(&there, 0).remove(0);
        if first.target().is_none_or(|target| **target != *"n2") {
            return Ok(());
        }
        let n1 = owners("n1", parts.0, NodeView { link_bytes_per_s: n2_to_n1, load_milli: loads.0, weight_nano: weights.0, ..n1 }, false);
        let n2 = NodeView { load_milli: loads.1 + share(cpus_2, speed_2), weight_nano: weights.1 + weight, ..n2 };
        let n2 = owners("n2", parts.1, n2, true);
        let n3 = NodeView { link_bytes_per_s: n2_to_n3, ..n3 };
        let from_home = if home == "n1" { u64::MAX } else { n1_to_n3.max(estimated) };
        let moved = JobView { running_on: "n2".into(), ..with(guest, |job| job.history.home_link_bytes_per_s = Some(n1_to_n2.min(from_home))) };
        let back = Input { here: "n2".into(), now_ms: 100_000, nodes: vec![n1, n2, n3], jobs: vec![moved], in_flight: vec![], draining: false };
        let second = Placement::new(Config::default()).unwrap().decide(&back, 0).remove(0);
        prop_assert_ne!(second.target().map(|target| &**target), Some("n1"), "{:?} {:?}", first, second);
    }
}
