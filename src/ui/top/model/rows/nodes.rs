//! Nodes.

use std::collections::VecDeque;

use crate::{
    api::view::{NodeState, NodeSummary, SchedExt},
    ui::{
        nodes, output,
        top::model::{
            figures::{bar, percent, sparkline},
            list::{Column, Listed, Meaning, Value, Width},
        },
    },
};

/// Samples of a node's load that are kept.
pub const HISTORY: usize = 60;
/// From this load per CPU on programs wait for each other.
const FULL_LOAD: f64 = 1.0;
/// The load that fills a bar.
const BAR_LOAD: f64 = 2.0;

/// A node.
pub struct Node {
    /// What the API says.
    pub row: NodeSummary,
    /// Its load per CPU, the newest last.
    pub history: VecDeque<f32>,
    /// Programs of it that run elsewhere, where that is known: at the node that is asked.
    pub out: Option<usize>,
    pressure: String,
    note: String,
}

impl Node {
    /// A row with the history of the one before.
    pub fn new(row: NodeSummary, before: Option<&Self>) -> Self {
        let pressure = &row.pressure;
        let shares = [pressure.cpu_some_percent, pressure.memory_some_percent, pressure.io_some_percent];
        let pressure = shares.map(|share| format!("{share:>3.0}")).join(" ");
        let note = output::clean(&nodes::note(&row, false));
        let (history, out) = before.map(|node| (node.history.clone(), node.out)).unwrap_or_default();
        Self { row, history, out, pressure, note }
    }

    /// Remembers the present load.
    pub fn sample(&mut self) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(self.row.load as f32);
    }

    fn is_alive(&self) -> bool {
        self.row.state == NodeState::Alive
    }

    fn used_share(&self) -> f64 {
        let NodeSummary { memory_total_bytes: total, memory_available_bytes: available, .. } = self.row;
        if total == 0 { 0.0 } else { total.saturating_sub(available) as f64 / total as f64 }
    }
}

impl Listed for Node {
    type Key = String;

    fn key(&self) -> String {
        self.row.node.clone()
    }

    const COLUMNS: &'static [Column<Self>] = &[
        Column::<Self>::new("NODE", 0, Width::Node, |node, _| Value::Text(&node.row.node))
            .shown(|node, _| format!("{}{}", node.row.node, if node.row.local { "*" } else { "" }))
            .coloured(|node| if node.is_alive() { Meaning::Plain } else { Meaning::Bad }),
        Column::<Self>::new("STATE", 3, Width::Cells(7), |node, _| Value::Text(nodes::state(node.row.state))).coloured(
            |node| match node.row.state {
                NodeState::Alive => Meaning::Good,
                NodeState::Suspect | NodeState::Leaving => Meaning::Busy,
                NodeState::Dead | NodeState::Unknown => Meaning::Bad,
            },
        ),
        Column::<Self>::new("LOAD", 1, Width::Cells(15), |node, _| Value::Number(node.row.load))
            .shown(|node, _| format!("{} {:>4.2}", bar(node.row.load / BAR_LOAD, 8), node.row.load))
            .coloured(|node| match node.row.load {
                load if load > FULL_LOAD => Meaning::Bad,
                load if load > FULL_LOAD / 2.0 => Meaning::Busy,
                _ => Meaning::Good,
            })
            .left_aligned(),
        Column::<Self>::new("TREND", 7, Width::Tail(8, 30), |node, _| {
            Value::Number(node.row.load - f64::from(node.history.front().copied().unwrap_or_default()))
        })
        .shown(|node, _| sparkline(&node.history, BAR_LOAD as f32))
        .coloured(|_| Meaning::Quiet)
        .left_aligned(),
        // Only of itself a node knows that.
        Column::<Self>::new("CPU%", 8, Width::Cells(4), |node, _| Value::Number(node.row.cpu_busy_percent))
            .shown(|node, _| if node.row.local { percent(node.row.cpu_busy_percent) } else { "-".into() }),
        Column::<Self>::new("MEMORY", 2, Width::Cells(20), |node, _| Value::Number(node.used_share()))
            .shown(|node, _| {
                let NodeSummary { memory_total_bytes: total, memory_available_bytes: available, .. } = node.row;
                let used = output::size(total.saturating_sub(available));
                format!("{} {used:>4}/{}", bar(node.used_share(), 8), output::size(total))
            })
            .coloured(|node| match node.used_share() {
                share if share > 0.95 => Meaning::Bad,
                share if share > 0.8 => Meaning::Busy,
                _ => Meaning::Good,
            })
            .left_aligned(),
        Column::<Self>::new("CPU/MEM/IO WAIT%", 9, Width::Cells(16), |node, _| {
            let pressure = &node.row.pressure;
            let worst = pressure.memory_some_percent.max(pressure.io_some_percent);
            Value::Number(worst.max(pressure.cpu_some_percent))
        })
        .shown(|node, _| node.pressure.clone())
        .coloured(|node| match node.row.pressure.memory_full_percent {
            share if share >= 1.0 => Meaning::Bad,
            _ => Meaning::Plain,
        }),
        Column::<Self>::new("GUESTS", 4, Width::Cells(6), |node, _| Value::Number(node.row.guests.into())),
        Column::<Self>::new("OUT", 6, Width::Cells(4), |node, _| {
            Value::Number(node.out.map_or(-1.0, |out| out as f64))
        })
        .shown(|node, _| node.out.map_or_else(|| "-".to_owned(), |out| out.to_string())),
        Column::<Self>::new("CPUS", 10, Width::Cells(4), |node, _| Value::Number(node.row.cpus.into())),
        Column::<Self>::new("SPEED", 11, Width::Cells(5), |node, _| Value::Number(node.row.cpu_speed))
            .shown(|node, _| format!("{:.2}", node.row.cpu_speed)),
        Column::<Self>::new("SCHED_EXT", 5, Width::Cells(11), |node, _| {
            Value::Text(nodes::sched_ext(node.row.sched_ext))
        })
        .coloured(|node| match node.row.sched_ext {
            SchedExt::Attached => Meaning::Good,
            SchedExt::Detached => Meaning::Busy,
            SchedExt::Unsupported | SchedExt::Disabled | SchedExt::Unknown => Meaning::Quiet,
        }),
        Column::<Self>::new("HEARD", 12, Width::Cells(6), |node, _| Value::Number(node.row.age_ms as f64))
            .shown(|node, _| if node.row.local { "now".into() } else { output::duration_us(node.row.age_ms * 1000) })
            .coloured(|node| {
                let late = node.row.age_ms > node.row.expected_max_age_ms.max(1) * 2;
                if late && !node.row.local { Meaning::Busy } else { Meaning::Plain }
            }),
        Column::<Self>::new("KERNEL", 13, Width::Cells(14), |node, _| Value::Text(&node.row.kernel_release))
            .shown(|node, _| output::clean(&node.row.kernel_release)),
        Column::<Self>::new("NOTE", 14, Width::Room(4, u16::MAX), |node, _| Value::Text(&node.note))
            .coloured(|_| Meaning::Busy),
    ];
}
