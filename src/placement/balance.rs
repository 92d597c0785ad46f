//! The balancer: guards, comparison, choice.
//!
//! ```text
//!   for each job:  guards ──> compare with other nodes ──> proposal (job, target)
//!   memory short?  guards that are for the sake of load do not hold; if no cost is lower elsewhere, any node with room will do
//!   must it leave? no guard holds but facts: the node is being drained, or its user does not allow it
//!   then:          of those that must leave, or else of those that relieve memory, or else of all, the proposal that gains most is taken,
//!                  its target charged; every other job stays, with the reason
//! ```

use super::candidates::{Choice, Found, Survey};
use super::config::Config;
use super::cost::{self, CostModel};
use super::decision::{Cause, Decision};
use super::input::{Input, JobView, NodeView, Owners};
use super::reason::{Reason, Shortage};
use super::slowdown::{Load, Occupancy};
use super::state::State;
use super::tiers::Tiers;
use super::wanting::Wanting;
use crate::job::JobId;

/// What was found out about one job.
struct Verdict {
    reasons: Vec<Reason>,
    /// Where it could go.
    proposal: Option<Choice>,
    urgency: Urgency,
}

/// What a job would leave for; the greater comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// It, or those who stay, would be better off. What is gained counts, per second of the move.
    Load,
    /// Memory is short, and it has some. What is relieved counts.
    Memory,
    /// It may not be here, whatever that costs.
    MustLeave,
}

impl Verdict {
    fn because(reasons: Vec<Reason>) -> Self {
        Self { reasons, proposal: None, urgency: Urgency::Load }
    }

    /// Whether the job would be better off elsewhere, or may be: no node that could be better takes
    /// it just now.
    fn wants_to_leave(&self) -> bool {
        self.proposal.is_some() || matches!(self.reasons.last(), Some(Reason::NoTarget))
    }
}

pub(super) fn decide(
    input: &Input,
    config: &Config,
    state: &mut State,
    wanting: &mut Wanting,
    seed: u64,
) -> Vec<Decision> {
    let Some(here) = usable_here(input) else {
        let stay = |job: &JobView| Decision::stays(job, vec![Reason::NoFigures { node: input.here.clone() }]);
        return input.jobs.iter().map(stay).collect();
    };
    let balancer = Balancer::new(input, config, state, here, seed);
    let (any, verdicts) = balancer.verdicts();
    let urgency = verdicts.iter().filter(|verdict| verdict.proposal.is_some()).map(|verdict| verdict.urgency).max();
    let hold = balancer.hold(urgency.unwrap_or(Urgency::Load));
    let wants = input.jobs.iter().zip(&verdicts).map(|(job, verdict)| (job.id(), verdict.wants_to_leave()));
    let wanted_ms = wanting.note(wants, input.now_ms);
    let passing: Vec<Option<Reason>> =
        verdicts.iter().zip(wanted_ms).map(|(verdict, wanted_ms)| balancer.passing(verdict, wanted_ms)).collect();
    let winner = if hold.is_some() { None } else { first(&verdicts, &passing) };
    let winner = winner.and_then(|index| Some((index, balancer.judge(input.jobs.get(index)?, any, true).reasons)));
    let mut decisions = Vec::with_capacity(input.jobs.len());
    for (index, ((job, mut verdict), passing)) in input.jobs.iter().zip(verdicts).zip(passing).enumerate() {
        let decision = match (verdict.proposal, &hold, &winner) {
            (None, _, _) => Decision::stays(job, verdict.reasons),
            (Some(choice), _, Some((first, reasons))) if *first == index => {
                let chosen = Reason::Chosen { node: choice.node.clone(), among: choice.among };
                let reasons = reasons.iter().cloned().chain([chosen]).collect();
                state.grant(job, &choice.node, input.now_ms, config);
                let cause = match verdict.urgency {
                    Urgency::MustLeave => Cause::Evacuate,
                    Urgency::Memory => Cause::Memory,
                    Urgency::Load if choice.node == *job.home() => Cause::Home,
                    Urgency::Load => Cause::Load,
                };
                Decision::moves(job, choice, cause, reasons)
            }
            (Some(_), Some(hold), _) => {
                verdict.reasons.push(hold.clone());
                Decision::stays(job, verdict.reasons)
            }
            (Some(_), None, first) => {
                verdict.reasons.push(passing.unwrap_or_else(|| {
                    let moving =
                        first.as_ref().and_then(|(first, _)| input.jobs.get(*first)).unwrap_or(job).id().clone();
                    Reason::Busy { node: input.here.clone(), moving, limit: config.moves_per_source }
                }));
                Decision::stays(job, verdict.reasons)
            }
        };
        decisions.push(decision);
    }
    decisions
}

/// See [`super::Placement::explain`].
pub(super) fn explain(input: &Input, config: &Config, state: &State, decision: &Decision, seed: u64) -> Vec<Reason> {
    let job = input.jobs.iter().find(|job| *job.id() == decision.job);
    let Some((job, here)) = job.zip(usable_here(input)) else { return decision.reasons.clone() };
    let balancer = Balancer::new(input, config, state, here, seed);
    let (any, _) = balancer.verdicts();
    let Verdict { mut reasons, proposal, .. } = balancer.judge(job, any, true);
    if proposal.is_some() {
        reasons.extend(decision.verdict().cloned());
    }
    reasons
}

/// This node, if it knows its own figures.
pub(super) fn usable_here(input: &Input) -> Option<&NodeView> {
    input.node(&input.here).filter(|node| node.cpus > 0 && node.speed_milli > 0)
}

/// What holds for any mover, user or balancer: the job must be here, still, and movable.
pub(super) fn fixed(job: &JobView, input: &Input, state: &State) -> Option<Reason> {
    if let Some(target) = state.under_way(job.id(), input.now_ms) {
        return Some(Reason::Moving { target: target.clone() });
    }
    if job.running_on != input.here {
        return Some(Reason::Elsewhere { node: job.running_on.clone() });
    }
    job.movable.as_ref().err().map(|why| Reason::CannotMove { why: why.clone() })
}

/// This node's threshold rule for `job`, if the node, whose runnable tasks are given per CPU, is
/// below it.
pub(super) fn below_threshold(job: &JobView, here: &NodeView, tasks_per_cpu: f64, config: &Config) -> Option<Reason> {
    let threshold = f64::from(config.home_threshold_milli) / 1_000.0;
    (tasks_per_cpu < threshold).then(|| Reason::BelowThreshold {
        node: here.name.clone(),
        tasks_per_cpu,
        threshold,
        guest: job.is_guest(),
    })
}

/// The most urgent proposal that gains most, of those that may not pass; of equals the first.
fn first(verdicts: &[Verdict], passing: &[Option<Reason>]) -> Option<usize> {
    let gains = verdicts.iter().zip(passing).map(|(verdict, passing)| match passing {
        None => verdict.proposal.as_ref().map(|choice| (verdict.urgency, choice.gain)),
        Some(_) => None,
    });
    let proposed = gains.enumerate().filter_map(|(index, gain)| Some((index, gain?)));
    let order = |a: (Urgency, f64), b: (Urgency, f64)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
    proposed.max_by(|a, b| order(a.1, b.1).then(b.0.cmp(&a.0))).map(|(index, _)| index)
}

struct Balancer<'a> {
    input: &'a Input,
    config: &'a Config,
    state: &'a State,
    here: &'a NodeView,
    survey: Survey<'a>,
    /// This node without what is on its way out, and with memory as it will be when something could
    /// have left.
    tiers: Tiers,
    shortage: Option<Reason>,
    /// The busiest job of a tree that has the CPUs here to itself, but for hardly anything, and how
    /// many CPUs that tree would keep busy.
    sole_tree: Option<(&'a JobView, f64)>,
}

impl<'a> Balancer<'a> {
    fn new(input: &'a Input, config: &'a Config, state: &'a State, here: &'a NodeView, seed: u64) -> Self {
        let homes = input.jobs.iter().filter(|job| job.is_guest()).map(|job| &**job.home());
        let allowed = input.jobs.iter().flat_map(JobView::named_nodes);
        let survey = Survey::new(input, homes.chain(allowed), None, config, state, Cause::Load, seed);
        let leaving = state.leaving(&input.here, input.now_ms);
        let shown = Tiers::new(here, config, state);
        let now = leaving.fold(shown, |tiers, lease| tiers.without(lease.load, lease.is_from_home()));
        let was_exhausted = now.of(true).is_exhausted();
        let may_leave = |job: &&JobView| !job.is_pinned() && job.movable.is_ok();
        let largest_bytes = input.jobs.iter().filter(may_leave).map(|job| job.frozen_bytes).max().unwrap_or(0);
        let ahead_s = cost::ahead_s(largest_bytes, survey.targets());
        let falls = Load { memory: here.depletion_bytes_per_s as f64 * ahead_s, ..Load::NONE };
        let tiers = now.with(falls, true);
        let below_bytes = cost::usher_below_bytes(here, config);
        let free_bytes = here.free_memory_bytes;
        let how = tiers.of(true).is_exhausted().then(|| {
            if cost::is_stalled(here, config) {
                Shortage::Stall { stall_centi: here.memory_stall_centi, limit_percent: config.usher_stall_percent }
            } else if was_exhausted {
                Shortage::Now { free_bytes, below_bytes }
            } else {
                let ahead_ms = (ahead_s * 1_000.0) as u64;
                Shortage::Ahead { free_bytes, depletion_bytes_per_s: here.depletion_bytes_per_s, below_bytes, ahead_ms }
            }
        });
        let shortage = how.map(|how| Reason::MemoryShort { node: here.name.clone(), how });
        // All else that is busy here belongs to that tree as well, or it would not have the CPUs to
        // itself.
        let busiest = input.jobs.iter().max_by_key(|job| job.record.history.demand_milli);
        let tree = busiest.map(|busiest| {
            let demands = input
                .jobs
                .iter()
                .filter(|job| job.is_of_the_tree_of(busiest))
                .map(|job| job.record.history.demand_milli);
            (busiest, demands.map(cost::demand).sum::<f64>())
        });
        let little = cost::demand(config.min_demand_milli);
        let sole_tree = tree.filter(|(busiest, demand)| {
            let Occupancy { cpus, left, demand: taken, .. } = tiers.of(!busiest.is_guest());
            (cpus - left) + taken - demand < little
        });
        Self { input, config, state, here, survey, tiers, shortage, sole_tree }
    }

    /// Whether the job shares the CPUs here with others of its tree, and with hardly anything else.
    fn among_its_own(&self, job: &JobView) -> bool {
        self.sole_tree.is_some_and(|(busiest, demand)| {
            let others = demand - cost::demand(job.record.history.demand_milli);
            job.is_of_the_tree_of(busiest) && others >= cost::demand(self.config.min_demand_milli)
        })
    }

    /// Why no job at all may leave now, if the most urgent proposal is this.
    fn hold(&self, urgency: Urgency) -> Option<Reason> {
        let Input { here, now_ms, .. } = self.input;
        let mut leaving = self.state.leaving(here, *now_ms);
        // What is urgent does not wait for what left before, which may take its time: one may leave
        // beside it.
        let limit = self.config.moves_per_source + u32::from(urgency > Urgency::Load);
        if let Some(lease) = leaving.nth(usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(1)) {
            return Some(Reason::Busy { node: here.clone(), moving: lease.job.clone(), limit });
        }
        // What this node's load will show says nothing of those that must leave.
        if urgency == Urgency::MustLeave { None } else { self.settling(None) }
    }

    /// Why nothing may leave so soon after the last that did, or after `job` did.
    fn settling(&self, job: Option<&JobId>) -> Option<Reason> {
        let (node, settle_ms) = (&self.input.here, self.config.settle_ms);
        let last_left_ms = self.state.last_left_ms(node, job, self.input.now_ms);
        let since_ms = last_left_ms.filter(|since| *since < settle_ms)?;
        Some(Reason::Settling { node: node.clone(), since_ms, settle_ms })
    }

    /// Why a move of a job that has wanted to leave for so long may come too late: an imbalance
    /// that has not lasted for as long as it takes to cure is likely to pass by itself, as what has
    /// lasted for some time lasts about as long again.
    fn passing(&self, verdict: &Verdict, wanted_ms: u64) -> Option<Reason> {
        let may_wait = verdict.urgency == Urgency::Load;
        let Choice { downtime_ms, .. } = *verdict.proposal.as_ref().filter(|_| may_wait)?;
        // What is seen for the first time was so since the last look.
        let lasted_ms = wanted_ms + (cost::STEP_S * 1_000.0) as u64;
        (lasted_ms < downtime_ms).then_some(Reason::Passing { lasted_ms, downtime_ms })
    }

    /// Looks at every job; says also whether it was for a place with room at any cost.
    fn verdicts(&self) -> (bool, Vec<Verdict>) {
        let look =
            |any: bool| -> Vec<Verdict> { self.input.jobs.iter().map(|job| self.judge(job, any, false)).collect() };
        let verdicts = look(false);
        let is_relieved = |verdicts: &[Verdict]| {
            verdicts.iter().any(|verdict| verdict.proposal.is_some() && verdict.urgency > Urgency::Load)
        };
        if self.shortage.is_none() || self.config.overcommit || is_relieved(&verdicts) {
            return (false, verdicts);
        }
        // Whatever it costs: what comes next is that the kernel kills one of them.
        let at_any_cost = look(true);
        if is_relieved(&at_any_cost) { (true, at_any_cost) } else { (false, verdicts) }
    }

    /// Looks at one job; `any`: for any place with room. The figures of the nodes that are compared
    /// are listed only if asked for: they take longer than all the rest.
    fn judge(&self, job: &JobView, any: bool, figures: bool) -> Verdict {
        if let Some(reason) = fixed(job, self.input, self.state) {
            let is_still = matches!(reason, Reason::CannotMove { .. });
            return self.stays(job, Vec::new(), reason, figures && is_still);
        }
        if let Some(reason) = self.must_leave(job) {
            // It may be on its way out already, and be seen here for a moment longer.
            if let Some(settling) = self.settling(Some(job.id())) {
                return Verdict::because(vec![reason, settling]);
            }
            let (reasons, proposal) = self.compare(&self.cost_model(job), vec![reason], None, true, figures);
            return Verdict { reasons, proposal, urgency: Urgency::MustLeave };
        }
        if job.is_pinned() {
            return self.stays(job, Vec::new(), Reason::Pinned, figures);
        }
        let mut reasons = Vec::from_iter(self.shortage.clone());
        reasons.extend(self.owners_first(job));
        let mut only_home = None;
        let (working_set_bytes, min_bytes) = (job.working_set_bytes, self.config.usher_min_bytes);
        let mut urgency = Urgency::Load;
        if self.shortage.is_some() && working_set_bytes >= min_bytes {
            // It may go, however little attained service it has and however little CPU it asks for.
            urgency = Urgency::Memory;
        } else if any {
            return self.stays(job, reasons, Reason::TooSmall { working_set_bytes, min_bytes }, figures);
        } else if let Some(reason) = self.restless(job) {
            return self.stays(job, reasons, reason, figures);
        } else if let Some(reason) =
            below_threshold(job, self.here, self.here.tasks_per_cpu(!job.is_guest()), self.config)
        {
            if !job.is_guest() {
                return self.stays(job, reasons, reason, figures);
            }
            reasons.push(reason);
            only_home = Some(&**job.home());
        }
        let among_its_own = self.shortage.is_none() && self.among_its_own(job);
        let model = self.cost_model(job).among_its_own(among_its_own);
        let (reasons, choice) = self.compare(&model, reasons, only_home, any, figures);
        // Where memory may be exhausted if that costs less, it is a cost like others.
        let by_relief = urgency == Urgency::Memory && !self.config.overcommit;
        let proposal = choice.map(|choice| if by_relief { self.by_relief(job, choice) } else { choice });
        Verdict { reasons, proposal, urgency }
    }

    /// A job that stays for a reason that no cost outweighs; with `figures`, what it would cost
    /// elsewhere all the same.
    fn stays(&self, job: &JobView, mut reasons: Vec<Reason>, reason: Reason, figures: bool) -> Verdict {
        if figures {
            reasons.extend(self.survey.list(&self.cost_model(job), None));
        }
        reasons.push(reason);
        Verdict::because(reasons)
    }

    /// What is compared for a job.
    fn cost_model<'j>(&self, job: &'j JobView) -> CostModel<'j> {
        let home_s_per_byte = self.survey.home_s_per_byte(job);
        CostModel::new(job, &self.input.here, &self.tiers.of(!job.is_guest()), home_s_per_byte, self.config)
    }

    /// Compares the nodes for a job, or `only` one; with `any`, for any place with room. What came
    /// of it is added to the reasons.
    fn compare(
        &self,
        model: &CostModel,
        mut reasons: Vec<Reason>,
        only: Option<&str>,
        any: bool,
        figures: bool,
    ) -> (Vec<Reason>, Option<Choice>) {
        if figures {
            reasons.extend(self.survey.list(model, only));
        }
        let stays = match self.survey.find(model, only, any) {
            Found::Choice(choice) => return (reasons, Some(choice)),
            Found::NothingBetter => Reason::NothingBetter,
            Found::NoTarget => Reason::NoTarget,
        };
        reasons.push(stays);
        (reasons, None)
    }

    /// Why a job may not be here, whatever it costs.
    fn must_leave(&self, job: &JobView) -> Option<Reason> {
        let Input { here, draining, .. } = self.input;
        if !job.allows(here) {
            return Some(Reason::NotAllowedHere { node: here.clone() });
        }
        (*draining && job.is_guest()).then(|| Reason::Draining { node: here.clone() })
    }

    /// Where memory is short, what counts is how much of what is missing a move frees, and how
    /// little the job itself loses.
    fn by_relief(&self, job: &JobView, choice: Choice) -> Choice {
        let Occupancy { used, memory, .. } = self.tiers.of(true);
        let missing = (used - memory).max(1.0);
        let freed = (job.working_set_bytes as f64).min(missing);
        // Of those that free as much, the smallest.
        Choice {
            gain: freed / (1.0 + job.load(self.config.young_ms).weight) - job.working_set_bytes as f64 / 1e6,
            ..choice
        }
    }

    /// What takes CPU time from a guest where its host's own users come first.
    fn owners_first(&self, job: &JobView) -> Option<Reason> {
        let NodeView { ref name, cpus, owners, .. } = *self.here;
        let Owners { demand_milli, .. } = owners.filter(|_| job.is_guest())?;
        let is_much = demand_milli >= self.config.min_demand_milli;
        is_much.then(|| Reason::OwnersFirst { node: name.clone(), demand_milli, cpus })
    }

    /// Why a job is not to be disturbed for the sake of load.
    fn restless(&self, job: &JobView) -> Option<Reason> {
        let Config { min_age_ms, min_demand_milli, .. } = *self.config;
        if job.record.history.age_ms < min_age_ms {
            return Some(Reason::TooYoung { age_ms: job.record.history.age_ms, min_ms: min_age_ms });
        }
        let demand_milli = job.record.history.demand_milli;
        (demand_milli < min_demand_milli).then_some(Reason::LittleDemand { demand_milli, min_milli: min_demand_milli })
    }
}
