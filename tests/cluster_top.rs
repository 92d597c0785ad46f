//! The monitor as a user sees it, on a terminal of 80×24 at a node of a cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::time::Duration;

use support::{
    Cluster, Options, eventually,
    programs::{MOVE_LIMIT, runs_at, start_command},
    terminal::{SCREEN_LIMIT, Terminal, cell, on_terminal},
};

/// The monitor at a node.
fn monitor(cluster: &Cluster, node: &str, user: &str, arguments: &str) -> Terminal {
    let line = on_terminal(&format!("scx_mosix top {arguments}"), 80, 24);
    Terminal::new(cluster.spawn_in_terminal(node, user, &line), 80, 24)
}

/// Where n1 serves metrics.
const METRICS_PORT: u16 = 9471;

/// Lets the daemon of n1 serve metrics.
fn restart_with_metrics(cluster: &Cluster) {
    cluster.stop_daemon("n1");
    cluster.sh("n1", &format!("start-daemon --metrics {METRICS_PORT}"));
    eventually("the nodes are together again", MOVE_LIMIT, || {
        // The daemon is not there at first.
        let said = cluster.scx_mosix("n1", &["nodes", "--output", "json"]);
        let alive = said.stdout.matches("\"alive\"").count();
        if alive == 2 { Ok(()) } else { Err(format!("{alive} are alive: {said}")) }
    });
}

#[test]
#[ignore = "needs a cluster"]
fn a_program_is_watched_and_moved_from_within_the_monitor() {
    let cluster = Cluster::up("top", 2, &Options { cpus: Some(1), memory_mib: Some(512), ..Options::default() });
    restart_with_metrics(&cluster);
    cluster.push_example("workload");
    cluster.sh("n1", "mkdir /home/user/work; chown user: /home/user/work");
    let program = "sh -c 'cd /home/user/work; exec workload threads --threads 1 --steps 100000 --work-ms 40 >out'";
    let (mut parent, pid) = start_command(&cluster, "--stay", program);

    let mut top = monitor(&cluster, "n1", "user", "");
    // The title of the pane names it too while it is filtered for.
    let row = format!("{pid} user");
    let shown = |screen: &str, title: &str| cell(screen, title, &row).unwrap_or_default();
    let at_home = top.wait_for("the program is at home", SCREEN_LIMIT, |screen| {
        shown(screen, "NODE") == "n1" && shown(screen, "CWD") == "/home/user/work"
    });
    assert_eq!(shown(&at_home, "HOME"), "n1", "{at_home}");
    assert!(at_home.contains("asks n1") && at_home.contains("2 of 2 nodes alive"), "{at_home}");

    // Find it, see where it could go, move it there.
    top.send(&format!("/{pid}\r"));
    top.send("m");
    top.wait_for("a list of targets", SCREEN_LIMIT, |screen| screen.contains(" best") && screen.contains("n2"));
    top.send("n2\r");
    top.wait_for("a question", SCREEN_LIMIT, |screen| {
        screen.contains(&format!("n1/{pid}")) && screen.contains("to n2?")
    });
    top.send("y");
    let moved = top.wait_for("the program is at n2", MOVE_LIMIT, |screen| {
        shown(screen, "NODE") == "n2" && shown(screen, "CWD") == "/home/user/work"
    });
    assert_eq!(shown(&moved, "HOME"), "n1", "{moved}");
    runs_at(&cluster, &pid, |node| node == "n2");
    top.send("4");
    top.wait_for("the move is among those that have ended", SCREEN_LIMIT, |screen| screen.contains(" done "));
    top.send("2\r");
    top.wait_for("its reasons", SCREEN_LIMIT, |screen| screen.contains(&format!("why  n1/{pid}")));
    top.send("\x1b");

    // From another node, with a certificate: it is seen there too, and nothing can be changed.
    cluster.sh("n2", "scx_mosix key client-cert --out /root/credentials");
    let mut remote = monitor(&cluster, "n2", "root", "--read-only --server n1:7470 --credentials /root/credentials");
    remote.wait_for("the program, by n1", SCREEN_LIMIT, |screen| {
        screen.contains("asks n1") && screen.contains("read-only") && shown(screen, "NODE") == "n2"
    });
    remote.send("m");
    remote.wait_for("a refusal", SCREEN_LIMIT, |screen| screen.contains("nothing is changed from here"));
    remote.send("q");
    remote.ended(0);

    // What happened is told, to people and to a monitoring system.
    let events = cluster.exec("n1", &["scx_mosix", "events", "--output", "wide"]).success();
    assert!(events.contains(&format!("n1/{pid} (workload) moved from n1 to n2, stopped for ")), "{events}");
    let ask = format!(
        "import urllib.request as u; print(u.urlopen('http://127.0.0.1:{METRICS_PORT}/metrics').read().decode())"
    );
    let metrics = cluster.exec("n1", &["python3", "-c", &ask]).success();
    for line in [
        "scx_mosix_moves_total{trigger=\"request\",outcome=\"moved\"} 1",
        "scx_mosix_move_downtime_seconds_count 1",
        "scx_mosix_agents{side=\"home\"} 1.0",
        "scx_mosix_nodes{state=\"alive\"} 2.0",
    ] {
        assert!(metrics.lines().any(|told| told == line), "no {line} in\n{metrics}");
    }

    // It is brought home, and ended by a signal.
    top.send("2Hy");
    top.wait_for("the program is at home again", MOVE_LIMIT, |screen| shown(screen, "NODE") == "n1");
    runs_at(&cluster, &pid, |node| node == "n1");
    top.send("kterm\ry");
    parent.wait_for("STATUS 143.", Duration::from_secs(60));
    top.send("q");
    top.ended(0);
}
