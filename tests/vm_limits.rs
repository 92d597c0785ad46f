//! Programs that must not move are refused while they run, each with its reason.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails by a panic")]

mod support;

use std::time::Duration;

use support::{Cluster, Options, eventually};

/// How long a reason may take to be shown under software emulation on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `ps` says of the only program called `comm` that it cannot move, by a reason with
/// these words; `None` is that it can.
fn says(cluster: &Cluster, comm: &str, words: Option<&str>) {
    eventually(&format!("{comm} is told to be {words:?}"), LIMIT, || {
        let rows = cluster.json("n1", &["ps"]);
        let row = rows.as_array().into_iter().flatten().find(|row| row["comm"] == comm);
        let why = row.map(|row| row["cannot_move"].as_str().unwrap_or_default());
        let as_expected = match (why, words) {
            (Some(why), Some(words)) => why.contains(words),
            (why, None) => why == Some(""),
            (None, _) => false,
        };
        if as_expected { Ok(()) } else { Err(rows.to_string()) }
    });
}

#[test]
#[ignore = "boots virtual machines"]
fn what_cannot_move_is_refused_with_its_reason() {
    let options = Options { cpus: Some(1), memory_mib: Some(640), own_kernel: true, ..Options::default() };
    let cluster = Cluster::up("limits", 1, &options);

    // It reads nothing, and has confined itself before.
    let xz = cluster.spawn("n1", "user", &["sh", "-c", "sleep 1000 | scx_mosix run -- xz -c >/dev/null"]);
    says(&cluster, "xz", Some("has confined itself by Landlock"));
    // Without the list every program that has sworn off privileges is in doubt.
    let list = "/sys/fs/bpf/scx_mosix/landlocked";
    cluster.sh("n1", &format!("grep -qx \"$(pgrep -x xz)\" {list}; rm {list}"));
    says(&cluster, "xz", Some("may have confined itself by Landlock"));

    cluster.sh("n1", "cp /bin/sleep /usr/local/bin/nap; cp /bin/sleep /usr/local/bin/doze");
    let user = cluster.spawn("n1", "user", &["scx_mosix", "run", "--", "nap", "1000"]);
    says(&cluster, "nap", None);
    let root = cluster.spawn("n1", "root", &["scx_mosix", "run", "--", "doze", "1000"]);
    says(&cluster, "doze", Some("runs as root"));
    cluster.sh("n1", "pkill -x doze");
    root.finish_within(LIMIT);
    let few = ["setpriv", "--bounding-set=-all,+chown", "--inh-caps=-all", "doze", "1000"];
    let root = cluster.spawn("n1", "root", &[&["scx_mosix", "run", "--"], &few[..]].concat());
    says(&cluster, "doze", None);

    let strict = "import ctypes; libc = ctypes.CDLL(None); read = libc.read; byte = ctypes.create_string_buffer(1); \
                  libc.prctl(22, 1); read(0, byte, 1)";
    let filtered = cluster.spawn("n1", "user", &["scx_mosix", "run", "--", "python3", "-c", strict]);
    says(&cluster, "python3", Some("seccomp's strict mode"));

    cluster.sh("n1", "echo 2 >/proc/sys/vm/memfd_noexec");
    says(&cluster, "nap", Some("vm.memfd_noexec"));
    let check = format!("{}", cluster.scx_mosix("n1", &["check"]));
    assert!(check.contains("its own programs cannot leave"), "{check}");
    // Who asks is told how it is now, not how it was a while ago.
    let asked =
        cluster.sh("n1", "echo 0 >/proc/sys/vm/memfd_noexec; scx_mosix migrate $(pgrep -x nap) n1 2>&1 || true");
    assert!(asked.contains("n1") && !asked.contains("memfd_noexec"), "{asked}");
    cluster.sh("n1", "pkill -x nap; pkill -x doze; pkill -x sleep; pkill -KILL -x python3");
    for program in [xz, user, root, filtered] {
        program.finish_within(LIMIT);
    }
}
