//! Real programs, frozen and turned into deputies, seen by a real shell that waits for them. Needs
//! root, as the agents do.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command as Program, Stdio};
use std::time::Instant;

use super::*;
use crate::sys::cgroup;

#[test]
fn arguments_are_laid_out_for_execve() {
    let args = Arguments::new(b"sh\0-c\0\0x y\0");
    assert_eq!(args.starts, [0, 3, 6, 7]);
    let bytes = args.bytes(1000);
    assert_eq!(bytes.len() as u64 + ARGS_AT, args.total_bytes());
    assert_eq!(bytes[..8], 1040_u64.to_le_bytes());
    assert_eq!(bytes[32..40], 0_u64.to_le_bytes());
    assert_eq!(&bytes[40..], b"sh\0-c\0\0x y\0");
    assert_eq!(args.vectors(1000), (1000, 1032));
    assert_eq!(Arguments::new(b"").starts, [0]);
}

pub(super) fn make_cgroup(name: &str) -> PathBuf {
    let path = cgroup::directory(&format!("scx_mosix-test-{name}-{}", std::process::id()));
    cgroup::create(&path).expect("these tests need root");
    path
}

pub(super) fn remove_cgroup(cgroup: &Path) {
    cgroup::kill(cgroup).unwrap();
    let limit = Instant::now() + Duration::from_secs(5);
    while fs::remove_dir(cgroup).is_err() && Instant::now() < limit {}
}

/// Freezes `pids` in the cgroup and turns them into deputies.
pub(super) fn deputise_in(cgroup: &Path, pids: &[i32]) -> Vec<Deputised> {
    for pid in pids {
        cgroup::enter(cgroup, *pid).unwrap();
    }
    cgroup::freeze(cgroup).unwrap();
    let limit = Instant::now() + Duration::from_secs(10);
    while !cgroup::events(cgroup).unwrap().frozen {
        assert!(Instant::now() < limit, "the job does not freeze");
    }
    let originals: Vec<_> = pids.iter().map(|pid| Original { pid: *pid, dumped_signals: 0 }).collect();
    let results = deputise(&originals, || cgroup::thaw(cgroup).map_err(|error| error.cause));
    results.into_iter().map(|result| result.unwrap()).collect()
}

/// A shell that runs a program in the background, prints its pid, waits, prints its status.
struct Job {
    shell: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pid: i32,
    cgroup: PathBuf,
}

impl Job {
    fn start(name: &str, program: &str) -> Self {
        let cgroup = make_cgroup(name);
        let script = format!("{program} & echo $!; wait $!; echo status=$?");
        let mut shell =
            Program::new("sh").args(["-c", &script]).stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        // The shell and the program write their lines in either order.
        let mut said = [lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()];
        said.sort();
        let [pid, ready] = said;
        assert_eq!(ready, "ready");
        let pid = pid.parse().unwrap();
        Self { shell, lines, pid, cgroup }
    }

    fn deputise(&self, pids: &[i32]) -> Vec<Deputised> {
        deputise_in(&self.cgroup, pids)
    }

    fn status(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        cgroup::kill(&self.cgroup).unwrap();
        self.shell.wait().unwrap();
        remove_cgroup(&self.cgroup);
    }
}

pub(super) fn send(deputy: &Deputised, command: Command) {
    rustix::io::write(&deputy.socket, &command.encode()).unwrap();
}

fn hear(deputy: &Deputised) -> [u8; REPORT_BYTES] {
    let mut packet = [0; REPORT_BYTES];
    rustix::io::read(&deputy.socket, &mut packet).unwrap();
    packet
}

fn proc(pid: i32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

fn status_field(pid: i32, field: &str) -> String {
    let status = proc(pid, "status");
    status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned()
}

/// Session, group, parent, as `stat` has them.
fn family(pid: i32) -> Vec<String> {
    proc(pid, "stat").rsplit(')').next().unwrap().split_whitespace().skip(1).take(3).map(str::to_owned).collect()
}

const THREADS: &str = "exec python3 -c '
import threading, time
def work():
    while True: time.sleep(0.001)
for _ in range(7): threading.Thread(target=work, daemon=True).start()
print(\"ready\", flush=True)
while True: sum(range(1000))
' and more";

#[test]
fn eight_threads_become_one_deputy_that_looks_the_same() {
    let mut job = Job::start("threads", &format!("{{ {THREADS}; }}"));
    let before = (proc(job.pid, "cmdline"), proc(job.pid, "comm"), family(job.pid));
    assert_eq!(status_field(job.pid, "Threads:"), "8");
    let deputy = &job.deputise(&[job.pid])[0];
    assert_eq!((proc(job.pid, "cmdline"), proc(job.pid, "comm"), family(job.pid)), before);
    assert_eq!(status_field(job.pid, "Threads:"), "1");
    assert_eq!(status_field(job.pid, "SigBlk:"), "fffffffffffbfeff");
    assert_eq!(fs::read_dir(format!("/proc/{}/fd", job.pid)).unwrap().count(), 2, "socket and signalfd only");

    let kill = Program::new("kill").args(["-USR1", &job.pid.to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(Report::decode(&hear(deputy)), Some(Report::Signal { signal: libc::SIGUSR1, code: 0, value: 0 }));
    send(deputy, Command::Exit(42));
    assert_eq!(job.status(), "status=42");
}

#[test]
fn a_deputy_dies_by_its_process_s_signal_without_a_core() {
    let mut job = Job::start("signal", "{ echo ready; exec sleep 1000; }");
    let deputy = &job.deputise(&[job.pid])[0];
    assert_eq!(proc(job.pid, "comm"), "sleep\n");
    send(deputy, Command::Kill(libc::SIGSEGV as u8));
    assert_eq!(job.status(), "status=139");
}

#[test]
fn a_deputy_without_a_home_agent_reports_the_loss() {
    let mut job = Job::start("lost", "{ echo ready; exec sleep 1000; }");
    drop(job.deputise(&[job.pid]));
    assert_eq!(job.status(), format!("status={}", crate::protocol::deputy::LOST_EXIT_CODE));
}

#[test]
fn a_deputy_stops_and_continues_as_its_process_does() {
    let mut job = Job::start("stop", "{ echo ready; exec sleep 1000; }");
    let deputy = &job.deputise(&[job.pid])[0];
    send(deputy, Command::Stop(libc::SIGSTOP as u8));
    let limit = Instant::now() + Duration::from_secs(5);
    while !status_field(job.pid, "State:").starts_with('T') {
        assert!(Instant::now() < limit, "the deputy does not stop");
    }
    let kill = Program::new("kill").args(["-CONT", &job.pid.to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(Report::decode(&hear(deputy)), Some(Report::Signal { signal: libc::SIGCONT, code: 0, value: 0 }));
    send(deputy, Command::Exit(0));
    assert_eq!(job.status(), "status=0");
}

#[test]
fn a_tree_becomes_a_tree_of_deputies() {
    let mut job = Job::start("tree", "sh -c 'sleep 1000 & sleep 1001 & sleep 0.3; echo ready; wait'");
    let children: Vec<i32> = proc(job.pid, &format!("task/{}/children", job.pid))
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert_eq!(children.len(), 2);
    let deputies = job.deputise(&[job.pid, children[0], children[1]]);
    assert_eq!(proc(children[1], "cmdline"), "sleep\x001001\0");
    assert_eq!(family(children[0])[0], job.pid.to_string());
    send(&deputies[1], Command::Exit(3));
    let limit = Instant::now() + Duration::from_secs(5);
    while fs::exists(format!("/proc/{}", children[0])).unwrap() {
        assert!(Instant::now() < limit, "the parent's deputy does not reap its child");
    }
    // A child's end is no news for home, a SIGCHLD from kill(2) is.
    assert!(Program::new("kill").args(["-CHLD", &job.pid.to_string()]).status().unwrap().success());
    assert_eq!(Report::decode(&hear(&deputies[0])), Some(Report::Signal { signal: libc::SIGCHLD, code: 0, value: 0 }));
    send(&deputies[2], Command::Kill(libc::SIGKILL as u8));
    send(&deputies[0], Command::Exit(7));
    assert_eq!(job.status(), "status=7");
}

#[test]
fn timers_that_moved_do_not_ring_at_home() {
    let program = "{ exec python3 -c 'import signal, time; signal.setitimer(signal.ITIMER_REAL, 0.3, 0.3); signal.signal(signal.SIGALRM, signal.SIG_IGN); print(\"ready\", flush=True); time.sleep(1000)'; }";
    let mut job = Job::start("timer", program);
    let deputy = &job.deputise(&[job.pid])[0];
    rustix::net::sockopt::set_socket_timeout(
        &deputy.socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(Duration::from_millis(900)),
    )
    .unwrap();
    assert!(rustix::io::read(&deputy.socket, &mut [0; 64]).is_err());
    send(deputy, Command::Exit(1));
    assert_eq!(job.status(), "status=1");
}

#[test]
fn a_process_that_is_gone_is_a_harmless_error() {
    let mut child = Program::new("true").spawn().unwrap();
    child.wait().unwrap();
    let gone = Original { pid: child.id() as i32, dumped_signals: 0 };
    assert_eq!(deputise(&[gone], || Ok(())).remove(0).unwrap_err().pid, gone.pid);
}
