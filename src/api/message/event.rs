//! `Event`.

use super::{millis, timestamp};
use crate::{
    api::{
        ApiError,
        name::{
            ANY, event_resource, job_resource, migration_resource, node_resource, parse_event, parse_job,
            parse_migration, parse_node,
        },
        view::{ClusterEvent, EventKind},
    },
    proto::v1::{self, event},
};

impl From<EventKind> for event::Kind {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Joined => Self::Joined,
            EventKind::Left => Self::Left,
            EventKind::Died => Self::Died,
            EventKind::Drained => Self::Drained,
            EventKind::Undrained => Self::Undrained,
            EventKind::Ejected => Self::Ejected,
            EventKind::Moved => Self::Moved,
            EventKind::Ushered => Self::Ushered,
            EventKind::Refused => Self::Refused,
            EventKind::Lost => Self::Lost,
            EventKind::Unknown => Self::Unspecified,
        }
    }
}

impl From<event::Kind> for EventKind {
    fn from(kind: event::Kind) -> Self {
        match kind {
            event::Kind::Joined => Self::Joined,
            event::Kind::Left => Self::Left,
            event::Kind::Died => Self::Died,
            event::Kind::Drained => Self::Drained,
            event::Kind::Undrained => Self::Undrained,
            event::Kind::Ejected => Self::Ejected,
            event::Kind::Moved => Self::Moved,
            event::Kind::Ushered => Self::Ushered,
            event::Kind::Refused => Self::Refused,
            event::Kind::Lost => Self::Lost,
            event::Kind::Unspecified => Self::Unknown,
        }
    }
}

impl From<&ClusterEvent> for v1::Event {
    fn from(event: &ClusterEvent) -> Self {
        Self {
            name: event_resource(event.id),
            kind: event::Kind::from(event.kind).into(),
            create_time: Some(timestamp(event.at_ms)),
            node: node_resource(&event.node),
            process: event.process.as_ref().map(job_resource).unwrap_or_default(),
            migration: event.migration.map(migration_resource).unwrap_or_default(),
            text: event.text.clone(),
        }
    }
}

impl TryFrom<v1::Event> for ClusterEvent {
    type Error = ApiError;

    fn try_from(event: v1::Event) -> Result<Self, ApiError> {
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Ok(Self {
            id: parse_event(&event.name)?,
            at_ms: event.create_time.as_ref().map_or(0, millis),
            kind: event.kind().into(),
            node: parse_node(&event.node, "node")?,
            process: named(&event.process).map(|name| parse_job(&name, ANY)).transpose()?,
            uid: None,
            migration: named(&event.migration).map(|name| parse_migration(&name)).transpose()?,
            text: event.text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobId, SessionId};

    #[test]
    fn an_event_of_each_kind_survives_the_wire() {
        for kind in EventKind::ALL.into_iter().chain([EventKind::Unknown]) {
            let event = ClusterEvent {
                id: 7,
                at_ms: 1_234,
                kind,
                node: "n1".into(),
                process: Some(JobId::new("n1", 4711)),
                uid: None,
                migration: Some(SessionId::random()),
                text: "something happened".into(),
            };
            assert_eq!(ClusterEvent::try_from(v1::Event::from(&event)).unwrap(), event);
            let of_node = ClusterEvent { process: None, migration: None, ..event };
            assert_eq!(ClusterEvent::try_from(v1::Event::from(&of_node)).unwrap(), of_node);
        }
    }

    #[test]
    fn an_event_without_a_name_or_node_is_refused() {
        assert!(ClusterEvent::try_from(v1::Event::default()).is_err());
        assert!(ClusterEvent::try_from(v1::Event { name: "events/1".into(), ..v1::Event::default() }).is_err());
    }
}
