//! The API as users meet it: by `grpcurl`, with a client certificate of the cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue ends here")]

#[path = "../src/api/memory.rs"]
mod memory;
mod support;

use std::{path::Path, sync::Arc, time::Duration};

use memory::Memory;
use scx_mosix::{
    api::ApiServer,
    keys::{ClusterKey, TlsPurpose},
};
use serde_json::Value;
use support::{
    Cluster, Options, eventually,
    grpcurl::{Credentials, call},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;

const SERVICES: [&str; 6] = [
    "grpc.health.v1.Health",
    "scx_mosix.peer.v1.PeerService",
    "scx_mosix.v1.ClusterService",
    "scx_mosix.v1.EventService",
    "scx_mosix.v1.MigrationService",
    "scx_mosix.v1.ProcessService",
];

/// The JSON that a method answers to `data`.
fn json(credentials: &Path, address: &str, method: &str, data: Option<&str>) -> Value {
    let answer = call(&Credentials::Client(credentials), address, data, &[method]).success();
    serde_json::from_str(&answer).unwrap()
}

/// What holds for every server: reflection, documentation, health, and no entrance without a
/// certificate.
fn look_around(credentials: &Path, address: &str) {
    let client = Credentials::Client(credentials);
    let services = call(&client, address, None, &["list"]).success();
    for service in SERVICES {
        assert!(services.lines().any(|line| line == service), "{services}");
    }
    let described = call(&client, address, None, &["describe", "scx_mosix.v1.ProcessService"]).success();
    assert!(described.contains("rpc MigrateProcess"), "{described}");
    let service = r#"{"service":"scx_mosix.v1.ProcessService"}"#;
    assert_eq!(json(credentials, address, "grpc.health.v1.Health/Check", Some(service))["status"], "SERVING");
    let refused = call(&Credentials::Anonymous(credentials), address, None, &["list"]);
    assert_ne!(refused.code(), 0, "{refused}");
}

#[test]
#[ignore = "fetches grpcurl"]
fn grpcurl_finds_its_way_at_a_daemon_in_memory() {
    let (memory, key, dir) =
        (Arc::new(Memory::default()), ClusterKey::generate().unwrap(), tempfile::tempdir().unwrap());
    memory.job(4711, 1000, "xz -9e");
    key.mint_client_identity(&"me".parse().unwrap()).unwrap().write_to(dir.path()).unwrap();
    let tls = key.mint_node_identity(&"n1".parse().unwrap(), &[]).unwrap().tls(TlsPurpose::Grpc).unwrap().server;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move { while sender.send(listener.accept().await.unwrap().0).await.is_ok() {} });
        let server = ApiServer::new(memory.clone(), Some(memory), CancellationToken::new()).await;
        tokio::spawn(async move { server.serve_tls(receiver, tls).await });
        address
    });
    look_around(dir.path(), &address);
    let nodes = json(dir.path(), &address, "scx_mosix.v1.ClusterService/ListNodes", None);
    assert_eq!(nodes["nodes"][1]["name"], "nodes/n2");
    let processes = json(dir.path(), &address, "scx_mosix.v1.ProcessService/ListProcesses", None);
    assert_eq!(processes["processes"][0]["commandLine"][0], "xz");
    let name = r#"{"name":"nodes/-/processes/4711"}"#;
    let why = json(dir.path(), &address, "scx_mosix.v1.ProcessService/GetPlacementReasons", Some(name));
    assert_eq!(why["reasons"]["decision"], "DECISION_STAY");
    let details = "scx_mosix.peer.v1.PeerService/GetNodeDetails";
    let peer = call(&Credentials::Client(dir.path()), &address, None, &[details]);
    assert!(peer.stderr.contains("PermissionDenied"), "{peer}");
}

#[test]
#[ignore = "needs a cluster"]
fn grpcurl_sees_a_cluster_its_programs_and_their_reasons() {
    let cluster = Cluster::up("grpcurl", 3, &Options::default());
    let dir = tempfile::tempdir().unwrap();
    cluster.credentials(dir.path());
    let address = cluster.forward("n1", 7470);
    look_around(dir.path(), &address);
    let nodes = json(dir.path(), &address, "scx_mosix.v1.ClusterService/ListNodes", None);
    let names: Vec<_> = nodes["nodes"].as_array().unwrap().iter().map(|node| node["name"].clone()).collect();
    assert_eq!(names, ["nodes/n1", "nodes/n2", "nodes/n3"]);
    let pid = cluster.sh("n1", "scx_mosix run --stay sleep 600 </dev/null >/dev/null 2>&1 & echo $!").trim().to_owned();
    let name = format!("nodes/n1/processes/{pid}");
    eventually("the program is listed", Duration::from_secs(30), || {
        let processes = json(dir.path(), &address, "scx_mosix.v1.ProcessService/ListProcesses", None);
        let listed = processes["processes"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == *name));
        if listed { Ok(()) } else { Err(processes.to_string()) }
    });
    let data = format!(r#"{{"name":"{name}"}}"#);
    let why = json(dir.path(), &address, "scx_mosix.v1.ProcessService/GetPlacementReasons", Some(&data));
    assert_eq!(why["reasons"]["process"], *name);
}
