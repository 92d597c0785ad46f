//! Who may import whom: the list between the two markers in ARCHITECTURE.md, read and enforced.

use super::Complaint;
use anyhow::{Result, bail};

const BEGIN: &str = "<!-- layers:begin -->";
const END: &str = "<!-- layers:end -->";

/// The modules of `src/`, each allowed to import those before it.
pub struct Layers(Vec<String>);

impl Layers {
    /// Reads the lines "N. `module` — what it is".
    pub fn parse(architecture: &str) -> Result<Self> {
        let list = architecture.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
        let Some((list, _)) = list else { bail!("ARCHITECTURE.md has no list of modules between {BEGIN} and {END}") };
        let name = |line: &str| Some(line.split('`').nth(1)?.to_owned());
        let layers: Vec<String> = list.lines().filter_map(name).collect();
        if layers.is_empty() {
            bail!("ARCHITECTURE.md's list of modules is empty: lines must read \"1. `module` — what it is\"");
        }
        Ok(Self(layers))
    }

    /// What the file `name` with this `code` (comments and strings blanked) imports against the direction.
    pub fn check(&self, name: &str, code: &str) -> Vec<Complaint> {
        let Some(module) = module_of(name) else { return Vec::new() };
        let Some(own) = self.0.iter().position(|layer| layer == module) else {
            return vec![Complaint::new(0, format!("module `{module}` is missing in ARCHITECTURE.md's list"))];
        };
        let mut complaints = Vec::new();
        for (line, imported) in imports(code) {
            match self.0.iter().position(|layer| *layer == imported) {
                Some(other) if other > own => {
                    let what = format!(
                        "`{module}` must not import `{imported}`, which comes after it in ARCHITECTURE.md's list"
                    );
                    complaints.push(Complaint::new(line, what));
                }
                _ => {}
            }
        }
        complaints
    }
}

/// The module of the product that a file belongs to. The crate's roots wire everything and belong to none.
fn module_of(name: &str) -> Option<&str> {
    let path = name.strip_prefix("src/")?;
    let first = path.split('/').next()?;
    match first {
        "lib.rs" | "main.rs" => None,
        _ => Some(first.strip_suffix(".rs").unwrap_or(first)),
    }
}

/// Every first name after `crate::` (also in braces), with its line.
fn imports(code: &str) -> Vec<(usize, String)> {
    const PREFIX: &str = "crate::";
    let mut found = Vec::new();
    for (at, _) in code.match_indices(PREFIX) {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + PREFIX.len()..];
        match rest.strip_prefix('{') {
            None => found.push((line, first_name(rest))),
            Some(group) => found.extend(group_names(group).map(|name| (line, name))),
        }
    }
    found
}

fn first_name(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first names in `a::b, c::{d, e}, f}`.
fn group_names(group: &str) -> impl Iterator<Item = String> {
    let mut depth = 0;
    let mut names = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(String::new()),
            _ => {}
        }
        if depth == 0
            && c != ','
            && let Some(name) = names.last_mut()
        {
            name.push(c);
        }
    }
    names.into_iter().map(|name| first_name(&name)).filter(|name| !name.is_empty())
}
