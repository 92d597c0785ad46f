//! Programs started at n1, and what the nodes tell of them.

use std::time::Duration;

use super::{Cluster, command::Running, eventually};

/// How long it may take until a program has moved by itself, under software emulation on a busy
/// machine.
pub const MOVE_LIMIT: Duration = Duration::from_secs(240);

/// Starts a program at n1 that computes until it is killed; gives its pid there.
pub fn start(cluster: &Cluster, number: usize, options: &str) -> (Running, String) {
    let command = format!("workload threads --threads 1 --steps 100000 --work-ms 40 >/home/user/out{number}");
    start_command(cluster, options, &command)
}

/// The same with a command of its own.
pub fn start_command(cluster: &Cluster, options: &str, command: &str) -> (Running, String) {
    let line = format!("scx_mosix run {options} -- {command} & echo \"PID $!.\"; wait $!; echo \"STATUS $?.\"");
    let mut parent = cluster.spawn("n1", "user", &["sh", "-c", &line]);
    let pid = pid_told(&mut parent);
    (parent, pid)
}

/// Waits until a program's parent has printed `PID n.`, and gives the pid.
pub fn pid_told(parent: &mut Running) -> String {
    let said = parent.wait_for(".", Duration::from_secs(60));
    said.split("PID ").nth(1).and_then(|rest| rest.split('.').next()).unwrap().to_owned()
}

/// What `node` knows of the program.
pub fn row(cluster: &Cluster, node: &str, pid: &str) -> serde_json::Value {
    let rows = cluster.json(node, &["ps", "--all"]);
    let pid: i64 = pid.parse().unwrap();
    let found = rows.as_array().into_iter().flatten().find(|row| row["home"] == "n1" && row["pid"] == pid);
    found.cloned().unwrap_or_default()
}

/// Waits until the program runs at a node that is `wanted`, and gives its name.
pub fn runs_at(cluster: &Cluster, pid: &str, wanted: impl Fn(&str) -> bool) -> String {
    eventually("the program runs where it should", MOVE_LIMIT, || {
        let row = row(cluster, "n1", pid);
        let node = row["runs_on"].as_str().unwrap_or_default().to_owned();
        let is_there = wanted(&node) && row["state"] != "moving";
        // What has moved can move again, from the first moment on.
        assert!(!is_there || row["cannot_move"].is_null(), "{row}");
        if is_there { Ok(node) } else { Err(row.to_string()) }
    })
}

/// Why the program moved to `node`, where it runs. Its home hears of the end of a move a moment
/// later than it sees the program there.
pub fn last_reason(cluster: &Cluster, pid: &str, node: &str) -> (String, String) {
    eventually("home has the record of the last move", Duration::from_secs(30), || {
        let why = cluster.json("n1", &["why", pid]);
        let last = &why["migrations"][0];
        let text = |key: &str| last[key].as_str().unwrap_or_default().to_owned();
        if text("target") == node { Ok((text("trigger"), text("reason"))) } else { Err(why.to_string()) }
    })
}
