//! `events`: what happened in the cluster.

use std::process::ExitCode;

use prost_types::Timestamp;

use super::{
    UiError,
    args::{EventsArgs, Format},
    client,
    output::{self, words},
};
use crate::api::view::{ClusterEvent, EventKind};

pub(super) async fn events(args: &EventsArgs) -> Result<ExitCode, UiError> {
    let EventsArgs { follow, list } = args;
    let (mut client, failed) = (client(&list.run_dir), UiError::of_call(&list.run_dir));
    if !follow {
        let events = client.list_events().await.map_err(failed)?;
        output::print(&match list.output {
            Format::Json => output::json(&events)?,
            format => render(&events, format),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut written = Ok(true);
    let seen = |event: &ClusterEvent| {
        written = line(event, list.output).and_then(|line| output::print_on(&line));
        matches!(written, Ok(true))
    };
    client.follow_events(seen).await.map_err(failed)?;
    written.map(|_| ExitCode::SUCCESS)
}

fn render(events: &[ClusterEvent], format: Format) -> String {
    let columns = [words("TIME"), words("KIND"), words("EVENT")];
    output::table(&columns, events.iter().map(|event| cells(event).to_vec()), format)
}

fn cells(event: &ClusterEvent) -> [String; 3] {
    [time(event.at_ms), kind(event.kind), event.text.replace('\n', " ")]
}

/// One event as one line.
fn line(event: &ClusterEvent, format: Format) -> Result<String, UiError> {
    if format == Format::Json {
        let text = serde_json::to_string(event).map_err(|error| UiError::Output(error.into()))?;
        return Ok(text + "\n");
    }
    let [time, kind, text] = cells(event);
    Ok(output::clean(&format!("{time}  {kind:<9}  {text}")) + "\n")
}

fn kind(kind: EventKind) -> String {
    format!("{kind:?}").to_lowercase()
}

/// A time as RFC 3339 has it, in UTC, to the second.
fn time(ms: u64) -> String {
    Timestamp { seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX), nanos: 0 }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> ClusterEvent {
        ClusterEvent {
            id: 1,
            at_ms: 1_795_000_000_999,
            kind: EventKind::Moved,
            node: "n1".into(),
            process: None,
            uid: None,
            migration: None,
            text: text.into(),
        }
    }

    #[test]
    fn an_event_is_one_line_with_its_time() {
        let text = line(&event("n1/7 moved\nfrom \x1bn1"), Format::Table).unwrap();
        assert_eq!(text, "2026-11-18T11:06:40Z  moved      n1/7 moved from ?n1\n");
        let table = render(&[event("n2 joined")], Format::Wide);
        assert_eq!(table, "TIME                  KIND   EVENT\n2026-11-18T11:06:40Z  moved  n2 joined\n");
    }

    #[test]
    fn json_is_one_object_per_line_when_followed() {
        let text = line(&event("n2 joined"), Format::Json).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (text.lines().count(), &value["kind"], &value["uid"]),
            (1, &"moved".into(), &serde_json::Value::Null)
        );
    }
}
