//! Which rows of a list are shown: words that must all hold.
//!
//! ```text
//!   word         some text of the row contains it, or it is the pid
//!   column:word  that column contains it
//!   column=word  that column is it
//!   column>n     that column is greater (<: less); n may end in K, M or G
//! ```

use super::list::{Column, Listed, Value};

/// A filter as it was typed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    text: String,
    words: Vec<Word>,
}

#[derive(Clone, Debug, PartialEq)]
struct Word {
    /// The column that is asked for, without a trailing `%`, as `cpu` will do for `CPU%`; with what
    /// is asked of it.
    of_column: Option<(String, Asked)>,
    /// What is asked of all columns: also if there is no such column, as a path or a word may have
    /// such a sign in it.
    of_any: Asked,
}

/// What is asked of a column.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    test: Test,
    /// In lower case.
    text: String,
    number: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Test {
    Contains,
    Equals,
    Above,
    Below,
}

impl Filter {
    /// Reads a filter; any text is one.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), words: text.split_whitespace().map(Word::new).collect() }
    }

    /// As it was typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a row is shown.
    pub fn shows<R: Listed>(&self, row: &R, now_ms: u64) -> bool {
        self.words.iter().all(|word| word.holds(row, now_ms))
    }
}

impl Word {
    fn new(word: &str) -> Self {
        let tests = [(':', Test::Contains), ('=', Test::Equals), ('>', Test::Above), ('<', Test::Below)];
        let of_column = word.char_indices().find_map(|(at, c)| {
            let (_, test) = tests.iter().find(|(sign, _)| *sign == c)?;
            (at > 0).then(|| (without_percent(&word[..at]).to_owned(), Asked::new(*test, &word[at + 1..])))
        });
        Self { of_column, of_any: Asked::new(Test::Contains, word) }
    }

    fn holds<R: Listed>(&self, row: &R, now_ms: u64) -> bool {
        let named = self.of_column.as_ref().and_then(|(name, asked)| {
            let is_it = |column: &&Column<R>| without_percent(column.title).eq_ignore_ascii_case(name);
            Some((R::COLUMNS.iter().find(is_it)?, asked))
        });
        if let Some((column, asked)) = named {
            return asked.holds_of(column, row, now_ms);
        }
        let any = |column: &&Column<R>| column.title == "PID" || matches!((column.value)(row, now_ms), Value::Text(_));
        R::COLUMNS.iter().filter(any).any(|column| self.of_any.holds_of(column, row, now_ms))
    }
}

impl Asked {
    fn new(test: Test, text: &str) -> Self {
        Self { test, text: text.to_lowercase(), number: number(text) }
    }

    fn holds_of<R: Listed>(&self, column: &Column<R>, row: &R, now_ms: u64) -> bool {
        match ((column.value)(row, now_ms), self.test) {
            // Being typed: nothing to compare with yet.
            (_, Test::Above | Test::Below | Test::Equals) if self.text.is_empty() => true,
            (Value::Text(text), Test::Contains) => contains(text, &self.text),
            (Value::Text(text), Test::Equals) => text.eq_ignore_ascii_case(&self.text),
            (Value::Text(_), Test::Above | Test::Below) => false,
            (Value::Number(value), Test::Contains | Test::Equals) => self.number.is_some_and(|number| value == number),
            (Value::Number(value), Test::Above) => self.number.is_some_and(|number| value > number),
            (Value::Number(value), Test::Below) => self.number.is_some_and(|number| value < number),
        }
    }
}

fn without_percent(name: &str) -> &str {
    name.trim_end_matches('%')
}

/// Whether `text` contains `word`, which is in lower case. Only ASCII is folded: nothing is
/// allocated per row.
fn contains(text: &str, word: &str) -> bool {
    word.is_empty() || text.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

/// A number, which may end in a unit of memory.
fn number(text: &str) -> Option<f64> {
    let units = [('k', 1_u64 << 10), ('m', 1 << 20), ('g', 1 << 30)];
    let lower = text.to_lowercase();
    let unit = units.iter().find(|(letter, _)| lower.ends_with(*letter));
    let (digits, factor) =
        unit.map_or((lower.as_str(), 1), |(letter, factor)| (lower.trim_end_matches(*letter), *factor));
    digits.parse::<f64>().ok().map(|value| value * factor as f64)
}
