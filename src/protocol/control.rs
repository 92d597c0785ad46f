//! What a daemon and an agent of the same node say to each other.
//!
//! A `SOCK_SEQPACKET` Unix socket per agent, [`socket_path`], mode 0600; one JSON message per
//! packet of at most [`MAX_MESSAGE_BYTES`]; a message that carries a descriptor has it attached by
//! `SCM_RIGHTS`. The agent listens, the daemon connects, as often as it likes: on every connection
//! the agent first sends [`FromAgent::State`], then every change.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Protocol;
use crate::job::{Constraints, JobRecord, SessionId};

/// The largest control message in bytes; more is a protocol error.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// What a stream that arrives at a node's port is for; the byte after `SMX1` in its preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum StreamKind {
    /// A guest agent calls its home agent; the session is the job's home session.
    Home = b'H',
    /// A source sends images and pages to a guest agent; the session is the migration.
    Move = b'M',
}

impl StreamKind {
    /// What is spoken over such a stream.
    pub fn protocols(self) -> &'static [Protocol] {
        match self {
            Self::Home => &[Protocol::Home, Protocol::Files],
            Self::Move => &[Protocol::Move],
        }
    }

    /// The kind that the preamble's byte names, if any.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'H' => Some(Self::Home),
            b'M' => Some(Self::Move),
            _ => None,
        }
    }
}

/// Where the agent that serves streams of `kind` for `session` listens, below the run-time
/// directory.
pub fn socket_path(run_dir: &Path, kind: StreamKind, session: SessionId) -> PathBuf {
    run_dir.join("agents").join(format!("{}-{session}.sock", kind as u8 as char))
}

/// The file whose lock the agent that serves streams of `kind` for `session` holds as long as it
/// lives ([`super::alive`]), below the run-time directory.
pub fn lock_path(run_dir: &Path, kind: StreamKind, session: SessionId) -> PathBuf {
    socket_path(run_dir, kind, session).with_extension("lock")
}

/// Where a home agent marks the epoch of a job that was committed elsewhere, below the run-time
/// directory.
pub fn epoch_path(run_dir: &Path, session: SessionId) -> PathBuf {
    run_dir.join("jobs").join(format!("{session}.epoch"))
}

/// The first packet that an agent finds on descriptor 3 (a sealed memfd, JSON): all that it needs
/// to begin.
#[derive(Clone, Serialize, Deserialize)]
pub struct AgentStart {
    /// The run-time directory of the daemon, usually `/run/scx_mosix`.
    pub run_dir: PathBuf,
    /// This node's name.
    pub node: String,
    /// PEM texts of the cluster CA, this node's certificate and its key; never logged.
    pub identity: String,
    /// What this agent is.
    pub role: AgentRole,
}

/// The two kinds of agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum AgentRole {
    /// Arbiter and home side of one job.
    Home(HomeRole),
    /// Host of one guest.
    Guest(Box<GuestRole>),
}

/// What a home agent is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HomeRole {
    /// Names the job in the cluster.
    pub session: SessionId,
    /// The job's root process at home, also the job's number in `ps`.
    pub root_pid: i32,
    /// Start time of that process in clock ticks since boot, so that a reused pid is never mistaken
    /// for it.
    pub start_time_ticks: u64,
    /// The job's cgroup, an absolute path below /sys/fs/cgroup.
    pub cgroup: PathBuf,
}

/// What a guest agent is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GuestRole {
    /// The migration that brings the guest; names the guest on this node from then on.
    pub migration: SessionId,
    /// The job as it left its source. Its root has in the guest's own pid namespace the pid that it
    /// has at home.
    pub job: JobRecord,
    /// Where home's port is, `address:port`.
    pub home_address: String,
    /// `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` as the process tree saw them, in ns, when the source
    /// asked for the reservation.
    pub monotonic_ns: i64,
    /// See `monotonic_ns`.
    pub boottime_ns: i64,
    /// Home's host name and domain name, for the guest's uts namespace.
    pub hostname: String,
    /// The cgroup that this agent makes for its guest, an absolute path.
    pub cgroup: PathBuf,
}

/// States of a migration, in order (DESIGN.md §6); `Aborted` and `Failed` end it, as `Run` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveState {
    /// The target is asked for room.
    Reserve,
    /// The target checks itself and makes the guest's world; nothing is frozen yet.
    Prepare,
    /// Memory is copied while the program runs (a later version fills this state; now it is passed
    /// through).
    Precopy,
    /// The program is being stopped.
    Freeze,
    /// CRIU writes the kernel's state.
    Dump,
    /// Images and pages are on their way.
    Stream,
    /// The target restores, the program stands still in both places.
    Restore,
    /// Home decides.
    Commit,
    /// The target's copy runs, the source's is gone.
    Run,
    /// Given up before commit: the program resumes at the source.
    Aborted,
    /// Lost after commit; the deputy ends with a documented status.
    Failed,
}

impl MoveState {
    /// Its name, for lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Prepare => "prepare",
            Self::Precopy => "precopy",
            Self::Freeze => "freeze",
            Self::Dump => "dump",
            Self::Stream => "stream",
            Self::Restore => "restore",
            Self::Commit => "commit",
            Self::Run => "run",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }
}

/// Requests of a daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum ToAgent {
    /// To the owner of the process tree: a move is planned; make it home's candidate. Answered by
    /// [`FromAgent::Begun`].
    Begin {
        /// The migration.
        migration: SessionId,
        /// The target's name.
        target: String,
    },
    /// To the owner of the process tree: the target is ready, move now. Progress follows as
    /// [`FromAgent::Progress`].
    Move {
        /// The migration, begun before.
        migration: SessionId,
        /// The target's `address:port`.
        target_address: String,
    },
    /// To the owner of the process tree: give the move up if home has not committed it.
    Cancel {
        /// The migration.
        migration: SessionId,
        /// Why, for the record.
        reason: String,
    },
    /// A TCP connection of the given kind, descriptor attached, preamble already read, TLS still to
    /// come.
    Stream {
        /// What it is for.
        kind: StreamKind,
    },
    /// A signal for the job's root as if sent at home (used by a daemon that drains or ends jobs).
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// To a guest agent: what placement may do with its guest from now on. It only keeps that, for
    /// this daemon and the next.
    Constrain {
        /// All of it.
        constraints: Constraints,
    },
    /// End: a guest agent that has no process tree yet, or a home agent whose job has ended.
    Terminate {
        /// Why, for the log.
        reason: String,
    },
}

/// Reports of an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum FromAgent {
    /// The first message on each connection and again after each change of it.
    State(AgentState),
    /// Answer to [`ToAgent::Begin`].
    Begun {
        /// The migration.
        migration: SessionId,
        /// Why home refused, if it did.
        refused: Option<String>,
        /// Facts about the process tree that the target needs to prepare.
        facts: Option<TreeFacts>,
    },
    /// A guest agent has made the guest's world and reached home: it waits for the source's stream.
    Prepared {
        /// Why not, if it could not.
        refused: Option<String>,
    },
    /// The owner of the process tree has got this far with a move.
    Progress(MoveProgress),
    /// A guest runs here now.
    Arrived {
        /// The node that sent it.
        source: String,
        /// Its memory, in bytes.
        memory_bytes: u64,
        /// How long it stood still, in µs, as this node has seen it.
        downtime_us: u64,
    },
}

/// What a target must know of a process tree before it promises anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFacts {
    /// The memory that it will have where it is restored, in bytes.
    pub resident_bytes: u64,
    /// Number of processes.
    pub processes: u32,
    /// Number of threads.
    pub threads: u32,
    /// `CLOCK_MONOTONIC` as the process tree sees it now, in ns.
    pub monotonic_ns: i64,
    /// `CLOCK_BOOTTIME` as the process tree sees it now, in ns.
    pub boottime_ns: i64,
    /// The host name that the process tree sees.
    pub hostname: String,
}

/// A step of a migration as its source sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MoveProgress {
    /// The migration.
    pub migration: SessionId,
    /// The state just entered.
    pub state: MoveState,
    /// When, in ms since the epoch of the source's wall clock.
    pub at_ms: u64,
    /// Memory sent so far, before compression, in bytes.
    pub memory_bytes: u64,
    /// Bytes on the wire so far.
    pub wire_bytes: u64,
    /// From the freeze to the process tree's first instruction at the target, in µs; known at
    /// `Run`.
    pub downtime_us: Option<u64>,
    /// Why, for `Aborted` and `Failed`: one readable sentence.
    pub reason: Option<String>,
}

/// How a program ended, exactly as `wait` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// By `exit` with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// An agent's state as it tells it to its daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum AgentState {
    /// Of a home agent.
    Home {
        /// The job.
        session: SessionId,
        /// The job's root process at home.
        root_pid: i32,
        /// How often the job has been committed to another node.
        epoch: u64,
        /// The node where it runs now.
        runs_on: String,
        /// The nodes where it has run, in order, home first.
        visited: Vec<String>,
        /// Its current move, if any, and the target.
        moving: Option<(SessionId, String)>,
        /// Set when the job has ended: the agent is about to go.
        ended: Option<ExitStatus>,
    },
    /// Of a guest agent.
    Guest {
        /// Names the guest on this node.
        migration: SessionId,
        /// The job as it came here, but with what placement may do with it now.
        job: Box<JobRecord>,
        /// The root process as this node's kernel numbers it, once there is one.
        host_pid: Option<i32>,
        /// The cgroup of the guest.
        cgroup: PathBuf,
        /// The epoch under which it runs; `None` before commit.
        epoch: Option<u64>,
        /// Its current move out, if any, and the target.
        moving: Option<(SessionId, String)>,
        /// Why it cannot move now, if that is so.
        cannot_move: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent outlives its daemon; what it says may be of another release.
    #[test]
    fn a_guest_without_constraints_may_do_as_it_likes() {
        let id = SessionId::random();
        let text = format!(
            r#"{{"role":"guest","migration":"{id}","job":{{"id":"n1/7","session":"{id}","spec":{{"comm":"cc","uid":7}},
                "constraints":{{"stay":true}},"of_tomorrow":1}},"host_pid":null,"cgroup":"/x","epoch":null,"moving":null,
                "cannot_move":null}}"#
        );
        let Ok(AgentState::Guest { job, .. }) = serde_json::from_str(&text) else { panic!("{text}") };
        assert_eq!(job.constraints, Constraints { stay: true, allowed_nodes: vec![] });
        assert_eq!((job.id.pid, job.history), (7, crate::job::History::default()));
    }

    #[test]
    fn messages_survive_json() {
        let text = serde_json::to_string(&ToAgent::Stream { kind: StreamKind::Move }).unwrap();
        assert_eq!(text, r#"{"request":"stream","kind":"move"}"#);
        assert!(matches!(serde_json::from_str(&text), Ok(ToAgent::Stream { kind: StreamKind::Move })));
        assert_eq!(StreamKind::from_byte(StreamKind::Home as u8), Some(StreamKind::Home));
    }
}
