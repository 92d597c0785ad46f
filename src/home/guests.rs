//! The guests that call home: each has one link, carried over one connection after the other.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::home::files::FileServer;
use crate::job::SessionId;
use crate::link::{self, Carrier, Event, LinkError, LinkSender};
use crate::protocol::home::{Call, GuestToHome, HomeToGuest, Welcome};

/// A stream of a guest, whatever it goes over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
pub(super) type BoxedStream = Box<dyn Stream>;

/// Messages that wait for the link.
const OUTBOX_MESSAGES: usize = 64;

/// What a guest's tasks tell the core, in order.
pub(super) enum FromGuest {
    /// Something arrived on its link.
    Event(Event<GuestToHome>),
    /// Its connection is lost; it may dial again.
    Disconnected {
        /// Until when it was surely there.
        last_heard: Instant,
    },
}

/// A guest that has called.
pub(super) struct Guest {
    /// Its link, for relays and deputies.
    pub(super) sender: LinkSender<HomeToGuest>,
    outbox: mpsc::Sender<HomeToGuest>,
    connections: mpsc::Sender<(BoxedStream, Call, u64)>,
    tasks: Vec<AbortHandle>,
    /// When the connection was lost, if it is.
    pub(super) lost_since: Option<Instant>,
    /// The node that hosts it.
    pub(super) node: String,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Guest {
    /// A guest that calls for the first time; `files` serves it home's tree.
    pub(super) fn new(
        migration: SessionId,
        node: String,
        files: FileServer,
        events: mpsc::Sender<(SessionId, FromGuest)>,
    ) -> Self {
        let (link, carrier) = link::link::<HomeToGuest, GuestToHome>();
        let (connections, incoming) = mpsc::channel(1);
        let (outbox, messages) = mpsc::channel(OUTBOX_MESSAGES);
        let sender = link.sender.clone();
        let tasks = vec![
            tokio::spawn(carry(migration, carrier, incoming, events.clone())).abort_handle(),
            tokio::spawn(post(sender.clone(), messages)).abort_handle(),
            tokio::spawn(pump(migration, link.events, events)).abort_handle(),
            tokio::spawn(serve(files, link.files, sender.files())).abort_handle(),
        ];
        Self { sender, outbox, connections, tasks, lost_since: None, node }
    }

    /// Continues over this connection; an older one is dropped.
    pub(super) fn connect(&mut self, stream: BoxedStream, call: Call, epoch: u64) {
        self.lost_since = None;
        if self.connections.try_send((stream, call, epoch)).is_err() {
            tracing::warn!(node = self.node, "a guest dials faster than it can be answered");
        }
    }

    /// Sends a message. Does not wait.
    pub(super) fn tell(&self, message: HomeToGuest) {
        if let Err(error) = self.outbox.try_send(message) {
            tracing::warn!(node = self.node, %error, "a guest does not take messages");
        }
    }
}

async fn post(sender: LinkSender<HomeToGuest>, mut messages: mpsc::Receiver<HomeToGuest>) {
    while let Some(message) = messages.recv().await {
        if let Err(error) = sender.control(&message).await {
            tracing::warn!(%error, "a message to a guest is lost");
        }
    }
}

async fn pump(
    migration: SessionId,
    mut link: mpsc::Receiver<Event<GuestToHome>>,
    events: mpsc::Sender<(SessionId, FromGuest)>,
) {
    while let Some(event) = link.recv().await {
        if events.send((migration, FromGuest::Event(event))).await.is_err() {
            return;
        }
    }
}

async fn serve(files: FileServer, incoming: mpsc::Receiver<Bytes>, outgoing: mpsc::Sender<Bytes>) {
    if let Err(error) = files.serve(incoming, outgoing).await {
        tracing::warn!(%error, "home's files are no longer served to a guest");
    }
}

async fn carry(
    migration: SessionId,
    mut carrier: Carrier<GuestToHome>,
    mut connections: mpsc::Receiver<(BoxedStream, Call, u64)>,
    events: mpsc::Sender<(SessionId, FromGuest)>,
) {
    let mut next = connections.recv().await;
    while let Some((mut stream, call, epoch)) = next {
        let received = carrier.received();
        let end = async {
            match link::welcome(&mut stream, Welcome { epoch, received }).await {
                Ok(()) => carrier.carry(stream, call.received).await,
                Err(error) => error,
            }
        };
        next = tokio::select! {
            error = end => {
                tracing::info!(%migration, %error, "a guest's connection is lost");
                let silence = if matches!(error, LinkError::Silent) { link::SILENCE } else { Duration::ZERO };
                let last_heard = Instant::now().checked_sub(silence).unwrap_or_else(Instant::now);
                if events.send((migration, FromGuest::Disconnected { last_heard })).await.is_err() {
                    return;
                }
                connections.recv().await
            }
            newer = connections.recv() => newer,
        };
    }
}

/// Turns a caller away. Takes its time, so give it a task.
pub(super) async fn refuse(mut stream: BoxedStream, reason: String) {
    if let Err(error) = link::refuse(&mut stream, reason).await {
        tracing::debug!(%error, "a caller did not wait to be refused");
    }
    // Time for the refusal to arrive before the connection is closed.
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// Who calls.
///
/// # Errors
/// If it does not say so in time, or not in our version.
pub(super) async fn call(stream: &mut BoxedStream) -> Result<Call, LinkError> {
    link::receive_call(stream).await
}
