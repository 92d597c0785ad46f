//! Nodes with different kernels: a program moves between them, and each says whether it has
//! sched_ext.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use support::{
    Cluster, Options,
    tour::{Tour, tour},
};

#[test]
#[ignore = "boots virtual machines"]
fn programs_move_between_kernels_with_and_without_sched_ext() {
    let plain_kernel = vec!["n2".to_owned()];
    let options =
        Options { cpus: Some(1), memory_mib: Some(640), plain_kernel, own_kernel: true, ..Options::default() };
    let cluster = Cluster::up("kernels", 2, &options);
    let nodes = cluster.json("n1", &["nodes"]);
    let sched_ext =
        |name: &str| nodes.as_array().unwrap().iter().find(|row| row["node"] == name).unwrap()["sched_ext"].clone();
    assert_eq!((sched_ext("n1"), sched_ext("n2")), ("attached".into(), "unsupported".into()), "{nodes}");
    cluster.push_example("workload");
    let there_and_back = Tour { work_ms: 13, nodes: &["n2", "n1"] };
    tour(&cluster, &there_and_back, &["family"]);
}
