//! What fails while a program moves, and after: targets' daemons, agents and machines, the network;
//! and daemons that are killed while programs are away.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::{process::Command, thread, time::Duration};

use support::{
    Cluster, Options,
    command::{Running, run},
    eventually, example,
    programs::pid_told,
};

/// How long moves may take to come to the state in which they are held, four at a time under
/// software emulation.
const COURSE_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take until a move is given up: the nodes' time-outs, with an emulated machine's
/// slowness.
const SETTLE_LIMIT: Duration = Duration::from_secs(100);

/// The states before `Commit`, in which a move pauses and is harmed, the last one first: a move
/// must not meet the failpoint of an earlier one. `restore` pauses at the target.
const STATES: [&str; 7] = ["restore", "stream", "dump", "freeze", "precopy", "prepare", "reserve"];
/// In how many of these states moves pause at the same time where nodes are as fast as this
/// machine, so that the nodes' time-outs are waited for side by side; under emulation it is one.
const STATES_AT_ONCE: usize = 4;

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

const HARMS: [Harm; 4] = [Harm::Daemon, Harm::Agent, Harm::Network, Harm::Machine];

impl Harm {
    /// The node that it befalls.
    fn target(self) -> &'static str {
        match self {
            Self::Daemon => "n2",
            Self::Agent => "n3",
            Self::Network => "n4",
            Self::Machine => "n5",
        }
    }
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
             scx_mosix run --stay -- workload threads --threads 2 --steps 100000 --work-ms 1 --pause-ms 100 >&5 5>&- & \
             P=$!; exec 5>&-; echo \"PID $P.\"; wait $P; echo \"STATUS $?.\"; sleep 1"
        );
        let mut parent = cluster.spawn("n1", "user", &["bash", "-c", &line]);
        let pid = pid_told(&mut parent);
        let job = Self { number, pid, harm, parent };
        eventually("the program has begun", Duration::from_secs(60), || match job.step(cluster) {
            0 => Err("no output yet".into()),
            _ => Ok(()),
        });
        job
    }

    /// The node that it moves to.
    fn target(&self) -> &'static str {
        self.harm.target()
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

fn set_failpoint(cluster: &Cluster, node: &str, state: &str) {
    cluster.sh(node, &format!("mkdir -p /run/scx_mosix/failpoint; touch /run/scx_mosix/failpoint/{state}"));
}

fn clear_failpoint(cluster: &Cluster, node: &str, state: &str) {
    cluster.sh(node, &format!("rm -f /run/scx_mosix/failpoint/{state}"));
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

/// Waits until n1 takes all these nodes for alive.
fn all_alive(cluster: &Cluster, nodes: &[&str]) {
    eventually("the nodes are alive again", COURSE_LIMIT, || {
        let listed = cluster.json("n1", &["nodes"]);
        let is_alive = |node: &str| {
            listed.as_array().into_iter().flatten().any(|row| row["node"] == node && row["state"] == "alive")
        };
        let missing: Vec<_> = nodes.iter().filter(|node| !is_alive(node)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} are not")) }
    });
}

/// Waits until the last moves of these jobs are all in a state that is `wanted`.
fn all_moves(
    cluster: &Cluster,
    what: &str,
    limit: Duration,
    jobs: &[&Job],
    wanted: impl Fn(&str) -> bool,
) -> Vec<(String, String)> {
    eventually(what, limit, || {
        let moves = cluster.json("n1", &["migrations"]);
        let states: Vec<_> = jobs.iter().map(|job| job.last_move(&moves)).collect();
        if states.iter().all(|(now, _)| wanted(now)) { Ok(states) } else { Err(format!("{states:?}")) }
    })
}

/// The nodes whose daemons or agents drive these moves in `state`.
fn drivers(jobs: &[&Job], state: &str) -> Vec<&'static str> {
    if state == "restore" { jobs.iter().map(|job| job.target()).collect() } else { vec!["n1"] }
}

/// These jobs move and pause at the end of `state`.
fn pause(cluster: &Cluster, jobs: &[&Job], state: &str) {
    for node in drivers(jobs, state) {
        set_failpoint(cluster, node, state);
    }
    for job in jobs {
        cluster.scx_mosix("n1", &["migrate", &job.pid, job.target()]).success();
    }
    all_moves(cluster, "all moves pause", COURSE_LIMIT, jobs, |now| now == state);
    // To the end of the state in which they pause.
    for node in drivers(jobs, state) {
        let file = format!("scx_mosix/failpoint/{state}");
        let wanted = if state == "restore" { 1 } else { jobs.len() };
        eventually("all moves have come to the failpoint", COURSE_LIMIT, || {
            let logs = "cat /var/log/scx_mosix.log /run/scx_mosix/log/* 2>/dev/null";
            let count = cluster.sh(node, &format!("{logs} | grep -c 'pauses at a failpoint.*{file}' || true"));
            let count: usize = count.trim().parse().unwrap_or(0);
            if count >= wanted { Ok(()) } else { Err(format!("{count} of {wanted} at {node}")) }
        });
    }
}

/// Some states: jobs move, pause in them, are harmed, and continue at n1. Each state has the jobs
/// of one row.
fn walk(cluster: &Cluster, rows: &[Vec<Job>], states: &[&str]) {
    // There is no agent yet before the target has been asked.
    let walks: Vec<(&str, Vec<&Job>)> = states
        .iter()
        .zip(rows)
        .map(|(state, row)| (*state, row.iter().filter(|job| job.harm != Harm::Agent || *state != "reserve").collect()))
        .collect();
    all_alive(cluster, &["n2", "n3", "n4", "n5"]);
    for (state, jobs) in &walks {
        pause(cluster, jobs, state);
    }
    for (state, jobs) in &walks {
        let what = format!("all moves still pause at {state}");
        all_moves(cluster, &what, Duration::ZERO, jobs, |now| now == *state);
    }
    for victim in HARMS {
        harm(cluster, victim, victim.target());
    }
    for (state, jobs) in &walks {
        for node in drivers(jobs, state).into_iter().filter(|node| *node != Harm::Machine.target()) {
            clear_failpoint(cluster, node, state);
        }
    }
    let jobs: Vec<&Job> = walks.iter().flat_map(|(_, jobs)| jobs).copied().collect();
    let over = |now: &str| ["aborted", "run", "failed"].contains(&now);
    let what = format!("all moves harmed at {states:?} have ended");
    let ends = all_moves(cluster, &what, SETTLE_LIMIT, &jobs, over);
    let before = steps(cluster, &jobs);
    eventually("all programs continue", SETTLE_LIMIT, || {
        let now = steps(cluster, &jobs);
        if now.iter().zip(&before).all(|(now, before)| *now > before + 3) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let pids: Vec<&str> = jobs.iter().map(|job| &*job.pid).collect();
    let why = cluster.sh("n1", &format!("for pid in {}; do scx_mosix why $pid; echo ===; done", pids.join(" ")));
    let at = walks.iter().flat_map(|(state, jobs)| jobs.iter().map(|_| *state));
    for (((job, state), (end, reason)), why) in jobs.iter().zip(at).zip(ends).zip(why.split("===")) {
        let (harm, target) = (job.harm, job.target());
        eprintln!("{state}: {harm:?} of {target}: {end}: {reason}");
        assert_eq!(end, "aborted", "{harm:?} at {state}: {reason}");
        assert!(!reason.is_empty() && why.contains(&reason), "{harm:?} at {state}: no reason in `why`:\n{why}");
    }
    thread::scope(|scope| {
        for victim in HARMS {
            scope.spawn(move || mend(cluster, victim, victim.target()));
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

/// Daemons are killed at both ends while a program is away; it continues, and the next daemons find
/// it.
fn daemons_come_and_go(cluster: &Cluster, job: &Job) {
    all_alive(cluster, &["n2"]);
    cluster.scx_mosix("n1", &["migrate", &job.pid, "n2", "--wait"]).success();
    cluster.sh("n1", "kill -9 $(cat /run/scx_mosix.pid)");
    cluster.sh("n2", "kill -9 $(cat /run/scx_mosix.pid)");
    for node in ["n1", "n2"] {
        eventually("the kernel's own scheduler is back", Duration::from_secs(30), || {
            let state = cluster.sh(node, "cat /sys/kernel/sched_ext/state 2>/dev/null || echo disabled");
            if state.trim() == "disabled" { Ok(()) } else { Err(state) }
        });
    }
    let before = job.step(cluster);
    eventually("the program continues without daemons", Duration::from_secs(60), || {
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

/// The agent of a guest is killed. It holds a file of home's open, as the program shares it with
/// its parent, and must not wait for itself at its end. Gives the program's parent, which hears of
/// the loss in a while.
fn a_killed_agent_leaves_nothing(cluster: &Cluster) -> Running {
    let line = "exec 5>/home/user/shared; \
                scx_mosix run --stay -- workload threads --steps 100000 --work-ms 1 --pause-ms 100 >&5 & \
                P=$!; echo \"PID $P.\"; wait $P; echo \"STATUS $?.\"";
    let mut parent = cluster.spawn("n1", "user", &["bash", "-c", line]);
    let pid = pid_told(&mut parent);
    cluster.scx_mosix("n1", &["migrate", &pid, "n3", "--wait"]).success();
    harm(cluster, Harm::Agent, "n3");
    eventually("nothing of the guest is left", Duration::from_secs(60), || {
        let left =
            "pgrep -f '[a]gent-guest'; ls -d /sys/fs/cgroup/scx_mosix/guest-* 2>/dev/null; ls /run/scx_mosix/agents";
        let left = cluster.sh("n3", &format!("({left}) || true"));
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    parent
}

/// After commit the target's copy is the only one: with its machine the program is lost. Gives the
/// program's parent, which hears of it in a while.
fn a_host_is_lost(cluster: &Cluster, job: Job) -> Running {
    all_alive(cluster, &["n3"]);
    cluster.scx_mosix("n1", &["migrate", &job.pid, "n3", "--wait"]).success();
    cluster.kill("n3");
    job.parent
}

#[test]
#[ignore = "needs a cluster"]
fn whatever_fails_there_is_one_copy_and_a_reason() {
    let options = Options { cpus: Some(1), memory_mib: Some(512), ..Options::default() };
    let cluster = Cluster::up("failures", 5, &options);
    cluster.push_example("workload");
    let lost = a_killed_agent_leaves_nothing(&cluster);
    let at_once = if options.is_emulated() { 1 } else { STATES_AT_ONCE };
    let mut rows: Vec<Vec<Job>> = (0..at_once)
        .map(|row| {
            let jobs = HARMS.into_iter().enumerate();
            jobs.map(|(at, harm)| Job::start(&cluster, row * HARMS.len() + at, harm)).collect()
        })
        .collect();
    for states in STATES.chunks(at_once) {
        walk(&cluster, &rows, states);
    }
    let lost = [lost, a_host_is_lost(&cluster, rows[0].swap_remove(1))];
    daemons_come_and_go(&cluster, &rows[0][0]);
    for parent in lost {
        let said = parent.finish_within(SETTLE_LIMIT).success();
        assert!(said.contains("STATUS 121."), "{said}");
    }
    thread::scope(|scope| {
        for job in rows.into_iter().flatten() {
            scope.spawn(|| compare(&cluster, job));
        }
    });
}
