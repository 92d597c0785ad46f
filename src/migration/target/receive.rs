//! From the stream to tmpfs and into memory.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{io::AsyncRead, sync::mpsc, task::JoinSet};

use super::{TargetError, next, out_of_turn};
use crate::{
    migration::pages::{PageError, Placer},
    protocol::moves::{Control, Frame, PAGE_BYTES, Pages},
};

/// Threads that unpack and place.
const PLACERS: usize = 2;
/// Batches between the stream and them: a few MiB.
const QUEUE: usize = 4;
/// The most that images may need in all, in bytes: they hold no pages but those of shared memory
/// and of stacks.
const MAX_IMAGE_BYTES: u64 = 4 << 30;

/// Writes image files until the source says that these were all.
pub(super) async fn receive_images(reader: &mut (impl AsyncRead + Unpin), images: &Path) -> Result<(), TargetError> {
    let mut current: Option<(String, File)> = None;
    let mut total = 0;
    loop {
        let (name, data) = match next(reader).await? {
            Frame::Image { name, data } => (name, data),
            Frame::Control(Control::ImagesEnd) => return Ok(()),
            other => return Err(out_of_turn(&other)),
        };
        total += data.len() as u64;
        if total > MAX_IMAGE_BYTES {
            return Err(TargetError::TooLarge);
        }
        let failed = |source| TargetError::Images { what: format!("image {name}"), source };
        let mut file = match current.take() {
            Some((open, file)) if open == name => file,
            // A name that comes again after another one is no protocol of ours.
            _ => {
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(images.join(&name)).map_err(failed)?
            }
        };
        // The file is in memory, writing it does not block.
        file.write_all(&data).map_err(failed)?;
        current = Some((name, file));
    }
}

/// Hands pages to the page daemon until the source says that these were all. Returns the size of
/// the memory that they cover.
pub(super) async fn receive_pages(reader: &mut (impl AsyncRead + Unpin), placer: Placer) -> Result<u64, TargetError> {
    let (queue, batches) = mpsc::channel::<Pages>(QUEUE);
    let batches = Arc::new(Mutex::new(batches));
    let mut workers = JoinSet::new();
    for _ in 0..PLACERS {
        let (batches, placer) = (batches.clone(), placer.clone());
        workers.spawn_blocking(move || {
            loop {
                // Only one waits at a time; the others have work.
                let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                match batch {
                    Some(batch) => placer.place(&batch)?,
                    None => return Ok::<(), PageError>(()),
                }
            }
        });
    }
    let (pages, zeros) = loop {
        match next(reader).await? {
            Frame::Pages(batch) => {
                if queue.send(batch).await.is_err() {
                    break (0, 0);
                }
            }
            Frame::Zeros { pid, start, pages } => placer.zeros(pid, start, pages)?,
            Frame::Control(Control::PagesEnd { pages, zeros }) => break (pages, zeros),
            other => return Err(out_of_turn(&other)),
        }
    };
    drop(queue);
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    placer.end(pages, zeros)?;
    Ok(pages.saturating_add(zeros).saturating_mul(PAGE_BYTES))
}
