//! `Process` and `PlacementReasons`.

use super::{millis, some_text, timestamp};
use crate::{
    api::{
        ApiError,
        name::{
            ANY, job_resource, migration_resource, node_resource, node_resources, parse_job, parse_migration,
            parse_node, parse_nodes,
        },
        view::{
            Figure, PlacementCandidate, PlacementDecision, PlacementReason, PlacementReasons, ProcessState,
            ProcessSummary,
        },
    },
    job::Constraints,
    proto::v1::{self, placement_reasons::Decision, process::State},
};

impl From<&ProcessSummary> for v1::Process {
    fn from(process: &ProcessSummary) -> Self {
        let state = match process.state {
            ProcessState::Running => State::Running,
            ProcessState::Sleeping => State::Sleeping,
            ProcessState::Stopped => State::Stopped,
            ProcessState::Moving => State::Moving,
            ProcessState::Ended => State::Ended,
            ProcessState::Unknown => State::Unspecified,
        };
        Self {
            name: job_resource(&process.name()),
            pid: process.pid,
            home_node: node_resource(&process.home),
            runs_on: node_resource(&process.runs_on),
            state: state.into(),
            comm: process.comm.clone(),
            command_line: process.command_line.clone(),
            uid: process.uid,
            user: process.user.clone(),
            working_directory: process.cwd.clone(),
            cpu_percent: process.cpu_percent,
            usage: Some(process.usage.into()),
            memory_percent: process.memory_percent,
            moves: process.moves,
            visited: node_resources(&process.visited),
            cannot_move: process.cannot_move.clone().unwrap_or_default(),
            stay: process.constraints.stay,
            allowed_nodes: node_resources(&process.constraints.allowed_nodes),
            migration: process.migration.map(migration_resource).unwrap_or_default(),
            start_time: process.start_time_ms.map(timestamp),
            part_of: process.part_of.unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::Process> for ProcessSummary {
    type Error = ApiError;

    fn try_from(process: v1::Process) -> Result<Self, ApiError> {
        let state = match process.state() {
            State::Running => ProcessState::Running,
            State::Sleeping => ProcessState::Sleeping,
            State::Stopped => ProcessState::Stopped,
            State::Moving => ProcessState::Moving,
            State::Ended => ProcessState::Ended,
            State::Unspecified => ProcessState::Unknown,
        };
        let name = parse_job(&process.name, ANY)?;
        let migration = some_text(process.migration).map(|name| parse_migration(&name)).transpose()?;
        Ok(Self {
            pid: name.pid,
            home: name.home.to_string(),
            runs_on: parse_node(&process.runs_on, "runs_on")?,
            state,
            comm: process.comm,
            command_line: process.command_line,
            uid: process.uid,
            user: process.user,
            cwd: process.working_directory,
            cpu_percent: process.cpu_percent,
            usage: process.usage.unwrap_or_default().into(),
            memory_percent: process.memory_percent,
            moves: process.moves,
            visited: process.visited.iter().map(|node| parse_node(node, "visited")).collect::<Result<_, _>>()?,
            cannot_move: some_text(process.cannot_move),
            constraints: Constraints { stay: process.stay, allowed_nodes: parse_nodes(&process.allowed_nodes)? },
            migration,
            start_time_ms: process.start_time.as_ref().map(millis),
            part_of: Some(process.part_of).filter(|pid| *pid > 0),
        })
    }
}

impl From<&PlacementReasons> for v1::PlacementReasons {
    fn from(reasons: &PlacementReasons) -> Self {
        let decision = match reasons.decision {
            PlacementDecision::Stay => Decision::Stay,
            PlacementDecision::Move => Decision::Move,
            PlacementDecision::Unknown => Decision::Unspecified,
        };
        let reason = |reason: &PlacementReason| v1::Reason {
            code: reason.code.clone(),
            text: reason.text.clone(),
            figures: reason.figures.iter().map(Into::into).collect(),
        };
        let candidate = |candidate: &PlacementCandidate| v1::Candidate {
            node: node_resource(&candidate.node),
            chosen: candidate.chosen,
            text: candidate.text.clone(),
            figures: candidate.figures.iter().map(Into::into).collect(),
        };
        Self {
            process: job_resource(&reasons.process),
            decision: decision.into(),
            target: reasons.target.as_deref().map(node_resource).unwrap_or_default(),
            summary: reasons.summary.clone(),
            reasons: reasons.reasons.iter().map(reason).collect(),
            candidates: reasons.candidates.iter().map(candidate).collect(),
            decide_time: reasons.decide_time_ms.map(timestamp),
            migrations: reasons.migrations.iter().map(Into::into).collect(),
            cannot_move: reasons.cannot_move.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::PlacementReasons> for PlacementReasons {
    type Error = ApiError;

    fn try_from(reasons: v1::PlacementReasons) -> Result<Self, ApiError> {
        let decision = match reasons.decision() {
            Decision::Stay => PlacementDecision::Stay,
            Decision::Move => PlacementDecision::Move,
            Decision::Unspecified => PlacementDecision::Unknown,
        };
        let figures = |figures: Vec<v1::Figure>| figures.into_iter().map(Into::into).collect();
        let candidate = |candidate: v1::Candidate| -> Result<PlacementCandidate, ApiError> {
            Ok(PlacementCandidate {
                node: parse_node(&candidate.node, "candidates")?,
                chosen: candidate.chosen,
                text: candidate.text,
                figures: figures(candidate.figures),
            })
        };
        Ok(Self {
            process: parse_job(&reasons.process, ANY)?,
            decision,
            target: some_text(reasons.target).map(|node| parse_node(&node, "target")).transpose()?,
            summary: reasons.summary,
            reasons: reasons
                .reasons
                .into_iter()
                .map(|reason| PlacementReason {
                    code: reason.code,
                    text: reason.text,
                    figures: figures(reason.figures),
                })
                .collect(),
            candidates: reasons.candidates.into_iter().map(candidate).collect::<Result<_, _>>()?,
            decide_time_ms: reasons.decide_time.as_ref().map(millis),
            migrations: reasons.migrations.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            cannot_move: some_text(reasons.cannot_move),
        })
    }
}

impl From<&Figure> for v1::Figure {
    fn from(figure: &Figure) -> Self {
        Self { name: figure.name.clone(), value: figure.value }
    }
}

impl From<v1::Figure> for Figure {
    fn from(figure: v1::Figure) -> Self {
        Self { name: figure.name, value: figure.value }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::migration::tests::migration, *};
    use crate::{
        job::{Counters, JobId, SessionId, Usage},
        protocol::MoveState,
    };

    #[test]
    fn a_process_survives_the_wire() {
        let process = ProcessSummary {
            pid: 4711,
            home: "n1".into(),
            runs_on: "n2".into(),
            state: ProcessState::Stopped,
            comm: "xz".into(),
            command_line: vec!["xz".into(), "-9e".into()],
            uid: 1000,
            user: "amnon".into(),
            cwd: "/home/amnon".into(),
            cpu_percent: 99.5,
            usage: Usage {
                counters: Counters { cpu_ns: 61_000_000_001, wait_ns: 7, major_faults: 8, io_bytes: 5 << 30 },
                resident_bytes: 1 << 30,
                mapped_bytes: 1 << 20,
                processes: 2,
                threads: 9,
            },
            memory_percent: 12.5,
            moves: 3,
            visited: vec!["n1".into(), "n2".into()],
            cannot_move: Some("descriptor 5 is an inet socket".into()),
            constraints: Constraints { stay: true, allowed_nodes: vec!["n2".into(), "n3".into()] },
            migration: Some(SessionId::random()),
            start_time_ms: Some(1_700_000_000_001),
            part_of: Some(4700),
        };
        assert_eq!(ProcessSummary::try_from(v1::Process::from(&process)).unwrap(), process);
        assert!(ProcessSummary::try_from(v1::Process::default()).is_err());
    }

    #[test]
    fn reasons_survive_the_wire() {
        let figure = Figure { name: "load".into(), value: 1.5 };
        let reasons = PlacementReasons {
            process: JobId::new("n1", 1),
            decision: PlacementDecision::Move,
            target: Some("n2".into()),
            summary: "n2 is idle".into(),
            reasons: vec![PlacementReason { code: "COST".into(), text: "1 < 2".into(), figures: vec![figure.clone()] }],
            candidates: vec![PlacementCandidate {
                node: "n2".into(),
                chosen: true,
                text: "idle".into(),
                figures: vec![figure],
            }],
            decide_time_ms: Some(9),
            migrations: vec![migration(MoveState::Aborted)],
            cannot_move: Some("no".into()),
        };
        assert_eq!(PlacementReasons::try_from(v1::PlacementReasons::from(&reasons)).unwrap(), reasons);
    }
}
