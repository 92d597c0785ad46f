//! What runs as pid 1.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, ExitCode, Stdio},
};

use nix::{
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::setsid,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    process::{Pid, WaitOptions, getpgid, getpgrp},
    pty::{OpenptFlags, ptsname, unlockpt},
    termios::{tcgetpgrp, tcsetpgrp},
};

use super::{
    AGENT_FD,
    world::{self, WorldError},
};
use crate::{
    causes::explain,
    protocol::{
        ExitStatus,
        init::{Ask, Restore, Told},
        packet,
    },
    sys::{
        child::{self, Setup},
        descriptor,
        namespaces::time_for_children,
        signals,
    },
};

/// Runs pid 1 until its agent has gone. Never called by a user.
pub fn main() -> ExitCode {
    match descriptor::inherited(AGENT_FD).and_then(|agent| serve(&agent)) {
        Ok(()) => ExitCode::SUCCESS,
        // No agent reads a message of a process whose agent has gone; the status shows in the
        // agent's log.
        Err(_) => ExitCode::FAILURE,
    }
}

/// What lasts as long as the guest.
struct Guest {
    /// Chooses the numbers of new processes; opened before /proc was protected.
    last_pid: File,
    has_time: bool,
    terminal: Option<Terminal>,
}

/// The guest's terminal as its session leader has it.
struct Terminal {
    slave: OwnedFd,
    /// The foreground group before the guest went to the background.
    before: Option<Pid>,
}

impl Terminal {
    /// What cannot be done is left: the group has ended, and the terminal has no process to serve.
    fn set_foreground(&mut self, of: Option<i32>) {
        let group = match of {
            None => {
                self.before = tcgetpgrp(&self.slave).ok().filter(|now| *now != Pid::INIT);
                Some(getpgrp())
            }
            Some(pid) => {
                let before = self.before.take();
                if before.is_some_and(|group| tcsetpgrp(&self.slave, group).is_ok()) {
                    return;
                }
                Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).and_then(|pid| getpgid(Some(pid)).ok())
            }
        };
        let _ = group.map(|group| tcsetpgrp(&self.slave, group));
    }
}

fn serve(agent: &OwnedFd) -> io::Result<()> {
    let children = settle()?;
    let mut guest = None;
    loop {
        let mut fds = [PollFd::new(agent, PollFlags::IN), PollFd::new(&children, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let (asked, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if ended {
            children.read_signal()?;
            reap(agent)?;
        }
        if asked {
            let Some((ask, descriptors)) = packet::recv(agent).map_err(io::Error::other)? else { return Ok(()) };
            answer(agent, &mut guest, ask, descriptors)?;
        }
    }
}

fn tell(agent: &OwnedFd, told: &Told, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    packet::send(agent, told, descriptors).map_err(io::Error::other)
}

/// Session leader, and children are heard of by a descriptor.
fn settle() -> io::Result<SignalFd> {
    setsid()?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    // As session leader on a terminal init may change its foreground group without being stopped
    // for it.
    mask.add(Signal::SIGTTOU);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    signals::ignore(&[libc::SIGHUP]);
    mask.remove(Signal::SIGTTOU);
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn answer(agent: &OwnedFd, guest: &mut Option<Guest>, ask: Ask, descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let told = match ask {
        Ask::Setup { root, hostname } => set_up(&root, &hostname).map(|made| {
            *guest = Some(made);
            (Told::Ready, None)
        }),
        Ask::Restore(restore) => match guest {
            Some(guest) => start(guest, &restore, descriptors).map(|(pid, master)| (Told::Started { pid }, master)),
            None => Err(Refusal::NoWorld),
        },
        Ask::Signal { pid, signal, value } => {
            // A process that has ended meanwhile needs no signal; its end is reported on its own.
            let _ = signals::send(pid, signal, value);
            return Ok(());
        }
        Ask::Foreground { of } => {
            if let Some(terminal) = guest.as_mut().and_then(|guest| guest.terminal.as_mut()) {
                terminal.set_foreground(of);
            }
            return Ok(());
        }
    };
    let (told, descriptor) = told.unwrap_or_else(|error| (Told::Failed { reason: explain(error) }, None));
    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
    tell(agent, &told, &descriptors)
}

/// Why pid 1 does not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// The guest's world.
    #[error(transparent)]
    World(#[from] WorldError),
    /// There is none yet.
    #[error("the guest's world is not there yet")]
    NoWorld,
    /// The request is damaged.
    #[error("the request for criu is damaged: {0}")]
    Damaged(&'static str),
    /// The operating system refused.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

fn cannot(what: &'static str) -> impl FnOnce(io::Error) -> Refusal {
    move |source| Refusal::Io { what, source }
}

fn set_up(root: &std::path::Path, hostname: &str) -> Result<Guest, Refusal> {
    world::enter(root, hostname)?;
    let last_pid = File::options().write(true).open("/proc/sys/kernel/ns_last_pid");
    let last_pid = last_pid.map_err(cannot("choose numbers of processes"))?;
    world::protect_proc()?;
    Ok(Guest { last_pid, has_time: false, terminal: None })
}

/// Starts CRIU as a child that is leader of a process group of its own.
fn start(
    guest: &mut Guest,
    restore: &Restore,
    mut descriptors: Vec<OwnedFd>,
) -> Result<(i32, Option<OwnedFd>), Refusal> {
    let (program, arguments) = restore.line.split_first().ok_or(Refusal::Damaged("it has no command line"))?;
    if descriptors.len() != restore.numbers.len() || descriptors.is_empty() {
        return Err(Refusal::Damaged("descriptors and numbers do not match"));
    }
    let cgroup = descriptors.remove(0);
    if !guest.has_time {
        let (monotonic_ns, boottime_ns) = restore.clock_offsets_ns;
        time_for_children(monotonic_ns, boottime_ns).map_err(cannot("make a time namespace"))?;
        guest.has_time = true;
    }
    let terminal = match restore.terminal {
        true => Some(open_terminal().map_err(cannot("make a terminal"))?),
        false => None,
    };
    guest.last_pid.write_all(restore.last_pid.to_string().as_bytes()).map_err(cannot("choose numbers of processes"))?;
    let stdin = match &terminal {
        Some((_, slave)) => slave.try_clone().map(Stdio::from).map_err(cannot("copy the terminal"))?,
        None => Stdio::null(),
    };
    let high = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 512).map_err(io::Error::from);
    let high: Vec<OwnedFd> =
        descriptors.iter().map(high).collect::<io::Result<_>>().map_err(cannot("pass descriptors"))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(restore.environment.iter().cloned());
    command.current_dir("/").stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let setup = Setup {
        cgroup: Some(cgroup),
        descriptors: high.into_iter().zip(restore.numbers.iter().skip(1).copied()).collect(),
        foreground: terminal.is_some(),
        default_signals: true,
        ..Setup::default()
    };
    child::set_up(&mut command, setup);
    let child = command.spawn().map_err(cannot("start criu"))?;
    let (master, slave) = terminal.unzip();
    guest.terminal = slave.map(|slave| Terminal { slave, before: None });
    // It is waited for with all others.
    Ok((child.id() as i32, master))
}

/// A pty of the guest's own whose slave becomes the controlling terminal of this session.
fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    Ok((master, slave))
}

/// Reports all children that have changed their state.
fn reap(agent: &OwnedFd) -> io::Result<()> {
    let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
    loop {
        let (pid, status) = match rustix::process::wait(options) {
            Ok(Some((pid, status))) => (pid.as_raw_nonzero().get(), status),
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let told = if let Some(code) = status.exit_status() {
            Told::Ended { pid, status: ExitStatus::Exited(code) }
        } else if let Some(signal) = status.terminating_signal() {
            Told::Ended { pid, status: ExitStatus::Killed(signal) }
        } else if let Some(signal) = status.stopping_signal() {
            Told::Stopped { pid, signal }
        } else {
            Told::Continued { pid }
        };
        tell(agent, &told, &[])?;
    }
}
