//! One restored process and its userfaultfd: what is in place, what is still to come.

use std::{collections::BTreeSet, ffi::c_void, io, sync::Arc};

use userfaultfd::{Error as UffdError, Event, Uffd};

use super::{PageError, ranges::Ranges};
use crate::{migration::criu::Range, protocol::moves::PAGE_BYTES};

/// Pages that came before their area was there.
struct Early {
    start: u64,
    bytes: Vec<u8>,
}

/// How far a copy got.
enum Copied {
    All,
    /// The area from this offset on is not registered yet.
    Upto(usize),
}

/// One process.
///
/// An address is *expected* until its page has come. A fault there waits for the page; a fault
/// anywhere else is filled with zeros at once, because such a page was never in the images.
pub(super) struct Task {
    pid: i32,
    uffd: Option<Arc<Uffd>>,
    expected: Ranges,
    /// Expected pages for which a thread waits.
    waiting: BTreeSet<u64>,
    early: Vec<Early>,
}

impl Task {
    /// A process whose userfaultfd has not arrived yet.
    pub(super) fn new(pid: i32, expected: Vec<Range>) -> Self {
        Self { pid, uffd: None, expected: Ranges::new(expected), waiting: BTreeSet::new(), early: Vec::new() }
    }

    /// Its userfaultfd has come.
    pub(super) fn attach(&mut self, uffd: Uffd) -> Result<(), PageError> {
        if self.uffd.replace(Arc::new(uffd)).is_some() {
            return Err(PageError::Unexpected(format!("process {} was announced twice", self.pid)));
        }
        Ok(())
    }

    /// The userfaultfd, once there is one.
    pub(super) fn uffd(&self) -> Option<Arc<Uffd>> {
        self.uffd.clone()
    }

    /// Whether all that was expected is in place.
    pub(super) fn is_complete(&self) -> bool {
        self.expected.is_empty() && self.early.is_empty()
    }

    /// Bytes still to come.
    pub(super) fn missing_bytes(&self) -> u64 {
        self.expected.bytes()
    }

    /// Puts pages in place, or keeps them until their area is there.
    pub(super) fn place(&mut self, start: u64, bytes: Vec<u8>) -> Result<(), PageError> {
        let range = Range { start, end: start + bytes.len() as u64 };
        if self.expected.remove(range) != range.bytes() {
            return Err(PageError::Unexpected(format!(
                "process {}: pages at {start:#x} came twice or are not its own",
                self.pid
            )));
        }
        self.forget_waiting(range);
        self.place_now(Early { start, bytes })
    }

    /// Notes that pages are zero. They are not made: the kernel does that when the process tree
    /// first touches them.
    pub(super) fn zeros(&mut self, range: Range) -> Result<(), PageError> {
        if self.expected.remove(range) != range.bytes() {
            return Err(PageError::Unexpected(format!(
                "process {}: zeros at {:#x} are not its own",
                self.pid, range.start
            )));
        }
        for address in self.forget_waiting(range) {
            self.fill_with_zeros(address)?;
        }
        Ok(())
    }

    /// Tries again what came too early.
    pub(super) fn retry(&mut self) -> Result<(), PageError> {
        for early in std::mem::take(&mut self.early) {
            self.place_now(early)?;
        }
        Ok(())
    }

    /// Whether something came too early.
    pub(super) fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Reads and handles what the userfaultfd has to say.
    pub(super) fn handle_events(&mut self) -> Result<(), PageError> {
        while let Some(event) =
            self.uffd.as_deref().map(Uffd::read_event).transpose().map_err(daemon("read a userfaultfd"))?.flatten()
        {
            self.handle(event)?;
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), PageError> {
        match event {
            Event::Pagefault { addr, .. } => {
                let page = addr as u64 / PAGE_BYTES * PAGE_BYTES;
                if self.expected.contains(page) {
                    self.waiting.insert(page);
                    return Ok(());
                }
                let early = self
                    .early
                    .iter()
                    .any(|early| (early.start..early.start + early.bytes.len() as u64).contains(&page));
                // A fault shows that its area is registered by now.
                if early { self.retry() } else { self.fill_with_zeros(page) }
            }
            Event::Remove { start, end } | Event::Unmap { start, end } => {
                let range = Range { start: start as u64, end: end as u64 };
                self.expected.remove(range);
                self.forget_waiting(range);
                Ok(())
            }
            // Nothing of the process tree has run, and CRIU moves and clones nothing once it has
            // registered an area.
            Event::Fork { .. } | Event::Remap { .. } => {
                Err(PageError::Unexpected(format!("process {} changed its memory before it ran", self.pid)))
            }
        }
    }

    fn forget_waiting(&mut self, range: Range) -> Vec<u64> {
        let waiting: Vec<u64> = self.waiting.range(range.start..range.end).copied().collect();
        self.waiting.retain(|address| !(range.start..range.end).contains(address));
        waiting
    }

    fn place_now(&mut self, mut early: Early) -> Result<(), PageError> {
        match self.copy(&early)? {
            Copied::All => {}
            Copied::Upto(done) => {
                early.bytes.drain(..done);
                early.start += done as u64;
                self.early.push(early);
            }
        }
        Ok(())
    }

    fn copy(&self, pages: &Early) -> Result<Copied, PageError> {
        let Some(uffd) = &self.uffd else { return Ok(Copied::Upto(0)) };
        let mut done = 0;
        while done < pages.bytes.len() {
            let (from, to) = (&pages.bytes[done..], pages.start + done as u64);
            // SAFETY: source and length are those of a live slice; the destination is memory of
            // another process, which the kernel checks to be registered with this descriptor.
            let copied = unsafe { uffd.copy(from.as_ptr().cast(), to as *mut c_void, from.len(), true) };
            match copied {
                Ok(bytes) => done += bytes,
                // A negative error number is passed off as a length when nothing was copied.
                Err(UffdError::PartiallyCopied(bytes)) if bytes <= from.len() => done += bytes,
                // The memory map is changing and an event about it is to be read first.
                Err(UffdError::PartiallyCopied(_)) => return Ok(Copied::Upto(done)),
                Err(UffdError::CopyFailed(errno)) if errno as i32 == libc::ENOENT => return Ok(Copied::Upto(done)),
                Err(UffdError::CopyFailed(errno)) => {
                    return Err(PageError::Place {
                        pid: self.pid,
                        address: to,
                        source: io::Error::from_raw_os_error(errno as i32),
                    });
                }
                Err(error) => return Err(daemon("copy pages")(error)),
            }
        }
        Ok(Copied::All)
    }

    fn fill_with_zeros(&self, address: u64) -> Result<(), PageError> {
        let Some(uffd) = &self.uffd else { return Ok(()) };
        // SAFETY: the destination is memory of another process, which the kernel checks to be
        // registered here.
        match unsafe { uffd.zeropage(address as *mut c_void, PAGE_BYTES as usize, true) } {
            // Another thread's fault there was answered before, or the page was unmapped: no thread
            // waits any more.
            Ok(_) => Ok(()),
            Err(UffdError::ZeropageFailed(errno))
                if matches!(errno as i32, libc::EEXIST | libc::ENOENT | libc::EAGAIN) =>
            {
                uffd.wake(address as *mut c_void, PAGE_BYTES as usize).map_err(daemon("wake a thread"))
            }
            Err(error) => Err(daemon("fill a page with zeros")(error)),
        }
    }
}

fn daemon(what: &'static str) -> impl FnOnce(UffdError) -> PageError {
    move |error| PageError::Daemon { what, source: io::Error::other(error) }
}
