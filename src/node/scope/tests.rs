use super::*;
use crate::node::{CpuCount, NodeLoad, Sampler, machine::tests::machine};

const MEMINFO: &str = include_str!("../testdata/meminfo");
const PSI: &str = "some avg10=2.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=1\n";
const RUNNABLE: &str = "7 (a) R 1 7 7 0 -1 4194560 123 0 45 0 50 25 0 0 20 0 3 0 200 9000 10 1844674 \
    0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0";

/// A machine of two CPUs with five runnable tasks, 2,000,000 KiB of memory and 1,500,000 of it
/// free.
const MACHINE: [(&str, &str); 7] = [
    ("/proc/loadavg", "0 0 0 6/100 9\n"),
    ("/proc/meminfo", MEMINFO),
    ("/proc/vmstat", "pswpin 0\n"),
    ("/proc/cpuinfo", "processor\t: 0\nflags\t: fpu\n\nprocessor\t: 1\nflags\t: fpu\n"),
    ("/proc/pressure/cpu", PSI),
    ("/proc/pressure/memory", PSI),
    ("/proc/pressure/io", PSI),
];

/// What is there in a container besides, with one runnable thread.
const CONTAINER: [(&str, &str); 4] = [
    ("/sys/fs/cgroup/cgroup.type", "domain\n"),
    ("/sys/fs/cgroup/cgroup.threads", "41\n"),
    ("/proc/41/task/41/stat", RUNNABLE),
    ("/proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"),
];

const NONE: Limits = Limits { cpus: None, memory_mib: None };

fn flags(cpus: &str, memory_mib: u64) -> Limits {
    Limits { cpus: Some(cpus.parse().unwrap()), memory_mib: Some(memory_mib) }
}

fn scope(limits: Limits, parts: &[&[(&str, &str)]]) -> (tempfile::TempDir, Scope) {
    let (dir, machine) = machine(&parts.concat());
    (dir, Scope::new(machine, limits).unwrap())
}

/// What a second's load is, and what was allotted.
fn seen(limits: Limits, parts: &[&[(&str, &str)]]) -> (String, NodeLoad) {
    let (_dir, scope) = scope(limits, parts);
    let allotment = scope.allotment_of(2).unwrap();
    let mut sampler = Sampler::new(scope, allotment.cpus.whole(), 1_000);
    (allotment.to_string(), (0..10).find_map(|_| sampler.tick().unwrap()).unwrap())
}

#[test]
fn the_whole_machine_counts_where_its_root_is_seen() {
    let (allotment, load) = seen(NONE, &[&MACHINE, &[("/sys/fs/cgroup/cgroup.controllers", "cpu\n")]]);
    assert_eq!(allotment, "machine: 2 of 2 CPUs, 1953 MiB");
    assert_eq!((load.nr_running, load.memory_free_bytes), (5, 1_500_000 << 10));
}

#[test]
fn a_container_counts_what_is_its_own() {
    let own = [
        ("/sys/fs/cgroup/cpu.max", "150000 100000\n"),
        ("/sys/fs/cgroup/memory.current", "209715200\n"),
        ("/sys/fs/cgroup/memory.max", "536870912\n"),
        ("/sys/fs/cgroup/memory.stat", "inactive_file 104857600\n"),
        ("/sys/fs/cgroup/cpu.pressure", &*PSI.replace("2.00", "7.00")),
        ("/sys/fs/cgroup/memory.pressure", PSI),
        ("/sys/fs/cgroup/io.pressure", PSI),
    ];
    let (allotment, load) = seen(NONE, &[&MACHINE, &CONTAINER, &own]);
    assert_eq!(allotment, "container: 1.5 of 2 CPUs by cgroup, 512 MiB by cgroup");
    assert_eq!((load.nr_running, load.memory_free_bytes >> 20), (1, 412));
    assert_eq!(load.pressure.unwrap().cpu_some_centi, 700);
}

#[test]
fn a_container_without_controllers_has_what_flags_say() {
    let (allotment, load) = seen(NONE, &[&MACHINE, &CONTAINER]);
    assert_eq!(allotment, "container: 2 of 2 CPUs, 1953 MiB");
    assert_eq!((load.nr_running, load.memory_free_bytes), (1, 1_500_000 << 10));
    assert_eq!(load.pressure.unwrap().cpu_some_centi, 200, "the machine's");

    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let anonymous = |line: &str| line.starts_with("RssAnon:");
    let line = |line: &str| if anonymous(line) { "RssAnon:\t102400 kB\n".into() } else { format!("{line}\n") };
    let status: String = status.lines().filter(|line| !line.starts_with("RssShmem:")).map(line).collect();
    let processes = [("/sys/fs/cgroup/cgroup.procs", "41\n"), ("/proc/41/status", &*status)];
    let (allotment, load) = seen(flags("0.6", 512), &[&MACHINE, &CONTAINER, &processes]);
    assert_eq!(allotment, "container: 0.6 of 2 CPUs by flag, 512 MiB by flag");
    assert_eq!((load.nr_running, load.memory_free_bytes >> 20), (1, 412));
}

#[test]
fn flags_limit_a_whole_machine_too() {
    let (allotment, load) = seen(flags("1", 1_024), &[&MACHINE]);
    assert_eq!(allotment, "machine: 1 of 2 CPUs by flag, 1024 MiB by flag");
    assert_eq!(load.memory_free_bytes, (1 << 30) - (500_000 << 10), "all that is used here is its own");
}

#[test]
fn a_cpu_set_limits_like_a_quota() {
    let (_dir, scope) = scope(NONE, &[&MACHINE, &CONTAINER]);
    let allotment = scope.allotment_of(1).unwrap();
    assert_eq!((allotment.cpus, allotment.cpus_by), (CpuCount::from(1_000), Some(Limiter::CpuSet)));
}
