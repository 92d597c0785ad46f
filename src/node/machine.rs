//! The machine as its files show it: `/proc`, `/sys` and `/dev` below a root directory.

use std::{
    io,
    path::{Path, PathBuf},
};

use procfs::{CpuInfo, CpuPressure, FromRead, IoPressure, Meminfo, MemoryPressure, ProcError};

use super::{load::Pressure, memory::Memory};

/// Something about this machine that cannot be found out.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file of the kernel's cannot be read.
    #[error("cannot read {}: are /proc and /sys mounted?", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the kernel's reads other than expected.
    #[error("{} is not as expected; please report it with your kernel's version", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: procfs::ProcError,
    },
    /// The kernel is so old that it lacks what everything rests on.
    #[error("the kernel does not report {0}: Linux 6.6 or newer is needed")]
    Missing(&'static str),
    /// The interfaces' addresses cannot be listed.
    #[error("cannot list this machine's addresses: give one with --address")]
    Addresses(#[source] io::Error),
    /// There is no address under which other nodes could reach this one.
    #[error("this machine has no address but loopback: connect it to a network, or give an address with --address")]
    NoAddress,
}

/// Where to look: `/`, or a directory that a test has filled.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// The machine that this program runs on.
    pub fn this() -> Self {
        Self::at("/")
    }

    /// A machine whose `proc`, `sys` and `dev` are below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `path`, which is absolute, on this machine.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The first line of a small file, without blanks around it.
    pub(super) fn line(&self, path: &str) -> Result<String, NodeError> {
        let path = self.path(path);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().next().unwrap_or_default().trim().to_owned()),
            Err(source) => Err(NodeError::Read { path, source }),
        }
    }

    /// All memory and swap: what programs can get without swapping is `MemAvailable`.
    ///
    /// # Errors
    /// [`NodeError::Read`], [`NodeError::Parse`] of a file of `/proc`, and [`NodeError::Missing`].
    pub(super) fn memory(&self) -> Result<Memory, NodeError> {
        let memory: Meminfo = self.parse("/proc/meminfo")?;
        Ok(Memory {
            total_bytes: memory.mem_total,
            free_bytes: memory.mem_available.ok_or(NodeError::Missing("MemAvailable"))?,
            swapped_bytes: memory.swap_total.saturating_sub(memory.swap_free),
            fetched_bytes: self.swapped_in_bytes()?,
        })
    }

    /// What was fetched back from swap since the machine began, in bytes.
    fn swapped_in_bytes(&self) -> Result<u64, NodeError> {
        let text = read(&self.path("/proc/vmstat"))?;
        let text = String::from_utf8_lossy(&text);
        // A kernel without swap does not count.
        let pages = text.lines().find_map(|line| line.strip_prefix("pswpin ")?.trim().parse().ok()).unwrap_or(0_u64);
        Ok(pages.saturating_mul(rustix::param::page_size() as u64))
    }

    /// Pressure stall figures; `None` if the kernel does not keep them (`psi=0`, or not
    /// configured).
    ///
    /// # Errors
    /// [`NodeError::Parse`] of a file of `/proc/pressure`.
    pub fn pressure(&self) -> Result<Option<Pressure>, NodeError> {
        pressure_in(|resource| self.path("/proc/pressure").join(resource))
    }

    pub(super) fn cpu_info(&self) -> Result<CpuInfo, NodeError> {
        self.parse("/proc/cpuinfo")
    }

    pub(super) fn parse<T: FromRead>(&self, path: &str) -> Result<T, NodeError> {
        parse_file(&self.path(path))
    }
}

fn parse_file<T: FromRead>(path: &Path) -> Result<T, NodeError> {
    parse(&read(path)?, path)
}

/// The pressure stall figures in the files of each resource; `None` if there are none.
pub(super) fn pressure_in(file: impl Fn(&str) -> PathBuf) -> Result<Option<Pressure>, NodeError> {
    // With psi=0 the files exist, and reading them fails with EOPNOTSUPP.
    if std::fs::read(file("cpu")).is_err() {
        return Ok(None);
    }
    let cpu: CpuPressure = parse_file(&file("cpu"))?;
    let memory: MemoryPressure = parse_file(&file("memory"))?;
    let io: IoPressure = parse_file(&file("io"))?;
    let centi = |percent: f32| (percent.clamp(0.0, 100.0) * 100.0).round() as u16;
    Ok(Some(Pressure {
        cpu_some_centi: centi(cpu.some.avg10),
        memory_some_centi: centi(memory.some.avg10),
        memory_full_centi: centi(memory.full.avg10),
        io_some_centi: centi(io.some.avg10),
        io_full_centi: centi(io.full.avg10),
    }))
}

/// The error for a file that is not as the kernel writes it.
pub(super) fn malformed(path: &Path) -> NodeError {
    NodeError::Parse { path: path.into(), source: ProcError::Incomplete(None) }
}

pub(super) fn parse<T: FromRead>(text: &[u8], path: &Path) -> Result<T, NodeError> {
    T::from_read(text).map_err(|source| NodeError::Parse { path: path.into(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, NodeError> {
    std::fs::read(path).map_err(|source| NodeError::Read { path: path.into(), source })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A directory that is a machine with these files.
    pub(in crate::node) fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::at(dir.path());
        for (path, text) in files {
            let path = machine.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (dir, machine)
    }

    const PSI: &str =
        "some avg10=1.25 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1\n";

    #[test]
    fn pressure_is_in_hundredths_of_a_percent_and_may_be_missing() {
        let files = [("/proc/pressure/cpu", PSI), ("/proc/pressure/memory", PSI), ("/proc/pressure/io", PSI)];
        let (_dir, with) = machine(&files);
        let pressure = with.pressure().unwrap().unwrap();
        assert_eq!((pressure.cpu_some_centi, pressure.io_full_centi), (125, 50));
        let (_dir, without) = machine(&[]);
        assert_eq!(without.pressure().unwrap(), None);
    }

    #[test]
    fn damaged_files_are_errors_that_name_the_file() {
        let (_dir, machine) = machine(&[("/proc/meminfo", "MemTotal: many kB\n")]);
        assert!(machine.memory().unwrap_err().to_string().contains("meminfo"));
    }

    #[test]
    fn this_machine_can_be_read() {
        let memory = Machine::this().memory().unwrap();
        assert!(memory.free_bytes > 0 && memory.free_bytes <= memory.total_bytes);
    }
}
