//! The programs that `cargo xtask bench` runs in a virtual machine beside Debian's own.
//!
//! ```text
//!   bench wakeup   message threads wake worker threads while others take all CPU; how late the workers run
//!   bench crowd    many processes that sleep and wake once in a while, for a daemon to look after
//! ```

mod crowd;
mod wakeup;

use anyhow::Result;
use clap::Parser;

/// The programs that `cargo xtask bench` runs
#[derive(Parser)]
enum Cli {
    /// Measure how late woken threads run; prints one line of JSON
    Wakeup(wakeup::Wakeup),
    /// Be many processes; prints `ready` when all are there
    Crowd(crowd::Crowd),
}

fn main() -> Result<()> {
    match Cli::parse() {
        Cli::Wakeup(wanted) => wanted.run(),
        Cli::Crowd(wanted) => wanted.run(),
    }
}
