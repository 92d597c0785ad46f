//! A process tree moves from one place to another on one machine, through both engines. Needs root,
//! cgroup v2 and CRIU 4: so the test boots a virtual machine and runs itself there.
//!
//! The test is its own pid 1 of guests, as the agent is: so it has a `main` of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::{
    io::{BufRead, BufReader},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Mutex,
    time::Duration,
};

use async_trait::async_trait;
use scx_mosix::{
    guest::{
        self,
        init::Init,
        restore::{self, RelayedEnd},
    },
    job::SessionId,
    migration::{
        criu::Program,
        source::{self, Move, Outcome, Owner, OwnerError, Place, ProcessTree, Verdict},
        target::{self, Arrival, Host, HostError, StartedCriu},
    },
    protocol::{
        MoveProgress,
        home::{Channel, ChannelKind},
        init::Told,
        moves::{Descriptors, Relayed},
    },
};
use support::{Cluster, Options, command::run};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("agent-guest") {
        return guest::main();
    }
    // As the usual harness does with tests marked `ignore`: plain `cargo test` has neither root nor
    // CRIU.
    if !std::env::args().any(|argument| argument == "--ignored" || argument == "--include-ignored") {
        println!("there_and_on ... ignored, boots a virtual machine");
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INSIDE).is_none() {
        return in_a_machine();
    }
    // It bind-mounts the root, so it must run on a node that may be destroyed.
    assert!(Path::new("/run/vm-node").exists(), "{INSIDE} is set, but this is no node of a test cluster");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(there_and_on());
    ExitCode::SUCCESS
}

/// How long a small program may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Set where the test is to run itself.
const INSIDE: &str = "SCX_MOSIX_TEST_INSIDE";

fn in_a_machine() -> ExitCode {
    let options = Options { no_daemon: true, ..Options::default() };
    let cluster = Cluster::up("engines", 1, &options);
    cluster.push("n1", &std::env::current_exe().unwrap(), "/tmp/migration");
    let script = format!("mkdir -p /run/scx_mosix; {INSIDE}=1 /tmp/migration --include-ignored");
    let ended = cluster.exec_within("n1", "root", &["sh", "-c", &script], Duration::from_secs(400));
    println!("{}", ended.success());
    println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::SUCCESS
}

/// Home in miniature: commits whatever was restored.
struct Home {
    committed: watch::Sender<Option<u64>>,
    key: Mutex<String>,
}

#[async_trait]
impl Owner for Home {
    fn progress(&self, progress: MoveProgress) {
        println!("{progress:?}");
    }

    async fn frozen(&self) -> Result<Descriptors, OwnerError> {
        let relayed = Relayed {
            channel: Channel { id: 0, kind: ChannelKind::PipeOut },
            criu_key: self.key.lock().unwrap().clone(),
        };
        Ok(Descriptors { relayed: vec![relayed], shared_files: vec![] })
    }

    async fn dumped(&self) -> Result<(), OwnerError> {
        Ok(())
    }

    async fn committed(&self) -> u64 {
        self.committed.subscribe().wait_for(Option::is_some).await.unwrap().unwrap()
    }

    async fn abort(&self, reason: &str) -> Verdict {
        println!("abort: {reason}");
        Verdict::Aborted
    }
}

struct Guest<'a> {
    init: &'a Init,
    cgroup: PathBuf,
    home: &'a Home,
    end: Mutex<Option<OwnedFd>>,
}

#[async_trait]
impl Host for Guest<'_> {
    async fn start_criu(&self, arrival: &Arrival<'_>) -> Result<StartedCriu, HostError> {
        let program = Program::find()?;
        let descriptor = self.end.lock().unwrap().take().unwrap();
        let criu_key = arrival.begin.descriptors.relayed[0].criu_key.clone();
        let ends = vec![RelayedEnd { criu_key, descriptor }];
        Ok(restore::start(self.init, &program, &self.cgroup, arrival, ends).await?.criu)
    }

    async fn decide(&self) -> Result<u64, HostError> {
        self.home.committed.send_replace(Some(7));
        Ok(7)
    }
}

fn cgroup(name: &str) -> PathBuf {
    let base = std::env::var("SCX_MOSIX_TEST_CGROUP").unwrap_or_else(|_| "/sys/fs/cgroup".into());
    let dir = Path::new(&base).join(format!("scx_mosix-test-{}-{name}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    dir
}

fn pipe_key(pid: i32) -> String {
    std::fs::read_link(format!("/proc/{pid}/fd/1")).unwrap().to_str().unwrap().to_owned()
}

fn start(cgroup: &Path) -> Child {
    let script = "import time,sys\nx=bytearray(b'abcdefgh')*(8<<20)\ni=0\nwhile True:\n i+=1\n x[i*4096]=i%256\n print(i, hash(bytes(x[i*4096:i*4096+4])) and 1, time.monotonic(), flush=True)\n time.sleep(0.02)\n if i==200: sys.exit(sum(x[4096*k]==k%256 for k in range(1,201))==200 and 42 or 1)\n";
    let mut command = Command::new("setsid");
    // Root's programs do not move, but for those with few capabilities, which `user` has where
    // nodes share a sandbox's kernel.
    if run(user_id(), LIMIT).success() == "0\n" {
        command.args(["/usr/local/sbin/restricted-shell", "-c", "exec \"$@\"", "sh"]);
    } else {
        command.uid(1000).gid(1000);
    }
    command.args(["python3", "-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    scx_mosix::sys::cgroup::enter(cgroup, child.id().cast_signed()).unwrap();
    child
}

fn user_id() -> Command {
    let mut command = Command::new("id");
    command.args(["-u", "user"]);
    command
}

/// This machine's root, mounted once more. Unmounted however the test ends: a directory is removed
/// with all that is mounted below it.
struct BoundRoot(PathBuf);

impl BoundRoot {
    fn at(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        assert!(Command::new("mount").args(["--bind", "/"]).arg(&path).status().unwrap().success());
        Self(path)
    }
}

impl Drop for BoundRoot {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
            std::process::abort();
        }
    }
}

struct Hop {
    init: Init,
    told: tokio::sync::mpsc::Receiver<Told>,
    output: OwnedFd,
    cgroup: PathBuf,
    root_pid: i32,
    host_pid: i32,
}

async fn hop(name: &str, tree: ProcessTree, run_dir: &Path) -> Hop {
    let key = Mutex::new(pipe_key(tree.root_pid));
    let home = Home { committed: watch::Sender::new(None), key };
    let root = BoundRoot::at(run_dir.join(name));
    let (init, told) = Init::start(&root.0, "testhost").await.unwrap();
    let cgroup = cgroup(name);
    let (output, end) = std::io::pipe().unwrap();
    let guest = Guest { init: &init, cgroup: cgroup.clone(), home: &home, end: Mutex::new(Some(end.into())) };
    let migration = SessionId::random();
    let (a, b) = tokio::io::duplex(1 << 20);
    let run_source = run_dir.join(format!("{name}-source"));
    let run_target = run_dir.join(format!("{name}-target"));
    let plan = Move { migration, tree: tree.clone(), run_dir: run_source };
    let (outcome, arrived) = tokio::join!(
        source::run(&plan, &home, async { Ok(a) }, CancellationToken::new()),
        target::run(b, migration, &run_target, &guest)
    );
    println!("{outcome:?}");
    let arrived = arrived.unwrap();
    assert_eq!(outcome, Outcome::Committed { epoch: 7 });
    drop(guest);
    drop(root);
    let root_pid = arrived.begin.root_pid;
    let processes = scx_mosix::sys::cgroup::members(&cgroup).unwrap();
    let host_pid = processes.iter().find(|process| process.inner_pid == root_pid).unwrap().pid;
    Hop { init, told, output: output.into(), cgroup, root_pid, host_pid }
}

async fn there_and_on() {
    let run_dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let home = cgroup("home");
    let mut child = start(&home);
    let pid = child.id() as i32;
    let mut numbers = Vec::new();
    let mut first = BufReader::new(child.stdout.take().unwrap()).lines();
    while numbers.len() < 10 {
        numbers.push(first.next().unwrap().unwrap());
    }
    let one = hop("one", ProcessTree { root_pid: pid, cgroup: home.clone(), place: Place::Here }, run_dir.path()).await;
    child.kill().unwrap();
    child.wait().unwrap();
    numbers.extend(first.map(Result::unwrap));
    assert_eq!(one.root_pid, pid);
    let mut second = BufReader::new(std::fs::File::from(one.output)).lines();
    let before = numbers.len();
    while numbers.len() < before + 10 {
        numbers.push(second.next().unwrap().unwrap());
    }
    println!("after the first move:\n{}", numbers.join("\n"));
    let tree = ProcessTree {
        root_pid: one.host_pid,
        cgroup: one.cgroup.clone(),
        place: Place::Guest { init: one.init.pid() },
    };
    let mut two = hop("two", tree, run_dir.path()).await;
    one.init.kill().await.unwrap();
    numbers.extend(second.map(Result::unwrap));
    numbers.extend(BufReader::new(std::fs::File::from(two.output)).lines().map(Result::unwrap));
    let told = loop {
        match tokio::time::timeout(Duration::from_secs(5), two.told.recv()).await.unwrap().unwrap() {
            Told::Ended { pid, status } if pid == two.root_pid => break status,
            other => println!("{other:?}"),
        }
    };
    println!("{told:?}");
    two.init.kill().await.unwrap();
    let values: Vec<u32> = numbers.iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(values, (1..=200).collect::<Vec<_>>());
    let times: Vec<f64> = numbers.iter().map(|line| line.split(' ').nth(2).unwrap().parse().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
    println!("largest steps of the clock: {:?}", {
        let mut steps: Vec<f64> = times.windows(2).map(|p| p[1] - p[0]).collect();
        steps.sort_by(f64::total_cmp);
        steps.reverse();
        steps[..3].to_vec()
    });
    for cgroup in [&home, &one.cgroup, &two.cgroup] {
        std::fs::remove_dir(cgroup).unwrap();
    }
}
