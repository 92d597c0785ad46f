//! `migrate`: asks for a move, and waits for it if told to.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use super::{
    UiError,
    args::{Format, MigrateArgs},
    client,
    error::FAILED,
    output,
};
use crate::{
    api::{ApiError, CallError, Client, view::MigrationSummary},
    protocol::MoveState,
};

/// How long `--wait` waits for moves that others have asked for, before its own.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(120);

/// Between two looks at such a move.
const POLL: Duration = Duration::from_millis(50);

pub(super) async fn migrate(args: &MigrateArgs) -> Result<ExitCode, UiError> {
    let failed = UiError::of_call(&args.list.run_dir);
    let mut client = client(&args.list.run_dir);
    let migration = if args.wait {
        migrate_and_wait(&mut client, args).await.map_err(&failed)?
    } else {
        client.migrate(&args.process, &args.to).await.map_err(&failed)?
    };
    output::print(&match args.list.output {
        Format::Json => output::json(&migration)?,
        Format::Table | Format::Wide => output::clean(&sentence(&migration)),
    })?;
    let lost = matches!(migration.state, MoveState::Aborted | MoveState::Failed);
    Ok(if lost { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// The balancer may be moving the program just now: then its user's request comes next.
async fn migrate_and_wait(client: &mut Client, args: &MigrateArgs) -> Result<MigrationSummary, CallError> {
    let until = Instant::now() + OTHERS_TIMEOUT;
    let mut before = None;
    loop {
        match client.migrate(&args.process, &args.to).await {
            Ok(migration) => return client.follow_migration(&migration, |_| {}).await,
            Err(CallError::Refused(ApiError::AlreadyMoving { migration, .. })) if Instant::now() < until => {
                before = migration.parse().ok();
                tokio::time::sleep(POLL).await;
            }
            // The move that was waited for went there.
            Err(CallError::Refused(ApiError::AlreadyThere { process, node })) => {
                let there = Err(CallError::Refused(ApiError::AlreadyThere { process, node: node.clone() }));
                let Some(id) = before else { return there };
                let migration = client.get_migration(id).await?;
                return if migration.target == node { Ok(migration) } else { there };
            }
            other => return other,
        }
    }
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
