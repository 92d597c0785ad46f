//! A restore that is held before the process tree's first instruction.

use std::{os::fd::RawFd, path::Path, time::Duration};

use tokio::time::Instant;

use super::{Connection, CriuError, LOG_NAME, Step, log::reason_in, program::IMAGES_FD};
use crate::proto::criu::{CgroupMode, InheritedFd, Options, RequestType};

/// The step at which all processes stand still, complete, before their first instruction.
const HOLD_AT: &str = "pre-resume";

/// How to restore. CRIU runs already, started with the descriptors of
/// [`super::Program::command_line`]'s users.
pub struct RestoreRequest<'a> {
    /// The images' directory, for CRIU's log.
    pub images: &'a Path,
    /// CRIU's names of files outside the process tree, and the descriptors in CRIU's process that
    /// replace them.
    pub inherited: Vec<(String, RawFd)>,
    /// How long it may take to get to the hold.
    pub limit: Duration,
}

/// A restored process tree that has not run yet. Dropped, it leaves CRIU without an answer: the
/// owner then kills the process tree's namespace, with CRIU in it.
pub struct HeldRestore {
    connection: Connection,
}

/// Restores up to the hold.
pub async fn restore(connection: Connection, request: RestoreRequest<'_>) -> Result<HeldRestore, CriuError> {
    let until = Instant::now() + request.limit;
    let inherit_fd = request.inherited.into_iter().map(|(key, fd)| InheritedFd { key, fd }).collect();
    let options = Options {
        images_dir_fd: -1,
        images_dir: Some(format!("/proc/self/fd/{IMAGES_FD}")),
        shell_job: Some(true),
        log_level: Some(2),
        log_file: Some(LOG_NAME.into()),
        notify_scripts: Some(true),
        rst_sibling: Some(true),
        inherit_fd,
        manage_cgroups_mode: Some(CgroupMode::Ignore as i32),
        lazy_pages: Some(true),
        ..Default::default()
    };
    let why = |own: Option<String>| reason_in(&request.images.join(LOG_NAME)).or(own);
    connection.request(RequestType::Restore, Some(options)).await?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match connection.next(left).await {
            Ok(Step::Reached(step)) if step == HOLD_AT => return Ok(HeldRestore { connection }),
            Ok(Step::Reached(_)) => connection.resume(true).await?,
            Ok(Step::Finished(response)) => {
                return Err(CriuError::Failed { what: "restore it", why: why(response.cr_errmsg) });
            }
            Err(CriuError::Ended(_)) => return Err(CriuError::Ended(why(None))),
            Err(other) => return Err(other),
        }
    }
}

impl HeldRestore {
    /// Lets the process tree run. Returns the root's number in its namespace.
    pub async fn resume(self, limit: Duration) -> Result<i32, CriuError> {
        self.connection.resume(true).await?;
        loop {
            match self.connection.next(limit).await? {
                Step::Reached(_) => self.connection.resume(true).await?,
                Step::Finished(response) => {
                    return match response.restore {
                        Some(result) if response.success => Ok(result.pid),
                        _ => Err(CriuError::Failed { what: "let it run", why: response.cr_errmsg }),
                    };
                }
            }
        }
    }
}
