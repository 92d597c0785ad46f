//! Failpoints: a move pauses at a known point of its course, so that a test can do harm exactly
//! there.
//!
//! While root keeps a file `failpoint/STATE` in a node's run-time directory, the process that
//! drives a move on that node waits at the end of that state (`stream`: before its last message;
//! `restore`: at the target, complete but not yet reported). Time-outs keep running. Tests create
//! the files from outside of the process, so the `fail` crate, which is set up from within, does
//! not fit.

use std::{path::Path, time::Duration};

use crate::protocol::MoveState;

/// How often it is looked whether the file has gone.
const POLL: Duration = Duration::from_millis(50);

/// Returns at once, or when the file of the failpoint at `state` has gone.
pub async fn failpoint(run_dir: &Path, state: MoveState) {
    let file = run_dir.join("failpoint").join(format!("{state:?}").to_lowercase());
    if file.exists() {
        tracing::warn!(file = %file.display(), "a move pauses at a failpoint");
        while file.exists() {
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_move_pauses_until_the_file_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("failpoint/dump");
        std::fs::create_dir(dir.path().join("failpoint")).unwrap();
        std::fs::write(&file, "").unwrap();
        failpoint(dir.path(), MoveState::Freeze).await;
        let paused = failpoint(dir.path(), MoveState::Dump);
        tokio::pin!(paused);
        tokio::time::timeout(2 * POLL, &mut paused).await.unwrap_err();
        std::fs::remove_file(&file).unwrap();
        paused.await;
    }
}
