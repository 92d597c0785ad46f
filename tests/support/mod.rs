//! What tests in clusters stand on: clusters that go away by themselves, commands with deadlines,
//! waiting with a reason.
//!
//! ```text
//!   test ── Cluster::up("name", 3, …) ──> $SCX_MOSIX_XTASK vm up --name t-name --nodes 3 --backend …
//!        ── exec / spawn / push / kill / net_cut … ──> $SCX_MOSIX_XTASK vm …
//!        ── drop ──> prints the ends of all nodes' logs if the test failed; vm down
//! ```
//!
//! `cargo xtask test` sets SCX_MOSIX_XTASK, and SCX_MOSIX_TEST_BACKEND to what nodes are unless a
//! test needs kernels of its own. Tests that need it carry `#[ignore = "needs a cluster"]`, so that
//! a plain `cargo test` says that it passes them over. With SCX_MOSIX_KEEP=1 a failed test's
//! cluster is left running.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot continue fails by a panic"
)]

pub mod command;
pub mod grpcurl;
pub mod programs;
pub mod terminal;
pub mod tour;

use command::{Finished, Running};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long booting may take: a loaded machine without KVM needs minutes.
const UP_LIMIT: Duration = Duration::from_secs(900);
/// How long a command on a node may take unless the test says otherwise.
pub const EXEC_LIMIT: Duration = Duration::from_secs(120);
/// Between two attempts of [`eventually`].
const LEAST_PAUSE: Duration = Duration::from_millis(50);
const MOST_PAUSE: Duration = Duration::from_secs(1);
/// Lines of each node's log that a failed test shows.
const LOG_LINES: usize = 60;

/// How to boot.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// CPUs of each node; `None` for the harness's default.
    pub cpus: Option<u32>,
    /// Memory of each node, in MiB; `None` for the harness's default.
    pub memory_mib: Option<u32>,
    /// Do not start scx_mosix.
    pub no_daemon: bool,
    /// Nodes whose kernel is to lack sched_ext.
    pub plain_kernel: Vec<String>,
    /// Nodes are virtual machines in any case: the test needs kernels that it may strain or that
    /// have sched_ext.
    pub own_kernel: bool,
}

impl Options {
    /// Whether nodes are virtual machines, which are slow where there is no KVM.
    pub fn is_emulated(&self) -> bool {
        self.backend() != "namespaces"
    }

    fn backend(&self) -> String {
        let native = !self.own_kernel && self.plain_kernel.is_empty();
        std::env::var("SCX_MOSIX_TEST_BACKEND").ok().filter(|_| native).unwrap_or_else(|| "qemu".to_owned())
    }
}

/// A running cluster, n1 to nN. Goes down when dropped.
pub struct Cluster {
    name: String,
    nodes: usize,
    xtask: PathBuf,
}

impl Cluster {
    /// Boots `nodes` nodes as cluster `t-NAME`; one that an earlier run left behind goes down
    /// first.
    pub fn up(name: &str, nodes: usize, options: &Options) -> Self {
        let xtask = std::env::var_os("SCX_MOSIX_XTASK").expect(
            "SCX_MOSIX_XTASK names no xtask binary: run the tests by `cargo xtask test`, which makes the clusters",
        );
        let cluster = Self { name: format!("t-{name}"), nodes, xtask: xtask.into() };
        // Fails if there is nothing to take down, which is what we want.
        command::run(cluster.vm(["down"]), EXEC_LIMIT);
        let mut up = cluster.vm(["up"]);
        up.args(["--nodes", &nodes.to_string(), "--backend", &options.backend()]);
        if let Some(cpus) = options.cpus {
            up.args(["--cpus", &cpus.to_string()]);
        }
        if let Some(mib) = options.memory_mib {
            up.args(["--mem", &mib.to_string()]);
        }
        if options.no_daemon {
            up.arg("--no-daemon");
        }
        for node in &options.plain_kernel {
            up.args(["--plain-kernel", node]);
        }
        command::run(up, UP_LIMIT).success();
        cluster
    }

    /// `vm WORDS --name CLUSTER`, to which arguments may be added.
    fn vm<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = Command::new(&self.xtask);
        command.arg("vm").args(words).args(["--name", &self.name]);
        command
    }

    fn vm_do<const N: usize>(&self, words: [&str; N], limit: Duration) -> String {
        command::run(self.vm(words), limit).success()
    }

    fn exec_command(&self, node: &str, user: &str, program: &[&str]) -> Command {
        let mut command = self.vm(["exec", node]);
        command.args(["--user", user, "--"]).args(program);
        command
    }

    /// The nodes' names.
    pub fn nodes(&self) -> Vec<String> {
        (1..=self.nodes).map(|number| format!("n{number}")).collect()
    }

    /// Runs a program on a node as root and gives what came of it, whatever that is.
    pub fn exec(&self, node: &str, program: &[&str]) -> Finished {
        self.exec_within(node, "root", program, EXEC_LIMIT)
    }

    /// The same as a user, with a limit of its own.
    pub fn exec_within(&self, node: &str, user: &str, program: &[&str], limit: Duration) -> Finished {
        command::run(self.exec_command(node, user, program), limit)
    }

    /// Ends the daemon of a node as systemd does, and waits for that.
    pub fn stop_daemon(&self, node: &str) {
        self.sh(node, "pid=$(cat /run/scx_mosix.pid); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.1; done");
    }

    /// Runs a shell script on a node as root, which must succeed, and gives its stdout.
    pub fn sh(&self, node: &str, script: &str) -> String {
        self.exec(node, &["sh", "-ec", script]).success()
    }

    /// Runs `scx_mosix` on a node as root.
    pub fn scx_mosix(&self, node: &str, arguments: &[&str]) -> Finished {
        let program: Vec<&str> = std::iter::once("scx_mosix").chain(arguments.iter().copied()).collect();
        self.exec(node, &program)
    }

    /// Runs `scx_mosix … --output json` on a node, which must succeed, and gives what it lists.
    pub fn json(&self, node: &str, arguments: &[&str]) -> serde_json::Value {
        let all: Vec<&str> = arguments.iter().copied().chain(["--output", "json"]).collect();
        let text = self.scx_mosix(node, &all).success();
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("scx_mosix {all:?} on {node} printed no JSON ({error}):\n{text}"))
    }

    /// Starts a program on a node, its stdin, stdout and stderr being pipes.
    pub fn spawn(&self, node: &str, user: &str, program: &[&str]) -> Running {
        Running::start(self.exec_command(node, user, program))
    }

    /// Starts a shell command on a terminal of its own on a node: what is sent is typed (`\x03` is
    /// Ctrl-C), stdout is what the terminal shows. Ends with the command's status.
    pub fn spawn_in_terminal(&self, node: &str, user: &str, command: &str) -> Running {
        self.spawn(node, user, &["script", "--quiet", "--return", "--flush", "--command", command, "/dev/null"])
    }

    /// Copies a file or directory to a node.
    pub fn push(&self, node: &str, here: &Path, there: &str) {
        self.vm_do(["push", node, &here.display().to_string(), there], EXEC_LIMIT);
    }

    /// Copies a file or directory from a node.
    pub fn pull(&self, node: &str, there: &str, here: &Path) {
        self.vm_do(["pull", node, there, &here.display().to_string()], EXEC_LIMIT);
    }

    /// Copies one of this package's examples to `/usr/local/bin` of each node.
    pub fn push_example(&self, name: &str) {
        let example = example(name);
        for node in self.nodes() {
            self.push(&node, &example, &format!("/usr/local/bin/{name}"));
        }
    }

    /// Powers a node off at once.
    pub fn kill(&self, node: &str) {
        self.vm_do(["kill", node], EXEC_LIMIT);
    }

    /// Boots a node that was powered off.
    pub fn start(&self, node: &str) {
        self.vm_do(["start", node], UP_LIMIT);
    }

    /// Lets nothing pass between two nodes.
    pub fn net_cut(&self, a: &str, b: &str) {
        self.vm_do(["net", "cut", a, b], EXEC_LIMIT);
    }

    /// Lets everything pass again.
    pub fn net_heal(&self, a: &str, b: &str) {
        self.vm_do(["net", "heal", a, b], EXEC_LIMIT);
    }

    /// Limits the rate between two nodes, in 10^6 bits a second; 0 lifts the limit.
    pub fn net_rate(&self, a: &str, b: &str, mbit: u32) {
        self.vm_do(["net", "rate", a, b, &mbit.to_string()], EXEC_LIMIT);
    }

    /// A local address that reaches a node's TCP port.
    pub fn forward(&self, node: &str, port: u16) -> String {
        self.vm_do(["forward", node, &port.to_string()], EXEC_LIMIT).trim().to_owned()
    }

    /// Writes the client's certificate of this cluster into a directory.
    pub fn credentials(&self, dir: &Path) {
        self.vm_do(["credentials", &dir.display().to_string()], UP_LIMIT);
    }

    /// The end of a node's console and daemon log, or why there is none.
    pub fn log_tail(&self, node: &str) -> String {
        let logs = command::run(self.vm(["logs", node]), EXEC_LIMIT);
        let lines: Vec<&str> = logs.stdout.lines().chain(logs.stderr.lines()).collect();
        lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in self.nodes() {
                eprintln!("===== {}: the end of {node}'s log\n{}", self.name, self.log_tail(&node));
            }
            if std::env::var_os("SCX_MOSIX_KEEP").is_some_and(|keep| keep == "1") {
                eprintln!(
                    "===== {} is left running (SCX_MOSIX_KEEP=1); `cargo xtask vm down --name {}` ends it",
                    self.name, self.name
                );
                return;
            }
        }
        let down = command::run(self.vm(["down"]), EXEC_LIMIT);
        if !down.status.is_some_and(|status| status.success()) {
            eprintln!("===== {down}");
        }
    }
}

/// The path of one of this package's examples, which `cargo test` builds beside the tests.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in PROFILE/deps");
    let path = profile.join("examples").join(name);
    assert!(path.exists(), "{} is missing: `cargo build --example {name}` makes it", path.display());
    path
}

/// Tries until `attempt` gives a value; fails with its last complaint after `limit`.
pub fn eventually<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        let asked = Instant::now();
        match attempt() {
            Ok(value) => return value,
            Err(complaint) if start.elapsed() >= limit => panic!("{what}: not within {limit:?}; at last: {complaint}"),
            // What is dear, as commands in virtual machines are, is asked less often.
            Err(_) => std::thread::sleep((4 * asked.elapsed()).clamp(LEAST_PAUSE, MOST_PAUSE)),
        }
    }
}
