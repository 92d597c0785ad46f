//! `cargo xtask sim gossip`: ages of entries on the nodes' boards beside what the formulas promise.

use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use scx_mosix::{
    cluster::GossipConfig,
    sim::{GOSSIP_SIZES, GossipModel, GossipResult, gossip},
};

use super::{Cli, Output};

/// What this is called among the scenarios.
pub(crate) const NAME: &str = "gossip";
/// What it is.
pub(crate) const ABOUT: &str = "no jobs: how old the nodes' knowledge of each other becomes, beside what is promised";

/// How far ages may be from what the formulas say.
const TOLERANCE: f64 = 0.15;

/// Simulates all sizes and prints the ages; an error if they are not as promised and nothing was
/// made worse by options.
pub(crate) fn main(cli: &Cli) -> Result<()> {
    let model = |(nodes, window)| GossipModel {
        nodes,
        config: GossipConfig { window, ..GossipConfig::default() },
        loss: f64::from(cli.loss) / 100.0,
        delay_ms: cli.delay,
    };
    let models = GOSSIP_SIZES.map(model);
    let progress = |model: &GossipModel| eprintln!("{NAME}: {} nodes done", model.nodes);
    let results = gossip(&models, cli.seed, cli.runs.unwrap_or(1), &progress);
    match cli.output {
        Output::Table => println!("{}", table(&results)),
        Output::Json => println!("{}", serde_json::to_string(&results)?),
    }
    let wrong = results.iter().filter(|result| result.error() > TOLERANCE).count();
    if wrong > 0 {
        bail!("{wrong} of {} sizes differ from the formulas by more than {:.0} %", results.len(), TOLERANCE * 100.0);
    }
    Ok(())
}

fn table(results: &[GossipResult]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header([
        "nodes",
        "window",
        "average",
        "formula",
        "ratio",
        "maximal",
        "formula",
        "ratio",
        "bytes/message",
        "bytes/s",
    ]);
    for result in results {
        table.add_row([
            result.nodes.to_string(),
            result.window.to_string(),
            format!("{:.2}", result.average),
            format!("{:.2}", result.expected_average),
            format!("{:.3}", result.average / result.expected_average),
            format!("{:.1}", result.maximal),
            format!("{:.1}", result.expected_maximal),
            format!("{:.3}", result.maximal / result.expected_maximal),
            result.message_bytes.to_string(),
            format!("{:.0}", result.bytes_per_second),
        ]);
    }
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    format!(
        "ages in steps of half a second; maximal: the oldest entry of a node's board, as a mean over nodes and time\n{table}"
    )
}
