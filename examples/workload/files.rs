//! Reads a file by `read` and by `mmap`, writes another, prints to stdout and to a terminal.

use crate::Common;
use crate::step::{Broken, World, fold, numbers, say, work};
use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;

const CHUNK_BYTES: usize = 4_096;

/// The files.
#[derive(Args)]
pub struct Files {
    /// A file to read, again and again; must not be empty
    #[arg(long)]
    input: PathBuf,
    /// A file to write: one line for each step; it appears when all is done, under a temporary name
    /// until then
    #[arg(long)]
    output: PathBuf,
    /// Print each line to stderr too (for a terminal there)
    #[arg(long)]
    echo: bool,
}

/// The next chunk, from the start again at the end of the file; with its offset.
fn next_chunk(input: &mut File, chunk: &mut [u8]) -> Result<(u64, usize)> {
    let mut offset = input.stream_position()?;
    let mut length = input.read(chunk)?;
    if length == 0 {
        input.rewind()?;
        offset = 0;
        length = input.read(chunk)?;
    }
    Ok((offset, length))
}

/// All steps.
pub fn run(files: &Files, common: &Common) -> Result<()> {
    let name = || files.input.display().to_string();
    let mut input = File::open(&files.input).with_context(name)?;
    let size = usize::try_from(input.metadata()?.len())?;
    if size == 0 {
        bail!("{} is empty", name());
    }
    // SAFETY: a new private mapping at an address that the kernel chooses; `input` is open for
    // reading.
    let map = unsafe { mmap(std::ptr::null_mut(), size, ProtFlags::READ, MapFlags::PRIVATE, &input, 0) }
        .with_context(name)?;
    // SAFETY: the mapping is `size` bytes long, readable, and unmapped only after the last use of
    // the slice; tests leave the file alone.
    let mapped = unsafe { std::slice::from_raw_parts(map.cast::<u8>(), size) };
    let unfinished = files.output.with_extension("unfinished");
    let mut output = File::create(&unfinished).with_context(|| unfinished.display().to_string())?;
    let mut world = World::look(common)?;
    let mut value = 0;
    let mut chunk = [0; CHUNK_BYTES];
    for step in numbers(common) {
        value = work(value, common)?;
        let (offset, length) = next_chunk(&mut input, &mut chunk)?;
        let read = chunk.get(..length).unwrap_or_default();
        let offset = usize::try_from(offset)?;
        if mapped.get(offset..offset + length) != Some(read) {
            return Err(Broken(format!("{length} bytes at {offset} of {} differ from its mapping", name())).into());
        }
        value = fold(value, read);
        let line = format!("step {step} at {offset} value {value:016x}");
        writeln!(output, "{line}").context("cannot write the output file")?;
        say(&line)?;
        if files.echo {
            eprintln!("{line}");
        }
        world.check()?;
    }
    output.sync_all()?;
    std::fs::rename(&unfinished, &files.output).context("cannot rename the output file")?;
    // SAFETY: `map` is the mapping of `size` bytes made above, and `mapped` is not used any more.
    unsafe { munmap(map, size) }?;
    Ok(())
}
