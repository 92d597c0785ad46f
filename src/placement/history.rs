//! What a program that begins is likely to need, learned from those that have ended.
//!
//! ```text
//!   exec ──► expected: the same program with the same arguments, else the same executable ──► Prospect
//!   exit ──► learn: its CPU time
//! ```
//!
//! The executable alone says little where one executable does many things (`cc1` compiles small
//! files and large ones), and the arguments alone never come again where they name temporary files.
//! So both are remembered, and names below /tmp do not count.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::learning::Learning;

/// A program and what it was called with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Program {
    executable: Arc<str>,
    /// A hash of the arguments.
    arguments: u64,
}

impl Program {
    /// The program in the file `executable`, called with `arguments`, the zeroth among them.
    pub fn new<'a>(executable: &str, arguments: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut hasher = std::hash::DefaultHasher::new();
        arguments.filter(|word| !word.starts_with(b"/tmp/")).for_each(|word| word.hash(&mut hasher));
        Self { executable: executable.into(), arguments: hasher.finish() }
    }
}

/// What it takes to start a program elsewhere, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartTakes {
    /// For how long the program stands still.
    pub held_ms: u64,
    /// CPU time at either end: [`NodeView::work_ms`](super::NodeView::work_ms).
    pub work_ms: u64,
}

/// What is worth doing about a program that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// It will end soon, or that is unknown: it stays in its job.
    Short,
    /// It will probably need so much CPU time, in milliseconds: enough to be placed by itself.
    Long(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Program(Program),
    Executable(Arc<str>),
}

#[derive(Debug, Clone, Copy)]
struct Known {
    mean_ms: f64,
    /// When it was learned last, in the count of all that was learned.
    at: u64,
}

/// CPU times of the programs that ended lately.
#[derive(Debug, Clone)]
pub struct History {
    learning: Learning,
    known: HashMap<Key, Known>,
    learned: u64,
}

impl History {
    /// Nothing learned yet.
    #[must_use]
    pub fn new(learning: Learning) -> Self {
        Self { learning, known: HashMap::new(), learned: 0 }
    }

    /// Notes that `program` has ended after so much CPU time.
    pub fn learn(&mut self, program: &Program, cpu_ms: u64) {
        self.learned += 1;
        for key in [Key::Program(program.clone()), Key::Executable(program.executable.clone())] {
            let news = Known { mean_ms: cpu_ms as f64, at: self.learned };
            let known = self.known.entry(key).or_insert(news);
            *known = Known { mean_ms: self.learning.blend(known.mean_ms, news.mean_ms), at: self.learned };
        }
        if self.known.len() > self.learning.programs {
            self.forget_older_half();
        }
    }

    /// The CPU time that `program` will probably need, in milliseconds; `None` if nothing like it
    /// has ended lately.
    #[must_use]
    pub fn expected_ms(&self, program: &Program) -> Option<u64> {
        let exactly = self.known.get(&Key::Program(program.clone()));
        let known = exactly.or_else(|| self.known.get(&Key::Executable(program.executable.clone())))?;
        Some(known.mean_ms as u64)
    }

    /// At most once in a thousand times, so that no order need be kept.
    fn forget_older_half(&mut self) {
        let mut times: Vec<u64> = self.known.values().map(|known| known.at).collect();
        let (_, middle, _) = times.select_nth_unstable(self.learning.programs / 2);
        let middle = *middle;
        self.known.retain(|_, known| known.at > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(executable: &str, line: &str) -> Program {
        Program::new(executable, line.split(' ').map(str::as_bytes))
    }

    #[test]
    fn the_same_call_is_known_best_and_the_executable_else() {
        let mut history = History::new(Learning::default());
        assert_eq!(history.expected_ms(&program("/cc1", "cc1 a.c")), None);
        for _ in 0..20 {
            history.learn(&program("/cc1", "cc1 a.c"), 1_000);
            history.learn(&program("/cc1", "cc1 b.c"), 9_000);
        }
        assert_eq!(history.expected_ms(&program("/cc1", "cc1 a.c")), Some(1_000));
        assert_eq!(history.expected_ms(&program("/cc1", "cc1 b.c")), Some(9_000));
        let other = history.expected_ms(&program("/cc1", "cc1 c.c")).unwrap();
        assert!((3_000..7_500).contains(&other), "{other}");
        assert_eq!(history.expected_ms(&program("/as", "cc1 a.c")), None);
    }

    #[test]
    fn names_of_temporary_files_make_no_difference() {
        assert_eq!(program("/as", "as -o a.o /tmp/ccX1.s"), program("/as", "as -o a.o /tmp/ccY2.s"));
        assert_ne!(program("/as", "as -o a.o /tmp/ccX1.s"), program("/as", "as -o b.o /tmp/ccX1.s"));
    }

    #[test]
    fn what_changes_is_learned_anew_and_memory_is_bounded() {
        let Learning { programs, .. } = Learning::default();
        let mut history = History::new(Learning::default());
        let changed = program("/make", "make");
        history.learn(&changed, 60_000);
        (0..20).for_each(|_| history.learn(&changed, 100));
        assert!(history.expected_ms(&changed).unwrap() < 200);
        for number in 0..3 * programs {
            history.learn(&program("/sh", &format!("sh {number}")), 5);
            assert!(history.known.len() <= programs);
        }
        let last = program("/sh", &format!("sh {}", 3 * programs - 1));
        assert_eq!(history.expected_ms(&last), Some(5));
    }
}
