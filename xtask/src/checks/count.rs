//! What tests came to, as `cargo test` prints it and as CI reads it.

/// How many tests passed, failed, and were marked as not to be run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Count {
    pub fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Of all that a run printed. A run that broke off before it could count is one failure.
    pub fn of_run(printed: &str, succeeded: bool) -> Count {
        let mut count = Count::default();
        printed.lines().filter_map(parse_result).for_each(|more| count.add(more));
        if !succeeded && count.failed == 0 {
            count.failed = 1;
        }
        count
    }

    pub fn line(&self) -> String {
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

/// `test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn parse_result(line: &str) -> Option<Count> {
    let numbers = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut count = Count::default();
    for part in numbers.split("; ") {
        match part.split_once(' ')? {
            (number, "passed") => count.passed = number.parse().ok()?,
            (number, "failed") => count.failed = number.parse().ok()?,
            (number, "ignored") => count.skipped = number.parse().ok()?,
            _ => break,
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_result_lines_are_counted_and_others_are_not() {
        let line = "test result: FAILED. 12 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(parse_result(line), Some(Count { passed: 12, failed: 1, skipped: 3 }));
        assert_eq!(parse_result("test tidy::tests::x ... ok"), None);
    }

    #[test]
    fn a_run_that_breaks_off_is_a_failure() {
        let printed = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n";
        assert_eq!(Count::of_run(printed, false), Count { passed: 2, failed: 1, skipped: 0 });
        assert_eq!(Count::of_run(printed, true), Count { passed: 2, failed: 0, skipped: 0 });
    }

    #[test]
    fn the_last_line_is_what_ci_reads() {
        assert_eq!(Count { passed: 3, failed: 0, skipped: 0 }.line(), "3 passed, 0 failed");
        assert_eq!(Count { passed: 3, failed: 1, skipped: 2 }.line(), "3 passed, 1 failed, 2 skipped");
    }
}
