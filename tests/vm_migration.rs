//! Programs that are moved while they run do what they do unmoved: output, files, status, signals, terminal.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by a panic")]

mod support;

use std::{process::Command, time::Duration};

use support::{Cluster, Options, command::run, eventually, example};

/// How long a move may take under software emulation on a busy machine.
const MOVE_LIMIT: Duration = Duration::from_secs(240);

/// Moves the job by hand and checks that the record says so.
fn migrate(cluster: &Cluster, pid: &str, to: &str) {
    // The balancer may just have had an idea of its own: then its move is waited for.
    eventually("the move that was asked for", MOVE_LIMIT, || {
        let asked = cluster.exec_within("n1", "user", &["scx_mosix", "migrate", pid, to, "--wait"], MOVE_LIMIT);
        let told = format!("{asked}");
        let done = asked.code() == 0 || told.contains("already");
        if done && !told.contains("moved already") { Ok(()) } else { Err(told) }
    });
    eventually("ps at home shows where it runs", Duration::from_secs(30), || {
        let rows = cluster.json("n1", &["ps"]);
        let row = rows.as_array().into_iter().flatten().find(|row| row["pid"] == pid.parse::<i64>().unwrap());
        let there = row.is_some_and(|row| row["runs_on"] == to && row["comm"] == "workload");
        if there { Ok(()) } else { Err(rows.to_string()) }
    });
}

/// Runs `workload` with `arguments` at n1, its output on a pipe, moves it over all nodes and home again, and compares.
/// `work_ms` is the CPU time of each of its threads or processes at each step. With `--echo` it also prints to a terminal.
fn tour(cluster: &Cluster, work_ms: u32, arguments: &[&str]) {
    let in_terminal = arguments.contains(&"--echo");
    let errors = if in_terminal { "&2" } else { "err" };
    let line = format!(
        "cd /home/user; exec 5> >(exec cat >out); \
         scx_mosix run --stay -- workload {} --steps 700 --work-ms {work_ms} --exit 7 >&5 5>&- 2>{errors} & \
         P=$!; exec 5>&-; echo \"PID $P.\"; wait $P; echo \"STATUS $?.\"; sleep 1",
        arguments.join(" ")
    );
    let mut parent = if in_terminal {
        cluster.spawn_in_terminal("n1", "user", &format!("bash -c '{line}'"))
    } else {
        cluster.spawn("n1", "user", &["bash", "-c", &line])
    };
    let said = parent.wait_for(".", Duration::from_secs(60));
    let pid = said.trim().trim_start_matches("PID ").split('.').next().unwrap().to_owned();
    let seen_by_ps = || cluster.sh("n1", &format!("ps -o ppid=,comm=,args= -p {pid}"));
    eventually("the program has begun", Duration::from_secs(60), || {
        let out = cluster.sh("n1", "cat /home/user/out");
        if out.contains("step 3") { Ok(()) } else { Err(out) }
    });
    let before = seen_by_ps();
    for (hop, node) in ["n2", "n3", "n1"].into_iter().enumerate() {
        migrate(cluster, &pid, node);
        assert_eq!(seen_by_ps(), before, "same parent, name and arguments");
        cluster.sh("n1", &format!("kill -USR1 {pid}"));
        eventually("SIGUSR1 reaches its handler", Duration::from_secs(60), || {
            let out = cluster.sh("n1", "cat /home/user/out");
            let count = out.lines().filter(|line| *line == "USR1").count();
            if count == hop + 1 { Ok(()) } else { Err(format!("{count} of {}", hop + 1)) }
        });
    }
    let said = parent.finish_within(Duration::from_secs(400)).success();
    assert!(said.contains("STATUS 7."), "{said}\n{}", cluster.sh("n1", "cat /home/user/err"));
    let out = cluster.sh("n1", "grep -v USR1 /home/user/out");
    if in_terminal {
        let shown = said.replace("\r\n", "\n");
        let shown: Vec<&str> = shown.lines().filter(|line| line.starts_with("step ")).collect();
        assert!(shown == out.lines().collect::<Vec<_>>(), "the terminal shows something else");
    }

    let dir = tempfile::tempdir().unwrap();
    if arguments.contains(&"in.txt") {
        cluster.pull("n1", "/home/user/in.txt", &dir.path().join("in.txt"));
    }
    let mut unmoved = Command::new(example("workload"));
    unmoved.args(arguments).args(["--steps", "700", "--work-ms", "0", "--exit", "7"]).current_dir(dir.path());
    let unmoved = run(unmoved, Duration::from_secs(60));
    assert_eq!(unmoved.code(), 7, "{unmoved}");
    assert!(out == unmoved.stdout, "the output differs from that of an unmoved run");
    if arguments.contains(&"out.txt") {
        cluster.pull("n1", "/home/user/out.txt", &dir.path().join("moved.txt"));
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert!(read("moved.txt") == read("out.txt"), "the file that it wrote differs");
    }
    for node in ["n1", "n2", "n3"] {
        eventually("nothing is left behind", Duration::from_secs(60), || {
            let left = cluster.sh(
                node,
                "ls /run/scx_mosix/mig /run/scx_mosix/agents; ls -d /sys/fs/cgroup/scx_mosix/guest-* 2>/dev/null || true",
            );
            let left: Vec<&str> = left.lines().filter(|l| !l.is_empty() && !l.ends_with(':')).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{node}: {left:?}")) }
        });
    }
}

/// Runs a program as a descendant of a job, once at n1, whereby its CPU time is learned, and once while n1 is busy: then it starts elsewhere, and
/// does the same.
fn long_programs_start_elsewhere(cluster: &Cluster) {
    let start = |options: &str, number: usize| {
        let line = format!(
            "cd /home/user; scx_mosix run {options} -- bash -c \"workload threads --threads 1 --steps 60 --work-ms 500 >long{number}; echo STATUS \\$?.\""
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
    assert_eq!(cluster.sh("n1", "cmp /home/user/long1 /home/user/long2 && wc -l </home/user/long2").trim(), "60");
    cluster.sh("n1", "pkill workload");
}

#[test]
#[ignore = "boots virtual machines"]
fn moved_programs_do_what_unmoved_ones_do() {
    // n4's kernel has no sched_ext: it hosts guests all the same, and says so.
    let plain_kernel = vec!["n4".to_owned()];
    let options = Options { cpus: Some(1), memory_mib: Some(640), plain_kernel, ..Options::default() };
    let cluster = Cluster::up("migration", 4, &options);
    let nodes = cluster.json("n1", &["nodes"]);
    let sched_ext =
        |name: &str| nodes.as_array().unwrap().iter().find(|row| row["node"] == name).unwrap()["sched_ext"].clone();
    assert_eq!((sched_ext("n1"), sched_ext("n4")), ("attached".into(), "unsupported".into()), "{nodes}");
    cluster.push_example("workload");
    cluster.sh("n1", "seq 1 20000 >/home/user/in.txt; chown user: /home/user/in.txt");
    tour(&cluster, 5, &["threads", "--threads", "8"]);
    tour(&cluster, 13, &["family"]);
    tour(&cluster, 40, &["files", "--input", "in.txt", "--output", "out.txt", "--echo"]);

    long_programs_start_elsewhere(&cluster);

    let command = "exec scx_mosix run --stay -- workload threads --threads 2 --steps 100000 --work-ms 40";
    let mut terminal = cluster.spawn_in_terminal("n1", "user", command);
    terminal.wait_for("step 2 ", Duration::from_secs(60));
    let pid = cluster.json("n1", &["ps"])[0]["pid"].to_string();
    migrate(&cluster, &pid, "n4");
    terminal.send("\x03");
    assert_eq!(terminal.finish_within(Duration::from_secs(120)).code(), 130, "Ctrl-C ends it by SIGINT");
}
