//! What nodes say to each other in gossip, inside the seal: one byte of version, one of kind, then
//! the content.
//!
//! ```text
//!   1 membership   a SWIM packet (see codec)
//!   2 load         entries until the end; a message of many entries is several payloads, each complete in itself
//!   3 join         the node id of who asks · the address that he asks
//!   4 welcome      the node id of who answers · the address that was asked: a node may answer from another
//!   5 refusal      u8: why not
//! ```

use std::net::SocketAddr;

use bytes::{Buf, BufMut, TryGetError};

use super::{
    NodeId,
    board::Version,
    codec::{get_addr, get_name, get_node_id, get_text, put_addr, put_name, put_node_id, put_text},
    loads::{LoadEntry, Said},
    view::NodeSummary,
};
use crate::{
    keys::{MAX_PAYLOAD_BYTES, NameError, NodeName},
    node::{NodeLoad, Pressure, SchedExtState},
};

/// Version of this format.
pub(super) const VERSION: u8 = 3;

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
    /// Its sender has sent more of its kind than a node sends; it was not read.
    #[error("more gossip at once than a node sends: is the node there broken, or its [gossip] not set as here?")]
    Flood,
    /// It does not fit a datagram; the sender continues without it.
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

/// A payload that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload<'a> {
    Membership(&'a [u8]),
    /// To be read by [`load_entries`].
    Load(&'a [u8]),
    Join {
        from: NodeId,
        asked: SocketAddr,
    },
    Welcome {
        from: NodeId,
        asked: SocketAddr,
    },
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
            LOAD => return Ok(Self::Load(bytes)),
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

/// The entries of a load message in as few payloads as take them in their order, each at most
/// [`MAX_PAYLOAD_BYTES`] long.
pub(super) fn load(entries: &[LoadEntry]) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    let mut encoded = Vec::with_capacity(LARGEST_ENTRY_BYTES);
    for entry in entries {
        encoded.clear();
        encode(entry, &mut encoded);
        match payloads.last_mut().filter(|payload| payload.len() + encoded.len() <= MAX_PAYLOAD_BYTES) {
            Some(payload) => payload.extend_from_slice(&encoded),
            None => payloads.push([&[VERSION, LOAD], encoded.as_slice()].concat()),
        }
    }
    payloads
}

/// The entries in one payload of a load message.
pub(super) fn load_entries(mut bytes: &[u8]) -> Result<Vec<LoadEntry>, WireError> {
    let mut entries = Vec::new();
    while bytes.has_remaining() {
        entries.push(decode(&mut bytes)?);
    }
    Ok(entries)
}

/// How many payloads a load message of `entries` takes at most.
pub(super) const fn load_payloads(entries: usize) -> usize {
    entries.div_ceil((MAX_PAYLOAD_BYTES - LOAD_HEAD_BYTES) / LARGEST_ENTRY_BYTES)
}

const LOAD_HEAD_BYTES: usize = 2;
/// The longest entry: name and texts of the greatest length, pressure known. Mostly they are little
/// longer than half of it.
const LARGEST_ENTRY_BYTES: usize = 1 + NodeName::MAX_BYTES + 94 + 1 + KERNEL_RELEASE_BYTES + 1 + SOFTWARE_VERSION_BYTES;

const ACCEPTING: u8 = 1;
const LEAVING: u8 = 2;
const HAS_PRESSURE: u8 = 4;
const CAN_MIGRATE: u8 = 8;

fn encode(entry: &LoadEntry, out: &mut Vec<u8>) {
    let Said { leaving, summary, load } = &entry.said;
    let mut flags = 0;
    for (set, bit) in [
        (load.accepting, ACCEPTING),
        (*leaving, LEAVING),
        (load.pressure.is_some(), HAS_PRESSURE),
        (summary.can_migrate, CAN_MIGRATE),
    ] {
        flags |= if set { bit } else { 0 };
    }
    put_name(out, &entry.node);
    out.put_u64(entry.version.incarnation);
    out.put_u32(entry.version.sequence);
    out.put_u32(entry.age_ms);
    out.put_u8(flags);
    out.put_u32(load.load_milli);
    out.put_u32(load.load_upper_milli);
    out.put_u32(load.nr_running);
    out.put_u64(load.weight_nano);
    out.put_u16(load.owners_permille);
    out.put_u64(load.owners_weight_nano);
    out.put_u32(in_mib(load.memory_free_bytes));
    out.put_u32(in_mib(load.swapped_bytes));
    out.put_u32(load.guests);
    if let Some(p) = load.pressure {
        for value in [p.cpu_some_centi, p.memory_some_centi, p.memory_full_centi, p.io_some_centi, p.io_full_centi] {
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

fn decode(buf: &mut &[u8]) -> Result<LoadEntry, WireError> {
    let node = get_name(buf)?;
    let version = Version { incarnation: buf.try_get_u64()?, sequence: buf.try_get_u32()? };
    let age_ms = buf.try_get_u32()?;
    let flags = buf.try_get_u8()?;
    let is_set = |bit: u8| flags & bit != 0;
    let load = NodeLoad {
        load_milli: buf.try_get_u32()?,
        load_upper_milli: buf.try_get_u32()?,
        nr_running: buf.try_get_u32()?,
        weight_nano: buf.try_get_u64()?,
        owners_permille: buf.try_get_u16()?,
        owners_weight_nano: buf.try_get_u64()?,
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
    Ok(LoadEntry { node, version, age_ms, said: Said { leaving: is_set(LEAVING), summary, load } })
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
    use crate::cluster::codec::tests::any_node_id;

    prop_compose! {
        fn any_pressure()(v: [u16; 5]) -> Pressure {
            let [cpu_some_centi, memory_some_centi, memory_full_centi, io_some_centi, io_full_centi] = v;
            Pressure { cpu_some_centi, memory_some_centi, memory_full_centi, io_some_centi, io_full_centi }
        }
    }

    prop_compose! {
        pub(in crate::cluster) fn any_entry()(
            id in any_node_id(), v: [u32; 13], weight_nano: [u64; 2], flags: [bool; 3], sched_ext in 0..4u8, features_hash: u64,
            pressure in prop::option::of(any_pressure()), kernel_release in "[a-z0-9.+-]{0,40}", software_version in "[0-9.]{0,16}",
        ) -> LoadEntry {
            let sched_ext = [SchedExtState::Unsupported, SchedExtState::Available, SchedExtState::Attached, SchedExtState::Ejected]
                [usize::from(sched_ext)];
            LoadEntry {
                node: id.name, version: Version { incarnation: id.incarnation, sequence: v[0] }, age_ms: v[1],
                said: Said {
                    leaving: flags[0],
                    summary: NodeSummary {
                        cpus: v[2], speed_permille: v[3], memory_total_bytes: u64::from(v[4]) * MIB, can_migrate: flags[1],
                        sched_ext, features_hash, protocol_version: v[5], kernel_release, software_version,
                    },
                    load: NodeLoad {
                        load_milli: v[6], load_upper_milli: v[7], nr_running: v[8], memory_free_bytes: u64::from(v[9]) * MIB,
                        weight_nano: weight_nano[0], owners_permille: v[12] as u16, owners_weight_nano: weight_nano[1], swapped_bytes: u64::from(v[11]) * MIB, pressure, guests: v[10], accepting: flags[2],
                    },
                },
            }
        }
    }

    proptest! {
        #[test]
        fn load_entries_survive_in_few_payloads(entries in prop::collection::vec(any_entry(), 0..30)) {
            let payloads = load(&entries);
            prop_assert!(payloads.len() <= load_payloads(entries.len()));
            prop_assert!(payloads.iter().all(|payload| payload.len() <= MAX_PAYLOAD_BYTES));
            let read = payloads.iter().flat_map(|payload| {
                let Payload::Load(entries) = Payload::decode(payload).unwrap() else { panic!("another kind") };
                load_entries(entries).unwrap()
            });
            prop_assert_eq!(read.collect::<Vec<_>>(), entries);
        }

        #[test]
        fn no_entry_is_longer_than_the_longest(mut entry in any_entry()) {
            let mut bytes = Vec::new();
            encode(&entry, &mut bytes);
            prop_assert!(bytes.len() <= LARGEST_ENTRY_BYTES);
            entry.node = NodeName::new(&["a".repeat(31), "b".repeat(31)].join(".")).unwrap();
            entry.said.load.pressure = Some(Pressure::default());
            (entry.said.summary.kernel_release, entry.said.summary.software_version) = ("k".repeat(99), "v".repeat(99));
            bytes.clear();
            encode(&entry, &mut bytes);
            prop_assert_eq!(bytes.len(), LARGEST_ENTRY_BYTES);
        }

        #[test]
        fn introductions_survive(from in any_node_id(), asked: SocketAddr) {
            // The flow label of an IPv6 address does not matter.
            let asked = SocketAddr::new(asked.ip(), asked.port());
            let (question, answer) = (join(&from, asked), welcome(&from, asked));
            prop_assert_eq!(Payload::decode(&question).unwrap(), Payload::Join { from: from.clone(), asked });
            prop_assert_eq!(Payload::decode(&answer).unwrap(), Payload::Welcome { from, asked });
            prop_assert!(Payload::decode(&question[..question.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(kind in 0..8u8, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = load_entries(&bytes);
            let _ = Payload::decode(&bytes);
            let _ = Payload::decode(&[&[VERSION, kind], bytes.as_slice()].concat());
        }
    }

    #[test]
    fn other_versions_and_trailing_bytes_are_refused() {
        assert_eq!(Payload::decode(&[VERSION + 1, 1]), Err(WireError::Version(VERSION + 1)));
        let mut bytes = refusal(JoinRefusal::NameTaken);
        assert_eq!(Payload::decode(&bytes), Ok(Payload::Refusal(JoinRefusal::NameTaken)));
        bytes.push(0);
        assert!(Payload::decode(&bytes).is_err());
    }
}
