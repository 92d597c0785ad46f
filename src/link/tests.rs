//! The link over in-memory streams that are cut at any point.

use super::*;
use crate::job::SessionId;
use crate::protocol::home::{GuestToHome, HomeToGuest};

fn data(number: u32) -> Stdio {
    Stdio { channel: 1, op: StdioOp::Data(Bytes::from(number.to_le_bytes().repeat(20))) }
}

#[tokio::test]
async fn a_conversation_survives_cuts_without_loss_or_doubles() {
    let (guest, mut guest_carrier) = link::<GuestToHome, HomeToGuest>();
    let (mut home, mut home_carrier) = link::<HomeToGuest, GuestToHome>();
    let carry = tokio::spawn(async move {
        for cut_after_ms in [1, 3, 2, 5, 4, 60_000] {
            let (a, b) = tokio::io::duplex(700);
            let (at_guest, at_home) = (guest_carrier.received(), home_carrier.received());
            let both = async { tokio::join!(guest_carrier.carry(a, at_home), home_carrier.carry(b, at_guest)) };
            let _ = timeout(Duration::from_millis(cut_after_ms), both).await;
        }
    });
    let sender = guest.sender.clone();
    let files = guest.sender.files();
    tokio::spawn(async move {
        for number in 0..2000 {
            sender.stdio().send(1, data(number).op).await.unwrap();
        }
        sender.control(&GuestToHome::Ended).await.unwrap();
    });
    tokio::spawn(async move {
        for number in 0..500_u32 {
            files.send(Bytes::from(number.to_le_bytes().to_vec())).await.unwrap();
        }
    });
    let reader = home.files;
    let files_in_order = tokio::spawn(async move {
        let mut reader = reader;
        for number in 0..500_u32 {
            assert_eq!(reader.recv().await.unwrap(), number.to_le_bytes()[..]);
        }
    });
    for number in 0..2000 {
        assert_eq!(home.events.recv().await.unwrap(), Event::Stdio(data(number)));
    }
    assert_eq!(home.events.recv().await.unwrap(), Event::Control(GuestToHome::Ended));
    files_in_order.await.unwrap();
    carry.abort();
}

#[tokio::test]
async fn files_do_not_hold_up_control() {
    let (guest, mut guest_carrier) = link::<GuestToHome, HomeToGuest>();
    let (mut home, mut home_carrier) = link::<HomeToGuest, GuestToHome>();
    for _ in 0..50 {
        guest.sender.files.send(Bytes::from(vec![0; 1 << 16])).await.unwrap();
    }
    guest.sender.control(&GuestToHome::Ended).await.unwrap();
    let (a, b) = tokio::io::duplex(1 << 12);
    tokio::spawn(async move { tokio::join!(guest_carrier.carry(a, 0), home_carrier.carry(b, 0)) });
    assert_eq!(home.events.recv().await.unwrap(), Event::Control(GuestToHome::Ended));
    assert!(home.files.len() <= 1, "{} files frames came before the control message", home.files.len());
}

#[tokio::test]
async fn a_silent_connection_is_given_up_and_an_idle_one_is_kept() {
    let (_guest, mut guest_carrier) = link::<GuestToHome, HomeToGuest>();
    let (_home, mut home_carrier) = link::<HomeToGuest, GuestToHome>();
    let pace = Pace { heartbeat: Duration::from_millis(50), silence: Duration::from_millis(500) };
    (guest_carrier.pace, home_carrier.pace) = (pace, pace);
    let (a, b) = tokio::io::duplex(1 << 12);
    let both = async { tokio::join!(guest_carrier.carry(a, 0), home_carrier.carry(b, 0)) };
    assert!(timeout(Duration::from_millis(1500), both).await.is_err(), "heartbeats keep it");
    let (a, _silent) = tokio::io::duplex(1 << 12);
    assert!(matches!(guest_carrier.carry(a, 0).await, LinkError::Silent));
}

#[tokio::test]
async fn the_handshake_tells_who_calls_or_is_refused() {
    let id = SessionId::random();
    let call = Call { node: "n2".into(), session: id, migration: id, epoch: None, received: 7 };
    let (mut a, mut b) = tokio::io::duplex(1 << 12);
    let home = async {
        let call = receive_call(&mut b).await.unwrap();
        welcome(&mut b, Welcome { epoch: 3, received: 9 }).await.unwrap();
        call
    };
    let (answer, heard) = tokio::join!(call_home(&mut a, call.clone()), home);
    assert_eq!((answer.unwrap(), heard), (Welcome { epoch: 3, received: 9 }, call.clone()));

    let home = async {
        receive_call(&mut b).await.unwrap();
        refuse(&mut b, "who is that".into()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(call_home(&mut a, call), home);
    assert!(matches!(answer, Err(LinkError::Refused(_))));
}

#[tokio::test]
async fn a_peer_that_acknowledges_what_was_never_sent_is_cut_off() {
    let (_guest, mut guest_carrier) = link::<GuestToHome, HomeToGuest>();
    let (a, _b) = tokio::io::duplex(1 << 12);
    assert!(matches!(guest_carrier.carry(a, 5).await, LinkError::Protocol(ProtocolError::Malformed { .. })));
}
