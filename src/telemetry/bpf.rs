//! Loads `bpf/telemetry.bpf.c` with aya, and samples through its task iterator.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use aya::maps::{Array, MapData, RingBuf};
use aya::programs::{BtfTracePoint, Iter};
use aya::{Btf, Ebpf, EbpfLoader};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::sample::{TaskSample, TaskSource};
use super::{Source, TaskEvent, TelemetryError, abi, events};
use crate::causes::explain;

/// Programs of the object and the tracepoints that they attach to.
const TRACEPOINTS: [(&str, &str); 3] =
    [("on_fork", "sched_process_fork"), ("on_exec", "sched_process_exec"), ("on_exit", "sched_process_exit")];
/// The task iterator.
const ITERATOR: &str = "sample_tasks";

/// The machine's own PID namespace, whose inode number is fixed (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The loaded object. Dropping it detaches its programs.
pub(super) struct BpfTasks {
    ebpf: Ebpf,
    page_bytes: u64,
    /// Kept from sample to sample, so that it need not grow again.
    buffer: Vec<u8>,
}

/// Loads and attaches everything and begins to deliver events to `to`.
///
/// # Errors
/// [`TelemetryError::Refused`] with what the kernel or aya said; [`TelemetryError::PidNamespace`].
pub(super) fn start(
    to: mpsc::Sender<TaskEvent>,
    lost: Arc<AtomicU64>,
) -> Result<(BpfTasks, JoinHandle<()>), TelemetryError> {
    if std::fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace != Path::new(FIRST_PID_NAMESPACE)) {
        return Err(TelemetryError::PidNamespace);
    }
    let btf = Btf::from_sys_fs().map_err(|error| refused("the kernel's types (/sys/kernel/btf/vmlinux)", &error))?;
    let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/telemetry.bpf.o"));
    let mut ebpf =
        EbpfLoader::new().btf(Some(&btf)).load(object).map_err(|error| refused("the telemetry programs", &error))?;
    for (name, tracepoint) in TRACEPOINTS {
        let program: &mut BtfTracePoint = program(&mut ebpf, name)?;
        program.load(tracepoint, &btf).map_err(|error| refused(name, &error))?;
        program.attach().map_err(|error| refused(name, &error))?;
    }
    let iterator: &mut Iter = program(&mut ebpf, ITERATOR)?;
    iterator.load("task", &btf).map_err(|error| refused(ITERATOR, &error))?;

    let ring: RingBuf<MapData> = take_map(&mut ebpf, "task_events")?;
    let lost_in_kernel: Array<MapData, u64> = take_map(&mut ebpf, "lost_events")?;
    let reader = tokio::spawn(events::read(ring, lost_in_kernel, to, lost));
    let page_bytes = rustix::param::page_size() as u64;
    Ok((BpfTasks { ebpf, page_bytes, buffer: Vec::new() }, reader))
}

pub(super) fn refused(what: &str, error: &dyn std::error::Error) -> TelemetryError {
    TelemetryError::Refused { what: what.to_owned(), reason: explain(error) }
}

pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, TelemetryError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error: std::error::Error>,
{
    let missing = || TelemetryError::Refused { what: name.to_owned(), reason: "not in the object".to_owned() };
    ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(|error| refused(name, &error))
}

fn take_map<M>(ebpf: &mut Ebpf, name: &str) -> Result<M, TelemetryError>
where
    M: TryFrom<aya::maps::Map, Error: std::error::Error>,
{
    let missing = || TelemetryError::Refused { what: name.to_owned(), reason: "not in the object".to_owned() };
    ebpf.take_map(name).ok_or_else(missing)?.try_into().map_err(|error| refused(name, &error))
}

impl BpfTasks {
    /// One pass of the iterator: all records of all threads.
    fn read_all(&mut self) -> Result<(), TelemetryError> {
        let iterator: &mut Iter = program(&mut self.ebpf, ITERATOR)?;
        let sampled = |error: &dyn std::error::Error| refused("a sample of all tasks", error);
        let link = iterator.attach().map_err(|error| sampled(&error))?;
        let link = iterator.take_link(link).map_err(|error| sampled(&error))?;
        let mut file = link.into_file().map_err(|error| sampled(&error))?;
        self.buffer.clear();
        file.read_to_end(&mut self.buffer).map_err(|error| sampled(&error))?;
        Ok(())
    }
}

impl TaskSource for BpfTasks {
    fn sample(&mut self) -> Result<Vec<TaskSample>, TelemetryError> {
        self.read_all()?;
        Ok(abi::decode_samples(&self.buffer, self.page_bytes))
    }

    fn source(&self) -> Source {
        Source::Bpf
    }
}
