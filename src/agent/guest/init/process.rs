//! What runs as pid 1.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Command, ExitCode, Stdio},
};

use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::setsid,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    process::WaitOptions,
    pty::{OpenptFlags, ptsname, unlockpt},
};

use super::{AGENT_FD, Ask, Restore, Told, packet, world};
use crate::control::ExitStatus;

/// Runs pid 1 until its agent has gone. Never called by a user.
pub fn main() -> ExitCode {
    // SAFETY: the agent passed its socket at this number for us alone; a wrong one fails the first read.
    let agent = unsafe { OwnedFd::from_raw_fd(AGENT_FD) };
    match serve(&agent) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads a message of a process whose agent has gone; the status shows in the agent's log.
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
    before: Option<i32>,
}

impl Terminal {
    /// What cannot be done is left: the group has ended, and the terminal has nobody to serve.
    fn set_foreground(&mut self, of: Option<i32>) {
        let slave = self.slave.as_raw_fd();
        // SAFETY: plain system calls on a descriptor that is open.
        unsafe {
            match of {
                None => {
                    let now = libc::tcgetpgrp(slave);
                    self.before = (now > 1).then_some(now);
                    libc::tcsetpgrp(slave, libc::getpgrp());
                }
                Some(pid) => {
                    let before = self.before.take();
                    if before.is_none_or(|group| libc::tcsetpgrp(slave, group) < 0) {
                        libc::tcsetpgrp(slave, libc::getpgid(pid));
                    }
                }
            }
        }
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
            let Some((ask, descriptors)) = packet::receive(agent)? else { return Ok(()) };
            answer(agent, &mut guest, ask, descriptors)?;
        }
    }
}

/// Session leader, and children are heard of by a descriptor.
fn settle() -> io::Result<SignalFd> {
    setsid()?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    // As session leader on a terminal init may change its foreground group without being stopped for it.
    mask.add(Signal::SIGTTOU);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    // SAFETY: ignoring a signal installs no handler.
    unsafe { nix::sys::signal::signal(Signal::SIGHUP, SigHandler::SigIgn) }?;
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
            None => Err("the guest's world is not there yet".into()),
        },
        Ask::Signal { pid, signal, value } => {
            // A process that has ended meanwhile needs no signal; its end is reported on its own.
            // SAFETY: plain system calls; a value is passed on and never used as a pointer here.
            unsafe {
                match value {
                    None => libc::kill(pid, signal),
                    Some(value) => libc::sigqueue(pid, signal, libc::sigval { sival_ptr: value as *mut libc::c_void }),
                }
            };
            return Ok(());
        }
        Ask::Foreground { of } => {
            if let Some(terminal) = guest.as_mut().and_then(|guest| guest.terminal.as_mut()) {
                terminal.set_foreground(of);
            }
            return Ok(());
        }
    };
    let (told, descriptor) = told.unwrap_or_else(|reason| (Told::Failed { reason }, None));
    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
    packet::send(agent, &told, &descriptors)
}

fn set_up(root: &std::path::Path, hostname: &str) -> Result<Guest, String> {
    let failed = |error: &dyn std::error::Error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    world::enter(root, hostname).map_err(|error| failed(&error))?;
    let last_pid = File::options().write(true).open("/proc/sys/kernel/ns_last_pid");
    let last_pid = last_pid.map_err(|error| format!("cannot choose numbers of processes: {error}"))?;
    world::protect_proc().map_err(|error| failed(&error))?;
    Ok(Guest { last_pid, has_time: false, terminal: None })
}

/// Starts CRIU as a child that is leader of a process group of its own.
fn start(guest: &mut Guest, restore: &Restore, descriptors: Vec<OwnedFd>) -> Result<(i32, Option<OwnedFd>), String> {
    let cannot = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
    let (program, arguments) = restore.line.split_first().ok_or("no command line")?;
    let [cgroup, rest @ ..] = descriptors.as_slice() else { return Err("no descriptor of a cgroup".into()) };
    if rest.len() + 1 != restore.numbers.len() {
        return Err("descriptors and numbers do not match".into());
    }
    if !guest.has_time {
        enter_time(restore.clock_offsets_ns).map_err(cannot("make a time namespace"))?;
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
    let high: Vec<OwnedFd> = rest.iter().map(high).collect::<io::Result<_>>().map_err(cannot("pass descriptors"))?;
    let moves: Vec<(RawFd, RawFd)> =
        high.iter().map(AsRawFd::as_raw_fd).zip(restore.numbers.iter().skip(1).copied()).collect();
    let (cgroup, has_terminal) = (cgroup.as_raw_fd(), terminal.is_some());
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(restore.environment.iter().cloned());
    command.current_dir("/").stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    // SAFETY: only system calls between fork and exec, and this process has one thread.
    unsafe {
        command.pre_exec(move || {
            // 0 stands for the process that writes.
            if libc::write(cgroup, c"0".as_ptr().cast(), 1) != 1 {
                return Err(io::Error::last_os_error());
            }
            for (from, to) in &moves {
                if libc::dup2(*from, *to) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            if has_terminal && libc::tcsetpgrp(0, libc::getpid()) < 0 {
                return Err(io::Error::last_os_error());
            }
            let none = SigSet::empty();
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&none), None)?;
            nix::sys::signal::signal(Signal::SIGHUP, SigHandler::SigDfl)?;
            Ok(())
        });
    }
    let child = command.spawn().map_err(cannot("start criu"))?;
    let (master, slave) = terminal.unzip();
    guest.terminal = slave.map(|slave| Terminal { slave, before: None });
    // It is waited for with all others.
    Ok((child.id() as i32, master))
}

/// Children live in a time namespace from now on in which the body's clocks go on.
fn enter_time((monotonic_ns, boottime_ns): (i64, i64)) -> io::Result<()> {
    const SECOND_NS: i64 = 1_000_000_000;
    unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
    let line = |clock: &str, ns: i64| format!("{clock} {} {}\n", ns.div_euclid(SECOND_NS), ns.rem_euclid(SECOND_NS));
    let offsets = line("monotonic", monotonic_ns) + &line("boottime", boottime_ns);
    std::fs::write("/proc/self/timens_offsets", offsets)
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
        packet::send(agent, &told, &[])?;
    }
}
