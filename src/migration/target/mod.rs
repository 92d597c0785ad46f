//! The target engine: takes a process tree in from its source's stream, holds it complete but
//! still, and lets it run on home's word.
//!
//! ```text
//!   Begin, images          ─ to tmpfs; then everything at once:
//!   ├─ page daemon         ─ listens for CRIU, puts pages in place
//!   ├─ criu restore        ─ started by the guest's init (Host::start_criu), up to `pre-resume`
//!   └─ Pages, Zeros, End   ─ from the stream to the page daemon
//!   Restored to the source; Host::decide tells home and waits for its word
//!   Run                    ─ CRIU detaches; Running to the source
//! ```
//!
//! Up to `Restored` whatever goes wrong ends the attempt; the guest is torn down and the source,
//! which sees its stream end, asks home for an abort. **From `Restored` on only home's word
//! counts**: the stream to the source may break without harm, because home may have committed
//! already.

mod error;
mod receive;

use std::{
    os::fd::RawFd,
    path::Path,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, split},
    time::timeout,
};

pub use self::error::{HostError, TargetError};
use self::receive::{receive_images, receive_pages};
use super::{
    criu::{self, Connection, CriuError, HeldRestore, RestoreRequest},
    failpoint::failpoint,
    images::ImageDir,
    pages::PageDaemon,
};
use crate::{
    causes::explain,
    job::SessionId,
    proto::criu::PstreeEntry,
    protocol::{
        MoveState,
        moves::{Begin, Control, Frame},
    },
};

/// How long a source may send nothing.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long CRIU may take to restore, pages apart; under emulation a second is usual.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long CRIU may take to detach.
const RESUME_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last words to a source may take; nothing depends on them.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for CRIU's own reason when the page daemon has lost it.
const REASON_TIMEOUT: Duration = Duration::from_secs(2);

/// What was taken in so far, as the host needs it to start CRIU.
pub struct Arrival<'a> {
    /// The source's announcement.
    pub begin: &'a Begin,
    /// The process tree's processes, root first.
    pub tree: &'a [PstreeEntry],
    /// The directory of the images.
    pub images: &'a Path,
}

/// A CRIU that waits for its request.
pub struct StartedCriu {
    /// The way to talk to it.
    pub connection: Connection,
    /// CRIU's names of what is outside the process tree, and the descriptors in its process that
    /// replace it.
    pub inherited: Vec<(String, RawFd)>,
}

/// What the engine asks of the guest agent.
#[async_trait]
pub trait Host: Send + Sync {
    /// Starts `criu swrk` in the guest's world, with the images' directory as [`criu::IMAGES_FD`].
    async fn start_criu(&self, arrival: &Arrival<'_>) -> Result<StartedCriu, HostError>;

    /// Resolves with the reason when the guest is not wanted here any more. Not asked once home has
    /// been told of it.
    async fn given_up(&self) -> HostError {
        std::future::pending().await
    }

    /// The copy is complete and held. Tells home and waits for its word: the epoch if it is to run.
    async fn decide(&self) -> Result<u64, HostError>;
}

/// A process tree that runs here.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// What the source announced.
    pub begin: Begin,
    /// Its processes, root first.
    pub tree: Vec<PstreeEntry>,
    /// The epoch under which it runs.
    pub epoch: u64,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// How long it stood still, from what this node has seen of it.
    pub downtime: Duration,
}

/// Takes a process tree in. On an error the caller kills whatever is in the guest.
///
/// # Errors
/// See [`TargetError`].
pub async fn run<S>(stream: S, migration: SessionId, run_dir: &Path, host: &dyn Host) -> Result<Arrived, TargetError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut reader, mut writer) = split(stream);
    let taken = tokio::select! {
        taken = take_in(&mut reader, migration, run_dir, host) => taken,
        error = host.given_up() => Err(TargetError::Host(error)),
    };
    let decided = match taken {
        Ok(held) => {
            say(&mut writer, Control::Restored).await;
            host.decide().await.map(|epoch| (held, epoch)).map_err(TargetError::Host)
        }
        Err(error) => Err(error),
    };
    let (held, epoch) = match decided {
        Ok(decided) => decided,
        Err(error) => {
            say(&mut writer, Control::Failed { reason: explain(&error) }).await;
            return Err(error);
        }
    };
    let Held { restore, begin, tree, memory_bytes, began, .. } = held;
    restore.resume(RESUME_TIMEOUT).await.map_err(TargetError::Lost)?;
    let downtime = began.elapsed();
    say(&mut writer, Control::Running).await;
    Ok(Arrived { begin, tree, epoch, memory_bytes, downtime })
}

/// A complete process tree that stands still, and its images, which CRIU may still look at.
struct Held {
    restore: HeldRestore,
    begin: Begin,
    tree: Vec<PstreeEntry>,
    memory_bytes: u64,
    /// When the first of it came.
    began: Instant,
    _images: ImageDir,
}

async fn take_in<S: AsyncRead + Send + Unpin>(
    reader: &mut S,
    migration: SessionId,
    run_dir: &Path,
    host: &dyn Host,
) -> Result<Held, TargetError> {
    let begin = match next(reader).await? {
        Frame::Control(Control::Begin(begin)) => begin,
        other => return Err(out_of_turn(&other)),
    };
    let began = Instant::now();
    if begin.migration != migration {
        return Err(TargetError::Other { sent: begin.migration, expected: migration });
    }
    let images = ImageDir::create(run_dir, migration)
        .map_err(|source| TargetError::Images { what: "a directory for images".into(), source })?;
    receive_images(reader, images.path()).await?;
    let tree = criu::tree(images.path())?;
    let mut daemon = PageDaemon::listen(images.path())?;
    let placer = daemon.placer();
    let started = host.start_criu(&Arrival { begin: &begin, tree: &tree, images: images.path() }).await?;
    let request = RestoreRequest { images: images.path(), inherited: started.inherited, limit: RESTORE_TIMEOUT };
    let mut restoring = Box::pin(criu::restore(started.connection, request));
    let mut memory = Box::pin(async {
        match receive_pages(reader, placer).await {
            Ok(memory_bytes) => daemon.complete().await.map(|()| memory_bytes).map_err(TargetError::from),
            Err(error) => {
                // The page daemon's own reason is the better one, if it has any.
                let failed = timeout(Duration::ZERO, daemon.complete()).await.ok().and_then(Result::err);
                Err(failed.map_or(error, TargetError::from))
            }
        }
    });
    let (mut restore, mut placed) = (None, None);
    let (restore, memory_bytes) = loop {
        tokio::select! {
            biased;
            held = &mut restoring, if restore.is_none() => restore = Some(held?),
            bytes = &mut memory, if placed.is_none() => match bytes {
                Ok(bytes) => placed = Some(bytes),
                // If CRIU is the cause, it knows better.
                Err(error) => {
                    let own: Option<CriuError> = match restore {
                        None => timeout(REASON_TIMEOUT, &mut restoring).await.ok().and_then(Result::err),
                        Some(_) => None,
                    };
                    return Err(own.map_or(error, TargetError::from));
                }
            },
        }
        (restore, placed) = match (restore, placed) {
            (Some(restore), Some(bytes)) => break (restore, bytes),
            one => one,
        };
    };
    drop((restoring, memory));
    failpoint(run_dir, MoveState::Restore).await;
    Ok(Held { restore, begin, tree, memory_bytes, began, _images: images })
}

/// The source's next frame. Its failure, silence or the end of the stream is an error.
async fn next(reader: &mut (impl AsyncRead + Unpin)) -> Result<Frame, TargetError> {
    let frame = timeout(SOURCE_TIMEOUT, Frame::read(reader)).await;
    match frame.map_err(|_| TargetError::Silent(SOURCE_TIMEOUT))?? {
        Some(Frame::Control(Control::Failed { reason })) => Err(TargetError::GivenUp(reason)),
        Some(frame) => Ok(frame),
        None => Err(TargetError::Closed),
    }
}

fn out_of_turn(frame: &Frame) -> TargetError {
    TargetError::OutOfTurn(match frame {
        Frame::Control(control) => format!("{control:?}"),
        Frame::Image { name, .. } => format!("image {name}"),
        Frame::Pages(_) | Frame::Zeros { .. } => "pages".into(),
    })
}

/// Tells the source, if it still listens.
async fn say(writer: &mut (impl AsyncWrite + Unpin), control: Control) {
    let write = async {
        let bytes = Frame::Control(control).encode().map_err(explain)?;
        writer.write_all(&bytes).await.map_err(explain)?;
        writer.flush().await.map_err(explain)
    };
    match timeout(FAREWELL_TIMEOUT, write).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error, "the source was not told"),
        Err(_) => tracing::debug!("the source took nothing"),
    }
}
