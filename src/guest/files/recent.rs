//! The one answer that is cached without a lease.
//!
//! Before each `read` the kernel asks for the file's attributes, to see whether the pages that it
//! has are still good. Asking home each time would cost a program that reads in small pieces one
//! round trip per piece. So the last such answer is given again, as long as the guest has heard
//! *nothing else* from home since: no reply to any file operation, and nothing that its agent
//! reports as news ([`FileChannel::news`](super::FileChannel::news)), such as input or a
//! signal. Then no program of the guest can know that anything has changed. It is cached for at
//! most [`ATTRIBUTE_TTL`].

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::protocol::files::Attr;

/// Longest time that attributes are cached without asking home. Bounds the share of time spent
/// asking to the round-trip time divided by this.
const ATTRIBUTE_TTL: Duration = Duration::from_millis(50);

/// The attributes heard last, if nothing else was heard since.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Option<Heard>>);

#[derive(Debug)]
struct Heard {
    handle: u64,
    attr: Attr,
    at: Instant,
    /// How many news there had been, these included.
    news: u64,
}

impl Recent {
    /// Remembers attributes that were asked for at `asked`, when there had been `before` news. With
    /// others in between, they may be older than what those told.
    pub(super) fn insert(&self, handle: u64, attr: Attr, asked: Instant, before: u64, news: u64) {
        let heard = (news == before + 1).then_some(Heard { handle, attr, at: asked, news });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = heard;
    }

    /// The attributes of the file open as `handle`, if they are still valid after `news` news.
    pub(super) fn of(&self, handle: u64, now: Instant, news: u64) -> Option<Attr> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = heard.as_ref().filter(|heard| heard.handle == handle && heard.news == news)?;
        (now.saturating_duration_since(heard.at) <= ATTRIBUTE_TTL).then_some(heard.attr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::files::Time;

    #[test]
    fn attributes_are_cached_until_other_news() {
        let time = Time { secs: 0, nanos: 0 };
        let (atime, mtime, ctime) = (time, time, time);
        let attr = Attr {
            ino: 5,
            size: 1,
            blocks: 1,
            atime,
            mtime,
            ctime,
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 1,
            stable: false,
            leased: false,
            no_acl: false,
        };
        let (recent, asked) = (Recent::default(), Instant::now());
        recent.insert(7, attr, asked, 3, 4);
        assert_eq!(recent.of(7, asked, 4), Some(attr));
        assert_eq!(recent.of(8, asked, 4), None);
        assert_eq!(recent.of(7, asked, 5), None);
        assert_eq!(recent.of(7, asked + ATTRIBUTE_TTL * 2, 4), None);
        // A write was answered while the question was under way.
        recent.insert(7, attr, asked, 3, 5);
        assert_eq!(recent.of(7, asked, 5), None);
    }
}
