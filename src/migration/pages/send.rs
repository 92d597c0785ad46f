//! The source's side: reads the frozen process tree and writes batches to the stream, reading,
//! compressing and sending at once.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use lz4_flex::block::{compress_into, get_maximum_output_size};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};

use super::{Area, Pace, PageError};
use crate::{
    migration::criu::Range,
    protocol::moves::{Frame, MAX_DATA_BYTES, PAGE_BYTES, Pages},
};

/// Batches between readers and writer: bounds the memory held by them to a few MiB.
const QUEUE_BATCHES: usize = 4;
/// A batch goes to the writer once it has so many bytes: memory in which pages of zeros and others
/// alternate makes frames of some dozen bytes.
const BATCH_BYTES: usize = 256 << 10;
/// The most threads that read and compress.
const MAX_READERS: usize = 4;
/// How much is written before the link's speed is taken, in bytes: more than socket buffers hold at
/// once.
const MEASURE_BYTES: usize = 4 << 20;

/// What has been sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Pages with something in them.
    pub pages: u64,
    /// Pages of zeros, which were only named.
    pub zeros: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
}

impl Sent {
    /// Memory covered so far, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        (self.pages + self.zeros) * PAGE_BYTES
    }
}

/// Frames as readers hand them to the writer.
#[derive(Default)]
struct Batch {
    bytes: BytesMut,
    pages: u64,
    zeros: u64,
}

/// Sends all pages of `areas`, and tells `progress` after each batch. A receiver that takes nothing
/// for `patience` is given up. Dropping the future stops the readers.
pub async fn send(
    areas: Vec<Area>,
    to: &mut (impl AsyncWrite + Unpin),
    mut progress: impl FnMut(&Sent),
    patience: Duration,
) -> Result<Sent, PageError> {
    let areas: Arc<Vec<Area>> = Arc::new(areas.into_iter().flat_map(split).collect());
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_READERS);
    let pace = Arc::new(Pace::new(readers));
    let next = Arc::new(AtomicUsize::new(0));
    let (queue, mut batches) = mpsc::channel(QUEUE_BATCHES);
    for _ in 0..readers {
        let (areas, pace, next, queue) = (areas.clone(), pace.clone(), next.clone(), queue.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_all(&areas, &next, &pace, &queue) {
                // A writer that has gone knows why.
                let _ = queue.blocking_send(Err(error));
            }
        });
    }
    drop(queue);
    let mut sent = Sent::default();
    let (mut written, mut busy_ns) = (0, 0);
    while let Some(batch) = batches.recv().await {
        let batch: Batch = batch?;
        let begun = Instant::now();
        let written_all = timeout(patience, to.write_all(&batch.bytes)).await;
        written_all.map_err(|_| PageError::Closed)?.map_err(|_| PageError::Closed)?;
        busy_ns += elapsed_ns(begun);
        written += batch.bytes.len();
        if written >= MEASURE_BYTES {
            pace.written(written, busy_ns);
            (written, busy_ns) = (0, 0);
        }
        sent.pages += batch.pages;
        sent.zeros += batch.zeros;
        sent.wire_bytes += batch.bytes.len() as u64;
        progress(&sent);
    }
    timeout(patience, to.flush()).await.map_err(|_| PageError::Closed)?.map_err(|_| PageError::Closed)?;
    Ok(sent)
}

fn split(area: Area) -> impl Iterator<Item = Area> {
    let Range { start, end } = area.range;
    let step = MAX_DATA_BYTES as u64;
    (start..end)
        .step_by(MAX_DATA_BYTES)
        .map(move |start| Area { range: Range { start, end: end.min(start + step) }, ..area })
}

/// One reader: takes the next free area, until there is none or the receiver is gone.
fn read_all(
    areas: &[Area],
    next: &AtomicUsize,
    pace: &Pace,
    queue: &mpsc::Sender<Result<Batch, PageError>>,
) -> Result<(), PageError> {
    let mut buffer = vec![0; MAX_DATA_BYTES];
    let mut packed = Vec::new();
    let mut memory: Option<(i32, File)> = None;
    let mut batch = Batch::default();
    while let Some(area) = areas.get(next.fetch_add(1, Ordering::Relaxed)) {
        let failed = |source| PageError::Read { pid: area.pid, address: area.range.start, source };
        let file = match memory.take() {
            Some((pid, file)) if pid == area.pid => file,
            // Unlike process_vm_readv this also reads areas that the process tree has forbidden
            // itself to read.
            _ => File::open(format!("/proc/{}/mem", area.pid)).map_err(failed)?,
        };
        let bytes = &mut buffer[..area.range.bytes() as usize];
        file.read_exact_at(bytes, area.range.start).map_err(failed)?;
        memory = Some((area.pid, file));
        for run in runs(bytes) {
            batch.add(area, &run, bytes, pace, &mut packed)?;
        }
        if batch.bytes.len() >= BATCH_BYTES && queue.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
            return Ok(());
        }
    }
    if !batch.bytes.is_empty() {
        let _ = queue.blocking_send(Ok(batch));
    }
    Ok(())
}

/// A run of pages that all are zero or all are not.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    zero: bool,
    first_page: usize,
    pages: usize,
}

fn runs(bytes: &[u8]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (page, content) in bytes.chunks(PAGE_BYTES as usize).enumerate() {
        let zero = *content == ZEROS[..content.len()];
        match runs.last_mut() {
            Some(run) if run.zero == zero => run.pages += 1,
            _ => runs.push(Run { zero, first_page: page, pages: 1 }),
        }
    }
    runs
}

/// A page of zeros, to compare with: that is the C library's work, fast in every build of ours.
static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

impl Batch {
    /// Adds a run of pages of `area`, whose memory is in `bytes`. `packed` is room to compress in.
    fn add(
        &mut self,
        area: &Area,
        run: &Run,
        bytes: &[u8],
        pace: &Pace,
        packed: &mut Vec<u8>,
    ) -> Result<(), PageError> {
        let page = PAGE_BYTES as usize;
        let (pid, start) = (area.inner_pid, area.range.start + (run.first_page * page) as u64);
        let pages = run.pages as u64;
        let frame = if run.zero {
            self.zeros += pages;
            Frame::Zeros { pid, start, pages }
        } else {
            self.pages += pages;
            Frame::Pages(pack(pid, start, &bytes[run.first_page * page..][..run.pages * page], pace, packed))
        };
        frame.encode_into(&mut self.bytes).map_err(|error| PageError::Unexpected(error.to_string()))
    }
}

/// At most [`MAX_DATA_BYTES`] of memory as a frame, compressed if that pays.
fn pack(pid: i32, start: u64, raw: &[u8], pace: &Pace, packed: &mut Vec<u8>) -> Pages {
    let mut data = None;
    if pace.compress_next() {
        let begun = Instant::now();
        // Kept from frame to frame, as it must not be uninitialised.
        packed.resize(packed.len().max(get_maximum_output_size(raw.len())), 0);
        // It fails only for want of room.
        let length = compress_into(raw, packed).unwrap_or(usize::MAX);
        pace.compressed(raw.len(), length.min(raw.len()), elapsed_ns(begun));
        // What hardly shrinks is not worth unpacking.
        data = packed.get(..length).filter(|_| length < raw.len() / 16 * 15);
    }
    Pages {
        pid,
        start,
        length: raw.len() as u32,
        crc: crc32c::crc32c(raw),
        compressed: data.is_some(),
        data: Bytes::copy_from_slice(data.unwrap_or(raw)),
    }
}

fn elapsed_ns(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_alternate_and_cover_all() {
        let mut bytes = vec![0u8; 5 * 4096];
        bytes[4096 + 4095] = 1;
        bytes[2 * 4096] = 1;
        let all = runs(&bytes);
        assert_eq!(
            all,
            [
                Run { zero: true, first_page: 0, pages: 1 },
                Run { zero: false, first_page: 1, pages: 2 },
                Run { zero: true, first_page: 3, pages: 2 }
            ]
        );
    }

    #[tokio::test]
    async fn own_memory_is_sent_and_comes_out_alike() {
        // Page-aligned memory of this process: three pages of text, two of zeros, one of noise.
        let mut memory = vec![0u8; 8 * 4096];
        let start = memory.as_ptr().align_offset(4096);
        memory[start..start + 3 * 4096].fill(b'x');
        for byte in &mut memory[start + 5 * 4096..start + 6 * 4096] {
            *byte = rand::random();
        }
        let address = memory[start..].as_ptr() as u64;
        let pid = i32::try_from(std::process::id()).unwrap();
        let area = Area { pid, inner_pid: 7, range: Range { start: address, end: address + 6 * 4096 } };
        let mut wire = Vec::new();
        let sent = send(vec![area], &mut wire, |_| {}, Duration::from_secs(5)).await.unwrap();
        assert_eq!((sent.pages, sent.zeros, sent.wire_bytes), (4, 2, wire.len() as u64));

        let mut rebuilt = vec![0xff; 6 * 4096];
        let mut reader = wire.as_slice();
        while let Some(frame) = Frame::read(&mut reader).await.unwrap() {
            match frame {
                Frame::Pages(pages) => {
                    assert_eq!(pages.pid, 7);
                    let raw = match pages.compressed {
                        true => lz4_flex::block::decompress(&pages.data, pages.length as usize).unwrap(),
                        false => pages.data.to_vec(),
                    };
                    assert_eq!(crc32c::crc32c(&raw), pages.crc);
                    rebuilt[(pages.start - address) as usize..][..raw.len()].copy_from_slice(&raw);
                }
                Frame::Zeros { start, pages, .. } => {
                    rebuilt[(start - address) as usize..][..pages as usize * 4096].fill(0);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(rebuilt, memory[start..start + 6 * 4096]);
    }

    #[tokio::test]
    async fn memory_that_is_not_there_is_an_error() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let area = Area { pid, inner_pid: 7, range: Range { start: 0x1000, end: 0x2000 } };
        let sent = send(vec![area], &mut Vec::new(), |_| {}, Duration::from_secs(5)).await;
        assert!(matches!(sent, Err(PageError::Read { address: 0x1000, .. })), "{sent:?}");
    }
}
