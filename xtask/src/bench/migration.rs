//! Migration from n1 to n2 by size, beside what one would do by hand, by turns.
//!
//! ```text
//!   ours      scx_mosix run … ; scx_mosix migrate PID n2 --wait
//!             downtime: as the source's agent measures it, freeze to running; total: from the order to the end of the record
//!   plain     criu dump ─► tar │ nc ═══ cluster network ═══► nc │ tar ─► criu restore           all timed by n1's clock
//!             downtime: from the first task that criu stops to n2's word that criu has restored; total: from criu's start
//! ```
//!
//! Both move the same program (`workload memory`: pages that do not compress, rewritten and checked
//! at each step; it ends by itself if one is wrong), and a run counts only if it does some more
//! steps at n2. The plain way is made as fast as it gets: images on tmpfs, nothing encrypted, no
//! login, n2 listening beforehand, criu's own probes of the kernel done before.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    guests::Guests,
    stats::{Comparison, Side, median, order},
};
use crate::progress::Progress;

/// The programs' sizes, in MiB.
const SIZES_MIB: [u32; 3] = [16, 64, 256];

/// How long one step of a run may take; 256 MiB by hand take 20 s between emulated machines.
const LIMIT: Duration = Duration::from_secs(150);

/// Both ways at one size.
#[derive(Serialize)]
pub struct Size {
    /// The program's memory.
    pub megabytes: u32,
    /// How long the program stands still.
    pub downtime_ms: Comparison,
    /// How long the user waits.
    pub total_ms: Comparison,
    /// The program's memory by the downtime.
    pub mib_per_s: Comparison,
    /// Where the plain way's time goes, medians.
    plain_parts_ms: Parts,
}

#[derive(Default, Serialize)]
struct Parts {
    dump: f64,
    copy: f64,
    restore: f64,
}

/// One run.
struct Run {
    downtime_ms: f64,
    total_ms: f64,
    parts_ms: Option<Parts>,
}

/// What `scx_mosix migrate --output json` prints of a move, as far as we need it.
#[derive(Deserialize)]
struct Migration {
    state: String,
    reason: String,
    downtime_us: Option<u64>,
    create_time_ms: u64,
    end_time_ms: Option<u64>,
}

/// Makes a node ready for a run. Programs start at high pids, which nothing at the other node has.
const CLEAN: &str = r#"
rm -rf /home/user/bench /dev/shm/bench
mkdir -p /home/user/bench /dev/shm/bench
chown user: /home/user/bench"#;

/// Starts the program at $1 MiB with the words after it before its own, as an ordinary user (root's
/// programs are not moved), and waits until its memory is there.
const START: &str = r#"
start() {
    cd /home/user/bench
    size=$1; shift
    echo $((20000 + RANDOM / 4)) >/proc/sys/kernel/ns_last_pid
    user=(setpriv --reuid user --regid user --init-groups)
    # Where nodes share the kernel of a sandbox, `user` is root with few capabilities.
    [ "$(id -u user)" != 0 ] || user=(/usr/local/sbin/restricted-shell -c 'exec "$@"' sh)
    setsid "${user[@]}" "$@" \
        /usr/local/bin/workload memory --megabytes "$size" --any-host --steps 1000000 --work-ms 1 >out 2>&1 </dev/null &
    until grep -q '^step 1 ' out; do
        kill -0 $! || { cat out >&2; exit 1; }
        sleep 0.05
    done
    echo $!
}
"#;

/// Waits until process $1, whose output is here, has done three more steps: they check three
/// quarters of the memory that moved.
const CONTINUES: &str = r#"
continues() {
    cd /home/user/bench
    from=$(wc -l <out)
    while [ "$(wc -l <out)" -lt $((from + 3)) ]; do
        kill -0 "$1" || { tail -n 3 out >&2; exit 1; }
        sleep 0.05
    done
    kill -KILL "$1"
    while kill -0 "$1" 2>/dev/null; do sleep 0.05; done
}
"#;

/// Waits for the images and restores them; then tells n1 how long the restore took, or nothing if
/// it failed. Returns when it listens.
const LISTEN: &str = r#"
cat >/run/bench-receive <<'END'
restore() {
    tar x -C / || return
    from=${EPOCHREALTIME/./}
    criu restore -d -D /dev/shm/bench -o restore.log --manage-cgroups=ignore || return
    took=$((${EPOCHREALTIME/./} - from))
}
nc -d -l 7100 | { restore; echo "$took" | nc -N 10.77.0.1 7101; }
END
setsid bash /run/bench-receive >/run/bench-receive.log 2>&1 </dev/null &
until ss -Hltn 'sport = :7100' | grep -q .; do sleep 0.05; done"#;

/// Dumps process $pid, sends it, and prints in µs: dump, the dump's part before the program stood
/// still, copy and restore, restore.
const SEND: &str = r#"
cd /dev/shm/bench
nc -d -l 7101 >/run/bench-reply &
until ss -Hltn 'sport = :7101' | grep -q .; do sleep 0.05; done
t0=${EPOCHREALTIME/./}
criu dump -t $pid -D . -v3 -o dump.log --manage-cgroups=ignore || { kill $!; tail -n 5 dump.log >&2; exit 1; }
t1=${EPOCHREALTIME/./}
tar c -C / home/user/bench dev/shm/bench | nc -N 10.77.0.2 7100
wait $!
t2=${EPOCHREALTIME/./}
before=$(sed -n '/Seized task/{s/^(\([0-9]*\)\.\([0-9]*\)).*/\1\2/p;q}' dump.log)
echo $((t1 - t0)) $((10#$before)) $((t2 - t1)) $(cat /run/bench-reply)"#;

/// Measures `pairs` pairs of runs at each size.
pub fn measure(guests: &Guests, pairs: usize, progress: &Progress) -> Result<Vec<Size>> {
    for node in ["n1", "n2"] {
        // criu keeps what it found out about the kernel.
        guests.bash(node, "criu check").context("criu cannot work on the nodes")?;
    }
    SIZES_MIB.into_iter().map(|megabytes| measure_size(guests, pairs, megabytes, progress)).collect()
}

fn measure_size(guests: &Guests, pairs: usize, megabytes: u32, progress: &Progress) -> Result<Size> {
    let (mut downtime_ms, mut total_ms, mut mib_per_s) = <(Comparison, Comparison, Comparison)>::default();
    let mut parts = Vec::new();
    for (index, side) in order(pairs).into_iter().enumerate() {
        let name = if side == Side::Ours { "scx_mosix" } else { "plain criu" };
        let step = progress.step(format!("migration: {megabytes} MiB, run {} of {}, {name}", index + 1, pairs * 2));
        for node in ["n1", "n2"] {
            guests.bash(node, CLEAN)?;
        }
        let run = match side {
            Side::Ours => ours(guests, megabytes)?,
            Side::Baseline => plain(guests, megabytes)?,
        };
        downtime_ms.add(side, run.downtime_ms);
        total_ms.add(side, run.total_ms);
        mib_per_s.add(side, f64::from(megabytes) * 1e3 / run.downtime_ms);
        parts.extend(run.parts_ms);
        step.done();
    }
    let part = |pick: fn(&Parts) -> f64| median(&parts.iter().map(pick).collect::<Vec<_>>()).unwrap_or_default();
    let plain_parts_ms =
        Parts { dump: part(|parts| parts.dump), copy: part(|parts| parts.copy), restore: part(|parts| parts.restore) };
    Ok(Size { megabytes, downtime_ms, total_ms, mib_per_s, plain_parts_ms })
}

fn ours(guests: &Guests, megabytes: u32) -> Result<Run> {
    let pid = guests.bash_within("n1", LIMIT, &format!("{START} start {megabytes} scx_mosix run --stay --"))?;
    let order = format!("scx_mosix migrate {pid} n2 --wait --output json");
    let text = guests.bash_within("n1", LIMIT, &order).context("scx_mosix does not migrate")?;
    let run = read_migration(&text)?;
    guests
        .bash_within("n1", LIMIT, &format!("{CONTINUES} continues {pid}"))
        .context("the program did not continue at n2")?;
    Ok(run)
}

fn read_migration(text: &str) -> Result<Run> {
    let migration: Migration = serde_json::from_str(text).with_context(|| format!("not a migration: {text}"))?;
    let (Some(downtime_us), Some(end_ms), "run") =
        (migration.downtime_us, migration.end_time_ms, migration.state.as_str())
    else {
        bail!("the migration ended as {:?}: {}", migration.state, migration.reason);
    };
    Ok(Run {
        downtime_ms: downtime_us as f64 / 1e3,
        total_ms: end_ms.saturating_sub(migration.create_time_ms) as f64,
        parts_ms: None,
    })
}

fn plain(guests: &Guests, megabytes: u32) -> Result<Run> {
    let pid = guests.bash_within("n1", LIMIT, &format!("{START} start {megabytes}"))?;
    guests.bash("n2", LISTEN)?;
    let text = guests.bash_within("n1", LIMIT, &format!("pid={pid}\n{SEND}")).context("plain criu does not dump")?;
    let run = read_times(&text);
    let Some(run) = run else {
        let log = guests.bash("n2", "tail -n 5 /run/bench-receive.log /dev/shm/bench/restore.log").unwrap_or_default();
        bail!("plain criu does not restore (times: {text}): {log}");
    };
    guests
        .bash_within("n2", LIMIT, &format!("{CONTINUES} continues {pid}"))
        .context("the program did not continue at n2")?;
    Ok(run)
}

/// Understands what [`SEND`] prints.
fn read_times(text: &str) -> Option<Run> {
    let times: Vec<f64> =
        text.split_whitespace().map(|us| us.parse::<f64>().ok().map(|us| us / 1e3)).collect::<Option<_>>()?;
    let [dump, before, copy_and_restore, restore] = times[..] else { return None };
    let total_ms = dump + copy_and_restore;
    let parts = Parts { dump, copy: copy_and_restore - restore, restore };
    Some(Run { downtime_ms: total_ms - before, total_ms, parts_ms: Some(parts) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_ways_times_add_up() {
        let run = read_times("600000 50000 1000000 400000\n").unwrap();
        assert_eq!((run.total_ms, run.downtime_ms), (1_600.0, 1_550.0));
        let parts = run.parts_ms.unwrap();
        assert_eq!((parts.dump, parts.copy, parts.restore), (600.0, 600.0, 400.0));
        assert!(read_times("600000 50000 1000000 ").is_none(), "no word of a restore");
    }

    #[test]
    fn only_a_migration_that_came_about_is_measured() {
        let text = r#"{"state":"run","reason":"asked","downtime_us":1500,"create_time_ms":1000,"end_time_ms":3000}"#;
        let run = read_migration(text).unwrap();
        assert_eq!((run.downtime_ms, run.total_ms), (1.5, 2_000.0));
        let aborted = text.replace("\"run\"", "\"aborted\"").replace("asked", "n2 is full");
        assert!(read_migration(&aborted).err().is_some_and(|error| error.to_string().contains("n2 is full")));
    }
}
