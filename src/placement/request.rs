//! Single jobs: initial assignment, users' requests, and admission at the target.

use super::balance::{below_threshold, fixed};
use super::candidates::{Survey, choose};
use super::config::Config;
use super::cost::{self, Margin};
use super::decision::{Action, Cause, Decision};
use super::eligible;
use super::input::{Input, JobView, NodeName, NodeView};
use super::reason::{Exclusion, Reason};
use super::state::State;

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

fn stays(job: &JobView, reasons: Vec<Reason>) -> Decision {
    Decision { job: job.id.clone(), action: Action::Stay, reasons }
}

fn moves(
    job: &JobView,
    target: NodeName,
    cause: Cause,
    reasons: Vec<Reason>,
    now_ms: u64,
    state: &mut State,
) -> Decision {
    state.grant(job, &target, now_ms);
    Decision { job: job.id.clone(), action: Action::Move { target, cause }, reasons }
}

fn usable_here(input: &Input) -> Option<&NodeView> {
    input.node(&input.here).filter(|node| node.cpus > 0 && node.speed_milli > 0)
}

/// See [`super::Placement::assign`].
pub(super) fn assign(input: &Input, config: &Config, state: &mut State, job: &JobView, seed: u64) -> Decision {
    let Some(here) = usable_here(input) else {
        return stays(job, vec![Reason::NoFigures { node: input.here.clone() }]);
    };
    if let Some(reason) = fixed(job, input, state) {
        return stays(job, vec![reason]);
    }
    if job.pinned {
        return stays(job, vec![Reason::Pinned]);
    }
    // A program that has not run yet is one runnable task, and this node's load does not show it.
    let job = &JobView { demand_milli: job.demand_milli.max(1_000), ..job.clone() };
    let charged = state.charged_load(here, &job.id);
    if let Some(reason) = below_threshold(job, here, charged, config) {
        state.grant(job, &input.here, input.now_ms);
        return stays(job, vec![reason, Reason::StartsHere { node: input.here.clone() }]);
    }
    let here_cost = (cost::load(here) + charged + cost::share(job.demand_milli, here)).max(cost::alone(here));
    let survey = Survey { input, config, state, here, here_cost, cause: Cause::Initial, margin: Margin::Hysteresis };
    let candidates = survey.nodes(job, None);
    let choice = choose(candidates.better(), config, seed, &job.id);
    let mut reasons = candidates.reasons(config);
    let Some((node, among)) = choice else {
        state.grant(job, &input.here, input.now_ms);
        reasons.push(Reason::StartsHere { node: input.here.clone() });
        return stays(job, reasons);
    };
    reasons.push(Reason::Chosen { node: node.clone(), among });
    moves(job, node, Cause::Initial, reasons, input.now_ms, state)
}

/// See [`super::Placement::request`].
pub(super) fn request(input: &Input, config: &Config, state: &mut State, id: &str, wish: &Wish, seed: u64) -> Decision {
    let Some(job) = input.jobs.iter().find(|job| *job.id == *id) else {
        return Decision { job: id.into(), action: Action::Stay, reasons: vec![Reason::UnknownJob { job: id.into() }] };
    };
    let Some(here) = usable_here(input) else {
        return stays(job, vec![Reason::NoFigures { node: input.here.clone() }]);
    };
    if let Some(reason) = fixed(job, input, state) {
        return stays(job, vec![reason]);
    }
    let survey = Survey {
        input,
        config,
        state,
        here,
        here_cost: cost::here(here, 0.0),
        cause: Cause::Request,
        margin: Margin::HomeOnly,
    };
    let only = match wish {
        Wish::Node(node) => Some(node),
        Wish::Home => Some(&job.home),
        Wish::Best => None,
    };
    let Some(node) = only else {
        let candidates = survey.nodes(job, None);
        let choice = choose(candidates.better(), config, seed, &job.id);
        let none = if candidates.open.is_empty() { Reason::NoTarget } else { Reason::NothingBetter };
        let mut reasons = candidates.reasons(config);
        let Some((node, among)) = choice else {
            reasons.push(none);
            return stays(job, reasons);
        };
        reasons.push(Reason::Chosen { node: node.clone(), among });
        return moves(job, node, Cause::Request, reasons, input.now_ms, state);
    };
    if *node == input.here {
        return stays(job, vec![Reason::AlreadyThere { node: node.clone() }]);
    }
    if input.node(node).is_none() {
        return stays(job, vec![Reason::UnknownNode { node: node.clone() }]);
    }
    let candidates = survey.nodes(job, Some(node));
    let open = !candidates.open.is_empty();
    let mut reasons = candidates.reasons(config);
    if !open {
        return stays(job, reasons);
    }
    reasons.push(Reason::Requested { node: node.clone() });
    moves(job, node.clone(), Cause::Request, reasons, input.now_ms, state)
}

/// See [`super::Placement::admit`].
pub(super) fn admit(
    input: &Input,
    config: &Config,
    state: &mut State,
    job: &JobView,
    cause: Cause,
) -> Result<(), Reason> {
    let Some(here) = usable_here(input) else {
        return Err(Reason::NoFigures { node: input.here.clone() });
    };
    let refused = |why: Exclusion| Reason::Excluded { node: here.name.clone(), why };
    if job.running_on == input.here {
        return Err(Reason::AlreadyThere { node: input.here.clone() });
    }
    eligible::check(here, job, cause, input, config, state).map_err(refused)?;
    state.grant(job, &input.here, input.now_ms);
    Ok(())
}
