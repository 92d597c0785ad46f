//! Init as its agent sees it.

use std::{
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use nix::sched::CloneFlags;
use tokio::{
    process::{Child, Command},
    sync::{Mutex, mpsc},
    time::timeout,
};

use super::{AGENT_FD, NAME};
use crate::{
    protocol::{
        ProtocolError,
        init::{Ask, Restore, Told},
        packet::PacketSocket,
    },
    sys::{
        child::{self, Namespaces, Setup},
        pidfd,
    },
};

/// How long init may take for an answer; under emulation the guest's world takes some 100 ms.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a killed guest may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Reports that wait for a slow agent; init itself waits when there are more.
const QUEUE: usize = 256;

/// Why init does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// It cannot be started or reached.
    #[error("cannot {what} of the guest")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// What it is asked or tells does not get through.
    #[error("pid 1 of the guest cannot be reached")]
    Unreachable(#[from] ProtocolError),
    /// It could not do what it was asked.
    #[error("{0}")]
    Refused(String),
    /// It has ended.
    #[error("pid 1 of the guest has ended")]
    Ended,
    /// It does not answer.
    #[error("pid 1 of the guest did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    TimedOut,
}

fn cannot(what: &'static str) -> impl FnOnce(io::Error) -> InitError {
    move |source| InitError::Io { what, source }
}

/// A CRIU that init has started.
#[derive(Debug)]
pub struct Restoring {
    /// Its number in the guest.
    pub criu_pid: i32,
    /// The master of the guest's terminal, if it has one.
    pub terminal: Option<OwnedFd>,
}

/// Pid 1 of a guest. Dropped, it is killed, and with it everything in the guest.
pub struct Init {
    socket: Arc<PacketSocket<Ask, Told>>,
    answers: Mutex<mpsc::Receiver<(Told, Vec<OwnedFd>)>>,
    pid: i32,
    pidfd: OwnedFd,
    keeper: Child,
}

impl Init {
    /// Starts init and has it make the guest's world out of the tree mounted at `root`. The second
    /// value is what becomes of init's children; it ends when init does.
    pub async fn start(root: &Path, hostname: &str) -> Result<(Self, mpsc::Receiver<Told>), InitError> {
        let (socket, theirs) = PacketSocket::pair()?;
        let keeper = spawn(&theirs).map_err(cannot("start pid 1"))?;
        drop(theirs);
        let pid = only_child(&keeper).map_err(cannot("find pid 1"))?;
        let pidfd = pidfd::open(pid).map_err(cannot("hold on to pid 1"))?;
        let socket = Arc::new(socket);
        let (answer, answers) = mpsc::channel(4);
        let (event, events) = mpsc::channel(QUEUE);
        tokio::spawn(listen(socket.clone(), answer, event));
        let init = Self { socket, answers: Mutex::new(answers), pid, pidfd, keeper };
        match init.ask(&Ask::Setup { root: root.into(), hostname: hostname.into() }, &[]).await? {
            (Told::Ready, _) => Ok((init, events)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Its number on this node.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Starts CRIU. `descriptors` go with `restore.numbers`.
    pub async fn restore(&self, restore: Restore, descriptors: &[BorrowedFd<'_>]) -> Result<Restoring, InitError> {
        match self.ask(&Ask::Restore(restore), descriptors).await? {
            (Told::Started { pid }, mut descriptors) => Ok(Restoring { criu_pid: pid, terminal: descriptors.pop() }),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Sends a signal to a process of the guest, in the guest's numbering. A process that is gone
    /// is no error.
    pub async fn signal(&self, pid: i32, signal: i32, value: Option<u64>) -> Result<(), InitError> {
        self.send(&Ask::Signal { pid, signal, value }, &[]).await
    }

    /// Brings the group of process `of` of the guest to the foreground of its terminal, or the
    /// group that was there before; with `None` the guest is in the background.
    pub async fn foreground(&self, of: Option<i32>) -> Result<(), InitError> {
        self.send(&Ask::Foreground { of }, &[]).await
    }

    /// Kills everything in the guest and waits until nothing of it is left.
    pub async fn kill(mut self) -> Result<(), InitError> {
        match pidfd::kill(&self.pidfd) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(cannot("kill pid 1")(error)),
            _ => {}
        }
        // The kernel lets pid 1 be waited for when everything else in its namespace has gone.
        let ended = timeout(END_TIMEOUT, self.keeper.wait()).await.map_err(|_| InitError::TimedOut)?;
        ended.map(drop).map_err(cannot("wait for pid 1"))
    }

    async fn ask(&self, ask: &Ask, descriptors: &[BorrowedFd<'_>]) -> Result<(Told, Vec<OwnedFd>), InitError> {
        let mut answers = self.answers.lock().await;
        self.send(ask, descriptors).await?;
        let answer = timeout(ANSWER_TIMEOUT, answers.recv()).await.map_err(|_| InitError::TimedOut)?;
        match answer.ok_or(InitError::Ended)? {
            (Told::Failed { reason }, _) => Err(InitError::Refused(reason)),
            answer => Ok(answer),
        }
    }

    async fn send(&self, ask: &Ask, descriptors: &[BorrowedFd<'_>]) -> Result<(), InitError> {
        self.socket.send_with(ask, descriptors).await.map_err(|error| match error {
            ProtocolError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => InitError::Ended,
            error => error.into(),
        })
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        // If it has gone there is nothing to kill.
        let _ = pidfd::kill(&self.pidfd);
    }
}

/// Keeps init's reports until one tells of the end of `child`, or init has ended itself.
pub async fn keep_until_ended(child: i32, told: &mut mpsc::Receiver<Told>, reports: &mut Vec<Told>) {
    while !reports.iter().any(|report| matches!(report, Told::Ended { pid, .. } if *pid == child)) {
        match told.recv().await {
            Some(report) => reports.push(report),
            None => return,
        }
    }
}

fn unexpected(told: &Told) -> InitError {
    InitError::Refused(format!("pid 1 of the guest answered out of turn: {told:?}"))
}

/// Starts this binary as pid 1 of new namespaces; the child that is returned waits for it and ends
/// as it ends.
fn spawn(socket: &OwnedFd) -> io::Result<Child> {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(NAME).arg("agent-guest").env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let new = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET;
    let setup = Setup {
        namespaces: Namespaces::New(new),
        descriptors: vec![(rustix::io::fcntl_dupfd_cloexec(socket, 64)?, AGENT_FD)],
        close_from: Some(AGENT_FD + 1),
        ..Setup::default()
    };
    child::set_up(&mut command, setup);
    let mut command = Command::from(command);
    command.kill_on_drop(true).spawn()
}

fn only_child(parent: &Child) -> io::Result<i32> {
    let parent = parent.id().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    children.trim().parse().map_err(|_| io::Error::other(format!("it has the children {children:?}")))
}

/// Takes init's reports apart: answers to what was asked, and news of its children.
async fn listen(
    socket: Arc<PacketSocket<Ask, Told>>,
    answers: mpsc::Sender<(Told, Vec<OwnedFd>)>,
    events: mpsc::Sender<Told>,
) {
    loop {
        let told = match socket.recv_with().await {
            Ok(Some(told)) => told,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "pid 1 of the guest is gone");
                return;
            }
        };
        let taken = match told {
            (Told::Ready | Told::Started { .. } | Told::Failed { .. }, _) => answers.send(told).await.is_ok(),
            (event, _) => events.send(event).await.is_ok(),
        };
        if !taken && answers.is_closed() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ExitStatus;

    #[tokio::test]
    async fn reports_are_kept_until_a_child_has_ended() {
        let ended = |pid| Told::Ended { pid, status: ExitStatus::Exited(0) };
        let (sender, mut told) = mpsc::channel(4);
        for report in [ended(7), Told::Continued { pid: 300 }, ended(300), ended(8)] {
            sender.try_send(report).unwrap();
        }
        let mut reports = Vec::new();
        keep_until_ended(300, &mut told, &mut reports).await;
        assert_eq!(reports, [ended(7), Told::Continued { pid: 300 }, ended(300)]);
        keep_until_ended(7, &mut told, &mut reports).await;
        assert_eq!(reports.len(), 3, "it had ended before");
        drop(sender);
        keep_until_ended(9, &mut told, &mut reports).await;
        assert_eq!(reports.len(), 4, "pid 1 has ended");
    }
}
