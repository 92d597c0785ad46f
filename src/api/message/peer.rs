//! The messages of the peer service.

use super::some_text;
use crate::{
    api::{
        ApiError,
        backend::{GuestReservation, MoveRequest, NodeDetails, Requirements},
    },
    job::SessionId,
    node::CpuFeatures,
    proto::{peer, v1::migration},
    protocol::TreeFacts,
};

/// Reads a session or migration as the peer service writes it.
///
/// # Errors
/// [`ApiError::Invalid`] for `field`.
pub fn parse_session(text: &str, field: &'static str) -> Result<SessionId, ApiError> {
    text.parse().map_err(|_| ApiError::invalid(field, "it must be 32 hex digits"))
}

impl From<&CpuFeatures> for peer::CpuFeatures {
    fn from(cpu: &CpuFeatures) -> Self {
        Self {
            architecture: cpu.arch.clone(),
            vendor: cpu.vendor.clone(),
            model: cpu.model.clone(),
            flags: cpu.flags.iter().cloned().collect(),
            xsave_bytes: cpu.xsave_bytes,
        }
    }
}

impl From<peer::CpuFeatures> for CpuFeatures {
    fn from(cpu: peer::CpuFeatures) -> Self {
        Self {
            arch: cpu.architecture,
            vendor: cpu.vendor,
            model: cpu.model,
            flags: cpu.flags.into_iter().collect(),
            xsave_bytes: cpu.xsave_bytes,
        }
    }
}

impl From<&NodeDetails> for peer::NodeDetails {
    fn from(details: &NodeDetails) -> Self {
        Self {
            node: details.node.clone(),
            version: details.version.clone(),
            protocol: details.protocol,
            kernel_release: details.kernel_release.clone(),
            criu_version: details.criu_version.clone().unwrap_or_default(),
            cpu: Some((&details.cpu).into()),
            available_bytes: details.available_bytes,
            missing: details.missing.clone(),
        }
    }
}

impl From<peer::NodeDetails> for NodeDetails {
    fn from(details: peer::NodeDetails) -> Self {
        Self {
            node: details.node,
            version: details.version,
            protocol: details.protocol,
            kernel_release: details.kernel_release,
            criu_version: some_text(details.criu_version),
            cpu: details.cpu.unwrap_or_default().into(),
            available_bytes: details.available_bytes,
            missing: details.missing,
        }
    }
}

impl From<&GuestReservation> for peer::ReserveGuestRequest {
    fn from(reservation: &GuestReservation) -> Self {
        let GuestReservation { facts, requirements, .. } = reservation;
        Self {
            migration: reservation.migration.to_string(),
            source_node: reservation.source_node.clone(),
            job: Some((&reservation.job).into()),
            home_address: reservation.home_address.clone(),
            process_tree: Some(facts.into()),
            requirements: Some(peer::Requirements {
                protocol: requirements.protocol,
                cpu: Some((&requirements.cpu).into()),
                kernel_release: requirements.kernel_release.clone(),
                criu_version: requirements.criu_version.clone(),
            }),
            by_request: reservation.by_request,
            limit_milli: reservation.limit_milli,
        }
    }
}

impl TryFrom<peer::ReserveGuestRequest> for GuestReservation {
    type Error = ApiError;

    fn try_from(request: peer::ReserveGuestRequest) -> Result<Self, ApiError> {
        let missing = |field| move || ApiError::invalid(field, "it is missing");
        let requirements = request.requirements.ok_or_else(missing("requirements"))?;
        Ok(Self {
            migration: parse_session(&request.migration, "migration")?,
            source_node: request.source_node,
            job: request.job.ok_or_else(missing("job"))?.try_into()?,
            home_address: request.home_address,
            by_request: request.by_request,
            limit_milli: request.limit_milli,
            facts: request.process_tree.ok_or_else(missing("process_tree"))?.into(),
            requirements: Requirements {
                protocol: requirements.protocol,
                cpu: requirements.cpu.ok_or_else(missing("requirements.cpu"))?.into(),
                kernel_release: requirements.kernel_release,
                criu_version: requirements.criu_version,
            },
        })
    }
}

impl From<&TreeFacts> for peer::ProcessTree {
    fn from(facts: &TreeFacts) -> Self {
        let TreeFacts { resident_bytes, processes, threads, monotonic_ns, boottime_ns, hostname } = facts.clone();
        Self { processes, threads, monotonic_ns, boottime_ns, hostname, resident_bytes }
    }
}

impl From<peer::ProcessTree> for TreeFacts {
    fn from(tree: peer::ProcessTree) -> Self {
        let peer::ProcessTree { processes, threads, monotonic_ns, boottime_ns, hostname, resident_bytes } = tree;
        Self { resident_bytes, processes, threads, monotonic_ns, boottime_ns, hostname }
    }
}

impl From<&MoveRequest> for peer::RequestMoveRequest {
    fn from(request: &MoveRequest) -> Self {
        Self {
            session: request.session.to_string(),
            target_node: request.target_node.clone(),
            migration: request.migration.to_string(),
            trigger: migration::Trigger::from(request.trigger).into(),
            reason: request.reason.clone(),
        }
    }
}

impl TryFrom<peer::RequestMoveRequest> for MoveRequest {
    type Error = ApiError;

    fn try_from(request: peer::RequestMoveRequest) -> Result<Self, ApiError> {
        Ok(Self {
            session: parse_session(&request.session, "session")?,
            migration: parse_session(&request.migration, "migration")?,
            trigger: request.trigger().into(),
            target_node: request.target_node,
            reason: request.reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::view::Trigger,
        job::{Constraints, Counters, History, JobId, JobRecord, JobSpec},
    };

    #[test]
    fn a_reservation_survives_the_wire() {
        let reservation = GuestReservation {
            migration: SessionId::random(),
            source_node: "n2".into(),
            job: JobRecord {
                id: JobId::new("n1", 4711),
                session: SessionId::random(),
                spec: JobSpec { comm: "xz".into(), uid: 1000, tree: Some(4_000) },
                constraints: Constraints { stay: true, allowed_nodes: vec!["n3".into()] },
                history: History {
                    counters: Counters { cpu_ns: 61_000_000_001, wait_ns: 2, major_faults: 3, io_bytes: 5 << 30 },
                    tree_attained_ms: 90_000,
                    age_ms: 120_000,
                    demand_milli: 1_900,
                    home_link_bytes_per_s: Some(100_000_000),
                },
            },
            home_address: "10.0.0.1:7470".into(),
            by_request: false,
            limit_milli: Some(2_500),
            facts: TreeFacts {
                resident_bytes: 1 << 30,
                processes: 2,
                threads: 3,
                monotonic_ns: 4,
                boottime_ns: 5,
                hostname: "n1".into(),
            },
            requirements: Requirements {
                protocol: 1,
                cpu: CpuFeatures {
                    arch: "x86_64".into(),
                    vendor: "v".into(),
                    model: "m".into(),
                    flags: ["avx2".into(), "sse4_2".into()].into(),
                    xsave_bytes: 832,
                },
                kernel_release: "7.3.1".into(),
                criu_version: "4.1.1".into(),
            },
        };
        assert_eq!(GuestReservation::try_from(peer::ReserveGuestRequest::from(&reservation)).unwrap(), reservation);
        assert!(GuestReservation::try_from(peer::ReserveGuestRequest::default()).is_err());
    }

    #[test]
    fn a_move_request_survives_the_wire() {
        let request = MoveRequest {
            session: SessionId::random(),
            target_node: "n3".into(),
            migration: SessionId::random(),
            trigger: Trigger::Memory,
            reason: "short of memory".into(),
        };
        assert_eq!(MoveRequest::try_from(peer::RequestMoveRequest::from(&request)).unwrap(), request);
        let bad = peer::RequestMoveRequest { session: "xyz".into(), ..Default::default() };
        assert!(MoveRequest::try_from(bad).is_err());
    }
}
