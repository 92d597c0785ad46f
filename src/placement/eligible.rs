//! Which nodes a job may go to at all, before any load is compared.

use super::config::Config;
use super::decision::Cause;
use super::input::{Input, JobView, NodeView};
use super::reason::Exclusion;
use super::state::State;

/// The free memory that `node` must keep, in bytes: the margin, or what would make it usher at once, whichever is more.
pub(super) fn reserve_bytes(node: &NodeView, config: &Config) -> u64 {
    config.memory_margin_bytes.max(usher_below_bytes(node, config))
}

/// The free memory, in bytes, below which `node` ushers jobs out.
pub(super) fn usher_below_bytes(node: &NodeView, config: &Config) -> u64 {
    node.total_memory_bytes / 100 * u64::from(config.usher_below_percent)
}

/// Whether `node` has room for `job` beside what it is charged with.
pub(super) fn room(node: &NodeView, job: &JobView, config: &Config, state: &State) -> Result<(), Exclusion> {
    let free_bytes = node.free_memory_bytes.saturating_sub(state.charged_bytes(node, &job.id));
    let reserve_bytes = reserve_bytes(node, config);
    if free_bytes.checked_sub(reserve_bytes).is_none_or(|room_bytes| room_bytes < job.rss_bytes) {
        return Err(Exclusion::Memory { free_bytes, job_bytes: job.rss_bytes, reserve_bytes });
    }
    Ok(())
}

/// Whether `job` may go to `node` for `cause`, with the one reason if not. A user's request waits neither for other arrivals nor after failures.
pub(super) fn check(
    node: &NodeView,
    job: &JobView,
    cause: Cause,
    input: &Input,
    config: &Config,
    state: &State,
) -> Result<(), Exclusion> {
    if !node.alive {
        return Err(Exclusion::Dead);
    }
    if node.age_ms > config.stale_ms {
        return Err(Exclusion::Stale { age_ms: node.age_ms, limit_ms: config.stale_ms });
    }
    if node.cpus == 0 || node.speed_milli == 0 {
        return Err(Exclusion::NoCpu);
    }
    if !job.allows(&node.name) {
        return Err(Exclusion::NotAllowed);
    }
    if !node.accepting && job.home != node.name {
        return Err(Exclusion::NotAccepting);
    }
    if let Err(why) = &node.features_ok {
        return Err(Exclusion::Features { why: why.clone() });
    }
    room(node, job, config, state)?;
    if cause == Cause::Request {
        return Ok(());
    }
    let arriving = state.arriving(&node.name, &job.id, input.now_ms, config.settle_ms);
    if arriving >= config.moves_per_target {
        return Err(Exclusion::Receiving { arriving, limit: config.moves_per_target });
    }
    if let Some(ago_ms) = state.failed_ago_ms(&job.id, &node.name, input.now_ms) {
        return Err(Exclusion::FailedLately { ago_ms, retry_ms: config.retry_ms });
    }
    Ok(())
}
