//! What fails while a program moves, and after: targets' daemons, agents and machines, the network; and daemons that are killed while
//! programs are away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by a panic")]

mod support;

use std::{process::Command, thread, time::Duration};

use support::{
    Cluster, Options,
    command::{Running, run},
    eventually, example,
};

/// How long a move may take to come to the state in which it is held, four at a time under software emulation.
const COURSE_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take until a move is given up: the nodes' time-outs, with an emulated machine's slowness.
const SETTLE_LIMIT: Duration = Duration::from_secs(100);

/// The states before `Commit`, in which a move is held and harmed. `restore` is held at the target.
const STATES: [&str; 7] = ["reserve", "prepare", "precopy", "freeze", "dump", "stream", "restore"];

/// What befalls a move's target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Harm {
    /// `kill -9` of its daemon.
    Daemon,
    /// `kill -9` of the agent that takes the guest in.
    Agent,
    /// Power off.
    Machine,
    /// No packet passes any more.
    Network,
}

/// A program at n1 that moves to a node of its own, and what befalls that node.
struct Job {
    number: usize,
    pid: String,
    harm: Harm,
    parent: Running,
}

impl Job {
    /// Starts it; its parent shell prints `PID n.` and at the end `STATUS n.`
    fn start(cluster: &Cluster, number: usize, harm: Harm) -> Self {
        let line = format!(
            "cd /home/user; exec 5> >(exec cat >out{number}); \
             scx_mosix run --stay -- workload threads --threads 2 --steps 100000 --work-ms 1 --pause-ms 50 >&5 5>&- & \
             P=$!; exec 5>&-; echo \"PID $P.\"; wait $P; echo \"STATUS $?.\"; sleep 1"
        );
        let mut parent = cluster.spawn("n1", "user", &["bash", "-c", &line]);
        let said = parent.wait_for(".", Duration::from_secs(60));
        let pid = said.trim().trim_start_matches("PID ").trim_end_matches('.').to_owned();
        let job = Self { number, pid, harm, parent };
        eventually("the program has begun", Duration::from_secs(60), || match job.step(cluster) {
            0 => Err("no output yet".into()),
            _ => Ok(()),
        });
        job
    }

    /// The node that it moves to.
    fn target(&self) -> &'static str {
        match self.harm {
            Harm::Daemon => "n2",
            Harm::Agent => "n3",
            Harm::Network => "n4",
            Harm::Machine => "n5",
        }
    }

    /// The number of its last complete step.
    fn step(&self, cluster: &Cluster) -> u64 {
        steps(cluster, &[self])[0]
    }

    /// The state of its last move, of `moves` as `migrations` lists them, and why it is in it.
    fn last_move(&self, moves: &serde_json::Value) -> (String, String) {
        let process = format!("n1/{}", self.pid);
        let last = moves.as_array().into_iter().flatten().find(|row| row["process"] == process);
        let text = |key: &str| last.map(|row| row[key].as_str().unwrap_or_default().to_owned()).unwrap_or_default();
        (text("state"), text("reason"))
    }
}

/// The number of each job's last complete step; 0 before the first.
fn steps(cluster: &Cluster, jobs: &[&Job]) -> Vec<u64> {
    let files: Vec<String> = jobs.iter().map(|job| format!("/home/user/out{}", job.number)).collect();
    let last = cluster
        .sh("n1", &format!("for out in {}; do tail -n 2 $out | head -n 1 | grep . || echo; done", files.join(" ")));
    last.lines().map(|line| line.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)).collect()
}

fn hold(cluster: &Cluster, node: &str, state: &str) {
    cluster.sh(node, &format!("mkdir -p /run/scx_mosix/hold; touch /run/scx_mosix/hold/{state}"));
}

fn release(cluster: &Cluster, node: &str, state: &str) {
    cluster.sh(node, &format!("rm -f /run/scx_mosix/hold/{state}"));
}

fn harm(cluster: &Cluster, harm: Harm, node: &str) {
    match harm {
        Harm::Daemon => drop(cluster.sh(node, "kill -9 $(cat /run/scx_mosix.pid)")),
        Harm::Agent => drop(cluster.sh(node, "pkill -9 -f '[a]gent-guest'")),
        Harm::Machine => cluster.kill(node),
        Harm::Network => cluster.net_cut("n1", node),
    }
}

fn mend(cluster: &Cluster, harm: Harm, node: &str) {
    match harm {
        Harm::Daemon => drop(cluster.sh(node, "start-daemon")),
        Harm::Agent => {}
        Harm::Machine => cluster.start(node),
        Harm::Network => cluster.net_heal("n1", node),
    }
}

/// Waits until n1 takes all these nodes for alive, and able to take guests.
fn all_alive(cluster: &Cluster, nodes: &[&str]) {
    eventually("the nodes are back", COURSE_LIMIT, || {
        let listed = cluster.json("n1", &["nodes"]);
        let is_alive = |node: &&&str| {
            let row = listed.as_array().into_iter().flatten().find(|row| row["node"] == **node);
            row.is_some_and(|row| row["state"] == "alive")
        };
        let missing: Vec<_> = nodes.iter().filter(|node| !is_alive(node)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} are not")) }
    });
}

/// One state: all jobs move, are held in it, are harmed, and go on at n1.
fn walk(cluster: &Cluster, jobs: &[Job], state: &str) {
    // There is no agent yet before the target has been asked.
    let jobs: Vec<&Job> = jobs.iter().filter(|job| job.harm != Harm::Agent || state != "reserve").collect();
    let targets: Vec<&str> = jobs.iter().map(|job| job.target()).collect();
    all_alive(cluster, &targets);
    let at_target = state == "restore";
    let holders = if at_target { targets.clone() } else { vec!["n1"] };
    for node in &holders {
        hold(cluster, node, state);
    }
    for job in &jobs {
        cluster.scx_mosix("n1", &["migrate", &job.pid, job.target()]).success();
    }
    eventually("all moves are held", COURSE_LIMIT, || {
        let moves = cluster.json("n1", &["migrations"]);
        let states: Vec<_> = jobs.iter().map(|job| job.last_move(&moves)).collect();
        if states.iter().all(|(now, _)| now == state) { Ok(()) } else { Err(format!("{states:?}")) }
    });
    // To the end of the state in which they are held.
    for node in &holders {
        let gate = format!("scx_mosix/hold/{state}");
        let wanted = if at_target { 1 } else { jobs.len() };
        eventually("all moves have come to the gate", COURSE_LIMIT, || {
            let logs = "cat /var/log/scx_mosix.log /run/scx_mosix/log/* 2>/dev/null";
            let count = cluster.sh(node, &format!("{logs} | grep -c 'held on purpose.*{gate}' || true"));
            let count: usize = count.trim().parse().unwrap_or(0);
            if count >= wanted { Ok(()) } else { Err(format!("{count} of {wanted} at {node}")) }
        });
    }
    for job in &jobs {
        harm(cluster, job.harm, job.target());
    }
    for node in &holders {
        let is_off = jobs.iter().any(|job| job.harm == Harm::Machine && job.target() == *node);
        if !is_off {
            release(cluster, node, state);
        }
    }
    let ends = eventually(&format!("all moves harmed at {state} have ended"), SETTLE_LIMIT, || {
        let moves = cluster.json("n1", &["migrations"]);
        let ends: Vec<_> = jobs.iter().map(|job| job.last_move(&moves)).collect();
        let over = ends.iter().all(|(now, _)| ["aborted", "run", "failed"].contains(&now.as_str()));
        if over { Ok(ends) } else { Err(format!("{ends:?}")) }
    });
    let before = steps(cluster, &jobs);
    eventually("all programs go on", SETTLE_LIMIT, || {
        let now = steps(cluster, &jobs);
        if now.iter().zip(&before).all(|(now, before)| *now > before + 3) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let pids: Vec<&str> = jobs.iter().map(|job| &*job.pid).collect();
    let why = cluster.sh("n1", &format!("for pid in {}; do scx_mosix why $pid; echo ===; done", pids.join(" ")));
    for ((job, (end, reason)), why) in jobs.iter().zip(ends).zip(why.split("===")) {
        let (harm, target) = (job.harm, job.target());
        eprintln!("{state}: {harm:?} of {target}: {end}: {reason}");
        assert_eq!(end, "aborted", "{harm:?} at {state}: {reason}");
        assert!(!reason.is_empty() && why.contains(&reason), "{harm:?} at {state}: no reason in `why`:\n{why}");
    }
    thread::scope(|scope| {
        for job in &jobs {
            scope.spawn(|| mend(cluster, job.harm, job.target()));
        }
    });
}

/// Ends a job by SIGTERM to its pid at home, and compares its output with an unmoved run's.
fn compare(cluster: &Cluster, job: Job) {
    let steps = job.step(cluster);
    cluster.sh("n1", &format!("kill -TERM {}", job.pid));
    let said = job.parent.finish_within(Duration::from_secs(60)).success();
    assert!(said.contains("STATUS 143."), "{said}");
    let out = cluster.sh("n1", &format!("head -n {steps} /home/user/out{}", job.number));
    let mut unmoved = Command::new(example("workload"));
    unmoved.args(["threads", "--threads", "2", "--work-ms", "0", "--steps", &steps.to_string()]);
    assert!(out == run(unmoved, Duration::from_secs(60)).success(), "job {}: its output differs", job.number);
}

/// Daemons are killed at both ends while a program is away; it goes on, and the next daemons find it.
fn daemons_come_and_go(cluster: &Cluster, job: &Job) {
    all_alive(cluster, &["n2"]);
    cluster.scx_mosix("n1", &["migrate", &job.pid, "n2", "--wait"]).success();
    cluster.sh("n1", "kill -9 $(cat /run/scx_mosix.pid)");
    cluster.sh("n2", "kill -9 $(cat /run/scx_mosix.pid)");
    for node in ["n1", "n2"] {
        eventually("the kernel's own scheduler is back", Duration::from_secs(30), || {
            let state = cluster.sh(node, "cat /sys/kernel/sched_ext/state");
            if state.trim() == "disabled" { Ok(()) } else { Err(state) }
        });
    }
    let before = job.step(cluster);
    eventually("the program goes on without daemons", Duration::from_secs(60), || {
        let now = job.step(cluster);
        if now > before + 20 { Ok(()) } else { Err(format!("step {now}")) }
    });
    for node in ["n1", "n2"] {
        cluster.sh(node, "start-daemon");
    }
    eventually("the daemons find the program again", COURSE_LIMIT, || {
        let rows = cluster.scx_mosix("n1", &["ps", "--output", "json"]);
        let rows: serde_json::Value = serde_json::from_str(&rows.stdout).unwrap_or_default();
        let row = rows.as_array().into_iter().flatten().find(|row| row["pid"] == job.pid.parse::<i64>().unwrap());
        if row.is_some_and(|row| row["runs_on"] == "n2") { Ok(()) } else { Err(rows.to_string()) }
    });
    eventually("it can be moved again", COURSE_LIMIT, || {
        let asked = cluster.scx_mosix("n1", &["migrate", &job.pid, "n1", "--wait"]);
        if asked.code() == 0 { Ok(()) } else { Err(format!("{asked}")) }
    });
}

/// After commit the target's copy is the only one: with its machine the program is lost, and its parent hears of it.
fn a_lost_host_is_told(cluster: &Cluster, job: Job) {
    all_alive(cluster, &["n3"]);
    cluster.scx_mosix("n1", &["migrate", &job.pid, "n3", "--wait"]).success();
    cluster.kill("n3");
    let said = job.parent.finish_within(SETTLE_LIMIT).success();
    assert!(said.contains("STATUS 121."), "{said}");
}

#[test]
#[ignore = "boots virtual machines"]
fn whatever_fails_there_is_one_copy_and_a_reason() {
    let options = Options { cpus: Some(1), memory_mib: Some(512), ..Options::default() };
    let cluster = Cluster::up("failures", 5, &options);
    cluster.push_example("workload");
    let harms = [Harm::Daemon, Harm::Agent, Harm::Network, Harm::Machine];
    let mut jobs: Vec<Job> =
        harms.into_iter().enumerate().map(|(number, harm)| Job::start(&cluster, number, harm)).collect();
    for state in STATES {
        walk(&cluster, &jobs, state);
    }
    daemons_come_and_go(&cluster, &jobs[0]);
    a_lost_host_is_told(&cluster, jobs.swap_remove(1));
    for job in jobs {
        compare(&cluster, job);
    }
}
