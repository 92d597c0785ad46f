//! Which requests were seen, so that none is done twice however often the link breaks.
//!
//! A request is *at work* from its arrival until its reply is made. The reply of one that must not be done twice is kept
//! until the guest's agent says (`settled`) that it will never ask again; the others are simply done again if asked again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::wire::Request;

/// The requests of one guest, and the link over which it gets its replies.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By request id: its reply, or `None` while it is at work.
    seen: BTreeMap<u64, Option<Bytes>>,
    at_work: usize,
    settled: u64,
    link: Option<mpsc::Sender<Bytes>>,
    links: u64,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Do it.
    New,
    /// It was done: this is the reply.
    Done(Bytes),
    /// It is at work, or so old that nobody waits for it.
    Ignored,
}

impl Ledger {
    /// Sends replies over this link from now on; returns its number.
    pub(super) fn attach(&self, outgoing: mpsc::Sender<Bytes>) -> u64 {
        let mut state = self.lock();
        state.link = Some(outgoing);
        state.links += 1;
        state.links
    }

    /// Forgets the link, unless there is a newer one.
    pub(super) fn detach(&self, link: u64) {
        let mut state = self.lock();
        if state.links == link {
            state.link = None;
        }
    }

    /// Whether requests are being worked on.
    pub(super) fn is_at_work(&self) -> bool {
        self.lock().at_work > 0
    }

    /// Enters a request.
    pub(super) fn admit(&self, request: &Request) -> Admission {
        let mut state = self.lock();
        if request.settled > state.settled {
            state.settled = request.settled;
            state.seen = state.seen.split_off(&request.settled);
        }
        match state.seen.get(&request.id) {
            Some(Some(reply)) => Admission::Done(reply.clone()),
            Some(None) => Admission::Ignored,
            None if request.id < state.settled => Admission::Ignored,
            None => {
                state.seen.insert(request.id, None);
                state.at_work += 1;
                Admission::New
            }
        }
    }

    /// Enters the reply of a request at work and sends it, waiting while the link's queue is full.
    pub(super) fn finish(&self, id: u64, is_repeatable: bool, reply: Bytes) {
        let mut state = self.lock();
        state.at_work = state.at_work.saturating_sub(1);
        if is_repeatable {
            state.seen.remove(&id);
        } else if let Some(entry) = state.seen.get_mut(&id) {
            *entry = Some(reply.clone());
        }
        let link = state.link.clone();
        drop(state);
        // Without a link the guest's agent will ask again over the next one.
        if let Some(link) = link {
            let _ = link.blocking_send(reply);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::wire::{Caller, Op};
    use super::*;

    fn request(id: u64, settled: u64) -> Request {
        Request { id, settled, caller: Caller { uid: 0, gid: 0 }, op: Op::Release { handle: 1 } }
    }

    #[test]
    fn nothing_is_done_twice() {
        let ledger = Ledger::default();
        let reply = Bytes::from_static(b"reply");
        assert_eq!(ledger.admit(&request(1, 1)), Admission::New);
        assert_eq!(ledger.admit(&request(1, 1)), Admission::Ignored);
        ledger.finish(1, false, reply.clone());
        assert_eq!(ledger.admit(&request(1, 1)), Admission::Done(reply));
        assert_eq!(ledger.admit(&request(2, 2)), Admission::New);
        // A copy that was under way on the old link all the time.
        assert_eq!(ledger.admit(&request(1, 1)), Admission::Ignored);
        assert!(ledger.is_at_work());
        ledger.finish(2, true, Bytes::new());
        assert_eq!(ledger.admit(&request(2, 2)), Admission::New);
    }

    #[test]
    fn replies_go_to_the_newest_link() {
        let ledger = Ledger::default();
        let (old, mut old_frames) = mpsc::channel(1);
        let (new, mut new_frames) = mpsc::channel(1);
        let first = ledger.attach(old);
        ledger.attach(new);
        ledger.detach(first);
        ledger.admit(&request(1, 1));
        ledger.finish(1, false, Bytes::from_static(b"reply"));
        assert!(old_frames.try_recv().is_err());
        assert_eq!(new_frames.try_recv().unwrap(), Bytes::from_static(b"reply"));
    }
}
