//! Who may import whom: the lists between markers in ARCHITECTURE.md, read and enforced.

use super::Complaint;
use anyhow::{Result, bail};

/// Each list in order: a module may import those before it.
pub struct Layers {
    /// The modules of `src/`.
    modules: Vec<String>,
    /// The stages of the daemon, modules of `src/daemon/`.
    stages: Vec<String>,
}

impl Layers {
    /// Reads the lines "N. `module` — what it is".
    pub fn parse(architecture: &str) -> Result<Self> {
        Ok(Self { modules: list(architecture, "layers")?, stages: list(architecture, "stages")? })
    }

    /// What the file `name` with this `code` (comments and strings blanked) imports against the
    /// direction.
    pub fn check(&self, name: &str, code: &str) -> Vec<Complaint> {
        let Some(module) = name.strip_prefix("src/").and_then(module_of) else { return Vec::new() };
        if !self.modules.iter().any(|layer| layer == module) {
            return vec![Complaint::new(0, format!("module `{module}` is missing in ARCHITECTURE.md's list"))];
        }
        let mut complaints = against(&self.modules, module, imports(code, "crate::"));
        if let Some(path) = name.strip_prefix("src/daemon/")
            && let Some(stage) = module_of(path)
        {
            complaints.extend(against(&self.stages, stage, imports(code, "daemon::")));
            if path.ends_with("/mod.rs") || !path.contains('/') {
                complaints.extend(against(&self.stages, stage, imports(code, "super::")));
            }
        }
        complaints
    }
}

fn list(architecture: &str, name: &str) -> Result<Vec<String>> {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let list = architecture.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    let Some((list, _)) = list else { bail!("ARCHITECTURE.md has no list between {begin} and {end}") };
    let modules: Vec<String> = list.lines().filter_map(|line: &str| Some(line.split('`').nth(1)?.to_owned())).collect();
    if modules.is_empty() {
        bail!("the list after {begin} in ARCHITECTURE.md is empty: lines must read \"1. `module` — what it is\"");
    }
    Ok(modules)
}

/// Those of a module's imports that come after it in the list; one that is not in the list may
/// import all.
fn against(list: &[String], module: &str, imports: Vec<(usize, String)>) -> Vec<Complaint> {
    let Some(own) = list.iter().position(|layer| layer == module) else { return Vec::new() };
    let after = |imported: &String| list[own + 1..].contains(imported);
    let wrong = imports.into_iter().filter(|(_, imported)| after(imported));
    let tell = |(line, imported): (usize, String)| {
        let what = format!("`{module}` must not import `{imported}`, which comes after it in ARCHITECTURE.md's list");
        Complaint::new(line, what)
    };
    wrong.map(tell).collect()
}

/// The module that a file at `path` below it belongs to. Roots wire everything and belong to none.
fn module_of(path: &str) -> Option<&str> {
    let first = path.split('/').next()?;
    match first {
        "lib.rs" | "main.rs" | "mod.rs" => None,
        _ => Some(first.strip_suffix(".rs").unwrap_or(first)),
    }
}

/// Every first name after `prefix` (also in braces), with its line.
fn imports(code: &str, prefix: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + prefix.len()..];
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
