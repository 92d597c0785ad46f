//! The monitor on a terminal, against a daemon in memory: as large a cluster as it must show, lost
//! connections, how it gives the terminal back.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue ends here")]

#[path = "../src/api/memory.rs"]
mod memory;
mod support;

use std::{path::Path, sync::Arc, time::Duration};

use memory::Memory;
use scx_mosix::{
    api::{
        ApiServer, Backend, SOCKET_NAME, bind_unix,
        view::{NodeState, NodeSummary, ProcessState, ProcessSummary},
    },
    job::Usage,
};
use support::terminal::{SCREEN_LIMIT, Terminal};
use tokio_util::sync::CancellationToken;

const BINARY: &str = env!("CARGO_BIN_EXE_scx_mosix");
const PROGRAMS: i32 = 10_000;
const NODES: i32 = 1_000;

/// A daemon of `n1` in memory; gone when dropped.
struct Daemon {
    memory: Arc<Memory>,
    _runtime: tokio::runtime::Runtime,
}

impl Daemon {
    fn start(dir: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let memory = Arc::new(Memory::default());
        let (backend, socket) = (Arc::clone(&memory), dir.join(SOCKET_NAME));
        runtime.block_on(async {
            let server = ApiServer::new(backend, None, CancellationToken::new()).await;
            let listener = bind_unix(&socket).unwrap();
            tokio::spawn(async move { server.serve_unix(listener).await });
        });
        Self { memory, _runtime: runtime }
    }

    /// The same with 10,000 programs of 1,000 nodes.
    fn large(dir: &Path) -> Self {
        let daemon = Self::start(dir);
        let views = daemon.memory.views();
        for number in 1..=NODES {
            let (node, local, state) = (format!("n{number}"), number == 1, NodeState::Alive);
            let load = f64::from(number % 20) / 10.0;
            views.nodes.put(NodeSummary { node, local, state, load, cpus: 4, ..Default::default() });
        }
        for pid in 1..=PROGRAMS {
            views.processes.put(ProcessSummary {
                pid,
                uid: rustix::process::getuid().as_raw(),
                user: "anna".into(),
                home: "n1".into(),
                runs_on: format!("n{}", pid % NODES + 1),
                state: ProcessState::Running,
                comm: "workload".into(),
                command_line: vec!["workload".into(), format!("--number={pid}")],
                cwd: format!("/home/anna/{}", pid % 7),
                cpu_percent: f64::from(pid % 100),
                usage: Usage { processes: 1, threads: 1, resident_bytes: 1 << 20, ..Usage::default() },
                ..Default::default()
            });
        }
        daemon
    }
}

/// The monitor of the daemon whose files are in `dir`.
fn monitor(dir: &Path, (columns, lines): (u16, u16)) -> Terminal {
    let dir = dir.display();
    Terminal::here(&format!("XDG_CONFIG_HOME={dir}/config {BINARY} top --run-dir {dir}"), columns, lines)
}

/// The programs on the screen, with the titles of their columns.
fn programs(screen: &str) -> String {
    let lines = screen.lines().skip_while(|line| !line.contains("2 programs")).skip(1);
    lines.take_while(|line| !line.contains(" 3 why")).map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn ten_thousand_programs_are_scrolled_sorted_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = Daemon::large(dir.path());
    for size in [(80, 24), (120, 40), (200, 60)] {
        let mut top = monitor(dir.path(), size);
        let all = top.wait_for("all programs", SCREEN_LIMIT, |screen| {
            let is_all = screen.contains("1000 of 1000 nodes alive") && screen.contains("10000 programs, 9990 away");
            // What was read may be half a picture.
            std::thread::sleep(Duration::from_millis(300));
            is_all && programs(&top.screen()) == programs(screen)
        });
        insta::assert_snapshot!(format!("programs_{}x{}", size.0, size.1), programs(&all));
        top.send("\x1b[F");
        top.wait_for("the last one", SCREEN_LIMIT, |screen| programs(screen).contains(">  10000"));
        top.send("\x1b[H");
        top.send(&"\x1b[B".repeat(300));
        top.wait_for("300 further down", SCREEN_LIMIT, |screen| programs(screen).contains(">    301"));
        top.send("/node=n60 cpu>50 cwd:/home/anna/5\r");
        let one = "programs  1  by PID";
        top.wait_for("one program", SCREEN_LIMIT, |screen| screen.contains(one) && screen.contains("5059"));
        top.send("q");
        top.ended(0);
    }
    let settings = std::fs::read_to_string(dir.path().join("config/scx_mosix/top.toml"));
    assert!(settings.is_err(), "nothing was set otherwise, so nothing is kept: {settings:?}");
}

#[test]
fn a_lost_daemon_is_told_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut top = monitor(dir.path(), (80, 24));
    top.wait_for("there is no daemon", SCREEN_LIMIT, |screen| screen.contains("disconnected, again"));
    let daemon = Daemon::start(dir.path());
    daemon.memory.job(7, rustix::process::getuid().as_raw(), "first --one");
    top.wait_for("its daemon", SCREEN_LIMIT, |screen| screen.contains("asks n1") && screen.contains("first --one"));
    drop(daemon);
    top.wait_for("the loss", SCREEN_LIMIT, |screen| {
        screen.contains("disconnected, again") && screen.contains("first --one")
    });
    let daemon = Daemon::start(dir.path());
    daemon.memory.job(8, rustix::process::getuid().as_raw(), "second --one");
    top.wait_for("the next daemon", SCREEN_LIMIT, |screen| {
        screen.contains("asks n1") && screen.contains("second --one") && !screen.contains("first --one")
    });
    top.send("P");
    top.send("q");
    top.ended(0);
    let settings = std::fs::read_to_string(dir.path().join("config/scx_mosix/top.toml")).unwrap();
    assert!(settings.contains("column = \"CPU%\""), "{settings}");
}

#[test]
fn what_is_ordered_by_keys_reaches_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.memory.job(7, rustix::process::getuid().as_raw(), "xz -9");
    let mut top = monitor(dir.path(), (80, 24));
    top.wait_for("the program", SCREEN_LIMIT, |screen| screen.contains("xz -9"));
    let calls = || daemon.memory.calls.lock().unwrap().clone();
    top.send("ly");
    top.wait_for("it is locked", SCREEN_LIMIT, |screen| screen.contains("(stays)"));
    top.send("mn2\r");
    top.wait_for("a question", SCREEN_LIMIT, |screen| screen.contains("Move n1/7 (xz) from n1 to n2?"));
    top.send("n");
    top.wait_for("no question", SCREEN_LIMIT, |screen| !screen.contains("Move n1/7"));
    top.send("mn2\ry");
    top.wait_for("it is on its way", SCREEN_LIMIT, |screen| screen.contains("1 moving"));
    top.send("cy");
    top.wait_for("that was cancelled", SCREEN_LIMIT, |screen| screen.contains("0 moving"));
    let expected = ["constrain n1/7 Some(true) None", "migrate n1/7 Node(\"n2\")", "cancel its move was cancelled"];
    assert_eq!(calls(), expected);
    top.send("q");
    top.ended(0);
}

#[test]
fn the_terminal_is_given_back_when_a_signal_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = Daemon::start(dir.path());
    let path = dir.path().display();
    let pid_file = dir.path().join("pid");
    let program = format!("sh -c 'echo $$ >{path}/pid; exec {BINARY} top --run-dir {path}'");
    let top = Terminal::here(&program, 80, 24);
    top.wait_for("the monitor", SCREEN_LIMIT, |screen| screen.contains("asks n1"));
    let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    top.ended(0);
}

#[test]
fn without_a_terminal_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(BINARY).args(["top", "--run-dir"]).arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("needs a terminal"), "{output:?}");
}
