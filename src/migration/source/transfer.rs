//! Sending a frozen and dumped process tree.

use std::{
    io::Read,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt, WriteHalf},
    time::timeout,
};

use super::SourceError;
use crate::{
    migration::{
        criu::LOG_NAME,
        pages::{self, Sent},
    },
    protocol::moves::{Begin, Control, Frame, MAX_DATA_BYTES},
    sys::proc::Process,
};

/// How long the last word to a target may take; nothing depends on it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often progress is reported while pages are sent.
const REPORT_EVERY: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Default)]
struct Counters {
    memory_bytes: u64,
    wire_bytes: u64,
}

/// How far a transfer has got; clones share it.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<Mutex<Counters>>);

impl Progress {
    fn counters(&self) -> MutexGuard<'_, Counters> {
        // Plain numbers: nothing can be half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory covered and bytes on the wire.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let counters = self.counters();
        (counters.memory_bytes, counters.wire_bytes)
    }
}

/// Sends everything from `Begin` to the last page. A target that takes nothing for `patience` is
/// given up.
pub(super) async fn send_tree<S: AsyncWrite>(
    to: &mut WriteHalf<S>,
    begin: Begin,
    images: &Path,
    processes: &[Process],
    progress: &Progress,
    report: &(dyn Fn() + Sync),
    patience: Duration,
) -> Result<Sent, SourceError> {
    let mut to = Patient { to, patience };
    to.send(&Frame::Control(Control::Begin(begin))).await?;
    let mut image_bytes = 0;
    for name in image_names(images).map_err(SourceError::io("list the images"))? {
        image_bytes += send_image(&mut to, images, &name).await?;
    }
    progress.counters().wire_bytes = image_bytes;
    to.send(&Frame::Control(Control::ImagesEnd)).await?;
    let areas = pages::plan(images, processes)?;
    let mut reported = Instant::now();
    let count = |sent: &Sent| {
        let mut counters = progress.counters();
        counters.memory_bytes = sent.memory_bytes();
        counters.wire_bytes = image_bytes + sent.wire_bytes;
        drop(counters);
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            report();
        }
    };
    let sent = pages::send(areas, to.to, count, patience).await?;
    tracing::debug!(
        pages = sent.pages,
        zeros = sent.zeros,
        wire_bytes = sent.wire_bytes,
        image_bytes,
        "process tree sent"
    );
    Ok(sent)
}

/// Sends `PagesEnd`: from now on the target may be complete at any moment.
pub(super) async fn send_end<S: AsyncWrite>(
    to: &mut WriteHalf<S>,
    sent: &Sent,
    patience: Duration,
) -> Result<(), SourceError> {
    Patient { to, patience }.send(&Frame::Control(Control::PagesEnd { pages: sent.pages, zeros: sent.zeros })).await
}

/// Tells the target why there will be nothing more, if it still listens.
pub(super) async fn send_failure<S: AsyncWrite>(to: &mut WriteHalf<S>, reason: &str) {
    let mut to = Patient { to, patience: FAREWELL_TIMEOUT };
    if let Err(error) = to.send(&Frame::Control(Control::Failed { reason: reason.into() })).await {
        tracing::debug!(%error, "the target was not told");
    }
}

/// A writer that does not wait for ever.
struct Patient<'a, S> {
    to: &'a mut WriteHalf<S>,
    patience: Duration,
}

impl<S: AsyncWrite> Patient<'_, S> {
    async fn send(&mut self, frame: &Frame) -> Result<(), SourceError> {
        let bytes = frame.encode()?;
        let write = async {
            self.to.write_all(&bytes).await?;
            self.to.flush().await
        };
        timeout(self.patience, write)
            .await
            .map_err(|_| SourceError::NothingTaken(self.patience))?
            .map_err(SourceError::Broken)
    }
}

/// CRIU's files, without its log and statistics.
fn image_names(images: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(images)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".img") && name != LOG_NAME {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

async fn send_image<S: AsyncWrite>(to: &mut Patient<'_, S>, images: &Path, name: &str) -> Result<u64, SourceError> {
    let failed = || SourceError::io(format!("read image {name}"));
    let file = std::fs::File::open(images.join(name)).map_err(failed())?;
    let length = file.metadata().map_err(failed())?.len();
    let mut sent = 0;
    loop {
        let room = (length - sent).min(MAX_DATA_BYTES as u64);
        let mut part = Vec::with_capacity(room as usize);
        // The file is in memory, reading it does not block.
        let read = (&file).take(room).read_to_end(&mut part).map_err(failed())? as u64;
        to.send(&Frame::Image { name: name.into(), data: Bytes::from(part) }).await?;
        sent += read;
        if sent == length || read == 0 {
            return Ok(sent);
        }
    }
}
