//! Owners have their machines and their programs in hand: who comes first, which nodes are allowed,
//! what is locked, and draining.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::time::Duration;

use support::{
    Cluster, Options, eventually,
    programs::{MOVE_LIMIT, last_reason, row, runs_at, start, start_command},
    tour::migrate,
};

/// How long a command may take that waits for a move.
const WAIT_LIMIT: Duration = Duration::from_secs(300);

#[test]
#[ignore = "needs a cluster"]
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
    // The balancer may find a moment later that home is better: then it has to come back.
    cluster.exec_within("n1", "user", &["scx_mosix", "lock", &first_pid], Duration::from_secs(60)).success();
    migrate(&cluster, &first_pid, "n2");
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
    cluster.sh("n3", "pkill workload");

    // n2 is drained: even what is locked leaves, for home, as nothing else is allowed; and no guest
    // comes. By number: `user` is root with few capabilities where nodes share the kernel of a
    // sandbox.
    let unprivileged = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "scx_mosix", "drain"];
    let user = cluster.exec("n2", &unprivileged);
    assert!(user.code() == 1 && user.stderr.contains("may not do that"), "{user}");
    cluster.exec_within("n2", "root", &["scx_mosix", "drain", "--wait"], WAIT_LIMIT).success();
    runs_at(&cluster, &first_pid, |node| node == "n1");
    let (trigger, reason) = last_reason(&cluster, &first_pid, "n1");
    assert!(trigger == "evacuate" && reason.contains("n2 is being drained"), "{trigger}: {reason}");
    eventually("the others know of it", Duration::from_secs(60), || {
        let nodes = cluster.json("n1", &["nodes"]);
        let n2 = nodes.as_array().unwrap().iter().find(|row| row["node"] == "n2").unwrap();
        if n2["refuses_because"].is_string() { Ok(()) } else { Err(nodes.to_string()) }
    });
    let refused = cluster.scx_mosix("n1", &["migrate", &first_pid, "n2"]);
    assert!(
        refused.code() == 1 && refused.stderr.contains("it accepts no guests while it is being drained"),
        "{refused}"
    );
    // The next daemon continues it, until it is undone.
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
    let (trigger, reason) = last_reason(&cluster, &first_pid, "n1");
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
