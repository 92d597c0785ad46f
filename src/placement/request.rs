//! Single jobs: initial assignment, users' requests, and admission at the target.

use super::balance::{below_threshold, fixed, usable_here};
use super::candidates::{Choice, Found, Survey};
use super::config::Config;
use super::cost::{self, CostModel, Place};
use super::decision::{Action, Cause, Decision};
use super::eligible::{self, Room};
use super::input::{Input, JobView, NodeName};
use super::reason::{Exclusion, Reason};
use super::state::State;
use super::tiers::Tiers;
use crate::job::JobId;

/// Where a user wants a job to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// On this node.
    Node(NodeName),
    /// Where it was started.
    Home,
    /// Wherever it would do best now.
    Best,
}

impl From<&str> for Wish {
    /// `home`, `best`, or a node's name.
    fn from(word: &str) -> Self {
        match word {
            "home" => Self::Home,
            "best" => Self::Best,
            node => Self::Node(node.into()),
        }
    }
}

/// See [`super::Placement::assign`].
pub(super) fn assign(
    input: &Input,
    config: &Config,
    state: &mut State,
    job: &JobView,
    expected_ms: Option<u64>,
    seed: u64,
) -> Decision {
    let Some(here) = usable_here(input) else {
        return Decision::stays(job, vec![Reason::NoFigures { node: input.here.clone() }]);
    };
    if let Some(reason) = fixed(job, input, state) {
        return Decision::stays(job, vec![reason]);
    }
    if job.is_pinned() {
        return Decision::stays(job, vec![Reason::Pinned]);
    }
    // A program that has not run yet is one runnable task, and this node's load does not show it.
    let mut job = job.clone();
    let demand_milli = &mut job.record.history.demand_milli;
    *demand_milli = (*demand_milli).max(1_000);
    let job = &job;
    let occupancy = Tiers::new(here, config, state).of(!job.is_guest());
    if let Some(reason) = below_threshold(job, here, occupancy.demand / occupancy.cpus, config) {
        state.grant(job, &input.here, input.now_ms, config);
        return Decision::stays(job, vec![reason, Reason::StartsHere { node: input.here.clone() }]);
    }
    let model = CostModel::starting(job, &input.here, &occupancy, expected_ms, config);
    let survey = Survey::new(input, job.own_nodes(), None, config, state, Cause::Initial, seed);
    let mut reasons = survey.list(&model, None);
    let Found::Choice(choice) = survey.find(&model, None, false) else {
        state.grant(job, &input.here, input.now_ms, config);
        reasons.push(Reason::StartsHere { node: input.here.clone() });
        return Decision::stays(job, reasons);
    };
    reasons.push(Reason::Chosen { node: choice.node.clone(), among: choice.among });
    state.grant(job, &choice.node, input.now_ms, config);
    Decision::moves(job, choice, Cause::Initial, reasons)
}

/// See [`super::Placement::request`].
pub(super) fn request(
    input: &Input,
    config: &Config,
    state: &mut State,
    id: &JobId,
    wish: &Wish,
    seed: u64,
) -> Decision {
    let Some(job) = input.jobs.iter().find(|job| *job.id() == *id) else {
        let job = id.clone();
        let reasons = vec![Reason::UnknownJob { job: job.clone() }];
        return Decision { job, action: Action::Stay, limit_milli: None, reasons };
    };
    let Some(here) = usable_here(input) else {
        return Decision::stays(job, vec![Reason::NoFigures { node: input.here.clone() }]);
    };
    if let Some(reason) = fixed(job, input, state) {
        return Decision::stays(job, vec![reason]);
    }
    let only = match wish {
        Wish::Node(node) => Some(node),
        Wish::Home => Some(job.home()),
        Wish::Best => None,
    };
    if let Some(node) = only {
        if *node == input.here {
            return Decision::stays(job, vec![Reason::AlreadyThere { node: node.clone() }]);
        }
        if input.node(node).is_none() {
            return Decision::stays(job, vec![Reason::UnknownNode { node: node.clone() }]);
        }
    }
    let occupancy = Tiers::new(here, config, state).of(!job.is_guest());
    let survey = Survey::new(input, job.own_nodes(), only, config, state, Cause::Request, seed);
    let here_cost = CostModel::new(job, &input.here, &occupancy, survey.home_s_per_byte(job), config).here;
    let model = CostModel::asked(job, here_cost, config);
    let only = only.map(|node| &**node);
    let mut reasons = survey.list(&model, only);
    match survey.find(&model, only, only.is_some()) {
        Found::Choice(choice) => {
            let Choice { node, among, .. } = choice.clone();
            reasons.push(match wish {
                Wish::Best => Reason::Chosen { node, among },
                Wish::Node(_) | Wish::Home => Reason::Requested { node },
            });
            state.grant(job, &choice.node, input.now_ms, config);
            return Decision::moves(job, choice, Cause::Request, reasons);
        }
        // A user who named a node reads why that one will not do.
        Found::NothingBetter if only.is_none() => reasons.push(Reason::NothingBetter),
        Found::NoTarget if only.is_none() => reasons.push(Reason::NoTarget),
        Found::NothingBetter | Found::NoTarget => {}
    }
    Decision::stays(job, reasons)
}

/// See [`super::Placement::admit`].
pub(super) fn admit(
    input: &Input,
    config: &Config,
    state: &mut State,
    job: &JobView,
    cause: Cause,
    limit_milli: Option<u32>,
) -> Result<(), Reason> {
    let Some(here) = usable_here(input) else {
        return Err(Reason::NoFigures { node: input.here.clone() });
    };
    let refused = |why: Exclusion| Reason::Excluded { node: here.name.clone(), why };
    if job.running_on == input.here {
        return Err(Reason::AlreadyThere { node: input.here.clone() });
    }
    // Asked again, it is not charged twice.
    state.released(job.id(), &input.here);
    let room = Room::new(here, input, config, state);
    eligible::node(here, &room, false, cause, input, config, state).map_err(refused)?;
    // No job is to come only to be sent away again: memory as it will be once the job could have
    // come and gone.
    let others = input.nodes.iter().filter(|node| node.name != input.here).take(config.surveyed_nodes);
    let others: Vec<Place> = others.map(|node| Place::new(node, config, state)).collect();
    let come_and_go_s = 2.0 * cost::ahead_s(job.frozen_bytes, others.iter());
    let room = room.without(here.depletion_bytes_per_s as f64 * come_and_go_s);
    eligible::job(job, here, &room, cause, input, config, state).map_err(refused)?;
    if let Some(limit_milli) = limit_milli {
        let place = Place::new(here, config, state);
        let costs = CostModel::asked(job, 0.0, config).there(&place, *job.home() == here.name);
        let cost_milli = (costs.known_there() * 1_000.0) as u32;
        if cost_milli > limit_milli {
            return Err(refused(Exclusion::NoLongerBetter { cost_milli, limit_milli }));
        }
    }
    state.grant(job, &input.here, input.now_ms, config);
    Ok(())
}
