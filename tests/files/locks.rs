//! Locks of guests and of home's own programs exclude each other.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::fixture::{Guest, eventually};

/// A Python program that locks `f` in `dir` by `how`, says so, and waits for its end.
fn holder(guest: &Guest, dir: &Path, how: &str) -> Child {
    let script = format!(
        r#"exec python3 -c "
import fcntl, os, struct, sys, time
f = open('f', 'r+b')
{how}
print('locked', flush=True); time.sleep(1000)""#
    );
    let mut child = guest.command(dir, &script).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "locked\n");
    child
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Whether `how` succeeds now in `dir`.
fn can(guest: &Guest, dir: &Path, how: &str) -> bool {
    let script = format!(
        r#"exec python3 -c "
import fcntl, os, struct, sys
f = open('f', 'r+b')
try: {how}
except BlockingIOError: sys.exit(3)""#
    );
    let output = guest.try_sh(dir, &script);
    match output.status.code() {
        Some(0) => true,
        Some(3) => false,
        _ => panic!("{}", String::from_utf8_lossy(&output.stderr)),
    }
}

const POSIX: &str = "fcntl.lockf(f, fcntl.LOCK_EX, 10, 100)";
const TRY_POSIX: &str = "fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 105)";
const TRY_BEYOND: &str = "fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 110)";
const OFD: &str = "fcntl.fcntl(f, 38, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 100, 10, 0))";
const FLOCK: &str = "fcntl.flock(f, fcntl.LOCK_EX)";
const TRY_FLOCK: &str = "fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)";
/// The whole file, which only the system call tells from `flock`.
const POSIX_ALL: &str = "fcntl.lockf(f, fcntl.LOCK_EX)";

#[test]
fn guests_and_home_exclude_each_other() {
    let guest = Guest::new();
    std::fs::write(guest.home("f"), [0; 1000]).unwrap();
    let (here, home) = (guest.guest(""), guest.home(""));
    for (lock, excluded, free) in [
        (POSIX, TRY_POSIX, TRY_BEYOND),
        (OFD, TRY_POSIX, TRY_BEYOND),
        (FLOCK, TRY_FLOCK, TRY_POSIX),
        (POSIX_ALL, TRY_BEYOND, TRY_FLOCK),
    ] {
        for (mine, other) in [(&here, &home), (&home, &here), (&here, &here)] {
            let child = holder(&guest, mine, lock);
            assert!(!can(&guest, other, excluded), "{lock} in {mine:?} did not exclude {other:?}");
            assert!(can(&guest, other, free), "{lock} in {mine:?} excluded too much in {other:?}");
            assert_eq!(guest.mounted().held_locks().len(), usize::from(mine == &here), "{lock}");
            end(child);
            // The hosting kernel tells of the end of a program a moment after it.
            eventually(|| can(&guest, other, excluded));
            eventually(|| guest.mounted().held_locks().is_empty());
        }
    }
}

#[test]
fn closing_any_descriptor_gives_posix_locks_back() {
    let guest = Guest::new();
    std::fs::write(guest.home("f"), [0; 1000]).unwrap();
    let child = holder(&guest, &guest.guest(""), &format!("{POSIX}\nopen('f').close()"));
    assert!(can(&guest, &guest.home(""), TRY_POSIX));
    assert!(guest.mounted().held_locks().is_empty());
    end(child);
    // But not OFD locks.
    let child = holder(&guest, &guest.guest(""), &format!("{OFD}\nopen('f').close()"));
    assert!(!can(&guest, &guest.home(""), TRY_POSIX));
    end(child);
}

#[test]
fn a_waiter_gets_the_lock_and_sees_what_was_written_under_it() {
    let guest = Guest::new();
    std::fs::write(guest.home("f"), "0").unwrap();
    // Eight programs on both sides count to 400 together.
    let count = r#"exec python3 -c "
import fcntl
f = open('f', 'r+b', buffering=0)
for _ in range(50):
    fcntl.LOCK
    f.seek(0); n = int(f.read(20)); f.seek(0); f.write(b'%d' % (n + 1))
    fcntl.UNLOCK""#;
    for (lock, unlock) in
        [("lockf(f, fcntl.LOCK_EX)", "lockf(f, fcntl.LOCK_UN)"), ("flock(f, fcntl.LOCK_EX)", "flock(f, fcntl.LOCK_UN)")]
    {
        std::fs::write(guest.home("f"), "0").unwrap();
        let script = count.replace("UNLOCK", unlock).replace("fcntl.LOCK\n", &format!("fcntl.{lock}\n"));
        let children: Vec<_> = (0..8)
            .map(|number| {
                let dir = if number % 4 == 0 { guest.home("") } else { guest.guest("") };
                guest.command(&dir, &script).spawn().unwrap()
            })
            .collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(std::fs::read_to_string(guest.home("f")).unwrap(), "400", "{lock}");
    }
}

#[test]
fn a_waiter_can_be_killed_and_interrupted() {
    let guest = Guest::new();
    std::fs::write(guest.home("f"), [0; 1000]).unwrap();
    for lock in [POSIX, FLOCK] {
        let child = holder(&guest, &guest.home(""), lock);
        let script = format!(
            r#"exec python3 -c "
import fcntl, signal
f = open('f', 'r+b')
def ring(*_): raise SystemExit(7)
signal.signal(signal.SIGUSR1, ring)
print('waiting', flush=True)
{lock}""#
        );
        for (signal, code) in [("USR1", Some(7)), ("KILL", None)] {
            let mut waiter = guest.command(&guest.guest(""), &script).stdout(Stdio::piped()).spawn().unwrap();
            BufReader::new(waiter.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
            std::thread::sleep(Duration::from_millis(200));
            let started = Instant::now();
            guest.sh(&format!("kill -{signal} {}", waiter.id()));
            assert_eq!(waiter.wait().unwrap().code(), code, "{lock} {signal}");
            assert!(started.elapsed() < Duration::from_secs(5));
        }
        // Asked to release without a signal, as for a freeze: it asks again.
        let mut waiter = guest.command(&guest.guest(""), &script).stdout(Stdio::piped()).spawn().unwrap();
        BufReader::new(waiter.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(waiter.try_wait().unwrap().is_none());
        end(child);
        assert!(waiter.wait().unwrap().success(), "{lock}");
    }
    // The kernel tells of the last close of a file a little later.
    eventually(|| guest.mounted().held_locks().is_empty());
}

#[test]
fn testing_for_a_lock_names_what_is_in_the_way() {
    let guest = Guest::new();
    std::fs::write(guest.home("f"), [0; 1000]).unwrap();
    let child = holder(&guest, &guest.home(""), POSIX);
    let out = guest.sh(
        r#"python3 -c "
import fcntl, struct
f = open('f', 'r+b')
def test(start): return struct.unpack('hhqqi4x', fcntl.fcntl(f, fcntl.F_GETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, start, 5, 0)))[:4]
print(test(103), test(200)[0] == fcntl.F_UNLCK)""#,
    );
    assert_eq!(out, "(1, 0, 100, 10) True\n");
    end(child);
}
