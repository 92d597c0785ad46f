//! The balancer: guards, comparison, choice; memory before load.
//!
//! ```text
//!   for each job:  guards ──> compare with every node ──> proposal (job, target)
//!   memory short?  proposals by memory; if there are none, by load
//!   then:          one proposal is taken, its target charged; every other job stays, with the reason
//! ```

use super::candidates::{Survey, choose};
use super::config::Config;
use super::cost::{self, Margin};
use super::decision::{Action, Cause, Decision};
use super::eligible;
use super::input::{Input, JobView, NodeName, NodeView};
use super::reason::Reason;
use super::state::State;

/// What was found out about one job.
struct Verdict {
    reasons: Vec<Reason>,
    /// Where it could go, and the number of equally good nodes.
    proposal: Option<(NodeName, usize)>,
}

impl Verdict {
    fn stays(reason: Reason) -> Self {
        Self { reasons: vec![reason], proposal: None }
    }
}

pub(super) fn decide(input: &Input, config: &Config, state: &mut State, seed: u64) -> Vec<Decision> {
    let usable = input.node(&input.here).filter(|node| node.cpus > 0 && node.speed_milli > 0);
    let Some(here) = usable else {
        let stay = |job: &JobView| stays(job, vec![Reason::NoFigures { node: input.here.clone() }]);
        return input.jobs.iter().map(stay).collect();
    };
    let balancer = Balancer { input, config, state, here, seed };
    let shortage = balancer.shortage();
    let mut cause = if shortage.is_some() { Cause::Memory } else { Cause::Load };
    let mut verdicts = balancer.verdicts(cause, shortage.as_ref());
    if cause == Cause::Memory && verdicts.iter().all(|verdict| verdict.proposal.is_none()) {
        // No job can relieve memory; load goes on being balanced, which may help too.
        cause = Cause::Load;
        verdicts = balancer.verdicts(cause, shortage.as_ref());
    }
    let hold = balancer.hold();
    let winner = if hold.is_some() { None } else { balancer.first(&verdicts, cause) };
    let mut decisions = Vec::with_capacity(input.jobs.len());
    for (index, (job, mut verdict)) in input.jobs.iter().zip(verdicts).enumerate() {
        let decision = match (verdict.proposal, &hold, winner) {
            (None, _, _) => stays(job, verdict.reasons),
            (Some((node, among)), _, Some(first)) if first == index => {
                verdict.reasons.push(Reason::Chosen { node: node.clone(), among });
                state.grant(job, &node, input.now_ms);
                let cause = if cause == Cause::Load && node == job.home { Cause::Home } else { cause };
                Decision { job: job.id.clone(), action: Action::Move { target: node, cause }, reasons: verdict.reasons }
            }
            (Some(_), Some(hold), _) => {
                verdict.reasons.push(hold.clone());
                stays(job, verdict.reasons)
            }
            (Some(_), None, first) => {
                let moving = first
                    .and_then(|first| input.jobs.get(first))
                    .map_or_else(|| job.id.clone(), |first| first.id.clone());
                verdict.reasons.push(Reason::Busy { node: input.here.clone(), moving, limit: config.moves_per_source });
                stays(job, verdict.reasons)
            }
        };
        decisions.push(decision);
    }
    decisions
}

fn stays(job: &JobView, reasons: Vec<Reason>) -> Decision {
    Decision { job: job.id.clone(), action: Action::Stay, reasons }
}

/// What holds for any mover, user or balancer: the job must be here, still, and movable.
pub(super) fn fixed(job: &JobView, input: &Input, state: &State) -> Option<Reason> {
    if let Some(target) = state.under_way(&job.id, input.now_ms) {
        return Some(Reason::Moving { target: target.clone() });
    }
    if job.running_on != input.here {
        return Some(Reason::Elsewhere { node: job.running_on.clone() });
    }
    job.movable.as_ref().err().map(|why| Reason::CannotMove { why: why.clone() })
}

/// This node's threshold rule for `job`, if the node is below it. `charged` is load that is certain to come.
pub(super) fn below_threshold(job: &JobView, here: &NodeView, charged: f64, config: &Config) -> Option<Reason> {
    let threshold = f64::from(config.home_threshold_milli) / 1_000.0;
    let tasks_per_cpu = cost::tasks_per_cpu(here) + charged * f64::from(here.speed_milli) / 1_000.0;
    (tasks_per_cpu < threshold).then(|| Reason::BelowThreshold {
        node: here.name.clone(),
        tasks_per_cpu,
        threshold,
        guest: job.is_guest(),
    })
}

struct Balancer<'a> {
    input: &'a Input,
    config: &'a Config,
    state: &'a State,
    here: &'a NodeView,
    seed: u64,
}

impl Balancer<'_> {
    /// Whether memory runs out here.
    fn shortage(&self) -> Option<Reason> {
        let below_bytes = eligible::usher_below_bytes(self.here, self.config);
        let free_bytes = self.here.free_memory_bytes;
        (free_bytes < below_bytes).then(|| Reason::MemoryShort {
            node: self.here.name.clone(),
            free_bytes,
            below_bytes,
        })
    }

    /// Why no job at all may leave now.
    fn hold(&self) -> Option<Reason> {
        let Input { here, now_ms, .. } = self.input;
        let mut leaving = self.state.leaving(here, *now_ms);
        let limit = self.config.moves_per_source;
        if let Some(lease) = leaving.nth(usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(1)) {
            return Some(Reason::Busy { node: here.clone(), moving: lease.job.clone(), limit });
        }
        let since_ms = self.state.last_left_ms(here, *now_ms).filter(|since| *since < self.config.settle_ms)?;
        Some(Reason::Settling { node: here.clone(), since_ms, settle_ms: self.config.settle_ms })
    }

    fn verdicts(&self, cause: Cause, shortage: Option<&Reason>) -> Vec<Verdict> {
        let leaving: f64 = self
            .state
            .leaving(&self.input.here, self.input.now_ms)
            .map(|lease| cost::share(lease.demand_milli, self.here))
            .sum();
        let survey = Survey {
            input: self.input,
            config: self.config,
            state: self.state,
            here: self.here,
            here_cost: cost::here(self.here, leaving),
            cause,
            margin: Margin::Hysteresis,
        };
        let judge = |job: &JobView| {
            if let Some(reason) = fixed(job, self.input, self.state) {
                return Verdict::stays(reason);
            }
            if job.pinned {
                return Verdict::stays(Reason::Pinned);
            }
            let mut verdict =
                if cause == Cause::Memory { self.by_memory(job, &survey) } else { self.by_load(job, &survey) };
            verdict.reasons.splice(0..0, shortage.cloned());
            verdict
        };
        self.input.jobs.iter().map(judge).collect()
    }

    fn by_load(&self, job: &JobView, survey: &Survey) -> Verdict {
        if let Some(reason) = self.restless(job) {
            return Verdict::stays(reason);
        }
        let threshold = below_threshold(job, self.here, 0.0, self.config);
        if !job.is_guest()
            && let Some(reason) = threshold
        {
            return Verdict::stays(reason);
        }
        let only_home = threshold.is_some().then_some(&*job.home);
        let candidates = survey.nodes(job, only_home);
        let proposal = choose(candidates.better(), self.config, self.seed, &job.id);
        let none = if candidates.open.is_empty() { Reason::NoTarget } else { Reason::NothingBetter };
        let mut reasons = Vec::from_iter(threshold);
        reasons.extend(candidates.reasons(self.config));
        if proposal.is_none() {
            reasons.push(none);
        }
        Verdict { reasons, proposal }
    }

    /// Any node with room will do, the least loaded first.
    fn by_memory(&self, job: &JobView, survey: &Survey) -> Verdict {
        let min_bytes = self.config.usher_min_bytes;
        if job.rss_bytes < min_bytes {
            return Verdict::stays(Reason::TooSmall { rss_bytes: job.rss_bytes, min_bytes });
        }
        let candidates = survey.nodes(job, None);
        let proposal = choose(&candidates.open, self.config, self.seed, &job.id);
        let mut reasons = candidates.reasons(self.config);
        if proposal.is_none() {
            reasons.push(Reason::NoTarget);
        }
        Verdict { reasons, proposal }
    }

    /// Why a job is not to be disturbed for the sake of load.
    fn restless(&self, job: &JobView) -> Option<Reason> {
        let Config { residency_ms, min_age_ms, min_demand_milli, .. } = *self.config;
        if job.age_ms < min_age_ms {
            return Some(Reason::TooYoung { age_ms: job.age_ms, min_ms: min_age_ms });
        }
        if let Some(since_ms) = job.since_last_move_ms.filter(|since| *since < residency_ms) {
            return Some(Reason::JustArrived { since_ms, min_ms: residency_ms });
        }
        let demand_milli = job.demand_milli;
        (demand_milli < min_demand_milli).then_some(Reason::LittleDemand { demand_milli, min_milli: min_demand_milli })
    }

    /// The proposal that goes first.
    fn first(&self, verdicts: &[Verdict], cause: Cause) -> Option<usize> {
        let jobs = self.input.jobs.iter().zip(verdicts).enumerate();
        let mut proposed: Vec<(usize, &JobView)> =
            jobs.filter(|(_, (_, verdict))| verdict.proposal.is_some()).map(|(index, (job, _))| (index, job)).collect();
        if cause == Cause::Memory {
            // The smallest that cures the shortage; if none does, the largest.
            let below_bytes = eligible::usher_below_bytes(self.here, self.config);
            let missing_bytes = below_bytes.saturating_sub(self.here.free_memory_bytes);
            proposed.sort_by_key(|(index, job)| {
                let cures = job.rss_bytes >= missing_bytes;
                (!cures, if cures { job.rss_bytes } else { u64::MAX - job.rss_bytes }, *index)
            });
        } else {
            // MOSIX: the second-highest demand, else the highest; of equals the older, which is likely to live longer.
            proposed.sort_by_key(|(index, job)| (u32::MAX - job.demand_milli, u64::MAX - job.age_ms, *index));
            if proposed.len() > 1 {
                proposed.swap(0, 1);
            }
        }
        proposed.first().map(|(index, _)| *index)
    }
}
