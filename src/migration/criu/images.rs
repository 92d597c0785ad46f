//! What we read from CRIU's images ourselves: which pages were left out, and which processes there
//! are.
//!
//! An image file is two magic numbers (u32) and then messages, each after its length (u32 LE).

use std::path::Path;

use prost::Message;

use super::CriuError;
use crate::{
    proto::criu::{FileEntry, PagemapEntry, PagemapHead, PstreeEntry},
    protocol::moves::PAGE_BYTES,
};

/// The two magic numbers of `pagemap-PID.img` in criu/include/magic.h.
const PAGEMAP_MAGICS: [u32; 2] = [0x5456_4319, 0x5608_4025];
/// The two magic numbers of `pstree.img`.
const PSTREE_MAGICS: [u32; 2] = [0x5456_4319, 0x5027_3030];
/// The two magic numbers of `files.img`.
const FILES_MAGICS: [u32; 2] = [0x5456_4319, 0x5630_3138];
/// Flag of a pagemap entry: the page daemon has the pages.
const LAZY: u32 = 2;

/// A run of whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// First address, a multiple of the page's size.
    pub start: u64,
    /// First address after it.
    pub end: u64,
}

impl Range {
    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// The ranges of `pid` (in the dump's numbering) whose pages were left out of the images, in order
/// of their addresses.
pub fn lazy_ranges(images: &Path, pid: i32) -> Result<Vec<Range>, CriuError> {
    let name = format!("pagemap-{pid}.img");
    let bytes = std::fs::read(images.join(&name)).map_err(|error| bad(&name, error))?;
    parse_pagemap(&bytes).map_err(|what| bad(&name, what))
}

/// All processes of a dump, root first.
pub fn tree(images: &Path) -> Result<Vec<PstreeEntry>, CriuError> {
    let name = "pstree.img";
    let bytes = std::fs::read(images.join(name)).map_err(|error| bad(name, error))?;
    let messages = messages(&bytes, PSTREE_MAGICS).map_err(|what| bad(name, what))?;
    messages.into_iter().map(|message| PstreeEntry::decode(message).map_err(|error| bad(name, error))).collect()
}

/// The paths of all regular files and directories that the dumped processes have open or mapped.
pub fn paths(images: &Path) -> Result<Vec<String>, CriuError> {
    let name = "files.img";
    let bytes = std::fs::read(images.join(name)).map_err(|error| bad(name, error))?;
    let messages = messages(&bytes, FILES_MAGICS).map_err(|what| bad(name, what))?;
    let mut paths = Vec::new();
    for message in messages {
        let entry = FileEntry::decode(message).map_err(|error| bad(name, error))?;
        paths.extend(entry.reg.map(|file| file.name));
    }
    Ok(paths)
}

fn bad(name: &str, what: impl ToString) -> CriuError {
    CriuError::Image { name: name.into(), what: what.to_string() }
}

fn parse_pagemap(bytes: &[u8]) -> Result<Vec<Range>, String> {
    let messages = messages(bytes, PAGEMAP_MAGICS)?;
    let (head, entries) = messages.split_first().ok_or("it is empty")?;
    PagemapHead::decode(*head).map_err(|error| error.to_string())?;
    let mut ranges: Vec<Range> = Vec::new();
    for entry in entries {
        let entry = PagemapEntry::decode(*entry).map_err(|error| error.to_string())?;
        if entry.flags() & LAZY == 0 {
            continue;
        }
        let pages = entry.nr_pages.unwrap_or_else(|| entry.compat_nr_pages.into());
        let end = pages.checked_mul(PAGE_BYTES).and_then(|bytes| entry.vaddr.checked_add(bytes));
        let end = end.ok_or("a range goes past the end of memory")?;
        if entry.vaddr % PAGE_BYTES != 0 || ranges.last().is_some_and(|last| last.end > entry.vaddr) {
            return Err("its ranges overlap".into());
        }
        ranges.push(Range { start: entry.vaddr, end });
    }
    Ok(ranges)
}

fn messages(bytes: &[u8], magics: [u32; 2]) -> Result<Vec<&[u8]>, String> {
    let mut rest = bytes;
    for magic in magics {
        if take_u32(&mut rest) != Some(magic) {
            return Err("it does not begin as such an image does".into());
        }
    }
    let mut messages = Vec::new();
    while let Some(length) = take_u32(&mut rest) {
        let (message, after) = rest.split_at_checked(length as usize).ok_or("it is cut off")?;
        messages.push(message);
        rest = after;
    }
    Ok(messages)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (first, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(magics: [u32; 2], messages: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes: Vec<u8> = magics.iter().flat_map(|magic| magic.to_le_bytes()).collect();
        for message in messages {
            bytes.extend((message.len() as u32).to_le_bytes());
            bytes.extend(message);
        }
        bytes
    }

    fn entry(vaddr: u64, nr_pages: u32, flags: u32) -> Vec<u8> {
        PagemapEntry { vaddr, compat_nr_pages: nr_pages, flags: Some(flags), nr_pages: None }.encode_to_vec()
    }

    #[test]
    fn paths_are_those_of_regular_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = |id, reg| FileEntry { r#type: 1, id, reg }.encode_to_vec();
        let reg = Some(crate::proto::criu::RegFileEntry { name: "/usr/bin/cc".into() });
        std::fs::write(dir.path().join("files.img"), image(FILES_MAGICS, &[file(1, None), file(2, reg)])).unwrap();
        assert_eq!(paths(dir.path()).unwrap(), ["/usr/bin/cc"]);
        std::fs::write(dir.path().join("files.img"), image(PSTREE_MAGICS, &[])).unwrap();
        assert!(matches!(paths(dir.path()), Err(CriuError::Image { .. })));
    }

    #[test]
    fn only_ranges_left_out_are_taken() {
        let head = PagemapHead { pages_id: 1 }.encode_to_vec();
        let bytes =
            image(PAGEMAP_MAGICS, &[head.clone(), entry(0x1000, 2, 4), entry(0x5000, 3, 6), entry(0x9000, 1, 2)]);
        let ranges = parse_pagemap(&bytes).unwrap();
        assert_eq!(ranges, [Range { start: 0x5000, end: 0x8000 }, Range { start: 0x9000, end: 0xa000 }]);
        assert!(parse_pagemap(&image(PAGEMAP_MAGICS, &[head, entry(0x5000, 3, 2), entry(0x6000, 1, 2)])).is_err());
        assert!(parse_pagemap(&bytes[..bytes.len() - 1]).is_err());
        assert!(parse_pagemap(&image(PSTREE_MAGICS, &[])).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut whole = image(PAGEMAP_MAGICS, &[]);
            whole.extend(bytes);
            let _ = parse_pagemap(&whole);
        }
    }
}
