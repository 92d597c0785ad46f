//! `check`: what this machine can do, daemon or not.

use std::process::ExitCode;

use super::{
    UiError,
    args::{CheckArgs, Format, ListArgs},
    client,
    error::FAILED,
    output::{self, words},
};
use crate::{
    api::view::NodeSummary,
    keys::NodeName,
    node::{CheckItem, CheckState, Machine, NodeInfo, NodeInfoParams, Scope, check as judge, local_addresses},
};

pub(super) async fn check(args: &CheckArgs) -> Result<ExitCode, UiError> {
    // A host name that is no node name does not keep anyone from checking the rest.
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = hostname.split('.').next().and_then(|name| NodeName::new(name).ok());
    let name = name.or_else(|| NodeName::new("localhost").ok());
    let scope = Scope::new(Machine::this(), args.limits.into())?;
    let info = NodeInfo::probe(&scope, NodeInfoParams { name, addresses: local_addresses().unwrap_or_default() })?;
    let mut items = judge(&info);
    items.push(daemon(&args.list).await);
    output::print(&match args.list.output {
        Format::Json => output::json(&items)?,
        format => render(&items, format),
    })?;
    let missing = items.iter().any(|item| item.state == CheckState::Missing);
    Ok(if missing { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

async fn daemon(args: &ListArgs) -> CheckItem {
    let (state, detail, remedy) = match client(&args.run_dir).list_nodes().await {
        Ok(nodes) => (CheckState::Ok, answers(&nodes), None),
        Err(_) => (
            CheckState::Warn,
            "does not answer".to_owned(),
            Some("start it: `systemctl start scx_mosix`, or as root `scx_mosix`"),
        ),
    };
    CheckItem { name: "daemon", state, detail, remedy }
}

/// What a daemon that answers knows; and what it counts as its own, as it may have been told limits
/// that this command was not.
fn answers(nodes: &[NodeSummary]) -> String {
    let own = nodes.iter().find(|node| node.local).map(|node| {
        let mib = node.memory_total_bytes >> 20;
        format!("; of its own it has {} CPUs of speed {:.3} and {mib} MiB", node.cpus, node.cpu_speed)
    });
    format!("answers; it knows {} nodes{}", nodes.len(), own.unwrap_or_default())
}

fn render(items: &[CheckItem], format: Format) -> String {
    let row = |item: &CheckItem| {
        let state = match item.state {
            CheckState::Ok => "ok",
            CheckState::Warn => "warn",
            CheckState::Missing => "MISSING",
        };
        let remedy = item.remedy.map(|remedy| format!("\n{remedy}")).unwrap_or_default();
        vec![item.name.to_owned(), state.to_owned(), format!("{}{remedy}", item.detail)]
    };
    // Remedies are whole sentences: never cut.
    let format = if format == Format::Table { Format::Wide } else { format };
    output::table(&[words("WHAT"), words("STATE"), words("FOUND, AND WHAT TO DO")], items.iter().map(row), format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_own_figures_are_shown() {
        let node = NodeSummary {
            local: true,
            cpus: 1,
            cpu_speed: 0.54,
            memory_total_bytes: 512 << 20,
            ..NodeSummary::default()
        };
        let text = answers(&[NodeSummary::default(), node]);
        assert_eq!(text, "answers; it knows 2 nodes; of its own it has 1 CPUs of speed 0.540 and 512 MiB");
    }

    #[test]
    fn what_is_missing_stands_out_with_its_remedy() {
        let item = CheckItem {
            name: "criu",
            state: CheckState::Missing,
            detail: "not found".into(),
            remedy: Some("install it"),
        };
        let text = render(&[item], Format::Table);
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(lines[1], "criu  MISSING  not found");
        assert_eq!(lines[2], "install it");
    }
}
