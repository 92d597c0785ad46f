//! Memory runs out on a node: programs are ushered out in time. Without scx_mosix the same ends
//! with the kernel's OOM killer.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::{process::Command, time::Duration};

use support::{
    Cluster, Options,
    command::{Running, run},
    eventually, example,
};

/// How long the hog may take to have its memory, or be killed, and a node without memory to answer,
/// under software emulation.
const HOG_LIMIT: Duration = Duration::from_secs(900);
/// Programs, and what each has, in MiB.
const PROGRAMS: usize = 3;
const PROGRAM_MIB: u64 = 48;
/// What the hog takes beyond all that is free, in MiB: half of what the programs have.
const HOG_BEYOND_MIB: u64 = PROGRAM_MIB * PROGRAMS as u64 / 2;
/// Free memory, in MiB, from where on the hog takes its time.
const SLOW_BELOW_MIB: u64 = 80;
/// How long it then waits after each MiB, in times of what it takes to add up 300,000 numbers: a
/// move takes a machine longer by the same factor, be it emulated, be its host busy.
const SLOW_WAIT: u64 = 7;
/// Share of the time in which everything may stand still for lack of memory.
const STALL_SHARE: f64 = 0.1;

/// What the kernel counts on a node.
#[derive(Debug)]
struct Counters {
    killed: u64,
    stalled_us: u64,
    uptime_us: u64,
}

fn counters(cluster: &Cluster, node: &str) -> Counters {
    let script = "awk '$1 == \"oom_kill\" {print $2}' /proc/vmstat; \
                  awk '$1 == \"full\" {sub(\"total=\", \"\", $5); print $5}' /proc/pressure/memory; \
                  awk '{printf \"%d\\n\", $1 * 1e6}' /proc/uptime";
    // A node without memory answers when a program has been killed.
    let text = cluster.exec_within(node, "root", &["sh", "-ec", script], HOG_LIMIT).success();
    let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    Counters { killed: numbers[0], stalled_us: numbers[1], uptime_us: numbers[2] }
}

fn free_mib(cluster: &Cluster) -> u64 {
    cluster.sh("n1", "awk '$1 == \"MemAvailable:\" {print int($2 / 1024)}' /proc/meminfo").trim().parse().unwrap()
}

/// Programs at n1 that write to /home/user/outN, begun by `prefix`.
fn start_programs(cluster: &Cluster, prefix: &str) -> Vec<Running> {
    let start = |number: usize| {
        let line = format!(
            "{prefix} workload memory --megabytes {PROGRAM_MIB} --steps 1000 --work-ms 1 --pause-ms 10000 >/home/user/out{number}; \
             echo STATUS $?."
        );
        cluster.spawn("n1", "user", &["sh", "-c", &line])
    };
    let programs: Vec<Running> = (0..PROGRAMS).map(start).collect();
    eventually("all programs have begun", Duration::from_secs(120), || {
        let ready = cluster.sh("n1", "cat /home/user/out* | grep -c '^step 1 ' || true");
        if ready.trim() == PROGRAMS.to_string() { Ok(()) } else { Err(format!("{} have", ready.trim())) }
    });
    programs
}

/// Takes memory at n1, where so much is `free`, until half of what the programs have is missing,
/// the last of it slowly if there is to be time to do something about it. It says `full.` when it
/// has all.
fn hog(cluster: &Cluster, free: u64, is_slow: bool) -> Running {
    let all = free + HOG_BEYOND_MIB;
    let quick = if is_slow { free.saturating_sub(SLOW_BELOW_MIB) } else { all };
    let script = format!(
        "import time\n\
         def work():\n    began = time.monotonic()\n    sum(range(300000))\n    return time.monotonic() - began\n\
         blocks = []\nfor taken in range({all}):\n    blocks.append(b'x' * (1 << 20))\n    \
         if taken > {quick}: time.sleep({SLOW_WAIT} * work())\nprint('full.', flush=True)\ntime.sleep(1000)"
    );
    cluster.spawn("n1", "root", &["python3", "-c", &script])
}

/// Without scx_mosix: a program is killed.
fn out_of_memory_kills_a_program(cluster: &Cluster) {
    let programs = start_programs(cluster, "");
    let before = counters(cluster, "n1");
    let hog = hog(cluster, free_mib(cluster), false);
    eventually("the kernel kills for want of memory", HOG_LIMIT, || {
        let now = counters(cluster, "n1");
        if now.killed > before.killed { Ok(()) } else { Err(format!("{now:?}")) }
    });
    cluster.sh("n1", "pkill -x python3 || true; pkill -x workload || true");
    for program in programs.into_iter().chain([hog]) {
        program.finish_within(Duration::from_secs(60));
    }
}

/// The first `steps` lines of what an unmoved program says.
fn unmoved(steps: usize) -> String {
    let mut unmoved = Command::new(example("workload"));
    unmoved.args(["memory", "--megabytes", &PROGRAM_MIB.to_string(), "--work-ms", "0", "--steps", &steps.to_string()]);
    let said = run(unmoved, Duration::from_secs(120)).success();
    said.split_inclusive('\n').take(steps).collect()
}

#[test]
#[ignore = "boots virtual machines"]
fn programs_are_ushered_out_before_memory_is_exhausted() {
    let options = Options { cpus: Some(1), memory_mib: Some(640), own_kernel: true, ..Options::default() };
    let cluster = Cluster::up("memory", 3, &options);
    cluster.push_example("workload");
    cluster.stop_daemon("n1");
    out_of_memory_kills_a_program(&cluster);

    // Whatever the load, nothing leaves for its sake: a slow machine may be busy with the programs'
    // start, and with the hog. The others keep what comes to them.
    for node in ["n2", "n3"] {
        cluster.stop_daemon(node);
        cluster.sh(node, "start-daemon --no-balance");
    }
    let config = "/root/memory-only.toml";
    cluster.sh(
        "n1",
        &format!("printf '[placement]\nhome_threshold_milli = 1000000\n' >{config}; start-daemon --config {config}"),
    );
    eventually("all nodes take guests", Duration::from_secs(120), || {
        // The daemon is not there at first.
        let said = cluster.scx_mosix("n1", &["nodes", "--output", "json"]);
        let listed: serde_json::Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        let ready = |row: &&serde_json::Value| row["state"] == "alive" && row["refuses_because"].is_null();
        if listed.as_array().into_iter().flatten().filter(ready).count() == 3 {
            Ok(())
        } else {
            Err(listed.to_string())
        }
    });
    cluster.sh("n1", "rm /home/user/out*");
    // Until it is known what is free with all of them here: while they start, memory becomes less
    // as if it would soon be exhausted.
    let programs = start_programs(&cluster, "scx_mosix run --stay --");
    let before = counters(&cluster, "n1");
    let free = free_mib(&cluster);
    let listed = cluster.json("n1", &["ps"]);
    for row in listed.as_array().unwrap() {
        cluster.scx_mosix("n1", &["unlock", &row["pid"].to_string()]).success();
    }
    let mut hog = hog(&cluster, free, true);
    hog.wait_for("full.", HOG_LIMIT);
    let after = counters(&cluster, "n1");
    eprintln!("before {before:?}, after {after:?}");
    assert_eq!(after.killed, before.killed, "the OOM killer ran");
    let stalled = (after.stalled_us - before.stalled_us) as f64 / (after.uptime_us - before.uptime_us) as f64;
    assert!(stalled < STALL_SHARE, "everything stood still for {stalled:.3} of the time");

    let moves = cluster.json("n1", &["migrations"]);
    let for_memory = |row: &&serde_json::Value| row["trigger"] == "memory" && row["state"] == "run";
    let count = moves.as_array().into_iter().flatten().filter(for_memory).count();
    assert!(count >= 2, "half of their memory was needed: {moves}");

    let lines = |number: usize| cluster.sh("n1", &format!("grep -c . /home/user/out{number}")).trim().parse().unwrap();
    let steps: Vec<usize> = (0..PROGRAMS).map(lines).collect();
    cluster.sh("n1", "pkill -x workload && pkill -x python3");
    let expected = unmoved(*steps.iter().max().unwrap());
    for (number, (program, steps)) in programs.into_iter().zip(steps).enumerate() {
        let said = program.finish_within(Duration::from_secs(60)).success();
        assert!(said.contains("STATUS 143."), "{said}");
        let out = cluster.sh("n1", &format!("head -n {steps} /home/user/out{number}"));
        assert!(
            out == expected.split_inclusive('\n').take(steps).collect::<String>(),
            "program {number}: its output differs"
        );
    }
    hog.finish_within(Duration::from_secs(60));
}
