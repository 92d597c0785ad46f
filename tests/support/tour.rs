//! A program that is moved about while it runs, and must do what it does unmoved: output, files,
//! status, signals, terminal.

use std::{process::Command, time::Duration};

use super::{Cluster, command::run, eventually, example, programs::pid_told};

/// How long a move may take under software emulation on a busy machine.
pub const MOVE_LIMIT: Duration = Duration::from_secs(240);

/// Moves the job by hand and checks that `ps` says so.
pub fn migrate(cluster: &Cluster, pid: &str, to: &str) {
    // The balancer may just have had an idea of its own: then its move is waited for.
    eventually("the move that was asked for", MOVE_LIMIT, || {
        let asked = cluster.exec_within("n1", "user", &["scx_mosix", "migrate", pid, to, "--wait"], MOVE_LIMIT);
        let told = format!("{asked}");
        // Asking again would not help a program that is no more.
        assert!(!told.contains("is no program of yours"), "{pid} ended before it moved to {to}: {told}");
        let done = asked.code() == 0 || told.contains("already");
        if done && !told.contains("moved already") { Ok(()) } else { Err(told) }
    });
    eventually("ps at home shows where it runs", Duration::from_secs(30), || {
        let rows = cluster.json("n1", &["ps"]);
        let row = rows.as_array().into_iter().flatten().find(|row| row["pid"] == pid.parse::<i64>().unwrap());
        let there = row.is_some_and(|row| row["runs_on"] == to && row["comm"] == "workload");
        // Of a program that has ended: how, and what it said.
        let end = || cluster.sh("n1", "cat /home/user/status /home/user/err 2>/dev/null || true");
        if there { Ok(()) } else { Err(format!("{rows}\n{}", end())) }
    });
}

/// More steps than any program does: it ends by SIGUSR2 when its tour is over, however long that
/// takes.
const ENDLESS: &str = "1000000000";

/// What a program does at each step, and where it goes meanwhile.
pub struct Tour<'a> {
    /// CPU time of each of its threads or processes at each step.
    pub work_ms: u32,
    /// The nodes that it moves to, one after the other.
    pub nodes: &'a [&'a str],
}

/// Runs `workload` with `arguments` at n1, its output on a pipe, moves it, and compares with an
/// unmoved run. With `--echo` it also prints to a terminal.
pub fn tour(cluster: &Cluster, tour: &Tour<'_>, arguments: &[&str]) {
    let Tour { work_ms, nodes } = tour;
    let in_terminal = arguments.contains(&"--echo");
    let errors = if in_terminal { "&2" } else { "err" };
    let line = format!(
        "cd /home/user; exec 5> >(exec cat >out); \
         scx_mosix run --stay -- workload {} --steps {ENDLESS} --work-ms {work_ms} --exit 7 >&5 5>&- 2>{errors} & \
         P=$!; exec 5>&-; echo \"PID $P.\"; wait $P; echo \"STATUS $?.\" | tee status; sleep 1",
        arguments.join(" ")
    );
    let mut parent = if in_terminal {
        cluster.spawn_in_terminal("n1", "user", &format!("bash -c '{line}'"))
    } else {
        cluster.spawn("n1", "user", &["bash", "-c", &line])
    };
    let pid = pid_told(&mut parent);
    let seen_by_ps = || cluster.sh("n1", &format!("ps -o ppid=,comm=,args= -p {pid}"));
    eventually("the program has begun", Duration::from_secs(60), || {
        let out = cluster.sh("n1", "cat /home/user/out");
        if out.contains("step 3") { Ok(()) } else { Err(out) }
    });
    let before = seen_by_ps();
    for (hop, node) in nodes.iter().enumerate() {
        migrate(cluster, &pid, node);
        assert_eq!(seen_by_ps(), before, "same parent, name and arguments");
        cluster.sh("n1", &format!("kill -USR1 {pid}"));
        eventually("SIGUSR1 reaches its handler", Duration::from_secs(60), || {
            let out = cluster.sh("n1", "cat /home/user/out");
            let count = out.lines().filter(|line| *line == "USR1").count();
            if count == hop + 1 { Ok(()) } else { Err(format!("{count} of {}", hop + 1)) }
        });
    }
    cluster.sh("n1", &format!("kill -USR2 {pid}"));
    let said = parent.finish_within(Duration::from_secs(120)).success();
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
    let steps = out.lines().filter(|line| line.starts_with("step ")).count();
    let mut unmoved = Command::new(example("workload"));
    unmoved.args(arguments).args(["--steps", &steps.to_string(), "--work-ms", "0", "--exit", "7"]);
    unmoved.current_dir(dir.path());
    let unmoved = run(unmoved, Duration::from_secs(60));
    assert_eq!(unmoved.code(), 7, "{unmoved}");
    assert!(out == unmoved.stdout, "the output differs from that of an unmoved run");
    if arguments.contains(&"out.txt") {
        cluster.pull("n1", "/home/user/out.txt", &dir.path().join("moved.txt"));
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert!(read("moved.txt") == read("out.txt"), "the file that it wrote differs");
    }
    for node in cluster.nodes() {
        eventually("nothing is left behind", Duration::from_secs(60), || {
            let left = cluster.sh(
                &node,
                "ls /run/scx_mosix/mig /run/scx_mosix/agents; ls -d /sys/fs/cgroup/scx_mosix/guest-* 2>/dev/null || true",
            );
            let left: Vec<&str> = left.lines().filter(|l| !l.is_empty() && !l.ends_with(':')).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{node}: {left:?}")) }
        });
    }
}
