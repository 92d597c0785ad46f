//! CPU time by tree: what a user started, and all jobs that came of it.

use std::collections::HashMap;

/// What trees have had, in ms, by the root pid of the job that the user started.
#[derive(Clone, Default)]
pub struct Trees(HashMap<i32, Tree>);

#[derive(Clone, Default)]
struct Tree {
    /// What each of its jobs has had, by root pid, in ms.
    jobs: HashMap<i32, u64>,
    /// What those had that have ended, in ms.
    ended_ms: u64,
}

impl Trees {
    /// Takes all jobs: tree, root pid, CPU time as last seen in ms. A job that moves may be seen to
    /// have less for a while; that is ignored.
    ///
    /// A tree of which only the root is left begins anew: that is a shell, whose user waits for the
    /// next command.
    pub fn update(&mut self, jobs: impl Iterator<Item = (i32, i32, u64)>) {
        let mut before = std::mem::take(&mut self.0);
        for (root, pid, seen_ms) in jobs {
            let known_ms = before.get_mut(&root).and_then(|tree| tree.jobs.remove(&pid)).unwrap_or(0);
            self.0.entry(root).or_default().jobs.insert(pid, known_ms.max(seen_ms));
        }
        for (root, tree) in &mut self.0 {
            if let Some(before) = before.remove(root)
                && !tree.jobs.keys().all(|pid| pid == root)
            {
                tree.ended_ms = before.ended_ms + before.jobs.into_values().sum::<u64>();
            }
        }
    }

    /// What a tree has had, in ms.
    pub fn attained_ms(&self, root: i32) -> u64 {
        self.0.get(&root).map_or(0, |tree| tree.ended_ms + tree.jobs.values().sum::<u64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_had_what_all_its_jobs_had() {
        let mut trees = Trees::default();
        trees.update([(1, 1, 10), (1, 5, 200), (1, 6, 300), (9, 9, 70)].into_iter());
        assert_eq!((trees.attained_ms(1), trees.attained_ms(9), trees.attained_ms(5)), (510, 70, 0));
        // One ended, one went elsewhere, from where nothing was heard yet.
        trees.update([(1, 1, 10), (1, 6, 2), (9, 9, 80)].into_iter());
        assert_eq!((trees.attained_ms(1), trees.attained_ms(9)), (510, 80));
        // The next one begins.
        trees.update([(1, 1, 12), (1, 6, 310), (1, 7, 5)].into_iter());
        assert_eq!((trees.attained_ms(1), trees.attained_ms(9)), (527, 0));
    }

    #[test]
    fn a_waiting_shell_counts_its_own_attained_service_only() {
        let mut trees = Trees::default();
        trees.update([(1, 1, 10), (1, 5, 200)].into_iter());
        trees.update([(1, 1, 10)].into_iter());
        assert_eq!(trees.attained_ms(1), 10);
        // What its user left running counts though the shell has ended.
        trees.update([(1, 5, 200), (1, 6, 20)].into_iter());
        trees.update([(1, 6, 30)].into_iter());
        assert_eq!(trees.attained_ms(1), 240);
    }
}
