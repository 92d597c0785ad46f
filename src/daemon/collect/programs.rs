//! The programs that jobs of this node run, from their execs to their exits; what they needed is
//! learned.

use std::{collections::HashMap, fs, sync::PoisonError};

use super::Collected;
use crate::{
    daemon::shared::{Shared, jobs::Job},
    job::SessionId,
    placement::Program,
    sys::{
        cgroup,
        lock::{Mutex, MutexGuard},
    },
    telemetry::ProcessId,
};

/// Programs followed from exec to exit at a time; of more nothing is learned.
const CAPACITY: usize = 65_536;

/// The programs that descendants of jobs, and jobs themselves, are running, by pid.
#[derive(Default)]
pub struct Programs(Mutex<HashMap<u32, Running>>);

struct Running {
    process: ProcessId,
    program: Program,
    /// The job in which it began.
    session: SessionId,
    /// CPU time that its process had had before, in ms.
    before_ms: u64,
}

impl Programs {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Running>> {
        // Entries come and go whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a process, and tells what it ran; not of an earlier one with its pid.
    fn take(&self, process: ProcessId) -> Option<Running> {
        let mut running = self.lock();
        running.get(&process.pid).filter(|running| running.process == process)?;
        running.remove(&process.pid)
    }
}

impl Collected {
    /// Takes that a process has executed a program. Gives it with the job in which it begins, if
    /// that is at home.
    pub fn program_begins(&self, shared: &Shared, process: ProcessId, before_ms: u64) -> Option<(Job, Program)> {
        shared.jobs().iter().next()?;
        let pid = process.pid.cast_signed();
        let cgroup = cgroup::of(pid)?;
        let job = shared.jobs().in_cgroup(&cgroup).cloned()?;
        if pid == job.root_pid {
            // What was seen was another program; at first it is the client that registers, with its
            // connection to this daemon.
            self.change(|measured| measured.cannot_move.remove(&job.session));
        }
        if shared.agents.view().has_moved(job.session) {
            return None;
        }
        let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let program = Program::new(&executable.to_string_lossy(), arguments.split(|byte| *byte == 0));
        let mut running = self.programs.lock();
        running.remove(&process.pid);
        if running.len() < CAPACITY {
            running.insert(process.pid, Running { process, program: program.clone(), session: job.session, before_ms });
        }
        Some((job, program))
    }

    /// Learns from a program that has ended. Of one that ran elsewhere, what its host said last of
    /// its CPU time stands for all of it, if it was alone in its job; else it is unknown.
    pub fn program_ended(&self, shared: &Shared, process: ProcessId, cpu_ms_total: u64) {
        let Some(Running { program, session, before_ms, .. }) = self.programs.take(process) else { return };
        let pid = process.pid.cast_signed();
        let own = shared.jobs().get(pid).map(|job| job.session);
        let total_ms = if !shared.agents.view().has_moved(own.unwrap_or(session)) {
            Some(cpu_ms_total)
        } else if own.is_some() {
            let measured = self.measured();
            measured.away(pid).filter(|row| row.usage.processes == 1).map(|row| row.usage.counters.cpu_ms())
        } else {
            None
        };
        if let Some(total_ms) = total_ms {
            self.learned.program_needed(&program, total_ms.saturating_sub(before_ms));
        }
    }

    /// Events were lost. Those that were not seen to end are forgotten; a lost exit is also noticed
    /// as its pid is used again.
    pub fn programs_lost(&self) {
        self.programs.lock().retain(|pid, _| fs::exists(format!("/proc/{pid}")).unwrap_or(true));
    }

    /// What a process runs, if it has executed a program since it was followed.
    pub fn program_of(&self, pid: u32) -> Option<Program> {
        self.programs.lock().get(&pid).map(|running| running.program.clone())
    }
}
