//! One readable reason out of CRIU's log.

use std::path::Path;

/// Lines that only say that something failed, which the reader knows.
const EMPTY_WORDS: [&str; 5] =
    ["Dumping FAILED", "Restoring FAILED", "Dump files", "Pre-dumping FAILED", "Killing processes"];

/// How much of a log is looked at, in bytes from its end.
const TAIL_BYTES: usize = 64 * 1024;

/// The first error of a log, and the last one before CRIU gave up if it says something else.
pub fn reason_of(log: &str) -> Option<String> {
    let errors: Vec<String> = log
        .lines()
        .filter_map(error_text)
        .filter(|text| !EMPTY_WORDS.iter().any(|words| text.starts_with(words)))
        .collect();
    match errors.as_slice() {
        [] => None,
        [only] => Some(only.clone()),
        [first, .., last] if first == last => Some(first.clone()),
        [first, .., last] => Some(format!("{first}; {last}")),
    }
}

/// [`reason_of`] for a log file, `None` if there is none or no error in it.
pub fn reason_in(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    let tail = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
    reason_of(&String::from_utf8_lossy(tail))
}

/// The words of `(00.012) 12: Error (criu/files.c:99): words`.
fn error_text(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("Error (")?;
    let (_, words) = rest.split_once("): ")?;
    let words = words.trim().trim_end_matches('.');
    (!words.is_empty()).then(|| words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_comes_first() {
        let log = "(00.001) Warn  (criu/kerndat.c:1): something\n\
                   (00.004) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established\n\
                   (00.005) Error (criu/cr-dump.c:1669): Dump files (pid: 20) failed with -1\n\
                   (00.006) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        assert_eq!(reason_of(log).as_deref(), Some("inet: Connected TCP socket, consider using --tcp-established"));
    }

    #[test]
    fn two_different_errors_are_both_told() {
        let log = "(1) 7: Error (a.c:1): Can't open file /x: No such file.\n(2) Error (b.c:2): 7 exited, status=1\n";
        assert_eq!(reason_of(log).as_deref(), Some("Can't open file /x: No such file; 7 exited, status=1"));
        assert_eq!(reason_of("(1) Info\n"), None);
    }
}
