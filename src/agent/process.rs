//! How an agent process comes to be, and how it lives apart from the daemon that started it.
//!
//! ```text
//!   daemon: spawn_agent(start) ── fork ── setsid, fd 3 = sealed memfd with AgentStart, exec /proc/self/exe agent-home|agent-guest
//!   agent:  enter(role) ── reads fd 3, cgroup scx_mosix-agents, ignores SIGHUP/SIGINT/SIGPIPE, logs to its own file
//! ```
//!
//! The start message holds a private key, so it travels in memory: not in argv, not in the
//! environment, not on disk. An agent logs to `RUN_DIR/log/NAME.log` (its panics too); a log that
//! has reached [`MAX_LOG_BYTES`] becomes `NAME.log.old`, so one agent keeps at most twice that. It
//! lies in memory, so an agent that ends well takes it along; of others the daemon keeps some.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::MakeWriter;

use crate::job::SessionId;
use crate::protocol::{AgentRole, AgentStart, StreamKind, alive::Alive, lock_path};
use crate::sys::{
    cgroup::{self, CgroupError},
    child::{self, Setup},
    descriptor, priority, proc, signals,
};

/// Where an agent finds its start message.
const START_FD: RawFd = 3;
/// A log file of this many bytes is set aside.
pub const MAX_LOG_BYTES: u64 = 1 << 20;
/// The end of the name of a log.
const LOG: &str = "log";
/// The end of the name of one that was set aside.
pub const OLD_LOG: &str = "log.old";
/// The cgroup of all agents, below the root of the cgroup v2 hierarchy: neither the daemon's
/// service nor a job's cgroup, so neither a stop of the service nor a freeze of the job reaches
/// them.
pub const AGENTS_CGROUP: &str = "scx_mosix-agents";

/// Why an agent could not be started, or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The operating system refused.
    #[error("agent: cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Descriptor 3 does not hold a start message.
    #[error("agent: descriptor 3 holds no start message; agents are started by the daemon, not by hand")]
    NoStart(#[source] serde_json::Error),
    /// Started under the wrong name for its role.
    #[error("agent: started as {0} with the start message of the other kind of agent")]
    WrongRole(&'static str),
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ProcessError {
    move |source| ProcessError::Io { what, source }
}

/// The hidden subcommand of an agent that serves streams of this kind.
pub fn subcommand(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Home => "agent-home",
        StreamKind::Move => "agent-guest",
    }
}

fn kind(role: &AgentRole) -> StreamKind {
    match role {
        AgentRole::Home(_) => StreamKind::Home,
        AgentRole::Guest(_) => StreamKind::Move,
    }
}

/// Starts an agent; it is reaped when it ends, and `ended` told the CPU time that it and its
/// children have had, in ms. Its control socket appears when it is ready. The token is cancelled
/// when it has ended.
///
/// # Errors
/// If the start message cannot be written or the process cannot be made.
pub fn spawn_agent(
    start: &AgentStart,
    ended: impl FnOnce(u64) + Send + 'static,
) -> Result<CancellationToken, ProcessError> {
    let message = sealed_memfd(start).map_err(failed("write the start message"))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(subcommand(kind(&start.role))).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let setup = Setup {
        new_session: true,
        descriptors: vec![(message, START_FD)],
        close_from: Some(START_FD + 1),
        ..Setup::default()
    };
    child::set_up(&mut command, setup);
    let mut child = command.spawn().map_err(failed("start the agent's process"))?;
    let gone = CancellationToken::new();
    let is_gone = gone.clone();
    std::thread::Builder::new()
        .name("reap-agent".into())
        .stack_size(64 << 10)
        .spawn(move || {
            let cpu_ms = cpu_ms_at_end(&child);
            let pid = child.id();
            is_gone.cancel();
            match child.wait() {
                Ok(status) => tracing::info!(pid, %status, cpu_ms, "an agent has ended"),
                Err(error) => tracing::warn!(pid, %error, "cannot wait for an agent"),
            }
            if let Some(cpu_ms) = cpu_ms {
                ended(cpu_ms);
            }
        })
        .map_err(failed("start a thread"))?;
    Ok(gone)
}

/// Waits for the end of a child, and tells the CPU time of it and of its own children, in ms; it is
/// left to be reaped.
fn cpu_ms_at_end(child: &Child) -> Option<u64> {
    let id = WaitId::Pid(Pid::from_child(child));
    waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).ok()?;
    let stat = proc::stat(format!("/proc/{}", child.id())).ok()?;
    let ticks = stat.utime + stat.stime + (stat.cutime + stat.cstime).max(0).cast_unsigned();
    Some(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}

fn sealed_memfd(start: &AgentStart) -> io::Result<OwnedFd> {
    let json = zeroize::Zeroizing::new(serde_json::to_vec(start)?);
    let fd = rustix::fs::memfd_create("scx_mosix-start", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(&json)?;
    file.rewind()?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

/// The run time of an agent. It has a second thread only where there is a second CPU for it: on
/// one, they would wake each other in turns.
///
/// # Errors
/// No thread can be started.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread().worker_threads(cpus.min(2)).enable_all().build()
}

/// The first thing that an agent does, before it has threads: reads its start message, and takes
/// the lock by which daemons know that it lives. The log is to be removed at the end.
///
/// # Errors
/// If there is no start message of this kind on descriptor 3, or the log cannot be opened.
pub fn enter(expected: StreamKind) -> Result<(AgentStart, OwnLog, Alive), ProcessError> {
    let mut message = File::from(descriptor::inherited(START_FD).map_err(failed("find the start message"))?);
    let mut json = zeroize::Zeroizing::new(Vec::new());
    message.rewind().and_then(|()| message.read_to_end(&mut json)).map_err(failed("read the start message"))?;
    let start: AgentStart = serde_json::from_slice(&json).map_err(ProcessError::NoStart)?;
    if kind(&start.role) != expected {
        return Err(ProcessError::WrongRole(subcommand(expected)));
    }
    signals::ignore(&[
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGPIPE,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ]);
    let log = log_to(&start)?;
    let alive = announce(&start).map_err(failed("take the lock that says that it lives"))?;
    // Moves for want of memory are made while there is none. What is mapped later is programs'
    // memory, which may be large.
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT) {
        tracing::info!(%error, "this agent may be slow when memory is short");
    }
    if let Err(error) = priority::serve_first() {
        tracing::warn!(%error, "programs of this node get as much CPU time as this agent, so moves take longer");
    }
    if let Err(error) = join_agents_cgroup() {
        tracing::warn!(%error, "this agent stays in the cgroup of its daemon and may be stopped together with it");
    }
    Ok((start, log, alive))
}

fn announce(start: &AgentStart) -> io::Result<Alive> {
    let session = match &start.role {
        AgentRole::Home(role) => role.session,
        AgentRole::Guest(role) => role.migration,
    };
    let path = lock_path(&start.run_dir, kind(&start.role), session);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    Alive::announce(&path)
}

fn join_agents_cgroup() -> Result<(), CgroupError> {
    let agents = cgroup::root()?.join(AGENTS_CGROUP);
    cgroup::create(&agents)?;
    cgroup::enter(&agents, 0)
}

// === log ===

fn log_to(start: &AgentStart) -> Result<OwnLog, ProcessError> {
    let name = match &start.role {
        AgentRole::Home(role) => format!("home-{}-{}", role.root_pid, role.session),
        AgentRole::Guest(role) => format!("guest-{}-{}", role.job.id.pid, role.migration),
    };
    let dir = start.run_dir.join("log");
    fs::create_dir_all(&dir).map_err(failed("make the directory of its log"))?;
    let log = OwnLog::open(dir.join(format!("{name}.{LOG}"))).map_err(failed("open its log"))?;
    let filter = tracing_subscriber::EnvFilter::try_from_env("SCX_MOSIX_LOG").unwrap_or_else(|_| "info".into());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(log.clone());
    if tracing::subscriber::set_global_default(subscriber.finish()).is_err() {
        tracing::debug!("a log was set up before");
    }
    Ok(log)
}

/// The agent that names its log so: its kind, and the session or migration that it serves.
pub fn agent_of_log(name: &str) -> Option<(StreamKind, SessionId)> {
    let mut words = name.strip_suffix(LOG)?.strip_suffix('.')?.splitn(3, '-');
    let kind = match words.next()? {
        "home" => StreamKind::Home,
        "guest" => StreamKind::Move,
        _ => return None,
    };
    Some((kind, words.nth(1)?.parse().ok()?))
}

/// The log of this agent.
#[derive(Clone)]
pub struct OwnLog {
    log: Arc<Mutex<BoundedLog>>,
    /// A warning or an error is in it.
    is_of_use: Arc<AtomicBool>,
}

impl OwnLog {
    fn open(path: PathBuf) -> io::Result<Self> {
        let log = Arc::new(Mutex::new(BoundedLog::open(path)?));
        Ok(Self { log, is_of_use: Arc::default() })
    }

    /// The agent has ended well: its log is removed, unless it tells of some trouble all the same.
    pub fn ends_well(&self) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing but panics is written past us.
        let has_panicked = log.file.metadata().is_ok_and(|metadata| metadata.len() > log.bytes);
        if has_panicked || self.is_of_use.load(Ordering::Relaxed) {
            return;
        }
        for path in [&log.path, &log.set_aside()] {
            // Most have no second file.
            let _ = fs::remove_file(path);
        }
    }
}

impl<'a> MakeWriter<'a> for OwnLog {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter(self.log.clone())
    }

    fn make_writer_for(&'a self, metadata: &tracing::Metadata<'_>) -> LogWriter {
        if *metadata.level() <= tracing::Level::WARN {
            self.is_of_use.store(true, Ordering::Relaxed);
        }
        self.make_writer()
    }
}

/// A log file that is set aside when it is full. Standard output and error follow it, for panics.
struct BoundedLog {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl BoundedLog {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = Self::open_file(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes })
    }

    fn open_file(path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        if !cfg!(test) {
            rustix::stdio::dup2_stdout(&file)?;
            rustix::stdio::dup2_stderr(&file)?;
        }
        Ok(file)
    }

    fn set_aside(&self) -> PathBuf {
        self.path.with_extension(OLD_LOG)
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes + line.len() as u64 > MAX_LOG_BYTES {
            fs::rename(&self.path, self.set_aside())?;
            *self = Self::open(self.path.clone())?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// Appends to an agent's log.
pub struct LogWriter(Arc<Mutex<BoundedLog>>);

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::SessionId;
    use crate::protocol::HomeRole;

    #[test]
    fn the_start_message_survives_its_memory_file_and_is_sealed() {
        let role = HomeRole { session: SessionId::random(), root_pid: 4, start_time_ticks: 5, cgroup: "/x".into() };
        let start = AgentStart {
            run_dir: "/r".into(),
            node: "n1".into(),
            identity: "secret".into(),
            role: AgentRole::Home(role),
        };
        let mut file = File::from(sealed_memfd(&start).unwrap());
        let mut json = String::new();
        file.read_to_string(&mut json).unwrap();
        assert_eq!(serde_json::from_str::<AgentStart>(&json).unwrap().identity, "secret");
        assert!(file.write_all(b"x").is_err());
    }

    fn log_of(agent: impl FnOnce(&Path)) -> Vec<std::ffi::OsString> {
        let dir = tempfile::tempdir().unwrap();
        let log = OwnLog::open(dir.path().join("a.log")).unwrap();
        fs::write(dir.path().join("a.log.old"), "old").unwrap();
        tracing::subscriber::with_default(tracing_subscriber::fmt().with_writer(log.clone()).finish(), || {
            tracing::info!("begins");
            agent(&dir.path().join("a.log"));
        });
        assert_ne!(fs::metadata(dir.path().join("a.log")).unwrap().len(), 0);
        log.ends_well();
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_log_that_tells_of_no_trouble_goes_with_its_agent() {
        assert_eq!(log_of(|_| {}), [""; 0]);
        assert_eq!(log_of(|_| tracing::warn!("ill")).len(), 2);
        let panics = |path: &Path| OpenOptions::new().append(true).open(path).unwrap().write_all(b"panicked").unwrap();
        assert_eq!(log_of(panics).len(), 2);
    }

    #[test]
    fn the_cpu_time_of_an_agent_includes_that_of_its_children() {
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done";
        let mut child = Command::new("sh").args(["-c", &format!("sh -c '{busy}'; :")]).spawn().unwrap();
        let cpu_ms = cpu_ms_at_end(&child).unwrap();
        assert!(cpu_ms >= 10, "{cpu_ms}");
        assert!(child.wait().unwrap().success(), "it was left to be reaped");
    }

    #[test]
    fn a_full_log_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = BoundedLog::open(path.clone()).unwrap();
        for _ in 0..3 {
            log.append(&vec![b'x'; MAX_LOG_BYTES as usize / 2]).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), MAX_LOG_BYTES / 2);
        assert_eq!(fs::metadata(dir.path().join("a.log.old")).unwrap().len(), MAX_LOG_BYTES);
    }
}
