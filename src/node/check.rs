//! `scx_mosix check`: what this machine can do, what is missing, and what to do about it.

use serde::Serialize;

use super::{CriuVersion, Features, NodeInfo, SchedExtState};

/// How an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Works, but less well.
    Warn,
    /// Programs cannot move to or from this node.
    Missing,
}

/// One line of the check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckItem {
    /// What was looked at.
    pub name: &'static str,
    /// How it stands.
    pub state: CheckState,
    /// What was found.
    pub detail: String,
    /// What to do, if something is to be done.
    pub remedy: Option<&'static str>,
}

/// Judges what was found out about this node; the most basic things first.
pub fn check(info: &NodeInfo) -> Vec<CheckItem> {
    let features = &info.features;
    let mut items = vec![
        ok("node", format!("{}, {} CPUs of speed {}", info.name, info.cpus, in_thousandths(info.speed_permille))),
        ok("scope", info.allotment.to_string()),
        ok("memory", format!("{} MiB", info.memory_total_bytes >> 20)),
        ok("kernel", info.kernel_release.clone()),
    ];
    let fact = |name, here: bool, lacking: CheckState, remedy| match here {
        true => ok(name, "yes".to_owned()),
        false => CheckItem { name, state: lacking, detail: "no".to_owned(), remedy: Some(remedy) },
    };
    items.push(fact("root", features.root, CheckState::Missing, "run as root: scheduling and moving programs need it"));
    items.push(sched_ext(features));
    items.push(fact(
        "btf",
        features.btf,
        CheckState::Warn,
        "boot a kernel with CONFIG_DEBUG_INFO_BTF=y: telemetry needs it",
    ));
    items.push(criu(features));
    let rest = [
        (
            "userfaultfd",
            features.userfaultfd,
            CheckState::Missing,
            "run as root on a kernel with CONFIG_USERFAULTFD=y: memory arrives by it",
        ),
        (
            "fuse",
            features.fuse,
            CheckState::Missing,
            "run `modprobe fuse`, as root: guests see home's files through it",
        ),
        (
            "cgroup2",
            features.cgroup2,
            CheckState::Missing,
            "mount the unified hierarchy: boot with systemd.unified_cgroup_hierarchy=1",
        ),
        (
            "time namespace",
            features.time_namespace,
            CheckState::Missing,
            "boot a kernel with CONFIG_TIME_NS=y: guests keep home's clocks by it",
        ),
        (
            "ptrace",
            features.ptrace,
            CheckState::Missing,
            "set sysctl kernel.yama.ptrace_scope to 2 or less and reboot: 3 forbids what moving needs",
        ),
        (
            "memory files",
            features.memfd_exec,
            CheckState::Warn,
            "set sysctl vm.memfd_noexec to 1 or less: with 2 this node hosts, but its own programs cannot leave",
        ),
        (
            "pagemap_scan",
            features.pagemap_scan,
            CheckState::Warn,
            "use Linux 6.7 or newer: memory is read faster there",
        ),
        (
            "pressure",
            features.psi,
            CheckState::Warn,
            "boot with psi=1: placement then sees which node is short of memory",
        ),
    ];
    items.extend(rest.map(|(name, here, lacking, remedy)| fact(name, here, lacking, remedy)));
    items
}

fn sched_ext(features: &Features) -> CheckItem {
    let detail = features.sched_ext.to_string();
    let (state, remedy) = match features.sched_ext {
        SchedExtState::Available | SchedExtState::Attached => (CheckState::Ok, None),
        SchedExtState::Ejected => {
            (CheckState::Warn, Some("see the daemon's log for the reason; it attaches again by itself"))
        }
        SchedExtState::Unsupported => (
            CheckState::Warn,
            Some(
                "boot a kernel with CONFIG_SCHED_CLASS_EXT=y (Linux 6.12 or newer): until then the kernel's scheduler treats guests like home's tasks",
            ),
        ),
    };
    CheckItem { name: "sched_ext", state, detail, remedy }
}

fn criu(features: &Features) -> CheckItem {
    const REMEDY: &str =
        "install CRIU 4.0 or newer (Debian 13: apt install criu): without it programs run at home only";
    let (state, detail) = match features.criu {
        Some(version) if version.is_enough() => (CheckState::Ok, version.to_string()),
        Some(version) => (CheckState::Missing, format!("{version} is older than {}", CriuVersion::MINIMUM)),
        None => (CheckState::Missing, "not found in PATH, or does not run".to_owned()),
    };
    CheckItem { name: "criu", state, detail, remedy: (state != CheckState::Ok).then_some(REMEDY) }
}

fn ok(name: &'static str, detail: String) -> CheckItem {
    CheckItem { name, state: CheckState::Ok, detail, remedy: None }
}

fn in_thousandths(value: u32) -> String {
    format!("{}.{:03}", value / 1000, value % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Allotment, CpuFeatures};

    fn info(features: Features) -> NodeInfo {
        NodeInfo {
            name: "n1".parse().unwrap(),
            addresses: vec![],
            boot_id: String::new(),
            software_version: String::new(),
            protocol_version: 1,
            kernel_release: "7.3".into(),
            allotment: Allotment {
                in_container: false,
                machine_cpus: 2,
                cpus: 2_000.into(),
                cpus_by: None,
                memory_bytes: 1 << 30,
                memory_by: None,
            },
            cpus: 2,
            speed_permille: 950,
            memory_total_bytes: 1 << 30,
            cpu: CpuFeatures::default(),
            features,
        }
    }

    fn complete() -> Features {
        Features {
            sched_ext: SchedExtState::Available,
            criu: Some(CriuVersion { major: 4, minor: 1, patch: 0 }),
            btf: true,
            userfaultfd: true,
            fuse: true,
            cgroup2: true,
            psi: true,
            time_namespace: true,
            pagemap_scan: true,
            ptrace: true,
            memfd_exec: true,
            root: true,
        }
    }

    #[test]
    fn a_complete_machine_has_nothing_to_do() {
        assert!(complete().can_migrate());
        assert!(check(&info(complete())).iter().all(|item| item.state == CheckState::Ok && item.remedy.is_none()));
    }

    #[test]
    fn whatever_is_wrong_comes_with_what_to_do() {
        let items = check(&info(Features::default()));
        for item in items.iter().filter(|item| item.state != CheckState::Ok) {
            assert!(item.remedy.is_some_and(|text| text.len() > 20), "{item:?}");
        }
        assert!(items.iter().filter(|item| item.state != CheckState::Ok).count() >= 12);
    }

    #[test]
    fn can_migrate_and_the_check_agree() {
        let breakers: [fn(&mut Features); 10] = [
            |f| f.criu = None,
            |f| f.criu = Some(CriuVersion { major: 3, minor: 17, patch: 1 }),
            |f| f.userfaultfd = false,
            |f| f.fuse = false,
            |f| f.cgroup2 = false,
            |f| f.time_namespace = false,
            |f| f.ptrace = false,
            |f| f.root = false,
            |f| f.sched_ext = SchedExtState::Unsupported,
            |f| f.memfd_exec = false,
        ];
        for (n, breaker) in breakers.iter().enumerate() {
            let mut features = complete();
            breaker(&mut features);
            let missing = check(&info(features.clone())).iter().any(|item| item.state == CheckState::Missing);
            assert_eq!(features.can_migrate(), !missing, "breaker {n}");
        }
    }
}
