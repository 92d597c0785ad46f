//! `cargo xtask sim`: runs a scenario under all policies on the same seeds, and prints what came of
//! it; the gossip of loads; or times decisions.

mod decision;
mod gossip;
mod plots;
mod scale;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use indicatif::{ProgressBar, ProgressStyle};
use scx_mosix::sim::{Comparison, PolicyName, PolicyResult, Scenario, compare};

/// Simulate a cluster: all policies on the same jobs, or how old the nodes' knowledge of each other
/// becomes
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Cli {
    /// A scenario that comes with the program, a TOML file, `gossip` or `decision`; without it,
    /// those are listed
    scenario: Option<String>,
    /// Runs of each policy, at least 2 [default: 300], or of each size of cluster for `gossip`
    /// [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,
    /// The first run's seed; the others follow
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// Also draw the first run into this directory, as SVG: slowdowns, loads, and ages of what
    /// machines know
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// For `gossip`: messages that are lost, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=90))]
    loss: u32,
    /// For `gossip`: how long a message is under way, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let Some(name) = &cli.scenario else {
        for name in Scenario::names() {
            println!("{name:12} {}", read(name)?.about);
        }
        println!("{:12} {}", gossip::NAME, gossip::ABOUT);
        println!("{:12} {}", decision::NAME, decision::ABOUT);
        return Ok(());
    };
    if name == gossip::NAME {
        return gossip::main(&cli);
    }
    if name == decision::NAME {
        return decision::main(&cli);
    }
    let scenario = read(name)?;
    if scenario.name == scale::NAME {
        return scale::main(&cli, &scenario);
    }
    let comparison = run(&cli, &scenario)?;
    if let Some(dir) = &cli.plots {
        plots::draw(&scenario, cli.seed, dir)?;
    }
    match cli.output {
        Output::Table => println!("{}", tables(&scenario, &comparison)),
        Output::Json => println!("{}", serde_json::to_string(&comparison)?),
    }
    Ok(())
}

fn read(name: &str) -> Result<Scenario> {
    if let Some(text) = Scenario::built_in(name) {
        return Scenario::parse(text).with_context(|| format!("scenario {name}"));
    }
    let file: PathBuf = name.into();
    if !file.exists() {
        let names: Vec<&str> = Scenario::names().collect();
        let names = names.join(", ");
        bail!(
            "there is no scenario and no file {name}; the scenarios are {names}, {}, {}",
            gossip::NAME,
            decision::NAME
        );
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {name}"))?;
    Scenario::parse(&text).with_context(|| format!("scenario {name}"))
}

fn run(cli: &Cli, scenario: &Scenario) -> Result<Comparison> {
    // One run says nothing of how much runs differ.
    let runs = cli.runs.unwrap_or(300).max(2);
    // On a terminal only: a log must stay readable.
    let bar = ProgressBar::new(runs * PolicyName::ALL.len() as u64)
        .with_style(ProgressStyle::with_template("{msg} [{wide_bar}] {percent} %, {eta} to go")?)
        .with_message(scenario.name.clone());
    let comparison = compare(scenario, &PolicyName::ALL, cli.seed, runs, &|| bar.inc(1));
    bar.finish_and_clear();
    Ok(comparison)
}

fn tables(scenario: &Scenario, comparison: &Comparison) -> String {
    let mut slowdowns = Table::new();
    slowdowns.load_style(UTF8_BORDERS_ONLY);
    let fixed = ["policy", "slowdown by job", "by execution", "moves per job"].map(str::to_owned);
    let others = scenario.context.iter().map(|context| context.source.clone());
    slowdowns.set_header(fixed.into_iter().chain(others));
    for result in &comparison.policies {
        let context = scenario.context.iter().map(|context| {
            let figures = context.slowdowns.get(&result.policy);
            figures.map_or(String::new(), |(by_job, by_execution)| format!("{by_job:.1} / {by_execution:.1}"))
        });
        let own = [
            result.policy.to_string(),
            format!("{:.3} ± {:.3}", result.slowdown_by_job, result.slowdown_by_job_ci95),
            format!("{:.3} ± {:.3}", result.slowdown_by_execution, result.slowdown_by_execution_ci95),
            format!("{:.2}", result.moves_per_job),
        ];
        slowdowns.add_row(own.into_iter().chain(context));
    }
    let mut ratios = Table::new();
    ratios.load_style(UTF8_BORDERS_ONLY);
    ratios.set_header(
        std::iter::once("by job, to:".to_owned()).chain(comparison.policies.iter().map(|to| to.policy.to_string())),
    );
    for result in &comparison.policies {
        ratios.add_row(
            std::iter::once(result.policy.to_string()).chain(comparison.policies.iter().map(|to| ratio(result, to))),
        );
    }
    for table in [&mut slowdowns, &mut ratios] {
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    }
    format!(
        "{}: {}; {} runs, seeds from {}; ± is the 95 % confidence interval\n{slowdowns}\npaired ratios of slowdowns by job\n{ratios}\n{}",
        scenario.name,
        scenario.about,
        comparison.runs,
        comparison.seed,
        beside_the_best(comparison)
    )
}

/// Ours in relation to the best of the literature's; the clairvoyant is none, as no node knows what
/// it knows.
fn beside_the_best(comparison: &Comparison) -> String {
    let (ours, others): (Vec<_>, Vec<_>) = comparison.policies.iter().partition(|result| result.policy.is_ours());
    let references = others.into_iter().filter(|result| result.policy != PolicyName::Clairvoyant);
    let Some(best) = references.min_by(|a, b| a.slowdown_by_job.total_cmp(&b.slowdown_by_job)) else {
        return String::new();
    };
    let ours: Vec<String> = ours.into_iter().map(|own| format!("{} {}", own.policy, ratio(own, best))).collect();
    format!("beside the best of the literature, {}: {}", best.policy, ours.join(", "))
}

fn ratio(result: &PolicyResult, to: &PolicyResult) -> String {
    let found = result.ratios.iter().find(|ratio| ratio.to == to.policy);
    found.map_or("—".to_owned(), |ratio| format!("{:.3} ± {:.3}", ratio.ratio, ratio.ci95))
}
