//! Whether every program that will be needed starts: a broken one would be met only after minutes
//! of compiling.

use super::Host;
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::process::{Command, Stdio};

/// A command that ends well where the program works, what is written to it, and the package that it
/// comes from.
struct Trial {
    words: &'static [&'static str],
    input: &'static str,
    package: &'static str,
}

const fn says(words: &'static [&'static str], package: &'static str) -> Trial {
    Trial { words, input: "", package }
}

const C: &str = "int main(void) { return 0; }";

const TRIALS: &[Trial] = &[
    says(&["make", "--version"], "make"),
    says(&["ld", "--version"], "binutils"),
    says(&["strip", "--version"], "binutils"),
    Trial { words: &["gcc", "-x", "c", "-", "-o", "/dev/null"], input: C, package: "gcc" },
    Trial {
        words: &["gcc", "-static", "-x", "c", "-", "-o", "/dev/null", "-lelf", "-lz", "-lzstd"],
        input: C,
        package: "libelf-dev zlib1g-dev libzstd-dev libc6-dev",
    },
    says(&["pkg-config", "--exists", "libelf", "zlib", "libzstd"], "pkg-config"),
    says(&["ssh", "-V"], "openssh-client"),
    says(&["cpio", "--version"], "cpio"),
    says(&["mmdebstrap", "--version"], "mmdebstrap"),
    says(&["mkfs.ext4", "-V"], "e2fsprogs"),
    says(&["python3", "-c", "import venv, ensurepip"], "python3-venv"),
];

/// Without root, mmdebstrap maps users by it.
const UNPRIVILEGED: Trial = says(&["sh", "-c", "command -v newuidmap"], "uidmap");

/// Fails with one sentence about the first program that does not start.
pub fn check(host: &Host) -> Result<()> {
    for trial in TRIALS.iter().chain((!host.root).then_some(&UNPRIVILEGED)) {
        try_out(host, trial.words, trial)?;
    }
    let Some(clang) = host.clang() else {
        bail!("there is no clang 18 or newer, which compiles the BPF programs: install clang-19");
    };
    let bpf = [clang.as_str(), "-target", "bpf", "-x", "c", "-c", "-", "-o", "/dev/null"];
    try_out(host, &bpf, &Trial { words: &[], input: C, package: "clang" })
}

fn try_out(host: &Host, words: &[&str], trial: &Trial) -> Result<()> {
    let (program, package) = (words[0], trial.package);
    let advice = || format!("reinstall it (on Debian: `apt-get install --reinstall {package}`), then try again");
    if !host.have(program) {
        bail!("the program {program} is needed and missing: {}", advice());
    }
    let output = run(host.command(program).args(&words[1..]), trial.input)
        .with_context(|| format!("the program {program} does not start: {}", advice()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or_default().trim();
        bail!("`{}` fails ({}; {said}): {}", words.join(" "), output.status, advice());
    }
    Ok(())
}

fn run(command: &mut Command, input: &str) -> std::io::Result<std::process::Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that needs no input may have ended already.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}
