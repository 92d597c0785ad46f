//! The `scx_mosix` command: finds out what this process is to be.

use std::{
    io::{IsTerminal, stderr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use scx_mosix::{
    daemon::{self, Settings},
    guest, home, scheduler,
    sys::priority,
    ui::{
        self,
        args::{Command, DaemonArgs},
    },
};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name == guest::init::NAME) {
        return guest::main();
    }
    let cli = ui::args::parse();
    let command = cli.command.unwrap_or(Command::Daemon(cli.daemon));
    if let Some(code) = ui::client_command(&command) {
        return code;
    }
    let ended = match command {
        Command::Run(args) => return ui::run(args),
        Command::Scheduler(args) => run_scheduler(args.duration_s.map(Duration::from_secs)),
        Command::Daemon(args) => run_daemon(args),
        Command::AgentHome => home::agent::run().map_err(Into::into),
        Command::AgentGuest => return guest::main(),
        // Carried out above.
        client => Err(anyhow::anyhow!("{client:?} has no process of its own")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scx_mosix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_daemon(args: DaemonArgs) -> Result<()> {
    log();
    let settings = Settings::try_from(args)?;
    // Before the runtime starts its threads, which inherit it.
    if let Err(error) = priority::serve_first() {
        tracing::warn!(%error, "programs of this node get as much CPU time as this daemon");
    }
    Ok(runtime()?.block_on(daemon::run(settings))?)
}

fn run_scheduler(duration: Option<Duration>) -> Result<()> {
    log();
    Ok(runtime()?.block_on(scheduler::run_foreground(duration))?)
}

fn runtime() -> Result<Runtime> {
    Runtime::new().context("cannot start the asynchronous runtime")
}

/// Logs go to standard error, where systemd and the agents' log files take them from; `RUST_LOG`
/// says how much.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
}
