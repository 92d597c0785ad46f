//! A program whose behaviour is known to the last byte: what migration tests move about.
//!
//! Its output depends on its arguments only, never on time or place, so that a moved run can be
//! compared with an unmoved one byte by byte. At each step it also checks what a program takes for
//! granted (its pid, host name, working directory, a clock that never goes back, its memory) and
//! ends with status 3 and a line `BROKEN: …` on stderr if anything of it changed.
//!
//! ```text
//!   workload files   --input FILE --output FILE [--echo]   reads and maps a file, writes another, prints to stdout [and stderr]
//!   workload threads --threads N                           N threads that meet at each step
//!   workload family                                        a parent and two children that share memory and talk by pipes
//!   workload memory  --megabytes N                         N MiB of pages that do not compress, partly rewritten at each step
//!   all:  --steps N  --work-ms MS (CPU time of each step and thread)  --pause-ms MS (sleep)  --exit STATUS  --die SIGNAL
//! ```
//!
//! SIGUSR1 makes it print `USR1` at its next step, on stdout. SIGUSR2 ends it after the step under
//! way, as if that had been the last: a test that moves it about need not know how long that takes.

mod family;
mod files;
mod memory;
mod step;
mod threads;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use nix::sys::signal::{Signal, raise};
use std::process::ExitCode;
use step::Broken;

/// The status that says that something changed under the program.
const BROKEN_STATUS: u8 = 3;

/// A program whose behaviour is known to the last byte
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
    #[command(flatten)]
    common: Common,
}

/// What all modes share.
#[derive(Args)]
struct Common {
    /// How many steps to run
    #[arg(long, global = true, default_value_t = 100)]
    steps: u64,
    /// CPU time of each step, in milliseconds, in each thread or child
    #[arg(long, global = true, default_value_t = 20)]
    work_ms: u64,
    /// For how long to sleep at each step, in milliseconds, in each thread or child
    #[arg(long, global = true, default_value_t = 0)]
    pause_ms: u64,
    /// The host's name may change: for programs that are moved by other means than scx_mosix
    #[arg(long, global = true)]
    any_host: bool,
    /// The exit status at the end
    #[arg(long, global = true, default_value_t = 0)]
    exit: u8,
    /// A signal to die of at the end, as SIGTERM
    #[arg(long, global = true)]
    die: Option<Signal>,
}

#[derive(Subcommand)]
enum Mode {
    /// Read and map a file, write another
    Files(files::Files),
    /// Threads that meet at each step
    Threads {
        /// How many
        #[arg(long, default_value_t = 8)]
        threads: usize,
    },
    /// A parent and two children with shared memory
    Family,
    /// Memory whose every page is checked
    Memory {
        /// How much, in MiB
        #[arg(long, default_value_t = 64)]
        megabytes: usize,
    },
}

fn run(cli: &Cli) -> Result<()> {
    step::catch_signals()?;
    let common = &cli.common;
    match &cli.mode {
        Mode::Files(files) => files::run(files, common),
        Mode::Threads { threads } => threads::run(*threads, common),
        Mode::Family => family::run(common),
        Mode::Memory { megabytes } => memory::run(*megabytes, common),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = run(&cli) {
        let broken = error.is::<Broken>();
        eprintln!("{}{error:#}", if broken { "BROKEN: " } else { "workload: " });
        return ExitCode::from(if broken { BROKEN_STATUS } else { 1 });
    }
    if let Some(signal) = cli.common.die
        && let Err(error) = raise(signal)
    {
        eprintln!("workload: cannot raise {signal}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::from(cli.common.exit)
}
