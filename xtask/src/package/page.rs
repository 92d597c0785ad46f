//! The manual page of the settings file, made of the file itself: its comments are the text.

use std::fmt::Write;

const HEAD: &str = r#".TH SCX_MOSIX.TOML 5 "" scx_mosix "File formats"
.SH NAME
scx_mosix.toml \- settings of the scx_mosix daemon
.SH SYNOPSIS
.I /etc/scx_mosix/config.toml
.SH DESCRIPTION
"#;

const TAIL: &str = r#".SH SEE ALSO
.BR scx_mosix (8)
"#;

/// The page of a settings file that reads like `packaging/config.toml`: prose in comments, then the
/// settings that it is about, each `# key = default`.
pub fn of_settings(settings: &str) -> String {
    let mut page = HEAD.to_owned();
    let mut prose = Vec::new();
    for line in settings.lines() {
        let text = line.strip_prefix('#').map_or(line, str::trim_start);
        if text.is_empty() {
            // A setting is preceded by its text; text that no setting follows stands for itself.
            flush(&mut page, &mut prose, ".PP");
        } else if let Some(section) = section(text) {
            let _ = writeln!(page, ".SH [{}]", escape(section));
        } else if is_setting(text) {
            let _ = writeln!(page, ".TP\n.B {}", escape(text));
            flush(&mut page, &mut prose, "");
        } else {
            prose.push(escape(text));
        }
    }
    flush(&mut page, &mut prose, ".PP");
    page + TAIL
}

fn flush(page: &mut String, prose: &mut Vec<String>, before: &str) {
    if prose.is_empty() {
        return;
    }
    for line in (!before.is_empty()).then(|| before.to_owned()).into_iter().chain(prose.drain(..)) {
        let _ = writeln!(page, "{line}");
    }
}

fn section(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

fn is_setting(text: &str) -> bool {
    text.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
}

/// Text as roff takes it literally.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq");
    // A line that begins with one of these would be a request.
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_an_entry_with_the_text_before_it() {
        let page =
            of_settings("# About all.\n\n[daemon]\n# Whom to join.\n# join = []\n\n# More.\n# a_b = 1\n# c = -2\n");
        let (head, rest) = page.split_once(".SH DESCRIPTION\n").unwrap();
        assert!(head.starts_with(".TH SCX_MOSIX.TOML 5"));
        let wanted = ".PP\nAbout all.\n.SH [daemon]\n.TP\n.B join = []\nWhom to join.\n.TP\n.B a_b = 1\nMore.\n.TP\n.B c = \\-2\n";
        assert_eq!(rest.strip_suffix(TAIL).unwrap(), wanted);
    }

    #[test]
    fn text_is_never_a_request_of_roff() {
        assert_eq!(escape(".so /etc/shadow"), "\\&.so /etc/shadow");
        assert_eq!(escape("a\\b \"c\""), "a\\eb \\(dqc\\(dq");
    }
}
