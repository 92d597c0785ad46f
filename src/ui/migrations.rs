//! `migrations`: the moves of programs.

use std::process::ExitCode;

use super::{
    UiError,
    args::{Format, ListArgs},
    client,
    output::{self, figures, words},
};
use crate::api::view::MigrationSummary;

pub(super) async fn migrations(args: &ListArgs) -> Result<ExitCode, UiError> {
    let migrations = client(&args.run_dir).list_migrations(None).await.map_err(UiError::of_call(&args.run_dir))?;
    output::print(&match args.output {
        Format::Json => output::json(&migrations)?,
        format => render(&migrations, format),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn render(migrations: &[MigrationSummary], format: Format) -> String {
    let columns = [
        words("PROCESS"),
        words("FROM"),
        words("TO"),
        words("STATE"),
        figures("DOWNTIME"),
        figures("MEMORY"),
        figures("SENT"),
        words("REASON"),
    ];
    let row = |migration: &MigrationSummary| {
        vec![
            migration.process.to_string(),
            migration.source.clone(),
            migration.target.clone(),
            migration.state.name().to_owned(),
            migration.downtime_us.map_or_else(|| "-".to_owned(), output::duration_us),
            output::size(migration.memory_bytes),
            output::size(migration.wire_bytes),
            migration.reason.replace('\n', " "),
        ]
    };
    output::table(&columns, migrations.iter().map(row), format)
}
