//! The `scx_mosix` command: finds out what this process is to be.

use std::{
    io::{IsTerminal, stderr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use scx_mosix::{
    daemon::{self, Settings},
    guest, home,
    metrics::CountMessages,
    scheduler,
    sys::priority,
    ui::{
        self,
        args::{Command, DaemonArgs},
    },
};
use tokio::runtime::Runtime;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

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

/// What the names of our fields in the journal begin with: `journalctl SCX_MOSIX_PROCESS=n1/4711`.
const JOURNAL_PREFIX: &str = "SCX_MOSIX";

/// Logs go to standard error; to the journal, with their fields, where that is standard error's
/// other end. `RUST_LOG` says how much.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A journal that cannot be reached itself still takes what is written to it.
    let journal = is_journal().then(tracing_journald::layer).and_then(Result::ok);
    let journal = journal.map(|layer| layer.with_field_prefix(Some(JOURNAL_PREFIX.to_owned())));
    let lines = journal
        .is_none()
        .then(|| tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal()));
    tracing_subscriber::registry().with(filter).with(CountMessages).with(journal).with(lines).init();
}

/// Whether standard error ends in the journal, systemd.exec(5).
fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(stderr()).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}
