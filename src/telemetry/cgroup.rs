//! Names of cgroups. The kernel's programs give a cgroup's number; people, and migration, want its
//! path.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::sample::CgroupRef;
use crate::sys::proc;

/// Paths of cgroups by number, each read once, from `/proc/PID/cgroup` of the first process found
/// in it.
///
/// Renaming a cgroup (rare) shows only after it has been empty for a sample.
pub(super) struct CgroupNames {
    proc: PathBuf,
    known: HashMap<u64, Entry>,
    generation: u64,
}

struct Entry {
    path: Arc<str>,
    seen: u64,
}

impl CgroupNames {
    pub(super) fn new(proc: &Path) -> Self {
        Self { proc: proc.to_owned(), known: HashMap::new(), generation: 0 }
    }

    /// The path of the cgroup that process `pid` is in.
    pub(super) fn path_of(&mut self, cgroup: &CgroupRef, pid: u32) -> Arc<str> {
        let id = match cgroup {
            CgroupRef::Path(path) => return path.as_str().into(),
            CgroupRef::Id(id) => *id,
        };
        if let Some(entry) = self.known.get_mut(&id) {
            entry.seen = self.generation;
            return Arc::clone(&entry.path);
        }
        // The process may be gone by now: nothing is remembered then.
        let Some(path) = proc::cgroup(&self.proc.join(pid.to_string())) else { return "".into() };
        let path: Arc<str> = path.into();
        self.known.insert(id, Entry { path: Arc::clone(&path), seen: self.generation });
        path
    }

    /// Forgets cgroups that were not asked for since the last call: one call per sample.
    pub(super) fn forget_unseen(&mut self) {
        let generation = self.generation;
        self.known.retain(|_, entry| entry.seen == generation);
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_once_and_forgotten_when_unused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("7")).unwrap();
        let file = dir.path().join("7/cgroup");
        std::fs::write(&file, "3:cpu:/x\n0::/user.slice/a\n").unwrap();
        let mut names = CgroupNames::new(dir.path());
        assert_eq!(&*names.path_of(&CgroupRef::Id(5), 7), "/user.slice/a");
        std::fs::write(&file, "0::/b\n").unwrap();
        names.forget_unseen();
        assert_eq!(&*names.path_of(&CgroupRef::Id(5), 7), "/user.slice/a");
        names.forget_unseen();
        names.forget_unseen();
        assert_eq!(&*names.path_of(&CgroupRef::Id(5), 7), "/b");
        assert_eq!(&*names.path_of(&CgroupRef::Id(6), 8), "");
        assert_eq!(&*names.path_of(&CgroupRef::Path("/c".to_owned()), 7), "/c");
    }
}
