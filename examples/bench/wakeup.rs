//! How late a woken thread runs while other threads want all CPUs.
//!
//! ```text
//!   message thread ── every interval: notes the time, wakes ──► worker ── notes the time: the difference is one latency
//!   (several)                                                  (several of each)   works a little, sleeps again
//!   hogs: one per CPU or more, always running: whom the scheduler must put aside for a worker
//! ```
//!
//! A worker that has not yet run for its last wake-up is not woken again: its lateness is counted
//! once, and fully.

use anyhow::{Context, Result, bail};
use clap::Args;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What to run.
#[derive(Args)]
pub struct Wakeup {
    /// Message threads
    #[arg(long, default_value_t = 2)]
    messages: u32,
    /// Workers of each message thread
    #[arg(long, default_value_t = 4)]
    workers: u32,
    /// Threads that always run
    #[arg(long, default_value_t = 2)]
    hogs: u32,
    /// Time between two wake-ups of a worker, in microseconds
    #[arg(long, default_value_t = 10_000)]
    interval_us: u64,
    /// How long a worker works when woken, in microseconds
    #[arg(long, default_value_t = 100)]
    work_us: u64,
    /// How long to measure, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Where a message thread leaves the time for one worker; 0: nothing to do. Nanoseconds since the
/// start, at least 1.
#[derive(Default)]
struct Slot(AtomicU64);

/// What all threads see.
struct Stage {
    start: Instant,
    over: AtomicBool,
}

impl Stage {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn hog(&self) {
        let mut value = 0_u64;
        while !self.is_over() {
            value = black_box(value.wrapping_mul(31).wrapping_add(7));
        }
    }

    /// Sleeps, works, and returns the latencies in nanoseconds.
    fn work(&self, slot: &Slot, work: Duration) -> Vec<u64> {
        let mut latencies = Vec::with_capacity(4_096);
        while !self.is_over() {
            let sent_ns = slot.0.load(Ordering::Acquire);
            if sent_ns == 0 {
                thread::park();
                continue;
            }
            latencies.push(self.now_ns().saturating_sub(sent_ns));
            let begun = Instant::now();
            while begun.elapsed() < work {
                std::hint::spin_loop();
            }
            slot.0.store(0, Ordering::Release);
        }
        latencies
    }

    fn message(&self, workers: Vec<(&Slot, thread::Thread)>, interval: Duration) {
        // Wake-ups are spread over the interval: woken all at once, workers would mostly wait for
        // each other.
        let pause = interval / u32::try_from(workers.len()).unwrap_or(1).max(1);
        while !self.is_over() {
            for (slot, worker) in &workers {
                thread::sleep(pause);
                if slot.0.load(Ordering::Acquire) == 0 {
                    slot.0.store(self.now_ns(), Ordering::Release);
                    worker.unpark();
                }
            }
        }
        workers.iter().for_each(|(_, worker)| worker.unpark());
    }
}

impl Wakeup {
    /// Measures and prints.
    pub fn run(&self) -> Result<()> {
        if self.messages == 0 || self.workers == 0 {
            bail!("--messages and --workers must be at least 1");
        }
        let mut latencies = self.measure()?;
        latencies.sort_unstable();
        let (Some(max), count) = (latencies.last(), latencies.len()) else { bail!("no worker ever ran") };
        let us = |permille| percentile(&latencies, permille) as f64 / 1e3;
        println!(
            "{{\"wakeups\":{count},\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},\"max_us\":{:.1}}}",
            us(500),
            us(990),
            us(999),
            *max as f64 / 1e3
        );
        Ok(())
    }

    fn measure(&self) -> Result<Vec<u64>> {
        let stage = Stage { start: Instant::now(), over: AtomicBool::new(false) };
        let slots: Vec<Slot> = (0..self.messages * self.workers).map(|_| Slot::default()).collect();
        let work = Duration::from_micros(self.work_us);
        thread::scope(|scope| {
            let stage = &stage;
            for _ in 0..self.hogs {
                scope.spawn(|| stage.hog());
            }
            let workers: Vec<_> = slots.iter().map(|slot| scope.spawn(move || stage.work(slot, work))).collect();
            let woken: Vec<_> = slots.iter().zip(workers.iter().map(|worker| worker.thread().clone())).collect();
            for group in woken.chunks(self.workers as usize) {
                let group = group.to_vec();
                scope.spawn(move || stage.message(group, Duration::from_micros(self.interval_us)));
            }
            thread::sleep(Duration::from_secs(self.seconds));
            stage.over.store(true, Ordering::Relaxed);
            let mut all = Vec::new();
            for worker in workers {
                all.extend(worker.join().ok().context("a worker panicked")?);
            }
            Ok(all)
        })
    }
}

/// The smallest of the sorted values that at least `permille` thousandths of them do not exceed.
fn percentile(sorted: &[u64], permille: usize) -> u64 {
    let rank = (sorted.len() * permille).div_ceil(1_000).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}
