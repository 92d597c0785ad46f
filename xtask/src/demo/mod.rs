//! `cargo xtask demo`: three nodes, eight real programs at n1, and one sees them spread.
//!
//! ```text
//!   boot 3 nodes of one CPU ─► measure each program on n1 ─► start all eight at n1 by `scx_mosix run`, as an ordinary user
//!   ─► show where each runs, until all have ended ─► run each once more without scx_mosix, on all nodes ─► compare
//! ```
//!
//! Each program is given work for about [`TARGET_S`] seconds of a CPU of this machine's guests, measured first: emulated and
//! hardware-assisted guests differ by a factor of twenty, and a program that is over in two seconds is not worth moving.

mod programs;
mod show;

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::{
    cmd,
    product::Profile,
    progress::Progress,
    setup,
    vm::{
        cluster::{Cluster, State},
        up,
    },
};
use programs::PROGRAMS;
use show::{Seen, Show};

/// CPU seconds of each program.
const TARGET_S: f64 = 24.0;

/// When the demo gives up.
const TIMEOUT: Duration = Duration::from_secs(540);

/// Where the programs work, at home.
const DIR: &str = "/home/user/demo";

/// The text that their inputs are cut from; on n1 only, until the programs under `scx_mosix` have ended.
const TEXT: &str = "/var/tmp/text";

/// How `--output` wants the result.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// `{"programs":[…]}` on stdout.
    Json,
}

/// What became of one program; the JSON's form.
#[derive(Serialize)]
struct Outcome {
    program: &'static str,
    nodes: Vec<String>,
    moves: usize,
    downtime_ms: Vec<u64>,
    exit_status: i32,
    identical: bool,
}

/// Runs the demo and cleans up after it.
pub fn run(output: Output, keep: bool) -> Result<()> {
    let progress = Progress::new();
    setup::ensure(&progress)?;
    let cluster = Cluster::named("demo")?;
    let wanted =
        up::Wanted { nodes: 3, cpus: 1, memory_mib: 768, daemon: true, plain: Vec::new(), profile: Profile::Test };
    let state = up::up(&cluster, &wanted, &progress)?;
    let result = demonstrate(&Guests { cluster: &cluster, state: &state }, output, &progress);
    if keep {
        progress.say("the nodes are left running: `cargo xtask vm down --name demo` ends them");
    } else {
        cluster.down()?;
    }
    result
}

/// The demo's nodes.
struct Guests<'a> {
    cluster: &'a Cluster,
    state: &'a State,
}

impl Guests<'_> {
    /// Runs a shell text on a node and returns what it prints.
    fn shell(&self, node: &str, user: &str, text: &str) -> Result<String> {
        let node = self.cluster.node(self.state, node)?;
        let access = self.cluster.access(node, user)?;
        access.connect()?;
        let mut command = access.command(&["sh".into(), "-c".into(), text.into()]);
        cmd::output(command.stdin(Stdio::null()))
    }

    /// Copies a file of this machine to a node.
    fn push(&self, node: &str, source: &Path, destination: &str) -> Result<()> {
        let access = self.cluster.access(self.cluster.node(self.state, node)?, "root")?;
        access.connect()?;
        access.push(source, destination)
    }
}

fn demonstrate(guests: &Guests<'_>, output: Output, progress: &Progress) -> Result<()> {
    let text = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    std::fs::write(text.path(), programs::text())?;
    std::fs::set_permissions(text.path(), Permissions::from_mode(0o644))?;

    let step = progress.step("measuring the programs on n1");
    guests.push("n1", text.path(), TEXT)?;
    let works = measure(guests)?;
    step.done();

    guests.shell("n1", "user", &start_script(&works)).context("cannot start the programs")?;
    let seen = watch(guests, output)?;

    let step = progress.step("running each program once more, without scx_mosix");
    for node in ["n2", "n3"] {
        guests.push(node, text.path(), TEXT)?;
    }
    let references = references(guests, &works)?;
    step.done();

    let mut outcomes = Vec::new();
    for (program, reference) in PROGRAMS.iter().zip(&references) {
        let name = program.name;
        let result = guests.shell("n1", "user", &format!("cd {DIR}; cat {name}.status; sha256sum <{name}.out"))?;
        let (status, sum) = result.split_once('\n').unwrap_or((&result, ""));
        let seen = seen.of(name);
        outcomes.push(Outcome {
            program: name,
            nodes: seen.nodes,
            moves: seen.moves,
            downtime_ms: seen.downtime_ms,
            exit_status: status.trim().parse().unwrap_or(-1),
            identical: sum.trim() == reference.trim(),
        });
    }
    match output {
        Output::Table => println!("{}", show::table(&outcomes)),
        Output::Json => println!("{}", serde_json::to_string(&serde_json::json!({ "programs": outcomes }))?),
    }
    let wrong: Vec<&str> =
        outcomes.iter().filter(|o| !o.identical || o.exit_status != 0).map(|outcome| outcome.program).collect();
    if !wrong.is_empty() {
        bail!("differ from a run without scx_mosix: {}", wrong.join(", "));
    }
    Ok(())
}

/// How many rounds or KiB give each program about [`TARGET_S`] seconds on a node.
fn measure(guests: &Guests<'_>) -> Result<Vec<u32>> {
    let mut script = format!("mkdir -p {DIR} && cd {DIR} && TIMEFORMAT=%3U\n");
    for program in &PROGRAMS {
        let command = program.command_line("sample.in", program.sample);
        script +=
            &format!("{}\ntime ( {command} >/dev/null )\n", program.make_input(TEXT, "sample.in", program.sample));
    }
    let script = format!("bash -c {} 2>&1", cmd::quote(&script));
    let times = guests.shell("n1", "user", &script)?;
    let seconds: Vec<f64> = times.lines().filter_map(|line| line.trim().parse().ok()).collect();
    if seconds.len() != PROGRAMS.len() {
        bail!("a program cannot be measured:\n{times}");
    }
    Ok(PROGRAMS.iter().zip(seconds).map(|(program, seconds)| program.scaled(seconds, TARGET_S)).collect())
}

/// Starts all programs under `scx_mosix run`; each has a parent shell that notes its exit status.
fn start_script(works: &[u32]) -> String {
    let mut script = format!("cd {DIR}\nrm -f *.out *.status\n");
    for (program, &work) in PROGRAMS.iter().zip(works) {
        let (name, input) = (program.name, format!("{}.in", program.name));
        script += &format!("{}\n", program.make_input(TEXT, &input, work));
        let line = format!("exec {}", program.command_line(&input, work));
        let run =
            format!("scx_mosix run -- sh -c {} >{name}.out 2>{name}.err; echo $? >{name}.status", cmd::quote(&line));
        script += &format!("setsid sh -c {} >/dev/null 2>&1 </dev/null &\n", cmd::quote(&run));
    }
    script
}

/// Shows where the programs run until all have ended.
fn watch(guests: &Guests<'_>, output: Output) -> Result<Seen> {
    let look = format!(
        "scx_mosix nodes --output json; echo; echo ---; scx_mosix ps --all --output json; echo; echo ---; \
         scx_mosix migrations --output json; echo; echo ---; cd {DIR}; ls *.status 2>/dev/null | wc -l"
    );
    let until = Instant::now() + TIMEOUT;
    let mut seen = Seen::default();
    let mut show = Show::new(output);
    loop {
        let answer = guests.shell("n1", "root", &look)?;
        let parts: Vec<&str> = answer.split("---").collect();
        let [nodes, processes, migrations, ended] = parts.as_slice() else { bail!("unexpected answer:\n{answer}") };
        seen.note(nodes, processes, migrations)?;
        let ended: usize = ended.trim().parse().unwrap_or(0);
        show.refresh(&seen, ended);
        if ended == PROGRAMS.len() {
            return Ok(seen);
        }
        if Instant::now() > until {
            bail!(
                "{} of {} programs have not ended within {} s",
                PROGRAMS.len() - ended,
                PROGRAMS.len(),
                TIMEOUT.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(1_500));
    }
}

/// The checksum of each program's output when it runs where it is started: all nodes share the work, without scx_mosix.
fn references(guests: &Guests<'_>, works: &[u32]) -> Result<Vec<String>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for (index, node) in ["n1", "n2", "n3"].into_iter().enumerate() {
            let sender = sender.clone();
            scope.spawn(move || {
                for (number, (program, &work)) in PROGRAMS.iter().zip(works).enumerate().skip(index).step_by(3) {
                    // The same names as before: some programs print them.
                    let input = format!("{}.in", program.name);
                    let script = format!(
                        "mkdir -p {DIR}-plain && cd {DIR}-plain && {} && ( {} ) | sha256sum",
                        program.make_input(TEXT, &input, work),
                        program.command_line(&input, work)
                    );
                    let _ = sender.send((number, guests.shell(node, "user", &script)));
                }
            });
        }
    });
    drop(sender);
    let mut sums = vec![String::new(); PROGRAMS.len()];
    for (number, sum) in receiver {
        sums[number] = sum.with_context(|| format!("{} fails without scx_mosix", PROGRAMS[number].name))?;
    }
    Ok(sums)
}
