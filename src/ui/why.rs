//! `why`: the reasons for where a program is.

use std::process::ExitCode;

use super::{
    UiError,
    args::{Format, ProcessArgs},
    client,
    migrate::sentence,
    output,
};
use crate::api::view::{PlacementDecision, PlacementReasons};

pub(super) async fn why(args: &ProcessArgs) -> Result<ExitCode, UiError> {
    let mut client = client(&args.list.run_dir);
    let reasons = client.placement_reasons(&args.process).await.map_err(UiError::of_call(&args.list.run_dir))?;
    output::print(&match args.list.output {
        Format::Json => output::json(&reasons)?,
        Format::Table | Format::Wide => output::clean(&render(&reasons)),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The decision, the reasons, the nodes that were looked at, the last migrations.
pub(super) fn render(reasons: &PlacementReasons) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(words.trim_end());
        text.push('\n');
    };
    let decision = match (reasons.decision, &reasons.target) {
        (PlacementDecision::Stay, _) => "stays".to_owned(),
        (PlacementDecision::Move, Some(target)) => format!("moves to {target}"),
        (PlacementDecision::Move, None) => "moves".to_owned(),
        (PlacementDecision::Unknown, _) => "was not looked at yet".to_owned(),
    };
    line(format!("{} {decision}: {}", reasons.process, reasons.summary).trim_end_matches(": ").to_owned());
    if let Some(why) = &reasons.cannot_move {
        line(format!("cannot move: {why}"));
    }
    for reason in &reasons.reasons {
        line(format!("  {}", reason.text));
    }
    if !reasons.candidates.is_empty() {
        line("nodes that were looked at:".to_owned());
    }
    for candidate in &reasons.candidates {
        let mark = if candidate.chosen { "→" } else { " " };
        line(format!("{mark} {}: {}", candidate.node, candidate.text));
    }
    if !reasons.migrations.is_empty() {
        line("migrations, the newest first:".to_owned());
    }
    for migration in &reasons.migrations {
        line(format!("  {}", sentence(migration)));
    }
    text
}
