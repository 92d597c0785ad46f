use std::os::unix::fs::MetadataExt;

use super::*;
use crate::protocol::files::{ACCESS_ACL, Caller, Changes, Name, ROOT};

/// A tree below a temporary directory, and the thread's identity for it.
struct Home {
    dir: tempfile::TempDir,
    tree: Tree,
    identity: Identity,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let leases = Leases::new(&root);
        let tree = Tree {
            inodes: Inodes::new(root.into(), StableFiles::after(dir.path(), Duration::MAX).into()).unwrap(),
            handles: Handles::default(),
            locks: Locks::default(),
            leases,
            at_work: AtomicUsize::new(0),
        };
        Self { dir, tree, identity: Identity::take().unwrap() }
    }

    fn perform(&mut self, uid: u32, op: Op) -> Result<Reply, Errno> {
        self.tree.perform(&mut self.identity, &Request { id: 1, caller: Caller { uid, gid: uid }, op })
    }

    fn lookup(&mut self, name: &str) -> u64 {
        match self.perform(0, Op::Lookup { parent: ROOT, name: named(name) }) {
            Ok(Reply::Entry { node, .. }) => node,
            other => panic!("{other:?}"),
        }
    }
}

fn named(name: &str) -> Name {
    Name::new(name.as_bytes()).unwrap()
}

fn create(name: &str, flags: i32) -> Op {
    Op::Create { parent: ROOT, name: named(name), mode: 0o666, umask: 0o022, flags }
}

#[test]
fn creating_what_exists_by_now_makes_the_kernel_look_again() {
    let mut home = Home::new();
    std::fs::write(home.dir.path().join("f"), "whose?").unwrap();
    assert_eq!(home.perform(0, create("f", libc::O_RDWR | libc::O_CREAT)), Err(Errno::STALE));
    assert_eq!(home.perform(0, create("f", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)), Err(Errno::EXIST));
    std::os::unix::fs::symlink("/etc/passwd", home.dir.path().join("l")).unwrap();
    assert_eq!(home.perform(0, create("l", libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)), Err(Errno::STALE));
}

#[test]
fn files_belong_to_the_caller() {
    let mut home = Home::new();
    for uid in [1000, 0, 2000] {
        let name = format!("of{uid}");
        assert!(matches!(home.perform(uid, create(&name, libc::O_WRONLY)), Ok(Reply::Created { .. })));
        let metadata = std::fs::metadata(home.dir.path().join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (uid, uid, 0o644));
    }
}

#[test]
fn only_root_makes_devices_and_home_s_stay_closed() {
    let mut home = Home::new();
    let device =
        |name: &str| Op::Mknod { parent: ROOT, name: named(name), mode: libc::S_IFCHR | 0o666, umask: 0, rdev: 0x105 };
    assert_eq!(home.perform(1000, device("zero")), Err(Errno::PERM));
    assert!(matches!(home.perform(0, device("zero")), Ok(Reply::Entry { .. })));
    let node = home.lookup("zero");
    assert_eq!(home.perform(0, Op::Open { node, flags: libc::O_RDONLY }), Err(Errno::NXIO));
    let changes = Changes { size: Some(0), ..Changes::default() };
    assert_eq!(home.perform(0, Op::Setattr { node, handle: None, changes }), Err(Errno::NXIO));
}

#[test]
fn numbers_that_mean_nothing_are_refused() {
    let mut home = Home::new();
    assert_eq!(home.perform(0, Op::Getattr { node: 12345 }), Err(Errno::STALE));
    assert_eq!(home.perform(0, Op::Read { handle: 9, offset: 0, size: 1 }), Err(Errno::BADF));
    assert_eq!(home.perform(0, Op::Release { handles: vec![9] }), Ok(Reply::Done {}));
    assert!(matches!(home.perform(0, create("f", libc::O_RDWR)), Ok(Reply::Created { handle: 1, .. })));
    assert_eq!(home.perform(0, Op::Read { handle: 1, offset: u64::MAX, size: u32::MAX }), Err(Errno::INVAL));
    assert_eq!(home.perform(0, Op::Lseek { handle: 1, offset: -1, whence: libc::SEEK_DATA }), Err(Errno::NXIO));
    let node = home.lookup("f");
    home.perform(0, Op::Forget { node, count: 2 }).unwrap();
    assert_eq!(home.perform(0, Op::Getattr { node }), Err(Errno::STALE));
}

#[test]
fn leased_attributes_tell_whether_there_is_an_acl() {
    let mut home = Home::new();
    let path = home.dir.path().join("f");
    std::fs::write(&path, "").unwrap();
    let mut look = || match home.perform(0, Op::Lookup { parent: ROOT, name: named("f") }) {
        Ok(Reply::Entry { attr, .. }) => (attr.leased, attr.no_acl),
        other => panic!("{other:?}"),
    };
    assert_eq!(look(), (true, true));
    // Version 2; its owner may read, user 1000 may, the group, the mask, others may not.
    let entries: [(u16, u16, u32); 5] =
        [(1, 4, u32::MAX), (2, 4, 1000), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    rustix::fs::setxattr(&path, ACCESS_ACL, &acl, rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(look(), (true, false));
}
