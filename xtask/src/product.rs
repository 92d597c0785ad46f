//! Building the product: the one place that knows how cargo must be called for it.
//!
//! The binary is linked statically with glibc, so that one file runs on every node; that needs an
//! explicit target (build scripts and procedural macros stay dynamic) and static flags that xtask
//! itself, which must build on a bare machine, does not get.

use crate::cmd;
use crate::progress::{Progress, Step};
use crate::setup::Host;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target of the product.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

const RUSTFLAGS: &str = "-C target-feature=+crt-static -L native=/usr/lib/x86_64-linux-gnu -C link-arg=-lzstd";

/// The root of the work tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// `cargo SUBCOMMAND` as it must be called for the product: same target and flags always, so that
/// nothing is built twice.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = own_cargo(subcommand);
    command.args(["--target", TARGET]).env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", RUSTFLAGS);
    command
}

/// `cargo SUBCOMMAND` for xtask's own package.
pub fn own_cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).arg(subcommand).arg("--locked");
    if let Some(clang) = Host::this().clang() {
        command.env("BPF_CLANG", clang);
    }
    // Set in our own environment, they would give the two packages different flags, and so
    // different builds.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command
}

/// The step of [`build`].
pub const COMPILING: &str = "compiling scx_mosix";

/// How the product is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As tests want it: our own code not optimised, as that takes four times as long.
    Test,
    /// As users want it, and so measurements.
    Release,
}

/// Makes `cargo` compile a workspace's own packages by Clippy's driver: as the compiler does, with
/// its lints as warnings. Dependencies are the compiler's; `cargo clippy` would check all of them
/// once more, which takes half as long as to compile them.
pub fn linting(mut cargo: Command) -> Command {
    let beside = Path::new(cargo.get_program()).with_file_name("clippy-driver");
    let driver = if beside.exists() { beside } else { "clippy-driver".into() };
    cargo.env("RUSTC_WORKSPACE_WRAPPER", driver);
    cargo
}

/// Where cargo puts the product's binary.
pub fn binary(profile: Profile) -> PathBuf {
    let directory = if profile == Profile::Release { "release" } else { "debug" };
    target_dir().join(TARGET).join(directory).join("scx_mosix")
}

/// Builds the product and returns the path of its binary. With `SCX_MOSIX_BIN` set, that binary is
/// taken as it is.
pub fn build(profile: Profile, progress: &Progress) -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("SCX_MOSIX_BIN") {
        return PathBuf::from(&binary).canonicalize().with_context(|| format!("SCX_MOSIX_BIN is {binary:?}"));
    }
    let mut command = cargo("build");
    command.args(["--package", "scx_mosix", "--bin", "scx_mosix"]);
    match profile {
        Profile::Test => {}
        Profile::Release => drop(command.arg("--release")),
    }
    let step = progress.step(COMPILING);
    compile(&mut command, progress, &step).context("cannot build scx_mosix")?;
    step.done();
    Ok(binary(profile))
}

/// Runs cargo. On a terminal, how far it is becomes part of `step`; elsewhere cargo prints what it
/// compiles.
fn compile(command: &mut Command, progress: &Progress, step: &Step) -> Result<()> {
    if !progress.is_live() {
        return cmd::run(command);
    }
    command.env("CARGO_TERM_PROGRESS_WHEN", "always").env("CARGO_TERM_PROGRESS_WIDTH", "150");
    command.env("CARGO_TERM_COLOR", "always");
    let mut child = command.stderr(Stdio::piped()).spawn().context("cannot start cargo")?;
    if let Some(stderr) = child.stderr.take() {
        for_each_line(BufReader::new(stderr), |line| match said(line) {
            Said::At(done, total, what) => step.at(done, total, &what),
            Said::Routine => {}
            Said::Other => progress.print(line),
        })?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("cargo failed: {status}");
    }
    Ok(())
}

/// Lines that end with a line feed, or with a carriage return as those that show progress do.
fn for_each_line(mut input: impl BufRead, mut take: impl FnMut(&str)) -> std::io::Result<()> {
    let mut line = Vec::new();
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            take(&String::from_utf8_lossy(&line));
            return Ok(());
        }
        for &byte in chunk {
            if byte == b'\r' || byte == b'\n' {
                take(&String::from_utf8_lossy(&line));
                line.clear();
            } else {
                line.push(byte);
            }
        }
        let length = chunk.len();
        input.consume(length);
    }
}

/// What cargo says in one line.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// So many of all are compiled, and these are being compiled.
    At(u64, u64, String),
    /// What it always says.
    Routine,
    /// A warning or an error.
    Other,
}

fn said(line: &str) -> Said {
    let plain = without_colour(line);
    let (word, rest) = plain.trim().split_once(' ').unwrap_or((plain.trim(), ""));
    match word {
        "Building" => building(rest).unwrap_or(Said::Routine),
        "" | "Compiling" | "Fresh" | "Finished" | "Downloading" | "Downloaded" | "Updating" | "Locking" => {
            Said::Routine
        }
        _ => Said::Other,
    }
}

/// `[=====>    ] 123/401: tokio, h2`
fn building(rest: &str) -> Option<Said> {
    let (numbers, what) = rest.split_once("] ")?.1.split_once(": ")?;
    let (done, total) = numbers.trim().split_once('/')?;
    Some(Said::At(done.parse().ok()?, total.parse().ok()?, what.to_owned()))
}

/// The text without its escape sequences, `ESC [ … letter`.
fn without_colour(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        plain + part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or("")
    })
}

/// Becomes the simulator.
pub fn simulate(arguments: &[String]) -> Result<()> {
    let mut command = cargo("run");
    command.args(["--package", "scx_mosix", "--example", "sim", "--"]).args(arguments);
    // Our own code is optimised; the dependencies are, and stay, what they are for tests.
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "3");
    Err(command.exec()).context("cannot start cargo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_progress_is_read_whatever_its_colour() {
        let line = "\x1b[1m\x1b[96m    Building\x1b[0m [=======>    ] 123/401: tokio, h2(build)\x1b[K";
        assert_eq!(said(line), Said::At(123, 401, "tokio, h2(build)".into()));
        assert_eq!(said("    Building [>   ] 0/4: libc"), Said::At(0, 4, "libc".into()));
    }

    #[test]
    fn a_line_that_shows_progress_ends_without_a_line_feed() {
        let mut lines = Vec::new();
        for_each_line(&b"a 1/3\ra 2/3\rwarning\nend"[..], |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["a 1/3", "a 2/3", "warning", "end"]);
    }

    #[test]
    fn what_cargo_always_says_is_told_from_warnings() {
        assert_eq!(said("\x1b[1m\x1b[92m   Compiling\x1b[0m tokio v1.54.1"), Said::Routine);
        assert_eq!(said(""), Said::Routine);
        assert_eq!(said("warning: unused variable"), Said::Other);
        assert_eq!(said("\x1b[1m\x1b[91merror\x1b[0m: cannot find x"), Said::Other);
    }
}
