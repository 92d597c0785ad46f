use super::*;

const ARCHITECTURE: &str = "# A\n<!-- layers:begin -->\n1. `proto` — leaf\n2. `keys` — keys\n3. `home` — home\n4. `daemon` — all\n<!-- layers:end -->\n5. `x`\n<!-- stages:begin -->\n1. `collect`\n2. `act`\n<!-- stages:end -->\n";

fn layers() -> Layers {
    Layers::parse(ARCHITECTURE).unwrap()
}

fn told(name: &str, text: &str) -> Vec<(usize, String)> {
    check(name, text, &layers()).into_iter().map(|complaint| (complaint.line, complaint.what)).collect()
}

#[test]
fn imports_upwards_are_fine_and_downwards_are_not() {
    let text = "use crate::proto::v1;\nuse crate::home::Job;\nfn f() { crate::daemon::run() }\n";
    assert_eq!(told("src/keys/tls.rs", text).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3]);
    assert!(told("src/daemon.rs", text).is_empty());
    assert!(told("src/main.rs", text).is_empty());
    assert!(told("tests/vm_home.rs", text).is_empty());
}

#[test]
fn imports_in_braces_are_seen() {
    let text = "use crate::{\n    keys::{self, daemon},\n    home::files::Node,\n    daemon,\n};\n";
    let wrong = told("src/home/mod.rs", text);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].1.contains("`home` must not import `daemon`"));
}

#[test]
fn stages_of_the_daemon_import_no_later_ones() {
    let lines = |name, text| told(name, text).into_iter().map(|(line, _)| line).collect::<Vec<_>>();
    let text = "use super::act::Act;\nuse crate::{\n    daemon::{\n        act, collect,\n    },\n};\nuse crate::daemon::act::moves;\n";
    assert_eq!(lines("src/daemon/collect/mod.rs", text), [3, 7, 1]);
    assert_eq!(lines("src/daemon/collect/cpus.rs", text), [3, 7]);
    for later in ["src/daemon/act/mod.rs", "src/daemon/tick.rs", "src/daemon/mod.rs"] {
        assert!(lines(later, text).is_empty(), "{later}");
    }
}

#[test]
fn comments_and_strings_import_nothing() {
    let text = "//! See [`crate::daemon`].\n/* crate::home /* nested crate::home */ crate::home */\n\
        const A: &str = \"crate::daemon \\\" crate::home\";\nconst B: &str = r#\"\" crate::home\"#;\nfn f<'a>(x: &'a u8) -> char { '\"' }\n\
        use crate::home::X;\n";
    assert_eq!(told("src/keys.rs", text).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [6]);
}

#[test]
fn a_module_that_the_document_does_not_list_is_told() {
    assert!(told("src/novel/mod.rs", "")[0].1.contains("`novel` is missing"));
}

#[test]
fn a_document_without_the_list_is_an_error() {
    assert!(Layers::parse("nothing").is_err());
    assert!(Layers::parse("<!-- layers:begin -->\nwords\n<!-- layers:end -->").is_err());
}

#[test]
fn the_longest_file_passes_and_one_line_more_does_not() {
    assert!(told("bpf/x.c", &"\n".repeat(LONGEST_FILE_LINES)).is_empty());
    assert_eq!(told("bpf/x.c", &"\n".repeat(LONGEST_FILE_LINES + 1))[0].0, 0);
    assert!(told("Cargo.lock", &"\n".repeat(LONGEST_FILE_LINES + 1)).is_empty());
    let script = format!("#!/bin/sh{}", "\n".repeat(LONGEST_FILE_LINES + 1));
    assert_eq!(told("vm-images/rootfs/x", &script).len(), 1);
}

#[test]
fn unsafe_needs_its_safety_line() {
    let sound = "// SAFETY: it is.\nlet x =\n    unsafe { f() };\n";
    assert!(told("xtask/src/x.rs", sound).is_empty());
    assert_eq!(
        told("xtask/src/x.rs", "fn f() {\n    unsafe { g() }\n}\n"),
        [(2, "unsafe without a `// SAFETY:` line above it".into())]
    );
    assert_eq!(told("xtask/src/x.rs", "unsafe impl Send for X {}\n").len(), 1);
    assert!(told("xtask/src/x.rs", "// unsafe { g() }\nlet s = \"unsafe { g() }\";\n").is_empty());
    let far = format!("// SAFETY: too far.\n{}unsafe {{ g() }}\n", "\n".repeat(SAFETY_WITHIN_LINES));
    assert_eq!(told("xtask/src/x.rs", &far).len(), 1);
}

#[test]
fn work_left_undone_is_told() {
    let note = format!("fn f() {{ {}) }}\n// {}: later\n", concat!("todo", "!("), concat!("TO", "DO"));
    assert_eq!(told("src/keys.rs", &note).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn everything_in_a_proto_has_a_comment() {
    let good = "// File.\nsyntax = \"proto3\";\npackage a.v1;\nimport \"b.proto\";\n\n// M.\nmessage M {\n  // F.\n  string f = 1;\n  \
        reserved 2;\n  // O.\n  oneof o {\n    // G.\n    int32 g = 3 [\n      deprecated = true\n    ];\n  }\n}\n";
    // What stands in brackets is an option of the field above it.
    let wrong = told("proto/a/v1/a.proto", good);
    assert_eq!(wrong.iter().filter(|(_, what)| !what.contains("deprecated")).count(), 0, "{wrong:?}");
    let bad = "syntax = \"proto3\";\nmessage M {\n  string f = 1;\n  map<string, M> m = 2;\n}\nenum E {\n  E_UNSPECIFIED = 0;\n}\n\
        service S {\n  rpc R(M) returns (M);\n}\n";
    let lines: Vec<usize> = told("proto/a/v1/a.proto", bad).iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 3, 4, 6, 7, 9, 10]);
}

fn lines(name: &str, text: &str) -> Vec<usize> {
    told(name, text).into_iter().map(|(line, _)| line).collect()
}

#[test]
fn retired_words_are_told_also_in_identifiers_and_strings() {
    let text = "// Somebody waits.\nlet guest_body = \"whoever\";\nstruct TwinFile;\n// It goes\n// on; embody, bodyguard, settle.\n";
    assert_eq!(lines("src/keys.rs", text), [1, 2, 2, 3]);
    assert_eq!(lines("README.md", "Programs go on.\n"), [1]);
    assert_eq!(lines("bpf/x.h", "/* let go */\n"), [1]);
    assert_eq!(lines("src/ui/web/page/app.js", text), [1, 2, 3]);
    assert!(lines("src/ui/web/page/app.js", "let body = body();\n").is_empty());
    assert!(lines("xtask/src/tidy/words.rs", text).is_empty() && lines("CHANGELOG.md", text).is_empty());
}

#[test]
fn wide_comments_are_told_but_not_code_drawings_and_links() {
    let wide = |comment: &str| format!("{comment} {}", "word ".repeat(19).trim_end());
    let fits = "a".repeat(words::WIDEST_COMMENT - 3);
    assert!(lines("src/keys.rs", &format!("// {fits}\n")).is_empty());
    assert_eq!(lines("src/keys.rs", &format!("// {fits}b\n")), [1]);
    assert_eq!(lines("src/keys.rs", &format!("    {}\n    {}\n", wide("//!"), wide("let x ="))), [1]);
    assert_eq!(lines("bpf/x.h", &format!("/*\n\t{}\n */\n{}\n", wide("*"), wide("int"))), [2]);
    let fixed = format!("//! ```text\n{}\n//! ```\n{}\n{}\n", wide("//!"), wide("// https://x"), wide("// a ──►"));
    assert!(lines("src/keys.rs", &fixed).is_empty());
    assert!(lines("README.md", &wide("")).is_empty());
}

#[test]
fn names_of_tests_have_a_limit() {
    let name = "n".repeat(words::LONGEST_TEST_NAME);
    assert!(lines("xtask/src/x.rs", &format!("fn {name}() {{}}\n// fn {name}b()\n")).is_empty());
    assert_eq!(lines("xtask/src/x.rs", &format!("    async fn {name}b() {{}}\n")), [1]);
}
