//! What a CPU can do that programs can see: a running program may use any of it, so a target must
//! have all of it.

use std::collections::BTreeSet;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::{Machine, NodeError};

/// Instruction-set flags of `/proc/cpuinfo` that user programs can detect and come to depend on
/// (prefixes end in `*`). The other flags there tell of virtualisation, power, errata and the
/// kernel's own matters, and a program moves freely between CPUs that differ in them.
const PROGRAM_FLAGS: &[&str] = &[
    "abm",
    "adx",
    "aes",
    "amx_*",
    "apx*",
    "avx*",
    "bmi*",
    "cldemote",
    "clflush",
    "clflushopt",
    "clwb",
    "clzero",
    "cmov",
    "cmpccxadd",
    "cx16",
    "cx8",
    "enqcmd",
    "erms",
    "f16c",
    "fma*",
    "fpu",
    "fsgsbase",
    "fsrm",
    "fxsr",
    "fxsr_opt",
    "gfni",
    "hle",
    "lahf_lm",
    "lm",
    "lwp",
    "mmx*",
    "monitorx",
    "movbe",
    "movdir*",
    "mwaitx",
    "ospke",
    "pclmulqdq",
    "pku",
    "pni",
    "popcnt",
    "prefetchi",
    "ptwrite",
    "rao_int",
    "rdpid",
    "rdpru",
    "rdrand",
    "rdseed",
    "rdtscp",
    "rtm",
    "serialize",
    "sha*",
    "sm3",
    "sm4",
    "sse*",
    "ssse3",
    "syscall",
    "tbm",
    "tsc",
    "tsxldtrk",
    "user_shstk",
    "vaes",
    "vpclmulqdq",
    "waitpkg",
    "wbnoinvd",
    "xgetbv1",
    "xop",
    "xsave",
    "xsavec",
    "xsaveopt",
    "3dnow*",
    // arm64 (its line is called Features)
    "asimd*",
    "atomics",
    "bf16",
    "bti",
    "cpuid",
    "crc32",
    "dcpop",
    "dcpodp",
    "dgh",
    "dit",
    "evtstrm",
    "fcma",
    "fp",
    "fphp",
    "flagm*",
    "frint",
    "i8mm",
    "ilrcpc",
    "jscvt",
    "lrcpc",
    "mte*",
    "paca",
    "pacg",
    "pmull",
    "rng",
    "sb",
    "sme*",
    "ssbs",
    "sve*",
    "uscat",
];

/// The program-visible features of a node's CPUs: those that *all* its CPUs have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuFeatures {
    /// Architecture as in `uname -m`: `x86_64`, `aarch64`.
    pub arch: String,
    /// Vendor, as the CPU says; empty where there is none.
    pub vendor: String,
    /// Model name for people; empty where there is none.
    pub model: String,
    /// Instruction-set flags, as `/proc/cpuinfo` calls them.
    pub flags: BTreeSet<String>,
    /// Bytes of the XSAVE area with everything in it that the kernel has enabled; 0 where there is
    /// no XSAVE.
    pub xsave_bytes: u32,
}

impl CpuFeatures {
    /// The features of this machine's CPUs.
    ///
    /// # Errors
    /// [`NodeError`] if `/proc/cpuinfo` cannot be read.
    pub fn probe(machine: &Machine) -> Result<Self, NodeError> {
        let info = machine.cpu_info()?;
        let flags_of = |cpu: usize| -> BTreeSet<String> {
            let line = info.get_field(cpu, "flags").or_else(|| info.get_field(cpu, "Features")).unwrap_or_default();
            line.split_ascii_whitespace().filter(|flag| is_program_flag(flag)).map(str::to_owned).collect()
        };
        // Hybrid CPUs: a program may run on any core, so only what all have counts.
        let flags = (0..info.num_cores()).map(flags_of).reduce(|a, b| &a & &b).unwrap_or_default();
        let field = |name| info.get_field(0, name).unwrap_or_default().to_owned();
        Ok(Self {
            arch: std::env::consts::ARCH.to_owned(),
            vendor: field("vendor_id"),
            model: field("model name"),
            flags,
            xsave_bytes: xsave_bytes(),
        })
    }

    /// What a program that runs on `self` may use and `target` lacks, in readable words; empty if
    /// it can move there.
    pub fn missing_at(&self, target: &CpuFeatures) -> Vec<String> {
        if self.arch != target.arch {
            return vec![format!("architecture {} (the target is {})", self.arch, target.arch)];
        }
        let mut missing: Vec<String> = self.flags.difference(&target.flags).cloned().collect();
        // CRIU restores the extended state as it was saved: the target's area must hold it.
        if self.xsave_bytes > target.xsave_bytes {
            missing
                .push(format!("an XSAVE area of {} bytes (the target's has {})", self.xsave_bytes, target.xsave_bytes));
        }
        missing
    }

    /// Equal for nodes between which programs can move freely both ways, as far as CPUs go.
    pub fn hash(&self) -> u64 {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(self.arch.as_bytes());
        hash.update(&self.xsave_bytes.to_be_bytes());
        for flag in &self.flags {
            hash.update(b"\0");
            hash.update(flag.as_bytes());
        }
        let sum = hash.finish();
        sum.as_ref().iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

fn is_program_flag(flag: &str) -> bool {
    // Masking of AVX-512 and the like shows in flags with the same prefixes, so prefixes are safe:
    // they include too much, never too little.
    PROGRAM_FLAGS.iter().any(|known| match known.strip_suffix('*') {
        Some(prefix) => flag.starts_with(prefix),
        None => flag == *known,
    })
}

#[cfg(target_arch = "x86_64")]
fn xsave_bytes() -> u32 {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    const OSXSAVE: u32 = 1 << 27;
    const XSAVE_LEAF: u32 = 0xd;
    if __cpuid(0).eax < XSAVE_LEAF || __cpuid(1).ecx & OSXSAVE == 0 {
        return 0;
    }
    __cpuid_count(XSAVE_LEAF, 0).ebx
}

#[cfg(not(target_arch = "x86_64"))]
fn xsave_bytes() -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::machine::tests::machine;

    fn cpus(flags: &[&str]) -> CpuFeatures {
        let text: String = flags
            .iter()
            .enumerate()
            .map(|(n, flags)| format!("processor\t: {n}\nvendor_id\t: V\nflags\t\t: {flags}\n\n"))
            .collect();
        let (_dir, machine) = machine(&[("/proc/cpuinfo", &text)]);
        CpuFeatures { xsave_bytes: 832, ..CpuFeatures::probe(&machine).unwrap() }
    }

    #[test]
    fn only_what_all_cpus_have_and_programs_see_counts() {
        let seen = cpus(&["fpu sse2 avx2 vmx ibrs", "fpu sse2 vmx ibrs"]);
        assert_eq!(seen.flags.iter().map(String::as_str).collect::<Vec<_>>(), ["fpu", "sse2"]);
        assert_eq!(seen.vendor, "V");
    }

    #[test]
    fn a_program_moves_up_but_not_down() {
        let (old, new) = (cpus(&["fpu sse2"]), cpus(&["fpu sse2 avx2"]));
        assert!(old.missing_at(&new).is_empty());
        assert_eq!(new.missing_at(&old), ["avx2"]);
        assert_ne!(old.hash(), new.hash());
        let bigger = CpuFeatures { xsave_bytes: 2696, ..old.clone() };
        assert_eq!(bigger.missing_at(&old).len(), 1);
        let arm = CpuFeatures { arch: "aarch64".into(), ..old.clone() };
        assert!(old.missing_at(&arm)[0].contains("architecture"));
    }

    #[test]
    fn a_model_name_is_no_reason_to_stay() {
        let (a, b) = (cpus(&["fpu"]), CpuFeatures { model: "other".into(), ..cpus(&["fpu vmx"]) });
        assert_eq!(a.hash(), b.hash());
    }

    #[test]
    fn this_machine_has_flags() {
        let here = CpuFeatures::probe(&Machine::this()).unwrap();
        assert!(!here.flags.is_empty() && here.missing_at(&here).is_empty());
    }
}
