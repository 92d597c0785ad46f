//! What the single system calls promise.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::fixture::Guest;

#[test]
fn unlinked_and_renamed_files_stay_usable() {
    let guest = Guest::new();
    let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(guest.guest("f")).unwrap();
    file.write_all(b"before ").unwrap();
    fs::rename(guest.guest("f"), guest.guest("g")).unwrap();
    file.write_all(b"renamed ").unwrap();
    fs::remove_file(guest.guest("g")).unwrap();
    file.write_all(b"gone").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert!(!guest.home("g").exists());
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before renamed gone");
    file.set_len(3).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3);
    // A new file of that name is another one.
    fs::write(guest.guest("g"), "new").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3);
}

#[test]
fn appending_through_two_handles_loses_nothing() {
    let guest = Guest::new();
    let open = |path| OpenOptions::new().create(true).append(true).open(path).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let mut file = open(if writer == 3 { guest.home("log") } else { guest.guest("log") });
            scope.spawn(move || {
                for line in 0..300 {
                    file.write_all(format!("writer {writer} line {line:03}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    for path in [guest.home("log"), guest.guest("log")] {
        let text = fs::read_to_string(path).unwrap();
        let lines: BTreeSet<&str> = text.lines().collect();
        assert_eq!((text.lines().count(), lines.len()), (1200, 1200));
        assert!(lines.iter().all(|line| line.len() == "writer 0 line 000".len()), "{text}");
    }
}

#[test]
fn write_back_through_an_appending_handle_keeps_offsets() {
    let guest = Guest::new();
    guest.sh(r#"
        head -c 8192 /dev/zero > f
        python3 - <<'END'
import mmap, os
a = os.open('f', os.O_RDWR | os.O_APPEND)
m = mmap.mmap(a, 8192)
m[100:104] = b'here'
m.flush()
os.write(a, b'end')
assert os.path.getsize('f') == 8195
END
        "#);
    let data = fs::read(guest.home("f")).unwrap();
    assert_eq!((&data[100..104], &data[8192..], data.len()), (&b"here"[..], &b"end"[..], 8195));
}

#[test]
fn opening_creates_truncates_and_excludes() {
    let guest = Guest::new();
    fs::write(guest.home("f"), "content").unwrap();
    let error = OpenOptions::new().write(true).create_new(true).open(guest.guest("f")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let file = OpenOptions::new().write(true).truncate(true).create(true).open(guest.guest("f")).unwrap();
    assert_eq!(fs::metadata(guest.home("f")).unwrap().len(), 0);
    file.write_at(b"x", 10_000).unwrap();
    assert_eq!(fs::read(guest.guest("f")).unwrap().len(), 10_001);
    // Readable by no user, yet its maker has it open for writing.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o000).open(guest.guest("secret")).unwrap();
    file.write_all(b"s").unwrap();
    assert_eq!(fs::metadata(guest.home("secret")).unwrap().mode() & 0o7777, 0);
    assert_eq!(File::open(guest.guest("none")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::read_dir(guest.guest("f")).unwrap_err().kind(), ErrorKind::NotADirectory);
    let long = guest.guest(&"n".repeat(256));
    assert_eq!(File::create(long).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    File::create(guest.guest(&"n".repeat(255))).unwrap();
}

#[test]
fn names_change_as_at_home() {
    let guest = Guest::new();
    guest.sh(r#"
        echo a > a; echo b > b; mkdir -p d/e
        mv --no-clobber a b || true; [ "$(cat b)" = b ]
        mv --exchange a b 2>/dev/null || python3 -c "
import ctypes; c = ctypes.CDLL(None, use_errno=True)
assert c.renameat2(-100, b'a', -100, b'b', 2) == 0"
        [ "$(cat a "$HOME_TREE/b")" = "b
a" ]
        python3 -c "
import ctypes; c = ctypes.CDLL(None, use_errno=True)
assert c.renameat2(-100, b'a', -100, b'b', 1) == -1 and ctypes.get_errno() == 17"
        ln a hard; [ "$(stat -c '%h %i' a)" = "$(stat -c '%h %i' hard)" ]; [ "$(stat -c %h a)" = 2 ]
        ! rmdir d 2>/dev/null; ! mv d d/e/f 2>/dev/null
        ln -s nowhere dangling; [ "$(readlink dangling)" = nowhere ]; ! cat dangling 2>/dev/null
        echo through > target; ln -s target l; [ "$(cat l)" = through ]; rm l; [ -e target ]
        cd d/e; rmdir ../e; ! ls ../e 2>/dev/null
        "#);
}

#[test]
fn permissions_are_the_callers() {
    let guest = Guest::new();
    guest.sh(r#"
        echo secret > private; chmod 600 private
        echo group > shared; chgrp 50 shared; chmod 060 shared
        mkdir sticky; chmod 1777 sticky; echo root > sticky/file; chmod 666 sticky/file
        mkdir setgid; chgrp 50 setgid; chmod 2777 setgid
        cp /usr/bin/id suid; chown 7:7 suid; chmod 4755 suid
        "#);
    let mut command = guest.command(
        &guest.guest(""),
        r#"
        ! cat private 2>/dev/null; ! echo x > private 2>/dev/null; ! chmod 666 private 2>/dev/null
        ! rm -f sticky/file 2>/dev/null; echo user > sticky/file
        umask 027; echo mine > mine; mkdir dir; echo g > setgid/file; mkdir setgid/dir
        stat -c '%a %u %g' mine dir setgid/file setgid/dir
        chmod 4755 mine; echo more >> mine; stat -c %a mine
        ! chown 0 mine 2>/dev/null
        ./suid -u
        "#,
    );
    let output = command.uid(1000).gid(1000).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let expected = "640 1000 1000\n750 1000 1000\n640 1000 50\n2750 1000 50\n755\n7\n";
    assert_eq!(
        (text.as_ref(), output.status.success()),
        (expected, true),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Supplementary groups count, though home is never told of them.
    guest.sh("setpriv --reuid 1000 --regid 1000 --groups 50 sh -euc 'cat shared; echo more >> shared'");
    guest.sh("! setpriv --reuid 1000 --regid 1000 --clear-groups cat shared 2>/dev/null");
    assert_eq!(fs::read_to_string(guest.home("shared")).unwrap(), "group\nmore\n");
}

#[test]
fn attributes_of_all_sorts_are_kept() {
    let guest = Guest::new();
    guest.sh(r#"
        echo x > f; ln -s f l; mknod zero c 1 5; mkfifo p
        [ "$(head -c 3 zero | od -An -tx1)" = " 00 00 00" ]
        (echo through > p &); [ "$(cat p)" = through ]
        python3 - <<'END'
import os
home = os.environ['HOME_TREE'] + '/'
os.setxattr('f', 'user.a', b'\0value'); os.setxattr('f', 'user.b', b'x' * 3000)
os.setxattr('l', 'trusted.t', b'link', follow_symlinks=False)
assert os.getxattr(home + 'f', 'user.a') == b'\0value' and sorted(os.listxattr('f')) == ['user.a', 'user.b']
assert os.getxattr(home + 'l', 'trusted.t', follow_symlinks=False) == b'link'
os.removexattr('f', 'user.a')
try: os.getxattr('f', 'user.a'); raise SystemExit('still there')
except OSError as e: assert e.errno == 61, e
for times in [(1, 2), (-5_500_000_000, -1_250_000_000), (0, 4_000_000_000_123_456_789)]:
    os.utime('f', ns=times)
    for path in ['f', home + 'f']:
        s = os.stat(path); assert (s.st_atime_ns, s.st_mtime_ns) == times, (path, s.st_atime_ns, s.st_mtime_ns)
os.utime('l', ns=(7, 8), follow_symlinks=False); assert os.lstat(home + 'l').st_mtime_ns == 8
a, b = os.statvfs('.'), os.statvfs(home)
assert (a.f_blocks, a.f_bsize, a.f_namemax) == (b.f_blocks, b.f_bsize, b.f_namemax)
END
        "#);
    assert_eq!(fs::metadata(guest.guest("f")).unwrap().blksize(), 64 << 10, "the C library's buffers are as large");
    let (seen, there) =
        (fs::symlink_metadata(guest.guest("zero")).unwrap(), fs::symlink_metadata(guest.home("zero")).unwrap());
    assert_eq!((seen.rdev(), seen.mode(), seen.ino()), (there.rdev(), there.mode(), there.ino()));
}

#[test]
fn holes_reservations_and_copies_are_home_s() {
    let guest = Guest::new();
    guest.sh(r#"
        truncate -s 10M sparse; printf data | dd of=sparse bs=1 seek=5242880 conv=notrunc status=none
        [ "$(stat -c %b sparse)" -lt 100 ]
        fallocate -l 1M full; [ "$(stat -c '%s %b' full)" = "1048576 2048" ]
        fallocate -p -o 0 -l 524288 full; [ "$(stat -c %b full)" = 1024 ]
        python3 - <<'END'
import os
f = os.open('sparse', os.O_RDONLY)
data = os.lseek(f, 0, os.SEEK_DATA); assert 5_000_000 < data <= 5242880, data
assert os.lseek(f, data, os.SEEK_HOLE) > data and os.lseek(f, 0, os.SEEK_HOLE) == 0
try: os.lseek(f, 9_000_000, os.SEEK_DATA); raise SystemExit('no ENXIO')
except OSError as e: assert e.errno == 6
t = os.open('copy', os.O_RDWR | os.O_CREAT)
assert os.copy_file_range(f, t, 100, 5242870, 3) == 100
assert os.pread(t, 200, 0) == bytes(13) + b'data' + bytes(86)
END
        "#);
}

#[test]
fn large_directories_are_listed_while_they_change() {
    let guest = Guest::new();
    fs::create_dir(guest.guest("big")).unwrap();
    for number in 0..5000 {
        File::create(guest.home(&format!("big/file-with-a-long-name-{number}"))).unwrap();
    }
    let names = |path| -> BTreeSet<_> { fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
    assert_eq!(names(guest.guest("big")), names(guest.home("big")));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..1000 {
                fs::remove_file(guest.home(&format!("big/file-with-a-long-name-{number}"))).unwrap();
                File::create(guest.home(&format!("big/new-{number}"))).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let listed: Vec<_> =
                fs::read_dir(guest.guest("big")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            let different: BTreeSet<_> = listed.iter().collect();
            assert_eq!(different.len(), listed.len(), "a name came twice");
            // Those that no thread touches must always be there.
            let untouched = (1000..5000).filter(|number| {
                different.contains(&std::ffi::OsString::from(format!("file-with-a-long-name-{number}")))
            });
            assert_eq!(untouched.count(), 4000);
        }
    });
    assert_eq!(names(guest.guest("big")), names(guest.home("big")));
    fs::remove_dir_all(guest.guest("big")).unwrap();
    assert!(!guest.home("big").exists());
}

#[test]
fn many_threads_work_at_once() {
    let guest = Guest::new();
    std::thread::scope(|scope| {
        for worker in 0..12u8 {
            let guest = &guest;
            scope.spawn(move || {
                for round in 0..20u8 {
                    let (a, b) = (guest.guest(&format!("w{worker}")), guest.guest(&format!("w{worker}-{round}")));
                    let content = vec![worker ^ round; 300_000];
                    fs::write(&a, &content).unwrap();
                    fs::rename(&a, &b).unwrap();
                    assert_eq!(fs::read(&b).unwrap(), content);
                    fs::set_permissions(&b, fs::Permissions::from_mode(0o640)).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_dir(guest.home("")).unwrap().count(), 240);
}
