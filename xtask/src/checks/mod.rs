//! `cargo xtask lint` and `cargo xtask test`: everything that must hold before a change is taken.
//!
//! Each stage runs whatever the ones before said. At the end a table tells what each took, and the
//! last line sums up: `N passed, N failed`. A check (format, lints, tidy) counts as one test.

mod count;
mod programs;

use crate::cmd;
use crate::product::{self, Profile};
use crate::progress::Progress;
use crate::tidy;
use crate::vm::{image, namespaces};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use count::Count;
use programs::{Outcome, Program};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, available_parallelism};
use std::time::Instant;

/// What `cargo xtask test` is asked for.
#[derive(Args)]
pub struct Test {
    /// Only the checks and unit tests, which need no cluster
    #[arg(long)]
    unit: bool,
    /// Only the tests that run on this machine's own kernel, no checks and no virtual machines
    #[arg(long, conflicts_with = "unit")]
    native: bool,
    /// Only the integration tests of these files (vm_home for tests/vm_home.rs), no checks
    #[arg(long = "file", value_name = "NAME", conflicts_with_all = ["unit", "native"])]
    files: Vec<String>,
    /// How many times the integration tests run, one after the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    times: u32,
    /// How many integration tests run at once [default: as many as there are CPUs in virtual
    /// machines, else one more]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Passed to the test programs: names to select, --nocapture, …
    #[arg(last = true)]
    rest: Vec<String>,
}

/// What the stages did, and how long each took.
#[derive(Default)]
struct Stages(Vec<Outcome>);

impl Stages {
    /// Something that counts as one test.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        println!("== {name}");
        let began = Instant::now();
        let result = check();
        if let Err(error) = &result {
            println!("FAILED {name}: {error:#}");
        }
        let passed = result.is_ok();
        let count = Count { passed: passed.into(), failed: (!passed).into(), ..Count::default() };
        self.0.push(Outcome { name: name.to_owned(), took: began.elapsed(), count });
    }

    fn run(&mut self, programs: Vec<Program>, at_once: usize) -> Result<()> {
        self.0.extend(programs::run(programs, at_once)?);
        Ok(())
    }

    /// The last line is what CI reads.
    fn end(self) -> Result<()> {
        let mut all = Count::default();
        for Outcome { name, took, count } in &self.0 {
            println!("{:>7.1} s  {name}: {}", took.as_secs_f64(), count.line());
            all.add(*count);
        }
        println!("{}", all.line());
        if all.failed > 0 { bail!("{} of the tests failed", all.failed) } else { Ok(()) }
    }
}

/// Format, lints, tidy.
pub fn lint() -> Result<()> {
    let mut stages = Stages::default();
    checks(&mut stages);
    stages.end()
}

/// Lints are looked for while the tests are compiled, so that all is compiled once.
fn checks(stages: &mut Stages) {
    // `fmt` is the one subcommand that knows no --locked.
    let mut format = without_locked(product::own_cargo("fmt"));
    format.args(["--all", "--check"]);
    stages.check("format", || cmd::run(&mut format));
    stages.check("tidy", tidy::run);
    stages.check("xtask compiles without a warning", || without_warnings(tests_of_xtask().arg("--no-run")));
    stages.check("scx_mosix compiles without a warning", || without_warnings(tests_of_product().arg("--no-run")));
}

/// `cargo test` of xtask.
fn tests_of_xtask() -> Command {
    let mut command = product::linting(product::own_cargo("test"));
    command.args(["--package", "xtask", "--no-fail-fast"]);
    command
}

/// `cargo test` of the product, which compiles examples and the binary too.
fn tests_of_product() -> Command {
    let mut command = product::linting(product::cargo("test"));
    command.args(["--package", "scx_mosix", "--no-fail-fast"]);
    command
}

/// Runs cargo, which says again what it said of what is compiled already.
fn without_warnings(cargo: &mut Command) -> Result<()> {
    let mut child = cargo.stderr(Stdio::piped()).spawn().context("cannot start cargo")?;
    let said = cmd::pass_on(child.stderr.take(), |line| eprintln!("{line}"))?;
    let status = child.wait()?;
    if !status.success() {
        bail!("cargo failed: {status}");
    }
    if said.lines().any(|line| line.starts_with("warning")) { bail!("there are warnings") } else { Ok(()) }
}

fn without_locked(command: Command) -> Command {
    let mut plain = Command::new(command.get_program());
    plain.args(command.get_args().filter(|argument| *argument != "--locked")).current_dir(product::root());
    plain
}

/// All of it, or the part that was asked for. The nodes' image is built beside the checks.
pub fn test(wanted: &Test) -> Result<()> {
    if !wanted.unit {
        image::rehearse(&Progress::new())?;
    }
    let image = (!wanted.unit).then(|| thread::spawn(|| image::ensure(&Progress::new())));
    let mut stages = Stages::default();
    if wanted.files.is_empty() && !wanted.native {
        checks(&mut stages);
        let mut units = tests_of_product();
        units.args(["--lib", "--bins"]);
        for (name, mut command) in [("unit tests of xtask", tests_of_xtask()), ("unit tests of scx_mosix", units)] {
            command.arg("--").args(&wanted.rest);
            stages.run(vec![Program { name: name.to_owned(), command }], 1)?;
        }
    }
    if let Some(image) = image {
        image.join().map_err(|_| anyhow!("building the image broke off"))??;
        integration(wanted, &mut stages)?;
    }
    stages.end()
}

/// The tests that use clusters. All is compiled before, so that no test's time limit meets
/// compiling.
fn integration(wanted: &Test, stages: &mut Stages) -> Result<()> {
    let files: Vec<String> =
        test_files(wanted)?.into_iter().filter(|file| !(wanted.native && file.starts_with("vm_"))).collect();
    cmd::run(tests_of_product().arg("--no-run"))?;
    let backend = match namespaces::obstacle() {
        None => "namespaces",
        Some(obstacle) => {
            println!("Tests that need no kernel of their own run in virtual machines too, because {obstacle}.");
            "qemu"
        }
    };
    let xtask = std::env::current_exe()?;
    let program = |file: &String, round: u32| {
        let mut command = tests_of_product();
        command.args(["--test", file]);
        command.env("SCX_MOSIX_XTASK", &xtask).env("SCX_MOSIX_BIN", product::binary(Profile::Test));
        command.env("SCX_MOSIX_TEST_BACKEND", backend);
        // Tests that make clusters are marked `ignore`, so that a plain `cargo test` says that it
        // passes them over.
        command.args(["--", "--test-threads=1", "--include-ignored"]).args(&wanted.rest);
        let nodes = if file.starts_with("vm_") { "qemu" } else { backend };
        let of = if wanted.times > 1 { format!(", run {round} of {}", wanted.times) } else { String::new() };
        Program { name: format!("{file} ({nodes}){of}"), command }
    };
    // Emulated machines compute while they seem to wait, so fewer of their tests run at once.
    let cpus = available_parallelism()?.get();
    let (machines, native): (Vec<String>, Vec<String>) = files.into_iter().partition(|file| file.starts_with("vm_"));
    for round in 1..=wanted.times {
        for (files, at_once) in [(&native, cpus + 1), (&machines, cpus)] {
            let programs = files.iter().map(|file| program(file, round)).collect();
            stages.run(programs, wanted.jobs.unwrap_or(at_once))?;
        }
    }
    Ok(())
}

/// Test programs that take long begin first, so that none of them is the last one that runs.
const LONGEST: [&str; 5] = ["vm_memory", "vm_scheduler", "cluster_failures", "cluster_migration", "vm_owner"];

/// The integration tests that were asked for, by the names of their files.
fn test_files(wanted: &Test) -> Result<Vec<String>> {
    if !wanted.files.is_empty() {
        return Ok(wanted.files.clone());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(product::root().join("tests")).context("cannot read tests/")? {
        let path = entry?.path();
        if is_rust(&path) || path.join("main.rs").exists() {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    let place = |name: &String| LONGEST.iter().position(|long| long == name).unwrap_or(LONGEST.len());
    names.sort_by_key(|name| (place(name), name.clone()));
    Ok(names)
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}
