//! `Migration`.

use super::{millis, timestamp};
use crate::{
    api::{
        ApiError,
        name::{job_resource, migration_resource, node_resource, parse_job, parse_migration, parse_node},
        view::{MigrationStep, MigrationSummary, Trigger},
    },
    proto::v1::{self, migration},
    protocol::MoveState,
};

impl From<MoveState> for migration::State {
    fn from(state: MoveState) -> Self {
        match state {
            MoveState::Reserve => Self::Reserve,
            MoveState::Prepare => Self::Prepare,
            MoveState::Precopy => Self::Precopy,
            MoveState::Freeze => Self::Freeze,
            MoveState::Dump => Self::Dump,
            MoveState::Stream => Self::Stream,
            MoveState::Restore => Self::Restore,
            MoveState::Commit => Self::Commit,
            MoveState::Run => Self::Run,
            MoveState::Aborted => Self::Aborted,
            MoveState::Failed => Self::Failed,
        }
    }
}

impl TryFrom<migration::State> for MoveState {
    type Error = ApiError;

    fn try_from(state: migration::State) -> Result<Self, ApiError> {
        Ok(match state {
            migration::State::Unspecified => return Err(ApiError::invalid("state", "a migration is in some state")),
            migration::State::Reserve => Self::Reserve,
            migration::State::Prepare => Self::Prepare,
            migration::State::Precopy => Self::Precopy,
            migration::State::Freeze => Self::Freeze,
            migration::State::Dump => Self::Dump,
            migration::State::Stream => Self::Stream,
            migration::State::Restore => Self::Restore,
            migration::State::Commit => Self::Commit,
            migration::State::Run => Self::Run,
            migration::State::Aborted => Self::Aborted,
            migration::State::Failed => Self::Failed,
        })
    }
}

impl From<Trigger> for migration::Trigger {
    fn from(trigger: Trigger) -> Self {
        match trigger {
            Trigger::Request => Self::Request,
            Trigger::Balance => Self::Balance,
            Trigger::Memory => Self::Memory,
            Trigger::Home => Self::Home,
            Trigger::Initial => Self::Initial,
            Trigger::Evacuate => Self::Evacuate,
            Trigger::Unknown => Self::Unspecified,
        }
    }
}

impl From<migration::Trigger> for Trigger {
    fn from(trigger: migration::Trigger) -> Self {
        match trigger {
            migration::Trigger::Request => Self::Request,
            migration::Trigger::Balance => Self::Balance,
            migration::Trigger::Memory => Self::Memory,
            migration::Trigger::Home => Self::Home,
            migration::Trigger::Initial => Self::Initial,
            migration::Trigger::Evacuate => Self::Evacuate,
            migration::Trigger::Unspecified => Self::Unknown,
        }
    }
}

impl From<&MigrationSummary> for v1::Migration {
    fn from(migration: &MigrationSummary) -> Self {
        let step = |step: &MigrationStep| v1::MigrationStep {
            state: migration::State::from(step.state).into(),
            enter_time: Some(timestamp(step.at_ms)),
        };
        Self {
            name: migration_resource(migration.id),
            process: job_resource(&migration.process),
            source: node_resource(&migration.source),
            target: node_resource(&migration.target),
            state: migration::State::from(migration.state).into(),
            trigger: migration::Trigger::from(migration.trigger).into(),
            steps: migration.steps.iter().map(step).collect(),
            memory_bytes: migration.memory_bytes,
            wire_bytes: migration.wire_bytes,
            downtime_us: migration.downtime_us,
            reason: migration.reason.clone(),
            create_time: Some(timestamp(migration.create_time_ms)),
            end_time: migration.end_time_ms.map(timestamp),
        }
    }
}

impl TryFrom<v1::Migration> for MigrationSummary {
    type Error = ApiError;

    fn try_from(migration: v1::Migration) -> Result<Self, ApiError> {
        let step = |step: &v1::MigrationStep| -> Result<MigrationStep, ApiError> {
            Ok(MigrationStep { state: step.state().try_into()?, at_ms: step.enter_time.as_ref().map_or(0, millis) })
        };
        Ok(Self {
            id: parse_migration(&migration.name)?,
            process: parse_job(&migration.process, super::super::name::ANY)?,
            source: parse_node(&migration.source, "source")?,
            target: parse_node(&migration.target, "target")?,
            state: migration.state().try_into()?,
            trigger: migration.trigger().into(),
            steps: migration.steps.iter().map(step).collect::<Result<_, _>>()?,
            memory_bytes: migration.memory_bytes,
            wire_bytes: migration.wire_bytes,
            downtime_us: migration.downtime_us,
            reason: migration.reason,
            create_time_ms: migration.create_time.as_ref().map_or(0, millis),
            end_time_ms: migration.end_time.as_ref().map(millis),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::job::{JobId, SessionId};

    pub(in super::super) fn migration(state: MoveState) -> MigrationSummary {
        MigrationSummary {
            id: SessionId::random(),
            process: JobId::new("n1", 4711),
            source: "n1".into(),
            target: "n2".into(),
            state,
            trigger: Trigger::Balance,
            steps: vec![MigrationStep { state: MoveState::Reserve, at_ms: 5 }, MigrationStep { state, at_ms: 6 }],
            memory_bytes: 1,
            wire_bytes: 2,
            downtime_us: Some(3),
            reason: "why not".into(),
            create_time_ms: 4,
            end_time_ms: Some(5),
        }
    }

    #[test]
    fn a_migration_survives_the_wire_in_every_state() {
        use MoveState::*;
        for state in [Reserve, Prepare, Precopy, Freeze, Dump, Stream, Restore, Commit, Run, Aborted, Failed] {
            let migration = migration(state);
            assert_eq!(MigrationSummary::try_from(v1::Migration::from(&migration)).unwrap(), migration);
        }
        for trigger in
            [Trigger::Request, Trigger::Balance, Trigger::Memory, Trigger::Home, Trigger::Initial, Trigger::Evacuate]
        {
            assert_eq!(Trigger::from(migration::Trigger::from(trigger)), trigger);
        }
        assert!(MigrationSummary::try_from(v1::Migration::default()).is_err());
    }
}
