//! Memory whose every word is known: a page holds numbers that follow from its index and its
//! generation and do not compress. Each step writes a quarter of the pages anew and checks the next
//! quarter; the end checks all.

use crate::Common;
use crate::step::{Broken, World, mix, numbers, say, work};
use anyhow::{Context, Result};

const PAGE_WORDS: usize = 512;
const PAGES_IN_MIB: usize = 256;
const QUARTERS: u64 = 4;

fn word(page: usize, generation: u64, index: usize) -> u64 {
    mix(((page as u64) << 32) ^ generation.rotate_left(50) ^ index as u64)
}

fn write(memory: &mut [u64], page: usize, generation: u64) -> Result<()> {
    let start = page * PAGE_WORDS;
    let words = memory.get_mut(start..start + PAGE_WORDS).context("no such page")?;
    for (index, to) in words.iter_mut().enumerate() {
        *to = word(page, generation, index);
    }
    Ok(())
}

fn check(memory: &[u64], page: usize, generation: u64) -> Result<u64> {
    let start = page * PAGE_WORDS;
    let words = memory.get(start..start + PAGE_WORDS).context("no such page")?;
    let mut sum = 0_u64;
    for (index, found) in words.iter().enumerate() {
        let wanted = word(page, generation, index);
        if *found != wanted {
            return Err(Broken(format!("page {page}, word {index}: {found:016x} instead of {wanted:016x}")).into());
        }
        sum = sum.rotate_left(1) ^ found;
    }
    Ok(sum)
}

/// All steps.
pub fn run(megabytes: usize, common: &Common) -> Result<()> {
    let pages = megabytes * PAGES_IN_MIB;
    let mut memory = vec![0_u64; pages * PAGE_WORDS];
    let mut generations = vec![0_u64; pages];
    for page in 0..pages {
        write(&mut memory, page, 0)?;
    }
    let mut world = World::look(common)?;
    let mut value = 0;
    let quarter = |step: u64| {
        let which = usize::try_from(step % QUARTERS).unwrap_or(0);
        pages * which / 4..pages * (which + 1) / 4
    };
    for step in numbers(common) {
        for page in quarter(step) {
            let generation = generations.get_mut(page).context("no such page")?;
            *generation = step;
            write(&mut memory, page, step)?;
        }
        for page in quarter(step + 1) {
            let generation = generations.get(page).context("no such page")?;
            value = mix(value ^ check(&memory, page, *generation)?);
        }
        value = work(value, common)?;
        say(&format!("step {step} value {value:016x}"))?;
        world.check()?;
    }
    for (page, generation) in generations.iter().enumerate() {
        value = mix(value ^ check(&memory, page, *generation)?);
    }
    say(&format!("{megabytes} MiB value {value:016x}"))
}
