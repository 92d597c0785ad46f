//! Turns frozen processes into their deputies, in place: same pid, parent, group, session; nothing
//! of the program is left.
//!
//! ```text
//!   1 seize every thread of every process     the cgroup is still frozen
//!   2 thaw the cgroup                         ptrace holds them all
//!   3 each process, children first, in the name of its leader:
//!        block all signals, mmap a page or more
//!        close_range(0..)                     the home agent holds what is worth holding
//!        socketpair → 0, one end taken by pidfd_getfd
//!        memfd_create, filled from here
//!        execveat(memfd, the old argv)        its other threads die in it
//!        detach; the deputy says Ready
//! ```
//!
//! To be called only when the guest process runs elsewhere: **no thread of the original ever runs
//! an instruction of its program again**. Whatever fails, the process is killed; if the agent dies
//! meanwhile the kernel kills it (`PTRACE_O_EXITKILL`), and so does a watchdog after
//! [`TIME_LIMIT`].
//!
//! Not for processes that `migration` refuses anyway: 32-bit ones, those under a seccomp filter (it
//! would bind the deputy) or whose leader has exited.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

use super::deputy::IMAGE;
use crate::protocol::deputy::{Command, REPORT_BYTES, Report, SOCKET_FD};
use crate::sys::{pidfd, tracee::Tracee};

/// All of it takes milliseconds; a process that takes longer is killed.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);
/// A tracee needs three descriptors at once.
const DESCRIPTORS_NEEDED: u64 = 16;
/// Where in the scratch memory what lies: the pair of sockets, the memfd's name, an empty path,
/// then the arguments.
const PAIR_AT: u64 = 0;
const NAME_AT: u64 = 8;
const EMPTY_AT: u64 = 24;
const ARGS_AT: u64 = 32;

/// A process to turn into its deputy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original {
    /// Its pid.
    pub pid: i32,
    /// Signals (bit n-1 for signal n) that were pending when it was dumped: the guest process has
    /// them, so the deputy drops them.
    pub dumped_signals: u64,
}

/// A deputy in its place.
#[derive(Debug)]
pub struct Deputised {
    /// Its pid, the same as before.
    pub pid: i32,
    /// A handle of it.
    pub pidfd: OwnedFd,
    /// The home agent's end of its socket, for [`super::deputy::DeputySocket`].
    pub socket: OwnedFd,
}

/// Why a process could not be turned into its deputy; it has been killed.
#[derive(Debug, thiserror::Error)]
#[error("no deputy could take the place of process {pid}, so it was killed: {step} failed")]
pub struct InjectError {
    /// The process.
    pub pid: i32,
    /// At which step.
    pub step: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// Turns every process of `originals`, the parents before their children, into its deputy. `thaw`
/// is called once, when all are held. Blocks for some milliseconds.
///
/// The results are in the order of `originals`; an empty list means that not even a thread could be
/// had, and nothing was done.
pub fn deputise(
    originals: &[Original],
    thaw: impl FnOnce() -> io::Result<()> + Send,
) -> Vec<Result<Deputised, InjectError>> {
    // A thread of its own: it waits for its tracees and must have no other children; what it still
    // holds at its end is released, by then dead.
    std::thread::scope(|scope| scope.spawn(|| deputise_here(originals, thaw)).join()).unwrap_or_default()
}

fn deputise_here(originals: &[Original], thaw: impl FnOnce() -> io::Result<()>) -> Vec<Result<Deputised, InjectError>> {
    let pidfds: Vec<_> = originals.iter().map(|original| pidfd::open(original.pid)).collect();
    let watchdog = Watchdog::start(pidfds.iter().filter_map(|pidfd| pidfd.as_ref().ok()?.try_clone().ok()).collect());
    let held: Vec<_> = originals.iter().map(|original| Tracee::seize(original.pid)).collect();
    // Those that could not be held would run once thawed.
    for (pidfd, held) in pidfds.iter().zip(&held) {
        if let (Ok(pidfd), Err(_)) = (pidfd, held) {
            kill_logged(pidfd);
        }
    }
    let thawed = thaw();
    let mut results = Vec::new();
    for ((original, pidfd), held) in originals.iter().zip(pidfds).zip(held).rev() {
        let failed = |step| move |source| InjectError { pid: original.pid, step, source };
        let thaw_error = thawed.as_ref().err().map(|error| io::Error::new(error.kind(), error.to_string()));
        let result = pidfd.map_err(failed("opening a handle of it")).and_then(|pidfd| {
            let result = match thaw_error {
                Some(error) => Err(failed("thawing it")(error)),
                None => held.map_err(failed("holding it")).and_then(|tracee| replace(tracee, &pidfd, original)),
            };
            if result.is_err() {
                kill_logged(&pidfd);
            }
            result.map(|socket| Deputised { pid: original.pid, pidfd, socket })
        });
        results.push(result);
    }
    drop(watchdog);
    results.reverse();
    results
}

fn kill_logged(pidfd: &OwnedFd) {
    if let Err(error) = pidfd::kill(pidfd) {
        tracing::warn!(%error, "a process that cannot have a deputy could not be killed; it has probably ended");
    }
}

/// Makes the deputy out of a held process, and returns our end of its socket.
fn replace(tracee: Tracee, pidfd: &OwnedFd, original: &Original) -> Result<OwnedFd, InjectError> {
    let pid = tracee.pid();
    let failed = |step| move |source| InjectError { pid, step, source };
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(failed("reading its arguments"))?;
    let comm = std::fs::read(format!("/proc/{pid}/comm")).map_err(failed("reading its name"))?;
    tracee.block_signals().map_err(failed("blocking its signals"))?;
    raise_limits(&tracee);
    let at = tracee.find_syscall_instruction().map_err(failed("looking at its code"))?;

    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let args = Arguments::new(&arguments);
    let mmap_args = [0, args.total_bytes(), protection as u64, flags as u64, u64::MAX];
    let memory = tracee.call(at, libc::SYS_mmap, mmap_args).map_err(failed("mapping memory"))? as u64;
    tracee.write(memory + NAME_AT, b"deputy\0").map_err(failed("writing its memory"))?;
    tracee.write(memory + ARGS_AT, &args.bytes(memory + ARGS_AT)).map_err(failed("writing its memory"))?;

    tracee.call(at, libc::SYS_close_range, [0, u32::MAX.into(), 0, 0, 0]).map_err(failed("closing its descriptors"))?;
    let pair_args =
        [libc::AF_UNIX as u64, libc::SOCK_SEQPACKET as u64 | libc::SOCK_CLOEXEC as u64, 0, memory + PAIR_AT, 0];
    tracee.call(at, libc::SYS_socketpair, pair_args).map_err(failed("making a socket pair"))?;
    let mut pair = [0; 8];
    tracee.read(memory + PAIR_AT, &mut pair).map_err(failed("reading its memory"))?;
    let [a, b, c, d, e, f, g, h] = pair;
    let (its_end, our_end) = (i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]));
    let socket = pidfd::duplicate(pidfd, our_end).map_err(failed("taking the socket"))?;
    // Without close-on-exec, at the number that the deputy knows: never its own number, as the
    // kernel gave 0 to one with it.
    let spare = tracee.call(at, libc::SYS_dup, [its_end as u64, 0, 0, 0, 0]).map_err(failed("moving the socket"))?;
    tracee.call(at, libc::SYS_dup2, [spare as u64, SOCKET_FD as u64, 0, 0, 0]).map_err(failed("moving the socket"))?;

    let memfd = memfd(&tracee, at, memory + NAME_AT).map_err(failed("making a memory file"))?;
    fill(pidfd, memfd).map_err(failed("filling the memory file"))?;
    greet(&socket, &comm, original.dumped_signals).map_err(failed("writing to the socket"))?;
    let (argv, envp) = args.vectors(memory + ARGS_AT);
    let exec_args = [memfd as u64, memory + EMPTY_AT, argv, envp, libc::AT_EMPTY_PATH as u64];
    tracee.exec(at, libc::SYS_execveat, exec_args).map_err(failed("executing the deputy"))?;
    tracee.detach().map_err(failed("letting the deputy go"))?;
    await_ready(&socket).map_err(failed("hearing from the deputy"))?;
    Ok(socket)
}

/// Raises what could keep the deputy from starting, as far as we may; what is too low all the same
/// fails at its step.
fn raise_limits(tracee: &Tracee) {
    let at_least =
        [(libc::RLIMIT_NOFILE, DESCRIPTORS_NEEDED), (libc::RLIMIT_AS, u64::MAX), (libc::RLIMIT_STACK, 8 << 20)];
    for (resource, wanted) in at_least {
        if let Some(raised) = tracee.raise_limit(resource, wanted) {
            tracing::debug!(pid = tracee.pid(), resource, raised, "a resource limit is in the deputy's way");
        }
    }
}

/// A memory file of the tracee that may be executed.
fn memfd(tracee: &Tracee, at: u64, name: u64) -> io::Result<i32> {
    let make = |flags: u32| tracee.call(at, libc::SYS_memfd_create, [name, flags.into(), 0, 0, 0]);
    // Kernels before 6.3 do not know MFD_EXEC and let every memory file be executed.
    let fd = make(libc::MFD_CLOEXEC | libc::MFD_EXEC).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => make(libc::MFD_CLOEXEC),
        _ => Err(error),
    })?;
    Ok(fd as i32)
}

fn fill(pidfd: &OwnedFd, memfd: i32) -> io::Result<()> {
    std::fs::File::from(pidfd::duplicate(pidfd, memfd)?).write_all(IMAGE)
}

fn greet(socket: &OwnedFd, comm: &[u8], dumped: u64) -> io::Result<()> {
    let mut name = [0; 16];
    // /proc ends the name by a line feed; the last byte stays zero.
    for (to, from) in name.iter_mut().take(15).zip(comm.strip_suffix(b"\n").unwrap_or(comm)) {
        *to = *from;
    }
    rustix::io::write(socket, &Command::Init { comm: name, dumped }.encode())?;
    Ok(())
}

fn await_ready(socket: &OwnedFd) -> io::Result<()> {
    let limit = Some(TIME_LIMIT);
    rustix::net::sockopt::set_socket_timeout(socket, rustix::net::sockopt::Timeout::Recv, limit)?;
    let mut packet = [0; REPORT_BYTES];
    let bytes = rustix::io::read(socket, &mut packet)?;
    match packet.get(..bytes).and_then(Report::decode) {
        Some(Report::Ready) => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// The old arguments as execve wants them: a vector of pointers, a null, the strings. The
/// environment is empty: it was the program's, and `ps` does not show it.
struct Arguments<'a> {
    strings: &'a [u8],
    starts: Vec<u64>,
}

impl<'a> Arguments<'a> {
    fn new(cmdline: &'a [u8]) -> Self {
        let strings = cmdline.strip_suffix(b"\0").unwrap_or(cmdline);
        let ends = strings.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at as u64 + 1);
        let starts = std::iter::once(0).chain(ends).collect();
        Self { strings, starts }
    }

    fn vector_bytes(&self) -> u64 {
        (self.starts.len() as u64 + 1) * 8
    }

    fn total_bytes(&self) -> u64 {
        ARGS_AT + self.vector_bytes() + self.strings.len() as u64 + 1
    }

    /// What to write at address `at`.
    fn bytes(&self, at: u64) -> Vec<u8> {
        let strings_at = at + self.vector_bytes();
        let pointers = self.starts.iter().map(|start| strings_at + start).chain([0]);
        let mut bytes: Vec<u8> = pointers.flat_map(u64::to_le_bytes).collect();
        bytes.extend_from_slice(self.strings);
        bytes.push(0);
        bytes
    }

    /// Addresses of argv and of an empty envp (the null at argv's end).
    fn vectors(&self, at: u64) -> (u64, u64) {
        (at, at + self.vector_bytes() - 8)
    }
}

/// Kills all processes when the time is over, so that no wait for one of them lasts; stops when
/// dropped.
struct Watchdog(#[expect(dead_code, reason = "its drop ends the thread's wait")] mpsc::Sender<()>);

impl Watchdog {
    fn start(pidfds: Vec<OwnedFd>) -> Self {
        let (alive, done) = mpsc::channel();
        std::thread::spawn(move || {
            if done.recv_timeout(TIME_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                pidfds.iter().for_each(kill_logged);
            }
        });
        Self(alive)
    }
}

#[cfg(test)]
mod terminal_tests;
#[cfg(test)]
mod tests;
