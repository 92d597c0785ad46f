//! The tests' support, tested without machines: a stand-in for xtask runs commands right here and
//! notes what it was asked.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::command::{Running, run};
use support::{Cluster, Options, eventually};

/// Notes each call in `calls`; `vm exec … -- CMD` runs CMD.
const STAND_IN: &str = r#"#!/bin/sh
echo "$*" >> "$(dirname "$0")/calls"
case "$2" in
exec) while [ "$1" != -- ]; do shift; done; shift; exec "$@" ;;
logs) seq 1 100; echo "the end of $3" ;;
forward) echo 127.0.0.1:12345 ;;
esac
"#;

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn calls(dir: &Path) -> Vec<String> {
    std::fs::read_to_string(dir.join("calls")).unwrap().lines().map(str::to_owned).collect()
}

/// One test, as it sets an environment variable that all of this process share.
#[test]
fn a_cluster_asks_xtask_and_goes_down_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let xtask = dir.path().join("xtask");
    std::fs::write(&xtask, STAND_IN).unwrap();
    std::fs::set_permissions(&xtask, std::fs::Permissions::from_mode(0o755)).unwrap();
    // SAFETY: no other test of this file reads or writes the environment.
    unsafe { std::env::set_var("SCX_MOSIX_XTASK", &xtask) };
    let options = Options { cpus: Some(4), no_daemon: true, plain_kernel: vec!["n2".into()], ..Options::default() };
    let cluster = Cluster::up("self", 2, &options);
    assert_eq!(cluster.sh("n1", "echo hello"), "hello\n");
    assert_eq!(cluster.exec("n2", &["sh", "-c", "exit 7"]).code(), 7);
    assert_eq!(cluster.exec("n2", &["sh", "-c", "kill -TERM $$"]).code(), 143);
    assert_eq!(cluster.forward("n1", 7470), "127.0.0.1:12345");
    cluster.net_rate("n1", "n2", 100);
    let tail = cluster.log_tail("n1");
    assert!(tail.starts_with("42\n") && tail.ends_with("the end of n1"), "{tail}");
    let mut typed =
        cluster.spawn_in_terminal("n1", "user", "trap 'echo caught; exit 9' INT; echo ready; sleep 60 & wait; exit 1");
    typed.wait_for("ready", Duration::from_secs(20));
    typed.send("\x03");
    typed.wait_for("caught", Duration::from_secs(20));
    assert_eq!(typed.finish_within(Duration::from_secs(20)).code(), 9);
    drop(cluster);
    let calls = calls(dir.path());
    assert_eq!(calls[0], "vm down --name t-self");
    assert_eq!(calls[1], "vm up --name t-self --nodes 2 --backend qemu --cpus 4 --no-daemon --plain-kernel n2");
    assert_eq!(calls[2], "vm exec n1 --name t-self --user root -- sh -ec echo hello");
    assert!(calls.contains(&"vm net rate n1 n2 100 --name t-self".to_owned()), "{calls:?}");
    assert_eq!(calls.last().unwrap(), "vm down --name t-self");
}

#[test]
fn a_failure_tells_the_command_its_status_and_output() {
    let failed = run(sh("echo out; echo err >&2; exit 3"), Duration::from_secs(20));
    assert_eq!(failed.code(), 3);
    assert_eq!(
        failed.to_string(),
        "sh -c echo out; echo err >&2; exit 3: exit status: 3\n--- stdout\nout\n--- stderr\nerr"
    );
}

#[test]
fn a_command_past_its_deadline_is_killed_with_its_children() {
    let start = Instant::now();
    let late = run(sh("echo $$; sleep 1000 & wait"), Duration::from_millis(500));
    assert!(late.status.is_none() && late.to_string().contains("did not end in time"), "{late}");
    assert!(start.elapsed() < Duration::from_secs(20));
    let group = nix::unistd::Pid::from_raw(late.stdout.trim().parse().unwrap());
    eventually("its group is gone", Duration::from_secs(10), || match nix::sys::signal::killpg(group, None) {
        Err(nix::errno::Errno::ESRCH) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
#[should_panic(expected = "\"never\" was not printed within 20s by sh -c echo something; exit 5: exit status: 5")]
fn waiting_for_output_of_an_ended_command_fails_at_once() {
    Running::start(sh("echo something; exit 5")).wait_for("never", Duration::from_secs(20));
}

#[test]
#[should_panic(expected = "the impossible: not within 100ms; at last: attempt ")]
fn eventually_fails_with_the_last_complaint() {
    let mut attempts = 0;
    eventually("the impossible", Duration::from_millis(100), || -> Result<(), String> {
        attempts += 1;
        Err(format!("attempt {attempts}"))
    });
}
