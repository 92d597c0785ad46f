//! `lock`, `unlock`, `allow`: what placement may do with a program.

use std::process::ExitCode;

use super::{
    UiError,
    args::{AllowArgs, Format, ListArgs, ProcessArgs},
    client, output,
};
use crate::{
    api::{backend::ConstraintsChange, view::ProcessSummary},
    job::{Constraints, JobId},
};

pub(super) async fn lock(args: &ProcessArgs, stay: bool) -> Result<ExitCode, UiError> {
    constrain(&args.process, &args.list, ConstraintsChange { stay: Some(stay), allowed_nodes: None }).await
}

pub(super) async fn allow(args: &AllowArgs) -> Result<ExitCode, UiError> {
    let change = ConstraintsChange { stay: None, allowed_nodes: Some(args.nodes.0.clone()) };
    constrain(&args.process, &args.list, change).await
}

async fn constrain(process: &JobId, list: &ListArgs, change: ConstraintsChange) -> Result<ExitCode, UiError> {
    let changed = client(&list.run_dir).constrain(process, &change).await.map_err(UiError::of_call(&list.run_dir))?;
    output::print(&match list.output {
        Format::Json => output::json(&changed)?,
        Format::Table | Format::Wide => sentence(&changed),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What may be done with a program, in one line.
pub(super) fn sentence(process: &ProcessSummary) -> String {
    let ProcessSummary { home, runs_on, constraints: Constraints { stay, allowed_nodes }, .. } = process;
    let moves = if *stay { "stays until someone asks for a move" } else { "moves by itself" };
    let beside: Vec<&str> = allowed_nodes.iter().map(String::as_str).filter(|node| node != home).collect();
    let allowed = match (allowed_nodes.is_empty(), beside.is_empty()) {
        (true, _) => "any node".to_owned(),
        (false, true) => format!("{home} only"),
        (false, false) => format!("{home}, {}", beside.join(", ")),
    };
    format!("{} runs on {runs_on}, {moves}; allowed: {allowed}\n", process.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_says_what_holds() {
        let process = |stay, allowed: &[&str]| ProcessSummary {
            pid: 7,
            home: "n1".into(),
            runs_on: "n2".into(),
            constraints: Constraints { stay, allowed_nodes: allowed.iter().map(|node| (*node).into()).collect() },
            ..Default::default()
        };
        assert_eq!(sentence(&process(false, &[])), "n1/7 runs on n2, moves by itself; allowed: any node\n");
        let both = sentence(&process(true, &["n2", "n1"]));
        assert_eq!(both, "n1/7 runs on n2, stays until someone asks for a move; allowed: n1, n2\n");
        assert!(sentence(&process(true, &["n1"])).ends_with("allowed: n1 only\n"));
    }
}
