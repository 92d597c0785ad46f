use proptest::prelude::*;

use super::*;

fn versions(oldest: u16, newest: u16) -> Versions {
    Versions { oldest, newest }
}

/// What a peer that understands these versions of the home protocol says.
fn peer(oldest: u16, newest: u16) -> Hello {
    Hello(vec![(Protocol::Home as u8, versions(oldest, newest))])
}

#[test]
fn both_ends_find_the_newest_version_that_both_know() {
    for (ours, theirs, common) in [
        ((1, 1), (1, 1), Some(1)),
        ((1, 4), (2, 3), Some(3)),
        ((1, 3), (2, 9), Some(3)),
        ((3, 3), (1, 3), Some(3)),
        ((3, 4), (1, 2), None),
        ((1, 2), (3, 4), None),
    ] {
        let (ours, theirs) = (versions(ours.0, ours.1), versions(theirs.0, theirs.1));
        assert_eq!(ours.newest_common(theirs), common, "{ours} and {theirs}");
        assert_eq!(theirs.newest_common(ours), common, "{theirs} and {ours}");
    }
}

#[test]
fn older_and_newer_peers_that_know_our_version_are_heard() {
    let Versions { oldest, newest } = Protocol::Home.versions();
    assert_eq!(peer(0, newest).agree(Protocol::Home).unwrap(), newest);
    assert_eq!(peer(0, oldest).agree(Protocol::Home).unwrap(), oldest);
    assert_eq!(peer(newest, newest + 7).agree(Protocol::Home).unwrap(), newest);
}

#[test]
fn a_refusal_names_both_ranges_and_who_must_upgrade() {
    let Versions { oldest, newest } = Protocol::Home.versions();
    let told = peer(newest + 1, newest + 2).agree(Protocol::Home).unwrap_err().to_string();
    assert!(told.contains(&format!("{oldest} to {newest}")), "{told}");
    assert!(told.contains(&format!("{} to {}", newest + 1, newest + 2)), "{told}");
    assert!(told.contains("upgrade scx_mosix at this end"), "{told}");
    let told = peer(0, oldest - 1).agree(Protocol::Home).unwrap_err().to_string();
    assert!(told.contains("upgrade scx_mosix at the other end"), "{told}");
}

#[test]
fn unknown_protocols_are_passed_over_missing_ones_are_not() {
    let mut hello = peer(0, 99);
    hello.0.insert(0, (200, versions(1, 1)));
    let hello = Hello::decode(&hello.encode()).unwrap();
    assert!(hello.agree(Protocol::Home).is_ok());
    assert!(matches!(hello.agree(Protocol::Files), Err(ProtocolError::NotOffered { .. })));
}

#[tokio::test]
async fn two_ends_of_one_build_understand_each_other() {
    let protocols = [Protocol::Home, Protocol::Files];
    let (mut a, mut b) = tokio::io::duplex(16);
    let (at_a, at_b) = tokio::join!(greet(&mut a, &protocols), greet(&mut b, &protocols));
    assert_eq!(at_a.unwrap(), protocols.map(|protocol| protocol.versions().newest));
    assert_eq!(at_b.unwrap(), protocols.map(|protocol| protocol.versions().newest));
}

#[tokio::test]
async fn garbage_in_place_of_a_hello_ends_the_greeting() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SMXH\x00 and more", b"SMXH\xff and more"] {
        let (mut a, mut b) = tokio::io::duplex(256);
        b.write_all(garbage).await.unwrap();
        assert!(matches!(greet(&mut a, &[Protocol::Move]).await, Err(ProtocolError::NoHello)));
    }
    let (mut a, b) = tokio::io::duplex(256);
    drop(b);
    assert!(matches!(greet(&mut a, &[Protocol::Move]).await, Err(ProtocolError::Io { .. })));
}

#[tokio::test]
async fn a_peer_that_says_no_hello_is_given_up() {
    let (mut a, _b) = tokio::io::duplex(256);
    let greeted = greet_within(Duration::from_millis(10), &mut a, &[Protocol::Move]).await;
    assert!(matches!(greeted, Err(ProtocolError::TimedOut)));
}

proptest! {
    #[test]
    fn any_bytes_are_a_hello_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120), whole in any::<bool>()) {
        let bytes = if whole { [&b"SMXH"[..], &bytes].concat() } else { bytes };
        if let Ok(hello) = Hello::decode(&bytes) {
            prop_assert_eq!(hello.encode(), bytes);
        }
    }

    #[test]
    fn a_hello_survives_its_bytes(offers in prop::collection::vec(any::<(u8, u16, u16)>(), 1..=MAX_OFFERS)) {
        let offer = |(protocol, a, b): (u8, u16, u16)| (protocol, versions(a.min(b), a.max(b)));
        let hello = Hello(offers.into_iter().map(offer).collect());
        prop_assert_eq!(Hello::decode(&hello.encode()).unwrap(), hello);
    }
}
