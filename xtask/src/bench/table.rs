//! The result as tables, for people.

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};

use super::{Building, Machine, Report, stats::Comparison};

/// All tables of a report.
pub fn tables(report: &Report) -> String {
    let mut text = Vec::new();
    if let Some(sizes) = &report.migration {
        let mut table = table(["migration n1 → n2", "scx_mosix", "plain criu", "ratio", "spread"]);
        for size in sizes {
            let figures = [
                ("downtime", "ms", &size.downtime_ms),
                ("total", "ms", &size.total_ms),
                ("rate", "MiB/s", &size.mib_per_s),
            ];
            for (name, unit, figure) in figures {
                table.add_row(row(format!("{} MiB, {name}", size.megabytes), unit, figure));
            }
        }
        text.push(table.to_string());
    }
    if let Some(measures) = &report.scheduler {
        let mut table = table(["scheduler", "scx_mosix", "kernel's own", "ratio", "spread"]);
        for measure in measures {
            table.add_row(row(measure.measure.replace('_', " "), measure.unit, &measure.comparison));
        }
        text.push(table.to_string());
    }
    if let Some(daemon) = &report.daemon {
        let mut table = table(["daemon", "CPU time", "resident"]);
        for cost in [daemon.idle, daemon.loaded] {
            table.add_row([
                format!("{} tasks", cost.tasks),
                format!("{:.1} ms/s", cost.cpu_ms_per_s),
                format!("{:.1} MiB", cost.rss_kib as f64 / 1_024.0),
            ]);
        }
        text.push(table.to_string());
    }
    if let Some(Building { build, .. }) = &report.build {
        let mut table = table(["make -j8 at n1", "scx_mosix", "n1 alone", "ratio", "spread"]);
        let moves = build.moves.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        table.add_row(row(format!("{} objects, all alike; moves: {moves}", build.objects), "s", &build.seconds));
        text.push(table.to_string());
    }
    text.push(format!(
        "Medians of {} pairs of runs by turns; ratio: scx_mosix to the other, the median of the pairs' and their spread.",
        report.runs
    ));
    for machine in report.machine.iter().chain(report.build.as_ref().map(|building| &building.machine)) {
        let Machine { nodes, cpus, memory_mib, accelerator, .. } = machine;
        text.push(format!("{nodes} guests of {cpus} CPUs and {memory_mib} MiB, run by {accelerator}."));
    }
    text.join("\n")
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn row(name: String, unit: &str, figure: &Comparison) -> [String; 5] {
    let Some(summary) = figure.summary else { return [name, "-".into(), "-".into(), "-".into(), "-".into()] };
    let number = |value: f64| {
        let decimals = if value < 100.0 { 2 } else { 0 };
        format!("{value:.decimals$} {unit}")
    };
    [
        name,
        number(summary.ours_median),
        number(summary.baseline_median),
        format!("{:.2}", summary.ratio),
        format!("{:.2} – {:.2}", summary.ratio_min, summary.ratio_max),
    ]
}
