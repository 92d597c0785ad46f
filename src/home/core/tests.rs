//! A real job, frozen and moved to a guest that this test plays; a real shell waits for it. Needs
//! root, as the agent does.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command as Program, Stdio};

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::first_move;
use super::super::guests::call;
use super::*;
use crate::keys::{ClusterKey, NodeName};
use crate::link::{Carrier, Event, Link, LinkError, call_home, link};
use crate::migration::source::{Place, ProcessTree};
use crate::protocol::{
    TreeFacts,
    home::{FileOffset, GuestToHome, StdioOp, Welcome},
};

/// Waits for its background job and says how it ended; then reads on where the job's input and
/// output stopped.
const SCRIPT: &str = "exec 3<&0 4>$FILE
{ exec python3 -c 'import time; print(\"ready\", flush=True); time.sleep(1000)'; } <&3 &
echo $!; wait $!; echo status=$?; cat <&3; echo tail >&4";

struct Job {
    shell: Child,
    lines: Lines<BufReader<ChildStdout>>,
    tree: ProcessTree,
    dir: tempfile::TempDir,
}

impl Job {
    fn start(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = cgroup::directory(&format!("scx_mosix-test-home-{name}-{}", std::process::id()));
        cgroup::create(&cgroup).expect("these tests need root");
        let mut shell = Program::new("sh");
        shell
            .stderr(Stdio::null())
            .args(["-c", SCRIPT])
            .env("FILE", dir.path().join("file"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        shell.stdin.as_mut().unwrap().write_all(b"first\nrest\n").unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let mut said = [lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()];
        said.sort();
        assert_eq!(said[1], "ready");
        let tree = ProcessTree { root_pid: said[0].parse().unwrap(), cgroup, place: Place::Here };
        cgroup::enter(&tree.cgroup, tree.root_pid).unwrap();
        Self { shell, lines, tree, dir }
    }

    fn freeze(&self) {
        cgroup::freeze(&self.tree.cgroup).unwrap();
        let limit = Instant::now() + Duration::from_secs(10);
        while !cgroup::events(&self.tree.cgroup).unwrap().frozen {
            assert!(Instant::now() < limit, "the job does not freeze");
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        cgroup::kill(&self.tree.cgroup).unwrap();
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
        let limit = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.tree.cgroup).is_err() && Instant::now() < limit {}
    }
}

/// The agent of a job, and the ways to it.
struct Agent {
    callers: mpsc::Sender<(BoxedStream, Call)>,
    source: mpsc::Sender<FromSource>,
    checked: mpsc::Sender<source::Checked>,
    handle: Handle,
    core: JoinHandle<()>,
    session: SessionId,
}

impl Agent {
    fn start(job: &Job) -> Self {
        Self::with_patience(job, crate::agent::MOVE_TIMEOUT)
    }

    fn with_patience(job: &Job, patience: Duration) -> Self {
        let pid = job.tree.root_pid;
        let key = ClusterKey::generate().unwrap();
        let identity = key.mint_node_identity(&NodeName::new("n1").unwrap(), &[]).unwrap();
        let connector = Connector::new(&serde_json::to_string(&identity.bundle()).unwrap()).unwrap();
        let session = SessionId::random();
        let start_time_ticks = start_time_ticks(pid).unwrap();
        let role = HomeRole { session, root_pid: pid, start_time_ticks, cgroup: job.tree.cgroup.clone() };
        let root = crate::home::files::open_root(pid as u32).unwrap();
        let run_dir = job.dir.path().into();
        let settings = Settings { run_dir, node: "n1".into(), role, connector, root, patience };
        let (core, handle) = Core::new(settings);
        let (callers, source, checked) = (core.to.callers.clone(), core.to.source.clone(), core.to.checked.clone());
        Self { callers, source, checked, handle, core: tokio::spawn(core.run()), session }
    }

    async fn begin(&self, migration: SessionId) {
        let begun = self.try_begin(migration).await;
        assert!(matches!(begun, FromAgent::Begun { refused: None, .. }), "{begun:?}");
    }

    async fn try_begin(&self, migration: SessionId) -> FromAgent {
        let mut reports = self.handle.reports.subscribe();
        let checked = source::Checked { migration, target: "n2".into(), facts: Ok(TreeFacts::default()) };
        assert!(self.checked.send(checked).await.is_ok());
        timeout(Duration::from_secs(5), reports.recv()).await.unwrap().unwrap()
    }

    fn is_moving(&self) -> bool {
        matches!(&*self.handle.state.borrow(), AgentState::Home { moving: Some(_), .. })
    }

    /// A guest calls; its carrier runs until aborted.
    async fn call(
        &self,
        mut carrier: Carrier<HomeToGuest>,
        migration: SessionId,
        epoch: Option<u64>,
    ) -> JoinHandle<()> {
        let (stream, welcome) = self.greet(migration, epoch).await.unwrap();
        tokio::spawn(async move { drop(carrier.carry(stream, welcome.received).await) })
    }

    async fn try_call(&self, migration: SessionId, epoch: Option<u64>) -> Result<(), LinkError> {
        self.greet(migration, epoch).await.map(drop)
    }

    async fn greet(
        &self,
        migration: SessionId,
        epoch: Option<u64>,
    ) -> Result<(tokio::io::DuplexStream, Welcome), LinkError> {
        let (mut ours, theirs) = tokio::io::duplex(1 << 16);
        let mut theirs: BoxedStream = Box::new(theirs);
        let callers = self.callers.clone();
        tokio::spawn(async move {
            let call = call(&mut theirs).await.unwrap();
            assert!(callers.send((theirs, call)).await.is_ok());
        });
        let (session, received) = (self.session, 0);
        let call = Call { node: "n2".into(), session, migration, epoch, received };
        let welcome = call_home(&mut ours, call).await?;
        Ok((ours, welcome))
    }
}

type GuestLink = Link<GuestToHome, HomeToGuest>;

async fn control(link: &mut GuestLink) -> HomeToGuest {
    loop {
        let event = timeout(Duration::from_secs(10), link.events.recv()).await.expect("home says nothing").unwrap();
        if let Event::Control(message) = event {
            return message;
        }
    }
}

/// Freezes the job and has the core hear of it; the channels of its standard input and output.
async fn frozen_and_dumped(agent: &Agent, job: &Job) -> (u32, u32) {
    job.freeze();
    let (taken, originals) = first_move::take(&job.tree).unwrap();
    // By name: the user of the tests may have left other pipes open.
    let channel = |fd: i32| {
        let name = fs::read_link(format!("/proc/{}/fd/{fd}", job.tree.root_pid)).unwrap();
        taken.channels.iter().find(|taken| Path::new(&taken.criu_key) == name).unwrap().channel.id
    };
    let channels = (channel(0), channel(1));
    assert!(agent.source.send(FromSource::Frozen { taken, originals }).await.is_ok());
    assert!(agent.source.send(FromSource::Dumped).await.is_ok());
    channels
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_committed_guest_may_call_again() {
    let job = Job::start("redial");
    let agent = Agent::start(&job);
    let migration = SessionId::random();
    agent.begin(migration).await;
    let (mut guest, carrier) = link::<GuestToHome, HomeToGuest>();
    let carrying = agent.call(carrier, migration, None).await;
    frozen_and_dumped(&agent, &job).await;
    guest.sender.control(&GuestToHome::Restored { migration }).await.unwrap();
    assert_eq!(control(&mut guest).await, HomeToGuest::Run { migration, epoch: 1 });
    carrying.abort();
    assert!(carrying.await.is_err());

    let epoch_file = job.dir.path().join(format!("jobs/{}.epoch", agent.session));
    assert_eq!(fs::read_to_string(epoch_file).unwrap(), "1\n");
    until(|| matches!(&*agent.handle.state.borrow(), AgentState::Home { runs_on, epoch: 1, .. } if runs_on == "n2"))
        .await;
    let late = agent.try_call(migration, Some(2)).await;
    assert!(late.unwrap_err().to_string().contains("epoch 2"));
    let stranger = agent.try_call(SessionId::random(), None).await;
    assert!(stranger.unwrap_err().to_string().contains("not, or no longer, wanted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_input_output_offsets_and_the_end_are_as_at_home() {
    let mut job = Job::start("ends");
    let pid = job.tree.root_pid;
    let agent = Agent::start(&job);
    let migration = SessionId::random();
    agent.begin(migration).await;
    let (mut guest, carrier) = link::<GuestToHome, HomeToGuest>();
    let _carrying = agent.call(carrier, migration, None).await;
    let (input, output) = frozen_and_dumped(&agent, &job).await;
    let tell = guest.sender.clone();
    tell.control(&GuestToHome::Restored { migration }).await.unwrap();

    // What lies in the pipe is shown; the process tree reads one line of it.
    let shown = loop {
        match timeout(Duration::from_secs(10), guest.events.recv()).await.unwrap().unwrap() {
            Event::Stdio(stdio) if stdio.channel == input => break stdio,
            Event::Stdio(_) => {}
            Event::Control(message) => assert_eq!(message, HomeToGuest::Run { migration, epoch: 1 }),
        }
    };
    assert_eq!(shown.op, StdioOp::Data("first\nrest\n".into()));
    tell.stdio().send(input, StdioOp::Taken(6)).await.unwrap();

    until(|| fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("SigBlk:\tfffffffffffbfeff")).await;
    assert!(Program::new("kill").args(["-USR1", &pid.to_string()]).status().unwrap().success());
    loop {
        if let HomeToGuest::Signal(signal) = control(&mut guest).await {
            assert_eq!((signal.pid, signal.signal), (pid, libc::SIGUSR1));
            break;
        }
    }
    tell.stdio().send(output, StdioOp::Data("from afar\n".into())).await.unwrap();
    let file = job.dir.path().join("file");
    fs::OpenOptions::new().write(true).open(&file).unwrap().write_all(b"written there\n").unwrap();
    tell.control(&GuestToHome::Offsets { offsets: vec![FileOffset { id: 0, offset: 14 }] }).await.unwrap();
    tell.control(&GuestToHome::Exited { pid, status: ExitStatus::Exited(5) }).await.unwrap();
    tell.control(&GuestToHome::Ended).await.unwrap();
    assert_eq!(job.lines.next().unwrap().unwrap(), "from afar");
    assert_eq!(job.lines.next().unwrap().unwrap(), "status=5");
    drop(job.shell.stdin.take());
    assert_eq!(job.lines.next().unwrap().unwrap(), "rest");
    assert_eq!(control(&mut guest).await, HomeToGuest::Done);
    assert!(job.shell.wait().unwrap().success());
    let mut text = String::new();
    fs::File::open(&file).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "written there\ntail\n");
    timeout(Duration::from_secs(10), agent.core).await.expect("the agent stays").unwrap();
}

async fn until(mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < limit);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_given_up_leaves_the_program_alone() {
    let job = Job::start("aborted");
    let agent = Agent::start(&job);
    let migration = SessionId::random();
    agent.begin(migration).await;
    let (mut guest, carrier) = link::<GuestToHome, HomeToGuest>();
    let _carrying = agent.call(carrier, migration, None).await;
    frozen_and_dumped(&agent, &job).await;
    let (verdict, answer) = tokio::sync::oneshot::channel();
    assert!(agent.source.send(FromSource::Abort { reason: "a test".into(), verdict }).await.is_ok());
    assert_eq!(answer.await.unwrap(), crate::migration::source::Verdict::Aborted);
    cgroup::thaw(&job.tree.cgroup).unwrap();
    guest.sender.clone().control(&GuestToHome::Restored { migration }).await.unwrap();
    assert_eq!(control(&mut guest).await, HomeToGuest::Aborted { migration, reason: "a test".into() });
    let status = fs::read_to_string(format!("/proc/{}/status", job.tree.root_pid)).unwrap();
    assert!(!status.contains("SigBlk:\tfffffffffffbfeff"), "it is no deputy");
    agent.begin(SessionId::random()).await;
}

#[tokio::test]
async fn a_move_that_its_daemon_does_not_continue_is_aborted() {
    let job = Job::start("forgotten");
    let patience = Duration::from_secs(1);
    let agent = Agent::with_patience(&job, patience);
    let begun = Instant::now();
    agent.begin(SessionId::random()).await;
    until(|| agent.is_moving()).await;
    until(|| !agent.is_moving()).await;
    assert!(begun.elapsed() >= patience);
    agent.begin(SessionId::random()).await;
}

#[tokio::test]
async fn a_gated_program_resumes_though_moves_of_it_are_begun() {
    let job = Job::start("held");
    let agent = Agent::with_patience(&job, Duration::from_secs(2));
    job.freeze();
    let limit = Instant::now() + Duration::from_secs(10);
    while cgroup::events(&job.tree.cgroup).unwrap().frozen {
        assert!(Instant::now() < limit, "it is held for ever");
        drop(agent.try_begin(SessionId::random()).await);
        tokio::time::sleep(LOOK_EVERY / 5).await;
    }
}

#[tokio::test]
async fn a_move_cancelled_before_the_check_does_not_begin() {
    let job = Job::start("early");
    let agent = Agent::start(&job);
    let migration = SessionId::random();
    let cancel = ToAgent::Cancel { migration, reason: "a test".into() };
    agent.handle.requests.send((cancel, None)).await.unwrap();
    // Requests and looks come by different ways: this one is answered only after the first.
    tokio::time::sleep(LOOK_EVERY).await;
    let begun = agent.try_begin(migration).await;
    assert!(matches!(begun, FromAgent::Begun { refused: Some(_), .. }), "{begun:?}");
    assert!(!agent.is_moving());
    agent.begin(SessionId::random()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_killed_with_its_deputy() {
    let mut job = Job::start("killed");
    let pid = job.tree.root_pid;
    let agent = Agent::start(&job);
    let migration = SessionId::random();
    agent.begin(migration).await;
    let (mut guest, carrier) = link::<GuestToHome, HomeToGuest>();
    let _carrying = agent.call(carrier, migration, None).await;
    frozen_and_dumped(&agent, &job).await;
    guest.sender.clone().control(&GuestToHome::Restored { migration }).await.unwrap();
    until(|| fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("SigBlk:\tfffffffffffbfeff")).await;
    assert!(Program::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    assert_eq!(job.lines.next().unwrap().unwrap(), "status=137");
    loop {
        if let HomeToGuest::Signal(signal) = control(&mut guest).await {
            assert_eq!((signal.pid, signal.signal), (pid, libc::SIGKILL));
            break;
        }
    }
}
