use proptest::prelude::*;

use super::super::super::wire::{Contents, Time};
use super::*;

fn attr(size: u64) -> Attr {
    let time = Time { secs: 0, nanos: 0 };
    let (atime, mtime, ctime) = (time, time, time);
    let (ino, blocks, mode, nlink, uid, gid, rdev, blksize) = (7, 1, 0, 1, 0, 0, 0, 1);
    let (settled, watched, no_acl) = (false, false, false);
    Attr { ino, size, blocks, atime, mtime, ctime, mode, nlink, uid, gid, rdev, blksize, settled, watched, no_acl }
}

pub(in super::super) fn watched(size: u64) -> Attr {
    Attr { watched: true, ..attr(size) }
}

fn contents(data: Bytes) -> Contents {
    Contents { attr: watched(data.len() as u64), data }
}

fn named(name: &str) -> Name {
    Name::new(name.as_bytes()).unwrap()
}

fn lookup() -> Op {
    Op::Lookup { parent: 1, name: named("name") }
}

fn mkdir() -> Op {
    Op::Mkdir { parent: 1, name: named("other"), mode: 0, umask: 0 }
}

fn heard(memory: &Memory, op: &Op, reply: Reply) {
    let question = memory.ask(op);
    memory.hear(question, Some(&reply));
}

fn knows(memory: &Memory, op: &Op) -> bool {
    memory.recall(op).is_some()
}

#[test]
fn while_the_body_runs_only_what_is_watched_is_kept() {
    let memory = Memory::default();
    heard(&memory, &lookup(), Reply::Entry { node: 7, attr: watched(1), watched: false });
    assert!(!knows(&memory, &lookup()));
    assert!(knows(&memory, &Op::Getattr { node: 7 }));
    memory.overtaken();
    heard(&memory, &lookup(), Reply::Entry { node: 7, attr: attr(1), watched: true });
    assert!(!knows(&memory, &lookup()) && !knows(&memory, &Op::Getattr { node: 7 }));
    let entry = Reply::Entry { node: 7, attr: watched(1), watched: true };
    heard(&memory, &lookup(), entry.clone());
    assert_eq!(memory.recall(&lookup()), Some(entry));
    assert!(!knows(&memory, &Op::Lookup { parent: 2, name: named("name") }));
}

#[test]
fn everything_is_kept_while_nothing_runs() {
    let memory = Memory::default();
    memory.begin();
    let entry = Reply::Entry { node: 7, attr: attr(1), watched: false };
    heard(&memory, &lookup(), entry.clone());
    assert_eq!(memory.recall(&lookup()), Some(entry));
    assert_eq!(memory.recall(&Op::Getattr { node: 7 }), Some(Reply::Attr { attr: attr(1) }));
    let late = memory.ask(&Op::Getattr { node: 9 });
    memory.end();
    memory.hear(late, Some(&Reply::Attr { attr: watched(2) }));
    for op in [lookup(), Op::Getattr { node: 7 }, Op::Getattr { node: 9 }, Op::Flush { node: 7, owner: 1 }] {
        assert!(!knows(&memory, &op), "{op:?}");
    }
}

#[test]
fn a_name_that_is_missing_is_remembered_and_other_errors_are_not() {
    let memory = Memory::default();
    memory.begin();
    heard(&memory, &lookup(), Reply::Error { errno: libc::EIO });
    assert!(!knows(&memory, &lookup()));
    heard(&memory, &lookup(), Reply::Error { errno: libc::ENOENT });
    assert_eq!(memory.recall(&lookup()), Some(Reply::Missing { settled: false, watched: false }));
    memory.end();
    let missing = Reply::Missing { settled: true, watched: true };
    heard(&memory, &lookup(), missing.clone());
    assert_eq!(memory.recall(&lookup()), Some(missing));
}

#[test]
fn a_change_while_nothing_runs_makes_everything_forgotten_also_what_was_asked_meanwhile() {
    let memory = Memory::default();
    memory.begin();
    heard(&memory, &lookup(), Reply::Error { errno: libc::ENOENT });
    let before = memory.ask(&Op::Getattr { node: 3 });
    let change = memory.ask(&mkdir());
    assert!(!knows(&memory, &lookup()));
    memory.hear(before, Some(&Reply::Attr { attr: attr(1) }));
    assert!(!knows(&memory, &Op::Getattr { node: 3 }));
    let (meanwhile, late) = (memory.ask(&lookup()), memory.ask(&Op::Getattr { node: 3 }));
    memory.hear(meanwhile, Some(&Reply::Error { errno: libc::ENOENT }));
    memory.hear(change, Some(&Reply::Done {}));
    memory.hear(late, Some(&Reply::Attr { attr: attr(1) }));
    assert!(!knows(&memory, &lookup()));
    assert!(!knows(&memory, &Op::Getattr { node: 3 }));
}

#[test]
fn what_home_takes_back_is_forgotten_also_if_it_is_on_its_way() {
    let memory = Memory::default();
    let entry = Reply::Entry { node: 7, attr: watched(1), watched: true };
    let name = Break::Name { dir: 1, name: named("name") };
    for broken in [name, Break::Node { node: 7 }, Break::Everything {}] {
        heard(&memory, &lookup(), entry.clone());
        let under_way = memory.ask(&lookup());
        memory.break_up(std::slice::from_ref(&broken));
        assert!(!knows(&memory, &lookup()), "{broken:?}");
        memory.hear(under_way, Some(&entry));
        assert!(!knows(&memory, &lookup()), "{broken:?}");
    }
    heard(&memory, &lookup(), entry);
    memory.break_up(&[Break::Name { dir: 1, name: named("another") }, Break::Node { node: 8 }]);
    assert!(knows(&memory, &lookup()));
    memory.overtaken();
    assert!(!knows(&memory, &lookup()));
}

#[test]
fn contents_are_given_until_the_file_changes_or_is_closed() {
    let memory = Memory::default();
    let open = Op::Open { node: 7, flags: libc::O_RDONLY };
    let text = Bytes::from_static(b"contents");
    let opened = Reply::Opened { handle: 1, settled: false, twin: None, contents: Some(contents(text.clone())) };
    let end: [fn(&Memory); 3] =
        [|memory| memory.closed(7), |memory| memory.break_up(&[Break::Node { node: 7 }]), |memory| memory.overtaken()];
    for end in end {
        heard(&memory, &open, opened.clone());
        assert_eq!(memory.contents(7, 0, 4096), Some(text.clone()));
        assert_eq!(memory.contents(7, 4, 2), Some(text.slice(4..6)));
        assert_eq!(memory.contents(7, 100, 2), Some(Bytes::new()));
        assert_eq!(memory.contents(8, 0, 2), None);
        end(&memory);
        assert_eq!(memory.contents(7, 0, 4096), None);
    }
}

#[test]
fn reading_changes_the_time_of_access() {
    let memory = Memory::default();
    heard(&memory, &lookup(), Reply::Entry { node: 7, attr: watched(1), watched: true });
    memory.was_read(7);
    assert!(!knows(&memory, &lookup()) && !knows(&memory, &Op::Getattr { node: 7 }));
    let opened = Reply::Opened { handle: 1, settled: false, twin: None, contents: Some(contents(Bytes::new())) };
    heard(&memory, &Op::Open { node: 7, flags: libc::O_RDONLY }, opened);
    assert!(knows(&memory, &lookup()));
}

#[test]
fn contents_and_names_are_bounded() {
    let memory = Memory::default();
    let large = Bytes::from(vec![0; CONTENTS_MAX_BYTES / 4]);
    for node in 0..20 {
        let opened =
            Reply::Opened { handle: node, settled: false, twin: None, contents: Some(contents(large.clone())) };
        heard(&memory, &Op::Open { node, flags: libc::O_RDONLY }, opened);
        assert!(memory.lock().contents_bytes <= CONTENTS_MAX_BYTES);
        assert!(memory.contents(node, 0, 1).is_some());
    }
    for number in 0..=MAX_WATCHED_NAMES {
        let op = Op::Lookup { parent: 1, name: named(&number.to_string()) };
        heard(&memory, &op, Reply::Missing { settled: false, watched: true });
    }
    assert_eq!(memory.lock().names, 1);
}

#[test]
fn home_is_asked_to_forget_only_what_it_gave() {
    let memory = Memory::default();
    let entry = Reply::Entry { node: 7, attr: watched(1), watched: true };
    heard(&memory, &lookup(), entry.clone());
    for _ in 0..3 {
        assert!(knows(&memory, &lookup()));
    }
    assert_eq!(memory.forget(7, 2), 0);
    assert!(knows(&memory, &lookup()));
    memory.overtaken();
    assert_eq!(memory.forget(7, 3), 1);
    assert_eq!(memory.forget(7, 5), 5);
    heard(&memory, &lookup(), entry);
    let inside = Op::Lookup { parent: 7, name: named("inside") };
    heard(&memory, &inside, Reply::Missing { settled: false, watched: true });
    assert!(knows(&memory, &inside));
    assert_eq!(memory.forget(7, 1), 1);
    assert!(!knows(&memory, &lookup()) && !knows(&memory, &inside));
}

/// One step of a home with one directory, in which one name comes, changes and goes.
#[derive(Debug, Clone, Copy)]
enum Step {
    Ask,
    Change,
    Answer,
    Tell,
}

proptest! {
    /// Whatever the order of questions, changes, answers and breaks, once all breaks are heard the memory holds nothing old.
    #[test]
    fn nothing_old_is_believed_once_home_has_told(steps in proptest::collection::vec(
        prop_oneof![Just(Step::Ask), Just(Step::Change), Just(Step::Answer), Just(Step::Tell)], 1..60)) {
        let memory = Memory::default();
        let (mut size, mut watching, mut untold, mut asked) = (0, false, false, Vec::new());
        let entry = |size| Reply::Entry { node: 7, attr: watched(size), watched: true };
        for step in steps {
            match step {
                // Home answers at once, but its answer takes a while.
                Step::Ask => {
                    watching = true;
                    asked.push((memory.ask(&lookup()), size));
                }
                Step::Change => {
                    size += 1;
                    untold |= std::mem::take(&mut watching);
                }
                // Before any reply the breaks.
                Step::Answer | Step::Tell => {
                    if std::mem::take(&mut untold) {
                        memory.break_up(&[Break::Node { node: 7 }]);
                    }
                    if matches!(step, Step::Answer) && !asked.is_empty() {
                        let (question, told) = asked.remove(0);
                        memory.hear(question, Some(&entry(told)));
                    }
                    if let Some(known) = memory.recall(&lookup()) {
                        prop_assert_eq!(known, entry(size));
                    }
                }
            }
        }
    }
}

#[test]
fn a_file_without_an_access_control_list_is_not_asked_for_it() {
    let memory = Memory::default();
    let ask = |name: &str| Op::Getxattr { node: 7, name: Text::new(name.as_bytes()).unwrap() };
    heard(&memory, &Op::Getattr { node: 7 }, Reply::Attr { attr: watched(1) });
    assert!(!knows(&memory, &ask(ACCESS_ACL)));
    heard(&memory, &Op::Getattr { node: 7 }, Reply::Attr { attr: Attr { no_acl: true, ..watched(1) } });
    assert_eq!(memory.recall(&ask(ACCESS_ACL)), Some(Reply::Error { errno: libc::ENODATA }));
    assert!(!knows(&memory, &ask("security.capability")));
    memory.break_up(&[Break::Node { node: 7 }]);
    assert!(!knows(&memory, &ask(ACCESS_ACL)));
}
