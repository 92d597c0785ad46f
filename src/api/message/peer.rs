//! The messages of the peer service.

use super::some_text;
use crate::{
    api::{
        ApiError,
        backend::{GuestReservation, MoveRequest, NodeDetails, Requirements},
        name::check_allowed,
    },
    control::{BodyFacts, Constraints, JobPast, SessionId},
    node::CpuFeatures,
    proto::{peer, v1::migration},
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
        let GuestReservation { body, requirements, .. } = reservation;
        Self {
            migration: reservation.migration.to_string(),
            source_node: reservation.source_node.clone(),
            home: Some(peer::Home {
                session: reservation.session.to_string(),
                node: reservation.home_node.clone(),
                address: reservation.home_address.clone(),
                root_pid: reservation.root_pid,
            }),
            body: Some(peer::Body {
                comm: reservation.comm.clone(),
                processes: body.processes,
                threads: body.threads,
                monotonic_ns: body.monotonic_ns,
                boottime_ns: body.boottime_ns,
                hostname: body.hostname.clone(),
                stay: reservation.constraints.stay,
                allowed_nodes: reservation.constraints.allowed_nodes.clone(),
                attained_ms: reservation.past.attained_ms,
                tree: reservation.past.tree,
                tree_attained_ms: reservation.past.tree_attained_ms,
                age_ms: reservation.past.age_ms,
                demand_milli: reservation.past.demand_milli,
                io_bytes: reservation.past.io_bytes,
                home_link_bytes_per_s: reservation.past.home_link_bytes_per_s,
            }),
            requirements: Some(peer::Requirements {
                protocol: requirements.protocol,
                resident_bytes: body.resident_bytes,
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
        let home = request.home.ok_or_else(missing("home"))?;
        let body = request.body.ok_or_else(missing("body"))?;
        let requirements = request.requirements.ok_or_else(missing("requirements"))?;
        if home.root_pid <= 0 {
            return Err(ApiError::invalid("home.root_pid", "it must be above 0"));
        }
        Ok(Self {
            migration: parse_session(&request.migration, "migration")?,
            source_node: request.source_node,
            session: parse_session(&home.session, "home.session")?,
            home_node: home.node,
            home_address: home.address,
            root_pid: home.root_pid,
            comm: body.comm,
            constraints: Constraints { stay: body.stay, allowed_nodes: check_allowed(&body.allowed_nodes)? },
            past: JobPast {
                attained_ms: body.attained_ms,
                tree: body.tree,
                tree_attained_ms: body.tree_attained_ms,
                age_ms: body.age_ms,
                demand_milli: body.demand_milli,
                io_bytes: body.io_bytes,
                home_link_bytes_per_s: body.home_link_bytes_per_s,
            },
            by_request: request.by_request,
            limit_milli: request.limit_milli,
            body: BodyFacts {
                resident_bytes: requirements.resident_bytes,
                processes: body.processes,
                threads: body.threads,
                monotonic_ns: body.monotonic_ns,
                boottime_ns: body.boottime_ns,
                hostname: body.hostname,
            },
            requirements: Requirements {
                protocol: requirements.protocol,
                cpu: requirements.cpu.ok_or_else(missing("requirements.cpu"))?.into(),
                kernel_release: requirements.kernel_release,
                criu_version: requirements.criu_version,
            },
        })
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
    use crate::api::view::Trigger;

    #[test]
    fn a_reservation_survives_the_wire() {
        let reservation = GuestReservation {
            migration: SessionId::random(),
            source_node: "n2".into(),
            session: SessionId::random(),
            home_node: "n1".into(),
            home_address: "10.0.0.1:7470".into(),
            root_pid: 4711,
            comm: "xz".into(),
            constraints: Constraints { stay: true, allowed_nodes: vec!["n3".into()] },
            past: JobPast {
                attained_ms: 61_000,
                tree: Some(4_000),
                tree_attained_ms: 90_000,
                age_ms: 120_000,
                demand_milli: 1_900,
                io_bytes: 5 << 30,
                home_link_bytes_per_s: Some(100_000_000),
            },
            by_request: false,
            limit_milli: Some(2_500),
            body: BodyFacts {
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
