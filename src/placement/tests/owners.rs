//! Owners' programs and guests at one node.

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
    assert_eq!(idle.action, Action::Stay, "nobody wants the CPU: {idle:?}");
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
    let late = |id: &str| JobView { age_ms: 61_000, ..guest(id, "n3") };
    assert!(there(&mut placement, late("n3/1")).starts_with("n2: 20.00 for itself"), "n2/1 comes home");
}
