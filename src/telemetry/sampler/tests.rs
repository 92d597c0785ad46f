use std::path::Path;

use proptest::prelude::*;

use super::super::CgroupRef;
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
    busy.usage.counters.major_faults = 5;
    let second = sampler.update(vec![busy], 3 * SECOND).pop().unwrap();
    assert_eq!((second.cpu_now_milli, second.cpu_share_milli, second.wait_now_milli), (800, 300, 400));
    assert_eq!((second.major_faults_per_s, second.usage.counters.cpu_ms()), (5, 800));
}

#[test]
fn a_new_process_is_measured_over_its_own_lifetime() {
    let mut sampler = sampler();
    sampler.update(vec![], 2 * SECOND);
    let mut recent = sample_of(7, 200, 0);
    recent.start_ns = 2 * SECOND + SECOND / 2;
    let task = sampler.update(vec![recent], 3 * SECOND).pop().unwrap();
    assert_eq!((task.cpu_now_milli, task.age_ms), (400, 500));
}

#[test]
fn an_ended_thread_keeps_its_waiting_time_in_the_sum() {
    let mut sampler = sampler();
    let mut leader = sample_of(7, 100, 10);
    (leader.state, leader.usage.threads) = ('S', 2);
    let mut thread = sample_of(8, 50, 500);
    (thread.tgid, thread.usage.threads) = (7, 0);
    let both = sampler.update(vec![thread, leader.clone()], 2 * SECOND).pop().unwrap();
    assert_eq!((both.pid, both.usage.threads, both.state), (7, 2, 'R'));
    assert_eq!((both.usage.counters.cpu_ms(), both.wait_now_milli), (150, 510));
    // The leader's own counters take over the ended thread's CPU time, but not its waiting.
    leader.usage.threads = 1;
    leader.usage.counters = Counters { cpu_ns: 160_000_000, wait_ns: 20_000_000, ..leader.usage.counters };
    let one = sampler.update(vec![leader.clone()], 3 * SECOND).pop().unwrap();
    assert_eq!((one.usage.counters.cpu_ms(), one.wait_now_milli, one.state), (160, 0, 'S'));
    leader.usage.counters.wait_ns = 30_000_000;
    assert_eq!(sampler.update(vec![leader], 4 * SECOND).pop().unwrap().wait_now_milli, 10);
}

#[test]
fn kernel_threads_and_zombies_are_left_out() {
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
    assert_eq!((task.usage.counters.cpu_ms(), task.cpu_now_milli), (100, 200));
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
                (sample.tgid, sample.start_ns) = (*tgid, *start);
                sample.usage.counters = Counters { cpu_ns: *run, wait_ns: *wait, ..Counters::default() };
                sample
            });
            let tasks = sampler.update(samples.collect(), now.wrapping_add(step as u64));
            prop_assert!(tasks.len() <= 6);
        }
    }
}

#[test]
fn processes_outside_a_containers_cgroup_are_left_out() {
    let at = |pid, path: &str| TaskSample { cgroup: CgroupRef::Path(path.to_owned()), ..sample_of(pid, 0, 0) };
    let samples = vec![at(1, "/"), at(2, "/user.slice"), at(3, "/../n2/user.slice"), at(4, "/.."), at(5, "/..odd")];
    let mut seen: Vec<u32> = sampler().update(samples, 2 * SECOND).iter().map(|task| task.pid).collect();
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 5]);
}
