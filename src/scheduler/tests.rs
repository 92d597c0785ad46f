//! Tests of the supervisor that hold on any machine; those that attach for real are in
//! `tests/vm_scheduler.rs`.

use super::*;

async fn first_state(scheduler: &Scheduler) -> State {
    let mut state = scheduler.state();
    let first_state = state.wait_for(|state| !matches!(state, State::Off { .. }));
    tokio::time::timeout(Duration::from_secs(30), first_state).await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn a_machine_without_sched_ext_says_so_and_answers_all_the_same() {
    let Err(missing) = check() else { return };
    if !missing.is_permanent() {
        return;
    }
    let scheduler = Scheduler::start(Config::default(), Backoff::default()).unwrap();
    assert_eq!(first_state(&scheduler).await, State::Unsupported { reason: missing.to_string() });
    let hints = scheduler.hints();
    hints.set_tier(HintTarget::Process(std::process::id()), Some(Tier::Guest)).unwrap();
    hints.set_job(1, true).unwrap();
    hints.set_throttle(std::process::id(), Some(100)).unwrap();
    assert!(matches!(scheduler.statistics().read().await, Err(SchedulerError::NotRunning)));
    tokio::task::spawn_blocking(move || scheduler.stop()).await.unwrap();
    assert!(matches!(hints.set_throttle(1, None), Err(SchedulerError::Stopped)));
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let text = SchedulerError::NoSchedExt { release: "6.1.0".to_owned() }.to_string();
    assert!(text.contains("6.1.0") && text.contains("trixie-backports"), "{text}");
}
