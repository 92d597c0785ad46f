//! Drives the scheduler for the tests: attaches it, prints each change of its state, and obeys lines on stdin until that ends.
//!
//! ```text
//!   tier PID|CGROUP-PATH agent|home|guest|none     throttle PID PERMILLE
//!   account PID     prints: account PID TIER run_ms=N wait_ms=N switches=N (summed up over its threads)
//!   stats           prints: stats {…}
//! ```
//!
//! `scheduler_probe foreground SECONDS` is the product's own foreground mode instead.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, bail};
use scx_mosix::scheduler::{Backoff, HintTarget, Scheduler, State, Tier, run_foreground};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("foreground") {
        let seconds = arguments.next().context("how many seconds?")?.parse()?;
        return Ok(run_foreground(Some(Duration::from_secs(seconds))).await?);
    }
    let scheduler = Scheduler::start(Backoff::default())?;
    let mut state = scheduler.state();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            changed = state.changed() => {
                changed?;
                match &*state.borrow_and_update() {
                    State::Off { reason } => println!("off: {reason}"),
                    State::Running { .. } => println!("running"),
                    State::Ejected { reason, .. } => println!("ejected: {reason}"),
                    State::Unsupported { reason } => println!("unsupported: {reason}"),
                }
            }
            line = lines.next_line() => match line? {
                Some(line) => obey(&scheduler, &line).await?,
                None => break,
            },
        }
    }
    tokio::task::spawn_blocking(move || scheduler.stop()).await?;
    println!("off: detached");
    Ok(())
}

async fn obey(scheduler: &Scheduler, line: &str) -> anyhow::Result<()> {
    match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["tier", target, tier] => {
            let target = match target.parse() {
                Ok(pid) => HintTarget::Process(pid),
                Err(_) => HintTarget::Cgroup(std::fs::metadata(target)?.ino()),
            };
            let tier = match *tier {
                "agent" => Some(Tier::Agent),
                "home" => Some(Tier::Home),
                "guest" => Some(Tier::Guest),
                "none" => None,
                other => bail!("no tier {other}"),
            };
            scheduler.hints().set_tier(target, tier)?;
        }
        ["throttle", pid, permille] => scheduler.hints().set_throttle(pid.parse()?, Some(permille.parse()?))?,
        ["account", pid] => {
            let pid: u32 = pid.parse()?;
            let accounts: Vec<_> =
                scheduler.accounts().await?.into_iter().filter(|account| account.tgid == pid).collect();
            let tier = accounts.first().map(|account| account.tier);
            let run_ms: u64 = accounts.iter().map(|account| account.run_ns / 1_000_000).sum();
            let wait_ms: u64 = accounts.iter().map(|account| account.wait_ns / 1_000_000).sum();
            let switches: u64 = accounts.iter().map(|account| account.switches).sum();
            println!("account {pid} {tier:?} run_ms={run_ms} wait_ms={wait_ms} switches={switches}");
        }
        ["stats"] => println!("stats {}", serde_json::to_string(&scheduler.stats().await?)?),
        other => bail!("what is {other:?}?"),
    }
    Ok(())
}
