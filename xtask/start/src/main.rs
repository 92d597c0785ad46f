//! `cargo xtask` begins here: a program without dependencies, so that it is compiled within a
//! second. It has cargo build xtask and becomes it. cargo shows what it compiles, and where there
//! is nothing to compile nothing is printed.

use std::env;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: cannot be built and started: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> io::Result<ExitCode> {
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--locked", "--package", "xtask"]);
    if io::stderr().is_terminal() {
        // Its stderr is a pipe: it would not show its progress.
        build.envs([("CARGO_TERM_PROGRESS_WHEN", "always"), ("CARGO_TERM_PROGRESS_WIDTH", "80")]);
        build.env("CARGO_TERM_COLOR", "always");
    }
    let mut cargo = build.stderr(Stdio::piped()).spawn()?;
    if let Some(stderr) = cargo.stderr.take() {
        pass_on(BufReader::new(stderr))?;
    }
    if !cargo.wait()?.success() {
        return Ok(ExitCode::FAILURE);
    }
    let xtask = env::current_exe()?.with_file_name("xtask");
    // Returns only if it fails.
    Err(Command::new(xtask).args(env::args_os().skip(1)).exec())
}

/// Prints what cargo says, but for its last line on each call.
fn pass_on(mut input: impl BufRead) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            return io::stderr().write_all(&line);
        }
        let mut length = chunk.len();
        // Progress ends with a carriage return.
        let end = chunk.iter().position(|&byte| byte == b'\n' || byte == b'\r');
        if let Some(end) = end {
            length = end + 1;
        }
        line.extend_from_slice(&chunk[..length]);
        input.consume(length);
        if end.is_some() {
            if !String::from_utf8_lossy(&line).contains("    Finished") {
                io::stderr().write_all(&line)?;
            }
            line.clear();
        }
    }
}
