//! What the scheduler is told of this node's cgroups.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt, path::PathBuf};

use crate::{
    agent::process::AGENTS_CGROUP,
    daemon::{
        shared::{GUESTS_CGROUP, Shared},
        view::View,
    },
    job::JobId,
    scheduler::{HintTarget, Tier, TierHints},
    sys::cgroup,
};

/// Gives the scheduler its hints.
pub struct Hints {
    hints: TierHints,
    /// A cgroup's hints as they were given last: its inode number and tier.
    known: HashMap<PathBuf, (u64, Option<Tier>)>,
}

impl Hints {
    /// None was given yet but that for this process. Nodes that do not hear of this node for
    /// seconds take it for dead, so it waits for no program.
    pub fn new(hints: TierHints) -> Self {
        if let Err(error) = hints.set_tier(HintTarget::Process(std::process::id()), Some(Tier::Agent)) {
            tracing::warn!(%error, "this daemon competes with programs for CPU time");
        }
        Self { hints, known: HashMap::new() }
    }

    /// Guests get what home's own programs leave, agents come first, and of jobs those with less
    /// attained service before the others. A program that stands still to be moved comes before
    /// others too: CRIU has it carry out system calls, and it would wait for its turn at each. So
    /// does a guest that does not run yet, as long as it has no hint of its own: that is CRIU.
    pub fn give(&mut self, shared: &Shared, view: &View<'_>) {
        let standing = &view.under_way.standing_still;
        let tier = |job: &JobId, tier| if standing.contains(job) { Some(Tier::Agent) } else { tier };
        let jobs: Vec<_> =
            shared.jobs().iter().map(|job| (job.cgroup.clone(), tier(&shared.name_of(job), None), true)).collect();
        // Who has come back is no guest.
        let by_home = |job: &JobId| if job.is_of(&shared.node) { Tier::Home } else { Tier::Guest };
        let guests = view.agents.guests.values();
        let guests =
            guests.map(|guest| (guest.cgroup.clone(), tier(&guest.job.id, Some(by_home(&guest.job.id))), true));
        let arriving = cgroup::directory(GUESTS_CGROUP);
        let own = [cgroup::directory(AGENTS_CGROUP), arriving].map(|cgroup| (cgroup, Some(Tier::Agent), false));
        let mut present = HashMap::new();
        for (cgroup, tier, is_job) in jobs.into_iter().chain(guests).chain(own) {
            let Ok(inode) = fs::metadata(&cgroup).map(|metadata| metadata.ino()) else { continue };
            let give = || {
                self.hints.set_tier(HintTarget::Cgroup(inode), tier)?;
                self.hints.set_job(inode, is_job)
            };
            if self.known.get(&cgroup) != Some(&(inode, tier))
                && let Err(error) = give()
            {
                tracing::debug!(%error, "hint not given; tried again in a second");
                continue;
            }
            present.insert(cgroup, (inode, tier));
        }
        for (_, (inode, _)) in self.known.iter().filter(|(cgroup, _)| !present.contains_key(*cgroup)) {
            // The scheduler may have stopped; then there is nothing to take back.
            let _ = self.hints.set_tier(HintTarget::Cgroup(*inode), None);
            let _ = self.hints.set_job(*inode, false);
        }
        self.known = present;
    }
}
