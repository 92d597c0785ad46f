//! Moves of programs.

use crate::{
    api::view::MigrationSummary,
    job::SessionId,
    protocol::MoveState,
    ui::{
        output, ps,
        top::model::{
            figures::{age, bar},
            list::{Column, Listed, Meaning, Value, Width},
        },
    },
};

/// A move of a program.
pub struct Move {
    /// What the API says.
    pub row: MigrationSummary,
    /// The memory of the program that moves, in bytes, if that is known.
    pub size_bytes: Option<u64>,
    /// How long placement expected it to stand still, in µs, if that is known.
    pub expected_us: Option<u64>,
    process: String,
    reason: String,
}

impl Move {
    /// The row of a move.
    pub fn new(row: MigrationSummary, size_bytes: Option<u64>, expected_us: Option<u64>) -> Self {
        let (process, reason) = (row.process.to_string(), output::clean(&ps::one_line(&row.reason)));
        Self { row, size_bytes, expected_us, process, reason }
    }

    /// How far it is: the state, and a bar of the memory that was sent.
    fn progress(&self) -> String {
        let state = state(self.row.state);
        match (self.row.is_over(), self.size_bytes) {
            (false, Some(size)) if size > 0 => {
                format!("{} {state}", bar(self.row.memory_bytes as f64 / size as f64, 6))
            }
            _ => state.to_owned(),
        }
    }
}

/// What a user calls it.
fn state(state: MoveState) -> &'static str {
    match state {
        MoveState::Run => "done",
        MoveState::Aborted => "given up",
        MoveState::Failed => "lost",
        under_way => under_way.name(),
    }
}

impl Listed for Move {
    type Key = SessionId;

    fn key(&self) -> SessionId {
        self.row.id
    }

    const COLUMNS: &'static [Column<Self>] = &[
        // In seconds, what is under way before what has ended.
        Column::<Self>::new("STARTED", 6, Width::Cells(7), |step, now_ms| {
            let ago_ms = now_ms.saturating_sub(step.row.create_time_ms);
            Value::Number(if step.row.is_over() { ago_ms as f64 / 1e3 } else { -1.0 })
        })
        .shown(|step, now_ms| format!("-{}", age(now_ms.saturating_sub(step.row.create_time_ms))))
        .coloured(|_| Meaning::Quiet)
        .left_aligned(),
        Column::<Self>::new("PROGRAM", 0, Width::Cells(12), |step, _| Value::Text(&step.process)),
        Column::<Self>::new("FROM", 3, Width::Node, |step, _| Value::Text(&step.row.source)),
        Column::<Self>::new("TO", 1, Width::Node, |step, _| Value::Text(&step.row.target)),
        Column::<Self>::new("STATE", 2, Width::Cells(16), |step, _| Value::Text(state(step.row.state)))
            .shown(|step, _| step.progress())
            .coloured(|step| match step.row.state {
                MoveState::Run => Meaning::Good,
                MoveState::Aborted | MoveState::Failed => Meaning::Bad,
                _ => Meaning::Busy,
            }),
        // Expected, until it is known.
        Column::<Self>::new("STOPPED", 4, Width::Cells(8), |step, _| {
            Value::Number(step.row.downtime_us.or(step.expected_us).map_or(-1.0, |stopped_us| stopped_us as f64))
        })
        .shown(|step, _| match (step.row.downtime_us, step.expected_us) {
            (Some(stopped_us), _) => output::duration_us(stopped_us),
            (None, Some(expected_us)) if !step.row.is_over() => format!("~{}", output::duration_us(expected_us)),
            _ => "-".to_owned(),
        }),
        Column::<Self>::new("SENT", 7, Width::Cells(5), |step, _| Value::Number(step.row.memory_bytes as f64))
            .shown(|step, _| output::size(step.row.memory_bytes)),
        Column::<Self>::new("REASON", 5, Width::Room(8, u16::MAX), |step, _| Value::Text(&step.reason)),
    ];
}
