//! `ps`: the programs and where they are.

use std::{cmp::Reverse, collections::HashSet, process::ExitCode};

use super::{
    UiError,
    args::{Format, PsArgs, SortBy},
    client,
    output::{self, Column, figures, words},
};
use crate::{
    api::view::{ProcessState, ProcessSummary},
    job::{Constraints, JobId},
};

const COLUMNS: [Column; 11] = [
    figures("PID"),
    words("USER"),
    words("HOME"),
    words("NODE"),
    words("STATE"),
    figures("CPU%"),
    figures("MEM%"),
    figures("RSS"),
    figures("MOVES"),
    words("CWD"),
    words("COMMAND"),
];

/// The longest directory that [`Format::Table`] shows whole.
const MAX_CWD_CHARS: usize = 24;

pub(super) async fn ps(args: &PsArgs) -> Result<ExitCode, UiError> {
    let failed = UiError::of_call(&args.list.run_dir);
    let mut client = client(&args.list.run_dir);
    let home = if args.all { None } else { Some(client.local_node().await.map_err(&failed)?.node) };
    let mut processes = client.list_processes(home.as_deref()).await.map_err(&failed)?;
    if let Some(by) = args.sort {
        sort(&mut processes, by);
    }
    if args.tree && args.list.output != Format::Json {
        processes = as_tree(processes);
    }
    output::print(&match args.list.output {
        Format::Json => output::json(&processes)?,
        format => render(&processes, format),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn sort(processes: &mut [ProcessSummary], by: SortBy) {
    match by {
        SortBy::User => processes.sort_by(|a, b| a.user.cmp(&b.user)),
        SortBy::Node => processes.sort_by(|a, b| a.runs_on.cmp(&b.runs_on)),
        SortBy::Cpu => processes.sort_by(|a, b| b.cpu_percent.total_cmp(&a.cpu_percent)),
        SortBy::Rss => processes.sort_by_key(|row| Reverse(row.usage.resident_bytes)),
        SortBy::Moves => processes.sort_by_key(|row| Reverse(row.moves)),
        SortBy::Age => processes.sort_by_key(|row| row.start_time_ms.unwrap_or(u64::MAX)),
    }
}

/// Each job with those that came of it behind it, whose commands are indented. One whose root is
/// not in the list stands for itself.
fn as_tree(processes: Vec<ProcessSummary>) -> Vec<ProcessSummary> {
    let (mut descendants, roots): (Vec<_>, Vec<_>) = {
        let names: HashSet<_> = processes.iter().map(ProcessSummary::name).collect();
        let has_root =
            |row: &ProcessSummary| row.part_of.is_some_and(|pid| names.contains(&JobId::new(&row.home, pid)));
        processes.into_iter().partition(has_root)
    };
    let mut ordered = Vec::new();
    for root in roots {
        let (home, pid) = (root.home.clone(), root.pid);
        ordered.push(root);
        let is_of_it = |row: &mut ProcessSummary| row.home == home && row.part_of == Some(pid);
        for mut row in descendants.extract_if(.., is_of_it) {
            let first = row.command_line.first_mut();
            first.unwrap_or(&mut row.comm).insert_str(0, "└ ");
            ordered.push(row);
        }
    }
    ordered
}

/// The programs as a table; [`Format::Wide`] says also where they have been.
pub(super) fn render(processes: &[ProcessSummary], format: Format) -> String {
    let wide = format == Format::Wide;
    let mut columns = COLUMNS.to_vec();
    if wide {
        columns.splice(9..9, [figures("PROCS"), figures("THREADS"), figures("FAULTS"), words("VISITED")]);
    }
    let row = |process: &ProcessSummary| {
        let usage = &process.usage;
        let mut row = vec![
            process.pid.to_string(),
            one_line(&process.user),
            process.home.clone(),
            process.runs_on.clone(),
            state(process.state).to_owned(),
            format!("{:.1}", process.cpu_percent),
            format!("{:.1}", process.memory_percent),
            output::size(usage.resident_bytes),
            process.moves.to_string(),
            if wide { one_line(&process.cwd) } else { end_of(&one_line(&process.cwd), MAX_CWD_CHARS) },
            command(process),
        ];
        if wide {
            let counts = [usage.processes.to_string(), usage.threads.to_string()];
            let faults = usage.counters.major_faults.to_string();
            row.splice(9..9, counts.into_iter().chain([faults, process.visited.join(",")]));
        }
        row
    };
    // Each row is one line. Why a program cannot move goes below it, from the left, where no
    // terminal cuts it off.
    let table = output::table(&columns, processes.iter().map(row), format);
    let notes = std::iter::once(None).chain(processes.iter().map(|process| process.cannot_move.as_ref()));
    let mut text = String::new();
    for (line, note) in table.lines().zip(notes) {
        text.push_str(line);
        text.push('\n');
        if let Some(why) = note {
            text.push_str(&format!("      cannot move: {}\n", output::clean(&why.replace('\n', " "))));
        }
    }
    text
}

pub(super) fn state(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Running => "running",
        ProcessState::Sleeping => "sleeping",
        ProcessState::Stopped => "stopped",
        ProcessState::Moving => "moving",
        ProcessState::Ended => "ended",
        ProcessState::Unknown => "?",
    }
}

/// The command line.
pub(super) fn command(process: &ProcessSummary) -> String {
    let mut text = match process.command_line.is_empty() {
        true => one_line(&format!("[{}]", process.comm)),
        false => one_line(&process.command_line.join(" ")),
    };
    let Constraints { stay, allowed_nodes } = &process.constraints;
    if *stay {
        text.push_str("  (stays)");
    }
    if !allowed_nodes.is_empty() {
        text.push_str(&format!("  (only {})", allowed_nodes.join(",")));
    }
    text
}

/// A newline in a name would break the table.
pub(super) fn one_line(text: &str) -> String {
    text.replace('\n', "?")
}

/// The last characters of a path say most.
pub(super) fn end_of(path: &str, chars: usize) -> String {
    let surplus = path.chars().count().saturating_sub(chars);
    if surplus == 0 { path.to_owned() } else { std::iter::once('…').chain(path.chars().skip(surplus + 1)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Counters, Usage};

    fn row(pid: i32, part_of: Option<i32>, cpu_percent: f64, runs_on: &str) -> ProcessSummary {
        ProcessSummary {
            pid,
            home: "n1".into(),
            runs_on: runs_on.into(),
            part_of,
            cpu_percent,
            command_line: vec!["cc".into()],
            ..ProcessSummary::default()
        }
    }

    fn pids(rows: &[ProcessSummary]) -> Vec<i32> {
        rows.iter().map(|row| row.pid).collect()
    }

    #[test]
    fn descendants_stand_below_the_job_that_they_came_from() {
        let rows = vec![
            row(1, None, 0.0, "n1"),
            row(2, None, 0.0, "n1"),
            row(3, Some(1), 0.0, "n2"),
            row(4, Some(9), 0.0, "n1"),
        ];
        let tree = as_tree(rows);
        assert_eq!(pids(&tree), [1, 3, 2, 4]);
        let commands: Vec<String> = tree.iter().map(command).collect();
        assert_eq!(commands, ["cc", "└ cc", "cc", "cc"]);
    }

    #[test]
    fn rows_are_sorted_by_a_column() {
        let mut rows = [row(1, None, 5.0, "n2"), row(2, None, 90.0, "n1"), row(3, None, 7.0, "n3")];
        sort(&mut rows, SortBy::Cpu);
        assert_eq!(pids(&rows), [2, 3, 1]);
        sort(&mut rows, SortBy::Node);
        assert_eq!(pids(&rows), [2, 1, 3]);
    }

    #[test]
    fn a_program_that_cannot_move_says_why() {
        let counters = Counters { major_faults: 4712, ..Counters::default() };
        let process = ProcessSummary {
            pid: 4711,
            user: "amnon".into(),
            home: "n1".into(),
            runs_on: "n2".into(),
            state: ProcessState::Running,
            command_line: vec!["xz".into(), "-9e".into()],
            cwd: "/a/very/long/path/to/somewhere/else".into(),
            usage: Usage { counters, resident_bytes: 100 << 20, ..Usage::default() },
            cannot_move: Some("descriptor 5 is an inet socket".into()),
            visited: vec!["n1".into(), "n2".into()],
            ..Default::default()
        };
        let text = render(std::slice::from_ref(&process), Format::Table);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), COLUMNS.map(|(title, _)| title));
        assert!(lines[1].contains("4711") && lines[1].ends_with("xz -9e"), "{text}");
        assert!(lines[1].contains(" …/path/to/somewhere/else "), "{text}");
        assert_eq!(lines[2], "      cannot move: descriptor 5 is an inet socket");
        let wide = render(&[process], Format::Wide);
        assert!(wide.contains("n1,n2") && wide.contains(" 4712 "), "{wide}");
    }
}
