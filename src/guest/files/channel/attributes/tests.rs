use proptest::prelude::*;

use super::*;
use crate::protocol::files::{Contents, Time};

fn attr(size: u64) -> Attr {
    let time = Time { secs: 0, nanos: 0 };
    let (atime, mtime, ctime) = (time, time, time);
    let (ino, blocks, mode, nlink, uid, gid, rdev, blksize) = (7, 1, 0, 1, 0, 0, 0, 1);
    let (stable, leased, no_acl) = (false, false, false);
    Attr { ino, size, blocks, atime, mtime, ctime, mode, nlink, uid, gid, rdev, blksize, stable, leased, no_acl }
}

pub(in super::super) fn leased(size: u64) -> Attr {
    Attr { leased: true, ..attr(size) }
}

fn contents(data: Bytes) -> Contents {
    Contents { attr: leased(data.len() as u64), data }
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

fn heard(cache: &AttributeCache, op: &Op, reply: Reply) {
    let question = cache.ask(op);
    cache.insert(question, Some(&reply));
}

fn knows(cache: &AttributeCache, op: &Op) -> bool {
    cache.lookup(op).is_some()
}

#[test]
fn while_the_program_runs_only_leased_entries_are_kept() {
    let cache = AttributeCache::default();
    heard(&cache, &lookup(), Reply::Entry { node: 7, attr: leased(1), leased: false });
    assert!(!knows(&cache, &lookup()));
    assert!(knows(&cache, &Op::Getattr { node: 7 }));
    cache.overtaken();
    heard(&cache, &lookup(), Reply::Entry { node: 7, attr: attr(1), leased: true });
    assert!(!knows(&cache, &lookup()) && !knows(&cache, &Op::Getattr { node: 7 }));
    let entry = Reply::Entry { node: 7, attr: leased(1), leased: true };
    heard(&cache, &lookup(), entry.clone());
    assert_eq!(cache.lookup(&lookup()), Some(entry));
    assert!(!knows(&cache, &Op::Lookup { parent: 2, name: named("name") }));
}

#[test]
fn everything_is_kept_while_nothing_runs() {
    let cache = AttributeCache::default();
    cache.begin();
    let entry = Reply::Entry { node: 7, attr: attr(1), leased: false };
    heard(&cache, &lookup(), entry.clone());
    assert_eq!(cache.lookup(&lookup()), Some(entry));
    assert_eq!(cache.lookup(&Op::Getattr { node: 7 }), Some(Reply::Attr { attr: attr(1) }));
    let late = cache.ask(&Op::Getattr { node: 9 });
    cache.end();
    cache.insert(late, Some(&Reply::Attr { attr: leased(2) }));
    for op in [lookup(), Op::Getattr { node: 7 }, Op::Getattr { node: 9 }, Op::Flush { node: 7, owner: 1 }] {
        assert!(!knows(&cache, &op), "{op:?}");
    }
}

#[test]
fn a_missing_name_is_cached_and_other_errors_are_not() {
    let cache = AttributeCache::default();
    cache.begin();
    heard(&cache, &lookup(), Reply::Error { errno: libc::EIO });
    assert!(!knows(&cache, &lookup()));
    heard(&cache, &lookup(), Reply::Error { errno: libc::ENOENT });
    assert_eq!(cache.lookup(&lookup()), Some(Reply::Missing { stable: false, leased: false }));
    cache.end();
    let missing = Reply::Missing { stable: true, leased: true };
    heard(&cache, &lookup(), missing.clone());
    assert_eq!(cache.lookup(&lookup()), Some(missing));
}

#[test]
fn a_change_while_nothing_runs_invalidates_all_entries() {
    let cache = AttributeCache::default();
    cache.begin();
    heard(&cache, &lookup(), Reply::Error { errno: libc::ENOENT });
    let before = cache.ask(&Op::Getattr { node: 3 });
    let change = cache.ask(&mkdir());
    assert!(!knows(&cache, &lookup()));
    cache.insert(before, Some(&Reply::Attr { attr: attr(1) }));
    assert!(!knows(&cache, &Op::Getattr { node: 3 }));
    let (meanwhile, late) = (cache.ask(&lookup()), cache.ask(&Op::Getattr { node: 3 }));
    cache.insert(meanwhile, Some(&Reply::Error { errno: libc::ENOENT }));
    cache.insert(change, Some(&Reply::Done {}));
    cache.insert(late, Some(&Reply::Attr { attr: attr(1) }));
    assert!(!knows(&cache, &lookup()));
    assert!(!knows(&cache, &Op::Getattr { node: 3 }));
}

#[test]
fn what_home_takes_back_is_forgotten_also_if_it_is_on_its_way() {
    let cache = AttributeCache::default();
    let entry = Reply::Entry { node: 7, attr: leased(1), leased: true };
    let name = Break::Name { dir: 1, name: named("name") };
    for broken in [name, Break::Node { node: 7 }, Break::Everything {}] {
        heard(&cache, &lookup(), entry.clone());
        let under_way = cache.ask(&lookup());
        cache.invalidate(std::slice::from_ref(&broken));
        assert!(!knows(&cache, &lookup()), "{broken:?}");
        cache.insert(under_way, Some(&entry));
        assert!(!knows(&cache, &lookup()), "{broken:?}");
    }
    heard(&cache, &lookup(), entry);
    cache.invalidate(&[Break::Name { dir: 1, name: named("another") }, Break::Node { node: 8 }]);
    assert!(knows(&cache, &lookup()));
    cache.overtaken();
    assert!(!knows(&cache, &lookup()));
}

#[test]
fn contents_are_given_until_the_file_changes_or_is_closed() {
    let cache = AttributeCache::default();
    let open = Op::Open { node: 7, flags: libc::O_RDONLY };
    let text = Bytes::from_static(b"contents");
    let opened = Reply::Opened { handle: 1, stable: false, backing: None, contents: Some(contents(text.clone())) };
    let end: [fn(&AttributeCache); 3] =
        [|cache| cache.closed(7), |cache| cache.invalidate(&[Break::Node { node: 7 }]), |cache| cache.overtaken()];
    for end in end {
        heard(&cache, &open, opened.clone());
        assert_eq!(cache.contents(7, 0, 4096), Some(text.clone()));
        assert_eq!(cache.contents(7, 4, 2), Some(text.slice(4..6)));
        assert_eq!(cache.contents(7, 100, 2), Some(Bytes::new()));
        assert_eq!(cache.contents(8, 0, 2), None);
        end(&cache);
        assert_eq!(cache.contents(7, 0, 4096), None);
    }
}

#[test]
fn reading_changes_the_time_of_access() {
    let cache = AttributeCache::default();
    heard(&cache, &lookup(), Reply::Entry { node: 7, attr: leased(1), leased: true });
    cache.was_read(7);
    assert!(!knows(&cache, &lookup()) && !knows(&cache, &Op::Getattr { node: 7 }));
    let opened = Reply::Opened { handle: 1, stable: false, backing: None, contents: Some(contents(Bytes::new())) };
    heard(&cache, &Op::Open { node: 7, flags: libc::O_RDONLY }, opened);
    assert!(knows(&cache, &lookup()));
}

#[test]
fn contents_and_names_are_bounded() {
    let cache = AttributeCache::default();
    let large = Bytes::from(vec![0; CONTENTS_MAX_BYTES / 4]);
    for node in 0..20 {
        let opened =
            Reply::Opened { handle: node, stable: false, backing: None, contents: Some(contents(large.clone())) };
        heard(&cache, &Op::Open { node, flags: libc::O_RDONLY }, opened);
        assert!(cache.lock().contents_bytes <= CONTENTS_MAX_BYTES);
        assert!(cache.contents(node, 0, 1).is_some());
    }
    for number in 0..=MAX_LEASED_NAMES {
        let op = Op::Lookup { parent: 1, name: named(&number.to_string()) };
        heard(&cache, &op, Reply::Missing { stable: false, leased: true });
    }
    assert_eq!(cache.lock().names, 1);
}

#[test]
fn home_is_asked_to_forget_only_what_it_gave() {
    let cache = AttributeCache::default();
    let entry = Reply::Entry { node: 7, attr: leased(1), leased: true };
    heard(&cache, &lookup(), entry.clone());
    for _ in 0..3 {
        assert!(knows(&cache, &lookup()));
    }
    assert_eq!(cache.forget(7, 2), 0);
    assert!(knows(&cache, &lookup()));
    cache.overtaken();
    assert_eq!(cache.forget(7, 3), 1);
    assert_eq!(cache.forget(7, 5), 5);
    heard(&cache, &lookup(), entry);
    let inside = Op::Lookup { parent: 7, name: named("inside") };
    heard(&cache, &inside, Reply::Missing { stable: false, leased: true });
    assert!(knows(&cache, &inside));
    assert_eq!(cache.forget(7, 1), 1);
    assert!(!knows(&cache, &lookup()) && !knows(&cache, &inside));
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
    /// Whatever the order of questions, changes, answers and breaks, once all breaks are heard the
    /// cache holds nothing old.
    #[test]
    fn nothing_stale_stays_cached_after_invalidation(steps in proptest::collection::vec(
        prop_oneof![Just(Step::Ask), Just(Step::Change), Just(Step::Answer), Just(Step::Tell)], 1..60)) {
        let cache = AttributeCache::default();
        let (mut size, mut is_leased, mut untold, mut asked) = (0, false, false, Vec::new());
        let entry = |size| Reply::Entry { node: 7, attr: leased(size), leased: true };
        for step in steps {
            match step {
                // Home answers at once, but its answer takes a while.
                Step::Ask => {
                    is_leased = true;
                    asked.push((cache.ask(&lookup()), size));
                }
                Step::Change => {
                    size += 1;
                    untold |= std::mem::take(&mut is_leased);
                }
                // Before any reply the breaks.
                Step::Answer | Step::Tell => {
                    if std::mem::take(&mut untold) {
                        cache.invalidate(&[Break::Node { node: 7 }]);
                    }
                    if matches!(step, Step::Answer) && !asked.is_empty() {
                        let (question, told) = asked.remove(0);
                        cache.insert(question, Some(&entry(told)));
                    }
                    if let Some(known) = cache.lookup(&lookup()) {
                        prop_assert_eq!(known, entry(size));
                    }
                }
            }
        }
    }
}

#[test]
fn a_file_without_an_access_control_list_is_not_asked_for_it() {
    let cache = AttributeCache::default();
    let ask = |name: &str| Op::Getxattr { node: 7, name: Text::new(name.as_bytes()).unwrap() };
    heard(&cache, &Op::Getattr { node: 7 }, Reply::Attr { attr: leased(1) });
    assert!(!knows(&cache, &ask(ACCESS_ACL)));
    heard(&cache, &Op::Getattr { node: 7 }, Reply::Attr { attr: Attr { no_acl: true, ..leased(1) } });
    assert_eq!(cache.lookup(&ask(ACCESS_ACL)), Some(Reply::Error { errno: libc::ENODATA }));
    assert!(!knows(&cache, &ask("security.capability")));
    cache.invalidate(&[Break::Node { node: 7 }]);
    assert!(!knows(&cache, &ask(ACCESS_ACL)));
}
