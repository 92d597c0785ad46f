//! What the daemon of n1 itself costs: CPU time and memory, idle and with 1,000 tasks to look
//! after.
//!
//! The tasks are processes that wake once a second each, in ten jobs. The figures are the kernel's,
//! from `/proc/PID/stat`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::guests::Guests;
use crate::progress::Progress;

const JOBS: u32 = 10;
const TASKS_PER_JOB: u32 = 100;
/// Over how long CPU time is measured, in seconds. The kernel counts it in steps of 10 ms.
const WINDOW_S: u32 = 20;
/// How long the daemon gets to settle before each window, in seconds.
const SETTLE_S: u32 = 5;

/// The daemon under both loads.
#[derive(Serialize)]
pub struct Daemon {
    /// With nothing to look after.
    pub idle: Cost,
    /// With the tasks.
    pub loaded: Cost,
}

/// What it costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Tasks in jobs.
    pub tasks: u32,
    /// CPU time a second.
    pub cpu_ms_per_s: f64,
    /// Resident memory, KiB.
    pub rss_kib: u64,
}

/// Prints clock ticks a second and the size of a page; then, before and after the window, the
/// uptime in seconds and the daemon's stat.
fn window() -> String {
    format!(
        "pid=$(cat /run/scx_mosix.pid)\nsleep {SETTLE_S}\ngetconf CLK_TCK\ngetconf PAGESIZE\n\
         cat /proc/uptime /proc/$pid/stat\nsleep {WINDOW_S}\ncat /proc/uptime /proc/$pid/stat"
    )
}

/// Starts the jobs and waits until all of their processes are there.
fn start() -> String {
    format!(
        "rm -f /run/bench-crowd.*\nfor i in $(seq {JOBS}); do\n\
         setsid scx_mosix run --stay -- /usr/local/bin/bench crowd --processes {TASKS_PER_JOB} \
         >/run/bench-crowd.$i.out 2>/run/bench-crowd.$i.err </dev/null &\necho $! >/run/bench-crowd.$i.pid\ndone\n\
         while [ $(cat /run/bench-crowd.*.out | grep -c ready) -lt {JOBS} ]; do sleep 0.2; done\n\
         if [ -s /run/bench-crowd.1.err ]; then cat /run/bench-crowd.1.err >&2; exit 1; fi"
    )
}

const STOP: &str = "kill $(cat /run/bench-crowd.*.pid)";

/// Measures the daemon idle, then with the tasks.
pub fn measure(guests: &Guests, progress: &Progress) -> Result<Daemon> {
    let step = progress.step(format!("daemon: idle, over {WINDOW_S} s"));
    let idle = cost(guests, 0)?;
    step.done();
    let tasks = JOBS * TASKS_PER_JOB;
    let step = progress.step(format!("daemon: {tasks} tasks, over {WINDOW_S} s"));
    guests.bash_within("n1", Duration::from_secs(120), &start()).context("the tasks do not start")?;
    let seen = guests.bash("n1", "cat /sys/fs/cgroup/user.slice/scx_mosix.*/cgroup.procs | wc -l")?;
    ensure!(seen.trim().parse() == Ok(tasks), "{seen} processes are in jobs instead of {tasks}");
    let loaded = cost(guests, tasks)?;
    guests.bash("n1", STOP)?;
    step.done();
    Ok(Daemon { idle, loaded })
}

fn cost(guests: &Guests, tasks: u32) -> Result<Cost> {
    let text = guests.bash("n1", &window()).context("the daemon does not run")?;
    read(&text, tasks).with_context(|| format!("not understood: {text}"))
}

/// Understands what [`window`] prints.
fn read(text: &str, tasks: u32) -> Option<Cost> {
    let mut lines = text.lines();
    let ticks_per_s: f64 = lines.next()?.parse().ok()?;
    let page_bytes: u64 = lines.next()?.parse().ok()?;
    let mut moment = || -> Option<(f64, f64, u64)> {
        let uptime_s: f64 = lines.next()?.split(' ').next()?.parse().ok()?;
        // The name, in parentheses, may hold anything; the fields after it are numbered from 3.
        let (_, fields) = lines.next()?.rsplit_once(") ")?;
        let field = |number: usize| fields.split(' ').nth(number - 3)?.parse::<u64>().ok();
        Some((uptime_s, (field(14)? + field(15)?) as f64, field(24)?))
    };
    let (from, to) = (moment()?, moment()?);
    let cpu_s = (to.1 - from.1) / ticks_per_s;
    Some(Cost { tasks, cpu_ms_per_s: cpu_s * 1e3 / (to.0 - from.0), rss_kib: to.2 * page_bytes / 1_024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(user: u64, system: u64, pages: u64) -> String {
        format!(
            "77 (scx) mosix) S 1 77 77 0 -1 4194560 1 2 3 4 {user} {system} 5 6 20 0 9 0 1234 99999 {pages} 18446744073709551615 1"
        )
    }

    #[test]
    fn cost_is_the_difference_over_the_time_that_really_passed() {
        let text = format!("100\n4096\n50.00 80.00\n{}\n75.00 90.00\n{}", stat(100, 50, 1), stat(140, 60, 2_560));
        assert_eq!(read(&text, 7), Some(Cost { tasks: 7, cpu_ms_per_s: 20.0, rss_kib: 10_240 }));
    }

    #[test]
    fn a_daemon_that_died_meanwhile_has_no_cost() {
        assert_eq!(read(&format!("100\n4096\n50.00 80.00\n{}\n75.00 90.00\n", stat(1, 1, 1)), 0), None);
    }
}
