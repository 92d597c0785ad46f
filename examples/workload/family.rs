//! A parent and two children: work is handed out and reported by pipes, results lie in memory that
//! they share.
//!
//! ```text
//!   parent ── one byte: do a step ──> child i      child i: values[i] = work(values[i]) in shared memory
//!          <── one byte: done ──────              end of the pipe: exit with status 10 + i
//! ```

use crate::Common;
use crate::step::{Broken, World, mix, numbers, say, work};
use anyhow::{Context, Result};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

const CHILDREN: usize = 2;
const FIRST_STATUS: i32 = 10;
const SHARED_BYTES: usize = 4_096;

/// A child as its parent sees it.
struct Child {
    pid: Pid,
    orders: File,
    reports: File,
}

fn live(
    index: usize,
    values: &[AtomicU64; CHILDREN],
    mut orders: File,
    mut reports: File,
    common: &Common,
) -> Result<()> {
    let mut byte = [0];
    let mut world = World::look(common)?;
    let value = values.get(index).context("no such child")?;
    while orders.read(&mut byte)? == 1 {
        value.store(work(value.load(Ordering::SeqCst), common)?, Ordering::SeqCst);
        world.check()?;
        reports.write_all(&byte)?;
    }
    Ok(())
}

fn have_child(index: usize, values: &[AtomicU64; CHILDREN], older: Vec<Child>, common: &Common) -> Result<Vec<Child>> {
    let (orders, to_child) = pipe()?;
    let (from_child, reports) = pipe()?;
    // SAFETY: the process has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            let mut children = older;
            children.push(Child { pid: child, orders: File::from(to_child), reports: File::from(from_child) });
            Ok(children)
        }
        ForkResult::Child => {
            drop((older, to_child, from_child));
            let status = match live(index, values, File::from(orders), File::from(reports), common) {
                Ok(()) => FIRST_STATUS + i32::try_from(index)?,
                Err(error) => {
                    eprintln!("BROKEN: child {index}: {error:#}");
                    i32::from(crate::BROKEN_STATUS)
                }
            };
            std::process::exit(status);
        }
    }
}

/// All steps.
pub fn run(common: &Common) -> Result<()> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let shared = unsafe { mmap_anonymous(std::ptr::null_mut(), SHARED_BYTES, access, MapFlags::SHARED) }
        .context("no shared memory")?;
    // SAFETY: the mapping is zeroed, page-aligned, larger than the array, never unmapped, and
    // accessed through atomics only.
    let values: &[AtomicU64; CHILDREN] = unsafe { &*shared.cast() };
    for (value, seed) in values.iter().zip(0..) {
        value.store(mix(seed), Ordering::SeqCst);
    }
    let mut children = Vec::new();
    for index in 0..CHILDREN {
        children = have_child(index, values, children, common)?;
    }
    let mut world = World::look(common)?;
    let mut byte = [1];
    for step in numbers(common) {
        for child in &mut children {
            child.orders.write_all(&byte).context("a child does not listen")?;
        }
        for child in &mut children {
            child.reports.read_exact(&mut byte).context("a child went away")?;
        }
        let sum = values.iter().fold(0, |sum, value| mix(sum ^ value.load(Ordering::SeqCst)));
        say(&format!("step {step} value {sum:016x}"))?;
        world.check()?;
    }
    for (index, Child { pid, orders, reports }) in children.into_iter().enumerate() {
        drop((orders, reports));
        let status = waitpid(pid, None).context("cannot wait for a child")?;
        let wanted = WaitStatus::Exited(pid, FIRST_STATUS + i32::try_from(index)?);
        if status != wanted {
            return Err(Broken(format!("child {index} ended as {status:?} instead of {wanted:?}")).into());
        }
        say(&format!("child {index} ended with status {}", FIRST_STATUS + i32::try_from(index)?))?;
    }
    Ok(())
}
