//! The machine as its files show it: `/proc`, `/sys` and `/dev` below a root directory.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use procfs::{CpuInfo, CpuPressure, FromRead, IoPressure, LoadAverage, Meminfo, MemoryPressure};

use super::load::Pressure;

/// Something about this machine that cannot be found out.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file of the kernel's cannot be read.
    #[error("cannot read {}: is /proc mounted?", .path.display())]
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

/// `/proc/loadavg`, kept open, as it is read ten times a second.
#[derive(Debug)]
pub(super) struct Loads {
    file: File,
    path: PathBuf,
}

impl Loads {
    /// Tasks that are runnable now, without the one that asks.
    pub(super) fn nr_running(&self) -> Result<u32, NodeError> {
        let unread = |source| NodeError::Read { path: self.path.clone(), source };
        // Three loads and three numbers.
        let mut text = [0; 128];
        let length = self.file.read_at(&mut text, 0).map_err(unread)?;
        let load: LoadAverage = parse(text.get(..length).unwrap_or_default(), &self.path)?;
        Ok(load.cur.saturating_sub(1))
    }
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

    /// Opens what tells how many tasks are runnable.
    ///
    /// # Errors
    /// [`NodeError::Read`] of `/proc/loadavg`.
    pub(super) fn load_average(&self) -> Result<Loads, NodeError> {
        let path = self.path("/proc/loadavg");
        match File::open(&path) {
            Ok(file) => Ok(Loads { file, path }),
            Err(source) => Err(NodeError::Read { path, source }),
        }
    }

    /// Memory that programs can get without swapping (`MemAvailable`), all of it, and what is in swap, in bytes.
    ///
    /// # Errors
    /// [`NodeError::Read`], [`NodeError::Parse`] of a file of `/proc`, and [`NodeError::Missing`].
    pub fn memory_bytes(&self) -> Result<(u64, u64, u64), NodeError> {
        let memory: Meminfo = self.parse("/proc/meminfo")?;
        let available = memory.mem_available.ok_or(NodeError::Missing("MemAvailable"))?;
        Ok((available, memory.mem_total, memory.swap_total.saturating_sub(memory.swap_free)))
    }

    /// What was fetched back from swap since the machine began, in bytes.
    ///
    /// # Errors
    /// [`NodeError::Read`] of `/proc/vmstat`.
    pub(super) fn swapped_in_bytes(&self) -> Result<u64, NodeError> {
        let text = read(&self.path("/proc/vmstat"))?;
        let text = String::from_utf8_lossy(&text);
        // A kernel without swap does not count.
        let pages = text.lines().find_map(|line| line.strip_prefix("pswpin ")?.trim().parse().ok()).unwrap_or(0_u64);
        Ok(pages.saturating_mul(rustix::param::page_size() as u64))
    }

    /// Pressure stall figures; `None` if the kernel does not keep them (`psi=0`, or not configured).
    ///
    /// # Errors
    /// [`NodeError::Parse`] of a file of `/proc/pressure`.
    pub fn pressure(&self) -> Result<Option<Pressure>, NodeError> {
        // With psi=0 the files exist, and reading them fails with EOPNOTSUPP.
        if std::fs::read(self.path("/proc/pressure/cpu")).is_err() {
            return Ok(None);
        }
        let cpu: CpuPressure = self.parse("/proc/pressure/cpu")?;
        let memory: MemoryPressure = self.parse("/proc/pressure/memory")?;
        let io: IoPressure = self.parse("/proc/pressure/io")?;
        let centi = |percent: f32| (percent.clamp(0.0, 100.0) * 100.0).round() as u16;
        Ok(Some(Pressure {
            cpu_some_centi: centi(cpu.some.avg10),
            memory_some_centi: centi(memory.some.avg10),
            memory_full_centi: centi(memory.full.avg10),
            io_some_centi: centi(io.some.avg10),
            io_full_centi: centi(io.full.avg10),
        }))
    }

    pub(super) fn cpu_info(&self) -> Result<CpuInfo, NodeError> {
        self.parse("/proc/cpuinfo")
    }

    fn parse<T: FromRead>(&self, path: &str) -> Result<T, NodeError> {
        let path = self.path(path);
        parse(&read(&path)?, &path)
    }
}

fn parse<T: FromRead>(text: &[u8], path: &Path) -> Result<T, NodeError> {
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
    fn the_asking_thread_is_not_counted() {
        let (_dir, machine) = machine(&[("/proc/loadavg", "0.10 0.20 0.30 4/200 1234\n")]);
        assert_eq!(machine.load_average().unwrap().nr_running().unwrap(), 3);
    }

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
        let (_dir, machine) = machine(&[("/proc/loadavg", "rubbish"), ("/proc/meminfo", "MemTotal: many kB\n")]);
        assert!(machine.load_average().unwrap().nr_running().unwrap_err().to_string().contains("loadavg"));
        assert!(machine.memory_bytes().is_err());
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::this();
        let (available, total, _) = machine.memory_bytes().unwrap();
        assert!(available > 0 && available <= total);
        machine.load_average().unwrap().nr_running().unwrap();
    }
}
