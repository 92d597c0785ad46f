//! Home goes away.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::fixture::Guest;

/// Everything that a program might try.
const TRIES: [&str; 12] = [
    "cat f",
    "echo x > new",
    "ls .",
    "stat f",
    "mkdir d",
    "rm f",
    "mv f g",
    "ln f h",
    "chmod 600 f",
    "df .",
    "touch f",
    "python3 -c \"import fcntl; fcntl.flock(open('f'), fcntl.LOCK_SH)\"",
];

#[test]
fn a_cut_is_an_error_at_once_and_unmounting_works() {
    let mut guest = Guest::new();
    fs::write(guest.home("f"), "content").unwrap();
    let mut open = File::options().read(true).write(true).open(guest.guest("f")).unwrap();
    guest.channel.cut("the test cuts it");
    let started = Instant::now();
    assert_eq!(open.read(&mut [0; 10]).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(open.write(b"x").unwrap_err().raw_os_error(), Some(libc::EIO));
    for script in TRIES {
        let output = guest.try_sh(&guest.home(""), &format!("cd \"$GUEST_TREE\" && {script}"));
        assert!(!output.status.success(), "{script}");
    }
    assert!(guest.mounted().sync(Duration::from_secs(5)).is_err());
    assert!(started.elapsed() < Duration::from_secs(20));
    drop(open);
    guest.unmount();
    assert_eq!(fs::read_dir(guest.guest("")).unwrap().count(), 0, "still mounted");
    assert_eq!(fs::read_to_string(guest.home("f")).unwrap(), "content");
}

#[test]
fn a_stall_is_waited_out() {
    let guest = Guest::new();
    let content: Vec<u8> = (0..2_000_000u32).flat_map(u32::to_le_bytes).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..6 {
                std::thread::sleep(Duration::from_millis(50));
                guest.stalled.send_replace(round % 2 == 0);
            }
        });
        for _ in 0..5 {
            fs::write(guest.guest("f"), &content).unwrap();
            assert_eq!(fs::read(guest.guest("f")).unwrap(), content);
        }
    });
    assert_eq!(fs::read(guest.home("f")).unwrap(), content);
}

#[test]
fn unmounting_releases_those_who_wait() {
    let mut guest = Guest::new();
    fs::write(guest.home("f"), "content").unwrap();
    guest.stalled.send_replace(true);
    let reader = guest.command(&guest.home(""), "cat \"$GUEST_TREE/f\"").spawn();
    let mut reader = reader.unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(reader.try_wait().unwrap().is_none());
    guest.unmount();
    assert!(!reader.wait().unwrap().success());
}

#[test]
fn silence_ends_in_errors() {
    let limit = Duration::from_secs(3);
    let guest = Guest::with_silence_limit(limit);
    fs::write(guest.home("f"), "content").unwrap();
    guest.stalled.send_replace(true);
    let started = Instant::now();
    assert_eq!(fs::read(guest.guest("f")).unwrap_err().raw_os_error(), Some(libc::EIO));
    let took = started.elapsed();
    assert!(took > limit / 2 && took < limit + Duration::from_secs(10), "{took:?}");
}
