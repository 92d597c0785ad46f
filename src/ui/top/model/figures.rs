//! Figures as a few cells.

use std::collections::VecDeque;

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A bar of `cells` cells in brackets, which is full at a share of 1.
pub fn bar(share: f64, cells: usize) -> String {
    let full = (share.clamp(0.0, 1.0) * cells as f64).round() as usize;
    format!("[{:<cells$}]", "|".repeat(full.min(cells)))
}

/// A line of blocks, the newest value last; `full` is the value of a whole block.
pub fn sparkline(values: &VecDeque<f32>, full: f32) -> String {
    let block = |value: &f32| {
        let at = (value / full * BLOCKS.len() as f32) as usize;
        BLOCKS[at.min(BLOCKS.len() - 1)]
    };
    values.iter().map(block).collect()
}

/// A share of a hundred.
pub fn percent(share: f64) -> String {
    format!("{share:.0}")
}

/// A time for people, at most five characters: `12s`, `3m07`, `5h02`, `12d`.
pub fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}", s / 3_600, s / 60 % 60),
        _ => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_take_few_cells() {
        assert_eq!([bar(0.0, 4), bar(0.5, 4), bar(7.0, 4), bar(f64::NAN, 4)], ["[    ]", "[||  ]", "[||||]", "[    ]"]);
        assert_eq!(sparkline(&VecDeque::from([0.0, 0.5, 1.0, 9.0]), 1.0), "▁▅██");
        let ages = [7, 67, 3_667, 86_400 * 12].map(|s| age(s * 1000));
        assert_eq!(ages, ["7s", "1m07", "1h01", "12d"]);
    }
}
