//! Decides what becomes of each descriptor of a job that moves, by the same rules whenever it does,
//! and takes duplicates of those that its home keeps.
//!
//! ```text
//!   /proc/P/fd, fdinfo ─┐
//!   pidfd_getfd ────────┼─► Descriptor facts ─► classify (pure) ─► channels to relay, files to keep in step, or a reason
//!   /proc/*/fd, diag ───┘
//! ```
//!
//! Files are opened again by path where the job runs; pipes inside the job, memory files, event and
//! timer descriptors are CRIU's; pipes to programs outside and the terminal stay at home and are
//! relayed; everything else cannot move. In a guest there are no programs outside.

mod classify;
mod unix_diag;

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, FileType, OFlags, Statx, StatxFlags, statx};
use rustix::net::AddressFamily;

pub use classify::{Access, Descriptor, NAMELESS_LIMIT_BYTES, What, own_directory};

use self::classify::{Surroundings, classify};

use crate::protocol::home::{Channel, SharedFile};
use crate::sys::{descriptor::is_same_description, pidfd, proc};

/// Why the descriptors could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The job cannot move; the text is one readable reason.
    #[error("{0}")]
    CannotMove(String),
    /// A process's descriptors could not be read.
    #[error("the descriptors of process {pid} could not be taken")]
    Io {
        /// The process.
        pid: i32,
        /// The system's error.
        source: io::Error,
    },
    /// The other processes' descriptors could not be read.
    #[error("the descriptors of the programs outside the job could not be looked at")]
    Outside(#[source] io::Error),
}

/// A channel to relay and the duplicate to do it with.
#[derive(Debug)]
pub struct TakenChannel {
    /// Its number and kind, for the whole life of the job.
    pub channel: Channel,
    /// CRIU's name of it in this dump; empty for the terminal.
    pub criu_key: String,
    /// Our duplicate of the job's descriptor.
    pub descriptor: OwnedFd,
}

/// What was taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// To relay.
    pub channels: Vec<TakenChannel>,
    /// Regular files whose offset is to be right at home when the job ends.
    pub files: Vec<(SharedFile, OwnedFd)>,
}

/// Takes what matters of the descriptors of `pids`, all processes of a job that is frozen.
///
/// # Errors
/// [`TakeError::CannotMove`] with the first reason found, or what failed.
pub fn take(pids: &[i32]) -> Result<Taken, TakeError> {
    take_beside(pids, Holders::look)
}

fn take_beside<H: Borrow<Holders>>(pids: &[i32], holders: impl FnOnce() -> io::Result<H>) -> Result<Taken, TakeError> {
    let (mut facts, mut duplicates) = (Vec::new(), Vec::new());
    let peers = std::cell::OnceCell::new();
    for pid in pids {
        let at = |source| TakeError::Io { pid: *pid, source };
        let pidfd = pidfd::open(*pid).map_err(at)?;
        for fd in numbers(*pid).map_err(at)? {
            let duplicate = pidfd::duplicate(&pidfd, fd).map_err(at)?;
            facts.push(describe(*pid, fd, Some((&duplicate, &peers))).map_err(at)?);
            duplicates.push(Some(duplicate));
        }
    }
    let outside = holders().map_err(TakeError::Outside)?.borrow().outside(pids);
    let plan = classify(&facts, &Surroundings::Home { held: outside }).map_err(TakeError::CannotMove)?;
    let mut taken = Taken::default();
    let files = one_per_description(&facts, &duplicates, &plan.files);
    let mut claim = |index: usize| duplicates.get_mut(index).and_then(Option::take);
    for (id, (kind, criu_key, index)) in plan.channels.into_iter().enumerate() {
        let channel = Channel { id: id as u32, kind };
        taken.channels.extend(claim(index).map(|descriptor| TakenChannel { channel, criu_key, descriptor }));
    }
    for (id, index) in files.into_iter().enumerate() {
        if let (Some(facts), Some(duplicate)) = (facts.get(index), claim(index)) {
            taken.files.push((SharedFile { id: id as u32, pid: facts.pid, fd: facts.fd }, duplicate));
        }
    }
    Ok(taken)
}

/// The reason why a job with these processes cannot move as its descriptors are now, if there is
/// one, where `holders` hold pipes and sockets; takes nothing. The processes need not be frozen, so
/// the answer is a forecast.
///
/// # Errors
/// As [`take`], but a process that has just ended is no error.
pub fn forecast(pids: &[i32], holders: &Holders) -> Result<(), TakeError> {
    let is_there = |pid: &i32| fs::exists(format!("/proc/{pid}/fd")).unwrap_or(false);
    match take_beside(pids, || Ok(holders)) {
        Err(TakeError::Io { pid, .. }) if !is_there(&pid) => Ok(()),
        Err(TakeError::Io { source, .. }) if has_closed(&source) => Ok(()),
        result => result.map(drop),
    }
}

/// The reason why a guest with these processes cannot move on as its descriptors are now, if there
/// is one. The processes need not be frozen.
///
/// # Errors
/// As [`take`], but a process or descriptor that is just gone is no error.
pub fn check_guest(pids: &[i32]) -> Result<(), TakeError> {
    let mut facts = Vec::new();
    for pid in pids {
        match describe_in_guest(*pid) {
            Err(error) if proc::is_gone(&error) => {}
            described => facts.extend(described.map_err(|source| TakeError::Io { pid: *pid, source })?),
        }
    }
    classify(&facts, &Surroundings::Guest).map(drop).map_err(TakeError::CannotMove)
}

fn describe_in_guest(pid: i32) -> io::Result<Vec<Descriptor>> {
    let mut facts = Vec::new();
    for fd in numbers(pid)? {
        match describe(pid, fd, None) {
            Err(error) if has_closed(&error) => {}
            described => facts.push(described?),
        }
    }
    Ok(facts)
}

fn numbers(pid: i32) -> io::Result<Vec<i32>> {
    let mut numbers: Vec<i32> = fs::read_dir(format!("/proc/{pid}/fd"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

type Peers = std::cell::OnceCell<BTreeMap<u64, u64>>;

/// How a descriptor was opened, by its text in /proc/PID/fdinfo.
fn open_flags(info: &str) -> OFlags {
    let octal = info.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
    octal.and_then(|octal| u32::from_str_radix(octal, 8).ok()).map_or(OFlags::empty(), OFlags::from_bits_retain)
}

/// What a descriptor is: at home by a duplicate of it. Of a guest's files none is made, and their
/// attributes are those that the kernel knows: the agent that looks serves them, and would wait for
/// itself.
fn describe(pid: i32, fd: i32, at_home: Option<(&OwnedFd, &Peers)>) -> io::Result<Descriptor> {
    let path = format!("/proc/{pid}/fd/{fd}");
    let target = fs::read_link(&path)?;
    let target = String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned();
    let (stat, flags) = match at_home {
        Some((held, _)) => {
            let stat = statx(held, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
            (stat, rustix::fs::fcntl_getfl(held)?)
        }
        None => {
            let stat = statx(CWD, &path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS)?;
            (stat, open_flags(&fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))?))
        }
    };
    let access = match flags & OFlags::RWMODE {
        _ if flags.contains(OFlags::PATH) => Access::Both,
        OFlags::RDONLY => Access::Read,
        OFlags::WRONLY => Access::Write,
        _ => Access::Both,
    };
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    let what = match kind {
        FileType::Fifo if target.starts_with("pipe:[") => What::Pipe { inode: stat.stx_ino },
        FileType::Fifo => What::Fifo,
        FileType::Socket => match at_home {
            Some((held, peers)) => socket(held, stat.stx_ino, Some(peers))?,
            None => socket(&pidfd::duplicate(pidfd::open(pid)?, fd)?, stat.stx_ino, None)?,
        },
        FileType::BlockDevice => What::BlockDevice,
        FileType::CharacterDevice => match at_home {
            Some((held, _)) => device(pid, held, &stat)?,
            None => device(pid, &pidfd::duplicate(pidfd::open(pid)?, fd)?, &stat)?,
        },
        _ if target.starts_with("/memfd:") || target.starts_with("/SYSV") => What::Memory,
        FileType::RegularFile | FileType::Directory => What::File {
            nameless_bytes: (stat.stx_nlink == 0).then_some(stat.stx_size),
            is_regular: kind == FileType::RegularFile && !flags.contains(OFlags::PATH),
        },
        _ => What::Anonymous(target.trim_start_matches("anon_inode:").trim_matches(['[', ']']).to_owned()),
    };
    Ok(Descriptor { pid, fd, access, what, target })
}

fn device(pid: i32, duplicate: &OwnedFd, stat: &Statx) -> io::Result<What> {
    let number = (stat.stx_rdev_major, stat.stx_rdev_minor);
    if !rustix::termios::isatty(duplicate) {
        return Ok(What::CharDevice { number });
    }
    let controlling = controlling_terminal(pid)?;
    // /dev/tty is whatever terminal controls the process.
    let device = if number == (5, 0) { controlling } else { rustix::fs::makedev(number.0, number.1) };
    Ok(What::Tty { device, is_controlling: device == controlling && device != 0 })
}

/// Without `peers` it is not told whom a Unix socket leads to.
fn socket(duplicate: &OwnedFd, inode: u64, peers: Option<&Peers>) -> io::Result<What> {
    let family = rustix::net::sockopt::socket_domain(duplicate)?;
    if family == AddressFamily::UNIX {
        let Some(peers) = peers else { return Ok(What::UnixSocket { inode, peer: None }) };
        let peers = match peers.get() {
            Some(peers) => peers,
            None => {
                let found = unix_diag::peers()?;
                peers.get_or_init(|| found)
            }
        };
        return Ok(What::UnixSocket { inode, peer: peers.get(&inode).copied() });
    }
    let peer = rustix::net::getpeername(duplicate).ok().and_then(|peer| std::net::SocketAddr::try_from(peer?).ok());
    let peer = peer.map_or_else(String::new, |peer| format!(" to {peer}"));
    Ok(What::OtherSocket(match family {
        AddressFamily::INET | AddressFamily::INET6 => format!("an inet socket{peer}"),
        AddressFamily::NETLINK => "a netlink socket".into(),
        other => format!("a socket of address family {}", other.as_raw()),
    }))
}

/// Device number of the process's controlling terminal, 0 if it has none.
fn controlling_terminal(pid: i32) -> io::Result<u64> {
    let (major, minor) = proc::stat(format!("/proc/{pid}"))?.tty_nr();
    Ok(rustix::fs::makedev(major.cast_unsigned(), minor.cast_unsigned()))
}

/// Descriptors and processes come and go while a program runs.
fn has_closed(error: &io::Error) -> bool {
    proc::is_gone(error) || error.raw_os_error() == Some(libc::EBADF)
}

/// Who holds which pipes and sockets of this machine: the inode of each, with the processes that
/// have it open, this one left out.
#[derive(Debug, Default)]
pub struct Holders(BTreeMap<u64, BTreeSet<i32>>);

impl Holders {
    /// Looks at all processes, which takes a while: several system calls for each.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn look() -> io::Result<Self> {
        let own = std::process::id();
        let mut holders = Self::default();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // Kernel threads, most of the processes of a small machine, have no program and no
            // descriptors.
            if pid == own || fs::read_link(entry.path().join("exe")).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
            {
                continue;
            }
            // Processes and descriptors come and go meanwhile.
            let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
            for descriptor in descriptors.flatten() {
                let Ok(target) = fs::read_link(descriptor.path()) else { continue };
                let target = target.to_str();
                let name = target.and_then(|target| target.strip_prefix("pipe:[").or(target.strip_prefix("socket:[")));
                if let Some(inode) = name.and_then(|name| name.strip_suffix(']')?.parse().ok()) {
                    holders.0.entry(inode).or_default().insert(pid.cast_signed());
                }
            }
        }
        Ok(holders)
    }

    /// Inodes of what processes other than `pids` hold.
    fn outside(&self, pids: &[i32]) -> BTreeSet<u64> {
        let is_outside = |(_, holders): &(&u64, &BTreeSet<i32>)| holders.iter().any(|pid| !pids.contains(pid));
        self.0.iter().filter(is_outside).map(|(inode, _)| *inode).collect()
    }
}

/// Of the files at `indices` one per open file description, so that each offset is told once.
fn one_per_description(facts: &[Descriptor], duplicates: &[Option<OwnedFd>], indices: &[usize]) -> Vec<usize> {
    let own = std::process::id().cast_signed();
    let is_same = |a: &OwnedFd, b: &OwnedFd| {
        // If that cannot be told, the offset is told twice.
        is_same_description((own, a.as_raw_fd()), (own, b.as_raw_fd())).unwrap_or(false)
    };
    let mut kept: Vec<usize> = Vec::new();
    let duplicate = |index: usize| duplicates.get(index).and_then(Option::as_ref);
    for index in indices {
        let same = |other: &usize| {
            let (Some(a), Some(b)) = (facts.get(*index), facts.get(*other)) else { return false };
            // Compared with kcmp only if they could be the same.
            a.target == b.target && duplicate(*index).zip(duplicate(*other)).is_some_and(|(a, b)| is_same(a, b))
        };
        if !kept.iter().any(same) {
            kept.push(*index);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::protocol::home::ChannelKind;

    #[test]
    fn a_real_programs_descriptors_are_taken() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script =
            format!("exec 3<>{0} 4>&3 5<{0} 6</dev/null 7</; echo ready; exec sleep 1000", file.path().display());
        let mut program =
            Command::new("bash").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 6];
        std::io::Read::read_exact(program.stdout.as_mut().unwrap(), &mut line).unwrap();
        let pid = program.id() as i32;
        let taken = take(&[pid]);
        program.kill().unwrap();
        program.wait().unwrap();
        let taken = taken.unwrap();
        let kinds: Vec<_> = taken.channels.iter().map(|channel| channel.channel.kind).collect();
        assert!(kinds.contains(&ChannelKind::PipeIn) && kinds.contains(&ChannelKind::PipeOut), "{kinds:?}");
        assert!(taken.channels.iter().all(|channel| channel.criu_key.starts_with("pipe:[")));
        let files: Vec<_> = taken.files.iter().map(|(file, _)| file.fd).filter(|fd| *fd > 2).collect();
        assert_eq!(files, [3, 5], "3 and 4 are one description");
    }

    #[test]
    fn an_inet_socket_is_the_reason() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script = format!("exec 9<>/dev/tcp/127.0.0.1/{}; echo ready; exec sleep 1000", address.port());
        let mut program =
            Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(program.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
        let pid = program.id() as i32;
        let reason = forecast(&[pid], &Holders::look().unwrap()).unwrap_err().to_string();
        program.kill().unwrap();
        program.wait().unwrap();
        assert_eq!(reason, format!("descriptor 9 of process {pid} is an inet socket to {address}"));
    }

    #[test]
    fn what_a_guest_has_open_is_judged_without_a_look_outside() {
        let script = "exec 3</proc/version; echo ready; exec sleep 1000";
        let mut program = Command::new("bash");
        let program = program.args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::null());
        let mut program = program.stdout(Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(program.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
        let pid = program.id() as i32;
        let refused = check_guest(&[pid]).map_err(|error| error.to_string());
        program.kill().unwrap();
        program.wait().unwrap();
        let words = format!("descriptor 3 of process {pid} is /proc/version, and /proc is not home's on another node");
        assert_eq!(refused, Err(words));
        check_guest(&[pid]).unwrap();
    }

    #[test]
    fn both_ways_to_look_at_a_descriptor_see_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (_reader, writer) = std::io::pipe().unwrap();
        let nameless = tempfile::tempfile().unwrap();
        let null = fs::File::options().write(true).open("/dev/null").unwrap();
        let own = std::process::id().cast_signed();
        let (written, peers) = (file.reopen().unwrap(), Peers::new());
        let all: [OwnedFd; 4] = [written.into(), writer.into(), nameless.into(), null.into()];
        for held in all {
            let at_home = describe(own, held.as_raw_fd(), Some((&held, &peers))).unwrap();
            assert_eq!(describe(own, held.as_raw_fd(), None).unwrap(), at_home);
        }
    }
}
