//! A real C project, a Debian source package, built by `make -j8` at n1: with scx_mosix, which lets
//! its compilers start and move elsewhere, and at n1 alone, by turns. The objects must be the same.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{
    guests::Guests,
    stats::{Comparison, Side, order},
};
use crate::{progress::Progress, vm::accel::Accel};

/// The longest a build may take: emulated compilers are slow.
const BUILD_LIMIT: Duration = Duration::from_secs(1_800);

/// Builds the package's library as an ordinary user. Prints the milliseconds that it took, the
/// number of objects and their digest. `$1` goes before `make`.
const BUILD: &str = r#"
set -eu
rm -rf /home/user/build
cp -R /usr/src/zstd /home/user/build
chown -R user: /home/user/build
sync
cd /home/user/build/lib
began=$(date +%s%N)
if ! runuser -u user -- $1 make -j8 libzstd.a >/home/user/build.log 2>&1; then
    tail -n 15 /home/user/build.log >&2
    exit 1
fi
ended=$(date +%s%N)
objects=$(find . -name '*.o' | LC_ALL=C sort)
echo $(((ended - began) / 1000000)) $(echo "$objects" | wc -l) $(cat $objects | sha256sum | cut -d' ' -f1)"#;

/// An emulator translates a program's code anew for each address at which it begins, which takes
/// longer than a short program runs. A processor does nothing of the kind.
const SAME_ADDRESSES: &str = "echo 0 >/proc/sys/kernel/randomize_va_space";

/// Compiles one file, so that the compiler is in the node's memory before anything is measured and
/// an emulator has translated it. No processor does that; it doubles the time of the first
/// compilation, and would count three times for the first build that uses all nodes.
const WARM_UP: &str = "runuser -u user -- gcc -O3 -c -o /dev/null /usr/src/zstd/lib/compress/huf_compress.c";

/// How many moves out of n1 have succeeded so far.
const MOVES: &str = r#"grep 'move ended' /var/log/scx_mosix.log | grep -c '(Run,' || true"#;

/// The builds.
#[derive(Serialize)]
pub struct Build {
    /// From the start of `make` to its end, in seconds.
    pub seconds: Comparison,
    /// The objects of each build, the same in all.
    pub objects: u32,
    /// Compilers that started or moved elsewhere in each of our builds.
    pub moves: Vec<u32>,
}

#[derive(Clone)]
struct Built {
    seconds: f64,
    objects: u32,
    digest: String,
}

/// Measures `pairs` pairs of builds.
pub fn measure(guests: &Guests, pairs: usize, progress: &Progress) -> Result<Build> {
    let mut seconds = Comparison::default();
    let mut moves = Vec::new();
    let mut first: Option<Built> = None;
    let step = progress.step("build: the compiler runs once on each node");
    for node in (1..=guests.state.kernels.len()).map(|node| format!("n{node}")) {
        if guests.state.accel == Some(Accel::Tcg) {
            guests.bash(&node, SAME_ADDRESSES)?;
        }
        guests.bash_within(&node, BUILD_LIMIT, WARM_UP)?;
    }
    step.done();
    for (index, side) in order(pairs).into_iter().enumerate() {
        let (name, prefix) = match side {
            Side::Ours => ("scx_mosix", "scx_mosix run"),
            Side::Baseline => ("n1 alone", ""),
        };
        let step = progress.step(format!("build: run {} of {}, {name}", index + 1, pairs * 2));
        let before = moved(guests)?;
        let built = build(guests, prefix)?;
        if side == Side::Ours {
            moves.push(moved(guests)? - before);
        }
        seconds.add(side, built.seconds);
        step.done();
        let first = first.get_or_insert_with(|| built.clone());
        if (first.objects, &first.digest) != (built.objects, &built.digest) {
            bail!("the {} objects of run {} differ from the {} of the first", built.objects, index + 1, first.objects);
        }
    }
    Ok(Build { seconds, objects: first.map_or(0, |built| built.objects), moves })
}

fn build(guests: &Guests, prefix: &str) -> Result<Built> {
    let script = format!("set -- '{prefix}'\n{BUILD}");
    let said = guests.bash_within("n1", BUILD_LIMIT, &script)?;
    let parse = || {
        let words: Vec<&str> = said.split_whitespace().collect();
        let [took_ms, objects, digest] = words[..] else { return None };
        let seconds = took_ms.parse::<f64>().ok()? / 1_000.0;
        Some(Built { seconds, objects: objects.parse().ok()?, digest: digest.to_owned() })
    };
    parse().with_context(|| format!("the build printed {said:?}"))
}

fn moved(guests: &Guests) -> Result<u32> {
    let said = guests.bash("n1", MOVES)?;
    said.parse().with_context(|| format!("the count of moves was {said:?}"))
}
