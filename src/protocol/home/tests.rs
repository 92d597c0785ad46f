//! Every frame survives its bytes, and no bytes harm the decoder.

use proptest::prelude::*;

use super::*;
use crate::protocol::frame::HEAD_BYTES;

fn stdio_op() -> impl Strategy<Value = StdioOp> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|data| StdioOp::Data(data.into())),
        Just(StdioOp::Eof),
        Just(StdioOp::Hup),
        any::<u32>().prop_map(StdioOp::Taken),
        (any::<[u32; 6]>(), any::<[u8; 19]>(), any::<u8>()).prop_map(|(w, cc, line)| {
            let [iflag, oflag, cflag, lflag, ispeed, ospeed] = w;
            StdioOp::Termios(Termios { iflag, oflag, cflag, lflag, line, cc, ispeed, ospeed })
        }),
        any::<[u16; 4]>().prop_map(|[rows, cols, xpixel, ypixel]| StdioOp::Winsize(Winsize {
            rows,
            cols,
            xpixel,
            ypixel
        })),
        any::<bool>().prop_map(StdioOp::Foreground),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (".*", any::<[u8; 16]>(), any::<[u8; 16]>(), any::<Option<u64>>(), any::<u64>()).prop_map(
            |(node, session, migration, epoch, received)| {
                let (session, migration) = (SessionId(session), SessionId(migration));
                Frame::Call(Call { node, session, migration, epoch, received })
            }
        ),
        any::<(u64, u64)>().prop_map(|(epoch, received)| Frame::Welcome(Welcome { epoch, received })),
        ".*".prop_map(|reason| Frame::Refused(Refused { reason })),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Frame::Control(bytes.into())),
        (any::<u32>(), stdio_op()).prop_map(|(channel, op)| Frame::Stdio(Stdio { channel, op })),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Frame::Files(bytes.into())),
        any::<u64>().prop_map(Frame::Alive),
    ]
}

fn decode(bytes: Bytes) -> Result<Frame, ProtocolError> {
    Frame::decode(bytes[HEAD_BYTES - 1], bytes.slice(HEAD_BYTES..))
}

proptest! {
    #[test]
    fn a_frame_survives_its_bytes(frame in frame()) {
        prop_assert_eq!(decode(frame.encode().unwrap()).unwrap(), frame);
    }

    #[test]
    fn any_bytes_decode_or_are_refused(kind in 0u8..10, payload in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(frame) = Frame::decode(kind, payload.clone().into())
            && matches!(frame, Frame::Control(_) | Frame::Stdio(_) | Frame::Files(_))
        {
            prop_assert_eq!(&frame.encode().unwrap()[HEAD_BYTES..], &payload[..]);
        }
    }

    #[test]
    fn a_cut_or_longer_binary_payload_is_refused(frame in frame(), extra in any::<u8>()) {
        let exact = !matches!(frame, Frame::Control(_) | Frame::Files(_) | Frame::Stdio(Stdio { op: StdioOp::Data(_), .. }));
        let bytes = frame.encode().unwrap();
        let (payload, kind) = (bytes.slice(HEAD_BYTES..), bytes[4]);
        if exact {
            prop_assert!(Frame::decode(kind, payload.slice(..payload.len() - 1)).is_err());
            prop_assert!(Frame::decode(kind, [&payload[..], &[extra | 0x80]].concat().into()).is_err());
        }
    }
}

#[test]
fn a_frame_that_is_too_long_is_not_sent() {
    let files = Frame::Files(Bytes::from(vec![0; MAX_PAYLOAD_BYTES + 1]));
    assert!(matches!(files.encode(), Err(ProtocolError::TooLong { .. })));
}
