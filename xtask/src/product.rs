//! Building the product: the one place that knows how cargo must be called for it.
//!
//! The binary is linked statically with glibc, so that one file runs on every node; that needs an explicit target (build scripts and
//! procedural macros stay dynamic) and static flags that xtask itself, which must build on a bare machine, does not get.

use crate::cmd;
use crate::setup::CLANGS;
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// `cargo SUBCOMMAND` as it must be called for the product: same target and flags always, so that nothing is built twice.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = own_cargo(subcommand);
    command.args(["--target", TARGET]).env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", RUSTFLAGS);
    command
}

/// The clang that compiles the BPF programs: `BPF_CLANG`, else the best version that is installed.
pub fn clang() -> Option<String> {
    let named = std::env::var("BPF_CLANG").ok().filter(|name| cmd::have(name));
    named.or_else(|| CLANGS.iter().map(|version| format!("clang-{version}")).find(|name| cmd::have(name)))
}

/// `cargo SUBCOMMAND` for xtask's own package.
pub fn own_cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).arg(subcommand).arg("--locked");
    if let Some(clang) = clang() {
        command.env("BPF_CLANG", clang);
    }
    // Set by whoever called us, they would give the two packages different flags, and so different builds.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command
}

/// How the product is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As tests want it: our own code not optimised, as that takes four times as long.
    Test,
    /// As users want it, and so measurements.
    Release,
}

/// Builds the product and returns the path of its binary. With `SCX_MOSIX_BIN` set, that binary is taken as it is.
pub fn build(profile: Profile) -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("SCX_MOSIX_BIN") {
        return PathBuf::from(&binary).canonicalize().with_context(|| format!("SCX_MOSIX_BIN is {binary:?}"));
    }
    let mut command = cargo("build");
    command.args(["--package", "scx_mosix", "--bin", "scx_mosix"]);
    match profile {
        Profile::Test => {}
        Profile::Release => drop(command.arg("--release")),
    }
    cmd::run(&mut command).context("cannot build scx_mosix")?;
    let directory = if profile == Profile::Release { "release" } else { "debug" };
    Ok(target_dir().join(TARGET).join(directory).join("scx_mosix"))
}

/// Becomes the simulator.
pub fn simulate(arguments: &[String]) -> Result<()> {
    let mut command = cargo("run");
    command.args(["--package", "scx_mosix", "--example", "sim", "--"]).args(arguments);
    // Our own code is optimised; the dependencies are, and stay, what they are for tests.
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "3");
    Err(command.exec()).context("cannot start cargo")
}
