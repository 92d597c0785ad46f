//! The daemon against a stand-in for CRIU: this process registers memory of its own.

use std::{io::Write, os::fd::AsRawFd};

use bytes::Bytes;
use prost::Message;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use userfaultfd::UffdBuilder;

use super::*;
use crate::proto::criu::{PagemapEntry, PagemapHead, PstreeEntry};

const PID: i32 = 77;
const PAGE: usize = PAGE_BYTES as usize;

/// Fresh memory of whole pages, never touched.
struct Memory(*mut u8, usize);

impl Memory {
    fn new(pages: usize) -> Self {
        // SAFETY: a private anonymous mapping at a place that the kernel chooses.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), pages * PAGE, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        assert_ne!(at, libc::MAP_FAILED);
        Self(at.cast(), pages)
    }

    fn at(&self, page: usize) -> u64 {
        self.0 as u64 + (page * PAGE) as u64
    }

    fn page(&self, page: usize) -> &[u8] {
        assert!(page < self.1);
        // SAFETY: inside the mapping, which lives as long as the test.
        unsafe { std::slice::from_raw_parts(self.0.add(page * PAGE), PAGE) }
    }
}

fn image(magics: [u32; 2], messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes: Vec<u8> = magics.iter().flat_map(|magic| magic.to_le_bytes()).collect();
    for message in messages {
        bytes.extend((message.len() as u32).to_le_bytes());
        bytes.extend(message);
    }
    bytes
}

/// Images of one process whose `pages` pages from `start` on were left out.
fn images(start: u64, pages: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let process = PstreeEntry { pid: PID as u32, ppid: 1, pgid: 1, sid: 1, threads: vec![PID as u32] };
    std::fs::write(dir.path().join("pstree.img"), image([0x5456_4319, 0x5027_3030], &[process.encode_to_vec()]))
        .unwrap();
    let head = PagemapHead { pages_id: 1 }.encode_to_vec();
    let entry = PagemapEntry { vaddr: start, compat_nr_pages: pages, flags: Some(2), nr_pages: None }.encode_to_vec();
    let pagemap = image([0x5456_4319, 0x5608_4025], &[head, entry]);
    std::fs::write(dir.path().join(format!("pagemap-{PID}.img")), pagemap).unwrap();
    dir
}

fn announce(criu: &mut UnixStream, uffd: &Uffd) {
    criu.write_all(&PID.to_ne_bytes()).unwrap();
    // SAFETY: the descriptor outlives this call.
    let fds = [unsafe { std::os::fd::BorrowedFd::borrow_raw(uffd.as_raw_fd()) }];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(criu, &[std::io::IoSlice::new(&[0])], &mut control, SendFlags::empty()).unwrap();
}

fn batch(memory: &Memory, page: usize, bytes: &[u8], compressed: bool) -> Pages {
    let data = if compressed { lz4_flex::block::compress(bytes) } else { bytes.to_vec() };
    Pages {
        pid: PID,
        start: memory.at(page),
        length: bytes.len() as u32,
        crc: crc32c::crc32c(bytes),
        compressed,
        data: Bytes::from(data),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_come_early_late_as_zeros_and_by_fault() {
    let memory = Memory::new(6);
    // Pages 0 to 4 were left out; page 5 was not, it belongs to none.
    let dir = images(memory.at(0), 5);
    let mut daemon = PageDaemon::listen(dir.path()).unwrap();
    let placer = daemon.placer();
    let uffd = UffdBuilder::new().close_on_exec(true).non_blocking(true).user_mode_only(true).create().unwrap();

    // Early: there is not even a descriptor.
    placer.place(&batch(&memory, 0, &[1; PAGE], false)).unwrap();
    let mut criu = UnixStream::connect(dir.path().join(SOCKET_NAME)).unwrap();
    announce(&mut criu, &uffd);
    placer.place(&batch(&memory, 1, &[2; 2 * PAGE], true)).unwrap();
    uffd.register(memory.0.cast(), 6 * PAGE).unwrap();
    drop(uffd);

    // A fault where nothing is expected is answered with zeros at once, one where something is
    // waits for it.
    let base = memory.0 as usize;
    let reader = std::thread::spawn(move || {
        // SAFETY: inside the mapping, which outlives this thread.
        let read = |page: usize| unsafe { ((base + page * PAGE) as *const u8).read_volatile() };
        [read(5), read(3), read(4)]
    });
    placer.zeros(PID, memory.at(4), 1).unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!reader.is_finished());
    placer.place(&batch(&memory, 3, &[4; PAGE], false)).unwrap();
    assert_eq!(reader.join().unwrap(), [0, 4, 0]);

    criu.write_all(&RESTORE_FINISHED.to_ne_bytes()).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), daemon.complete()).await.is_err());
    placer.end(4, 1).unwrap();
    tokio::time::timeout(Duration::from_secs(5), daemon.complete()).await.unwrap().unwrap();
    for (page, byte) in [(0, 1), (1, 2), (2, 2), (3, 4), (4, 0)] {
        assert!(memory.page(page).iter().all(|it| *it == byte), "page {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_missing_pages_and_strangers_are_found() {
    let memory = Memory::new(2);
    for (spoil, reason) in [
        (0, "a batch of pages was damaged on its way"),
        (1, "0 of 2 pages and 0 of 0 zero pages arrived, 8192 bytes of the process tree are missing"),
        (2, "process 5 is not part of the process tree"),
    ] {
        let dir = images(memory.at(0), 2);
        let mut daemon = PageDaemon::listen(dir.path()).unwrap();
        let placer = daemon.placer();
        let mut pages = batch(&memory, 0, &[1; PAGE], false);
        let result = match spoil {
            0 => {
                pages.crc ^= 1;
                placer.place(&pages)
            }
            1 => placer.end(2, 0),
            _ => placer.zeros(5, memory.at(0), 1),
        };
        assert!(result.is_err());
        let error = tokio::time::timeout(Duration::from_secs(5), daemon.complete()).await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_cannot_come_twice() {
    let memory = Memory::new(2);
    let dir = images(memory.at(0), 2);
    let daemon = PageDaemon::listen(dir.path()).unwrap();
    let placer = daemon.placer();
    placer.place(&batch(&memory, 0, &[1; PAGE], false)).unwrap();
    assert!(placer.place(&batch(&memory, 0, &[1; PAGE], false)).is_err());
}
