//! `cargo xtask`: the one door to setting up, building, checking and demonstrating scx_mosix.

mod cmd;
mod product;
mod progress;
mod setup;
mod vm;

use clap::{Parser, Subcommand};
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
    /// Virtual machines: a private cluster on this computer
    #[command(subcommand)]
    Vm(vm::Vm),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Vm(command) => vm::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
