//! Writing lists: columns for people, JSON for programs.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::{UiError, args::Format};

/// A column: its title and whether it holds figures, which are aligned to the right.
pub(super) type Column = (&'static str, CellAlignment);

/// A column of words.
pub(super) const fn words(title: &'static str) -> Column {
    (title, CellAlignment::Left)
}

/// A column of figures.
pub(super) const fn figures(title: &'static str) -> Column {
    (title, CellAlignment::Right)
}

/// Columns without lines between them. In [`Format::Table`] each line is cut to the terminal's
/// width, if there is one.
pub(super) fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>, format: Format) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|(title, alignment)| Cell::new(title).set_alignment(*alignment)));
    for row in rows {
        let cells =
            row.iter().zip(columns).map(|(text, (_, alignment))| Cell::new(clean(text)).set_alignment(*alignment));
        table.add_row(cells);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let width = if format == Format::Wide { None } else { terminal_columns() };
    let mut text = String::new();
    for line in table.lines() {
        let line = line.trim_end();
        match width {
            Some(width) => text.extend(line.chars().take(width)),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// The same values as JSON.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, UiError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| UiError::Output(error.into()))?;
    text.push('\n');
    Ok(text)
}

/// Writes to standard output; a reader who has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<(), UiError> {
    print_on(text).map(drop)
}

/// The same; whether the reader wants more.
pub(super) fn print_on(text: &str) -> Result<bool, UiError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true).map_err(UiError::Output),
    }
}

fn terminal_columns() -> Option<usize> {
    let out = io::stdout();
    let size = out.is_terminal().then(|| rustix::termios::tcgetwinsize(&out).ok()).flatten()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// Names and arguments are chosen by others: what could steer a terminal is shown as `?`.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

/// A size in bytes for people: four characters or five.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "K", "M", "G", "T", "P"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let mut text = String::new();
    let digits = usize::from(unit > 0 && value < 9.95);
    // Writing to a string does not fail.
    let _ = write!(text, "{value:.digits$}{}", UNITS[unit]);
    text
}

/// A short duration for people.
pub(super) fn duration_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1000),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        let sizes =
            [(0, "0B"), (999, "999B"), (1000, "1.0K"), (10 << 10, "10K"), (1536 << 20, "1.5G"), (u64::MAX, "16384P")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        for (us, text) in [(7, "7 µs"), (1_234, "1.2 ms"), (35_900, "35 ms"), (2_340_000, "2.3 s")] {
            assert_eq!(duration_us(us), text);
        }
    }

    #[test]
    fn columns_line_up_and_terminals_are_safe() {
        let rows = [vec!["7".into(), "xz\x1b[2J".into()], vec!["4711".into(), "gzip".into()]];
        let text = table(&[figures("PID"), words("COMMAND")], rows, Format::Wide);
        assert_eq!(text, " PID  COMMAND\n   7  xz?[2J\n4711  gzip\n");
    }
}
