//! Many processes that do next to nothing: each sleeps, wakes, sleeps again. They are children of
//! this one and end with it.

use anyhow::{Context, Result};
use clap::Args;
use nix::unistd::{ForkResult, fork};
use std::time::Duration;

/// How many, and how lively.
#[derive(Args)]
pub struct Crowd {
    /// How many processes, this one included
    #[arg(long, default_value_t = 100)]
    processes: u32,
    /// How long each sleeps at a time, in milliseconds
    #[arg(long, default_value_t = 1_000)]
    interval_ms: u64,
}

impl Crowd {
    /// Becomes the crowd, and stays it until killed.
    pub fn run(&self) -> Result<()> {
        for _ in 1..self.processes {
            // SAFETY: the process has one thread, so the child may do anything.
            if let ForkResult::Child = unsafe { fork() }.context("cannot have another child")? {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
                return self.live();
            }
        }
        println!("ready");
        self.live()
    }

    fn live(&self) -> Result<()> {
        loop {
            std::thread::sleep(Duration::from_millis(self.interval_ms));
        }
    }
}
