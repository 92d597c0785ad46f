//! What the rest of scx_mosix tells the scheduler: tiers, throttles, and which cgroups are jobs'.
//!
//! The supervisor keeps every hint here, so that a re-attached scheduler gets them all again. In
//! the kernel they live in two hash maps; after a change `hint_generation` is counted up, and each
//! task looks its hints up again when it next wakes, is queued or ticks.

use std::collections::HashMap;

use super::Tier;
use crate::sys::proc;

/// Whom a hint concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HintTarget {
    /// A process (all its threads), by its pid. It wins over the cgroup's. Children do not inherit
    /// it.
    Process(u32),
    /// Everything in a cgroup of the unified hierarchy and below, unless a nearer one says
    /// otherwise; by the inode number of its directory. Right for guests and agents: what they fork
    /// has the tier from its first instruction.
    Cgroup(u64),
}

/// A process's entry, as the kernel's map has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ProcessHint {
    pub(super) tier: Option<Tier>,
    /// 1..=999; `None`: full speed.
    pub(super) speed_permille: Option<u32>,
    /// `/proc/PID/stat`'s start time when the hint was made: a later process with the same pid does
    /// not inherit it.
    pub(super) start_time_ticks: u64,
}

/// A cgroup's entry, as the kernel's map has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CgroupHint {
    pub(super) tier: Option<Tier>,
    pub(super) is_job: bool,
}

/// A map entry to write (`Some`) or to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Process(u32, Option<ProcessHint>),
    Cgroup(u64, Option<CgroupHint>),
}

/// All hints in force.
#[derive(Debug, Default)]
pub(super) struct Hints {
    processes: HashMap<u32, ProcessHint>,
    cgroups: HashMap<u64, CgroupHint>,
}

impl Hints {
    /// `start_time_ticks` gives the present start time of a pid, `None` when there is no such
    /// process.
    pub(super) fn set_tier(
        &mut self,
        target: HintTarget,
        tier: Option<Tier>,
        start_time_ticks: impl Fn(u32) -> Option<u64>,
    ) -> Change {
        match target {
            HintTarget::Process(pid) => self.update(pid, start_time_ticks, |hint| hint.tier = tier),
            HintTarget::Cgroup(id) => self.update_cgroup(id, |hint| hint.tier = tier),
        }
    }

    pub(super) fn set_job(&mut self, cgroup: u64, is_job: bool) -> Change {
        self.update_cgroup(cgroup, |hint| hint.is_job = is_job)
    }

    fn update_cgroup(&mut self, id: u64, set: impl FnOnce(&mut CgroupHint)) -> Change {
        let mut hint = self.cgroups.get(&id).copied().unwrap_or_default();
        set(&mut hint);
        if hint == CgroupHint::default() {
            self.cgroups.remove(&id);
            return Change::Cgroup(id, None);
        }
        self.cgroups.insert(id, hint);
        Change::Cgroup(id, Some(hint))
    }

    pub(super) fn set_speed(
        &mut self,
        pid: u32,
        speed_permille: Option<u32>,
        start_time_ticks: impl Fn(u32) -> Option<u64>,
    ) -> Change {
        self.update(pid, start_time_ticks, |hint| hint.speed_permille = speed_permille)
    }

    fn update(
        &mut self,
        pid: u32,
        start_time_ticks: impl Fn(u32) -> Option<u64>,
        set: impl FnOnce(&mut ProcessHint),
    ) -> Change {
        let Some(started) = start_time_ticks(pid) else {
            self.processes.remove(&pid);
            return Change::Process(pid, None);
        };
        let mut hint = self.processes.get(&pid).copied().unwrap_or_default();
        if hint.start_time_ticks != started {
            hint = ProcessHint { start_time_ticks: started, ..ProcessHint::default() };
        }
        set(&mut hint);
        if hint.tier.is_none() && hint.speed_permille.is_none() {
            self.processes.remove(&pid);
            return Change::Process(pid, None);
        }
        self.processes.insert(pid, hint);
        Change::Process(pid, Some(hint))
    }

    /// Forgets processes that have ended; returns their entries' deletion.
    pub(super) fn prune(&mut self, start_time_ticks: impl Fn(u32) -> Option<u64>) -> Vec<Change> {
        let mut gone = Vec::new();
        self.processes.retain(|pid, hint| {
            let alive = start_time_ticks(*pid) == Some(hint.start_time_ticks);
            if !alive {
                gone.push(Change::Process(*pid, None));
            }
            alive
        });
        gone
    }

    /// Every entry, for a scheduler that was just attached.
    pub(super) fn all(&self) -> Vec<Change> {
        let processes = self.processes.iter().map(|(pid, hint)| Change::Process(*pid, Some(*hint)));
        processes.chain(self.cgroups.iter().map(|(id, hint)| Change::Cgroup(*id, Some(*hint)))).collect()
    }

    pub(super) fn nr_throttled(&self) -> u32 {
        self.processes.values().filter(|hint| hint.speed_permille.is_some()).count() as u32
    }

    pub(super) fn nr_cgroups(&self) -> u32 {
        self.cgroups.len() as u32
    }
}

/// Start time of a process in clock ticks since boot.
pub(super) fn start_time_of(pid: u32) -> Option<u64> {
    proc::start_time_ticks(pid.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(at: u64) -> impl Fn(u32) -> Option<u64> {
        move |_| Some(at)
    }

    #[test]
    fn tier_and_speed_of_a_process_are_kept_together() {
        let mut hints = Hints::default();
        hints.set_tier(HintTarget::Process(7), Some(Tier::Guest), started(1));
        let change = hints.set_speed(7, Some(250), started(1));
        let both = ProcessHint { tier: Some(Tier::Guest), speed_permille: Some(250), start_time_ticks: 1 };
        assert_eq!(change, Change::Process(7, Some(both)));
        assert_eq!(hints.nr_throttled(), 1);
        hints.set_speed(7, None, started(1));
        assert_eq!(hints.set_tier(HintTarget::Process(7), None, started(1)), Change::Process(7, None));
        assert!(hints.all().is_empty());
    }

    #[test]
    fn a_reused_pid_inherits_nothing() {
        let mut hints = Hints::default();
        hints.set_speed(7, Some(250), started(1));
        let change = hints.set_tier(HintTarget::Process(7), Some(Tier::Agent), started(2));
        let fresh = ProcessHint { tier: Some(Tier::Agent), speed_permille: None, start_time_ticks: 2 };
        assert_eq!(change, Change::Process(7, Some(fresh)));
        assert_eq!(hints.prune(started(3)), [Change::Process(7, None)]);
        assert!(hints.all().is_empty());
    }

    #[test]
    fn tier_and_job_of_a_cgroup_are_kept_together() {
        let mut hints = Hints::default();
        let job = CgroupHint { tier: None, is_job: true };
        assert_eq!(hints.set_job(9, true), Change::Cgroup(9, Some(job)));
        let guest = hints.set_tier(HintTarget::Cgroup(9), Some(Tier::Guest), started(1));
        assert_eq!(guest, Change::Cgroup(9, Some(CgroupHint { tier: Some(Tier::Guest), ..job })));
        assert_eq!(hints.set_tier(HintTarget::Cgroup(9), None, started(1)), Change::Cgroup(9, Some(job)));
        assert_eq!(hints.all(), [Change::Cgroup(9, Some(job))]);
        assert_eq!(hints.set_job(9, false), Change::Cgroup(9, None));
        assert_eq!(hints.nr_cgroups(), 0);
    }

    #[test]
    fn a_process_that_is_gone_gets_no_entry() {
        let mut hints = Hints::default();
        assert_eq!(hints.set_speed(7, Some(250), |_| None), Change::Process(7, None));
        assert!(hints.all().is_empty());
    }

    #[test]
    fn every_hint_is_there_again_after_a_re_attachment() {
        let mut hints = Hints::default();
        hints.set_tier(HintTarget::Cgroup(9), Some(Tier::Guest), started(1));
        hints.set_speed(7, Some(10), started(1));
        assert_eq!(hints.all().len(), 2);
        assert_eq!(hints.nr_cgroups(), 1);
        assert!(hints.prune(started(1)).is_empty());
    }

    #[test]
    fn own_start_time_is_read() {
        assert!(start_time_of(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_time_of(u32::MAX), None);
    }
}
