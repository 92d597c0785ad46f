//! Owners have their machines and their programs in hand: who comes first, which nodes are allowed, what is locked, and draining.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by a panic")]

mod support;

use std::time::Duration;

use support::{Cluster, Options, command::Running, eventually};

/// How long it may take until a program has moved by itself, under software emulation on a busy machine.
const MOVE_LIMIT: Duration = Duration::from_secs(240);
/// How long a command may take that waits for such a move.
const WAIT_LIMIT: Duration = Duration::from_secs(300);

/// Starts a program at n1 that computes until it is killed; gives its pid there.
fn start(cluster: &Cluster, number: usize, options: &str) -> (Running, String) {
    let command = format!("workload threads --threads 1 --steps 100000 --work-ms 40 >/home/user/out{number}");
    start_command(cluster, options, &command)
}

fn start_command(cluster: &Cluster, options: &str, command: &str) -> (Running, String) {
    let line = format!("scx_mosix run {options} -- {command} & echo \"PID $!.\"; wait $!; echo \"STATUS $?.\"");
    let mut parent = cluster.spawn("n1", "user", &["sh", "-c", &line]);
    let said = parent.wait_for(".", Duration::from_secs(60));
    let pid = said.trim().trim_start_matches("PID ").trim_end_matches('.').to_owned();
    (parent, pid)
}

/// What `node` knows of the program.
fn row(cluster: &Cluster, node: &str, pid: &str) -> serde_json::Value {
    let rows = cluster.json(node, &["ps", "--all"]);
    let pid: i64 = pid.parse().unwrap();
    let found = rows.as_array().into_iter().flatten().find(|row| row["home"] == "n1" && row["pid"] == pid);
    found.cloned().unwrap_or_default()
}

fn runs_at(cluster: &Cluster, pid: &str, wanted: impl Fn(&str) -> bool) -> String {
    eventually("the program runs where it should", MOVE_LIMIT, || {
        let row = row(cluster, "n1", pid);
        let node = row["runs_on"].as_str().unwrap_or_default().to_owned();
        let is_there = wanted(&node) && row["state"] != "moving";
        // What has moved can move again, from the first moment on.
        assert!(!is_there || row["cannot_move"].is_null(), "{row}");
        if is_there { Ok(node) } else { Err(row.to_string()) }
    })
}

/// Why the program moved last.
fn last_reason(cluster: &Cluster, pid: &str) -> (String, String) {
    let why = cluster.json("n1", &["why", pid]);
    let last = why["migrations"][0].clone();
    (last["trigger"].as_str().unwrap_or_default().into(), last["reason"].as_str().unwrap_or_default().into())
}

#[test]
#[ignore = "boots virtual machines"]
fn owners_have_their_machines_and_programs_in_hand() {
    let options = Options { cpus: Some(1), memory_mib: Some(512), ..Options::default() };
    let cluster = Cluster::up("owner", 3, &options);
    cluster.push_example("workload");

    // n1 is busy; each of the two goes to the one node that it may go to, and nowhere else.
    let (mut busy, busy_pid) = start(&cluster, 0, "--stay");
    let (_first, first_pid) = start(&cluster, 1, "--nodes n2");
    let (_second, second_pid) = start(&cluster, 2, "--nodes n3");
    runs_at(&cluster, &first_pid, |node| node == "n2");
    runs_at(&cluster, &second_pid, |node| node == "n3");
    let refused = cluster.scx_mosix("n1", &["migrate", &first_pid, "n3"]);
    assert!(refused.code() == 1 && refused.stderr.contains("not among the nodes allowed"), "{refused}");
    cluster.sh("n1", &format!("kill {busy_pid}"));
    busy.wait_for("STATUS 143.", Duration::from_secs(60));

    // What its user says at home is known where it runs.
    cluster.exec_within("n1", "user", &["scx_mosix", "lock", &first_pid], Duration::from_secs(60)).success();
    cluster.exec_within("n1", "user", &["scx_mosix", "allow", &second_pid, "any"], Duration::from_secs(60)).success();
    eventually("the hosts know of it", Duration::from_secs(60), || {
        let (first, second) = (row(&cluster, "n2", &first_pid), row(&cluster, "n3", &second_pid));
        let known = first["stay"] == true
            && first["allowed_nodes"][0] == "n2"
            && second["allowed_nodes"] == serde_json::json!([]);
        if known { Ok(()) } else { Err(format!("{first} {second}")) }
    });
    let foreign = cluster.scx_mosix("n2", &["unlock", &format!("n1/{first_pid}")]);
    assert!(foreign.code() == 1 && foreign.stderr.contains("ask its home"), "{foreign}");

    // The owner of n3 wants his CPU.
    let mut owner =
        cluster.spawn("n3", "user", &["workload", "threads", "--threads", "2", "--steps", "100000", "--work-ms", "40"]);
    owner.wait_for("step 3", Duration::from_secs(120));
    runs_at(&cluster, &second_pid, |node| node != "n3");
    let (_, reason) = last_reason(&cluster, &second_pid);
    assert!(reason.contains("programs of its own users come first"), "{reason}");
    cluster.sh("n3", "pkill workload");

    // n2 is drained: even what is locked leaves, for home, as nothing else is allowed; and nobody comes.
    let user = cluster.exec_within("n2", "user", &["scx_mosix", "drain"], Duration::from_secs(60));
    assert!(user.code() == 1 && user.stderr.contains("may not do that"), "{user}");
    cluster.exec_within("n2", "root", &["scx_mosix", "drain", "--wait"], WAIT_LIMIT).success();
    runs_at(&cluster, &first_pid, |node| node == "n1");
    let (trigger, reason) = last_reason(&cluster, &first_pid);
    assert!(trigger == "evacuate" && reason.contains("n2 is being drained"), "{trigger}: {reason}");
    eventually("the others know of it", Duration::from_secs(60), || {
        let nodes = cluster.json("n1", &["nodes"]);
        let n2 = nodes.as_array().unwrap().iter().find(|row| row["node"] == "n2").unwrap();
        if n2["refuses_because"].is_string() { Ok(()) } else { Err(nodes.to_string()) }
    });
    let refused = cluster.scx_mosix("n1", &["migrate", &first_pid, "n2"]);
    assert!(refused.code() == 1 && refused.stderr.contains("it accepts no guests now"), "{refused}");
    // The next daemon goes on with it, until it is undone.
    let again = "pid=$(cat /run/scx_mosix.pid); kill -9 $pid; while kill -0 $pid; do sleep 0.1; done; start-daemon";
    cluster.sh("n2", again);
    eventually("the next daemon refuses too", Duration::from_secs(60), || {
        let nodes = cluster.scx_mosix("n2", &["nodes", "--output", "json"]);
        if nodes.stdout.contains("being drained") { Ok(()) } else { Err(format!("{nodes}")) }
    });
    cluster.scx_mosix("n2", &["drain", "--undo"]).success();
    eventually("it goes where it is sent", MOVE_LIMIT, || {
        let sent = cluster.exec_within("n1", "user", &["scx_mosix", "migrate", &first_pid, "n2", "--wait"], WAIT_LIMIT);
        if sent.code() == 0 { Ok(()) } else { Err(format!("{sent}")) }
    });

    // Where it is no longer allowed it does not stay, though it is locked.
    cluster.exec_within("n1", "user", &["scx_mosix", "allow", &first_pid, "n1"], Duration::from_secs(60)).success();
    runs_at(&cluster, &first_pid, |node| node == "n1");
    let (trigger, reason) = last_reason(&cluster, &first_pid);
    assert!(trigger == "evacuate" && reason.contains("not among the nodes allowed"), "{trigger}: {reason}");
    cluster.sh("n1", "pkill workload");

    // Away from home, what a program writes would cross the link.
    let write =
        "sh -c 'while :; do dd if=/dev/zero of=/home/user/written bs=64k count=32 conv=fsync 2>/dev/null; done'";
    let (_writer, writer_pid) = start_command(&cluster, "--stay", write);
    eventually("it is known that it writes", Duration::from_secs(60), || {
        let why = cluster.scx_mosix("n1", &["why", &writer_pid]);
        if why.stdout.contains(" for its files over the link") { Ok(()) } else { Err(format!("{why}")) }
    });
    cluster.sh("n1", &format!("kill {writer_pid}"));
}
