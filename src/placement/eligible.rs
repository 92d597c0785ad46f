//! Which nodes a job may go to at all, before any cost is compared.

use super::config::Config;
use super::cost::usher_below_bytes;
use super::decision::Cause;
use super::input::{Input, JobView, NodeView};
use super::reason::Exclusion;
use super::state::State;

/// What a node has room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Free after what is on its way, in bytes.
    free_bytes: u64,
    /// What must remain free, in bytes: the margin, or what would make it usher at once, whichever
    /// is more.
    reserve_bytes: u64,
    /// Jobs on their way to it.
    arriving: u32,
}

impl Room {
    pub(super) fn new(node: &NodeView, input: &Input, config: &Config, state: &State) -> Self {
        Self {
            free_bytes: node.free_memory_bytes.saturating_sub(state.charged_bytes(&node.name)),
            reserve_bytes: config.memory_margin_bytes.max(usher_below_bytes(node, config)),
            arriving: state.arriving(&node.name, input.now_ms, config.settle_ms),
        }
    }

    /// The same when so many bytes of it will be gone.
    pub(super) fn without(self, bytes: f64) -> Self {
        Self { free_bytes: self.free_bytes.saturating_sub(bytes as u64), ..self }
    }

    fn holds(&self, job_bytes: u64) -> bool {
        self.free_bytes.checked_sub(self.reserve_bytes).is_some_and(|room_bytes| room_bytes > job_bytes)
    }
}

/// Whether `node`, which has so much room, takes any job from here for `cause`, with the one reason
/// if not. A user's request waits neither for other arrivals nor after a refusal, and not for news
/// of a node that it named.
pub(super) fn node(
    node: &NodeView,
    room: &Room,
    is_named: bool,
    cause: Cause,
    input: &Input,
    config: &Config,
    state: &State,
) -> Result<(), Exclusion> {
    if !node.alive {
        return Err(Exclusion::Dead);
    }
    // A user who names a node that lives knows what he does; it looks again itself.
    if !is_named && node.age_ms > config.stale_ms {
        return Err(Exclusion::Stale { age_ms: node.age_ms, limit_ms: config.stale_ms });
    }
    if node.cpus == 0 || node.speed_milli == 0 {
        return Err(Exclusion::NoCpu);
    }
    if let Err(why) = &node.features_ok {
        return Err(Exclusion::Features { why: why.clone() });
    }
    if cause != Cause::Request
        && let Some((ago_ms, retry_ms)) = state.failed_lately(None, &node.name, input.now_ms)
    {
        return Err(Exclusion::AdmissionRefused { ago_ms, retry_ms });
    }
    // What holds for a job without memory; `job` looks at each.
    receives(room.arriving, 0, cause, config)
}

/// Whether a node to which so many jobs are on their way takes another for `cause`, which brings so
/// many bytes.
fn receives(arriving: u32, job_bytes: u64, cause: Cause, config: &Config) -> Result<(), Exclusion> {
    let Config { moves_per_target, starts_per_target, start_bytes, .. } = *config;
    let limit = if job_bytes < start_bytes { moves_per_target.max(starts_per_target) } else { moves_per_target };
    if cause != Cause::Request && arriving >= limit {
        return Err(Exclusion::Receiving { arriving, limit });
    }
    Ok(())
}

/// Whether `job` may go to `node`, which takes jobs from here and has so much room. A user's
/// request does not wait after a failure.
pub(super) fn job(
    job: &JobView,
    node: &NodeView,
    room: &Room,
    cause: Cause,
    input: &Input,
    config: &Config,
    state: &State,
) -> Result<(), Exclusion> {
    if !job.allows(&node.name) {
        return Err(Exclusion::NotAllowed);
    }
    if !node.accepting && *job.home() != node.name {
        return Err(Exclusion::NotAccepting);
    }
    if !room.holds(job.working_set_bytes) && !config.overcommit {
        let Room { free_bytes, reserve_bytes, .. } = *room;
        return Err(Exclusion::Memory { free_bytes, job_bytes: job.working_set_bytes, reserve_bytes });
    }
    if cause != Cause::Request
        && let Some((ago_ms, retry_ms)) = state.failed_lately(Some(job.id()), &node.name, input.now_ms)
    {
        return Err(Exclusion::FailedLately { ago_ms, retry_ms });
    }
    receives(room.arriving, job.working_set_bytes, cause, config)
}
