//! One attachment of the scheduler: from load to detach. It lives in the supervisor's thread;
//! dropping it detaches.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;

use libbpf_rs::{Link, MapCore, MapFlags, OpenObject, ProgramInput};

use super::abi::SchedulerStats;
use super::config::Config;
use super::hints::{Change, Hints};
use super::skel::{SchedulerSkel, SchedulerSkelBuilder, intf};
use super::topology::Topology;
use super::{SchedulerError, Tier};

/// A scheduler that is in force.
pub(super) struct Attachment<'obj> {
    skel: SchedulerSkel<'obj>,
    /// Closing it hands the CPUs back to the kernel's own scheduler. `None` only while dropping.
    ops: Link,
}

/// Why the kernel ended an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) reason: String,
    /// The kernel asks for a new attachment at once (a CPU came or went).
    pub(super) restart: bool,
}

impl<'obj> Attachment<'obj> {
    /// Loads the BPF half into `object` and puts it in force.
    pub(super) fn new(
        object: &'obj mut MaybeUninit<OpenObject>,
        config: &Config,
        hints: &Hints,
    ) -> Result<Self, SchedulerError> {
        let topology = Topology::read(Path::new("/sys/devices/system/cpu")).map_err(SchedulerError::Topology)?;
        let mut skel = load(object, &topology, config).map_err(|error| SchedulerError::Load(format!("{error:#}")))?;
        let mut this = {
            let attach = |error: libbpf_rs::Error| SchedulerError::Attach(format!("{error:#}"));
            let ops = skel.maps.mosix_ops.attach_struct_ops().map_err(attach)?;
            Self { skel, ops }
        };
        for change in hints.all() {
            this.write(change)?;
        }
        this.publish(hints)?;
        Ok(this)
    }

    /// Writes one hint; [`Attachment::publish`] makes it count.
    pub(super) fn write(&mut self, change: Change) -> Result<(), SchedulerError> {
        let result = match change {
            Change::Process(pid, Some(hint)) => {
                let speed = hint.speed_permille.unwrap_or(intf::mosix_limits_MOSIX_FULL_SPEED_PERMILLE);
                let value = words(raw_tier(hint.tier), speed);
                self.skel.maps.process_hints.update(&pid.to_ne_bytes(), &value, MapFlags::ANY)
            }
            Change::Process(pid, None) => absent_is_fine(self.skel.maps.process_hints.delete(&pid.to_ne_bytes())),
            Change::Cgroup(id, Some(hint)) => {
                let value = words(raw_tier(hint.tier), u32::from(hint.is_job));
                self.skel.maps.cgroup_hints.update(&id.to_ne_bytes(), &value, MapFlags::ANY)
            }
            Change::Cgroup(id, None) => absent_is_fine(self.skel.maps.cgroup_hints.delete(&id.to_ne_bytes())),
        };
        result.map_err(|error| SchedulerError::Hint(error.to_string()))
    }

    /// Makes all tasks look their hints up again, and starts the throttle's timer when it is
    /// needed.
    pub(super) fn publish(&mut self, hints: &Hints) -> Result<(), SchedulerError> {
        let unmapped = || SchedulerError::Hint("the scheduler's variables are not mapped".to_owned());
        let bss = self.skel.maps.bss_data.as_mut().ok_or_else(unmapped)?;
        bss.nr_throttled = hints.nr_throttled();
        bss.nr_cgroup_hints = hints.nr_cgroups();
        bss.hint_generation = bss.hint_generation.wrapping_add(1);
        if hints.nr_throttled() > 0 {
            let output =
                self.skel.progs.arm_throttle.test_run(ProgramInput::default()).map_err(|error| {
                    SchedulerError::Hint(format!("the throttle's timer could not be started: {error}"))
                })?;
            let code = output.return_value as i32;
            if code < 0 {
                let error = std::io::Error::from_raw_os_error(-code);
                return Err(SchedulerError::Hint(format!("the throttle's timer could not be started: {error}")));
            }
        }
        Ok(())
    }

    /// What the scheduler did since the attachment.
    pub(super) fn stats(&self) -> Result<SchedulerStats, SchedulerError> {
        let per_cpu = self
            .skel
            .maps
            .cpu_ctxs
            .lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| SchedulerError::Read(error.to_string()))?
            .unwrap_or_default();
        let mut stats = SchedulerStats::default();
        per_cpu.iter().for_each(|value| stats.add(value));
        Ok(stats)
    }

    /// Whether, and why, the kernel has ended the attachment.
    pub(super) fn exited(&self) -> Option<Exit> {
        let uei = &self.skel.maps.data_data.as_ref()?.uei;
        // SAFETY: `uei` is a valid reference into the map's shared memory; the kernel may write to
        // it at any time, therefore volatile.
        let kind = unsafe { std::ptr::read_volatile(&raw const uei.kind) };
        if kind == 0 {
            return None;
        }
        // The kernel writes `kind` last, with a barrier: the texts are complete, and end with a
        // zero byte.
        let reason = text(&uei.reason);
        let message = text(&uei.msg);
        let reason = if message.is_empty() { reason } else { format!("{reason} ({message})") };
        // The action is in the upper half of the exit code: SCX_ECODE_ACT_RESTART.
        let restart =
            *scx_utils::SCX_ECODE_ACT_RESTART != 0 && uei.exit_code as u64 & *scx_utils::SCX_ECODE_ACT_RESTART != 0;
        Some(Exit { reason, restart })
    }

    /// Hands the CPUs back to the kernel's own scheduler.
    pub(super) fn detach(self) {
        tracing::debug!(fd = ?self.ops.as_fd(), "detaching the scheduler");
    }
}

fn raw_tier(tier: Option<Tier>) -> u32 {
    tier.map_or(intf::mosix_tier_MOSIX_TIER_NONE, Tier::as_raw)
}

/// A map's value of two words.
fn words(first: u32, second: u32) -> [u8; 8] {
    let mut value = [0; 8];
    let (low, high) = value.split_at_mut(4);
    low.copy_from_slice(&first.to_ne_bytes());
    high.copy_from_slice(&second.to_ne_bytes());
    value
}

fn absent_is_fine(result: libbpf_rs::Result<()>) -> libbpf_rs::Result<()> {
    match result {
        Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|c| c.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Opens and loads the skeleton, fitted to this machine and kernel.
#[allow(
    clippy::unwrap_used,
    clippy::undocumented_unsafe_blocks,
    reason = "inside scx_utils's macros, which keep up with kernels"
)]
fn load<'obj>(
    object: &'obj mut MaybeUninit<OpenObject>,
    topology: &Topology,
    config: &Config,
) -> anyhow::Result<SchedulerSkel<'obj>> {
    let builder = SchedulerSkelBuilder::default();
    let mut skel = scx_utils::scx_ops_open!(builder, object, mosix_ops, None)?;
    let nr_cpus = topology.llc_of_cpu.len();
    let rodata = skel.maps.rodata_data.as_mut().ok_or_else(|| anyhow::anyhow!("the object has no constants"))?;
    anyhow::ensure!(nr_cpus <= rodata.cpu_llc.len(), "{nr_cpus} CPUs; at most {} are supported", rodata.cpu_llc.len());
    let last_llc = (rodata.llc_nr_cpus.len() - 1) as u16;
    rodata.attained_service = config.attained_service.as_raw();
    rodata.attained_first_ns = config.first_level_ms * 1_000_000;
    rodata.attained_level_shift = config.level_shift;
    rodata.attained_least_shift = config.least_shift;
    rodata.attained_forget_shift = config.forget_shift;
    rodata.owed_to_home_percent = config.home_share_percent;
    rodata.owed_to_guest_percent = config.guest_share_percent;
    rodata.nr_cpus = nr_cpus as u32;
    rodata.nr_llcs = topology.nr_llcs().min(u32::from(last_llc) + 1);
    for (entry, llc) in rodata.cpu_llc.iter_mut().zip(&topology.llc_of_cpu) {
        let llc = (*llc).min(last_llc);
        *entry = llc;
        if let Some(count) = rodata.llc_nr_cpus.get_mut(usize::from(llc)) {
            *count += 1;
        }
    }
    if !scx_utils::compat::struct_has_field("sched_ext_ops", "cgroup_init")? {
        tracing::warn!("this kernel's sched_ext does not know cgroups: cgroup weights are not in force");
        let ops = skel.struct_ops.mosix_ops_mut();
        ops.cgroup_init = std::ptr::null_mut();
        ops.cgroup_exit = std::ptr::null_mut();
        ops.cgroup_set_weight = std::ptr::null_mut();
    }
    // Part of scx's headers, for schedulers that must know whether a task's migration is disabled;
    // ours never sees such tasks.
    skel.progs.scx_lib_init_probe.set_autoload(false);
    scx_utils::scx_ops_load!(skel, mosix_ops, uei)
}
