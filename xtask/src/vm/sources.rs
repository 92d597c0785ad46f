//! Where the guests' Debian packages come from: the mirrors that this host itself is set up for, if
//! it is a Debian. On any other host mmdebstrap's own default is right.

use std::fs;
use std::path::Path;

/// One line of apt's sources, whichever of the two formats it was written in.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
}

/// apt's sources for the guests' suite, empty if this host's own say nothing of Debian.
pub fn for_guests() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    if field("ID") != "debian" {
        return String::new();
    }
    let mut files: Vec<_> =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|f| f.path()).collect();
    files.push(Path::new("/etc/apt/sources.list").to_owned());
    let mut sources = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(parse_lines(&text)),
            Some("sources") => sources.extend(parse_stanzas(&text)),
            _ => {}
        }
    }
    translate(&sources, &field("VERSION_CODENAME"))
}

/// The guests' sources on the mirrors that serve this host's own suite.
fn translate(sources: &[Source], codename: &str) -> String {
    let serving =
        |suites: [String; 2]| sources.iter().find(|source| suites.contains(&source.suite)).map(|source| &source.uri);
    let Some(main) = serving([codename.into(), "stable".into()]) else { return String::new() };
    let mut lines: String =
        ["trixie", "trixie-updates", "trixie-backports"].map(|suite| format!("deb {main} {suite} main\n")).concat();
    if let Some(security) = serving([format!("{codename}-security"), "stable-security".into()]) {
        lines += &format!("deb {security} trixie-security main\n");
    }
    lines
}

/// `deb [options] URI SUITE COMPONENT…`
fn parse_lines(text: &str) -> Vec<Source> {
    let parse = |line: &str| {
        let mut rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        if rest.starts_with('[') {
            rest = rest.split_once(']')?.1;
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        let [uri, suite, components @ ..] = &words[..] else { return None };
        components.contains(&"main").then(|| Source { uri: (*uri).into(), suite: (*suite).into() })
    };
    text.lines().filter_map(parse).collect()
}

/// The stanzas of deb822, `Field: words`, parted by empty lines.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| -> Vec<&str> {
            let of = |line: &'_ str| -> Option<usize> {
                let (key, _) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then_some(key.len() + 1)
            };
            stanza.lines().find_map(|line| Some(line[of(line)?..].split_whitespace().collect())).unwrap_or_default()
        };
        let usable =
            field("Types").contains(&"deb") && field("Components").contains(&"main") && field("Enabled") != ["no"];
        if usable {
            for uri in field("URIs") {
                sources.extend(field("Suites").iter().map(|suite| Source { uri: uri.into(), suite: (*suite).into() }));
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "Types: deb\n# a comment\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n\
        Components: main contrib\nSigned-By: /k.gpg\n\nTypes: deb deb-src\nURIs: http://mirror/security\n\
        Suites: bookworm-security\nComponents: main\n\nTypes: deb\nURIs: http://other\nSuites: bookworm\nComponents: main\nEnabled: no\n";

    #[test]
    fn both_formats_say_the_same() {
        let lines = "deb [arch=amd64 signed-by=/k] http://mirror/debian bookworm main contrib\n# deb http://x bookworm main\n\
            deb http://mirror/debian bookworm-updates main\ndeb-src http://s bookworm main\n\
            deb http://mirror/security bookworm-security main\ndeb http://tool stable tool\n";
        assert_eq!(parse_lines(lines), parse_stanzas(STANZAS));
    }

    #[test]
    fn the_hosts_mirrors_serve_the_guests_suites() {
        let expected = "deb http://mirror/debian trixie main\ndeb http://mirror/debian trixie-updates main\n\
            deb http://mirror/debian trixie-backports main\ndeb http://mirror/security trixie-security main\n";
        assert_eq!(translate(&parse_stanzas(STANZAS), "bookworm"), expected);
    }

    #[test]
    fn without_a_debian_mirror_nothing_is_made_up() {
        assert_eq!(translate(&parse_lines("deb http://u noble main"), "bookworm"), "");
    }
}
