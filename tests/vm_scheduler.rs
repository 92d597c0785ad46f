//! The scheduler on a kernel that has sched_ext: stress, reverting, ejection, tiers, throttle,
//! statistics, attained service.
//!
//! Machines are emulated here as often as not, so nothing is judged by wall time: shares of CPU
//! time are compared with each other, and the kernel says itself whether a task ever stalled (it
//! would have ejected the scheduler).

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::process::Command;
use std::time::Duration;

use scx_mosix::scheduler::Tier;
use support::command::{Running, run};
use support::{Cluster, EXEC_LIMIT, Options, eventually, example};

const PROBE: &str = "scheduler_probe";
const STATE: &str = "/sys/kernel/sched_ext/state";
const LIMIT: Duration = Duration::from_secs(90);
/// CPU time after which a process's weight has reached the floor, a 512th: 4 s, and a little for
/// what it began before it was counted.
const OLD: Duration = Duration::from_millis(4500);

fn machine(name: &str) -> Cluster {
    let options =
        Options { cpus: Some(2), memory_mib: Some(1024), no_daemon: true, own_kernel: true, ..Options::default() };
    let cluster = Cluster::up(name, 1, &options);
    cluster.push_example(PROBE);
    cluster
}

/// The probe, with its scheduler in force.
fn attached(cluster: &Cluster) -> Running {
    attached_as(cluster, &[PROBE])
}

fn attached_as(cluster: &Cluster, program: &[&str]) -> Running {
    let mut probe = cluster.spawn("n1", "root", program);
    probe.wait_for("running\n", LIMIT);
    assert_eq!(cluster.sh("n1", &format!("cat {STATE}")), "enabled\n");
    probe
}

fn reverted(cluster: &Cluster) {
    eventually("the kernel's own scheduler is back", LIMIT, || {
        let state = cluster.sh("n1", &format!("cat {STATE}"));
        if state == "disabled\n" { Ok(()) } else { Err(state) }
    });
}

/// A CPU-bound process on CPU 0, in a cgroup of its own; its pid.
fn hog(cluster: &Cluster, cgroup: &str) -> u32 {
    let script = format!(
        "mkdir -p /sys/fs/cgroup/{cgroup}
         taskset 1 sh -c 'echo $$ > /sys/fs/cgroup/{cgroup}/cgroup.procs; while :; do :; done' < /dev/null > /dev/null 2>&1 &
         echo $!"
    );
    cluster.sh("n1", &script).trim().parse().unwrap()
}

/// CPU time of processes since they began, in clock ticks, all read at one moment.
fn ticks(cluster: &Cluster, pids: &[u32]) -> Vec<u64> {
    let files: Vec<String> = pids.iter().map(|pid| format!("/proc/{pid}/stat")).collect();
    let text = cluster.sh("n1", &format!("awk '{{ print $14 + $15 }}' {}", files.join(" ")));
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// CPU time that each gets from now until all together have got `total` ticks.
fn shares(cluster: &Cluster, pids: &[u32], total: u64) -> Vec<u64> {
    let before = ticks(cluster, pids);
    eventually("the processes get CPU time", LIMIT, || {
        let got: Vec<u64> = ticks(cluster, pids).iter().zip(&before).map(|(now, then)| now - then).collect();
        if got.iter().sum::<u64>() >= total { Ok(got) } else { Err(format!("{got:?}")) }
    })
}

#[test]
#[ignore = "boots virtual machines"]
fn stress_of_every_kind_neither_stalls_nor_ejects_it() {
    let cluster = machine("sched-stress");
    let probe = attached(&cluster);
    let stressors = [
        "--cpu 4",
        "--switch 4",
        "--fork 4",
        "--pipe 4",
        "--affinity 4",
        "--cpu 2 --switch 2 --fork 2 --pipe 2 --affinity 2",
    ];
    for stressor in stressors {
        let command = format!("stress-ng {stressor} --timeout 10");
        cluster.exec_within("n1", "root", &["sh", "-c", &command], Duration::from_secs(180)).success();
        assert_eq!(cluster.sh("n1", &format!("cat {STATE}")), "enabled\n", "after {stressor}");
    }
    assert_eq!(probe.stdout(), "running\n", "no ejection, no re-attachment");
    assert_eq!(cluster.sh("n1", "cat /sys/kernel/sched_ext/nr_rejected"), "0\n");
}

#[test]
#[ignore = "boots virtual machines"]
fn it_reverts_however_it_ends_and_comes_back_after_an_ejection() {
    let cluster = machine("sched-life");
    for signal in ["INT", "TERM"] {
        let mut foreground = cluster.spawn("n1", "root", &[PROBE, "foreground", "600"]);
        foreground.wait_for("running\n", LIMIT);
        cluster.sh("n1", &format!("pkill -{signal} -x {PROBE}"));
        foreground.wait_for("off: detached", LIMIT);
        assert_eq!(foreground.finish_within(LIMIT).code(), 0);
        reverted(&cluster);
    }

    let probe = attached(&cluster);
    cluster.sh("n1", &format!("pkill -KILL -x {PROBE}"));
    reverted(&cluster);
    drop(probe);

    let mut probe = attached(&cluster);
    cluster.sh("n1", "echo 1 > /proc/sys/kernel/sysrq; echo S > /proc/sysrq-trigger");
    let printed = probe.wait_for("ejected: ", LIMIT);
    assert!(printed.contains("sysrq") || printed.contains("SysRq"), "the kernel's reason is shown: {printed}");
    eventually("it is attached again", LIMIT, || {
        let printed = probe.stdout();
        if printed.matches("running\n").count() == 2 { Ok(()) } else { Err(printed) }
    });
    assert_eq!(cluster.sh("n1", &format!("cat {STATE}")), "enabled\n");

    let mut second = cluster.spawn("n1", "root", &[PROBE]);
    let printed = second.wait_for("ejected: ", LIMIT);
    assert!(printed.contains("mosix") && printed.contains("is in force"), "it says what is in its way: {printed}");
}

#[test]
#[ignore = "boots virtual machines"]
fn owners_come_first_guests_do_not_starve_and_a_throttle_holds() {
    let cluster = machine("sched-tiers");
    let mut probe = attached(&cluster);
    let (home, guest) = (hog(&cluster, "owners"), hog(&cluster, "guests"));
    let equal = shares(&cluster, &[home, guest], 400);
    assert!(equal[0] < 2 * equal[1] && equal[1] < 2 * equal[0], "without hints both get the same: {equal:?}");

    probe.send("tier /sys/fs/cgroup/guests guest\n");
    // What was started in a guest's cgroup, and what it forks, is a guest.
    let child = hog(&cluster, "guests/deeper");
    let tiered = shares(&cluster, &[home, guest, child], 1000);
    let guests = tiered[1] + tiered[2];
    assert!(tiered[0] > 7 * guests, "owners come first: {tiered:?}");
    assert!(guests * 50 > tiered[0], "guests have their guaranteed share (5 % of the owners' time): {tiered:?}");
    // A tick is 10 ms; what the guests had is booked as the guests', and nothing else can be. It is
    // booked when they leave the CPU.
    cluster.sh("n1", &format!("kill -STOP {home} {guest} {child}"));
    probe.send("stats\n");
    let printed = probe.wait_for("}\n", LIMIT);
    let stats = printed.lines().find_map(|line| line.strip_prefix("stats ")).unwrap();
    let stats: serde_json::Value = serde_json::from_str(stats).unwrap();
    let ms = |tier: Tier, what: &str| stats["tiers"][tier as usize][what].as_u64().unwrap() / 1_000_000;
    assert!(ms(Tier::Guest, "run_ns") >= guests * 9, "{guests} ticks of guests: {stats}");
    assert!(ms(Tier::Home, "run_ns") >= tiered[0] * 9, "{} ticks of owners: {stats}", tiered[0]);
    assert!(ms(Tier::Home, "wait_ns") > 0, "who shared a CPU has waited: {stats}");
    cluster.sh("n1", &format!("kill -CONT {home} {guest} {child}"));

    // A hint for one process wins over its cgroup's, and agents come before owners, but not alone.
    probe.send(&format!("tier {child} agent\n"));
    let agent = shares(&cluster, &[home, child], 600);
    assert!(agent[1] > agent[0] && agent[0] * 4 > agent[1], "agents first, owners at least a third: {agent:?}");

    // Alone on its CPU, a throttled process uses what it may and no more.
    cluster.sh("n1", &format!("kill -9 {home} {guest}; taskset -p 2 {child}"));
    let reference = hog(&cluster, "reference");
    probe.send(&format!("throttle {child} 250\n"));
    // Those on CPU 1 and CPU 0 would be even.
    let throttled = shares(&cluster, &[reference, child], 600);
    assert!(throttled[1] * 2 < throttled[0], "a quarter of a CPU: {throttled:?}");
    assert!(throttled[1] * 10 > throttled[0], "but not less than that: {throttled:?}");
    probe.send(&format!("throttle {child} 1000\n"));
    let free = shares(&cluster, &[reference, child], 600);
    assert!(free[1] * 3 > free[0] * 2, "at full speed again: {free:?}");
    assert_eq!(probe.stdout().matches("running").count(), 1, "all without an ejection");
}

/// Waits until a cgroup has used so much CPU time since now.
fn ages(cluster: &Cluster, cgroup: &str, by: Duration) {
    let used_us = || -> u128 {
        let script = format!("awk '/^usage_usec/ {{ print $2 }}' /sys/fs/cgroup/{cgroup}/cpu.stat");
        cluster.sh("n1", &script).trim().parse().unwrap()
    };
    let began = used_us();
    eventually("the old one ages", LIMIT, || {
        let got = used_us() - began;
        if got >= by.as_micros() { Ok(()) } else { Err(format!("{got} us")) }
    });
}

/// Runs a shell script in which `burn MS` is a new process on CPU 0, in the cgroup jobs/new, with
/// so much CPU time to use; the CPU time in µs that `rival` got while there was such a process.
fn beside_the_young(cluster: &Cluster, rival: &str, script: &str) -> u64 {
    let script = format!(
        "burn() {{ sh -c 'echo $$ > /sys/fs/cgroup/jobs/new/cgroup.procs
                          exec taskset 1 {PROBE} burn '$1' /sys/fs/cgroup/{rival}'; }}
         mkdir -p /sys/fs/cgroup/jobs/new
         {script}"
    );
    let printed = cluster.sh("n1", &script);
    // Of each process what the rival had had when it began and when it ended.
    let number = |word: &str| word.parse::<u64>().unwrap();
    let mut lives: Vec<(u64, u64)> =
        printed.lines().map(|line| line.split_once(' ').unwrap()).map(|(a, b)| (number(a), number(b))).collect();
    lives.sort_unstable();
    // While one starts and none computes, which takes long on a busy host, the CPU is the rival's.
    let mut seen = 0;
    let beside = |(began, ended): (u64, u64)| {
        let more = ended.saturating_sub(began.max(seen));
        seen = seen.max(ended);
        more
    };
    lives.into_iter().map(beside).sum()
}

#[test]
#[ignore = "boots virtual machines"]
fn the_young_come_first_and_the_old_have_their_share() {
    let cluster = machine("sched-age");
    cluster.sh("n1", "mkdir -p /sys/fs/cgroup/jobs/chain");
    let mut probe = attached(&cluster);
    probe.send("job /sys/fs/cgroup/jobs\n");
    let old = hog(&cluster, "jobs/old");
    ages(&cluster, "jobs/old", OLD);

    let got_us = beside_the_young(&cluster, "jobs/old", "burn 500");
    println!("beside one new process of 500000 us the old one got {got_us} us");
    assert!(got_us * 10 < 500_000, "the new one has the CPU nearly for itself: {got_us} us");

    // Ten new ones, always two at a time: the second half-way through the first. 8.4 s of CPU time,
    // of which a weight of a 512th beside two of one is due a 1025th.
    let two_rows = "(burn 400; for n in 1 2 3 4 5; do burn 800; done) & for n in 1 2 3 4 5; do burn 800; done; wait";
    let got_us = beside_the_young(&cluster, "jobs/old", two_rows);
    println!("beside ten new processes of 8400000 us together the old one got {got_us} us");
    // It comes in turns of 4 ms or so, one in 5 s.
    assert!(got_us * 1025 * 4 > 8_400_000, "the old one has its guaranteed share: {got_us} us");
    assert!(got_us * 10 < 8_400_000, "but not much more: {got_us} us");

    // A program that continues in one child after the other, each of which lives for less than the
    // first level.
    cluster.sh("n1", &format!("kill -STOP {old}"));
    let chain = "relay() { n=0; while [ $n -lt 5000 ]; do n=$((n + 1)); done; relay & }; relay";
    let enter = "exec < /dev/null > /dev/null 2>&1; echo $$ > /sys/fs/cgroup/jobs/chain/cgroup.procs";
    cluster.sh("n1", &format!("{enter}; taskset 1 sh -c '{chain}'"));
    ages(&cluster, "jobs/chain", Duration::from_secs(2));
    let got_us = beside_the_young(&cluster, "jobs/chain", "burn 500");
    println!("beside one new process of 500000 us a chain of forks got {got_us} us");
    assert!(got_us * 3 < 500_000, "forking does not keep a program at the first level: {got_us} us");
    cluster.sh("n1", "echo 1 > /sys/fs/cgroup/jobs/chain/cgroup.kill");

    // What is of no job keeps its weight. Single readings of what is alike differ by a factor of
    // two at times.
    let alike_us = 100_000..2_500_000;
    let plain = hog(&cluster, "plain");
    ages(&cluster, "plain", OLD);
    let got_us = beside_the_young(&cluster, "plain", "burn 500");
    println!("beside one new process of 500000 us an old one of no job got {got_us} us");
    assert!(alike_us.contains(&got_us), "{got_us} us");

    // Nor does the old one make room for it: only for the new among its like.
    cluster.sh("n1", &format!("kill -CONT {old}"));
    let alike = shares(&cluster, &[plain, old], 1000);
    println!("an old one of no job and one of a job: {alike:?}");
    assert!(alike[1] * 3 > alike[0] && alike[0] * 3 > alike[1], "{alike:?}");
    let got_us = beside_the_young(&cluster, "jobs/old", "burn 500");
    println!("beside one new process of 500000 us and one of no job the old one got {got_us} us");
    assert!(got_us * 10 < 500_000, "the new one comes first all the same: {got_us} us");
    assert_eq!(probe.stdout(), "running\n", "all without an ejection");

    cluster.sh("n1", &format!("kill -9 {plain}"));
    drop(probe);

    // The setting: no task makes room for those with little attained service, or all do. What each
    // has had is counted from the attachment on.
    reverted(&cluster);
    let mut probe = attached_as(&cluster, &[PROBE, "off"]);
    probe.send("job /sys/fs/cgroup/jobs\n");
    ages(&cluster, "jobs/old", OLD);
    let got_us = beside_the_young(&cluster, "jobs/old", "burn 500");
    println!("off: beside one new process of 500000 us the old one got {got_us} us");
    assert!(alike_us.contains(&got_us), "{got_us} us");
    cluster.sh("n1", &format!("kill -9 {old}"));
    drop(probe);

    reverted(&cluster);
    let _probe = attached_as(&cluster, &[PROBE, "all"]);
    // One that has its CPU time by several threads, none of which is old by itself nor the first.
    let threads = "exec < /dev/null > /dev/null 2>&1; echo $$ > /sys/fs/cgroup/plain/cgroup.procs
        taskset 1 sh -c 'exec zstd -19 -T3 -c < /dev/urandom' &";
    cluster.sh("n1", threads);
    ages(&cluster, "plain", OLD);
    let got_us = beside_the_young(&cluster, "plain", "burn 500");
    println!("all: beside one new process of 500000 us an old one of no job got {got_us} us");
    assert!(got_us * 10 < 500_000, "{got_us} us");
}

#[test]
#[ignore = "boots virtual machines"]
fn it_is_attached_under_virtme_ng_too() {
    let xtask = std::env::var_os("SCX_MOSIX_XTASK").unwrap();
    let mut vng = Command::new(xtask);
    vng.args(["vm", "vng", "--"]).arg(example(PROBE)).args(["foreground", "20"]);
    let printed = run(vng, EXEC_LIMIT * 4).success();
    assert!(printed.contains("running") && printed.contains("off: detached"), "{printed}");
}
