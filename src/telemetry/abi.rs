//! The user-space half of the ABI in `bpf/telemetry.h`.

use super::events::{ProcessId, TaskEvent};
use super::sample::{CgroupRef, PF_KTHREAD, TaskSample};
use crate::job::{Counters, Usage};

/// `sizeof(struct task_sample)`, asserted there.
pub(super) const SAMPLE_BYTES: usize = 112;
/// `sizeof(struct task_event)`, asserted there.
pub(super) const EVENT_BYTES: usize = 72;

/// Reads fields one after the other from a record that is long enough by its type.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.0 = rest;
                *head
            }
            // Not reached: the records' sizes are constants. Zeroes are as good as any answer.
            None => [0; N],
        }
    }

    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }

    fn comm(&mut self) -> String {
        let bytes: [u8; 16] = self.take();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
    }
}

/// Decodes all whole records. `page_bytes`: the size of a page.
pub(super) fn decode_samples(bytes: &[u8], page_bytes: u64) -> Vec<TaskSample> {
    let (records, _) = bytes.as_chunks::<SAMPLE_BYTES>();
    records.iter().map(|record| decode_sample(record, page_bytes)).collect()
}

fn decode_sample(record: &[u8; SAMPLE_BYTES], page_bytes: u64) -> TaskSample {
    let mut fields = Fields(record);
    let (pid, tgid, ppid, uid, nr_threads) = (fields.u32(), fields.u32(), fields.u32(), fields.u32(), fields.u32());
    let (flags, state, exit_state) = (fields.u32(), fields.u32(), fields.u32());
    let start_ns = fields.u64();
    let (cpu_ns, wait_ns, major_faults) = (fields.u64(), fields.u64(), fields.u64());
    let (rss_pages, file_pages, io_bytes) = (fields.u64(), fields.u64(), fields.u64());
    let is_leader = pid == tgid;
    TaskSample {
        pid,
        tgid,
        ppid,
        uid,
        is_kernel: flags & PF_KTHREAD != 0,
        state: state_char(state, exit_state),
        start_ns,
        usage: Usage {
            counters: Counters { cpu_ns, wait_ns, major_faults, io_bytes },
            resident_bytes: rss_pages.saturating_mul(page_bytes),
            mapped_bytes: file_pages.saturating_mul(page_bytes),
            processes: is_leader.into(),
            threads: if is_leader { nr_threads } else { 0 },
        },
        cgroup: CgroupRef::Id(fields.u64()),
        comm: fields.comm(),
    }
}

/// The letter that `/proc/PID/stat` shows for the kernel's `__state` and `exit_state`
/// (include/linux/sched.h).
fn state_char(state: u32, exit_state: u32) -> char {
    const IDLE: u32 = 0x0402; // TASK_UNINTERRUPTIBLE | TASK_NOLOAD
    match (exit_state, state) {
        (0, 0) => 'R',
        (0, state) if state & IDLE == IDLE => 'I',
        (0, state) if state & 0x1 != 0 => 'S',
        (0, state) if state & 0x2 != 0 => 'D',
        (0, state) if state & 0x4 != 0 => 'T',
        (0, state) if state & 0x8 != 0 => 't',
        // TASK_FROZEN, TASK_RTLOCK_WAIT and the like are uninterruptible sleeps to an observer.
        (0, _) => 'D',
        (exit_state, _) if exit_state & 0x20 != 0 => 'Z',
        _ => 'X',
    }
}

/// Decodes one event; `None` for a kind that this version does not know.
pub(super) fn decode_event(record: &[u8]) -> Option<TaskEvent> {
    let mut fields = Fields(record.first_chunk::<EVENT_BYTES>()?);
    let (kind, pid, ppid, uid, wait_status, _padding) =
        (fields.u32(), fields.u32(), fields.u32(), fields.u32(), fields.u32().cast_signed(), fields.u32());
    let process = ProcessId { pid, start_ns: fields.u64() };
    let time_ns = fields.u64();
    let cgroup_id = fields.u64();
    let cpu_ms_total = fields.u64() / 1_000_000;
    let comm = fields.comm();
    match kind {
        1 => Some(TaskEvent::Forked { process, ppid, uid, cgroup_id, comm, time_ns }),
        2 => Some(TaskEvent::Execed { process, uid, cgroup_id, comm, cpu_ms_total, time_ns }),
        3 => Some(TaskEvent::Exited { process, ppid, wait_status, cpu_ms_total, time_ns }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sample_is_decoded_field_by_field() {
        let mut bytes: Vec<u8> =
            [5u32, 5, 1, 1000, 3, PF_KTHREAD, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend((11u64..19).flat_map(u64::to_ne_bytes));
        bytes.extend(*b"cat\0garbage~~~~~");
        let sample = decode_samples(&bytes, 4096).pop().unwrap();
        assert_eq!((sample.pid, sample.tgid, sample.ppid, sample.uid), (5, 5, 1, 1000));
        assert!(sample.is_kernel);
        assert_eq!((sample.state, sample.start_ns), ('S', 11));
        let counters = Counters { cpu_ns: 12, wait_ns: 13, major_faults: 14, io_bytes: 17 };
        let (resident_bytes, mapped_bytes) = (15 * 4096, 16 * 4096);
        assert_eq!(sample.usage, Usage { counters, resident_bytes, mapped_bytes, processes: 1, threads: 3 });
        assert_eq!((sample.cgroup, sample.comm.as_str()), (CgroupRef::Id(18), "cat"));
    }

    #[test]
    fn states_are_named_as_ps_names_them() {
        let cases = [
            (0, 0, 'R'),
            (1, 0, 'S'),
            (2, 0, 'D'),
            (0x402, 0, 'I'),
            (4, 0, 'T'),
            (8, 0, 't'),
            (0x8000, 0, 'D'),
            (0x80, 0x20, 'Z'),
            (0x80, 0x10, 'X'),
        ];
        for (state, exit_state, letter) in cases {
            assert_eq!(state_char(state, exit_state), letter, "{state:#x} {exit_state:#x}");
        }
    }

    #[test]
    fn an_exit_carries_the_wait_status() {
        let mut bytes: Vec<u8> = [3u32, 7, 1, 0, 9, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend([21u64, 22, 23, 24_000_000].iter().flat_map(|long| long.to_ne_bytes()));
        bytes.extend([0; 16]);
        let process = ProcessId { pid: 7, start_ns: 21 };
        let exited = TaskEvent::Exited { process, ppid: 1, wait_status: 9, cpu_ms_total: 24, time_ns: 22 };
        assert_eq!(decode_event(&bytes), Some(exited));
        bytes[0] = 99;
        assert_eq!(decode_event(&bytes), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(decode_samples(&bytes, 4096).len(), bytes.len() / SAMPLE_BYTES);
            prop_assert!(bytes.len() >= EVENT_BYTES || decode_event(&bytes).is_none());
        }
    }
}
