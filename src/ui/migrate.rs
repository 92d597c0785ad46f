//! `migrate`: asks for a move, and waits for it if told to.

use std::process::ExitCode;

use super::{
    UiError,
    args::{Format, MigrateArgs},
    client,
    error::FAILED,
    output,
};
use crate::{api::view::MigrationSummary, control::MoveState};

pub(super) async fn migrate(args: &MigrateArgs) -> Result<ExitCode, UiError> {
    let failed = UiError::of_call(&args.list.run_dir);
    let mut client = client(&args.list.run_dir);
    let mut migration = client.migrate(&args.process, &args.to).await.map_err(&failed)?;
    if args.wait {
        migration = client.follow_migration(&migration, |_| {}).await.map_err(&failed)?;
    }
    output::print(&match args.list.output {
        Format::Json => output::json(&migration)?,
        Format::Table | Format::Wide => output::clean(&sentence(&migration)),
    })?;
    let lost = matches!(migration.state, MoveState::Aborted | MoveState::Failed);
    Ok(if lost { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// How the migration stands, in one line.
pub(super) fn sentence(migration: &MigrationSummary) -> String {
    let MigrationSummary { process, source, target, .. } = migration;
    let text = match migration.state {
        MoveState::Run => {
            let downtime = migration.downtime_us.map(|us| format!(", it stood still for {}", output::duration_us(us)));
            let bytes = output::size(migration.memory_bytes);
            format!("{process} runs at {target} now: {bytes} of memory moved{}", downtime.unwrap_or_default())
        }
        MoveState::Aborted => format!("{process} stays at {source}: {}", migration.reason),
        MoveState::Failed => format!("{process} was lost on its way from {source} to {target}: {}", migration.reason),
        _ => format!("{process} is on its way from {source} to {target}: `scx_mosix why {process}` tells how it goes"),
    };
    text.replace('\n', " ") + "\n"
}
