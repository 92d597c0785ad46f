//! What the sched_ext scheduler did since it was attached. The counts begin anew when it is
//! attached again, as is usual for counters; while it is not in force there are none.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
    registry::{Registry, Unit},
};

use crate::scheduler::{SchedulerStats, Tier, TierStats};

/// The last statistics.
#[derive(Clone, Debug, Default)]
pub struct Scheduling {
    stats: Arc<Mutex<Option<SchedulerStats>>>,
}

impl Scheduling {
    pub fn define(registry: &mut Registry) -> Self {
        let scheduling = Self::default();
        registry.register_collector(Box::new(scheduling.clone()));
        scheduling
    }

    pub fn set(&self, stats: Option<&SchedulerStats>) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats.copied();
    }
}

impl Collector for Scheduling {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(stats) = *self.stats.lock().unwrap_or_else(PoisonError::into_inner) else { return Ok(()) };
        let seconds = |ns: u64| ns as f64 / 1e9;
        let mut by_tier = |name, unit: Option<&Unit>, help, value: fn(&TierStats) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
            for (tier, stats) in Tier::ALL.iter().zip(&stats.tiers) {
                let labels = [("tier", tier.name())];
                let family = family.encode_family(&labels)?;
                match unit {
                    Some(_) => ConstCounter::new(seconds(value(stats))).encode(family)?,
                    None => ConstCounter::new(value(stats)).encode(family)?,
                }
            }
            Ok::<(), fmt::Error>(())
        };
        let unit = Some(&Unit::Seconds);
        by_tier("scheduler_run", unit, "CPU time that tasks of a tier had.", |stats| stats.run_ns)?;
        by_tier("scheduler_wait", unit, "Time that tasks of a tier were runnable, but waited.", |stats| stats.wait_ns)?;
        by_tier("scheduler_switches", None, "Times that a task of a tier was put on a CPU.", |stats| stats.switches)?;
        let help = "Tasks put straight on an idle CPU, queued, taken from another cache's queue; running tasks asked to make \
                    room; turns that a lower tier was owed; turns put off by a throttle.";
        let mut family = encoder.encode_descriptor("scheduler_steps", help, None, MetricType::Counter)?;
        let steps = [
            ("direct", stats.nr_direct),
            ("queued", stats.nr_queued),
            ("stolen", stats.nr_stolen),
            ("preempted", stats.nr_preempted),
            ("owed", stats.nr_owed),
            ("paused", stats.nr_paused),
        ];
        for (step, count) in steps {
            ConstCounter::new(count).encode(family.encode_family(&[("step", step)])?)?;
        }
        Ok(())
    }
}
