//! `cargo xtask`: the one door to setting up, building, checking and demonstrating scx_mosix.

mod bench;
mod checks;
mod cmd;
mod demo;
mod package;
mod product;
mod progress;
mod setup;
mod tidy;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use progress::Progress;
use std::process::ExitCode;

/// The one door to setting up, building, checking and demonstrating scx_mosix
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing on this computer (by apt), saying what and why
    Setup,
    /// Build scx_mosix, statically linked; prints the path of the binary
    Build {
        /// Optimised, for use
        #[arg(long)]
        release: bool,
    },
    /// Make Debian packages, with and of debug symbols; prints their paths and sizes
    Package {
        /// Of a binary that is not optimised, for tests
        #[arg(long)]
        debug: bool,
    },
    /// Check format, clippy's lints and tidy's rules
    Lint,
    /// Run all checks and tests, those in virtual machines too
    Test(checks::Test),
    /// Check ARCHITECTURE.md's rules
    Tidy,
    /// Virtual machines: a private cluster on this computer
    #[command(subcommand)]
    Vm(vm::Vm),
    /// Three nodes, eight real programs, and one sees them spread
    Demo {
        /// How the result is printed
        #[arg(long, value_enum, default_value = "table")]
        output: demo::Output,
        /// Leave the nodes running
        #[arg(long)]
        keep: bool,
        /// What nodes are [default: namespaces where they may be made, else qemu]
        #[arg(long, value_enum)]
        backend: Option<vm::cluster::Backend>,
    },
    /// What a move, the scheduler and the daemon cost, beside what one has without scx_mosix
    Bench(bench::Bench),
    /// Simulate a cluster: all policies on the same jobs; without a scenario, list those that there
    /// are
    #[command(disable_help_flag = true)]
    Sim {
        /// What the simulator is told: `cargo xtask sim --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn run(task: Task) -> Result<()> {
    let set_up = || setup::ensure(&Progress::new());
    match task {
        Task::Setup => {
            set_up()?;
            println!("everything that is needed is installed, and starts");
            Ok(())
        }
        Task::Build { release } => {
            set_up()?;
            let profile = if release { product::Profile::Release } else { product::Profile::Test };
            println!("{}", product::build(profile, &Progress::new())?.display());
            Ok(())
        }
        Task::Package { debug } => {
            set_up()?;
            let profile = if debug { product::Profile::Test } else { product::Profile::Release };
            package::run(profile, &Progress::new())
        }
        Task::Lint => set_up().and_then(|()| checks::lint()),
        Task::Test(wanted) => set_up().and_then(|()| checks::test(&wanted)),
        Task::Tidy => tidy::run(),
        Task::Vm(command) => vm::run(command),
        Task::Demo { output, keep, backend } => demo::run(output, keep, backend),
        Task::Bench(wanted) => bench::run(&wanted),
        Task::Sim { arguments } => set_up().and_then(|()| product::simulate(&arguments)),
    }
}

fn main() -> ExitCode {
    let result = run(Cli::parse().command);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
