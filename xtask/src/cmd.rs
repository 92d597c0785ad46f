//! Running other programs, with errors that name the program and what it said.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};

/// Runs `command` with our own stdin, stdout and stderr; an exit status other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", describe(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", describe(command));
    }
    Ok(())
}

/// Runs `command` without input and returns what it printed on stdout; on failure the error holds
/// what it printed on stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", describe(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed: {}: {}", describe(command), output.status, tail(said.trim(), 15));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Prints each line that a program says as it comes, and returns all that it said.
pub fn pass_on(said: Option<impl Read>, print: impl Fn(&str)) -> std::io::Result<String> {
    let mut all = String::new();
    let Some(said) = said else { return Ok(all) };
    for line in BufReader::new(said).lines() {
        let line = line?;
        print(&line);
        all += &line;
        all.push('\n');
    }
    Ok(all)
}

/// The exit status as a shell gives it: 128 + the signal for a program ended by one.
pub fn shell_status(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

/// `word` as one word of a POSIX shell.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The words of a command line, quoted so that a POSIX shell reads exactly them.
pub fn quote_all<S: AsRef<str>>(words: &[S]) -> String {
    words.iter().map(|word| quote(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// The last `lines` lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().take(4).map(|word| word.to_string_lossy().into_owned()));
    format!("`{}`", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_exactly_the_words_that_were_quoted() {
        let words =
            ["printf", "%s\\n", "", "a b", "it's", "$HOME `x` \"q\"", "*", "line\nbreak", "~", "a;b&c|d", "ünïcode"];
        let printed = output(Command::new("sh").arg("-c").arg(quote_all(&words))).unwrap();
        assert_eq!(printed, words[2..].iter().map(|word| format!("{word}\n")).collect::<String>());
    }

    #[test]
    fn an_error_says_what_the_program_said() {
        let error = output(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
    }

    #[test]
    fn a_signal_becomes_a_shells_status() {
        let status = Command::new("sh").args(["-c", "kill -TERM $$"]).status().unwrap();
        assert_eq!(shell_status(status), 128 + libc::SIGTERM);
    }
}
