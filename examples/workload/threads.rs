//! Threads that meet at a barrier at each step, each with a value of its own and in thread-local
//! storage.

use crate::Common;
use crate::step::{Broken, World, is_enough, mix, say, work};
use anyhow::{Context, Result, bail};
use std::cell::Cell;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// What the threads share.
struct Shared {
    barrier: Barrier,
    values: Vec<AtomicU64>,
    /// Set by the thread that finds something broken, and by the first at SIGUSR2; all leave at the
    /// same step.
    over: AtomicBool,
}

fn step(index: usize, shared: &Shared, common: &Common) -> Result<()> {
    let slot = shared.values.get(index).context("no such thread")?;
    let value = work(slot.load(Ordering::SeqCst), common)?;
    if OWN.get() != slot.load(Ordering::SeqCst) {
        return Err(Broken(format!("thread {index} lost its thread-local value")).into());
    }
    slot.store(value, Ordering::SeqCst);
    OWN.set(value);
    Ok(())
}

fn run_thread(index: usize, shared: &Shared, common: &Common) -> Result<()> {
    OWN.set(shared.values.get(index).context("no such thread")?.load(Ordering::SeqCst));
    // Only the first thread answers for the process.
    let mut world = if index == 0 { Some(World::look(common)?) } else { None };
    let mut outcome = Ok(());
    for number in 1..=common.steps {
        outcome = step(index, shared, common);
        shared.over.fetch_or(outcome.is_err(), Ordering::SeqCst);
        shared.barrier.wait();
        if let Some(world) = &mut world
            && outcome.is_ok()
        {
            let sum = shared.values.iter().fold(0, |sum, value| mix(sum ^ value.load(Ordering::SeqCst)));
            outcome = say(&format!("step {number} value {sum:016x}")).and_then(|()| world.check());
            shared.over.fetch_or(outcome.is_err() || is_enough(), Ordering::SeqCst);
        }
        // No thread changes its value before the first thread has read it.
        shared.barrier.wait();
        if shared.over.load(Ordering::SeqCst) {
            break;
        }
    }
    outcome
}

/// All steps.
pub fn run(threads: usize, common: &Common) -> Result<()> {
    if threads == 0 {
        bail!("--threads must be 1 at least");
    }
    let shared = Shared {
        barrier: Barrier::new(threads),
        values: (0..threads as u64).map(|index| AtomicU64::new(mix(index))).collect(),
        over: AtomicBool::new(false),
    };
    let shared = &shared;
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|index| scope.spawn(move || run_thread(index, shared, common))).collect();
        let mut outcome = run_thread(0, shared, common);
        for other in others {
            let theirs = other.join().unwrap_or_else(|_| bail!("a thread panicked"));
            outcome = outcome.and(theirs);
        }
        outcome
    })
}
