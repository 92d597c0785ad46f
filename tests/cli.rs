//! The commands, as users call them, against a daemon in memory on a real socket; and `run` without
//! any daemon.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue ends here")]

#[path = "../src/api/memory.rs"]
mod memory;

use std::{
    io::{BufRead, BufReader},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, atomic::Ordering},
};

use memory::Memory;
use scx_mosix::{
    api::{ApiServer, SOCKET_NAME, bind_unix},
    protocol::MoveState,
};
use tokio_util::sync::CancellationToken;

const BINARY: &str = env!("CARGO_BIN_EXE_scx_mosix");

/// The daemon in memory, on a thread of its own.
struct Daemon {
    memory: Arc<Memory>,
    dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Daemon {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (memory, dir) = (Arc::new(Memory::default()), tempfile::tempdir().unwrap());
        let backend = Arc::clone(&memory);
        let socket = dir.path().join(SOCKET_NAME);
        runtime.block_on(async {
            let server = ApiServer::new(backend, None, CancellationToken::new()).await;
            let listener = bind_unix(&socket).unwrap();
            tokio::spawn(async move { server.serve_unix(listener).await });
        });
        Self { memory, dir, _runtime: runtime }
    }

    fn call(&self, words: &[&str]) -> Output {
        scx_mosix(self.dir.path(), words).output().unwrap()
    }

    fn says(&self, words: &[&str]) -> String {
        let output = self.call(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The binary with `words`, of which the first is the command.
fn scx_mosix(run_dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg(words[0]).arg("--run-dir").arg(run_dir).args(&words[1..]);
    command
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn run_becomes_the_program_under_its_own_pid() {
    let daemon = Daemon::start();
    let child = scx_mosix(daemon.dir.path(), &["run", "sh", "-c", "echo $$ $0 $1; exit 7", "a", "b"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!((text(&output.stdout), text(&output.stderr)), (format!("{pid} a b\n"), String::new()));
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(*daemon.memory.calls.lock().unwrap(), [format!("register {pid} stay false nodes [] class \"\"")]);
}

#[test]
fn run_without_a_daemon_warns_once_and_runs() {
    let empty = tempfile::tempdir().unwrap();
    let output = scx_mosix(empty.path(), &["run", "--stay", "--", "sh", "-c", "kill -USR1 $$"]).output().unwrap();
    assert_eq!(output.status.signal(), Some(10), "{output:?}");
    let warning = text(&output.stderr);
    assert_eq!(warning.lines().count(), 1, "{warning}");
    assert!(warning.contains("runs here only") && warning.contains("systemctl start scx_mosix"), "{warning}");
}

#[test]
fn run_fails_as_a_shell_does() {
    let daemon = Daemon::start();
    let nothing = daemon.call(&["run", "no-such-program"]);
    assert_eq!(nothing.status.code(), Some(127));
    assert_eq!(text(&nothing.stderr), "scx_mosix: no-such-program: No such file or directory\n");
    assert_eq!(daemon.call(&["run", "/etc/passwd"]).status.code(), Some(126));
    assert_eq!(daemon.call(&["run"]).status.code(), Some(2));
}

/// Signals and descriptors of `cat` with and without `run` in front of it, after `prepare` in the
/// child.
fn inherited(run: bool, script: &str, prepare: fn()) -> String {
    let empty = tempfile::tempdir().unwrap();
    let look = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; ls /proc/self/fd";
    let inner = if run {
        format!("{BINARY} run --run-dir {} sh -c \"{look}\"", empty.path().display())
    } else {
        format!("sh -c \"{look}\"")
    };
    let mut command = Command::new("sh");
    command.args(["-c", &script.replace("PROGRAM", &inner)]).stdin(Stdio::null());
    // SAFETY: the functions given call nothing but sigaction and sigprocmask.
    unsafe {
        command.pre_exec(move || {
            prepare();
            Ok(())
        })
    };
    text(&command.output().unwrap().stdout)
}

#[test]
fn the_program_finds_signals_and_descriptors_as_they_were() {
    let prepare: [fn(); 3] = [
        || {},
        // SAFETY: signal is async-signal-safe.
        || unsafe { _ = libc::signal(libc::SIGPIPE, libc::SIG_IGN) },
        // SAFETY: these are async-signal-safe and the set is a plain value.
        || unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGUSR2);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        },
    ];
    for (n, prepare) in prepare.into_iter().enumerate() {
        for script in ["exec PROGRAM", "exec PROGRAM <&-", "exec PROGRAM 2>&-", "exec PROGRAM 7</dev/null 2>&-"] {
            let (plain, run) = (inherited(false, script, prepare), inherited(true, script, prepare));
            assert!(plain.contains("SigBlk"), "{plain}");
            assert_eq!(run, plain, "{script}, preparation {n}");
        }
    }
}

#[test]
fn lists_are_tables_and_json() {
    let daemon = Daemon::start();
    daemon.memory.job(4711, own_uid(), "xz -9e big");
    let table = daemon.says(&["ps"]);
    assert!(table.starts_with(" PID  USER") && table.contains("xz -9e big"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&daemon.says(&["ps", "--all", "--output", "json"])).unwrap();
    let keys = [
        "pid",
        "home",
        "runs_on",
        "state",
        "command_line",
        "user",
        "cwd",
        "cpu_percent",
        "resident_bytes",
        "moves",
        "cannot_move",
    ];
    assert!(keys.iter().all(|key| json[0].get(key).is_some()), "{json}");
    assert_eq!((&json[0]["pid"], &json[0]["state"]), (&4711.into(), &"running".into()));
    let nodes: serde_json::Value = serde_json::from_str(&daemon.says(&["nodes", "-o", "json"])).unwrap();
    assert_eq!(
        (&nodes[0]["node"], &nodes[1]["node"], &nodes[0]["state"]),
        (&"n1".into(), &"n2".into(), &"alive".into())
    );
    assert!(daemon.says(&["nodes"]).contains("n1*"));
    assert!(daemon.says(&["why", "4711"]).contains("home is below its threshold"));
    let why: serde_json::Value = serde_json::from_str(&daemon.says(&["why", "n1/4711", "-o", "json"])).unwrap();
    assert_eq!(why["process"], "n1/4711");
}

#[test]
fn migrate_says_what_came_of_it() {
    let daemon = Daemon::start();
    daemon.memory.job(4711, own_uid(), "xz");
    assert!(daemon.says(&["migrate", "4711", "n2"]).contains("on its way from n1 to n2"));
    for (state, status, said) in [(MoveState::Run, 0, "runs at n2 now"), (MoveState::Aborted, 1, "stays at n1")] {
        let child = scx_mosix(daemon.dir.path(), &["migrate", "4711", "best", "--wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let asked = daemon.memory.calls.lock().unwrap().len();
        while daemon.memory.calls.lock().unwrap().len() == asked {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        daemon.memory.enter_all(state);
        let output = child.wait_with_output().unwrap();
        assert!(text(&output.stdout).contains(said), "{output:?}");
        assert_eq!(output.status.code(), Some(status));
    }
}

#[test]
fn what_may_be_done_with_a_program_is_said_and_changed() {
    let daemon = Daemon::start();
    daemon.memory.job(4711, own_uid(), "xz");
    assert_eq!(
        daemon.says(&["lock", "4711"]),
        "n1/4711 runs on n1, stays until someone asks for a move; allowed: any node\n"
    );
    assert!(daemon.says(&["ps"]).contains("(stays)"));
    assert!(daemon.says(&["allow", "n1/4711", "n2"]).ends_with("allowed: n1, n2\n"));
    assert!(daemon.says(&["ps", "-o", "wide"]).contains("n2"));
    let json: serde_json::Value = serde_json::from_str(&daemon.says(&["unlock", "4711", "-o", "json"])).unwrap();
    assert_eq!((&json["stay"], &json["allowed_nodes"][0]), (&false.into(), &"n2".into()));
    assert!(daemon.says(&["allow", "4711", "any"]).ends_with("moves by itself; allowed: any node\n"));
    let output = daemon.call(&["run", "--class", "unknown", "true"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("there is none of that name"), "{output:?}");
    // Root's, or refused.
    let drained = daemon.call(&["drain", "--wait"]);
    assert_eq!(drained.status.success(), own_uid() == 0, "{drained:?}");
}

#[test]
fn events_are_listed_and_followed() {
    let daemon = Daemon::start();
    daemon.memory.happened(1, "n2 joined the cluster");
    assert!(daemon.says(&["events"]).contains("1970-01-01T00:00:01Z  joined  n2 joined the cluster\n"));
    let mut child =
        scx_mosix(daemon.dir.path(), &["events", "--follow", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["text"], "n2 joined the cluster");
    daemon.memory.happened(2, "n3 joined the cluster");
    let second = next();
    assert_eq!((&second["text"], &second["id"]), (&"n3 joined the cluster".into(), &2.into()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_program_that_cannot_go_home_is_named() {
    let daemon = Daemon::start();
    daemon.memory.job(4711, own_uid(), "xz");
    assert_eq!(daemon.says(&["bring"]), "no program is away\n");
    let output = daemon.call(&["bring", "4711"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/4711 does not go home: "), "{output:?}");
    assert_eq!(daemon.says(&["expel"]), "there are no such guests\n");
}

#[test]
fn wait_returns_when_the_programs_have_ended() {
    let daemon = Daemon::start();
    daemon.memory.job(4711, own_uid(), "xz");
    daemon.memory.job(4712, own_uid(), "gzip");
    let mut child = scx_mosix(daemon.dir.path(), &["wait", "4711", "4712"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // It has found both, and looks again and again.
    while daemon.memory.looks.load(Ordering::Relaxed) < 10 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    daemon.memory.ended(4712);
    assert_eq!(lines.next().unwrap().unwrap(), "n1/4712 has ended");
    assert!(child.try_wait().unwrap().is_none(), "one of them runs");
    daemon.memory.ended(4711);
    assert_eq!(lines.next().unwrap().unwrap(), "n1/4711 has ended");
    assert!(child.wait().unwrap().success());
    assert_eq!(daemon.call(&["wait", "4711"]).status.code(), Some(1));
}

#[test]
fn refusals_say_what_to_do() {
    let daemon = Daemon::start();
    daemon.memory.job(4711, own_uid(), "xz");
    for (words, said) in [
        (["migrate", "9999", "n2"], "`scx_mosix ps` lists them"),
        (["migrate", "4711", "n9"], "`scx_mosix nodes` lists them"),
        (["migrate", "4711", "home"], "is on n1 already"),
    ] {
        let output = daemon.call(&words);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(said), "{output:?}");
    }
    let empty = tempfile::tempdir().unwrap();
    for command in ["ps", "nodes"] {
        let output = scx_mosix(empty.path(), &[command]).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(text(&output.stderr).contains("start it with"), "{output:?}");
    }
    assert_eq!(daemon.call(&["migrate", "x", "n2"]).status.code(), Some(2));
}

#[test]
fn check_looks_at_this_machine_without_a_daemon() {
    let empty = tempfile::tempdir().unwrap();
    let output = scx_mosix(empty.path(), &["check", "--output", "json"]).output().unwrap();
    let items: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let missing = items.as_array().unwrap().iter().any(|item| item["state"] == "missing");
    assert_eq!(output.status.code(), Some(i32::from(missing)), "{items}");
    assert!(
        items.as_array().unwrap().iter().any(|item| item["name"] == "daemon" && item["state"] == "warn"),
        "{items}"
    );
}

#[test]
fn a_key_is_made_once_and_gives_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let (key, certs) = (dir.path().join("key"), dir.path().join("certs"));
    let make = || Command::new(BINARY).args(["key", "generate", "--out"]).arg(&key).output().unwrap();
    assert!(make().status.success());
    let again = make();
    assert_eq!(again.status.code(), Some(1), "a key is never overwritten: {again:?}");
    let made = Command::new(BINARY)
        .args(["key", "client-cert", "--name", "me", "--key"])
        .arg(&key)
        .arg("--out")
        .arg(&certs)
        .status();
    assert!(made.unwrap().success());
    for file in ["ca.pem", "client.pem", "client-key.pem"] {
        assert!(certs.join(file).exists(), "{file}");
    }
}
