//! `cancel`: gives a move up, and waits until it is known what came of that.

use std::process::ExitCode;

use super::{
    UiError,
    args::{CancelArgs, CancelWhat, Format},
    client,
    migrate::sentence,
    output,
};
use crate::{
    api::{ApiError, CallError},
    protocol::MoveState,
};

/// What the record says of a move that ended so.
const REASON: &str = "its move was cancelled";

pub(super) async fn cancel(args: &CancelArgs) -> Result<ExitCode, UiError> {
    let failed = UiError::of_call(&args.list.run_dir);
    let mut client = client(&args.list.run_dir);
    let id = match &args.what {
        CancelWhat::Migration(id) => *id,
        CancelWhat::Process(process) => {
            // For the full name of the program, and to tell one that is not there from one that is
            // not moving.
            let process = client.get_process(process).await.map_err(&failed)?.name();
            let migrations = client.list_migrations(Some(&process)).await.map_err(&failed)?;
            let current = migrations.iter().find(|migration| !migration.is_over());
            current.ok_or_else(|| UiError::NotMoving { process: process.to_string() })?.id
        }
    };
    let mut migration = client.cancel_migration(id, REASON).await.map_err(&failed)?;
    if !migration.is_over() {
        migration = client.follow_migration(&migration, |_| {}).await.map_err(&failed)?;
    }
    if migration.state != MoveState::Aborted {
        return Err(UiError::Call(CallError::Refused(ApiError::AlreadyCommitted { migration: id.to_string() })));
    }
    output::print(&match args.list.output {
        Format::Json => output::json(&migration)?,
        Format::Table | Format::Wide => output::clean(&sentence(&migration)),
    })?;
    Ok(ExitCode::SUCCESS)
}
