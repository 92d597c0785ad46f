//! `cargo xtask sim scale`: one run under placement as it runs on nodes, in a cluster as large as
//! any.

use std::time::Instant;

use anyhow::Result;
use scx_mosix::sim::{Outcome, PolicyName, Scenario, run};
use serde::Serialize;

use super::{Cli, Output};

/// The scenario's name.
pub(crate) const NAME: &str = "scale";

#[derive(Serialize)]
struct Scale {
    machines: usize,
    processes: usize,
    moves: u64,
    mean_slowdown: f64,
    p99_slowdown: f64,
    wall_s: f64,
}

/// Runs it and prints what came of it.
pub(crate) fn main(cli: &Cli, scenario: &Scenario) -> Result<()> {
    let start = Instant::now();
    let Outcome { mut slowdowns, moves } = run(scenario, PolicyName::ScxMosixReal, cli.seed);
    let wall_s = start.elapsed().as_secs_f64();
    slowdowns.sort_by(f64::total_cmp);
    let processes = slowdowns.len();
    let result = Scale {
        machines: scenario.machines.iter().map(|kind| kind.count).sum(),
        processes,
        moves,
        mean_slowdown: slowdowns.iter().sum::<f64>() / processes as f64,
        p99_slowdown: slowdowns.get(processes * 99 / 100).copied().unwrap_or(f64::NAN),
        wall_s,
    };
    match cli.output {
        Output::Json => println!("{}", serde_json::to_string(&result)?),
        Output::Table => {
            let Scale { machines, mean_slowdown, p99_slowdown, .. } = result;
            println!("{machines} machines, {processes} processes, {moves} moves in {wall_s:.0} s");
            println!("slowdown {mean_slowdown:.3} on average, 99 % below {p99_slowdown:.3}");
        }
    }
    Ok(())
}
