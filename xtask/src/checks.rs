//! `cargo xtask lint` and `cargo xtask test`: everything that must hold before a change is taken.
//!
//! Each stage runs whatever the ones before said, and the last line sums up: `N passed, N failed`. A check (format, clippy, tidy) counts
//! as one test.

use crate::cmd;
use crate::product;
use crate::progress::Progress;
use crate::tidy;
use crate::vm::image;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

/// What `cargo xtask test` is asked for.
#[derive(Args)]
pub struct Test {
    /// Only the checks and unit tests, which need no virtual machine
    #[arg(long)]
    unit: bool,
    /// Only the integration tests of these files (vm_home for tests/vm_home.rs), no checks
    #[arg(long = "file", value_name = "NAME", conflicts_with = "unit")]
    files: Vec<String>,
    /// Passed to the test programs: names to select, --nocapture, …
    #[arg(last = true)]
    rest: Vec<String>,
}

/// How many tests passed, failed, and were marked as not to be run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    fn add(&mut self, other: &Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    fn line(&self) -> String {
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

/// Format, clippy, tidy.
pub fn lint() -> Result<()> {
    let count = checks();
    println!("{}", count.line());
    if count.failed > 0 { bail!("{} of the checks failed", count.failed) } else { Ok(()) }
}

fn checks() -> Count {
    let strict = ["--", "-D", "warnings"];
    let mut format = product::own_cargo("fmt");
    // `fmt` is the one subcommand that knows no --locked.
    format = without_locked(format);
    format.args(["--all", "--check"]);
    let mut own = product::own_cargo("clippy");
    own.args(["--package", "xtask", "--all-targets"]).args(strict);
    let mut product = product::cargo("clippy");
    product.args(["--package", "scx_mosix", "--all-targets"]).args(strict);
    let stages: [(&str, Result<()>); 4] = [
        ("format", announced("format", || cmd::run(&mut format))),
        ("clippy of xtask", announced("clippy of xtask", || cmd::run(&mut own))),
        ("clippy of scx_mosix", announced("clippy of scx_mosix", || cmd::run(&mut product))),
        ("tidy", announced("tidy", tidy::run)),
    ];
    let mut count = Count::default();
    for (name, result) in stages {
        match result {
            Ok(()) => count.passed += 1,
            Err(error) => {
                println!("FAILED {name}: {error:#}");
                count.failed += 1;
            }
        }
    }
    count
}

fn without_locked(command: Command) -> Command {
    let mut plain = Command::new(command.get_program());
    plain.args(command.get_args().filter(|argument| *argument != "--locked")).current_dir(product::root());
    plain
}

fn announced<T>(name: &str, stage: impl FnOnce() -> T) -> T {
    println!("== {name}");
    stage()
}

/// All of it, or the part that was asked for. The virtual machines' image is built beside the checks.
pub fn test(wanted: &Test) -> Result<()> {
    let image = (!wanted.unit).then(|| thread::spawn(|| image::ensure(&Progress::new())));
    let mut count = if wanted.files.is_empty() { checks() } else { Count::default() };
    if wanted.files.is_empty() {
        let mut own = product::own_cargo("test");
        own.args(["--package", "xtask", "--no-fail-fast"]);
        count.add(&run("tests of xtask", &mut own, &wanted.rest)?);
        let mut units = product::cargo("test");
        units.args(["--package", "scx_mosix", "--lib", "--bins", "--no-fail-fast"]);
        count.add(&run("unit tests of scx_mosix", &mut units, &wanted.rest)?);
    }
    if let Some(image) = image {
        image.join().map_err(|_| anyhow!("building the image broke off"))??;
        count.add(&integration(wanted)?);
    }
    println!("{}", count.line());
    if count.failed > 0 { bail!("{} of the tests failed", count.failed) } else { Ok(()) }
}

/// The tests that use virtual machines: one after the other, with the binary made before, so that no test's time limit meets them.
fn integration(wanted: &Test) -> Result<Count> {
    let tests = product::root().join("tests");
    let any = std::fs::read_dir(&tests).into_iter().flatten().flatten().any(|entry| is_rust(&entry.path()));
    if !any {
        return Ok(Count::default());
    }
    let binary = product::build(product::Profile::Test)?;
    // Programs that the tests run on the nodes; `cargo test --test NAME` alone does not build them.
    cmd::run(product::cargo("build").args(["--package", "scx_mosix", "--examples"]))?;
    let mut command = product::cargo("test");
    command.args(["--package", "scx_mosix", "--no-fail-fast"]);
    if wanted.files.is_empty() {
        command.args(["--test", "*"]);
    }
    for file in &wanted.files {
        command.args(["--test", file]);
    }
    command.env("SCX_MOSIX_XTASK", std::env::current_exe()?).env("SCX_MOSIX_BIN", binary);
    // Tests that boot machines are marked `ignore`, so that a plain `cargo test` says that it passes them over.
    let mut rest = vec!["--test-threads=1".to_owned(), "--include-ignored".to_owned()];
    rest.extend(wanted.rest.iter().cloned());
    run("integration tests in virtual machines", &mut command, &rest)
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// Runs `cargo test`, lets its output through and counts. A run that broke before it could count is one failure.
fn run(name: &str, command: &mut Command, rest: &[String]) -> Result<Count> {
    println!("== {name}");
    command.arg("--").args(rest).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo")?;
    let mut count = Count::default();
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).lines() {
            let line = line?;
            println!("{line}");
            if let Some(more) = parse_result(&line) {
                count.add(&more);
            }
        }
    }
    let status = child.wait()?;
    if !status.success() && count.failed == 0 {
        println!("FAILED {name}: {status}");
        count.failed = 1;
    }
    Ok(count)
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
    fn a_run_that_breaks_is_a_failure() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'; exit 101", "sh"]);
        assert_eq!(run("x", &mut command, &[]).unwrap(), Count { passed: 2, failed: 1, skipped: 0 });
    }

    #[test]
    fn the_last_line_is_what_ci_reads() {
        assert_eq!(Count { passed: 3, failed: 0, skipped: 0 }.line(), "3 passed, 0 failed");
        assert_eq!(Count { passed: 3, failed: 1, skipped: 2 }.line(), "3 passed, 1 failed, 2 skipped");
    }
}
