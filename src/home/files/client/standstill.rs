//! What home said while nothing of the body runs.
//!
//! CRIU looks at the same directories again and again: some 600 questions for a small program, each a round trip. As long as a
//! body is being restored or dumped no program of the guest runs, so nobody in it can tell whether an answer is as old as the
//! beginning of that. Until the body runs, home's answers about names, attributes and links are therefore kept *here*, in front of
//! the link. The kernel is still told to believe nothing a second time, so when this memory is given up nothing old is left
//! anywhere.
//!
//! *What the guest itself changes* meanwhile (CRIU does, here and there) makes everything forgotten, once when it is asked
//! for and once when it is done: what was asked in between may have been answered before it or after it.
//!
//! *Lookups are counted.* The kernel counts the entries that it is given and takes them back by `forget`; home counts those that
//! it gave. Entries given out of this memory are counted here and taken back here first. So home knows a file for as long as
//! the kernel does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::super::wire::{Attr, Name, Op, Reply};
use super::answer::Answer;

/// The memory; empty and unused while the body runs.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    /// Whether `Memory::on` is set, or entries given out of the memory are still counted: there is something to do.
    in_use: AtomicBool,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    on: bool,
    /// Counts how often everything was forgotten.
    round: u64,
    /// `None`: there is no such name.
    entries: HashMap<(u64, Name), Option<u64>>,
    attrs: HashMap<u64, Attr>,
    links: HashMap<u64, Bytes>,
    /// Entries given out of this memory and not taken back yet, by node.
    given: HashMap<u64, u64>,
}

/// What an answer of home will tell.
#[derive(Debug)]
pub(super) struct Question {
    about: About,
    round: u64,
}

#[derive(Debug)]
enum About {
    Entry(u64, Name),
    Attr(u64),
    Link(u64),
    /// The guest changes something.
    Change,
}

impl Memory {
    fn forget_all(&mut self) {
        self.round += 1;
        self.entries.clear();
        self.attrs.clear();
        self.links.clear();
    }

    fn recall(&mut self, op: &Op) -> Option<Reply> {
        match op {
            Op::Lookup { parent, name } => {
                let Some(node) = *self.entries.get(&(*parent, name.clone()))? else {
                    return Some(Reply::Error { errno: libc::ENOENT });
                };
                let attr = *self.attrs.get(&node)?;
                *self.given.entry(node).or_default() += 1;
                Some(Reply::Entry { node, attr })
            }
            Op::Getattr { node } => self.attrs.get(node).map(|attr| Reply::Attr { attr: *attr }),
            Op::Readlink { node } => self.links.get(node).map(|data| Reply::Data { data: data.clone() }),
            // It gives back locks, and a body that has any does not move.
            Op::Flush { .. } => Some(Reply::Done {}),
            _ => None,
        }
    }

    fn hear(&mut self, about: About, answer: &Answer) {
        match (about, answer) {
            (About::Entry(parent, name), Ok(Reply::Entry { node, attr })) => {
                self.entries.insert((parent, name), Some(*node));
                self.attrs.insert(*node, unsettled(attr));
            }
            (About::Entry(parent, name), Ok(Reply::Error { errno: libc::ENOENT })) => {
                self.entries.insert((parent, name), None);
            }
            (About::Attr(node), Ok(Reply::Attr { attr })) => drop(self.attrs.insert(node, unsettled(attr))),
            (About::Link(node), Ok(Reply::Data { data })) => drop(self.links.insert(node, data.clone())),
            (About::Change, _) => self.forget_all(),
            _ => {}
        }
    }
}

/// What is told a second time was heard too long ago to be believed even longer.
fn unsettled(attr: &Attr) -> Attr {
    Attr { settled: false, ..*attr }
}

impl Standstill {
    /// Nothing of the body runs from now on, or it has run until now: begins with an empty memory.
    pub(super) fn begin(&self) {
        let mut memory = self.lock();
        memory.forget_all();
        memory.on = true;
        self.in_use.store(true, Ordering::Release);
    }

    /// The body is about to run: forgets everything and keeps nothing from now on.
    pub(super) fn end(&self) {
        let mut memory = self.lock();
        memory.forget_all();
        memory.on = false;
        self.in_use.store(!memory.given.is_empty(), Ordering::Release);
    }

    /// Whether nothing of the body runs.
    pub(super) fn is_on(&self) -> bool {
        self.used().is_some_and(|memory| memory.on)
    }

    /// The answer to what the kernel asks, if home has given it already.
    pub(super) fn recall(&self, op: &Op) -> Option<Reply> {
        self.used().filter(|memory| memory.on)?.recall(op)
    }

    /// To be called before home is asked; what is returned belongs to home's answer.
    pub(super) fn ask(&self, op: &Op) -> Option<Question> {
        let mut memory = self.used().filter(|memory| memory.on)?;
        let about = match op {
            Op::Lookup { parent, name } => About::Entry(*parent, name.clone()),
            Op::Getattr { node } => About::Attr(*node),
            Op::Readlink { node } => About::Link(*node),
            Op::Open { flags, .. } if flags & libc::O_TRUNC == 0 => return None,
            Op::Forget { .. }
            | Op::Read { .. }
            | Op::Flush { .. }
            | Op::Release { .. }
            | Op::Fsync { .. }
            | Op::Opendir { .. }
            | Op::Readdir { .. }
            | Op::Statfs { .. }
            | Op::Getxattr { .. }
            | Op::Listxattr { .. }
            | Op::Lseek { .. } => return None,
            _ => About::Change,
        };
        if matches!(about, About::Change) {
            memory.forget_all();
        }
        Some(Question { about, round: memory.round })
    }

    /// Home's answer to a question.
    pub(super) fn hear(&self, question: Option<Question>, answer: &Answer) {
        let Some(Question { about, round }) = question else { return };
        let Some(mut memory) = self.used().filter(|memory| memory.on) else { return };
        if matches!(about, About::Change) || round == memory.round {
            memory.hear(about, answer);
        }
    }

    /// The kernel takes back `count` entries of `node`: how many of them home has to take back.
    pub(super) fn forget(&self, node: u64, count: u64) -> u64 {
        let Some(mut memory) = self.used() else { return count };
        let memory = &mut *memory;
        let given = memory.given.get(&node).copied().unwrap_or_default();
        let (own, homes) = (given.min(count), count - given.min(count));
        if own == given {
            memory.given.remove(&node);
        } else {
            memory.given.insert(node, given - own);
        }
        if homes > 0 && memory.on {
            // Home may know the node no longer.
            memory.entries.retain(|_, of| *of != Some(node));
            memory.attrs.remove(&node);
            memory.links.remove(&node);
        }
        if !memory.on {
            self.in_use.store(!memory.given.is_empty(), Ordering::Release);
        }
        homes
    }

    /// The memory, unless there is nothing in it.
    fn used(&self) -> Option<MutexGuard<'_, Memory>> {
        self.in_use.load(Ordering::Acquire).then(|| self.lock())
    }

    // Single insertions and removals, so a panic elsewhere leaves it usable.
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::wire::Time;
    use super::*;

    fn attr(size: u64) -> Attr {
        let time = Time { secs: 0, nanos: 0 };
        let (atime, mtime, ctime) = (time, time, time);
        let (ino, blocks, mode, nlink, uid, gid, rdev, blksize) = (7, 1, 0, 1, 0, 0, 0, 1);
        Attr { ino, size, blocks, atime, mtime, ctime, mode, nlink, uid, gid, rdev, blksize, settled: false }
    }

    fn lookup() -> Op {
        Op::Lookup { parent: 1, name: Name::new(b"name").unwrap() }
    }

    fn mkdir() -> Op {
        Op::Mkdir { parent: 1, name: Name::new(b"other").unwrap(), mode: 0, umask: 0 }
    }

    fn heard(memory: &Standstill, op: &Op, reply: Reply) {
        let question = memory.ask(op);
        memory.hear(question, &Ok(reply));
    }

    #[test]
    fn nothing_is_kept_while_the_body_runs() {
        let memory = Standstill::default();
        let entry = Reply::Entry { node: 7, attr: attr(1) };
        heard(&memory, &lookup(), entry.clone());
        assert_eq!(memory.recall(&lookup()), None);
        memory.begin();
        heard(&memory, &lookup(), entry.clone());
        assert_eq!(memory.recall(&lookup()), Some(entry));
        assert_eq!(memory.recall(&Op::Getattr { node: 7 }), Some(Reply::Attr { attr: attr(1) }));
        let late = memory.ask(&Op::Getattr { node: 9 });
        memory.end();
        memory.hear(late, &Ok(Reply::Attr { attr: attr(2) }));
        for op in [lookup(), Op::Getattr { node: 7 }, Op::Getattr { node: 9 }, Op::Flush { node: 7, owner: 1 }] {
            assert_eq!(memory.recall(&op), None, "{op:?}");
        }
        memory.begin();
        assert_eq!(memory.recall(&lookup()), None);
    }

    #[test]
    fn a_name_that_is_missing_is_remembered_and_other_errors_are_not() {
        let memory = Standstill::default();
        memory.begin();
        heard(&memory, &lookup(), Reply::Error { errno: libc::EIO });
        assert_eq!(memory.recall(&lookup()), None);
        heard(&memory, &lookup(), Reply::Error { errno: libc::ENOENT });
        assert_eq!(memory.recall(&lookup()), Some(Reply::Error { errno: libc::ENOENT }));
    }

    #[test]
    fn a_change_makes_everything_forgotten_also_what_was_asked_meanwhile() {
        let memory = Standstill::default();
        memory.begin();
        heard(&memory, &lookup(), Reply::Error { errno: libc::ENOENT });
        let before = memory.ask(&Op::Getattr { node: 3 });
        let change = memory.ask(&mkdir());
        assert_eq!(memory.recall(&lookup()), None);
        memory.hear(before, &Ok(Reply::Attr { attr: attr(1) }));
        assert_eq!(memory.recall(&Op::Getattr { node: 3 }), None);
        let (meanwhile, late) = (memory.ask(&lookup()), memory.ask(&Op::Getattr { node: 3 }));
        memory.hear(meanwhile, &Ok(Reply::Error { errno: libc::ENOENT }));
        memory.hear(change, &Ok(Reply::Done {}));
        memory.hear(late, &Ok(Reply::Attr { attr: attr(1) }));
        assert_eq!(memory.recall(&lookup()), None);
        assert_eq!(memory.recall(&Op::Getattr { node: 3 }), None);
    }

    #[test]
    fn home_is_asked_to_forget_only_what_it_gave() {
        let memory = Standstill::default();
        memory.begin();
        heard(&memory, &lookup(), Reply::Entry { node: 7, attr: attr(1) });
        for _ in 0..3 {
            assert!(memory.recall(&lookup()).is_some());
        }
        assert_eq!(memory.forget(7, 2), 0);
        assert!(memory.recall(&lookup()).is_some());
        memory.end();
        assert_eq!(memory.forget(7, 3), 1);
        assert_eq!(memory.forget(7, 5), 5);
        memory.begin();
        heard(&memory, &lookup(), Reply::Entry { node: 7, attr: attr(1) });
        assert_eq!(memory.forget(7, 1), 1);
        assert_eq!(memory.recall(&lookup()), None);
    }
}
