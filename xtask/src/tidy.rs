//! `cargo xtask tidy`: the rules of ARCHITECTURE.md that no compiler checks.
//!
//! Import direction (by the list in ARCHITECTURE.md), length of files, a SAFETY line at every
//! `unsafe`, no notes of work left undone, a comment at everything in a `.proto`; comments, test
//! names and words as [`words`] has them. Each rule is a function from text to complaints; [`run`]
//! applies them to git's files.

mod layers;
mod rust;
#[cfg(test)]
mod tests;
mod words;

use crate::cmd;
use crate::product;
use anyhow::{Context, Result, bail};
use layers::Layers;
use std::path::Path;
use std::process::Command;

/// The most lines of a file, tests included.
pub const LONGEST_FILE_LINES: usize = 450;

/// The kinds of files whose length counts.
const MEASURED: &[&str] = &["rs", "c", "h", "proto", "sh"];

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

impl Complaint {
    fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

/// Checks all files of the work tree and prints what is wrong with them.
pub fn run() -> Result<()> {
    let root = product::root();
    let architecture = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let layers = Layers::parse(&architecture)?;
    let mut list = Command::new("git");
    list.current_dir(&root).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let files = cmd::output(&mut list)?;
    let mut complaints = 0;
    for name in files.lines() {
        // What is no text is not ours to judge; what is listed but gone is about to be committed
        // so.
        let Ok(text) = std::fs::read_to_string(root.join(name)) else { continue };
        for complaint in check(name, &text, &layers) {
            let line = if complaint.line == 0 { String::new() } else { format!(":{}", complaint.line) };
            println!("{name}{line}: {}", complaint.what);
            complaints += 1;
        }
    }
    if complaints > 0 {
        bail!("tidy: {complaints} to put right");
    }
    Ok(())
}

/// What is wrong with the file `name` (from the work tree's root), which has this `text`.
fn check(name: &str, text: &str, layers: &Layers) -> Vec<Complaint> {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let mut complaints = Vec::new();
    if MEASURED.contains(&extension) || text.starts_with("#!") {
        complaints.extend(length(text));
        complaints.extend(left_undone(text));
    }
    match extension {
        "rs" => {
            let code = rust::blank(text);
            complaints.extend(safety(text, &code));
            complaints.extend(layers.check(name, &code));
            complaints.extend(words::test_names(&code));
        }
        "proto" => complaints.extend(proto_comments(text)),
        _ => {}
    }
    complaints.extend(words::check(name, text));
    complaints
}

fn length(text: &str) -> Option<Complaint> {
    let lines = text.lines().count();
    let what = format!("{lines} lines: more than {LONGEST_FILE_LINES}, split it (tests may go to a file of their own)");
    (lines > LONGEST_FILE_LINES).then(|| Complaint::new(0, what))
}

/// Notes of work left undone belong into an issue. The words are put together here so that this
/// file does not trip over itself.
fn left_undone(text: &str) -> Vec<Complaint> {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimple", "mented!(")];
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(word) = words.iter().find(|word| line.contains(**word)) {
            complaints.push(Complaint::new(
                index + 1,
                format!("{word}: do it, or file an issue and say here what is so now"),
            ));
        }
    }
    complaints
}

/// How far above an `unsafe` its SAFETY line may begin: a comment of some lines, and the head of
/// the statement.
const SAFETY_WITHIN_LINES: usize = 10;

/// Every unsafe block, implementation and foreign item says why it is sound. `code` is `text` with
/// comments and strings blanked.
fn safety(text: &str, code: &str) -> Vec<Complaint> {
    let lines: Vec<&str> = text.lines().collect();
    let mut complaints = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let needs = ["unsafe {", "unsafe impl"].iter().any(|form| line.contains(form));
        let from = index.saturating_sub(SAFETY_WITHIN_LINES);
        if needs && !lines[from..=index].iter().any(|line| line.contains("SAFETY:")) {
            complaints.push(Complaint::new(index + 1, "unsafe without a `// SAFETY:` line above it"));
        }
    }
    complaints
}

/// Services, calls, messages, fields, enums and their values are documented: reflection shows these
/// comments to users.
fn proto_comments(text: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut commented = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("//") {
            commented = true;
            continue;
        }
        let first = line.split_whitespace().next().unwrap_or_default();
        let plumbing = ["syntax", "package", "import", "option", "reserved", "}", "]", ""].contains(&first)
            || first.starts_with('}')
            || first.starts_with(']');
        let declares = ["service", "rpc", "message", "enum", "oneof", "extend"].contains(&first)
            || (line.contains(" = ") && line.chars().next().is_some_and(|c| c.is_ascii_alphabetic()));
        if declares && !plumbing && !commented && !line.contains("//") {
            complaints.push(Complaint::new(
                index + 1,
                format!("`{}` has no comment", line.trim_end_matches(['{', ' ', ';'])),
            ));
        }
        commented = false;
    }
    complaints
}
