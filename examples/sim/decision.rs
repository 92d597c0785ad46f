//! `cargo xtask sim decision`: how long one node takes for its decisions each second.

use std::time::Instant;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use scx_mosix::{
    job::{Constraints, Counters, History, JobId, JobRecord, JobSpec, SessionId},
    placement::{Config, Input, JobView, NodeView, Placement},
};
use serde::Serialize;

use super::{Cli, Output};

/// What this is called among the scenarios.
pub(crate) const NAME: &str = "decision";
/// What it is.
pub(crate) const ABOUT: &str = "no cluster: how long one node takes to decide about all of its jobs";

/// Jobs of the node, and nodes that it knows.
const SIZES: [(usize, usize); 4] = [(10, 3), (100, 100), (1_000, 100), (1_000, 10_000)];
/// Decisions of each size; the first tenth is not counted.
const DECISIONS: usize = 220;

#[derive(Serialize)]
struct Taken {
    jobs: usize,
    nodes: usize,
    median_us: f64,
    p99_us: f64,
}

/// Times decisions of all sizes.
pub(crate) fn main(cli: &Cli) -> Result<()> {
    let results = SIZES.map(|(jobs, nodes)| time(jobs, nodes)).into_iter().collect::<Result<Vec<Taken>>>()?;
    match cli.output {
        Output::Table => println!("{}", table(&results)),
        Output::Json => println!("{}", serde_json::to_string(&results)?),
    }
    Ok(())
}

fn time(jobs: usize, nodes: usize) -> Result<Taken> {
    let input = input(jobs, nodes);
    let placement = Placement::new(Config::default())?;
    let mut taken_us: Vec<f64> = (0..DECISIONS as u64)
        .map(|seed| {
            // Each begins with nothing remembered, as one job would be under way after the first.
            let mut placement = placement.clone();
            let start = Instant::now();
            let decisions = placement.decide(&input, seed);
            let taken = start.elapsed();
            drop(decisions);
            taken.as_secs_f64() * 1e6
        })
        .skip(DECISIONS / 11)
        .collect();
    taken_us.sort_by(f64::total_cmp);
    let at = |share: f64| taken_us.get((taken_us.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Ok(Taken { jobs, nodes, median_us: at(0.5), p99_us: at(0.99) })
}

/// A node with so many jobs, all of which could move, among nodes of all kinds.
fn input(jobs: usize, nodes: usize) -> Input {
    let node = |index: usize| NodeView {
        name: format!("n{index}").into(),
        cpus: 1 + (index % 64) as u32,
        speed_milli: 500 + (index * 37 % 1_500) as u32,
        load_milli: if index == 0 { 20_000 } else { (index * 211 % 6_000) as u32 },
        weight_nano: (index as u64 * 7_919 % 1_000) * 10_000_000,
        owners: None,
        free_memory_bytes: (1 + index as u64 % 64) << 30,
        total_memory_bytes: 64 << 30,
        swapped_bytes: 0,
        depletion_bytes_per_s: 0,
        memory_stall_centi: 0,
        link_bytes_per_s: 125_000_000,
        freeze_ms: 100,
        work_ms: 300,
        age_ms: (index as u64 * 13) % 9_000,
        accepting: true,
        alive: true,
        features_ok: Ok(()),
    };
    let job = |index: usize| JobView {
        record: JobRecord {
            id: JobId::new(
                &if index.is_multiple_of(4) { format!("n{}", index % nodes) } else { "n0".into() },
                1_000 + index as i32,
            ),
            session: SessionId([0; 16]),
            spec: JobSpec { tree: Some(index as i32), ..JobSpec::default() },
            constraints: Constraints::default(),
            history: History {
                counters: Counters {
                    cpu_ns: (2_000 + index as u64 * 1_009) * 1_000_000,
                    io_bytes: (index as u64 % 128) << 20,
                    ..Counters::default()
                },
                age_ms: 10_000 + index as u64 * 2_003,
                demand_milli: 300 + (index as u32 * 97 % 2_000),
                ..History::default()
            },
        },
        running_on: "n0".into(),
        working_set_bytes: (1 + index as u64 % 512) << 20,
        frozen_bytes: (1 + index as u64 % 512) << 20,
        mapped_bytes: (index as u64 % 16) << 20,
        since_last_move_ms: None,
        movable: Ok(()),
    };
    Input {
        here: "n0".into(),
        now_ms: 1_000_000,
        nodes: (0..nodes).map(node).collect(),
        jobs: (0..jobs).map(job).collect(),
        in_flight: Vec::new(),
        draining: false,
    }
}

fn table(results: &[Taken]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["jobs here", "nodes known", "median, µs", "99 % below, µs"]);
    for Taken { jobs, nodes, median_us, p99_us } in results {
        table.add_row([jobs.to_string(), nodes.to_string(), format!("{median_us:.0}"), format!("{p99_us:.0}")]);
    }
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    format!("one decision about all jobs of a node\n{table}")
}
