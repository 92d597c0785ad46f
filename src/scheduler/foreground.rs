//! `scx_mosix scheduler`: the scheduler alone, in the foreground, without a cluster.

use std::io::Write;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};

use super::{Backoff, Config, Scheduler, SchedulerError, State};

/// Attaches the scheduler, prints each change of state as a line on stdout, and detaches on SIGINT,
/// SIGTERM or after `duration`. A machine that cannot have it is an error.
///
/// # Errors
/// `NoSchedExt`, `NoBtf`, `NotPermitted` at once; `Thread`, `Signals`.
pub async fn run_foreground(duration: Option<Duration>) -> Result<(), SchedulerError> {
    match super::check() {
        Err(error) if error.is_permanent() => return Err(error),
        _ => {}
    }
    let mut interrupt = signal(SignalKind::interrupt()).map_err(SchedulerError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(SchedulerError::Signals)?;
    let scheduler = Scheduler::start(Config::default(), Backoff::default())?;
    let mut state = scheduler.state();
    let end = async {
        match duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            changed = state.changed() => {
                if changed.is_err() {
                    return Err(SchedulerError::Stopped);
                }
                say(&describe(&state.borrow_and_update()));
            }
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = &mut end => break,
        }
    }
    if let Ok(stats) = scheduler.statistics().read().await {
        say(&serde_json::to_string(&stats).unwrap_or_default());
    }
    // A panic of the blocking thread has been reported by then.
    let _ = tokio::task::spawn_blocking(move || scheduler.stop()).await;
    say("off: detached");
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The receiver is gone: the scheduler continues.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// One line for a state.
fn describe(state: &State) -> String {
    match state {
        State::Off { reason } => format!("off: {reason}"),
        State::Running { .. } => "running".to_owned(),
        State::Ejected { reason, retry_at } => {
            let wait = retry_at.duration_since(SystemTime::now()).unwrap_or_default();
            format!("ejected: {reason}; next attempt in {} ms", wait.as_millis())
        }
        State::Unsupported { reason } => format!("unsupported: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ejection_names_its_reason_and_the_next_attempt() {
        let state = State::Ejected { reason: "stall".to_owned(), retry_at: SystemTime::now() + Duration::from_secs(5) };
        let line = describe(&state);
        assert!(line.starts_with("ejected: stall; next attempt in 4") || line.contains("in 5000 ms"), "{line}");
    }
}
