//! The home link: one conversation between a guest agent and the home agent that outlives its
//! connections; and what both ends know of what it carries, files and stdio.
//!
//! ```text
//!   LinkSender ──control, stdio──► [lane] ─┐                    ┌─► Link::events   in the order sent
//!              ──files───────────► [lane] ─┴► Carrier ══TLS══► Carrier ─┴─► Link::files
//!                                             keeps what the       counts what it has
//!                                             peer has not acked   handed on, tells the peer
//! ```
//!
//! A [`Carrier`] moves frames over one stream until the stream fails; then it can be given the next
//! one. Each side counts the counted frames that it has handed on. The handshake exchanges the
//! counts, so the sender drops what arrived and sends the rest again. The two lanes take turns, so
//! files cannot hold up control. A side that hears nothing for [`SILENCE`] gives the connection up;
//! both send [`Frame::Alive`] every [`HEARTBEAT`], independent of what they read, so a side whose
//! queues are full still counts as alive. All queues are bounded; at most [`UNACKED_BYTES`] wait
//! for an acknowledgement.

pub mod files;
pub mod relay;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, interval, timeout};

use crate::protocol::{
    Protocol, ProtocolError,
    home::{Call, Frame, Refused, Stdio, StdioOp, Welcome},
};

/// How often each side says that it is there.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes, or nothing can be sent, for so long is dead.
pub const SILENCE: Duration = Duration::from_secs(15);
/// The two of them, for a carrier.
const PACE: Pace = Pace { heartbeat: HEARTBEAT, silence: SILENCE };
/// Time for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Frames that each lane and each inbox holds.
const QUEUE_FRAMES: usize = 256;
/// Stop sending stdio and files when so many bytes wait for their acknowledgement.
pub const UNACKED_BYTES: usize = 4 << 20;
/// Acknowledge after so many bytes or frames, without waiting for the heartbeat.
const ACK_BYTES: u64 = 256 << 10;
const ACK_FRAMES: u64 = 64;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The stream failed or was closed.
    #[error("the connection between home and guest failed")]
    Io(#[from] std::io::Error),
    /// Nothing came, or nothing could be sent, in time.
    #[error("the other side of the home link has been silent for too long")]
    Silent,
    /// The other side does not speak our protocol.
    #[error("the other side of the home link does not follow the protocol")]
    Protocol(#[source] ProtocolError),
    /// Home turned the guest away.
    #[error("home refused: {0}")]
    Refused(String),
    /// Both queues of this side are closed: nothing uses the link any more.
    #[error("the home link was closed on this side")]
    Closed,
}

impl From<ProtocolError> for LinkError {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::Silent { .. } => Self::Silent,
            ProtocolError::Io { source, .. } => Self::Io(source),
            ProtocolError::CutOff { .. } => Self::Io(std::io::ErrorKind::UnexpectedEof.into()),
            other => Self::Protocol(other),
        }
    }
}

/// What arrives in order on the first lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<In> {
    /// A control message.
    Control(In),
    /// A step on a stdio channel.
    Stdio(Stdio),
}

/// The sending side; clones share the lanes.
pub struct LinkSender<Out> {
    ordered: mpsc::Sender<Frame>,
    files: mpsc::Sender<Bytes>,
    message: PhantomData<fn(Out)>,
}

/// The sending side for stdio only, whatever the control messages are.
#[derive(Clone)]
pub struct StdioSender(mpsc::Sender<Frame>);

/// All ends of a link that a user of it holds.
pub struct Link<Out, In> {
    /// Sends.
    pub sender: LinkSender<Out>,
    /// Control and stdio from the other side. Its reader must be quick: a full queue holds up files
    /// too.
    pub events: mpsc::Receiver<Event<In>>,
    /// Opaque payloads of the file protocol.
    pub files: mpsc::Receiver<Bytes>,
}

/// Moves the frames of one link over one stream after the other.
pub struct Carrier<In> {
    ordered: mpsc::Receiver<Frame>,
    files: mpsc::Receiver<Bytes>,
    outbox: Outbox,
    inbox: Inbox<In>,
    counts: Counts,
    files_turn: bool,
    pace: Pace,
}

#[derive(Clone, Copy)]
struct Pace {
    heartbeat: Duration,
    silence: Duration,
}

/// Encoded counted frames that the peer has not acknowledged; the first `sent` of them are on this
/// connection.
#[derive(Default)]
struct Outbox {
    frames: VecDeque<Bytes>,
    sent: usize,
    bytes: usize,
    /// Number of frames that were acknowledged and dropped.
    acked: u64,
}

struct Inbox<In> {
    events: mpsc::Sender<Event<In>>,
    files: mpsc::Sender<Bytes>,
}

/// What the reading and the writing half of a connection tell each other.
#[derive(Default)]
struct Counts {
    /// Counted frames handed on here, and by the peer as far as we know.
    received: AtomicU64,
    peer_received: AtomicU64,
    ack_due: AtomicBool,
    wake_writer: Notify,
}

/// A link and its carrier; `Out` is what this side says, `In` what it hears.
pub fn link<Out: Serialize, In: DeserializeOwned>() -> (Link<Out, In>, Carrier<In>) {
    let (ordered_tx, ordered) = mpsc::channel(QUEUE_FRAMES);
    let (files_tx, files) = mpsc::channel(QUEUE_FRAMES);
    let (events_in, events) = mpsc::channel(QUEUE_FRAMES);
    let (files_in, files_out) = mpsc::channel(QUEUE_FRAMES);
    let sender = LinkSender { ordered: ordered_tx, files: files_tx, message: PhantomData };
    let inbox = Inbox { events: events_in, files: files_in };
    let carrier = Carrier {
        ordered,
        files,
        outbox: Outbox::default(),
        inbox,
        counts: Counts::default(),
        files_turn: false,
        pace: PACE,
    };
    (Link { sender, events, files: files_out }, carrier)
}

// === impl LinkSender ===

impl<Out> Clone for LinkSender<Out> {
    fn clone(&self) -> Self {
        Self { ordered: self.ordered.clone(), files: self.files.clone(), message: PhantomData }
    }
}

impl<Out: Serialize> LinkSender<Out> {
    /// Sends a control message after all control and stdio sent before it.
    ///
    /// # Errors
    /// [`LinkError::Closed`] if the carrier is gone; [`LinkError::Protocol`] if the message cannot
    /// be encoded.
    pub async fn control(&self, message: &Out) -> Result<(), LinkError> {
        let json = serde_json::to_vec(message).map_err(Protocol::Home.json())?;
        self.ordered.send(Frame::Control(json.into())).await.map_err(|_| LinkError::Closed)
    }

    /// Whether both are ends of the same link.
    pub fn is_same(&self, other: &Self) -> bool {
        self.ordered.same_channel(&other.ordered)
    }

    /// Where relays put their steps; they stay in order with control messages.
    pub fn stdio(&self) -> StdioSender {
        StdioSender(self.ordered.clone())
    }

    /// Where the file protocol puts its payloads, each at most
    /// [`crate::protocol::home::MAX_PAYLOAD_BYTES`].
    pub fn files(&self) -> mpsc::Sender<Bytes> {
        self.files.clone()
    }
}

// === impl StdioSender ===

impl StdioSender {
    /// Sends a step on a stdio channel, waiting while the link is full.
    ///
    /// # Errors
    /// [`LinkError::Closed`] if the carrier is gone.
    pub async fn send(&self, channel: u32, op: StdioOp) -> Result<(), LinkError> {
        self.0.send(Frame::Stdio(Stdio { channel, op })).await.map_err(|_| LinkError::Closed)
    }
}

// === impl Carrier ===

impl<In: DeserializeOwned> Carrier<In> {
    /// How many counted frames this side has handed on; what [`Call`] and [`Welcome`] tell.
    pub fn received(&self) -> u64 {
        self.counts.received.load(Ordering::Acquire)
    }

    /// Carries frames over `stream` until it fails; `peer_received` is from the handshake on this
    /// stream. May be called again, and may be dropped at any time, with the next stream.
    pub async fn carry<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: S, peer_received: u64) -> LinkError {
        let Self { ordered, files, outbox, inbox, counts, files_turn, pace } = self;
        counts.peer_received.store(peer_received, Ordering::Release);
        outbox.sent = 0;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let reading = read_frames(&mut reader, inbox, counts, *pace);
        let writing = write_frames(&mut writer, Lanes { ordered, files, files_turn }, outbox, counts, *pace);
        tokio::select! {
            Err(error) = reading => error,
            Err(error) = writing => error,
        }
    }
}

// === impl Outbox ===

impl Outbox {
    fn push(&mut self, frame: &Frame) -> Result<(), ProtocolError> {
        let bytes = frame.encode()?;
        self.bytes += bytes.len();
        self.frames.push_back(bytes);
        Ok(())
    }

    /// Drops what the peer has. A peer that claims more than was sent breaks the protocol.
    fn acknowledge(&mut self, peer_received: u64) -> Result<(), ProtocolError> {
        while self.acked < peer_received {
            let frame =
                self.frames.pop_front().ok_or_else(|| Protocol::Home.malformed("more acknowledged than sent"))?;
            self.bytes -= frame.len();
            self.acked += 1;
            self.sent = self.sent.saturating_sub(1);
        }
        Ok(())
    }
}

// === the two halves of a connection ===

async fn read_frames<R: AsyncRead + Unpin, In: DeserializeOwned>(
    reader: &mut R,
    inbox: &Inbox<In>,
    counts: &Counts,
    pace: Pace,
) -> Result<std::convert::Infallible, LinkError> {
    let (mut bytes_since_ack, mut acked) = (0, counts.received.load(Ordering::Acquire));
    loop {
        let frame = read_frame(reader, pace.silence).await?;
        match frame {
            Frame::Control(json) => {
                let message = serde_json::from_slice(&json).map_err(Protocol::Home.json())?;
                inbox.events.send(Event::Control(message)).await.map_err(|_| LinkError::Closed)?;
            }
            Frame::Stdio(stdio) => {
                bytes_since_ack += if let StdioOp::Data(data) = &stdio.op { data.len() as u64 } else { 0 };
                inbox.events.send(Event::Stdio(stdio)).await.map_err(|_| LinkError::Closed)?;
            }
            Frame::Files(bytes) => {
                bytes_since_ack += bytes.len() as u64;
                inbox.files.send(bytes).await.map_err(|_| LinkError::Closed)?;
            }
            Frame::Alive(peer_received) => {
                counts.peer_received.fetch_max(peer_received, Ordering::AcqRel);
                counts.wake_writer.notify_one();
                continue;
            }
            Frame::Call(_) | Frame::Welcome(_) | Frame::Refused(_) => {
                return Err(Protocol::Home.malformed("a second call").into());
            }
        }
        // Nothing awaits between handing a frame on and counting it, so a cancelled connection
        // counts exactly.
        let received = counts.received.fetch_add(1, Ordering::AcqRel) + 1;
        if bytes_since_ack >= ACK_BYTES || received - acked >= ACK_FRAMES {
            (bytes_since_ack, acked) = (0, received);
            counts.ack_due.store(true, Ordering::Release);
            counts.wake_writer.notify_one();
        }
    }
}

struct Lanes<'a> {
    ordered: &'a mut mpsc::Receiver<Frame>,
    files: &'a mut mpsc::Receiver<Bytes>,
    files_turn: &'a mut bool,
}

impl Lanes<'_> {
    /// The next frame, the lanes taking turns. Cancel safe.
    async fn next(&mut self) -> Result<Frame, LinkError> {
        if *self.files_turn
            && let Ok(bytes) = self.files.try_recv()
        {
            *self.files_turn = false;
            return Ok(Frame::Files(bytes));
        }
        tokio::select! {
            biased;
            Some(frame) = self.ordered.recv() => {
                *self.files_turn = true;
                Ok(frame)
            }
            Some(bytes) = self.files.recv() => Ok(Frame::Files(bytes)),
            else => Err(LinkError::Closed),
        }
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut lanes: Lanes<'_>,
    outbox: &mut Outbox,
    counts: &Counts,
    pace: Pace,
) -> Result<std::convert::Infallible, LinkError> {
    let mut heartbeat = interval(pace.heartbeat);
    loop {
        outbox.acknowledge(counts.peer_received.load(Ordering::Acquire))?;
        while let Some(frame) = outbox.frames.get(outbox.sent).cloned() {
            outbox.sent += 1;
            write(writer, &frame, pace.silence).await?;
        }
        if counts.ack_due.swap(false, Ordering::AcqRel) {
            write(writer, &Frame::Alive(counts.received.load(Ordering::Acquire)).encode()?, pace.silence).await?;
        }
        let has_room = outbox.bytes < UNACKED_BYTES;
        tokio::select! {
            frame = lanes.next(), if has_room => outbox.push(&frame?)?,
            () = counts.wake_writer.notified() => {}
            _ = heartbeat.tick() => counts.ack_due.store(true, Ordering::Release),
        }
    }
}

async fn write<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8], patience: Duration) -> Result<(), LinkError> {
    let all = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    Ok(timeout(patience, all).await.map_err(|_| LinkError::Silent)??)
}

/// Reads one frame; each of its parts must come within `patience`.
async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R, patience: Duration) -> Result<Frame, LinkError> {
    Ok(Frame::read(reader, patience).await?.ok_or(ProtocolError::CutOff { protocol: Protocol::Home })?)
}

// === handshake ===

/// The guest's half of the handshake on a fresh connection.
///
/// # Errors
/// [`LinkError::Refused`] if home turns the guest away: it must end. Other errors may pass: dial
/// again.
pub async fn call_home<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, call: Call) -> Result<Welcome, LinkError> {
    write(stream, &Frame::Call(call).encode()?, HANDSHAKE).await?;
    match read_frame(stream, HANDSHAKE).await? {
        Frame::Welcome(welcome) => Ok(welcome),
        Frame::Refused(refused) => Err(LinkError::Refused(refused.reason)),
        _ => Err(Protocol::Home.malformed("no welcome").into()),
    }
}

/// Home's half, first step: who calls. Answer with [`welcome`] or [`refuse`].
///
/// # Errors
/// If no proper [`Call`] comes in time.
pub async fn receive_call<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<Call, LinkError> {
    let deadline = Instant::now() + HANDSHAKE;
    let frame =
        tokio::time::timeout_at(deadline, read_frame(stream, HANDSHAKE)).await.map_err(|_| LinkError::Silent)??;
    let Frame::Call(call) = frame else { return Err(Protocol::Home.malformed("no call").into()) };
    Ok(call)
}

/// Home's half, second step: accept.
///
/// # Errors
/// If the stream fails.
pub async fn welcome<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, welcome: Welcome) -> Result<(), LinkError> {
    write(stream, &Frame::Welcome(welcome).encode()?, HANDSHAKE).await
}

/// Home's half, second step: refuse.
///
/// # Errors
/// If the stream fails.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, reason: String) -> Result<(), LinkError> {
    write(stream, &Frame::Refused(Refused { reason }).encode()?, HANDSHAKE).await
}

#[cfg(test)]
mod tests;
