//! Reads the machine ten times a second and makes a [`NodeLoad`] of it once a second.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{LoadTracker, NodeError, NodeLoad, Scope, load::FETCHED_DECAY, running::Running};

/// Time between two samples of the number of runnable tasks.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Samples in a second.
const SAMPLES: u32 = 10;

/// The state between samples. Does no waiting of its own.
#[derive(Debug)]
pub struct Sampler {
    scope: Scope,
    running: Option<Running>,
    nr_running: u32,
    tracker: LoadTracker,
    taken: u32,
    fetched: Fetched,
}

/// What was fetched back from swap lately.
#[derive(Debug, Default)]
struct Fetched {
    /// Since the machine began, when that was looked at last.
    total_bytes: Option<u64>,
    recent_bytes: f64,
}

impl Fetched {
    /// Takes the total a second later, and gives what counts of it.
    fn step(&mut self, total_bytes: u64) -> u64 {
        let last_bytes = self.total_bytes.replace(total_bytes).unwrap_or(total_bytes);
        self.recent_bytes = self.recent_bytes * FETCHED_DECAY + total_bytes.saturating_sub(last_bytes) as f64;
        self.recent_bytes as u64
    }
}

impl Sampler {
    /// A sampler of `scope`, which has `cpus` CPUs of `speed_permille` thousandths of the standard
    /// speed.
    pub fn new(scope: Scope, cpus: u32, speed_permille: u32) -> Self {
        Self {
            scope,
            running: None,
            nr_running: 0,
            tracker: LoadTracker::new(cpus, speed_permille),
            taken: 0,
            fetched: Fetched::default(),
        }
    }

    /// The load as it is now, for a node that has only just begun to sample: it takes guests at
    /// once.
    ///
    /// # Errors
    /// As [`Self::tick`].
    pub fn first(&mut self) -> Result<NodeLoad, NodeError> {
        loop {
            if let Some(load) = self.tick()? {
                return Ok(load);
            }
        }
    }

    /// Takes one sample; to be called every [`SAMPLE_INTERVAL`]. With each tenth comes a new load,
    /// with no guests and accepting.
    ///
    /// # Errors
    /// [`NodeError`] if `/proc` or a container's cgroup cannot be read; the next call opens them
    /// again.
    pub fn tick(&mut self) -> Result<Option<NodeLoad>, NodeError> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => self.scope.running()?,
        };
        if let Some(nr_running) = running.step()? {
            self.nr_running = nr_running;
            self.tracker.sample(nr_running);
        }
        self.running = Some(running);
        self.taken += 1;
        if self.taken < SAMPLES {
            return Ok(None);
        }
        self.taken = 0;
        self.tracker.end_second();
        let memory = self.scope.memory()?;
        let fetched_bytes = self.fetched.step(memory.fetched_bytes);
        Ok(Some(NodeLoad {
            load_milli: self.tracker.load_milli(),
            load_upper_milli: self.tracker.load_upper_milli(),
            nr_running: self.nr_running,
            weight_nano: 0,
            owners_permille: 0,
            owners_weight_nano: 0,
            memory_free_bytes: memory.free_bytes,
            swapped_bytes: memory.swapped_bytes.min(fetched_bytes),
            pressure: self.scope.pressure()?,
            guests: 0,
            accepting: true,
        }))
    }
}

/// Samples until `stop`, telling each new load to `loads`. What only the daemon knows, it fills in
/// by `complete`.
pub async fn watch_load(
    mut sampler: Sampler,
    loads: watch::Sender<NodeLoad>,
    complete: impl Fn(&mut NodeLoad) + Send,
    stop: CancellationToken,
) {
    let mut ticks = interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match sampler.tick() {
            Ok(None) => {}
            Ok(Some(mut load)) => {
                failing = false;
                complete(&mut load);
                loads.send_replace(load);
            }
            // Said once, not ten times a second; the last load stands, and its age in the gossip
            // shows nothing wrong, so say it loudly.
            Err(error) if !failing => {
                failing = true;
                tracing::error!(error = &error as &dyn std::error::Error, "this node's load cannot be measured");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Limits, Machine, machine::tests::machine};

    const MEMINFO: &str = include_str!("testdata/meminfo");
    const VMSTAT: &str = "nr_free_pages 9\npswpin 100\npswpout 900\n";

    fn sampler(machine: Machine, cpus: u32) -> Sampler {
        Sampler::new(Scope::new(machine, Limits::default()).unwrap(), cpus, 1000)
    }

    #[test]
    fn what_lies_in_swap_counts_as_far_as_it_is_fetched_back() {
        let swapping = MEMINFO.replace("SwapTotal:             0", "SwapTotal: 4096000");
        let swapping = swapping.replace("SwapFree:              0", "SwapFree: 3072000");
        let files = [("/proc/loadavg", "0 0 0 1/1 9\n"), ("/proc/meminfo", &*swapping), ("/proc/vmstat", VMSTAT)];
        let (dir, machine) = machine(&files);
        let mut sampler = sampler(machine, 1);
        let mut second = |pswpin: u64| {
            std::fs::write(dir.path().join("proc/vmstat"), format!("pswpin {pswpin}\n")).unwrap();
            (0..10).find_map(|_| sampler.tick().unwrap()).unwrap().swapped_bytes / 4096
        };
        assert_eq!(second(100_000), 0, "it was fetched before");
        assert_eq!((second(108_000), second(116_000)), (8_000, 15_000));
        assert_eq!((0..60).map(|_| second(116_000)).last(), Some(4));
        assert_eq!(second(10_000_000), 256_000, "no more than there is");
    }

    #[test]
    fn ten_samples_make_a_load() {
        let (_dir, machine) =
            machine(&[("/proc/loadavg", "0 0 0 3/100 9\n"), ("/proc/meminfo", MEMINFO), ("/proc/vmstat", VMSTAT)]);
        let mut sampler = sampler(machine, 2);
        for _ in 0..9 {
            assert_eq!(sampler.tick().unwrap(), None);
        }
        let load = sampler.tick().unwrap().unwrap();
        assert_eq!((load.load_milli, load.load_upper_milli, load.nr_running), (375, 1000, 2));
        assert_eq!((load.memory_free_bytes, load.pressure, load.accepting), (1_500_000 * 1024, None, true));
    }

    #[test]
    fn the_first_load_needs_no_second() {
        let (_dir, machine) =
            machine(&[("/proc/loadavg", "0 0 0 3/100 9\n"), ("/proc/meminfo", MEMINFO), ("/proc/vmstat", VMSTAT)]);
        let load = sampler(machine, 2).first().unwrap();
        assert_eq!((load.nr_running, load.memory_free_bytes, load.accepting), (2, 1_500_000 * 1024, true));
    }

    #[tokio::test]
    async fn the_daemon_completes_each_load_and_can_stop() {
        let (_dir, machine) =
            machine(&[("/proc/loadavg", "0 0 0 2/100 9\n"), ("/proc/meminfo", MEMINFO), ("/proc/vmstat", VMSTAT)]);
        let (loads, mut seen) = watch::channel(NodeLoad::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(watch_load(sampler(machine, 1), loads, |load| load.guests = 7, stop.clone()));
        seen.changed().await.unwrap();
        assert_eq!(seen.borrow_and_update().guests, 7);
        stop.cancel();
        task.await.unwrap();
        assert!(seen.changed().await.is_err());
    }
}
