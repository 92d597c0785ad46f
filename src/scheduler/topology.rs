//! Which CPUs share a last-level cache ("LLC"), from `/sys/devices/system/cpu`.
//!
//! For each possible CPU the unified or data cache with the highest level counts; CPUs with the
//! same `shared_cpu_list` of it form one LLC. Where the kernel shows no caches (many virtual
//! machines), CPUs of one package do; where it shows nothing, all do.

use std::collections::BTreeMap;
use std::path::Path;

/// LLC number of each possible CPU, from 0 without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Indexed by CPU number.
    pub llc_of_cpu: Vec<u16>,
}

impl Topology {
    /// Reads `root` (`/sys/devices/system/cpu`, or a copy of it in a test).
    pub fn read(root: &Path) -> std::io::Result<Self> {
        let possible = std::fs::read_to_string(root.join("possible"))?;
        let nr_cpus = highest_of_list(&possible).ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::InvalidData, format!("possible CPUs {possible:?}"))
        })? as usize
            + 1;
        let mut numbers = BTreeMap::new();
        let llc_of_cpu = (0..nr_cpus)
            .map(|cpu| {
                let cpu_dir = root.join(format!("cpu{cpu}"));
                let domain = last_level_cache(&cpu_dir.join("cache"))
                    .or_else(|| read_trimmed(&cpu_dir.join("topology/physical_package_id")))
                    .unwrap_or_default();
                let next = numbers.len() as u16;
                *numbers.entry(domain).or_insert(next)
            })
            .collect();
        Ok(Self { llc_of_cpu })
    }

    /// How many LLCs there are.
    pub fn nr_llcs(&self) -> u32 {
        self.llc_of_cpu.iter().max().map_or(1, |highest| u32::from(*highest) + 1)
    }
}

fn read_trimmed(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The list of CPUs that share the highest cache, as the kernel writes it.
fn last_level_cache(dir: &Path) -> Option<String> {
    let mut best = None;
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        let Some(level) = read_trimmed(&path.join("level")).and_then(|level| level.parse::<u32>().ok()) else {
            continue;
        };
        if read_trimmed(&path.join("type")).is_some_and(|kind| kind == "Instruction") {
            continue;
        }
        let Some(shared) = read_trimmed(&path.join("shared_cpu_list")) else { continue };
        if best.as_ref().is_none_or(|(highest, _)| level > *highest) {
            best = Some((level, shared));
        }
    }
    best.map(|(_, shared)| format!("cache {shared}"))
}

/// The highest number in a list like `0-3,8,10-11`.
fn highest_of_list(list: &str) -> Option<u32> {
    list.trim().split([',', '-']).map(|number| number.parse::<u32>().ok()).max().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(caches: &[(u32, &[(u32, &str)])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("possible"), format!("0-{}\n", caches.len() - 1)).unwrap();
        for (cpu, levels) in caches {
            for (level, shared) in *levels {
                let index = dir.path().join(format!("cpu{cpu}/cache/index{level}"));
                std::fs::create_dir_all(&index).unwrap();
                std::fs::write(index.join("level"), format!("{level}\n")).unwrap();
                std::fs::write(index.join("type"), "Unified\n").unwrap();
                std::fs::write(index.join("shared_cpu_list"), format!("{shared}\n")).unwrap();
            }
        }
        dir
    }

    #[test]
    fn cpus_with_the_same_highest_cache_form_one_llc() {
        let dir = machine(&[
            (0, &[(2, "0"), (3, "0-1")]),
            (1, &[(2, "1"), (3, "0-1")]),
            (2, &[(2, "2"), (3, "2-3")]),
            (3, &[(2, "3"), (3, "2-3")]),
        ]);
        let topology = Topology::read(dir.path()).unwrap();
        assert_eq!(topology.llc_of_cpu, [0, 0, 1, 1]);
        assert_eq!(topology.nr_llcs(), 2);
    }

    #[test]
    fn a_machine_that_shows_no_caches_is_one_llc() {
        let dir = machine(&[(0, &[]), (1, &[])]);
        assert_eq!(Topology::read(dir.path()).unwrap().llc_of_cpu, [0, 0]);
    }

    #[test]
    fn an_unreadable_list_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("possible"), "none\n").unwrap();
        assert!(Topology::read(dir.path()).is_err());
        assert_eq!(highest_of_list("0-3,8,10-11\n"), Some(11));
    }

    #[test]
    fn this_machine_has_at_least_one_llc() {
        let topology = Topology::read(Path::new("/sys/devices/system/cpu")).unwrap();
        assert!(topology.llc_of_cpu.contains(&0));
    }
}
