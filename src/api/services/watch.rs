//! Watch streams in the manner of etcd, over any table.
//!
//! ```text
//!   table ──changes_since(sent)──> filter ──> parts of at most MAX_EVENTS ──> client
//!     ▲                                                                        │
//!     └── wait for a new revision, 10 s without one (progress), shutdown, or the client's going
//! ```

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Context;
use crate::api::{
    ApiError,
    backend::Views,
    table::{Changes, Row, Table},
};

/// Events in one message, so that no message outgrows what clients take by default (4 MiB).
const MAX_EVENTS: usize = 200;
/// Changes that come faster than this are sent as one.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// How often a quiet stream says that it lives, if asked to.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// What a client gets.
pub(super) type WatchStream<M> = ReceiverStream<Result<M, Status>>;

/// A change of one row.
pub(super) enum Event<R> {
    /// It is new or different.
    Put(Arc<R>),
    /// It is gone.
    Removed(Arc<R>),
}

/// What of a table a client wants to see, and how.
pub(super) struct Watch<R, Wanted, Message> {
    /// Which table.
    pub(super) table: fn(&Views) -> &Table<R>,
    /// From which revision on; 0 begins with everything.
    pub(super) start_revision: i64,
    /// Whether a quiet stream says that it lives.
    pub(super) progress_notify: bool,
    /// Which rows.
    pub(super) wanted: Wanted,
    /// Makes a message of a revision and events.
    pub(super) message: Message,
}

impl<R, Wanted, Message> Watch<R, Wanted, Message>
where
    R: Row,
    Wanted: Fn(&R) -> bool + Send + Sync + 'static,
{
    /// Begins to follow the table.
    ///
    /// # Errors
    /// [`ApiError::RevisionCompacted`].
    pub(super) fn start<M>(self, context: &Context) -> Result<WatchStream<M>, ApiError>
    where
        M: Send + 'static,
        Message: Fn(i64, Vec<Event<R>>) -> M + Send + Sync + 'static,
    {
        let first = (self.table)(context.backend.views()).changes_since(self.start_revision)?;
        let (sender, receiver) = mpsc::channel(4);
        let context = context.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = context.shutdown.cancelled() => drop(sender.try_send(Err(ApiError::Leaving.into()))),
                end = self.follow(&context, first, &sender) => {
                    if let Err(error) = end {
                        drop(sender.send(Err(error.into())).await);
                    }
                }
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    /// Sends until the client is gone.
    async fn follow<M>(
        &self,
        context: &Context,
        first: Changes<R>,
        sender: &mpsc::Sender<Result<M, Status>>,
    ) -> Result<(), ApiError>
    where
        Message: Fn(i64, Vec<Event<R>>) -> M,
    {
        let table = (self.table)(context.backend.views());
        let mut revisions = table.subscribe();
        let mut changes = first;
        let mut sent = self.start_revision;
        let mut opening = true;
        loop {
            let revision = changes.revision;
            let put = changes.put.into_iter().map(Event::Put);
            let mut events: Vec<_> = changes.removed.into_iter().map(Event::Removed).chain(put).collect();
            events.retain(|(Event::Put(row) | Event::Removed(row))| (self.wanted)(row));
            // The first list is sent even if it is empty: the client learns that it is complete.
            let whole = opening && events.is_empty();
            while !events.is_empty() {
                let rest = events.split_off(events.len().min(MAX_EVENTS));
                let part = std::mem::replace(&mut events, rest);
                let revision = if events.is_empty() { revision } else { sent };
                if sender.send(Ok((self.message)(revision, part))).await.is_err() {
                    return Ok(());
                }
            }
            if whole && sender.send(Ok((self.message)(revision, Vec::new()))).await.is_err() {
                return Ok(());
            }
            (sent, opening) = (revision, false);
            sleep(MIN_INTERVAL).await;
            while *revisions.borrow_and_update() <= sent {
                tokio::select! {
                    changed = revisions.changed() => if changed.is_err() { return Ok(()) },
                    () = self.progress() => {
                        if sender.send(Ok((self.message)(sent, Vec::new()))).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
            changes = table.changes_since(sent)?;
        }
    }

    async fn progress(&self) {
        if self.progress_notify { sleep(PROGRESS_INTERVAL).await } else { pending().await }
    }
}
