//! Programs that are moved while they run do what they do unmoved: output, files, status, signals,
//! terminal.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::time::Duration;

use support::{
    Cluster, Options, eventually,
    programs::pid_told,
    tour::{MOVE_LIMIT, Tour, migrate, tour},
};

/// Runs a program as a descendant of a job, once at n1, whereby its CPU time is learned, and once
/// while n1 is busy: then it starts elsewhere, and does the same.
fn long_programs_start_elsewhere(cluster: &Cluster) {
    let start = |options: &str, number: usize| {
        let line = format!(
            "cd /home/user; scx_mosix run {options} -- bash -c \"workload threads --threads 1 --steps 20 --work-ms 500 >long{number}; echo STATUS \\$?.\""
        );
        cluster.spawn("n1", "user", &["bash", "-c", &line])
    };
    let started = "grep -c 'placement starts a program elsewhere' /var/log/scx_mosix.log || true";
    let mut first = start("--stay", 1);
    first.wait_for("STATUS 0.", Duration::from_secs(240));
    assert_eq!(cluster.sh("n1", started).trim(), "0", "what is to stay starts at home");
    let busy = "exec scx_mosix run --stay -- workload threads --threads 3 --steps 100000 --work-ms 40 >/dev/null";
    let _busy = cluster.spawn("n1", "user", &["sh", "-c", busy]);
    eventually("n1 is busy", Duration::from_secs(60), || {
        let nodes = cluster.json("n1", &["nodes"]);
        let n1 = nodes.as_array().unwrap().iter().find(|row| row["node"] == "n1").unwrap();
        let runnable = n1["load"].as_f64().unwrap() * n1["cpu_speed"].as_f64().unwrap();
        if runnable > 2.0 { Ok(()) } else { Err(nodes.to_string()) }
    });
    let mut second = start("", 2);
    eventually("the program runs elsewhere", Duration::from_secs(120), || {
        let rows = cluster.json("n1", &["ps"]);
        let away = |row: &serde_json::Value| row["comm"] == "workload" && row["runs_on"] != "n1";
        if rows.as_array().unwrap().iter().any(away) { Ok(()) } else { Err(rows.to_string()) }
    });
    assert_eq!(cluster.sh("n1", started).trim(), "1", "it did not begin here to be moved later");
    second.wait_for("STATUS 0.", Duration::from_secs(240));
    assert_eq!(cluster.sh("n1", "cmp /home/user/long1 /home/user/long2 && wc -l </home/user/long2").trim(), "20");
    cluster.sh("n1", "pkill workload");
}

/// A program that its user moves and the balancer too: each order is followed by the next without a
/// pause.
fn orders_follow_each_other(cluster: &Cluster, nodes: &[&str], rounds: usize) {
    let program = "while :; do seq 1000 | sort -r | wc -l; sleep 0.05; done >/dev/null";
    let line = format!("scx_mosix run sh -c '{program}' & echo $!; wait $!; echo STATUS $?.");
    let mut parent = cluster.spawn("n1", "user", &["bash", "-c", &line]);
    let pid = parent.wait_for("\n", Duration::from_secs(60)).trim().to_owned();
    for node in std::iter::repeat_n(nodes, rounds).flatten() {
        cluster.exec_within("n1", "user", &["scx_mosix", "migrate", &pid, node, "--wait"], MOVE_LIMIT).success();
    }
    cluster.sh("n1", &format!("kill {pid}"));
    parent.wait_for("STATUS 143.", Duration::from_secs(60));
}

#[test]
#[ignore = "needs a cluster"]
fn moved_programs_do_what_unmoved_ones_do() {
    let cluster = Cluster::up("migration", 3, &Options { cpus: Some(1), memory_mib: Some(640), ..Options::default() });
    cluster.push_example("workload");
    cluster.sh("n1", "seq 1 20000 >/home/user/in.txt; chown user: /home/user/in.txt");
    let nodes = ["n2", "n3", "n1", "n3", "n2", "n1"];
    let at = |work_ms| Tour { work_ms, nodes: &nodes };
    tour(&cluster, &at(5), &["threads", "--threads", "8"]);
    tour(&cluster, &at(13), &["family"]);
    tour(&cluster, &at(40), &["files", "--input", "in.txt", "--output", "out.txt", "--echo"]);

    orders_follow_each_other(&cluster, &nodes, 5);
    long_programs_start_elsewhere(&cluster);

    // `ps` would not do to learn its pid: it still lists programs that ended within the last
    // second.
    let command = "echo PID $$.; exec scx_mosix run --stay -- workload threads --threads 2 --steps 100000 --work-ms 40";
    let mut terminal = cluster.spawn_in_terminal("n1", "user", command);
    let pid = pid_told(&mut terminal);
    terminal.wait_for("step 2 ", Duration::from_secs(60));
    migrate(&cluster, &pid, "n2");
    terminal.send("\x03");
    assert_eq!(terminal.finish_within(Duration::from_secs(120)).code(), 130, "Ctrl-C ends it by SIGINT");
}
