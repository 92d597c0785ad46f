//! The record of a job, and what was counted of it.

use prost_types::Duration;

use super::parse_session;
use crate::{
    api::{ApiError, name::check_allowed},
    job::{Constraints, Counters, History, JobRecord, JobSpec, NoJobId, Usage},
    proto::{peer, v1},
};

const NS_PER_S: u64 = 1_000_000_000;

impl From<&JobRecord> for peer::Job {
    fn from(job: &JobRecord) -> Self {
        let JobRecord { id, session, spec, constraints, history } = job.clone();
        let JobSpec { comm, uid, tree } = spec;
        let History { counters, tree_attained_ms, age_ms, demand_milli, home_link_bytes_per_s } = history;
        Self {
            id: id.to_string(),
            session: session.to_string(),
            spec: Some(peer::JobSpec { comm, uid, tree }),
            constraints: Some(constraints.into()),
            history: Some(peer::History {
                counters: Some(counters.into()),
                tree_attained_ms,
                age_ms,
                demand_milli,
                home_link_bytes_per_s,
            }),
        }
    }
}

impl TryFrom<peer::Job> for JobRecord {
    type Error = ApiError;

    fn try_from(job: peer::Job) -> Result<Self, ApiError> {
        let peer::JobSpec { comm, uid, tree } = job.spec.unwrap_or_default();
        let peer::History { counters, tree_attained_ms, age_ms, demand_milli, home_link_bytes_per_s } =
            job.history.unwrap_or_default();
        let counters = counters.unwrap_or_default().into();
        Ok(Self {
            id: job.id.parse().map_err(|error: NoJobId| ApiError::invalid("job.id", error.to_string()))?,
            session: parse_session(&job.session, "job.session")?,
            spec: JobSpec { comm, uid, tree },
            constraints: job.constraints.unwrap_or_default().try_into()?,
            history: History { counters, tree_attained_ms, age_ms, demand_milli, home_link_bytes_per_s },
        })
    }
}

impl From<Constraints> for peer::Constraints {
    fn from(constraints: Constraints) -> Self {
        let Constraints { stay, allowed_nodes } = constraints;
        Self { stay, allowed_nodes }
    }
}

impl TryFrom<peer::Constraints> for Constraints {
    type Error = ApiError;

    fn try_from(constraints: peer::Constraints) -> Result<Self, ApiError> {
        let peer::Constraints { stay, allowed_nodes } = constraints;
        Ok(Self { stay, allowed_nodes: check_allowed(&allowed_nodes)? })
    }
}

impl From<Counters> for v1::Counters {
    fn from(counters: Counters) -> Self {
        let Counters { cpu_ns, wait_ns, major_faults, io_bytes } = counters;
        Self { cpu_time: Some(duration(cpu_ns)), wait_time: Some(duration(wait_ns)), major_faults, io_bytes }
    }
}

impl From<v1::Counters> for Counters {
    fn from(counters: v1::Counters) -> Self {
        let v1::Counters { cpu_time, wait_time, major_faults, io_bytes } = counters;
        Self { cpu_ns: nanos(cpu_time), wait_ns: nanos(wait_time), major_faults, io_bytes }
    }
}

impl From<Usage> for v1::Usage {
    fn from(usage: Usage) -> Self {
        let Usage { counters, resident_bytes, mapped_bytes, processes, threads } = usage;
        Self { counters: Some(counters.into()), resident_bytes, mapped_bytes, processes, threads }
    }
}

impl From<v1::Usage> for Usage {
    fn from(usage: v1::Usage) -> Self {
        let v1::Usage { counters, resident_bytes, mapped_bytes, processes, threads } = usage;
        Self { counters: counters.unwrap_or_default().into(), resident_bytes, mapped_bytes, processes, threads }
    }
}

fn duration(ns: u64) -> Duration {
    let seconds = i64::try_from(ns / NS_PER_S).unwrap_or(i64::MAX);
    Duration { seconds, nanos: i32::try_from(ns % NS_PER_S).unwrap_or(0) }
}

/// A duration out of a message; one below 0, or none, is 0.
fn nanos(duration: Option<Duration>) -> u64 {
    let Duration { seconds, nanos } = duration.unwrap_or_default();
    let seconds = u64::try_from(seconds).unwrap_or(0);
    seconds.saturating_mul(NS_PER_S).saturating_add(u64::try_from(nanos).unwrap_or(0))
}
