use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn text(text: &str) -> Text {
    Text::new(text.as_bytes()).unwrap()
}

fn backing() -> BackingFile {
    BackingFile { path: Text::new(b"/usr/bin/cc").unwrap(), digest: Bytes::from_static(&[7; 32]) }
}

fn attr() -> Attr {
    let time = Time { secs: -2, nanos: 800_000_000 };
    Attr {
        ino: u64::MAX,
        size: 1,
        blocks: 2,
        atime: time,
        mtime: time,
        ctime: time,
        mode: 0o100_644,
        nlink: 3,
        uid: 4,
        gid: 5,
        rdev: 6,
        blksize: 4096,
        stable: true,
        leased: false,
        no_acl: true,
    }
}

/// One of each, so that a change of the encoding cannot miss a variant.
fn ops() -> Vec<Op> {
    let lock = Lock { start: 0, end: i64::MAX as u64, kind: libc::F_WRLCK };
    let changes = Changes {
        mode: Some(0o600),
        size: Some(7),
        atime: Some(SetTime::Now {}),
        mtime: Some(SetTime::At { time: Time { secs: 1, nanos: 2 } }),
        ..Changes::default()
    };
    vec![
        Op::Lookup { parent: 1, name: name("a") },
        Op::Forget { node: 1, count: 2 },
        Op::Getattr { node: 1 },
        Op::Setattr { node: 1, handle: Some(2), changes },
        Op::Readlink { node: 1 },
        Op::Mknod { parent: 1, name: name("b"), mode: 1, umask: 2, rdev: 3 },
        Op::Mkdir { parent: 1, name: name("c"), mode: 1, umask: 2 },
        Op::Unlink { parent: 1, name: name("d") },
        Op::Rmdir { parent: 1, name: name("e") },
        Op::Symlink { parent: 1, name: name("f"), target: text("../x") },
        Op::Rename { parent: 1, name: name("g"), new_parent: 2, new_name: name("h"), flags: 1 },
        Op::Link { node: 1, new_parent: 2, new_name: name("i") },
        Op::Open { node: 1, flags: libc::O_RDWR },
        Op::Read { handle: 1, offset: 2, size: 3 },
        Op::Write { handle: 1, offset: 2, cached: true, kill_suid: false, data: Bytes::from_static(b"data") },
        Op::Flush { node: 1, owner: 2 },
        Op::Release { handles: vec![1, 2] },
        Op::Fsync { handle: 1, data_only: true },
        Op::Opendir { node: 1 },
        Op::Readdir { handle: 1, offset: 2 },
        Op::Statfs { node: 1 },
        Op::Setxattr { node: 1, name: text("user.a"), flags: 0, value: Bytes::from_static(b"\0v") },
        Op::Getxattr { node: 1, name: text("user.a") },
        Op::Listxattr { node: 1 },
        Op::Removexattr { node: 1, name: text("user.a") },
        Op::Create { parent: 1, name: name("j"), mode: 1, umask: 2, flags: libc::O_CREAT },
        Op::Getlk { node: 1, owner: 2, lock },
        Op::Setlk { node: 1, handle: 2, owner: 3, lock, flock: true },
        Op::Fallocate { handle: 1, offset: 2, length: 3, mode: 4 },
        Op::Lseek { handle: 1, offset: -1, whence: libc::SEEK_HOLE },
        Op::CopyFileRange { from: 1, from_offset: 2, to: 3, to_offset: 4, length: 5 },
        Op::Walk { names: vec![name("usr"), name("bin")] },
    ]
}

fn replies() -> Vec<Reply> {
    let contents = Contents { attr: attr(), data: Bytes::from_static(b"int x;") };
    vec![
        Reply::Done {},
        Reply::Error { errno: libc::ENOENT },
        Reply::Entry { node: 1, attr: attr(), leased: true },
        Reply::Attr { attr: attr() },
        Reply::Data { data: Bytes::from(vec![7; MAX_DATA_BYTES]) },
        Reply::Opened { handle: 1, stable: true, backing: None, contents: Some(contents) },
        Reply::Opened { handle: 1, stable: false, backing: Some(backing()), contents: None },
        Reply::Missing { stable: true, leased: false },
        Reply::Created { node: 1, attr: attr(), handle: 2 },
        Reply::Written { bytes: 1 },
        Reply::Entries {
            entries: vec![DirEntry { ino: 1, next: 2, kind: libc::S_IFDIR, name: Bytes::from_static(b"..") }],
        },
        Reply::Statfs {
            stats: Stats { blocks: 1, bfree: 2, bavail: 3, files: 4, ffree: 5, bsize: 6, namelen: 7, frsize: 8 },
        },
        Reply::Lock { lock: Lock { start: 1, end: 2, kind: libc::F_UNLCK } },
        Reply::Offset { offset: 1 },
        Reply::Pulse {},
        Reply::Walked { steps: vec![Step { node: 1, attr: attr(), leased: false }] },
    ]
}

fn breaks() -> Vec<Break> {
    vec![Break::Name { dir: 1, name: name("a") }, Break::Node { node: 2 }, Break::Everything {}]
}

fn request(op: Op) -> Request {
    Request { id: 9, caller: Caller { uid: 1000, gid: 100 }, op }
}

#[test]
fn every_message_comes_back_as_it_went() {
    for op in ops() {
        let request = request(op);
        assert_eq!(Request::decode(request.encode()).unwrap(), request);
    }
    for reply in replies() {
        assert_eq!(Reply::decode(reply.encode(5, &[])).unwrap(), (5, Vec::new(), reply.clone()));
        assert_eq!(Reply::decode(reply.encode(5, &breaks())).unwrap(), (5, breaks(), reply));
    }
}

#[test]
fn every_shortened_frame_is_refused() {
    for op in ops() {
        let frame = request(op).encode();
        for len in 0..frame.len() {
            assert!(Request::decode(frame.slice(..len)).is_err());
        }
    }
}

#[test]
fn names_that_could_leave_the_directory_are_refused() {
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
        assert_eq!(Name::new(bad), None);
        let mut frame = BytesMut::new();
        Bytes::copy_from_slice(bad).put(&mut frame);
        assert!(matches!(Name::take(&mut frame.freeze()), Err(ProtocolError::Malformed { .. })));
    }
}

#[test]
fn trailing_bytes_are_refused() {
    let frame = request(Op::Getattr { node: 1 }).encode();
    let mut longer = BytesMut::from(&frame[..]);
    longer.extend_from_slice(&[0, 0]);
    assert!(matches!(Request::decode(longer.freeze()), Err(ProtocolError::Malformed { .. })));
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let frame = Bytes::from(bytes);
        if let Ok(request) = Request::decode(frame.clone()) {
            prop_assert_eq!(request.encode(), frame.clone());
        }
        if let Ok((id, breaks, reply)) = Reply::decode(frame.clone()) {
            prop_assert_eq!(reply.encode(id, &breaks), frame);
        }
    }

    #[test]
    fn a_damaged_frame_decodes_or_is_refused(which in 0..32usize, at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut frame = BytesMut::from(&request(ops()[which].clone()).encode()[..]);
        let at = at.index(frame.len());
        frame[at] = value;
        let frame = frame.freeze();
        if let Ok(request) = Request::decode(frame.clone()) {
            prop_assert_eq!(request.encode(), frame);
        }
    }
}
