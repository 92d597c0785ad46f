//! What a simulation is of: machines, jobs, and how machines behave. Scenario files are TOML, in
//! `src/sim/scenarios`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{engine::Leave, policy::PolicyName};
use crate::{bounds::OutOfBounds, cluster::GossipConfig, placement, scheduler};

/// A scenario file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it shows, for people.
    pub about: String,
    /// The machines, in kinds.
    pub machines: Vec<MachineKind>,
    /// The jobs that arrive.
    pub arrivals: Arrivals,
    /// What one job needs.
    pub jobs: JobKind,
    /// Jobs in parallel parts.
    pub parallel: Option<Parallel>,
    /// What memory demand beyond a machine's memory does.
    pub thrashing: Thrashing,
    /// How often policies may move jobs, in seconds.
    pub rebalance_s: f64,
    /// Whether ours also decides whenever a job arrives or ends.
    pub decide_at_events: bool,
    /// What a move costs, for the policies that pay for it.
    pub moves: MoveCost,
    /// Machines that leave, and come back.
    #[serde(default)]
    pub leaves: Vec<Leave>,
    /// How machines hear of each other's load, which begins with the run and rises slowly, as on
    /// nodes; without it all know all at once. Words that are older than placement's `stale_ms` are
    /// forgotten.
    pub gossip: Option<GossipConfig>,
    /// How the messages of gossip travel; without it none is lost and all are there at once.
    #[serde(default)]
    pub network: Network,
    /// Placement's configuration, for ours.
    #[serde(default)]
    pub placement: placement::Config,
    /// The local schedulers' configuration, for ours with attained-service weights.
    #[serde(default)]
    pub scheduler: scheduler::Config,
    /// What others found, to be printed beside.
    #[serde(default)]
    pub context: Vec<Context>,
}

/// What a move costs: the memory is copied while the job runs, and what it has changed meanwhile is
/// copied once more while it stands still.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveCost {
    /// The link's rate, in Mbit/s.
    pub link_mbit: f64,
    /// Memory that a job changes in each second, as a share of all of it: uniform between these.
    pub dirty_share_per_s: (f64, f64),
    /// How long a job stands still at least, in seconds.
    pub freeze_s: f64,
}

impl MoveCost {
    /// How long it takes to send so much memory, in seconds.
    #[must_use]
    pub fn send_s(&self, mib: f64) -> f64 {
        mib * 8.0 * 1.048_576 / self.link_mbit
    }

    /// What must cross while a job of this memory, which changes `dirty_share` of it in each
    /// second, stands still: what it has changed while all of it was sent.
    #[must_use]
    pub fn frozen_mib(&self, memory_mib: f64, dirty_share: f64) -> f64 {
        memory_mib * (dirty_share * self.send_s(memory_mib)).min(1.0)
    }

    /// How long such a job stands still, in seconds.
    #[must_use]
    pub fn downtime_s(&self, memory_mib: f64, dirty_share: f64) -> f64 {
        self.freeze_s + self.send_s(self.frozen_mib(memory_mib, dirty_share))
    }
}

/// Figures that others found for the same or a like scenario.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Where they are from.
    pub source: String,
    /// Slowdown by job and by execution.
    pub slowdowns: BTreeMap<PolicyName, (f64, f64)>,
}

/// Some machines of one kind.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineKind {
    /// How many.
    pub count: usize,
    /// CPUs of each.
    pub cpus: u32,
    /// Speed of a CPU; CPU seconds are those of a CPU of speed 1.
    pub speed: f64,
    /// Memory, in MiB.
    pub memory_mib: f64,
}

/// When jobs arrive: a Poisson process.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrivals {
    /// The mean time between two arrivals, in seconds.
    pub mean_gap_s: f64,
    /// Until when, in seconds.
    pub until_s: f64,
    /// Each run's rate is multiplied by a number uniform between these.
    pub rate_factor: Option<(f64, f64)>,
    /// Jobs that come all at once beside these.
    pub bursts: Option<Bursts>,
}

/// Many jobs at once.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bursts {
    /// The time between two bursts, and before the first, in seconds.
    pub every_s: f64,
    /// How many jobs each has.
    pub jobs: u32,
}

/// What one job needs: both demands are `least / u` with `u` uniform in (0, 1), a Pareto
/// distribution with α = 1.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobKind {
    /// The least CPU time, in seconds at speed 1.
    pub least_cpu_s: f64,
    /// The most CPU time, if there is a bound.
    pub most_cpu_s: Option<f64>,
    /// The least memory, in MiB.
    pub least_memory_mib: f64,
    /// The most memory, in MiB.
    pub most_memory_mib: f64,
    /// Whether it is known how much memory a job will need when it is placed; else it is placed as
    /// if it needed none, and what it needs shows once it runs. The clairvoyant bound knows it
    /// anyhow.
    #[serde(default = "yes")]
    pub memory_known: bool,
    /// Whether ours is told how much CPU time a job will need when it is placed, as history tells a
    /// node; else nothing is known of it.
    #[serde(default)]
    pub cpu_known: bool,
}

fn yes() -> bool {
    true
}

/// How messages of gossip travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// The share of messages that are lost, 0 to 1.
    pub loss: f64,
    /// How long a message is under way, in milliseconds.
    pub delay_ms: u64,
}

/// Jobs that come in several parts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parallel {
    /// Which share of all jobs they are.
    pub share: f64,
    /// The most parts; their number is uniform from 1.
    pub most_parts: u32,
    /// By what their CPU demand is larger.
    pub cpu_factor: f64,
    /// Whether each part has all of the CPU demand, or its share of it.
    pub full_cpu_each: bool,
    /// Whether each part has all of the memory demand, or its share of it.
    pub full_memory_each: bool,
}

/// How a machine slows down whose jobs demand all of its memory or more.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Thrashing {
    /// Its load is multiplied.
    Multiply(f64),
    /// So many jobs' load is added.
    Add(f64),
}

/// Why a scenario cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file is not TOML, or not of this form.
    #[error("the scenario is not understood")]
    Toml(#[from] toml::de::Error),
    /// Placement, the scheduler or gossip could not work with its configuration.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
    /// A figure makes no sense.
    #[error("the scenario's {name} is {value}; {wanted}")]
    Figure {
        /// Which.
        name: &'static str,
        /// What it is.
        value: f64,
        /// What it should be.
        wanted: &'static str,
    },
}

/// The scenarios that come with the program.
const BUILT_IN: [(&str, &str); 14] = [
    ("oc-literal", include_str!("scenarios/oc-literal.toml")),
    ("oc-fit", include_str!("scenarios/oc-fit.toml")),
    ("pareto", include_str!("scenarios/pareto.toml")),
    ("bursts", include_str!("scenarios/bursts.toml")),
    ("slow-node", include_str!("scenarios/slow-node.toml")),
    ("stale", include_str!("scenarios/stale.toml")),
    ("lossy", include_str!("scenarios/lossy.toml")),
    ("unknown-memory", include_str!("scenarios/unknown-memory.toml")),
    ("leaving-1", include_str!("scenarios/leaving-1.toml")),
    ("leaving-10", include_str!("scenarios/leaving-10.toml")),
    ("leaving-50", include_str!("scenarios/leaving-50.toml")),
    ("memory-bound", include_str!("scenarios/memory-bound.toml")),
    ("short-jobs", include_str!("scenarios/short-jobs.toml")),
    ("scale", include_str!("scenarios/scale.toml")),
];

impl Scenario {
    /// Reads and checks a scenario.
    ///
    /// # Errors
    /// Text that is no scenario, or figures that make no sense.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The text of a scenario that comes with the program.
    #[must_use]
    pub fn built_in(name: &str) -> Option<&'static str> {
        BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }

    /// One of them, read.
    #[cfg(test)]
    pub(super) fn named(name: &str) -> Self {
        Self::parse(Self::built_in(name).unwrap()).unwrap()
    }

    /// The names of those.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    fn check(&self) -> Result<(), ScenarioError> {
        self.placement.validate()?;
        self.scheduler.validate()?;
        self.gossip.map_or(Ok(()), |gossip| gossip.validate())?;
        let (least_dirty, most_dirty) = self.moves.dirty_share_per_s;
        let machines = self.machines.iter().flat_map(|kind| {
            [
                ("machine's count", kind.count as f64),
                ("machine's cpus", f64::from(kind.cpus)),
                ("machine's speed", kind.speed),
                ("machine's memory_mib", kind.memory_mib),
            ]
        });
        let (low, high) = self.arrivals.rate_factor.unwrap_or((1.0, 1.0));
        let figures = [
            ("number of machine kinds", self.machines.len() as f64),
            ("mean_gap_s", self.arrivals.mean_gap_s),
            ("until_s", self.arrivals.until_s),
            ("lower rate_factor", low),
            ("upper rate_factor", high),
            ("least_cpu_s", self.jobs.least_cpu_s),
            ("most_cpu_s", self.jobs.most_cpu_s.unwrap_or(1.0)),
            ("least_memory_mib", self.jobs.least_memory_mib),
            ("most_memory_mib", self.jobs.most_memory_mib),
            ("rebalance_s", self.rebalance_s),
            ("link_mbit", self.moves.link_mbit),
            ("freeze_s", self.moves.freeze_s),
        ];
        let bursts = self
            .arrivals
            .bursts
            .iter()
            .flat_map(|bursts| [("bursts' every_s", bursts.every_s), ("bursts' jobs", f64::from(bursts.jobs))]);
        let leaves = self.leaves.iter().flat_map(|leave| {
            let back_after_s = leave.back_after_s.unwrap_or(1.0);
            [("leaves' at_s", leave.at_s), ("leaves' percent", leave.percent), ("leaves' back_after_s", back_after_s)]
        });
        let parallel =
            self.parallel.iter().flat_map(|p| [("cpu_factor", p.cpu_factor), ("most_parts", f64::from(p.most_parts))]);
        let thrashing = match self.thrashing {
            Thrashing::Multiply(by) => ("thrashing's factor", by),
            Thrashing::Add(jobs) => ("thrashing's addition", jobs),
        };
        for (name, value) in machines.chain(figures).chain(bursts).chain(leaves).chain(parallel).chain([thrashing]) {
            if !(value.is_finite() && value > 0.0) {
                return Err(ScenarioError::Figure { name, value, wanted: "it must be above 0" });
            }
        }
        if !(0.0 <= least_dirty && least_dirty <= most_dirty && most_dirty.is_finite()) {
            let wanted = "the shares must not be below 0, and the first not above the second";
            return Err(ScenarioError::Figure { name: "dirty_share_per_s", value: least_dirty, wanted });
        }
        let Network { loss, delay_ms } = self.network;
        if !(0.0..1.0).contains(&loss) {
            let wanted = "it must not be below 0, and must be below 1";
            return Err(ScenarioError::Figure { name: "network's loss", value: loss, wanted });
        }
        if self.gossip.is_none() && self.network != Network::default() {
            let wanted = "it needs [gossip]: without it there are no messages";
            return Err(ScenarioError::Figure {
                name: "network's loss or delay_ms",
                value: loss.max(delay_ms as f64),
                wanted,
            });
        }
        match &self.parallel {
            Some(Parallel { share, .. }) if !(0.0..=1.0).contains(share) => Err(ScenarioError::Figure {
                name: "share of parallel jobs",
                value: *share,
                wanted: "it must be from 0 to 1",
            }),
            _ if low > high => Err(ScenarioError::Figure {
                name: "lower rate_factor",
                value: low,
                wanted: "it must not be above the upper one",
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_with_the_program_is_understood() {
        for name in Scenario::names() {
            assert_eq!(Scenario::named(name).name, name);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_name() {
        let text = Scenario::built_in("oc-fit").unwrap();
        let refused = |from: &str, to: &str| Scenario::parse(&text.replace(from, to)).unwrap_err().to_string();
        assert_eq!(
            refused("mean_gap_s = 20", "mean_gap_s = -1"),
            "the scenario's mean_gap_s is -1; it must be above 0"
        );
        assert_eq!(
            refused("mean_gap_s = 20", "mean_gap_s = nan"),
            "the scenario's mean_gap_s is NaN; it must be above 0"
        );
        let message_loss = refused("[moves]", "[network]\nloss = 0.5\n\n[moves]");
        assert!(message_loss.contains("needs [gossip]"), "{message_loss}");
        assert!(refused("[moves]", "[network]\nloss = 1\n\n[moves]").contains("must be below 1"));
        assert!(refused("[0.5, 1.5]", "[1.5, 0.5]").contains("must not be above the upper"));
        assert_eq!(refused("mean_gap_s", "mean_gap"), "the scenario is not understood");
    }
}
