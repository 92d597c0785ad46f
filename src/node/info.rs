//! What a node is: the facts that do not change from second to second.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Allotment, CpuFeatures, Features, Machine, NodeError, Scope, measure_speed_permille};
use crate::keys::NodeName;

/// Version of what nodes say to each other (gossip, peer services, streams). Nodes of different
/// versions share a cluster's list but move nothing between each other.
pub const PROTOCOL_VERSION: u32 = 2;

/// All that is to be known of a node; too much for gossip, which carries a summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: NodeName,
    /// Addresses under which others reach it; the advertised one first.
    pub addresses: Vec<IpAddr>,
    /// The kernel's boot id: differs after every reboot.
    pub boot_id: String,
    /// Release of scx_mosix.
    pub software_version: String,
    /// See [`PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// The kernel's release.
    pub kernel_release: String,
    /// What it may use of its machine.
    pub allotment: Allotment,
    /// CPUs that this node may use.
    pub cpus: u32,
    /// Measured speed of one CPU, in thousandths of the standard speed; of the share of it that
    /// this node may use.
    pub speed_permille: u32,
    /// All memory, in bytes.
    pub memory_total_bytes: u64,
    /// What programs can use of its CPUs.
    pub cpu: CpuFeatures,
    /// What its kernel and tools can do.
    pub features: Features,
}

/// What only the caller of [`NodeInfo::probe`] knows.
#[derive(Debug, Clone)]
pub struct NodeInfoParams {
    /// The node's name; without one, the host name up to its first dot.
    pub name: Option<NodeName>,
    /// The addresses, the advertised one first.
    pub addresses: Vec<IpAddr>,
}

impl NodeInfo {
    /// Finds out everything about the node that `scope` is. Blocks for about 30 ms of CPU time and
    /// for as long as `criu --version` takes.
    ///
    /// # Errors
    /// [`NodeError`] if `/proc` cannot be read, or [`NodeError::Missing`] if the host name cannot
    /// be a node's name.
    pub fn probe(scope: &Scope, params: NodeInfoParams) -> Result<Self, NodeError> {
        let machine = scope.machine();
        let name = match params.name {
            Some(name) => name,
            None => default_name(machine)?,
        };
        let allotment = scope.allotment()?;
        Ok(Self {
            name,
            addresses: params.addresses,
            boot_id: machine.line("/proc/sys/kernel/random/boot_id")?,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol_version: PROTOCOL_VERSION,
            kernel_release: machine.line("/proc/sys/kernel/osrelease")?,
            allotment,
            cpus: allotment.cpus.whole(),
            speed_permille: allotment.cpus.speed_permille(measure_speed_permille()),
            memory_total_bytes: allotment.memory_bytes,
            cpu: CpuFeatures::probe(machine)?,
            features: Features::probe(machine),
        })
    }

    /// What this node can compute: CPUs times speed, in thousandths of a standard CPU.
    pub fn capacity_milli(&self) -> u64 {
        u64::from(self.cpus) * u64::from(self.speed_permille)
    }
}

fn default_name(machine: &Machine) -> Result<NodeName, NodeError> {
    let host = machine.line("/proc/sys/kernel/hostname")?;
    let label = host.split('.').next().unwrap_or_default();
    NodeName::new(label).map_err(|_| NodeError::Missing("a host name that can be a node's name (give one with --name)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Limits, machine::tests::machine};

    #[test]
    fn this_machine_is_described_whole() {
        let params = NodeInfoParams { name: Some("here".parse().unwrap()), addresses: vec![] };
        let limits = Limits { cpus: Some("0.5".parse().unwrap()), memory_mib: Some(64) };
        let info = NodeInfo::probe(&Scope::new(Machine::this(), limits).unwrap(), params).unwrap();
        assert_eq!((info.cpus, info.memory_total_bytes), (1, 64 << 20));
        assert!(info.cpus >= 1 && info.speed_permille >= 1 && info.capacity_milli() >= 1);
        assert!(!info.kernel_release.is_empty() && info.boot_id.len() == 36);
    }

    #[test]
    fn the_name_is_the_host_name_without_its_domain() {
        let (_dir, named) = machine(&[("/proc/sys/kernel/hostname", "Build7.example.org\n")]);
        assert_eq!(default_name(&named).unwrap().as_str(), "build7");
        let (_dir, odd) = machine(&[("/proc/sys/kernel/hostname", "(none)\n")]);
        assert!(default_name(&odd).unwrap_err().to_string().contains("--name"));
    }
}
