//! The program that migration tests move about must itself be above suspicion: the same output at
//! each run, all that it claims to check.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::command::{Finished, Running, run};
use support::example;

const LIMIT: Duration = Duration::from_secs(60);

fn workload(arguments: &[&str]) -> Command {
    let mut command = Command::new(example("workload"));
    command.args(arguments);
    command
}

fn finished(arguments: &[&str]) -> Finished {
    run(workload(arguments), LIMIT)
}

/// Runs twice, slow and fast, and gives the output, which must be the same.
fn twice(arguments: &[&str]) -> String {
    let slow: Vec<&str> = arguments.iter().copied().chain(["--steps", "12", "--work-ms", "3"]).collect();
    let fast: Vec<&str> = arguments.iter().copied().chain(["--steps", "12", "--work-ms", "0"]).collect();
    let output = finished(&slow).success();
    assert_eq!(output, finished(&fast).success(), "time must not matter");
    output
}

#[test]
fn threads_family_and_memory_print_the_same_at_each_run() {
    for (arguments, lines) in
        [(&["threads", "--threads", "8"][..], 12), (&["family"], 14), (&["memory", "--megabytes", "4"], 13)]
    {
        let output = twice(arguments);
        assert_eq!(output.lines().count(), lines, "{arguments:?} printed\n{output}");
        assert!(output.starts_with("step 1 value "), "{output}");
    }
    assert!(twice(&["family"]).ends_with("child 0 ended with status 10\nchild 1 ended with status 11\n"));
}

fn files(dir: &Path) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    ["files", "--input", &path("in"), "--output", &path("out.txt"), "--echo", "--work-ms", "1"]
        .map(str::to_owned)
        .to_vec()
}

#[test]
fn files_reads_writes_and_prints() {
    let dir = tempfile::tempdir().unwrap();
    // Not a multiple of the chunk, so that the end of the file is met within one.
    let content: Vec<u8> = (0..10_000_u32).map(|i| (i * 7 / 3) as u8).collect();
    std::fs::write(dir.path().join("in"), &content).unwrap();
    let arguments = files(dir.path());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--steps", "8"]).collect();
    let first = finished(&arguments);
    assert_eq!(first.stdout, first.stderr, "--echo prints the same to stderr");
    assert_eq!(std::fs::read_to_string(dir.path().join("out.txt")).unwrap(), first.stdout);
    let offsets: Vec<&str> = first.stdout.lines().filter_map(|line| line.split(' ').nth(3)).collect();
    assert_eq!(offsets, ["0", "4096", "8192", "0", "4096", "8192", "0", "4096"]);
    assert_eq!(finished(&arguments).success(), first.stdout);
    std::fs::write(dir.path().join("in"), [&content[..9_999], b"!"].concat()).unwrap();
    assert_ne!(finished(&arguments).success(), first.stdout, "what it reads matters");
}

#[test]
fn usr1_is_answered_and_other_signals_kill() {
    let mut running = Running::start(workload(&["threads", "--threads", "2", "--steps", "100000", "--work-ms", "1"]));
    running.wait_for("step 2", LIMIT);
    let kill = |pid: i32, signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    kill(running.pid(), nix::sys::signal::Signal::SIGUSR1);
    running.wait_for("USR1\n", LIMIT);
    kill(running.pid(), nix::sys::signal::Signal::SIGINT);
    assert_eq!(running.finish_within(LIMIT).code(), 130);
}

#[test]
fn usr2_ends_it_as_if_that_step_were_the_last() {
    for mode in [&["threads", "--threads", "3"][..], &["family"], &["memory", "--megabytes", "1"]] {
        let mut running = Running::start(workload(&[mode, &["--work-ms", "1", "--steps", "100000"]].concat()));
        running.wait_for("step 3", LIMIT);
        let pid = nix::unistd::Pid::from_raw(running.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR2).unwrap();
        let output = running.finish_within(LIMIT).success();
        let steps = output.lines().filter(|line| line.starts_with("step ")).count().to_string();
        assert_eq!(output, finished(&[mode, &["--work-ms", "0", "--steps", &steps]].concat()).success());
    }
}

#[test]
fn ends_as_it_is_told() {
    let short = ["memory", "--megabytes", "1", "--steps", "1", "--work-ms", "0"];
    assert_eq!(finished(&[&short[..], &["--exit", "42"]].concat()).code(), 42);
    assert_eq!(finished(&[&short[..], &["--die", "SIGTERM"]].concat()).code(), 143);
    assert_eq!(finished(&["files", "--input", "/dev/null", "--output", "/dev/null"]).code(), 1);
}

#[test]
fn a_replaced_input_goes_unnoticed_until_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    std::fs::write(&input, vec![1; 8_192]).unwrap();
    let arguments = files(dir.path());
    let mut command = workload(&["--steps", "100000"]);
    command.args(&arguments);
    let mut running = Running::start(command);
    running.wait_for("step 3", LIMIT);
    // The path now names another file, shorter than the mapping and the descriptor, which keep the
    // old one: nothing is to be noticed.
    std::fs::rename(&input, dir.path().join("old")).unwrap();
    std::fs::write(&input, "new").unwrap();
    let seen = running.stdout().lines().count() + 3;
    running.wait_for(&format!("step {seen} "), LIMIT);
    drop(running);
    let file = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(file, 3, "in, old, out.unfinished; no out.txt before the end");
}

#[test]
fn a_changed_world_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let before = dir.path().join("before");
    std::fs::create_dir(&before).unwrap();
    let mut command = workload(&["threads", "--threads", "3", "--steps", "100000", "--work-ms", "1"]);
    command.current_dir(&before);
    let mut running = Running::start(command);
    running.wait_for("step 2", LIMIT);
    std::fs::rename(&before, dir.path().join("after")).unwrap();
    let broken = running.finish_within(LIMIT);
    assert_eq!(broken.code(), 3, "{broken}");
    assert!(broken.stderr.starts_with("BROKEN: ") && broken.stderr.contains("after"), "{broken}");
}
