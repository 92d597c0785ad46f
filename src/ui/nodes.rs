//! `nodes`: the machines.

use std::process::ExitCode;

use super::{
    UiError,
    args::{Format, ListArgs},
    client,
    output::{self, figures, words},
};
use crate::api::view::{NodeState, NodeSummary, SchedExt};

pub(super) async fn nodes(args: &ListArgs) -> Result<ExitCode, UiError> {
    let nodes = client(&args.run_dir).list_nodes().await.map_err(UiError::of_call(&args.run_dir))?;
    output::print(&match args.output {
        Format::Json => output::json(&nodes)?,
        format => render(&nodes, format),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The machines as a table, `*` at the one that was asked; [`Format::Wide`] says also what is
/// missing.
pub(super) fn render(nodes: &[NodeSummary], format: Format) -> String {
    let wide = format == Format::Wide;
    let mut columns = vec![
        words("NODE"),
        words("STATE"),
        figures("CPUS"),
        figures("SPEED"),
        figures("LOAD"),
        figures("CPU%"),
        figures("FREE"),
        figures("MEMORY"),
        figures("JOBS"),
        figures("GUESTS"),
        words("SCHED_EXT"),
    ];
    if wide {
        columns.extend([words("ADDRESS"), words("KERNEL"), words("CRIU"), words("VERSION")]);
        columns.extend([figures("AGE"), figures("EXPECTED"), figures("OLDEST")]);
    }
    columns.push(words("NOTE"));
    let row = |node: &NodeSummary| {
        let mut row = vec![
            if node.local { format!("{}*", node.node) } else { node.node.clone() },
            state(node.state).to_owned(),
            node.cpus.to_string(),
            format!("{:.2}", node.cpu_speed),
            format!("{:.2}", node.load),
            format!("{:.0}", node.cpu_busy_percent),
            output::size(node.memory_available_bytes),
            output::size(node.memory_total_bytes),
            node.jobs.to_string(),
            node.guests.to_string(),
            sched_ext(node.sched_ext).to_owned(),
        ];
        if wide {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
            row.extend([or_none(&node.address), node.kernel_release.clone(), or_none(&node.criu_version)]);
            row.push(node.version.clone());
            let ages_ms = [node.age_ms, node.expected_age_ms, node.expected_max_age_ms];
            row.extend(ages_ms.map(|age_ms| format!("{age_ms} ms")));
        }
        row.push(note(node, wide));
        row
    };
    output::table(&columns, nodes.iter().map(row), format)
}

pub(super) fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Alive => "alive",
        NodeState::Suspect => "suspect",
        NodeState::Leaving => "leaving",
        NodeState::Dead => "dead",
        NodeState::Unknown => "?",
    }
}

pub(super) fn sched_ext(state: SchedExt) -> &'static str {
    match state {
        SchedExt::Attached => "attached",
        SchedExt::Detached => "detached",
        SchedExt::Unsupported => "unsupported",
        SchedExt::Disabled => "off",
        SchedExt::Unknown => "?",
    }
}

pub(super) fn note(node: &NodeSummary, wide: bool) -> String {
    let refuses = node.refuses_because.as_ref().map(|why| format!("takes no guests: {why}"));
    let detached = node.sched_ext_note.as_ref().map(|why| format!("sched_ext: {why}"));
    let missing = node.missing.iter().filter(|_| wide).map(|what| format!("missing: {what}"));
    refuses.into_iter().chain(detached).chain(missing).collect::<Vec<_>>().join("; ").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_sched_ext_says_so() {
        let node = NodeSummary {
            node: "n3".into(),
            local: true,
            state: NodeState::Alive,
            sched_ext: SchedExt::Unsupported,
            refuses_because: Some("it has no CRIU".into()),
            missing: vec!["criu 4".into()],
            ..Default::default()
        };
        let text = render(std::slice::from_ref(&node), Format::Table);
        let line = text.lines().nth(1).unwrap();
        assert!(line.starts_with("n3*") && line.contains("unsupported"), "{text}");
        assert!(line.ends_with("takes no guests: it has no CRIU"), "{text}");
        assert!(render(&[node], Format::Wide).contains("missing: criu 4"));
    }
}
