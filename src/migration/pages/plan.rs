//! What is to be read: the ranges that CRIU left out, cut where the process tree's memory areas
//! meet.
//!
//! The target can fill pages only within one area at a time, and areas that lie side by side may be
//! one range in CRIU's images.

use std::io;

use crate::{
    migration::criu::{CriuError, Range, lazy_ranges},
    sys::proc::Process,
};

/// A range of one process of the frozen process tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// The process on this node.
    pub pid: i32,
    /// The process in the dump's numbering.
    pub inner_pid: i32,
    /// What to read, within one memory area.
    pub range: Range,
}

/// All ranges of all `processes` that the dump in `images` left out.
pub fn plan(images: &std::path::Path, processes: &[Process]) -> Result<Vec<Area>, CriuError> {
    let mut areas = Vec::new();
    for process in processes.iter().filter(|process| process.state != 'Z') {
        let ranges = lazy_ranges(images, process.inner_pid)?;
        let borders = borders(process).map_err(|error| CriuError::Image {
            name: format!("pagemap-{}.img", process.inner_pid),
            what: format!("the memory map of the process cannot be read: {error}"),
        })?;
        let cut = ranges.into_iter().flat_map(|range| cut(range, &borders));
        areas.extend(cut.map(|range| Area { pid: process.pid, inner_pid: process.inner_pid, range }));
    }
    Ok(areas)
}

/// The addresses where memory areas begin or end, ascending.
fn borders(process: &Process) -> io::Result<Vec<u64>> {
    let maps = std::fs::read_to_string(process.proc("maps"))?;
    let mut borders: Vec<u64> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.split_once('-'))
        .flat_map(|(start, end)| [start, end])
        .filter_map(|address| u64::from_str_radix(address, 16).ok())
        .collect();
    borders.sort_unstable();
    borders.dedup();
    Ok(borders)
}

fn cut(range: Range, borders: &[u64]) -> Vec<Range> {
    let mut start = range.start;
    let mut pieces = Vec::new();
    let inside = &borders[borders.partition_point(|border| *border <= range.start)..];
    for border in inside.iter().copied().take_while(|border| *border < range.end) {
        pieces.push(Range { start, end: border });
        start = border;
    }
    pieces.push(Range { start, end: range.end });
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_is_cut_at_the_borders_inside_it() {
        let range = Range { start: 10, end: 40 };
        assert_eq!(cut(range, &[5, 10, 20, 40, 50]), [Range { start: 10, end: 20 }, Range { start: 20, end: 40 }]);
        assert_eq!(cut(range, &[]), [range]);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range(start in 0u64..100, length in 1u64..100, mut borders in prop::collection::vec(0u64..250, 0..20)) {
            borders.sort_unstable();
            borders.dedup();
            let pieces = cut(Range { start, end: start + length }, &borders);
            prop_assert_eq!(pieces.first().map(|piece| piece.start), Some(start));
            prop_assert_eq!(pieces.last().map(|piece| piece.end), Some(start + length));
            for pair in pieces.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
                prop_assert!(borders.contains(&pair[1].start));
            }
            prop_assert!(pieces.iter().all(|piece| piece.start < piece.end));
        }
    }
}
