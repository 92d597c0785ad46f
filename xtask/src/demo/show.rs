//! What is shown while the demo runs, and the table at its end.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
};

use anyhow::{Context, Result};
use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use serde::Deserialize;

use super::{Outcome, Output, programs::PROGRAMS};

#[derive(Deserialize)]
struct Node {
    node: String,
    load: f64,
    cpu_speed: f64,
    guests: u32,
    sched_ext: String,
}

#[derive(Deserialize)]
struct Process {
    pid: i32,
    runs_on: String,
    state: String,
    comm: String,
    cwd: String,
    command_line: Vec<String>,
    cannot_move: Option<String>,
}

#[derive(Deserialize)]
struct Migration {
    id: String,
    process: String,
    source: String,
    target: String,
    state: String,
    downtime_us: Option<u64>,
    create_time_ms: u64,
}

/// All that was seen so far. A job that has ended is no longer listed, so what was seen of it is
/// kept.
#[derive(Default)]
pub struct Seen {
    nodes: Vec<Node>,
    processes: BTreeMap<i32, Process>,
    running: Vec<i32>,
    moved: BTreeMap<String, Migration>,
}

/// What was seen of one program.
#[derive(Default)]
pub struct Story {
    pub nodes: Vec<String>,
    pub moves: usize,
    pub downtime_ms: Vec<u64>,
}

impl Seen {
    /// Notes the three answers of `scx_mosix … --output json`.
    pub fn note(&mut self, nodes: &str, processes: &str, migrations: &str) -> Result<()> {
        let nodes: Vec<Node> = serde_json::from_str(nodes).with_context(|| format!("`nodes` said {nodes}"))?;
        let now: Vec<Process> = serde_json::from_str(processes).with_context(|| format!("`ps` said {processes}"))?;
        let moves: Vec<Migration> =
            serde_json::from_str(migrations).with_context(|| format!("`migrations` said {migrations}"))?;
        self.nodes = nodes;
        self.running = now.iter().map(|process| process.pid).collect();
        for mut process in now {
            // A process that is just ending has no command line any more.
            if let Some(known) = self.processes.remove(&process.pid).filter(|_| program_of(&process).is_none()) {
                (process.cwd, process.command_line) = (known.cwd, known.command_line);
            }
            self.processes.insert(process.pid, process);
        }
        let over = moves.into_iter().filter(|migration| migration.state == "run");
        self.moved.extend(over.map(|migration| (migration.id.clone(), migration)));
        Ok(())
    }

    /// The whole story of a program.
    pub fn of(&self, name: &str) -> Story {
        let Some(process) = self.processes.values().find(|process| program_of(process) == Some(name)) else {
            return Story::default();
        };
        let moves = self.moves_of(process);
        Story {
            nodes: route(process, &moves),
            moves: moves.len(),
            downtime_ms: moves.iter().filter_map(|migration| migration.downtime_us).map(|us| us / 1_000).collect(),
        }
    }

    /// Its moves that came about, in order. They are known longer than the process, which may end
    /// right after one.
    fn moves_of(&self, process: &Process) -> Vec<&Migration> {
        let suffix = format!("/{}", process.pid);
        let mut moves: Vec<&Migration> = self.moved.values().filter(|m| m.process.ends_with(&suffix)).collect();
        moves.sort_by_key(|migration| migration.create_time_ms);
        moves
    }
}

/// The nodes on which it ran, in order.
fn route(process: &Process, moves: &[&Migration]) -> Vec<String> {
    let start = moves.first().map_or(&process.runs_on, |migration| &migration.source);
    std::iter::once(start).chain(moves.iter().map(|migration| &migration.target)).cloned().collect()
}

/// Which of the demo's programs a job is: each has an input file of its own name.
fn program_of(process: &Process) -> Option<&'static str> {
    let line = process.command_line.join(" ");
    let is = |name: &str| process.cwd.ends_with("/demo") && line.contains(&format!("{name}.in"));
    // The longest first: "zstd-threads.in" is not "zstd.in".
    let mut names: Vec<&'static str> = PROGRAMS.iter().map(|program| program.name).collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names.into_iter().find(|name| is(name))
}

/// Redraws on a terminal; elsewhere prints a line whenever something has changed.
pub struct Show {
    live: bool,
    drawn: usize,
    last: String,
}

impl Show {
    /// Shows on stderr, so that stdout is left to the result.
    pub fn new(_output: Output) -> Self {
        Self { live: std::io::stderr().is_terminal(), drawn: 0, last: String::new() }
    }

    /// Shows what is known now.
    pub fn refresh(&mut self, seen: &Seen, ended: usize) {
        let mut err = std::io::stderr().lock();
        if !self.live {
            let line = brief(seen, ended);
            if line != self.last {
                let _ = writeln!(err, "demo: {line}");
                self.last = line;
            }
            return;
        }
        let text = picture(seen, ended);
        if self.drawn > 0 {
            let _ = write!(err, "\x1b[{}A\x1b[J", self.drawn);
        }
        self.drawn = text.lines().count();
        let _ = writeln!(err, "{}", text.trim_end());
    }
}

fn brief(seen: &Seen, ended: usize) -> String {
    let place = |pid: &i32| {
        let process = &seen.processes[pid];
        let moving = if process.state == "moving" { "…" } else { "" };
        format!("{}@{}{moving}", program_of(process).unwrap_or(&process.comm), process.runs_on)
    };
    format!("{ended} ended; {}", seen.running.iter().map(place).collect::<Vec<_>>().join(" "))
}

fn picture(seen: &Seen, ended: usize) -> String {
    let mut nodes = Table::new();
    nodes.load_style(UTF8_BORDERS_ONLY).set_header(["node", "running per CPU", "", "guests", "sched_ext"]);
    for node in &seen.nodes {
        // Running programs per CPU. The load itself is in CPUs of standard speed: 20 for one
        // program on an emulated CPU.
        let load = node.load * node.cpu_speed;
        let bar = "█".repeat((load * 2.0).round().clamp(0.0, 20.0) as usize);
        nodes.add_row([
            node.node.clone(),
            format!("{load:.2}"),
            format!("{bar:<20}"),
            node.guests.to_string(),
            node.sched_ext.clone(),
        ]);
    }
    let mut processes = Table::new();
    processes.load_style(UTF8_BORDERS_ONLY).set_header(["pid", "program", "runs on", "has been on", "moves", "note"]);
    for pid in &seen.running {
        let process = &seen.processes[pid];
        let moves = seen.moves_of(process);
        let note = match (&process.cannot_move, process.state.as_str()) {
            (Some(why), _) => format!("cannot move: {why}"),
            (None, "moving") => "moving".into(),
            (None, _) => String::new(),
        };
        processes.add_row([
            pid.to_string(),
            program_of(process).unwrap_or(&process.comm).to_owned(),
            process.runs_on.clone(),
            route(process, &moves).join(" → "),
            moves.len().to_string(),
            note,
        ]);
    }
    format!("{nodes}\n{processes}\n{ended} of {} programs have ended", PROGRAMS.len())
}

/// The table at the end.
pub fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["program", "nodes visited", "moves", "downtime of each", "exit status", "output identical"]);
    for outcome in outcomes {
        let downtimes: Vec<String> = outcome.downtime_ms.iter().map(|ms| format!("{ms} ms")).collect();
        table.add_row([
            outcome.program.to_owned(),
            outcome.nodes.join(" → "),
            outcome.moves.to_string(),
            downtimes.join(", "),
            outcome.exit_status.to_string(),
            if outcome.identical { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    table
}

/// What the cluster was good for, in one sentence.
pub fn gain(cluster_s: f64, alone_s: f64) -> String {
    format!(
        "All programs together took {cluster_s:.0} s in the cluster and {alone_s:.0} s on n1 alone: {:.1} times as fast.",
        alone_s / cluster_s.max(0.001)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ps(command_line: &str) -> String {
        format!(
            r#"[{{"pid":7,"runs_on":"n1","state":"running","comm":"gzip","cwd":"/home/user/demo","command_line":[{command_line}],"cannot_move":null}}]"#
        )
    }

    #[test]
    fn an_ending_program_keeps_its_name_and_its_route() {
        let mut seen = Seen::default();
        seen.note("[]", &ps(r#""gzip","gzip.in""#), "[]").unwrap();
        let moved = r#"[{"id":"a","process":"n1/7","source":"n1","target":"n3","state":"run","downtime_us":2500,"create_time_ms":1}]"#;
        seen.note("[]", &ps(""), moved).unwrap();
        let story = seen.of("gzip");
        assert_eq!((story.nodes, story.moves, story.downtime_ms), (vec!["n1".into(), "n3".into()], 1, vec![2]));
    }
}
