//! A step: CPU work, a value that depends on all steps before, and a look at whether the world is
//! still the same.

use crate::Common;
use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{getcwd, gethostname, getpid};
use rustix::time::{ClockId, clock_gettime};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

static USR1: AtomicUsize = AtomicUsize::new(0);
static USR2: AtomicBool = AtomicBool::new(false);

/// Something that must never change did.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

extern "C" fn count_usr1(_: i32) {
    USR1.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn note_usr2(_: i32) {
    USR2.store(true, Ordering::SeqCst);
}

/// Counts SIGUSR1 and notes SIGUSR2 from now on.
pub fn catch_signals() -> Result<()> {
    for (signal, handler) in [(Signal::SIGUSR1, count_usr1 as extern "C" fn(i32)), (Signal::SIGUSR2, note_usr2)] {
        let action = SigAction::new(SigHandler::Handler(handler), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: both handlers only change an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot catch {signal}"))?;
    }
    Ok(())
}

/// Whether SIGUSR2 asked for an end after the step under way.
pub fn is_enough() -> bool {
    USR2.load(Ordering::SeqCst)
}

/// The numbers of all steps, until SIGUSR2.
pub fn numbers(common: &Common) -> impl Iterator<Item = u64> + use<> {
    (1..=common.steps).take_while(|_| !is_enough())
}

/// SplitMix64's finaliser: every bit of the result depends on every bit of `value`.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Folds bytes into a hash.
pub fn fold(hash: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(hash, |hash, chunk| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        mix(hash ^ u64::from_le_bytes(word))
    })
}

/// Uses the CPU and rests for as long as `common` says, and returns a value that depends on `value`
/// only.
///
/// CPU time starts anew in a restored process, so it is summed up by differences.
pub fn work(value: u64, common: &Common) -> Result<u64> {
    let cpu_time = || clock(ClockId::ThreadCPUTime);
    let wanted = Duration::from_millis(common.work_ms);
    let (mut spent, mut last) = (Duration::ZERO, cpu_time()?);
    let mut burnt = value;
    while spent < wanted {
        for _ in 0..10_000 {
            burnt = std::hint::black_box(mix(burnt));
        }
        let now = cpu_time()?;
        spent += now.saturating_sub(last);
        last = now;
    }
    std::thread::sleep(Duration::from_millis(common.pause_ms));
    Ok((0..1_000).fold(value, |value, _| mix(value)))
}

/// What a program takes for granted.
pub struct World {
    pid: i32,
    /// None if it may change.
    host: Option<OsString>,
    directory: PathBuf,
    clock: Duration,
}

fn clock(id: ClockId) -> Result<Duration> {
    Duration::try_from(clock_gettime(id)).context("a clock shows a negative time")
}

impl World {
    /// How it is now.
    pub fn look(common: &Common) -> Result<Self> {
        Self::seen(!common.any_host)
    }

    fn seen(with_host: bool) -> Result<Self> {
        Ok(Self {
            pid: getpid().as_raw(),
            host: with_host.then(gethostname).transpose().context("no host name")?,
            directory: getcwd().context("no working directory")?,
            clock: clock(ClockId::Monotonic)?,
        })
    }

    /// Looks again, and answers signals.
    ///
    /// # Errors
    /// [`Broken`] if anything is not as it was.
    pub fn check(&mut self) -> Result<()> {
        let now = Self::seen(self.host.is_some())?;
        if (now.pid, &now.host, &now.directory) != (self.pid, &self.host, &self.directory) {
            let what = format!(
                "pid {}, host {:?}, directory {:?} became pid {}, host {:?}, directory {:?}",
                self.pid, self.host, self.directory, now.pid, now.host, now.directory
            );
            return Err(Broken(what).into());
        }
        if now.clock < self.clock {
            return Err(
                Broken(format!("the monotonic clock went back from {:?} to {:?}", self.clock, now.clock)).into()
            );
        }
        self.clock = now.clock;
        for _ in 0..USR1.swap(0, Ordering::SeqCst) {
            say("USR1")?;
        }
        Ok(())
    }
}

/// Prints one line to stdout at once.
pub fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to stdout")
}
