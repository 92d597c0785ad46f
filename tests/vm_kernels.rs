//! Nodes with different kernels: a program moves between them, and each says whether it has
//! sched_ext.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::time::Duration;

use support::{
    Cluster, Options, eventually,
    tour::{Tour, tour},
};

/// How long a scheduler may take to be attached, under software emulation.
const ATTACH_LIMIT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "boots virtual machines"]
fn programs_move_between_kernels_with_and_without_sched_ext() {
    let plain_kernel = vec!["n2".to_owned()];
    let options =
        Options { cpus: Some(1), memory_mib: Some(640), plain_kernel, own_kernel: true, ..Options::default() };
    let cluster = Cluster::up("kernels", 2, &options);
    // The scheduler may still be loaded when the daemons have met.
    eventually("each says whether it has sched_ext", ATTACH_LIMIT, || {
        let nodes = cluster.json("n1", &["nodes"]);
        let says = |name: &str, sched_ext: &str| {
            nodes.as_array().into_iter().flatten().any(|row| row["node"] == name && row["sched_ext"] == sched_ext)
        };
        if says("n1", "attached") && says("n2", "unsupported") { Ok(()) } else { Err(nodes.to_string()) }
    });
    cluster.push_example("workload");
    let there_and_back = Tour { work_ms: 13, nodes: &["n2", "n1"] };
    tour(&cluster, &there_and_back, &["family"]);
}
