//! The scheduler, on n1: hackbench and wake-up latencies under our sched_ext scheduler and under
//! the kernel's own, by turns.
//!
//! A run under ours is of use only if ours was attached all the time; the kernel's own count of
//! attachments tells.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    guests::Guests,
    stats::{Comparison, Side, order},
};
use crate::progress::Progress;

/// How long a hackbench run is made to take under the kernel's scheduler, in seconds.
const HACKBENCH_S: f64 = 4.0;
/// hackbench's groups, of 20 senders and 20 receivers each.
const HACKBENCH_GROUPS: u32 = 2;
/// Loops of the run that calibrates.
const HACKBENCH_SAMPLE_LOOPS: u32 = 20;
/// How long wake-ups are measured in each run, in seconds.
const WAKEUP_S: u64 = 5;
/// The longest a run may take: a scheduler that is far worse must still give a figure.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// One figure under both schedulers.
#[derive(Serialize)]
pub struct Measure {
    /// What is measured.
    pub measure: &'static str,
    /// In what.
    pub unit: &'static str,
    /// The runs.
    #[serde(flatten)]
    pub comparison: Comparison,
}

#[derive(Deserialize)]
struct Wakeups {
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
}

/// Ends the daemons, which would attach the scheduler by themselves and use CPU.
const STOP_DAEMON: &str = r#"
if pid=$(cat /run/scx_mosix.pid 2>/dev/null) && kill -TERM "$pid" 2>/dev/null; then
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
fi"#;

/// Attaches ours and prints the kernel's count of attachments; ends with status 1 and its log if
/// that does not succeed.
const ATTACH: &str = r#"
cd /sys/kernel/sched_ext || { echo "this kernel has no sched_ext" >&2; exit 1; }
setsid scx_mosix scheduler >/run/bench-scheduler.log 2>&1 </dev/null &
echo $! >/run/bench-scheduler.pid
for i in {1..300}; do
    [ "$(cat state)" = enabled ] && { cat enable_seq; exit 0; }
    kill -0 $! 2>/dev/null || break
    sleep 0.1
done
kill $! 2>/dev/null
tail -n 15 /run/bench-scheduler.log >&2
exit 1"#;

/// Prints the state and the count of attachments, then detaches.
const DETACH: &str = r#"
cd /sys/kernel/sched_ext
cat state enable_seq
pid=$(cat /run/bench-scheduler.pid)
kill -TERM "$pid" 2>/dev/null
while kill -0 "$pid" 2>/dev/null || [ "$(cat state)" != disabled ]; do sleep 0.1; done"#;

/// Measures `pairs` pairs of runs.
pub fn measure(guests: &Guests, pairs: usize, progress: &Progress) -> Result<Vec<Measure>> {
    for node in ["n1", "n2"] {
        guests.bash(node, STOP_DAEMON)?;
    }
    let sample = hackbench(guests, HACKBENCH_SAMPLE_LOOPS)?;
    let loops = (f64::from(HACKBENCH_SAMPLE_LOOPS) * HACKBENCH_S / sample.max(0.01)).max(1.0) as u32;
    let figures = [("hackbench", "s"), ("wakeup_p50", "us"), ("wakeup_p99", "us"), ("wakeup_p999", "us")];
    let mut measures = figures.map(|(measure, unit)| Measure { measure, unit, comparison: Comparison::default() });
    for (index, side) in order(pairs).into_iter().enumerate() {
        let step = progress.step(format!("scheduler: run {} of {}, {}", index + 1, pairs * 2, name(side)));
        let values = match side {
            Side::Baseline => run(guests, loops)?,
            Side::Ours => attached(guests, || run(guests, loops))?,
        };
        for (measure, value) in measures.iter_mut().zip(values) {
            measure.comparison.add(side, value);
        }
        step.done();
    }
    Ok(measures.into())
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Ours => "scx_mosix",
        Side::Baseline => "the kernel's own",
    }
}

/// The figures in the order of [`measure`]'s.
fn run(guests: &Guests, loops: u32) -> Result<[f64; 4]> {
    let seconds = hackbench(guests, loops)?;
    let hogs = guests.state.cpus;
    let text = guests.bash_within("n1", RUN_LIMIT, &format!("bench wakeup --seconds {WAKEUP_S} --hogs {hogs}"))?;
    let wakeups: Wakeups = serde_json::from_str(&text).with_context(|| format!("`bench wakeup` printed {text:?}"))?;
    Ok([seconds, wakeups.p50_us, wakeups.p99_us, wakeups.p999_us])
}

fn hackbench(guests: &Guests, loops: u32) -> Result<f64> {
    let text = guests.bash_within("n1", RUN_LIMIT, &format!("hackbench -g {HACKBENCH_GROUPS} -l {loops}"))?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("Time:")?.trim().parse().ok());
    seconds.with_context(|| format!("hackbench printed no time: {text}"))
}

/// Runs `measure` with our scheduler attached from its beginning to its end.
fn attached<T>(guests: &Guests, measure: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = guests.bash("n1", ATTACH).context("cannot attach the scheduler")?;
    let result = measure();
    let after = guests.bash("n1", DETACH).context("cannot detach the scheduler")?;
    if after != format!("enabled\n{before}") {
        let log = guests.bash("n1", "tail -n 5 /run/bench-scheduler.log").unwrap_or_default();
        bail!("the scheduler did not stay attached: {log}");
    }
    result
}
