//! The tests' support on a real machine: commands, files, terminals, users, power; and the
//! workload, which behaves there as here.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::process::Command;
use std::time::Duration;
use support::command::run;
use support::{Cluster, EXEC_LIMIT, Options, example};

#[test]
#[ignore = "needs a cluster"]
fn a_node_does_what_the_tests_rely_on() {
    let cluster = Cluster::up("support", 1, &Options { no_daemon: true, cpus: Some(1), ..Options::default() });
    let dir = tempfile::tempdir().unwrap();

    let odd = "two  words; $HOME \"quoted\" 'and' *";
    assert_eq!(cluster.exec("n1", &["printf", "%s", odd]).success(), odd, "arguments arrive as they are");
    assert_eq!(cluster.exec("n1", &["sh", "-c", "exit 7"]).code(), 7);
    let who = cluster.exec_within("n1", "user", &["sh", "-c", "echo $USER $HOME"], EXEC_LIMIT).success();
    assert_eq!(who, "user /home/user\n");

    std::fs::write(dir.path().join("out"), vec![0xa5; 300_000]).unwrap();
    cluster.push("n1", &dir.path().join("out"), "/tmp/there");
    cluster.pull("n1", "/tmp/there", &dir.path().join("back"));
    assert_eq!(std::fs::read(dir.path().join("back")).unwrap(), vec![0xa5; 300_000]);

    cluster.push_example("workload");
    for mode in [&["threads"][..], &["family"], &["memory", "--megabytes", "8"]] {
        let arguments = [mode, &["--steps", "10", "--work-ms", "2"]].concat();
        let there = cluster.exec("n1", &[&["workload"], &arguments[..]].concat()).success();
        let mut here = Command::new(example("workload"));
        here.args(&arguments);
        assert_eq!(there, run(here, EXEC_LIMIT).success(), "{mode:?}");
    }

    let mut typed = cluster.spawn_in_terminal("n1", "user", "exec workload threads --threads 2 --steps 100000");
    typed.wait_for("step 2 ", Duration::from_secs(60));
    typed.send("\x03");
    assert_eq!(typed.finish_within(Duration::from_secs(60)).code(), 130, "Ctrl-C ends it by SIGINT");

    cluster.sh("n1", "echo kept > /root/kept; sync");
    cluster.kill("n1");
    cluster.start("n1");
    assert_eq!(cluster.sh("n1", "cat /root/kept"), "kept\n");
    assert!(cluster.log_tail("n1").lines().count() > 5);
}
