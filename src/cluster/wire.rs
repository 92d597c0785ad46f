//! What nodes say to each other in gossip, inside the seal: one byte of version, one of kind, then the body.
//!
//! ```text
//!   1 membership   a SWIM packet (see codec)
//!   2 load         entries until the end
//!   3 join         the node id of who asks · the address that he asks
//!   4 welcome      the node id of who answers · the address that was asked: a node may answer from another
//!   5 refusal      u8: why not
//! ```

use std::net::SocketAddr;

use bytes::{Buf, BufMut, TryGetError};

use super::{
    NodeId, NodeSummary,
    codec::{get_addr, get_name, get_node_id, get_text, put_addr, put_name, put_node_id, put_text},
};
use crate::{
    keys::{NameError, NodeName},
    node::{NodeLoad, Pressure, SchedExtState},
};

/// Version of this format.
pub(super) const VERSION: u8 = 1;

const MEMBERSHIP: u8 = 1;
const LOAD: u8 = 2;
const JOIN: u8 = 3;
const WELCOME: u8 = 4;
const REFUSAL: u8 = 5;

const KERNEL_RELEASE_BYTES: usize = 40;
const SOFTWARE_VERSION_BYTES: usize = 16;
const MIB: u64 = 1 << 20;

/// A payload that cannot be read, or an item that does not fit one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends too early.
    #[error("a gossip message ends too early")]
    Short,
    /// It is of another release.
    #[error("gossip of format {0}, this release knows {VERSION}: run the same release on all nodes")]
    Version(u8),
    /// It holds something unknown.
    #[error("a gossip message holds an unknown {0}")]
    Unknown(&'static str),
    /// It holds a name that is none.
    #[error("a gossip message holds a bad name")]
    Name(#[from] NameError),
    /// It does not fit a datagram; the sender goes on without it.
    #[error("no room in the datagram")]
    NoRoom,
}

/// Why a node was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// A living node has that name already.
    #[error("another node of the cluster has this node's name: give this one another by --name")]
    NameTaken,
}

/// A node's word on itself, as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoadEntry {
    pub(super) name: NodeName,
    /// Of the node id under which it was said.
    pub(super) incarnation: u64,
    /// Counts what a node says in one incarnation.
    pub(super) sequence: u32,
    /// How long ago it was said, in milliseconds.
    pub(super) age_ms: u32,
    /// The node's last word: it leaves.
    pub(super) leaving: bool,
    pub(super) summary: NodeSummary,
    pub(super) load: NodeLoad,
}

/// A payload that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload<'a> {
    Membership(&'a [u8]),
    Load(Vec<LoadEntry>),
    Join { from: NodeId, asked: SocketAddr },
    Welcome { from: NodeId, asked: SocketAddr },
    Refusal(JoinRefusal),
}

impl<'a> Payload<'a> {
    pub(super) fn decode(mut bytes: &'a [u8]) -> Result<Self, WireError> {
        match bytes.try_get_u8()? {
            VERSION => {}
            other => return Err(WireError::Version(other)),
        }
        let payload = match bytes.try_get_u8()? {
            MEMBERSHIP => return Ok(Self::Membership(bytes)),
            LOAD => {
                let mut entries = Vec::new();
                while bytes.has_remaining() {
                    entries.push(LoadEntry::decode(&mut bytes)?);
                }
                Self::Load(entries)
            }
            JOIN => Self::Join { from: get_node_id(&mut bytes)?, asked: get_addr(&mut bytes)? },
            WELCOME => Self::Welcome { from: get_node_id(&mut bytes)?, asked: get_addr(&mut bytes)? },
            REFUSAL => match bytes.try_get_u8()? {
                1 => Self::Refusal(JoinRefusal::NameTaken),
                _ => return Err(WireError::Unknown("reason")),
            },
            _ => return Err(WireError::Unknown("message")),
        };
        if bytes.has_remaining() { Err(WireError::Unknown("rest")) } else { Ok(payload) }
    }
}

/// Bytes before a SWIM packet in a payload.
pub(super) const MEMBERSHIP_HEAD_BYTES: usize = 2;

pub(super) fn membership(packet: &[u8]) -> Vec<u8> {
    [&[VERSION, MEMBERSHIP], packet].concat()
}

pub(super) fn join(me: &NodeId, asked: SocketAddr) -> Vec<u8> {
    introduction(JOIN, me, asked)
}

pub(super) fn welcome(me: &NodeId, asked: SocketAddr) -> Vec<u8> {
    introduction(WELCOME, me, asked)
}

pub(super) fn refusal(reason: JoinRefusal) -> Vec<u8> {
    let code = match reason {
        JoinRefusal::NameTaken => 1,
    };
    vec![VERSION, REFUSAL, code]
}

fn introduction(kind: u8, me: &NodeId, asked: SocketAddr) -> Vec<u8> {
    let mut out = vec![VERSION, kind];
    put_node_id(&mut out, me);
    put_addr(&mut out, asked);
    out
}

/// As many of `entries` as fit `limit` bytes, in their order.
pub(super) fn load(entries: impl IntoIterator<Item = LoadEntry>, limit: usize) -> Vec<u8> {
    let mut out = vec![VERSION, LOAD];
    for entry in entries {
        let before = out.len();
        entry.encode(&mut out);
        if out.len() > limit {
            out.truncate(before);
            break;
        }
    }
    out
}

const ACCEPTING: u8 = 1;
const LEAVING: u8 = 2;
const HAS_PRESSURE: u8 = 4;
const CAN_MIGRATE: u8 = 8;

impl LoadEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        let (load, summary) = (&self.load, &self.summary);
        let mut flags = 0;
        for (set, bit) in [
            (load.accepting, ACCEPTING),
            (self.leaving, LEAVING),
            (load.pressure.is_some(), HAS_PRESSURE),
            (summary.can_migrate, CAN_MIGRATE),
        ] {
            flags |= if set { bit } else { 0 };
        }
        put_name(out, &self.name);
        out.put_u64(self.incarnation);
        out.put_u32(self.sequence);
        out.put_u32(self.age_ms);
        out.put_u8(flags);
        out.put_u32(load.load_milli);
        out.put_u32(load.load_upper_milli);
        out.put_u32(load.nr_running);
        out.put_u64(load.weight_nano);
        out.put_u32(in_mib(load.memory_free_bytes));
        out.put_u32(in_mib(load.swapped_bytes));
        out.put_u32(load.guests);
        if let Some(p) = load.pressure {
            for value in [p.cpu_some_centi, p.memory_some_centi, p.memory_full_centi, p.io_some_centi, p.io_full_centi]
            {
                out.put_u16(value);
            }
        }
        out.put_u32(summary.cpus);
        out.put_u32(summary.speed_permille);
        out.put_u32(in_mib(summary.memory_total_bytes));
        out.put_u8(match summary.sched_ext {
            SchedExtState::Unsupported => 0,
            SchedExtState::Available => 1,
            SchedExtState::Attached => 2,
            SchedExtState::Ejected => 3,
        });
        out.put_u64(summary.features_hash);
        out.put_u32(summary.protocol_version);
        put_text(out, &summary.kernel_release, KERNEL_RELEASE_BYTES);
        put_text(out, &summary.software_version, SOFTWARE_VERSION_BYTES);
    }

    fn decode(buf: &mut &[u8]) -> Result<Self, WireError> {
        let name = get_name(buf)?;
        let (incarnation, sequence, age_ms) = (buf.try_get_u64()?, buf.try_get_u32()?, buf.try_get_u32()?);
        let flags = buf.try_get_u8()?;
        let is_set = |bit: u8| flags & bit != 0;
        let load = NodeLoad {
            load_milli: buf.try_get_u32()?,
            load_upper_milli: buf.try_get_u32()?,
            nr_running: buf.try_get_u32()?,
            weight_nano: buf.try_get_u64()?,
            memory_free_bytes: u64::from(buf.try_get_u32()?) * MIB,
            swapped_bytes: u64::from(buf.try_get_u32()?) * MIB,
            guests: buf.try_get_u32()?,
            accepting: is_set(ACCEPTING),
            pressure: if is_set(HAS_PRESSURE) {
                Some(Pressure {
                    cpu_some_centi: buf.try_get_u16()?,
                    memory_some_centi: buf.try_get_u16()?,
                    memory_full_centi: buf.try_get_u16()?,
                    io_some_centi: buf.try_get_u16()?,
                    io_full_centi: buf.try_get_u16()?,
                })
            } else {
                None
            },
        };
        let summary = NodeSummary {
            cpus: buf.try_get_u32()?,
            speed_permille: buf.try_get_u32()?,
            memory_total_bytes: u64::from(buf.try_get_u32()?) * MIB,
            can_migrate: is_set(CAN_MIGRATE),
            sched_ext: match buf.try_get_u8()? {
                0 => SchedExtState::Unsupported,
                1 => SchedExtState::Available,
                2 => SchedExtState::Attached,
                3 => SchedExtState::Ejected,
                _ => return Err(WireError::Unknown("state of sched_ext")),
            },
            features_hash: buf.try_get_u64()?,
            protocol_version: buf.try_get_u32()?,
            kernel_release: get_text(buf)?,
            software_version: get_text(buf)?,
        };
        Ok(Self { name, incarnation, sequence, age_ms, leaving: is_set(LEAVING), summary, load })
    }
}

fn in_mib(bytes: u64) -> u32 {
    u32::try_from(bytes / MIB).unwrap_or(u32::MAX)
}

impl From<TryGetError> for WireError {
    fn from(_: TryGetError) -> Self {
        Self::Short
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{cluster::codec::tests::any_node_id, keys::MAX_PAYLOAD_BYTES};

    prop_compose! {
        fn any_pressure()(v: [u16; 5]) -> Pressure {
            let [cpu_some_centi, memory_some_centi, memory_full_centi, io_some_centi, io_full_centi] = v;
            Pressure { cpu_some_centi, memory_some_centi, memory_full_centi, io_some_centi, io_full_centi }
        }
    }

    prop_compose! {
        fn any_entry()(
            id in any_node_id(), v: [u32; 12], weight_nano: u64, flags: [bool; 3], sched_ext in 0..4u8, features_hash: u64,
            pressure in prop::option::of(any_pressure()), kernel_release in "[a-z0-9.+-]{0,40}", software_version in "[0-9.]{0,16}",
        ) -> LoadEntry {
            let sched_ext = [SchedExtState::Unsupported, SchedExtState::Available, SchedExtState::Attached, SchedExtState::Ejected]
                [usize::from(sched_ext)];
            LoadEntry {
                name: id.name, incarnation: id.incarnation, sequence: v[0], age_ms: v[1], leaving: flags[0],
                summary: NodeSummary {
                    cpus: v[2], speed_permille: v[3], memory_total_bytes: u64::from(v[4]) * MIB, can_migrate: flags[1], sched_ext,
                    features_hash, protocol_version: v[5], kernel_release, software_version,
                },
                load: NodeLoad {
                    load_milli: v[6], load_upper_milli: v[7], nr_running: v[8], memory_free_bytes: u64::from(v[9]) * MIB,
                    swapped_bytes: u64::from(v[11]) * MIB, weight_nano, pressure, guests: v[10], accepting: flags[2],
                },
            }
        }
    }

    proptest! {
        #[test]
        fn load_entries_survive_and_fill_a_datagram_no_further(entries in prop::collection::vec(any_entry(), 0..20)) {
            let bytes = load(entries.clone(), MAX_PAYLOAD_BYTES);
            prop_assert!(bytes.len() <= MAX_PAYLOAD_BYTES);
            let Payload::Load(read) = Payload::decode(&bytes).unwrap() else { panic!("another kind") };
            prop_assert_eq!(&read[..], &entries[..read.len()]);
            // The longest possible entry has 206 bytes: at least five fit.
            prop_assert!(read.len() >= entries.len().min(5));
        }

        #[test]
        fn introductions_survive(from in any_node_id(), asked: SocketAddr) {
            // The flow label of an IPv6 address is nobody's business.
            let asked = SocketAddr::new(asked.ip(), asked.port());
            let (question, answer) = (join(&from, asked), welcome(&from, asked));
            prop_assert_eq!(Payload::decode(&question).unwrap(), Payload::Join { from: from.clone(), asked });
            prop_assert_eq!(Payload::decode(&answer).unwrap(), Payload::Welcome { from, asked });
            prop_assert!(Payload::decode(&question[..question.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(kind in 0..8u8, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Payload::decode(&bytes);
            let _ = Payload::decode(&[&[VERSION, kind], bytes.as_slice()].concat());
        }
    }

    #[test]
    fn other_versions_and_trailing_bytes_are_refused() {
        assert_eq!(Payload::decode(&[2, 1]), Err(WireError::Version(2)));
        let mut bytes = refusal(JoinRefusal::NameTaken);
        assert_eq!(Payload::decode(&bytes), Ok(Payload::Refusal(JoinRefusal::NameTaken)));
        bytes.push(0);
        assert!(Payload::decode(&bytes).is_err());
    }
}
