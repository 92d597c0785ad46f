//! The home agent: one process per job that ever moved, at the job's home.
//!
//! ```text
//!   daemon ◄── control socket ──►┐                        ┌── source engine (first move)
//!   guests ◄── home links ──────►│  core: one task,       │
//!   deputies ◄── socket pairs ──►│  the arbiter decides,  ├── relays ── home's pipes and terminal
//!                                │  the core does         │
//!                                └────────────────────────┴── file server of each guest
//! ```
//!
//! It starts at the first `Begin`, is the only one to commit a move, keeps what the frozen original
//! had open, and ends when the job has ended, or was never moved and is gone.

use std::io;

use super::{control, core, files};
use crate::agent::MOVE_TIMEOUT;
use crate::agent::connection::{ConnectError, Connector};
use crate::agent::process::{self, ProcessError};
use crate::protocol::{AgentRole, AgentStart, HomeRole, ProtocolError, StreamKind, socket_path};
use crate::sys::proc;

/// Why a home agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It could not settle down.
    #[error("the home agent cannot start")]
    Process(#[from] ProcessError),
    /// Its control socket could not be made.
    #[error("the home agent cannot be reached")]
    Control(#[from] ProtocolError),
    /// Its identity in the cluster is not usable.
    #[error("the home agent has no identity")]
    Identity(#[from] ConnectError),
    /// The job is not there.
    #[error("process {pid}, the job's root, is gone")]
    NoJob {
        /// Its root.
        pid: i32,
        /// The system's error.
        source: io::Error,
    },
    /// The run time could not be set up.
    #[error("the home agent cannot start its run time")]
    Runtime(#[source] io::Error),
}

/// The hidden subcommand `agent-home`: returns when the agent's work is done.
///
/// # Errors
/// If it could not begin; the job is not touched then.
pub fn run() -> Result<(), HomeError> {
    let (start, log, _alive) = process::enter(StreamKind::Home)?;
    let runtime = process::runtime().map_err(HomeError::Runtime)?;
    let result = runtime.block_on(serve(start));
    if let Err(error) = &result {
        tracing::error!(error = error as &dyn std::error::Error, "the home agent ends");
    }
    // Tasks that hold sockets and threads that serve files end with the process.
    runtime.shutdown_background();
    if result.is_ok() {
        log.ends_well();
    }
    result
}

async fn serve(start: AgentStart) -> Result<(), HomeError> {
    let AgentStart { run_dir, node, identity, role: AgentRole::Home(role) } = start else {
        return Err(ProcessError::WrongRole(process::subcommand(StreamKind::Home)).into());
    };
    let connector = Connector::new(&identity)?;
    drop(zeroize::Zeroizing::new(identity));
    let pid = role.root_pid;
    let root = files::open_root(pid as u32).map_err(|source| HomeError::NoJob { pid, source })?;
    if proc::start_time_ticks(pid) != Some(role.start_time_ticks) {
        return Err(HomeError::NoJob { pid, source: io::ErrorKind::NotFound.into() });
    }
    let socket = socket_path(&run_dir, StreamKind::Home, role.session);
    let HomeRole { session, .. } = role;
    let (core, handle) =
        core::Core::new(core::Settings { run_dir, node, role, connector, root, patience: MOVE_TIMEOUT });
    let control = control::listen(&socket, handle)?;
    tracing::info!(%session, pid, "the home agent is ready");
    core.run().await;
    control.abort();
    // The file goes with the listener, whose task may not get to drop it.
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!(%error, "the control socket is gone already");
    }
    Ok(())
}
