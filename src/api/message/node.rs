//! `Node`.

use super::{millis, some_text, timestamp};
use crate::{
    api::{
        ApiError,
        name::{node_resource, parse_node},
        view::{NodeState, NodeSummary, Pressure, SchedExt},
    },
    proto::v1,
};

impl From<&NodeSummary> for v1::Node {
    fn from(node: &NodeSummary) -> Self {
        let state = match node.state {
            NodeState::Alive => v1::node::State::Alive,
            NodeState::Suspect => v1::node::State::Suspect,
            NodeState::Leaving => v1::node::State::Leaving,
            NodeState::Dead => v1::node::State::Dead,
            NodeState::Unknown => v1::node::State::Unspecified,
        };
        let sched_ext = match node.sched_ext {
            SchedExt::Attached => v1::kernel::SchedExt::Attached,
            SchedExt::Detached => v1::kernel::SchedExt::Detached,
            SchedExt::Unsupported => v1::kernel::SchedExt::Unsupported,
            SchedExt::Disabled => v1::kernel::SchedExt::Disabled,
            SchedExt::Unknown => v1::kernel::SchedExt::Unspecified,
        };
        Self {
            name: node_resource(&node.node),
            state: state.into(),
            local: node.local,
            address: node.address.clone().unwrap_or_default(),
            version: node.version.clone(),
            cpu: Some(v1::Cpu {
                count: node.cpus,
                speed: node.cpu_speed,
                busy_percent: node.cpu_busy_percent,
                features_hash: node.cpu_features_hash.clone(),
            }),
            memory: Some(v1::Memory {
                total_bytes: node.memory_total_bytes,
                available_bytes: node.memory_available_bytes,
            }),
            pressure: Some(v1::Pressure {
                cpu_some_percent: node.pressure.cpu_some_percent,
                memory_some_percent: node.pressure.memory_some_percent,
                memory_full_percent: node.pressure.memory_full_percent,
                io_some_percent: node.pressure.io_some_percent,
            }),
            load: node.load,
            jobs: node.jobs,
            guests: node.guests,
            accepts_guests: node.refuses_because.is_none(),
            refuses_because: node.refuses_because.clone().unwrap_or_default(),
            kernel: Some(v1::Kernel {
                release: node.kernel_release.clone(),
                sched_ext: sched_ext.into(),
                sched_ext_note: node.sched_ext_note.clone().unwrap_or_default(),
            }),
            criu_version: node.criu_version.clone().unwrap_or_default(),
            missing: node.missing.clone(),
            age_ms: node.age_ms,
            expected_age_ms: node.expected_age_ms,
            expected_max_age_ms: node.expected_max_age_ms,
            start_time: node.start_time_ms.map(timestamp),
        }
    }
}

impl TryFrom<v1::Node> for NodeSummary {
    type Error = ApiError;

    fn try_from(node: v1::Node) -> Result<Self, ApiError> {
        let state = match node.state() {
            v1::node::State::Alive => NodeState::Alive,
            v1::node::State::Suspect => NodeState::Suspect,
            v1::node::State::Leaving => NodeState::Leaving,
            v1::node::State::Dead => NodeState::Dead,
            v1::node::State::Unspecified => NodeState::Unknown,
        };
        let cpu = node.cpu.unwrap_or_default();
        let memory = node.memory.unwrap_or_default();
        let pressure = node.pressure.unwrap_or_default();
        let kernel = node.kernel.unwrap_or_default();
        let sched_ext = match kernel.sched_ext() {
            v1::kernel::SchedExt::Attached => SchedExt::Attached,
            v1::kernel::SchedExt::Detached => SchedExt::Detached,
            v1::kernel::SchedExt::Unsupported => SchedExt::Unsupported,
            v1::kernel::SchedExt::Disabled => SchedExt::Disabled,
            v1::kernel::SchedExt::Unspecified => SchedExt::Unknown,
        };
        let refuses_because = (!node.accepts_guests)
            .then(|| some_text(node.refuses_because).unwrap_or_else(|| "it does not say why".to_owned()));
        Ok(Self {
            node: parse_node(&node.name, "name")?,
            state,
            local: node.local,
            address: some_text(node.address),
            version: node.version,
            cpus: cpu.count,
            cpu_speed: cpu.speed,
            cpu_busy_percent: cpu.busy_percent,
            cpu_features_hash: cpu.features_hash,
            load: node.load,
            memory_total_bytes: memory.total_bytes,
            memory_available_bytes: memory.available_bytes,
            pressure: Pressure {
                cpu_some_percent: pressure.cpu_some_percent,
                memory_some_percent: pressure.memory_some_percent,
                memory_full_percent: pressure.memory_full_percent,
                io_some_percent: pressure.io_some_percent,
            },
            jobs: node.jobs,
            guests: node.guests,
            refuses_because,
            kernel_release: kernel.release,
            sched_ext,
            sched_ext_note: some_text(kernel.sched_ext_note),
            criu_version: some_text(node.criu_version),
            missing: node.missing,
            age_ms: node.age_ms,
            expected_age_ms: node.expected_age_ms,
            expected_max_age_ms: node.expected_max_age_ms,
            start_time_ms: node.start_time.as_ref().map(millis),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_survives_the_wire() {
        let node = NodeSummary {
            node: "n1".into(),
            state: NodeState::Leaving,
            local: true,
            address: Some("10.0.0.1:7470".into()),
            version: "0.1.0".into(),
            cpus: 8,
            cpu_speed: 1.25,
            cpu_busy_percent: 50.5,
            cpu_features_hash: "abc".into(),
            load: 0.75,
            memory_total_bytes: 1 << 34,
            memory_available_bytes: 1 << 33,
            pressure: Pressure {
                cpu_some_percent: 1.0,
                memory_some_percent: 2.0,
                memory_full_percent: 3.0,
                io_some_percent: 4.0,
            },
            jobs: 3,
            guests: 2,
            refuses_because: Some("it is leaving".into()),
            kernel_release: "7.3.1".into(),
            sched_ext: SchedExt::Detached,
            sched_ext_note: Some("ejected".into()),
            criu_version: Some("4.1.1".into()),
            missing: vec!["userfaultfd".into()],
            age_ms: 7,
            expected_age_ms: 8,
            expected_max_age_ms: 9,
            start_time_ms: Some(1_700_000_000_123),
        };
        assert_eq!(NodeSummary::try_from(v1::Node::from(&node)).unwrap(), node);
        let default = NodeSummary { node: "n2".into(), ..Default::default() };
        assert_eq!(NodeSummary::try_from(v1::Node::from(&default)).unwrap(), default);
        assert!(NodeSummary::try_from(v1::Node::default()).is_err(), "without a name");
    }
}
