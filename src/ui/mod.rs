//! The commands: clients of the API on the Unix socket.
//!
//! ```text
//!   args ─► run      registers itself, then becomes the program: same pid, nothing in between
//!        ├► ps, nodes, migrate, why, … ─► api::Client ─► views ─► table, wide or JSON (their serde form, stable)
//!        ├► top      the same API on the whole terminal
//!        ├► check    this machine, daemon or not
//!        └► key, completions, manual    files only
//! ```
//!
//! An error is one line on standard error that says what to do; [`UiError::exit_code`] lists the
//! exit statuses.

#![forbid(unsafe_code)]

pub mod args;
mod cancel;
mod check;
mod constrain;
mod drain;
mod error;
mod events;
mod key;
mod manual;
mod migrate;
mod migrations;
mod nodes;
mod output;
mod ps;
mod recall;
mod run;
mod top;
mod wait;
mod web;
mod why;

use std::process::ExitCode;

pub use error::UiError;
pub use run::run;

use crate::{api::Client, causes::explain};
use args::{Command, RunDir};

/// Carries out one of the commands that only ask the daemon, or files. Returns `None` for those
/// that are processes of their own.
#[must_use]
pub fn client_command(command: &Command) -> Option<ExitCode> {
    let done = match command {
        Command::Ps(args) => block_on(ps::ps(args)),
        Command::Nodes(args) => block_on(nodes::nodes(args)),
        Command::Top(args) => block_on(top::top(args)),
        Command::Web(args) => block_on(web::web(args)),
        Command::Migrate(args) => block_on(migrate::migrate(args)),
        Command::Bring(args) => block_on(recall::bring(args)),
        Command::Wait(args) => block_on(wait::wait(args)),
        Command::Expel(args) => block_on(recall::expel(args)),
        Command::Cancel(args) => block_on(cancel::cancel(args)),
        Command::Lock(args) => block_on(constrain::lock(args, true)),
        Command::Unlock(args) => block_on(constrain::lock(args, false)),
        Command::Allow(args) => block_on(constrain::allow(args)),
        Command::Drain(args) => block_on(drain::drain(args)),
        Command::Migrations(args) => block_on(migrations::migrations(args)),
        Command::Events(args) => block_on(events::events(args)),
        Command::Why(args) => block_on(why::why(args)),
        Command::Check(args) => block_on(check::check(args)),
        Command::Key(args) => key::key(args),
        Command::Completions { shell } => manual::completions(*shell),
        Command::Manual { directory } => manual::manual(directory),
        Command::Daemon(_) | Command::Run(_) | Command::AgentHome | Command::AgentGuest | Command::Scheduler(_) => {
            return None;
        }
    };
    Some(match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("scx_mosix: {}", explain(&error));
            error.exit_code()
        }
    })
}

fn block_on(command: impl Future<Output = Result<ExitCode, UiError>>) -> Result<ExitCode, UiError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(UiError::Runtime)?.block_on(command)
}

fn client(run_dir: &RunDir) -> Client {
    Client::unix(&run_dir.socket())
}
