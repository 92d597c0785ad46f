//! Tests of the whole on this machine: with BPF where the kernel lets us, else with `/proc`.

use std::time::Duration;

use super::*;
use crate::sys::proc::start_time_ticks;

#[tokio::test]
async fn this_process_is_seen_at_work() {
    let (mut telemetry, _events) = Telemetry::start(TelemetryConfig::default()).unwrap();
    telemetry.sample().await.unwrap();
    let busy_until = std::time::Instant::now() + Duration::from_millis(300);
    while std::time::Instant::now() < busy_until {
        std::hint::spin_loop();
    }
    let snapshot = telemetry.sample().await.unwrap();
    let own = snapshot.tasks.iter().find(|task| task.pid == std::process::id()).unwrap();
    assert!(own.cpu_now_milli > 0 && own.cpu_share_milli > 0 && own.usage.counters.cpu_ns > 0, "{own:?}");
    assert!(own.usage.resident_bytes > 0 && own.usage.threads > 0 && !own.comm.is_empty(), "{own:?}");
    assert!(own.cgroup.starts_with('/'), "{own:?}");
    assert_eq!(own.uid, rustix::process::getuid().as_raw());
    assert_eq!(Some(own.start_time_ticks), start_time_ticks(std::process::id().cast_signed()));
    assert!(snapshot.interval_ms >= 300);
}

#[tokio::test]
async fn a_child_is_announced_from_fork_to_exit_with_its_status() {
    let config = TelemetryConfig { require_bpf: true, ..TelemetryConfig::default() };
    let Ok((_telemetry, mut events)) = Telemetry::start(config) else {
        return; // Without rights for BPF there are no events; the fall-back is tested above.
    };
    let mut child = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    let mut seen = Vec::new();
    let follow = async {
        while let Some(event) = events.recv().await {
            match event {
                TaskEvent::Forked { process, ppid, .. } if process.pid == pid => {
                    seen.push(format!("forked {}", ppid == std::process::id()))
                }
                TaskEvent::Execed { process, comm, .. } if process.pid == pid => seen.push(format!("execed {comm}")),
                TaskEvent::Exited { process, wait_status, .. } if process.pid == pid => {
                    seen.push(format!("exited {}", wait_status >> 8));
                    return;
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), follow).await.unwrap();
    assert_eq!(seen, ["forked true", "execed sh", "exited 7"]);
}

#[tokio::test]
async fn a_memory_source_is_declared() {
    let mut telemetry =
        TelemetryHandle::with_source(Box::new(MemoryTasks { tasks: vec![sampler::sample_of(7, 10, 0)] }));
    let snapshot = telemetry.sample().await.unwrap();
    assert_eq!((snapshot.source, snapshot.tasks.len(), snapshot.interval_ms), (Source::Memory, 1, 0));
}
