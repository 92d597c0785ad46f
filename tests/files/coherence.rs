//! What one side changes the other side sees.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use super::fixture::{Guest, PATIENCE, eventually};

#[test]
fn an_open_file_follows_home() {
    let guest = Guest::new();
    fs::write(guest.home("f"), "first").unwrap();
    let mut open = File::open(guest.guest("f")).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    // Appended, and the program is told of it in some way.
    OpenOptions::new().append(true).open(guest.home("f")).unwrap().write_at(b" second", 5).unwrap();
    guest.channel.news();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "first second");
    // Changed in place, and no lease tells. The pauses outlast a tick of the clock that stamps
    // files, and the time for which a guest that hears nothing keeps what it heard last.
    std::thread::sleep(Duration::from_millis(20));
    OpenOptions::new().write(true).open(guest.home("f")).unwrap().write_at(b"FIRST", 0).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    let mut head = [0; 5];
    open.read_exact_at(&mut head, 0).unwrap();
    assert_eq!(&head, b"FIRST");
    // Shortened.
    OpenOptions::new().write(true).open(guest.home("f")).unwrap().set_len(2).unwrap();
    guest.channel.news();
    assert_eq!(open.metadata().unwrap().len(), 2);
    assert_eq!(open.read_at(&mut head, 0).unwrap(), 2);
}

#[test]
fn names_and_attributes_follow_home() {
    let guest = Guest::new();
    // Home does something, and a program of the guest hears of it in some way.
    let at_home = |what: &dyn Fn()| {
        what();
        guest.channel.news();
    };
    assert!(!guest.guest("f").exists());
    at_home(&|| fs::write(guest.home("f"), "one").unwrap());
    assert_eq!(fs::read_to_string(guest.guest("f")).unwrap(), "one");
    // Replaced by another file, as editors do.
    at_home(&|| {
        fs::write(guest.home("g"), "two").unwrap();
        fs::rename(guest.home("g"), guest.home("f")).unwrap();
    });
    assert_eq!(fs::read_to_string(guest.guest("f")).unwrap(), "two");
    assert_eq!(fs::metadata(guest.guest("f")).unwrap().ino(), fs::metadata(guest.home("f")).unwrap().ino());
    at_home(&|| {
        fs::remove_file(guest.home("f")).unwrap();
        fs::create_dir(guest.home("f")).unwrap();
    });
    assert!(fs::metadata(guest.guest("f")).unwrap().is_dir());
    at_home(&|| fs::write(guest.home("f/inside"), "x").unwrap());
    assert_eq!(fs::read_dir(guest.guest("f")).unwrap().count(), 1);
}

/// What a program sees of a file, and of a name that may be none.
fn seen(path: &std::path::Path) -> Option<(u64, u32, u64, u64, i64, i64, String)> {
    let stat = fs::metadata(path).ok()?;
    let text = if stat.is_dir() { String::new() } else { fs::read_to_string(path).unwrap_or_default() };
    Some((stat.ino(), stat.mode(), stat.nlink(), stat.len(), stat.mtime(), stat.mtime_nsec(), text))
}

/// Ways in which a file "f" in a directory, both known to the guest, may change at home.
const CHANGES: [&str; 13] = [
    "echo longer than before > dir/f",
    "truncate --size 1 dir/f",
    "chmod 640 dir/f",
    "touch --date 2001-01-01 dir/f",
    "ln dir/f other; echo through another name > other",
    "echo new > new; mv new dir/f",
    "mv dir/f dir/g",
    "rm dir/f",
    "rm dir/f; mkdir dir/f; touch dir/f/inside",
    "mkdir another; echo another > another/f; mv dir old; mv another dir",
    "rm -r dir",
    "echo appears > dir/none",
    "mkdir dir/none",
];

fn with_a_file() -> Guest {
    let guest = Guest::new();
    fs::create_dir(guest.home("dir")).unwrap();
    fs::write(guest.home("dir/f"), "as it was").unwrap();
    guest
}

fn agree(guest: &Guest) -> bool {
    ["dir", "dir/f", "dir/g", "dir/none", "dir/f/inside"]
        .iter()
        .all(|name| seen(&guest.guest(name)) == seen(&guest.home(name)))
}

#[test]
fn what_home_leases_is_asked_once() {
    let guest = with_a_file();
    // By then home has told of the guest's own mount: it takes some 40 ms, and longer where the
    // tests have to share a processor.
    std::thread::sleep(Duration::from_secs(1));
    let file = File::open(guest.guest("dir/f")).unwrap();
    assert_eq!(seen(&guest.guest("dir/none")), None);
    let known = fs::metadata(guest.guest("dir/f")).unwrap();
    guest.stalled.send_replace(true);
    assert_eq!(fs::metadata(guest.guest("dir/f")).unwrap().ino(), known.ino());
    assert!(fs::metadata(guest.guest("dir")).unwrap().is_dir());
    assert!(!guest.guest("dir/none").exists());
    let mut text = String::new();
    (&file).read_to_string(&mut text).unwrap();
    assert_eq!(text, "as it was");
    guest.stalled.send_replace(false);
}

/// For each of the changes a guest that knows how things were before.
fn for_each_change(check: impl Fn(&Guest, &str)) {
    for change in CHANGES {
        let guest = with_a_file();
        assert!(agree(&guest) && agree(&guest));
        check(&guest, change);
    }
}

#[test]
fn any_message_from_home_follows_earlier_file_changes() {
    for_each_change(|guest, change| {
        assert!(guest.try_sh(&guest.home(""), change).status.success());
        // Any question that only home answers.
        fs::create_dir(guest.guest("question")).unwrap();
        assert!(agree(guest), "{change}");
    });
}

#[test]
fn a_guest_that_hears_nothing_sees_changes_soon() {
    for_each_change(|guest, change| {
        assert!(guest.try_sh(&guest.home(""), change).status.success());
        eventually(|| agree(guest));
    });
}

#[test]
fn a_guest_sees_its_own_changes_at_once() {
    for_each_change(|guest, change| {
        guest.sh(change);
        assert!(agree(guest), "{change}");
    });
}

#[test]
fn what_is_mounted_at_home_is_seen() {
    let guest = with_a_file();
    assert!(agree(&guest));
    let reads = |text: &str| eventually(|| fs::read_to_string(guest.guest("dir/f")).is_ok_and(|read| read == text));
    let mount = |command: &str| {
        assert!(guest.try_sh(&guest.home(""), command).status.success());
    };
    mount("mount -t tmpfs none dir; echo mounted > dir/f");
    reads("mounted\n");
    // A guest that knows a directory keeps it from being unmounted, but not from disappearing.
    mount("umount --lazy dir");
    reads("as it was");
}

#[test]
fn more_changes_than_fit_one_message_are_seen() {
    let guest = Guest::new();
    let names: Vec<String> = (0..300).map(|number| format!("{number}")).collect();
    let look = || names.iter().filter(|name| guest.guest(name).exists()).count();
    assert_eq!(look(), 0);
    for name in &names {
        fs::write(guest.home(name), "x").unwrap();
    }
    fs::create_dir(guest.guest("question")).unwrap();
    assert_eq!(look(), names.len());
    assert!(guest.try_sh(&guest.home(""), "rm ?? ???").status.success());
    fs::remove_dir(guest.guest("question")).unwrap();
    assert_eq!(look(), 10);
}

#[test]
fn home_has_what_was_written_when_write_returns() {
    let guest = Guest::new();
    let file = File::create(guest.guest("f")).unwrap();
    for round in 0..50u8 {
        file.write_at(&[round; 5000], u64::from(round) * 5000).unwrap();
        let mut back = vec![0; 5000];
        File::open(guest.home("f")).unwrap().read_exact_at(&mut back, u64::from(round) * 5000).unwrap();
        assert_eq!(back, [round; 5000]);
    }
}

#[test]
fn sync_brings_mapped_pages_home_and_closes_what_is_closed() {
    let guest = Guest::new();
    let mut python = guest.command(
        &guest.guest(""),
        r#"exec python3 -c "
import mmap, time
f = open('f', 'w+b'); f.truncate(8192); m = mmap.mmap(f.fileno(), 0); m[4000:4100] = b'm' * 100
open('ready', 'w').close(); time.sleep(1000)""#,
    );
    let mut python = python.spawn().unwrap();
    eventually(|| guest.home("ready").exists());
    assert_eq!(fs::read(guest.home("f")).unwrap()[4000..4100], [0; 100]);
    guest.mounted().sync(PATIENCE).unwrap();
    assert_eq!(fs::read(guest.home("f")).unwrap()[4000..4100], [b'm'; 100]);
    python.kill().unwrap();
    python.wait().unwrap();

    // A program that a guest wrote can be run at home as soon as `sync` is through: no process has
    // it open for writing.
    for _ in 0..20 {
        guest.sh("cp /bin/true program");
        guest.mounted().sync(PATIENCE).unwrap();
        assert!(guest.try_sh(&guest.home(""), "./program").status.success());
    }
}

#[test]
fn what_was_cached_while_nothing_ran_is_asked_again() {
    let guest = Guest::new();
    fs::create_dir(guest.home("dir")).unwrap();
    fs::write(guest.home("dir/file"), "old").unwrap();
    std::os::unix::fs::symlink("dir/file", guest.home("link")).unwrap();
    guest.mounted().stands_still();
    let see = |path: &str| fs::read_to_string(guest.guest(path));
    assert_eq!(see("link").unwrap(), "old");
    assert!(see("dir/none").is_err());
    // Home's own changes are not seen for as long as there is no program to see them.
    fs::write(guest.home("dir/file"), "longer than it was").unwrap();
    fs::write(guest.home("dir/none"), "new").unwrap();
    fs::remove_file(guest.home("link")).unwrap();
    std::os::unix::fs::symlink("dir/none", guest.home("link")).unwrap();
    assert_eq!(fs::metadata(guest.guest("dir/file")).unwrap().len(), 3);
    assert!(see("dir/none").is_err());
    // What the guest changes itself is seen at once, and others' changes with it.
    fs::write(guest.guest("dir/own"), "own").unwrap();
    assert_eq!(see("dir/own").unwrap(), "own");
    assert_eq!(see("dir/none").unwrap(), "new");
    fs::rename(guest.home("dir/own"), guest.home("dir/other")).unwrap();
    fs::write(guest.home("dir/none"), "newer").unwrap();
    guest.mounted().runs();
    assert_eq!(see("dir/file").unwrap(), "longer than it was");
    assert_eq!(see("link").unwrap(), "newer");
    assert_eq!(see("dir/other").unwrap(), "own");
    assert!(see("dir/own").is_err());
    fs::write(guest.home("dir/own"), "again").unwrap();
    guest.channel.news();
    assert_eq!(see("dir/own").unwrap(), "again");
}

#[test]
fn files_seen_while_nothing_ran_live_as_long_as_in_the_kernel() {
    let guest = Guest::new();
    fs::write(guest.home("file"), "contents").unwrap();
    guest.mounted().stands_still();
    for _ in 0..20 {
        assert_eq!(fs::metadata(guest.guest("file")).unwrap().len(), 8);
    }
    let open = File::open(guest.guest("file")).unwrap();
    guest.mounted().runs();
    for _ in 0..2 {
        // The kernel forgets whatever it can.
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        assert_eq!(open.metadata().unwrap().len(), 8);
        assert_eq!(fs::read_to_string(guest.guest("file")).unwrap(), "contents");
    }
}

#[test]
fn attributes_of_stable_files_expire() {
    let guest = Guest::with_ttl();
    fs::create_dir(guest.home("system")).unwrap();
    fs::create_dir(guest.home("own")).unwrap();
    std::os::unix::fs::chown(guest.home("own"), Some(USER), Some(USER)).unwrap();
    let see = |name: &str| as_user(&guest.guest(name));
    let caches = |dir: &str, round: u32| {
        let (file, made) = (format!("{dir}/file"), format!("{dir}/made{round}"));
        let old = format!("old {round}");
        fs::write(guest.home(&file), &old).unwrap();
        if dir == "own" {
            std::os::unix::fs::chown(guest.home(&file), Some(USER), Some(USER)).unwrap();
        }
        eventually(|| see(&file).as_ref() == Some(&old));
        assert_eq!(see(&made), None);
        fs::write(guest.home(&file), format!("new {round}")).unwrap();
        fs::write(guest.home(&made), "made").unwrap();
        (see(&file), see(&made)) != (Some(format!("new {round}")), Some("made".into()))
    };
    // A machine that is busy may let the time pass.
    assert!((0..5).any(|round| caches("system", round)), "root's files are asked for each time");
    assert!((0..5).all(|round| !caches("own", round)), "a user's files are cached");
    let last = |text: &Option<String>| text.as_ref().is_some_and(|text| text.starts_with("new"));
    eventually(|| last(&see("system/file")));
    eventually(|| see("system/made0").is_some());
}

/// Who is not root here.
const USER: u32 = 1000;

fn as_user(path: &std::path::Path) -> Option<String> {
    use std::os::unix::process::CommandExt;
    let output = std::process::Command::new("cat").arg(path).uid(USER).gid(USER).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn what_the_hosting_node_has_too_is_read_there() {
    const BYTES: usize = 300_000;
    // Home is this machine, so it has the same at the same path.
    let read_without_home = |guest: &Guest| {
        fs::write(guest.home("program"), vec![7; BYTES]).unwrap();
        let file = File::open(guest.guest("program")).unwrap();
        // Unlike a `read`, a page fault does not ask for attributes first.
        let (none, flags) = (std::ptr::null_mut(), rustix::mm::MapFlags::PRIVATE);
        // SAFETY: a new mapping, which is not shared, of a file that stays as long as it is.
        let map = unsafe { rustix::mm::mmap(none, BYTES, rustix::mm::ProtFlags::READ, flags, &file, 0) }.unwrap();
        // SAFETY: as above; it is never unmapped.
        let bytes: &'static [u8] = unsafe { std::slice::from_raw_parts(map.cast(), BYTES) };
        guest.stalled.send_replace(true);
        let (sender, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(bytes.iter().all(|byte| *byte == 7)));
        seen
    };
    let guest = Guest::with_ttl();
    assert_eq!(read_without_home(&guest).recv_timeout(PATIENCE), Ok(true));
    guest.stalled.send_replace(false);
    // What may change is read at home.
    let guest = Guest::new();
    let seen = read_without_home(&guest);
    assert!(seen.recv_timeout(Duration::from_secs(1)).is_err());
    guest.stalled.send_replace(false);
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(true));
}
