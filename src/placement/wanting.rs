//! Since when jobs would have been better off elsewhere.

use std::collections::HashMap;

use crate::job::JobId;

#[derive(Debug, Clone, Default)]
pub(super) struct Wanting {
    jobs: HashMap<JobId, Want>,
    /// The number of the last look at all jobs.
    look: u64,
}

#[derive(Debug, Clone, Copy)]
struct Want {
    since_ms: u64,
    /// The last look at which it was so.
    look: u64,
}

impl Wanting {
    /// Notes of each job of this node whether it would be better off elsewhere now. Returns for how
    /// long that has been so, in milliseconds.
    pub(super) fn note<'a>(&mut self, jobs: impl Iterator<Item = (&'a JobId, bool)>, now_ms: u64) -> Vec<u64> {
        let look = self.look.wrapping_add(1);
        let lasted_ms = jobs.map(|(job, wants)| {
            if !wants {
                return 0;
            }
            let want = self.jobs.entry(job.clone()).or_insert(Want { since_ms: now_ms, look });
            want.look = look;
            now_ms.saturating_sub(want.since_ms)
        });
        let lasted_ms = lasted_ms.collect();
        self.jobs.retain(|_, want| want.look == look);
        self.look = look;
        lasted_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_imbalance_is_timed_from_its_first_uninterrupted_sample() {
        let (a, b) = (JobId::new("n1", 1), JobId::new("n1", 2));
        let mut wanting = Wanting::default();
        assert_eq!(wanting.note([(&a, true), (&b, false)].into_iter(), 1_000), [0, 0]);
        assert_eq!(wanting.note([(&b, true), (&a, true)].into_iter(), 2_000), [0, 1_000]);
        assert_eq!(wanting.note([(&a, false), (&b, true)].into_iter(), 2_000), [0, 0]);
        assert_eq!(wanting.note([(&a, true), (&b, true)].into_iter(), 5_000), [0, 3_000]);
        assert_eq!(wanting.note([(&a, true)].into_iter(), 5_000), [0]);
        assert_eq!(
            wanting.note([(&a, true), (&b, true)].into_iter(), 6_000),
            [1_000, 0],
            "a program that was gone begins anew"
        );
    }
}
