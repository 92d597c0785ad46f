//! Where the scheduler serves guests after all others, an owner's programs drive guests away.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::time::Duration;

use support::{
    Cluster, Options,
    programs::{last_reason, runs_at, start},
};

#[test]
#[ignore = "boots virtual machines"]
fn a_guest_leaves_when_its_hosts_owner_wants_the_cpu() {
    let options = Options { cpus: Some(1), memory_mib: Some(512), own_kernel: true, ..Options::default() };
    let cluster = Cluster::up("vm-owner", 2, &options);
    cluster.push_example("workload");
    let (_busy, busy_pid) = start(&cluster, 0, "--stay");
    let (_guest, guest_pid) = start(&cluster, 1, "");
    runs_at(&cluster, &guest_pid, |node| node == "n2");
    cluster.sh("n1", &format!("kill {busy_pid}"));
    let mut owner =
        cluster.spawn("n2", "user", &["workload", "threads", "--threads", "2", "--steps", "100000", "--work-ms", "40"]);
    owner.wait_for("step 3", Duration::from_secs(120));
    runs_at(&cluster, &guest_pid, |node| node == "n1");
    let (_, reason) = last_reason(&cluster, &guest_pid, "n1");
    assert!(reason.contains("programs of its own users come first"), "{reason}");
}
