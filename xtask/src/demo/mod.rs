//! `cargo xtask demo`: three nodes, eight real programs at n1, and one sees them spread.
//!
//! ```text
//!   boot 3 nodes ─► measure each program on n1 ─► start all eight at n1 by `scx_mosix run`, as an ordinary user
//!   ─► show where each runs, until all have ended ─► start all eight at n1 once more, without scx_mosix ─► compare output and time
//! ```
//!
//! Each program is given work for a fixed CPU time, measured first: emulated and native nodes
//! differ by a factor of twenty, and a program that is over in two seconds is not worth moving.

mod programs;
mod show;

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::{
    cmd,
    product::{COMPILING, Profile},
    progress::Progress,
    setup,
    vm::{
        cluster::{Backend, Cluster, RootKind, State},
        image, namespaces, up,
    },
};
use programs::PROGRAMS;
use show::{Seen, Show};

const NODES: usize = 3;

/// CPU seconds of each program in a virtual machine, which may be emulated: a move takes ten
/// seconds there.
const MACHINE_CPU_S: f64 = 24.0;

/// CPU seconds of each program where nodes are namespaces: a move takes half a second.
const NATIVE_CPU_S: f64 = 6.0;

/// The demo's own steps.
const MEASURING: &str = "measuring the programs on n1";
const WATCHING: &str = "running the programs under scx_mosix";
const COMPARING: &str = "running the programs on n1 alone, without scx_mosix";

/// How long all programs may take together.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Where the programs work, at home.
const DIR: &str = "/home/user/demo";

/// Where they work without scx_mosix.
const PLAIN_DIR: &str = "/home/user/demo-plain";

/// The text that their inputs are cut from; on n1 only.
const TEXT: &str = "/var/tmp/text";

/// How `--output` wants the result.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// `{"programs":[…],"cluster_s":…,"n1_alone_s":…}` on stdout.
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
pub fn run(output: Output, keep: bool, backend: Option<Backend>) -> Result<()> {
    let progress = Progress::new();
    setup::ensure(&progress)?;
    let made: &[&str] = if image::is_built() { &[COMPILING] } else { &[COMPILING, image::BUILDING] };
    progress.expect(&[made, &["booting n1", "booting n2", "booting n3"], &[MEASURING], &[WATCHING], &[COMPARING]]);
    let cluster = Cluster::named("demo")?;
    let backend = backend.unwrap_or_else(|| choose(&progress));
    // The nodes of namespaces share this machine's CPUs.
    let cpus = match backend {
        Backend::Qemu => 1.0,
        Backend::Namespaces => (available_cpus() / NODES as f64 * 0.9).min(1.0),
    };
    let (root, plain, profile) = (RootKind::Copy, Vec::new(), Profile::Test);
    let wanted = up::Wanted { backend, root, nodes: NODES, cpus, memory_mib: 768, daemon: true, plain, profile };
    let state = up::up(&cluster, &wanted, &progress)?;
    let result = demonstrate(&Guests { cluster: &cluster, state: &state }, output, &progress);
    if keep {
        progress.say("the nodes are left running: `cargo xtask vm down --name demo` ends them");
    } else {
        cluster.down()?;
    }
    result
}

/// Namespaces where they may be made, else virtual machines; says which in one line.
fn choose(progress: &Progress) -> Backend {
    match namespaces::obstacle() {
        None => {
            progress.say("the nodes are namespaces on this machine's kernel (virtual machines: --backend qemu)");
            Backend::Namespaces
        }
        Some(obstacle) => {
            progress
                .say(format!("the nodes are virtual machines, because nodes cannot be namespaces here: {obstacle}"));
            Backend::Qemu
        }
    }
}

fn available_cpus() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64)
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

    let step = progress.step(MEASURING);
    guests.push("n1", text.path(), TEXT)?;
    let works = measure(guests)?;
    step.done();

    guests.shell("n1", "user", &start_script(&works, DIR, "scx_mosix run --")).context("cannot start the programs")?;
    let seen = progress.aside(WATCHING, || watch(guests, output))?;
    let cluster = results(guests, DIR)?;

    let step = progress.step(COMPARING);
    guests.shell("n1", "user", &start_script(&works, PLAIN_DIR, "")).context("cannot start the programs")?;
    await_end(guests, PLAIN_DIR)?;
    let alone = results(guests, PLAIN_DIR)?;
    step.done();

    let mut outcomes = Vec::new();
    for (program, (here, there)) in PROGRAMS.iter().zip(alone.programs.iter().zip(&cluster.programs)) {
        let seen = seen.of(program.name);
        if here.0 != 0 {
            bail!("{} ends with status {} without scx_mosix", program.name, here.0);
        }
        outcomes.push(Outcome {
            program: program.name,
            nodes: seen.nodes,
            moves: seen.moves,
            downtime_ms: seen.downtime_ms,
            exit_status: there.0,
            identical: here.1 == there.1,
        });
    }
    match output {
        Output::Table => {
            println!("{}\n{}", show::table(&outcomes), show::gain(cluster.seconds, alone.seconds));
        }
        Output::Json => {
            let (cluster_s, n1_alone_s) = (cluster.seconds, alone.seconds);
            let all = serde_json::json!({ "programs": outcomes, "cluster_s": cluster_s, "n1_alone_s": n1_alone_s });
            println!("{}", serde_json::to_string(&all)?);
        }
    }
    let wrong: Vec<&str> =
        outcomes.iter().filter(|o| !o.identical || o.exit_status != 0).map(|outcome| outcome.program).collect();
    if !wrong.is_empty() {
        bail!("differ from a run without scx_mosix: {}", wrong.join(", "));
    }
    Ok(())
}

/// What came of all programs that were started together.
struct Results {
    /// From the start of the first to the end of the last.
    seconds: f64,
    /// Exit status and the checksum of the output, in the order of [`PROGRAMS`].
    programs: Vec<(i32, String)>,
}

fn results(guests: &Guests<'_>, dir: &str) -> Result<Results> {
    let mut script = format!("cd {dir}; stat -c %.3Y started *.status | sort -n | sed -n '1p;$p'\n");
    for program in &PROGRAMS {
        let name = program.name;
        script += &format!("echo $(cat {name}.status) $(sha256sum <{name}.out)\n");
    }
    let text = guests.shell("n1", "user", &script)?;
    parse_results(&text).with_context(|| format!("the programs left no results:\n{text}"))
}

fn parse_results(text: &str) -> Option<Results> {
    let mut lines = text.lines();
    let mut time = || lines.next()?.trim().parse::<f64>().ok();
    let (began, ended) = (time()?, time()?);
    let program = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
    };
    let programs: Vec<_> = lines.map(program).collect::<Option<_>>()?;
    (programs.len() == PROGRAMS.len()).then_some(Results { seconds: ended - began, programs })
}

/// How many rounds or KiB give each program the CPU time that it is to have: by a short run of
/// each, and then by one in which all compute at once for a tenth of that time, as caches and cores
/// are shared then.
fn measure(guests: &Guests<'_>) -> Result<Vec<u32>> {
    let cpu_s = if guests.state.backend == Backend::Namespaces { NATIVE_CPU_S } else { MACHINE_CPU_S };
    let short = PROGRAMS.map(|program| program.sample);
    let longer = scaled(&short, &cpu_times(guests, &short, "")?, cpu_s / 10.0);
    Ok(scaled(&longer, &cpu_times(guests, &longer, "&")?, cpu_s))
}

fn scaled(works: &[u32], seconds: &[f64], target_s: f64) -> Vec<u32> {
    let each = PROGRAMS.iter().zip(works).zip(seconds);
    each.map(|((program, &work), &seconds)| program.scaled(work, seconds, target_s)).collect()
}

/// The CPU seconds that each program has for its work. `after` follows each command: `&` has all
/// run at once.
fn cpu_times(guests: &Guests<'_>, works: &[u32], after: &str) -> Result<Vec<f64>> {
    let mut script = format!("mkdir -p {DIR} && cd {DIR} && TIMEFORMAT=%3U\n");
    for (program, &work) in PROGRAMS.iter().zip(works) {
        let (name, input) = (program.name, format!("{}.sample", program.name));
        let command = program.command_line(&input, work);
        script += &format!(
            "{}\n{{ time ( {command} >/dev/null ) ; }} 2>{name}.time {after}\n",
            program.make_input(TEXT, &input, work)
        );
    }
    let files = PROGRAMS.map(|program| format!("{}.time", program.name)).join(" ");
    script += &format!("wait\ncat {files}\nrm *.sample *.time\n");
    let times = guests.shell("n1", "user", &format!("bash -c {} 2>&1", cmd::quote(&script)))?;
    let seconds: Vec<f64> = times.lines().filter_map(|line| line.trim().parse().ok()).collect();
    if seconds.len() != PROGRAMS.len() {
        bail!("a program cannot be measured:\n{times}");
    }
    Ok(seconds)
}

/// Starts all programs in `dir` by `launcher`; each has a parent shell that notes its exit status.
fn start_script(works: &[u32], dir: &str, launcher: &str) -> String {
    let mut script = format!("mkdir -p {dir}\ncd {dir}\nrm -f *.out *.status\n");
    for (program, &work) in PROGRAMS.iter().zip(works) {
        script += &format!("{}\n", program.make_input(TEXT, &format!("{}.in", program.name), work));
    }
    script += "touch started\n";
    for (program, &work) in PROGRAMS.iter().zip(works) {
        // The same names in both runs: some programs print them.
        let (name, input) = (program.name, format!("{}.in", program.name));
        let line = format!("exec {}", program.command_line(&input, work));
        let run = format!("{launcher} sh -c {} >{name}.out 2>{name}.err; echo $? >{name}.status", cmd::quote(&line));
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

/// Waits until all programs in `dir` have ended.
fn await_end(guests: &Guests<'_>, dir: &str) -> Result<()> {
    let until = Instant::now() + TIMEOUT;
    let count = format!("ls {dir}/*.status 2>/dev/null | wc -l");
    while guests.shell("n1", "user", &count)?.trim() != PROGRAMS.len().to_string() {
        if Instant::now() > until {
            bail!("the programs have not ended on n1 alone within {} s", TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_only_if_every_program_left_one() {
        let lines = "0 abc  -\n".repeat(PROGRAMS.len());
        let results = parse_results(&format!("100.250\n160.750\n{lines}")).unwrap();
        assert_eq!((results.seconds, results.programs[7].clone()), (60.5, (0, "abc".to_owned())));
        assert!(parse_results(&format!("100.250\n160.750\n{}", &lines[9..])).is_none());
        assert!(parse_results("100.250\n").is_none());
    }
}
