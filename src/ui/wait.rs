//! `wait`: returns when programs have ended.

use std::{process::ExitCode, time::Duration};

use tokio::time::sleep;

use super::{UiError, args::WaitArgs, client, output};
use crate::api::{ApiError, CallError};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

pub(super) async fn wait(args: &WaitArgs) -> Result<ExitCode, UiError> {
    let failed = UiError::of_call(&args.run_dir);
    let mut client = client(&args.run_dir);
    let mut left = Vec::new();
    for process in &args.processes {
        let row = client.get_process(process).await.map_err(&failed)?;
        // A later program with its pid is another one.
        left.push((row.name(), row.start_time_ms));
    }
    while let Some((process, start_time_ms)) = left.last() {
        match client.get_process(process).await {
            Ok(row) if row.start_time_ms == *start_time_ms => sleep(LOOK).await,
            Ok(_) | Err(CallError::Refused(ApiError::ProcessUnknown { .. })) => {
                output::print(&format!("{process} has ended\n"))?;
                left.pop();
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(ExitCode::SUCCESS)
}
