use std::path::Path;

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn sampler() -> Sampler {
    Sampler::new(CgroupNames::new(Path::new("/nonexistent")), 100)
}

#[test]
fn totals_become_decayed_rates() {
    let mut sampler = sampler();
    let first = sampler.update(vec![sample_of(7, 0, 0)], 2 * SECOND).pop().unwrap();
    assert_eq!((first.cpu_share_milli, first.age_ms, first.start_time_ticks), (0, 1000, 100));
    let mut busy = sample_of(7, 800, 400);
    (busy.min_flt, busy.maj_flt) = (50, 5);
    let second = sampler.update(vec![busy], 3 * SECOND).pop().unwrap();
    assert_eq!((second.cpu_now_milli, second.cpu_share_milli, second.wait_now_milli), (800, 300, 400));
    assert_eq!((second.min_flt_per_s, second.maj_flt_per_s), (50, 5));
    assert_eq!((second.cpu_ms_total, second.wait_ms_total), (800, 400));
}

#[test]
fn a_process_that_came_since_the_last_sample_is_judged_by_its_own_life() {
    let mut sampler = sampler();
    sampler.update(vec![], 2 * SECOND);
    let mut young = sample_of(7, 200, 0);
    young.start_ns = 2 * SECOND + SECOND / 2;
    let task = sampler.update(vec![young], 3 * SECOND).pop().unwrap();
    assert_eq!((task.cpu_now_milli, task.age_ms), (400, 500));
}

#[test]
fn threads_add_up_and_a_thread_that_ends_takes_no_waiting_time_away() {
    let mut sampler = sampler();
    let mut leader = sample_of(7, 100, 10);
    (leader.state, leader.nr_threads) = ('S', 2);
    let mut thread = sample_of(8, 50, 500);
    thread.tgid = 7;
    let both = sampler.update(vec![thread, leader.clone()], 2 * SECOND).pop().unwrap();
    assert_eq!((both.pid, both.threads, both.state), (7, 2, 'R'));
    assert_eq!((both.cpu_ms_total, both.wait_ms_total), (150, 510));
    // The leader's own counters take over the ended thread's CPU time, but not its waiting.
    (leader.run_ns, leader.nr_threads, leader.wait_ns) = (160_000_000, 1, 20_000_000);
    let one = sampler.update(vec![leader.clone()], 3 * SECOND).pop().unwrap();
    assert_eq!((one.cpu_ms_total, one.wait_ms_total, one.state), (160, 510, 'S'));
    leader.wait_ns = 30_000_000;
    assert_eq!(sampler.update(vec![leader], 4 * SECOND).pop().unwrap().wait_ms_total, 520);
}

#[test]
fn kernel_threads_and_zombies_are_left_out_but_not_a_process_whose_leader_ended() {
    let mut kernel = sample_of(2, 1, 0);
    kernel.is_kernel = true;
    let mut zombie = sample_of(3, 1, 0);
    zombie.state = 'Z';
    let mut leader = sample_of(4, 1, 0);
    leader.state = 'Z';
    let mut thread = sample_of(5, 1, 0);
    thread.tgid = 4;
    let tasks = sampler().update(vec![kernel, zombie, leader, thread], SECOND);
    assert_eq!(tasks.iter().map(|task| task.pid).collect::<Vec<_>>(), [4]);
}

#[test]
fn a_reused_pid_starts_anew() {
    let mut sampler = sampler();
    sampler.update(vec![sample_of(7, 5000, 0)], 9 * SECOND);
    let mut next = sample_of(7, 100, 0);
    next.start_ns = 9 * SECOND + SECOND / 2;
    let task = sampler.update(vec![next], 10 * SECOND).pop().unwrap();
    assert_eq!((task.cpu_ms_total, task.cpu_now_milli), (100, 200));
    assert_eq!(sampler.past.len(), 1);
}

proptest! {
    #[test]
    fn any_counters_are_survived(
        runs in prop::collection::vec((0u32..6, 0u32..6, any::<u64>(), any::<u64>(), any::<u64>()), 0..40),
        now in any::<u64>(),
    ) {
        let mut sampler = sampler();
        for (step, chunk) in runs.chunks(8).enumerate() {
            let samples = chunk.iter().map(|(pid, tgid, run, wait, start)| {
                let mut sample = sample_of(*pid, 0, 0);
                (sample.tgid, sample.run_ns, sample.wait_ns, sample.start_ns) = (*tgid, *run, *wait, *start);
                sample
            });
            let tasks = sampler.update(samples.collect(), now.wrapping_add(step as u64));
            prop_assert!(tasks.len() <= 6);
        }
    }
}
