//! Programs.

use crate::{
    api::view::{ProcessState, ProcessSummary},
    job::JobId,
    ui::{
        output, ps,
        top::model::{
            figures::age,
            list::{Column, Listed, Meaning, Value, Width},
        },
    },
};

/// A program.
pub struct Program {
    /// What the API says.
    pub row: ProcessSummary,
    command: String,
    cwd: String,
}

impl Program {
    /// The row of a program.
    pub fn new(row: ProcessSummary) -> Self {
        let (command, cwd) = (output::clean(&ps::command(&row)), output::clean(&ps::one_line(&row.cwd)));
        Self { row, command, cwd }
    }

    /// Whether it runs elsewhere than at home.
    pub fn is_away(&self) -> bool {
        self.row.runs_on != self.row.home
    }
}

impl Listed for Program {
    type Key = JobId;

    fn key(&self) -> JobId {
        self.row.name()
    }

    fn parent(&self) -> Option<JobId> {
        self.row.part_of.map(|pid| JobId::new(&self.row.home, pid))
    }

    const COLUMNS: &'static [Column<Self>] = &[
        Column::<Self>::new("PID", 0, Width::Cells(7), |program, _| Value::Number(program.row.pid.into())),
        Column::<Self>::new("USER", 8, Width::Cells(8), |program, _| Value::Text(&program.row.user))
            .shown(|program, _| output::clean(&ps::one_line(&program.row.user))),
        Column::<Self>::new("HOME", 1, Width::Node, |program, _| Value::Text(&program.row.home)),
        Column::<Self>::new("NODE", 2, Width::Node, |program, _| Value::Text(&program.row.runs_on))
            .coloured(|program| if program.is_away() { Meaning::Good } else { Meaning::Plain }),
        Column::<Self>::new("STATE", 5, Width::Cells(8), |program, _| Value::Text(ps::state(program.row.state)))
            .coloured(|program| match program.row.state {
                ProcessState::Running => Meaning::Good,
                ProcessState::Moving => Meaning::Busy,
                ProcessState::Stopped | ProcessState::Ended => Meaning::Bad,
                ProcessState::Sleeping | ProcessState::Unknown => Meaning::Quiet,
            }),
        Column::<Self>::new("CPU%", 4, Width::Cells(5), |program, _| Value::Number(program.row.cpu_percent))
            .shown(|program, _| format!("{:.1}", program.row.cpu_percent)),
        Column::<Self>::new("MEM%", 10, Width::Cells(4), |program, _| Value::Number(program.row.memory_percent))
            .shown(|program, _| format!("{:.1}", program.row.memory_percent)),
        Column::<Self>::new("RSS", 7, Width::Cells(5), |program, _| {
            Value::Number(program.row.usage.resident_bytes as f64)
        })
        .shown(|program, _| output::size(program.row.usage.resident_bytes)),
        Column::<Self>::new("MOVES", 9, Width::Cells(5), |program, _| Value::Number(program.row.moves.into())),
        // In seconds.
        Column::<Self>::new("AGE", 11, Width::Cells(5), |program, now_ms| {
            let age_ms = program.row.start_time_ms.map_or(0, |start_ms| now_ms.saturating_sub(start_ms));
            Value::Number(age_ms as f64 / 1e3)
        })
        .shown(|program, now_ms| {
            program.row.start_time_ms.map_or_else(|| "-".into(), |start_ms| age(now_ms.saturating_sub(start_ms)))
        }),
        Column::<Self>::new("CWD", 6, Width::Tail(15, 40), |program, _| Value::Text(&program.cwd)),
        Column::<Self>::new("COMMAND", 3, Width::Room(10, u16::MAX), |program, _| Value::Text(&program.command))
            .coloured(|program| if program.row.cannot_move.is_some() { Meaning::Quiet } else { Meaning::Plain })
            .branching(),
    ];
}
