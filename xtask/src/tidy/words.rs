//! How text reads: the width of comments, the length of test names, and words that are not used.

use super::Complaint;

/// The widest line of a comment, in columns.
pub const WIDEST_COMMENT: usize = 100;

/// The longest name of a test, in characters.
pub const LONGEST_TEST_NAME: usize = 60;

/// Below these, comments are measured and words are looked for; the files at the root are for
/// readers too.
const READ: &[&str] =
    &["src/", "tests/", "xtask/", "bpf/", "proto/scx_mosix/", "examples/", "README.md", "ARCHITECTURE.md"];

/// Here the retired words have to be named.
const ABOUT_WORDS: &str = "xtask/src/tidy/";

/// Where a retired word is the standard's own: HTTP and HTML have a body.
const OF_STANDARDS: &[(&str, &[&str])] =
    &[("src/ui/web/", &["body", "bodies"]), ("src/metrics/serve.rs", &["body", "bodies"])];

/// Words that this project used in a sense of its own, and what is said instead.
const RETIRED: &[(&str, &str)] = &[
    ("body", "process tree, guest process, or the thing itself"),
    ("bodies", "process trees"),
    ("twin", "backing file"),
    ("twins", "backing files"),
    ("ears", "inbox"),
    ("reckon", "estimate"),
    ("reckons", "estimates"),
    ("reckoned", "estimated"),
    ("believe", "cache, trust"),
    ("believes", "caches, trusts"),
    ("believed", "cached, trusted"),
    ("settled", "stable, ended"),
    ("nobody", "the thing itself: no task, no process, no caller"),
    ("somebody", "the thing itself: a task, a process, a user"),
    ("anybody", "the thing itself"),
    ("everybody", "the thing itself: all tasks, all nodes"),
    ("whoever", "the thing itself: a reader, the caller, a node that"),
    ("go on", "continue, resume"),
    ("goes on", "continues, resumes"),
    ("going on", "continuing"),
    ("went on", "continued"),
    ("let go", "release"),
    ("lets go", "releases"),
    ("hands full", "admission is refused"),
];

/// What is wrong with how the file `name` reads.
pub fn check(name: &str, text: &str) -> Vec<Complaint> {
    if !READ.iter().any(|below| name.starts_with(below)) {
        return Vec::new();
    }
    let mut complaints = widths(name, text);
    if name.starts_with(ABOUT_WORDS) {
        return complaints;
    }
    let is_of_standard =
        |word: &&str| OF_STANDARDS.iter().any(|(below, theirs)| name.starts_with(below) && theirs.contains(word));
    for (index, line) in text.lines().enumerate() {
        let words = format!(" {} ", words(line).join(" "));
        let is_there = |word: &&str| words.contains(&format!(" {word} ")) && !is_of_standard(word);
        for (word, instead) in RETIRED.iter().filter(|(word, _)| is_there(word)) {
            complaints.push(Complaint::new(index + 1, format!("`{word}` is a retired word, say: {instead}")));
        }
    }
    complaints
}

/// Tests whose names are too long. `code` is Rust without comments and strings.
pub fn test_names(code: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let Some((_, after)) = line.split_once("fn ") else { continue };
        let length = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
        if length > LONGEST_TEST_NAME {
            let what = format!("a name of {length} characters: name the behaviour in {LONGEST_TEST_NAME} at most");
            complaints.push(Complaint::new(index + 1, what));
        }
    }
    complaints
}

/// The lower-case words of a line, also those of which an identifier is made.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in line.chars() {
        let begins = !c.is_alphabetic() || (c.is_uppercase() && before.is_lowercase());
        if begins {
            words.push(String::new());
        }
        if let Some(last) = words.last_mut().filter(|_| c.is_alphabetic()) {
            last.extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Comments that are too wide, but for what cannot be wrapped: drawings, fenced text, columns and
/// links.
fn widths(name: &str, text: &str) -> Vec<Complaint> {
    let is_c = name.ends_with(".c") || name.ends_with(".h");
    if !(is_c || name.ends_with(".rs") || name.ends_with(".proto")) {
        return Vec::new();
    }
    let (mut in_block, mut in_fence) = (false, false);
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let own = line.trim_start();
        in_block |= is_c && own.starts_with("/*");
        let is_comment = in_block || own.starts_with("//");
        in_block &= !line.contains("*/");
        let said = own.trim_start_matches(['/', '*', '!', ' ']);
        if !is_comment {
            in_fence = false;
            continue;
        }
        in_fence ^= said.starts_with("```");
        let columns = columns(line);
        if columns > WIDEST_COMMENT && !in_fence && !is_fixed(said) {
            let what = format!("a comment {columns} columns wide: wrap it at {WIDEST_COMMENT}");
            complaints.push(Complaint::new(index + 1, what));
        }
    }
    complaints
}

/// Whether text is laid out by hand: a drawing, columns, or a link.
fn is_fixed(said: &str) -> bool {
    said.contains("  ")
        || said.contains('\t')
        || said.contains("://")
        || said.chars().any(|c| ('\u{2500}'..='\u{25ff}').contains(&c))
}

fn columns(line: &str) -> usize {
    line.chars().fold(0, |at, c| if c == '\t' { at + 8 - at % 8 } else { at + 1 })
}
