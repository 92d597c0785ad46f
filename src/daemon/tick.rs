//! The daemon's second: each stage in its turn.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{act::Hints, execs, pipeline::Pipeline, shared::agents::AgentView};
use crate::{scheduler::TierHints, telemetry::TelemetryHandle};

/// The step of MOSIX's decays, and so of everything that follows from them.
const STEP: Duration = Duration::from_secs(1);

/// How often the hosts of this node's jobs are asked how these are.
const SLOW_STEPS: u32 = 3;

/// How often files are removed that are needed no more.
const TIDY_STEPS: u32 = 60;

/// Ticks until the daemon ends.
pub async fn run(pipeline: Arc<Pipeline>, mut telemetry: TelemetryHandle, hints: Option<TierHints>) {
    let Pipeline { shared, collected, acting, .. } = &*pipeline;
    let mut steps = interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hints = hints.map(Hints::new);
    let mut looking: Option<JoinHandle<()>> = None;
    let mut changes = shared.agents.changes();
    let mut count: u32 = 0;
    loop {
        let is_step = tokio::select! {
            _ = steps.tick() => true,
            // Who begins to move; and a guest that has just begun, which is served before its
            // host's owners until it has its hint.
            () = acting.moves.step().notified() => false,
            Ok(()) = changes.changed() => false,
            () = shared.stop.cancelled() => return acting.resume_all().await,
        };
        if !is_step {
            if let Some(hints) = &mut hints {
                hints.give(shared, &pipeline.view());
            }
            continue;
        }
        match telemetry.sample().await {
            Ok(snapshot) => {
                if pipeline.deciding.balance {
                    execs::promote_grown(&pipeline, &snapshot.tasks);
                }
                collected.second(shared, &shared.agents.view(), &acting.under_way(), &snapshot);
            }
            Err(error) => tracing::warn!(%error, "no figures this second"),
        }
        for job in shared.jobs().remove_ended() {
            tracing::info!(pid = job.root_pid, "job ended");
        }
        acting.host.settle();
        acting.recover();
        if count.is_multiple_of(TIDY_STEPS) {
            acting.tidy();
        }
        {
            let view = pipeline.view();
            collected.note_arrivals(&view.agents);
            if let Some(hints) = &mut hints {
                hints.give(shared, &view);
            }
            if count.is_multiple_of(SLOW_STEPS) {
                let hosts = view.agents.homes.values().map(|home| home.runs_on.clone()).collect();
                tokio::spawn(ask_hosts(pipeline.clone(), hosts));
                let (shared, collected) = (shared.clone(), collected.clone());
                tokio::spawn(async move { collected.cpus.ask(&shared).await });
            }
            pipeline.show(&view);
            tell_systemd(&view.agents);
        }
        if looking.as_ref().is_none_or(JoinHandle::is_finished) {
            let (shared, collected) = (shared.clone(), collected.clone());
            looking = Some(tokio::spawn(async move { collected.look_at_all(&shared).await }));
        }
        if shared.address.is_some() {
            pipeline.decide();
        }
        count = count.wrapping_add(1);
    }
}

/// Says that the daemon works, and what it does, as `systemctl status` shows. Without systemd there
/// is nothing to tell.
fn tell_systemd(agents: &AgentView) {
    let status = format!("{} programs away, {} guests", agents.homes.len(), agents.guests.len());
    let _ = sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
}

/// Asks the nodes that host jobs of this node how these are, and tells them what may be done with
/// these if they are wrong.
async fn ask_hosts(pipeline: Arc<Pipeline>, mut hosts: Vec<String>) {
    let Pipeline { shared, collected, acting, .. } = &*pipeline;
    let guests = shared.agents.view().guests;
    let came_back = guests.values().filter(|guest| guest.job.id.is_of(&shared.node));
    acting.correct_hosts(came_back.map(|guest| (guest.job.id.pid, &guest.job.constraints))).await;
    hosts.sort();
    hosts.dedup();
    for host in hosts.into_iter().filter(|host| *host != shared.node) {
        let rows = collected.ask_host(shared, &host).await;
        acting.correct_hosts(rows.iter().map(|row| (row.pid, &row.constraints))).await;
        collected.note_away(rows);
    }
    collected.forget_away();
}
