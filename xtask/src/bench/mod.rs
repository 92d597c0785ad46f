//! `cargo xtask bench`: what a move, the scheduler and the daemon cost, each beside what one would
//! have without scx_mosix.
//!
//! ```text
//!   boot n1, n2     ─► migration: scx_mosix │ plain criu, by turns, at each size
//!                   ─► daemon:    idle, then with 1,000 tasks
//!                   ─► scheduler: daemons off; hackbench and wake-up latency, scx_mosix │ the kernel's own, by turns
//!   boot n1, n2, n3 ─► build:     make -j8 of a Debian source package at n1, scx_mosix │ n1 alone, by turns; one CPU each
//! ```
//!
//! A part that fails is named at the end and makes the exit status 1; the others are measured and
//! printed all the same. Nothing here asserts how long anything takes: figures are for people and
//! for comparison with those of another day.
//!
//! # JSON
//!
//! `--output json` prints one object on stdout. Fields may be added, never changed or taken away.
//!
//! ```text
//! { "runs": N,                                        pairs of runs of each comparison
//!   "machine": { "accelerator": "kvm"|"tcg"|"namespaces", "nodes", "cpus", "memory_mib", "kernel", "criu" },
//!   "migration": [ { "megabytes", "downtime_ms": C, "total_ms": C, "mib_per_s": C, "plain_parts_ms": { "dump", "copy", "restore" } } ],
//!   "scheduler": [ { "measure": "hackbench"|"wakeup_p50"|"wakeup_p99"|"wakeup_p999", "unit": "s"|"us", …C } ],
//!   "daemon": { "idle": D, "loaded": D },             D = { "tasks", "cpu_ms_per_s", "rss_kib" }
//!   "build": { "machine", "seconds": C, "objects", "moves": [of each run of ours] },
//!   "failed": { PART: REASON } }
//! C = { "ours": [run…], "baseline": [run…], "ours_median", "baseline_median", "ratio", "ratio_min", "ratio_max" }
//! ```
//!
//! A part that was not asked for, or failed, is absent. `ratio` is ours to baseline, the median of
//! the pairs' ratios: below 1 is better.

mod build;
mod daemon;
mod guests;
mod migration;
mod scheduler;
mod stats;
mod table;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    product::Profile,
    progress::Progress,
    setup,
    vm::{
        cluster::{Backend, RootKind},
        up,
    },
};
use guests::Guests;

/// Memory of each node: a program of 256 MiB, its images on tmpfs, and both once more before the
/// copy is released.
const MEMORY_MIB: u32 = 1_536;

/// What users have.
const PROFILE: Profile = Profile::Release;

/// What `cargo xtask bench` is asked for.
#[derive(Args)]
pub struct Bench {
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// Pairs of runs of each comparison
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// What nodes are; the scheduler needs a kernel with sched_ext of its own, so it is measured by
    /// qemu only
    #[arg(long, value_enum, default_value = "qemu")]
    backend: Backend,
    /// What to measure [default: all that the backend can show]
    #[arg(value_enum)]
    parts: Vec<Part>,
}

/// How `--output` wants the result.
#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Downtime and total time of a move, by size
    Migration,
    /// What the daemon costs, idle and with 1,000 tasks
    Daemon,
    /// hackbench and wake-up latency
    Scheduler,
    /// make -j8 of a real C project, by three nodes and by one
    Build,
}

/// All that was measured; the JSON's form.
#[derive(Default, Serialize)]
struct Report {
    runs: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<Machine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    migration: Option<Vec<migration::Size>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduler: Option<Vec<scheduler::Measure>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<daemon::Daemon>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<Building>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    failed: BTreeMap<&'static str, String>,
}

/// The builds and the machines that they were made on, which are others.
#[derive(Serialize)]
struct Building {
    machine: Machine,
    #[serde(flatten)]
    build: build::Build,
}

/// What it was measured on.
#[derive(Serialize)]
struct Machine {
    accelerator: &'static str,
    nodes: usize,
    cpus: f64,
    memory_mib: u32,
    kernel: String,
    criu: String,
}

/// Measures what was asked for and prints it.
pub fn run(wanted: &Bench) -> Result<()> {
    let progress = Progress::new();
    setup::ensure(&progress)?;
    let mut report = Report { runs: wanted.runs, ..Report::default() };
    if wanted.backend == Backend::Namespaces && wanted.parts.contains(&Part::Scheduler) {
        bail!("the scheduler is measured on a kernel of its own: leave out --backend namespaces");
    }
    let wants = |part: Part| match wanted.backend {
        Backend::Namespaces if part == Part::Scheduler => false,
        _ => wanted.parts.is_empty() || wanted.parts.contains(&part),
    };
    if [Part::Migration, Part::Daemon, Part::Scheduler].into_iter().any(wants) {
        on_two_nodes(wanted.backend, &wants, &mut report, &progress)?;
    }
    if wants(Part::Build) {
        let guests = Guests::up(&nodes(wanted.backend, 3, 1.0, true), &progress)?;
        let measure = || {
            let build = build::measure(&guests, usize::from(report.runs), &progress)?;
            Ok(Building { machine: machine(&guests)?, build })
        };
        report.build = part(true, "build", &mut report.failed, measure);
    }
    match wanted.output {
        Output::Table => println!("{}", table::tables(&report)),
        Output::Json => println!("{}", serde_json::to_string(&report)?),
    }
    if !report.failed.is_empty() {
        let reasons: Vec<String> = report.failed.iter().map(|(part, reason)| format!("{part}: {reason}")).collect();
        bail!("not everything could be measured:\n{}", reasons.join("\n"));
    }
    Ok(())
}

/// Nodes for a part of the bench.
fn nodes(backend: Backend, nodes: usize, cpus: f64, daemon: bool) -> up::Wanted {
    let (root, plain) = (RootKind::Copy, Vec::new());
    up::Wanted { backend, root, nodes, cpus, memory_mib: MEMORY_MIB, daemon, plain, profile: PROFILE }
}

fn on_two_nodes(
    backend: Backend,
    wants: &impl Fn(Part) -> bool,
    report: &mut Report,
    progress: &Progress,
) -> Result<()> {
    let daemon = wants(Part::Migration) || wants(Part::Daemon);
    let guests = Guests::up(&nodes(backend, 2, 2.0, daemon), progress)?;
    let pairs = usize::from(report.runs);
    let failed = &mut report.failed;
    report.machine = Some(machine(&guests)?);
    report.migration =
        part(wants(Part::Migration), "migration", failed, || migration::measure(&guests, pairs, progress));
    report.daemon = part(wants(Part::Daemon), "daemon", failed, || daemon::measure(&guests, progress));
    // The last one: it ends the daemons.
    report.scheduler =
        part(wants(Part::Scheduler), "scheduler", failed, || scheduler::measure(&guests, pairs, progress));
    Ok(())
}

fn part<T>(
    wanted: bool,
    name: &'static str,
    failed: &mut BTreeMap<&'static str, String>,
    measure: impl FnOnce() -> Result<T>,
) -> Option<T> {
    if !wanted {
        return None;
    }
    measure().map_err(|error| failed.insert(name, format!("{error:#}"))).ok()
}

fn machine(guests: &Guests) -> Result<Machine> {
    let state = &guests.state;
    let said = guests.bash("n1", "uname -r; criu --version")?;
    let mut lines = said.lines().map(str::to_owned);
    Ok(Machine {
        accelerator: state.runs_on(),
        nodes: state.nodes(),
        cpus: state.cpus,
        memory_mib: state.memory_mib,
        kernel: lines.next().unwrap_or_default(),
        criu: lines.next().unwrap_or_default().trim_start_matches("Version: ").to_owned(),
    })
}
