//! The bytes of SWIM's packets. Fixed layout, big-endian; whatever is read is checked, and nothing
//! here panics.
//!
//! ```text
//!   address:  family u8 (4 or 6) · IP 4 or 16 · port u16
//!   node id:  name length u8 · name · address · incarnation u64
//!   member:   node id · SWIM incarnation u16 · state u8
//!   header:   source id · SWIM incarnation u16 · destination id · message u8 [· node id] [· probe number u8]
//! ```

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, State};

use super::{NodeId, WireError};
use crate::keys::NodeName;

/// foca's door to this layout.
pub(super) struct MemberCodec;

impl Codec<NodeId> for MemberCodec {
    type Error = WireError;

    fn encode_header(&mut self, header: &Header<NodeId>, buf: impl BufMut) -> Result<(), WireError> {
        let mut out = Vec::with_capacity(128);
        put_node_id(&mut out, &header.src);
        out.put_u16(header.src_incarnation);
        put_node_id(&mut out, &header.dst);
        put_message(&mut out, &header.message);
        put_whole(buf, &out)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<NodeId>, WireError> {
        Ok(Header {
            src: get_node_id(&mut buf)?,
            src_incarnation: buf.try_get_u16()?,
            dst: get_node_id(&mut buf)?,
            message: get_message(&mut buf)?,
        })
    }

    fn encode_member(&mut self, member: &Member<NodeId>, buf: impl BufMut) -> Result<(), WireError> {
        let mut out = Vec::with_capacity(48);
        put_node_id(&mut out, member.id());
        out.put_u16(member.incarnation());
        out.put_u8(match member.state() {
            State::Alive => 1,
            State::Suspect => 2,
            State::Down => 3,
        });
        put_whole(buf, &out)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<NodeId>, WireError> {
        let id = get_node_id(&mut buf)?;
        let incarnation = buf.try_get_u16()?;
        let state = match buf.try_get_u8()? {
            1 => State::Alive,
            2 => State::Suspect,
            3 => State::Down,
            _ => return Err(WireError::Unknown("member state")),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

/// All of `bytes` or nothing: foca fills a packet until something does not fit.
fn put_whole(mut buf: impl BufMut, bytes: &[u8]) -> Result<(), WireError> {
    if buf.remaining_mut() < bytes.len() {
        return Err(WireError::NoRoom);
    }
    buf.put_slice(bytes);
    Ok(())
}

fn put_message(out: &mut Vec<u8>, message: &Message<NodeId>) {
    let (tag, id, probe_number) = match message {
        Message::Ping(number) => (1, None, Some(*number)),
        Message::Ack(number) => (2, None, Some(*number)),
        Message::PingReq { target, probe_number } => (3, Some(target), Some(*probe_number)),
        Message::IndirectPing { origin, probe_number } => (4, Some(origin), Some(*probe_number)),
        Message::IndirectAck { target, probe_number } => (5, Some(target), Some(*probe_number)),
        Message::ForwardedAck { origin, probe_number } => (6, Some(origin), Some(*probe_number)),
        Message::Announce => (7, None, None),
        Message::Feed => (8, None, None),
        Message::Gossip => (9, None, None),
        Message::Broadcast => (10, None, None),
        Message::TurnUndead => (11, None, None),
    };
    out.put_u8(tag);
    if let Some(id) = id {
        put_node_id(out, id);
    }
    if let Some(number) = probe_number {
        out.put_u8(number);
    }
}

fn get_message(buf: &mut impl Buf) -> Result<Message<NodeId>, WireError> {
    Ok(match buf.try_get_u8()? {
        1 => Message::Ping(buf.try_get_u8()?),
        2 => Message::Ack(buf.try_get_u8()?),
        3 => Message::PingReq { target: get_node_id(buf)?, probe_number: buf.try_get_u8()? },
        4 => Message::IndirectPing { origin: get_node_id(buf)?, probe_number: buf.try_get_u8()? },
        5 => Message::IndirectAck { target: get_node_id(buf)?, probe_number: buf.try_get_u8()? },
        6 => Message::ForwardedAck { origin: get_node_id(buf)?, probe_number: buf.try_get_u8()? },
        7 => Message::Announce,
        8 => Message::Feed,
        9 => Message::Gossip,
        10 => Message::Broadcast,
        11 => Message::TurnUndead,
        _ => return Err(WireError::Unknown("membership message")),
    })
}

pub(super) fn put_node_id(out: &mut Vec<u8>, id: &NodeId) {
    put_name(out, &id.name);
    put_addr(out, id.addr);
    out.put_u64(id.incarnation);
}

pub(super) fn get_node_id(buf: &mut impl Buf) -> Result<NodeId, WireError> {
    Ok(NodeId { name: get_name(buf)?, addr: get_addr(buf)?, incarnation: buf.try_get_u64()? })
}

pub(super) fn put_addr(out: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(addr.port());
}

pub(super) fn get_addr(buf: &mut impl Buf) -> Result<SocketAddr, WireError> {
    let ip = match buf.try_get_u8()? {
        4 => IpAddr::from(get_array::<4>(buf)?),
        6 => IpAddr::from(get_array::<16>(buf)?),
        _ => return Err(WireError::Unknown("address family")),
    };
    Ok(SocketAddr::new(ip, buf.try_get_u16()?))
}

pub(super) fn put_name(out: &mut Vec<u8>, name: &NodeName) {
    put_text(out, name.as_str(), NodeName::MAX_BYTES);
}

pub(super) fn get_name(buf: &mut impl Buf) -> Result<NodeName, WireError> {
    Ok(NodeName::new(&get_text(buf)?)?)
}

/// A text of at most `max` (≤ 255) bytes with its length before it; what is longer is cut at a
/// character.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str, max: usize) {
    let end = text.floor_char_boundary(max.min(usize::from(u8::MAX)));
    let text = text.get(..end).unwrap_or_default();
    out.put_u8(u8::try_from(text.len()).unwrap_or(0));
    out.put_slice(text.as_bytes());
}

pub(super) fn get_text(buf: &mut impl Buf) -> Result<String, WireError> {
    let length = usize::from(buf.try_get_u8()?);
    let mut bytes = vec![0; length];
    buf.try_copy_to_slice(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| WireError::Unknown("text encoding"))
}

fn get_array<const N: usize>(buf: &mut impl Buf) -> Result<[u8; N], WireError> {
    let mut bytes = [0; N];
    buf.try_copy_to_slice(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        pub(in crate::cluster) fn any_node_id()(
            name in "[a-z][a-z0-9-]{0,20}[a-z0-9]", ip: IpAddr, port: u16, incarnation: u64,
        ) -> NodeId {
            NodeId { name: NodeName::new(&name).unwrap(), addr: SocketAddr::new(ip, port), incarnation }
        }
    }

    fn any_message() -> impl Strategy<Value = Message<NodeId>> {
        let with =
            |make: fn(NodeId, u8) -> Message<NodeId>| (any_node_id(), any::<u8>()).prop_map(move |(id, n)| make(id, n));
        prop_oneof![
            any::<u8>().prop_map(Message::Ping),
            any::<u8>().prop_map(Message::Ack),
            with(|target, probe_number| Message::PingReq { target, probe_number }),
            with(|origin, probe_number| Message::IndirectPing { origin, probe_number }),
            with(|target, probe_number| Message::IndirectAck { target, probe_number }),
            with(|origin, probe_number| Message::ForwardedAck { origin, probe_number }),
            Just(Message::Announce),
            Just(Message::Feed),
            Just(Message::Gossip),
            Just(Message::Broadcast),
            Just(Message::TurnUndead),
        ]
    }

    proptest! {
        #[test]
        fn headers_survive(src in any_node_id(), dst in any_node_id(), src_incarnation: u16, message in any_message()) {
            let header = Header { src, src_incarnation, dst, message };
            let mut bytes = Vec::new();
            MemberCodec.encode_header(&header, &mut bytes).unwrap();
            prop_assert_eq!(MemberCodec.decode_header(bytes.as_slice()).unwrap(), header);
            // Cut anywhere, it is an error.
            for end in 0..bytes.len() {
                prop_assert!(MemberCodec.decode_header(&bytes[..end]).is_err());
            }
        }

        #[test]
        fn members_survive_and_do_not_dirty_a_full_packet(id in any_node_id(), incarnation: u16, down: bool) {
            let member = Member::new(id, incarnation, if down { State::Down } else { State::Suspect });
            let mut bytes = Vec::new();
            MemberCodec.encode_member(&member, &mut bytes).unwrap();
            prop_assert_eq!(MemberCodec.decode_member(bytes.as_slice()).unwrap(), member.clone());
            let mut short = Vec::new().limit(bytes.len() - 1);
            prop_assert!(MemberCodec.encode_member(&member, &mut short).is_err());
            prop_assert!(short.get_ref().is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = MemberCodec.decode_header(bytes.as_slice());
            let _ = MemberCodec.decode_member(bytes.as_slice());
        }
    }
}
