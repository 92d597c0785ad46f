//! The attribute cache: home's answers that are still valid.
//!
//! Two sorts of answers are cached *here*, in front of the link. The kernel caches none of them
//! (TTL 0), so once an entry is invalidated here nothing stale is left anywhere.
//!
//! *Leases.* Names, attributes and the contents of small files for which home granted a lease are
//! valid until home breaks it. It does so before any reply that could tell a program of the guest
//! of the change, and shortly after the change otherwise. What comes by another way (input, a
//! signal) may have overtaken that, so it empties the cache.
//!
//! *While nothing of the process tree runs* every entry is valid. CRIU looks at the same
//! directories again and again: some 600 questions for a small program, each a round trip. As long
//! as a process tree is being restored or dumped no program of the guest runs, so none can tell
//! whether an answer is as old as the beginning of that. What the guest itself changes meanwhile
//! (CRIU does, here and there) empties the cache, once when it is asked for and once when it is
//! done: what was asked in between may have been answered before it or after it.
//!
//! *Lookups are counted.* The kernel counts the entries that it is given and takes them back by
//! `forget`; home counts those that it gave. Entries given out of this cache are counted here and
//! taken back here first. So home knows a file for as long as the kernel does.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::link::files::MAX_LEASED_NAMES;
use crate::protocol::files::{ACCESS_ACL, Attr, Break, Name, Op, ROOT, Reply, Step, Text};

/// Most bytes of contents that are kept; beyond it those of all files are forgotten.
const CONTENTS_MAX_BYTES: usize = 4 << 20;

/// Most extended attributes of a file that are kept, and the longest of their values.
const XATTRS_MAX: usize = 8;
const XATTR_MAX_BYTES: usize = 256;

/// The attribute cache.
#[derive(Debug, Default)]
pub(in super::super) struct AttributeCache(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Nothing of the process tree runs: whatever home says is kept.
    still: bool,
    /// Counts invalidations of what a reply under way may tell again.
    round: u64,
    names: usize,
    dirs: HashMap<u64, HashMap<Name, Target>>,
    nodes: HashMap<u64, Node>,
    contents_bytes: usize,
    /// Entries given out of this cache and not taken back yet, by node.
    given: HashMap<u64, u64>,
}

/// What a name means.
#[derive(Debug, Clone, Copy)]
struct Target {
    /// `None`: there is no such name.
    node: Option<u64>,
    stable: bool,
    leased: bool,
}

#[derive(Debug, Default)]
struct Node {
    attr: Option<Attr>,
    link: Option<Bytes>,
    contents: Option<Bytes>,
    /// Extended attributes that were asked for; the error that there is in place of a value.
    xattrs: Vec<(Text, Result<Bytes, i32>)>,
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
    Contents(u64),
    Xattr(u64, Text),
    Walk(Vec<Name>),
    /// The guest changes something while nothing of it runs.
    Change,
}

impl Known {
    fn invalidate_all(&mut self) {
        self.round += 1;
        self.names = 0;
        self.dirs.clear();
        self.nodes.clear();
        self.contents_bytes = 0;
    }

    fn invalidate_name(&mut self, dir: u64, name: &Name) {
        if self.dirs.get_mut(&dir).is_some_and(|names| names.remove(name).is_some()) {
            self.names -= 1;
        }
    }

    fn invalidate_names_in(&mut self, dir: u64) {
        self.names -= self.dirs.remove(&dir).map_or(0, |names| names.len());
    }

    fn invalidate_node(&mut self, node: u64) {
        self.drop_contents(node);
        self.nodes.remove(&node);
    }

    fn drop_contents(&mut self, node: u64) {
        let contents = self.nodes.get_mut(&node).and_then(|node| node.contents.take());
        self.contents_bytes -= contents.map_or(0, |contents| contents.len());
    }

    fn lookup(&mut self, op: &Op) -> Option<Reply> {
        match op {
            Op::Lookup { parent, name } => {
                let target = *self.dirs.get(parent)?.get(name)?;
                let Some(node) = target.node else {
                    return Some(Reply::Missing { stable: target.stable, leased: target.leased });
                };
                let attr = self.nodes.get(&node)?.attr?;
                *self.given.entry(node).or_default() += 1;
                Some(Reply::Entry { node, attr, leased: target.leased })
            }
            Op::Getattr { node } => self.nodes.get(node)?.attr.map(|attr| Reply::Attr { attr }),
            Op::Readlink { node } => self.nodes.get(node)?.link.clone().map(|data| Reply::Data { data }),
            Op::Getxattr { node, name } => {
                let Node { attr, xattrs, .. } = self.nodes.get(node)?;
                if attr.is_some_and(|attr| attr.no_acl) && name.as_bytes() == ACCESS_ACL.as_bytes() {
                    return Some(Reply::Error { errno: libc::ENODATA });
                }
                xattrs.iter().find(|(known, _)| known == name).map(|(_, value)| match value {
                    Ok(data) => Reply::Data { data: data.clone() },
                    Err(errno) => Reply::Error { errno: *errno },
                })
            }
            // It gives back locks, and a process tree that has any does not move.
            Op::Flush { .. } if self.still => Some(Reply::Done {}),
            _ => None,
        }
    }

    fn insert(&mut self, about: About, reply: &Reply) {
        match (about, reply) {
            (About::Entry(parent, name), Reply::Entry { node, attr, leased }) => {
                self.keep_attr(*node, attr);
                self.keep_name(parent, name, Target { node: Some(*node), stable: false, leased: *leased });
            }
            (About::Entry(parent, name), Reply::Missing { stable, leased }) => {
                self.keep_name(parent, name, Target { node: None, stable: *stable, leased: *leased });
            }
            (About::Entry(parent, name), Reply::Error { errno: libc::ENOENT }) => {
                self.keep_name(parent, name, Target { node: None, stable: false, leased: false });
            }
            (About::Attr(node), Reply::Attr { attr }) => self.keep_attr(node, attr),
            (About::Link(node), Reply::Data { data }) if self.still => {
                self.nodes.entry(node).or_default().link = Some(data.clone());
            }
            (About::Xattr(node, name), Reply::Data { data }) if data.len() <= XATTR_MAX_BYTES => {
                self.keep_xattr(node, name, Ok(data.clone()));
            }
            (About::Xattr(node, name), Reply::Error { errno: errno @ (libc::ENODATA | libc::EOPNOTSUPP) }) => {
                self.keep_xattr(node, name, Err(*errno));
            }
            (About::Walk(names), Reply::Walked { steps }) => {
                let mut parent = ROOT;
                for (name, Step { node, attr, leased }) in names.into_iter().zip(steps) {
                    self.keep_attr(*node, attr);
                    self.keep_name(parent, name, Target { node: Some(*node), stable: false, leased: *leased });
                    parent = *node;
                }
            }
            (About::Contents(node), Reply::Opened { contents: Some(contents), .. }) => {
                self.drop_contents(node);
                if self.contents_bytes + contents.data.len() > CONTENTS_MAX_BYTES {
                    self.nodes.values_mut().for_each(|node| node.contents = None);
                    self.contents_bytes = 0;
                }
                self.contents_bytes += contents.data.len();
                self.keep_attr(node, &contents.attr);
                self.nodes.entry(node).or_default().contents = Some(contents.data.clone());
            }
            _ => {}
        }
    }

    fn keep_name(&mut self, parent: u64, name: Name, target: Target) {
        // A cached answer gets no TTL, as it may be old, unless it is leased.
        let target = Target { stable: target.stable && target.leased, ..target };
        if !(target.leased || self.still) {
            return;
        }
        if self.names >= MAX_LEASED_NAMES {
            self.invalidate_all();
        }
        let before = self.dirs.entry(parent).or_default().insert(name, target);
        self.names += usize::from(before.is_none());
    }

    fn keep_xattr(&mut self, node: u64, name: Text, value: Result<Bytes, i32>) {
        let still = self.still;
        // A lease on a file's attributes covers these too.
        let node = self.nodes.get_mut(&node).filter(|node| still || node.attr.is_some_and(|attr| attr.leased));
        if let Some(node) = node.filter(|node| node.xattrs.len() < XATTRS_MAX) {
            node.xattrs.push((name, value));
        }
    }

    fn keep_attr(&mut self, node: u64, attr: &Attr) {
        if attr.leased || self.still {
            let attr = Attr { stable: attr.stable && attr.leased, ..*attr };
            self.nodes.entry(node).or_default().attr = Some(attr);
        }
    }
}

impl AttributeCache {
    /// Nothing of the process tree runs from now on, or it has run until now: begins with an empty
    /// cache.
    pub(in super::super) fn begin(&self) {
        let mut known = self.lock();
        known.invalidate_all();
        known.still = true;
    }

    /// The process tree is about to run: invalidates everything, and from now on keeps only what is
    /// leased.
    pub(in super::super) fn end(&self) {
        let mut known = self.lock();
        known.invalidate_all();
        known.still = false;
    }

    /// Whether nothing of the process tree runs.
    pub(in super::super) fn is_still(&self) -> bool {
        self.lock().still
    }

    /// The answer to what the kernel asks, if home has given it already.
    pub(super) fn lookup(&self, op: &Op) -> Option<Reply> {
        self.lock().lookup(op)
    }

    /// What is in an open file from `offset` on, if home has told all that is in it.
    pub(in super::super) fn contents(&self, node: u64, offset: u64, size: u32) -> Option<Bytes> {
        let known = self.lock();
        let contents = known.nodes.get(&node)?.contents.as_ref()?;
        let from = usize::try_from(offset).map_or(contents.len(), |offset| offset.min(contents.len()));
        let to = from.saturating_add(size as usize).min(contents.len());
        Some(contents.slice(from..to))
    }

    /// To be called before home is asked; what is returned belongs to home's answer.
    pub(super) fn ask(&self, op: &Op) -> Option<Question> {
        let mut known = self.lock();
        let about = match op {
            Op::Lookup { parent, name } => About::Entry(*parent, name.clone()),
            Op::Getattr { node } => About::Attr(*node),
            Op::Readlink { node } => About::Link(*node),
            Op::Getxattr { node, name } => About::Xattr(*node, name.clone()),
            Op::Walk { names } => About::Walk(names.clone()),
            Op::Open { node, flags } if flags & libc::O_TRUNC == 0 => About::Contents(*node),
            Op::Forget { .. }
            | Op::Read { .. }
            | Op::Flush { .. }
            | Op::Release { .. }
            | Op::Fsync { .. }
            | Op::Opendir { .. }
            | Op::Readdir { .. }
            | Op::Statfs { .. }
            | Op::Listxattr { .. }
            | Op::Lseek { .. } => return None,
            // Once the process tree runs, home says what changes.
            _ if !known.still => return None,
            _ => About::Change,
        };
        if matches!(about, About::Change) {
            known.invalidate_all();
        }
        Some(Question { about, round: known.round })
    }

    /// Home's answer to a question; `None` if there will be none.
    pub(super) fn insert(&self, question: Option<Question>, answer: Option<&Reply>) {
        let Some(Question { about, round }) = question else { return };
        let mut known = self.lock();
        match answer {
            _ if matches!(about, About::Change) => known.invalidate_all(),
            Some(reply) if round == known.round => known.insert(about, reply),
            _ => {}
        }
    }

    /// Home says that something does not hold any more.
    pub(super) fn invalidate(&self, breaks: &[Break]) {
        if breaks.is_empty() {
            return;
        }
        let mut known = self.lock();
        known.round += 1;
        for broken in breaks {
            match broken {
                Break::Name { dir, name } => known.invalidate_name(*dir, name),
                Break::Node { node } => known.invalidate_node(*node),
                Break::Everything {} => known.invalidate_all(),
            }
        }
    }

    /// Something was heard that may have overtaken what home says of files.
    pub(super) fn overtaken(&self) {
        let mut known = self.lock();
        if !known.still {
            known.invalidate_all();
        }
    }

    /// The guest has read something at home, which moves the time of access.
    pub(in super::super) fn was_read(&self, node: u64) {
        let mut known = self.lock();
        if known.still {
            return;
        }
        known.round += 1;
        if let Some(node) = known.nodes.get_mut(&node) {
            node.attr = None;
        }
    }

    /// The program has closed the file, so its contents are asked for anew when it is opened again.
    pub(in super::super) fn closed(&self, node: u64) {
        self.lock().drop_contents(node);
    }

    /// The kernel takes back `count` entries of `node`: how many of them home has to take back.
    pub(in super::super) fn forget(&self, node: u64, count: u64) -> u64 {
        let mut known = self.lock();
        let given = known.given.get(&node).copied().unwrap_or_default();
        let (own, homes) = (given.min(count), count - given.min(count));
        if own == given {
            known.given.remove(&node);
        } else {
            known.given.insert(node, given - own);
        }
        if homes > 0 {
            // Home may know the node no longer; then its lease has ended.
            known.invalidate_node(node);
            known.invalidate_names_in(node);
        }
        homes
    }

    // A thread that panics with the lock held has lost at most an answer to keep.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests;
