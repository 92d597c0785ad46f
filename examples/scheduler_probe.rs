//! Drives the scheduler for the tests: attaches it, prints each change of its state, and obeys
//! lines on stdin until that ends.
//!
//! ```text
//!   tier PID|CGROUP-PATH agent|home|guest|none     throttle PID PERMILLE
//!   stats           prints: stats {…}               job CGROUP-PATH
//! ```
//!
//! `scheduler_probe off|jobs|all` says whose weight falls with the CPU time that they have had;
//! jobs' if nothing is said. `scheduler_probe foreground SECONDS` is the product's own foreground
//! mode instead. `scheduler_probe burn MS CGROUP-PATH` uses so much CPU time and prints what the
//! cgroup had used before and after, in µs.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::time::{ClockId, clock_gettime};
use scx_mosix::scheduler::{AttainedService, Backoff, Config, HintTarget, Scheduler, State, Tier, run_foreground};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let attained_service = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["foreground", seconds] => return Ok(run_foreground(Some(Duration::from_secs(seconds.parse()?))).await?),
        ["burn", ms, cgroup] => return burn(Duration::from_millis(ms.parse()?), cgroup),
        ["off"] => AttainedService::Off,
        [] | ["jobs"] => AttainedService::Jobs,
        ["all"] => AttainedService::All,
        other => bail!("what is {other:?}?"),
    };
    let scheduler = Scheduler::start(Config { attained_service, ..Config::default() }, Backoff::default())?;
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

/// Reads the cgroup's CPU time in the process that competes with it: between the two readings it
/// can have had only what the scheduler gave it beside this one.
fn burn(cpu_time: Duration, cgroup: &str) -> anyhow::Result<()> {
    let used_us = || -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(format!("{cgroup}/cpu.stat"))?;
        let value = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(value.context("no usage_usec")?.parse()?)
    };
    let own = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime));
    let (began, before) = (own()?, used_us()?);
    while own()? - began < cpu_time {
        (0..10_000u32).for_each(|n| _ = std::hint::black_box(n));
    }
    println!("{before} {}", used_us()?);
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
        ["job", cgroup] => scheduler.hints().set_job(std::fs::metadata(cgroup)?.ino(), true)?,
        ["throttle", pid, permille] => scheduler.hints().set_throttle(pid.parse()?, Some(permille.parse()?))?,
        ["stats"] => println!("stats {}", serde_json::to_string(&scheduler.statistics().read().await?)?),
        other => bail!("what is {other:?}?"),
    }
    Ok(())
}
