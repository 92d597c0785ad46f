//! Moves held at a known point of their course, so that a test can do harm exactly there.
//!
//! While root keeps a file `hold/STATE` in a node's run-time directory, whoever drives a move on that node waits at the end of
//! that state (`stream`: before its last message; `restore`: at the target, complete but not yet reported). All time-outs go on.

use std::{path::Path, time::Duration};

use crate::control::MoveState;

/// How often it is looked whether a move may go on.
const LOOK: Duration = Duration::from_millis(50);

/// Returns at once, or when the file that holds moves in `state` has gone.
pub async fn hold(run_dir: &Path, state: MoveState) {
    let gate = run_dir.join("hold").join(format!("{state:?}").to_lowercase());
    if gate.exists() {
        tracing::warn!(gate = %gate.display(), "a move is held on purpose");
        while gate.exists() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_move_waits_for_the_file_to_go() {
        let dir = tempfile::tempdir().unwrap();
        let gate = dir.path().join("hold/dump");
        std::fs::create_dir(dir.path().join("hold")).unwrap();
        std::fs::write(&gate, "").unwrap();
        hold(dir.path(), MoveState::Freeze).await;
        let held = hold(dir.path(), MoveState::Dump);
        tokio::pin!(held);
        tokio::time::timeout(2 * LOOK, &mut held).await.unwrap_err();
        std::fs::remove_file(&gate).unwrap();
        held.await;
    }
}
