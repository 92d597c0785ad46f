//! `check`: what this machine can do, daemon or not.

use std::process::ExitCode;

use super::{
    UiError,
    args::{Format, ListArgs},
    client,
    error::FAILED,
    output::{self, words},
};
use crate::{
    keys::NodeName,
    node::{CheckItem, CheckState, Machine, NodeInfo, NodeInfoParams, check as judge, local_addresses},
};

pub(super) async fn check(args: &ListArgs) -> Result<ExitCode, UiError> {
    // A host name that is no node name does not keep anyone from checking the rest.
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = hostname.split('.').next().and_then(|name| NodeName::new(name).ok());
    let name = name.or_else(|| NodeName::new("localhost").ok());
    let info =
        NodeInfo::probe(&Machine::this(), NodeInfoParams { name, addresses: local_addresses().unwrap_or_default() })?;
    let mut items = judge(&info);
    items.push(daemon(args).await);
    output::print(&match args.output {
        Format::Json => output::json(&items)?,
        format => render(&items, format),
    })?;
    let missing = items.iter().any(|item| item.state == CheckState::Missing);
    Ok(if missing { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

async fn daemon(args: &ListArgs) -> CheckItem {
    let (state, detail, remedy) = match client(&args.run_dir).list_nodes().await {
        Ok(nodes) => (CheckState::Ok, format!("answers; it knows {} nodes", nodes.len()), None),
        Err(_) => (
            CheckState::Warn,
            "does not answer".to_owned(),
            Some("start it: `systemctl start scx_mosix`, or as root `scx_mosix`"),
        ),
    };
    CheckItem { name: "daemon", state, detail, remedy }
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
