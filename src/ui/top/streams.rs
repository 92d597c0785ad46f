//! The streams of the API: each is followed as long as the monitor runs, and opened again when it
//! breaks.

use std::time::Duration;

use tokio::{
    sync::mpsc::Sender,
    time::{sleep, timeout},
};
use tonic::Streaming;

use super::model::{Event, Link, Pane, list::Batch};
use crate::{
    api::{
        ApiError, CallError, Client,
        name::{ANY, parse_job, parse_migration, parse_node},
        view::{MigrationSummary, NodeSummary, ProcessSummary},
    },
    job::{JobId, SessionId},
    proto::v1::{self, migration_event, node_event, process_event},
};

/// After which time a broken stream is opened again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));
/// A stream says every ten seconds that it lives; one that does not for this long is broken.
const SILENCE: Duration = Duration::from_secs(30);

/// Follows nodes, programs and moves. Ends only with the receiver.
pub async fn follow(client: &Client, events: &Sender<Event>) {
    let nodes =
        keep(Pane::Nodes, client, events, async |client: &mut Client| client.watch_nodes(0).await, nodes, Event::Nodes);
    let programs = keep(
        Pane::Programs,
        client,
        events,
        async |client: &mut Client| client.watch_processes(None, 0).await,
        programs,
        Event::Programs,
    );
    let moves = keep(
        Pane::Moves,
        client,
        events,
        async |client: &mut Client| client.watch_migrations(None, 0).await,
        moves,
        Event::Moves,
    );
    tokio::join!(nodes, programs, moves);
}

/// Follows one stream, with growing pauses between attempts that failed.
async fn keep<M, R, K>(
    pane: Pane,
    client: &Client,
    events: &Sender<Event>,
    open: impl AsyncFn(&mut Client) -> Result<Streaming<M>, CallError>,
    read: fn(M) -> Result<Part<R, K>, ApiError>,
    event: fn(Batch<R, K>) -> Event,
) {
    let mut client = client.clone();
    let mut pause = RETRY.0;
    loop {
        let mut first = Some(Batch { whole: true, put: Vec::new(), deleted: Vec::new() });
        let broke = async {
            let mut stream = open(&mut client).await?;
            loop {
                let Ok(answer) = timeout(SILENCE, stream.message()).await else {
                    return Ok("the daemon does not answer any more".to_owned());
                };
                let Some(answer) = answer.map_err(client.failed())? else { break };
                let (revision, part) = read(answer)?;
                let is_whole = revision != 0 || (part.put.is_empty() && part.deleted.is_empty());
                let batch = match first.take() {
                    // The first list comes in parts, of which the last has a revision.
                    Some(mut all) => {
                        all.put.extend(part.put);
                        if !is_whole {
                            first = Some(all);
                            continue;
                        }
                        pause = RETRY.0;
                        drop(events.send(Event::Link(pane, Link::Live)).await);
                        all
                    }
                    None => part,
                };
                if events.send(event(batch)).await.is_err() {
                    break;
                }
            }
            Ok::<String, CallError>("the daemon ended the stream".to_owned())
        };
        let why = broke.await.unwrap_or_else(|error| error.to_string());
        let lost = Link::Lost { why, retry_s: pause.as_secs() };
        if events.send(Event::Link(pane, lost)).await.is_err() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Up to which revision an answer of a stream reaches, and what it brings.
type Part<R, K> = (i64, Batch<R, K>);

fn nodes(answer: v1::WatchNodesResponse) -> Result<Part<NodeSummary, String>, ApiError> {
    let mut batch = Batch { whole: false, put: Vec::new(), deleted: Vec::new() };
    for event in answer.events.into_iter().filter_map(|event| event.event) {
        match event {
            node_event::Event::Put(node) => batch.put.push(node.try_into()?),
            node_event::Event::Deleted(name) => batch.deleted.push(parse_node(&name, "deleted")?),
        }
    }
    Ok((answer.revision, batch))
}

fn programs(answer: v1::WatchProcessesResponse) -> Result<Part<ProcessSummary, JobId>, ApiError> {
    let mut batch = Batch { whole: false, put: Vec::new(), deleted: Vec::new() };
    for event in answer.events.into_iter().filter_map(|event| event.event) {
        match event {
            process_event::Event::Put(process) => batch.put.push(process.try_into()?),
            process_event::Event::Deleted(name) => batch.deleted.push(parse_job(&name, ANY)?),
        }
    }
    Ok((answer.revision, batch))
}

fn moves(answer: v1::WatchMigrationsResponse) -> Result<Part<MigrationSummary, SessionId>, ApiError> {
    let mut batch = Batch { whole: false, put: Vec::new(), deleted: Vec::new() };
    for event in answer.events.into_iter().filter_map(|event| event.event) {
        match event {
            migration_event::Event::Put(migration) => batch.put.push(migration.try_into()?),
            migration_event::Event::Deleted(name) => batch.deleted.push(parse_migration(&name)?),
        }
    }
    Ok((answer.revision, batch))
}
