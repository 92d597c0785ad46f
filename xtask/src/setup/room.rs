//! Whether the disks have room for what is about to be made.

use super::Host;
use crate::cmd;
use crate::vm::image;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// What needs room, MiB, with some to spare: measured on a clean clone of this project.
const PACKAGES: u64 = 1_500;
const DOWNLOADS: u64 = 400;
const COMPILING: u64 = 4_000;
const IMAGE: u64 = 800;
const IMAGE_WORK: u64 = 2_500;

/// One sentence if a file system is too full. `packages`: whether packages will be installed.
pub fn check(host: &Host, packages: bool) -> Result<()> {
    let cache = image::cache_dir();
    let mut needs: Vec<(PathBuf, u64)> = Vec::new();
    if packages {
        needs.push(("/usr".into(), PACKAGES));
        needs.push(("/var/cache/apt/archives".into(), DOWNLOADS));
    }
    if !host.target.join(crate::product::TARGET).exists() {
        needs.push((host.target.clone(), COMPILING));
    }
    if !image::is_built() {
        needs.push((cache, IMAGE));
        needs.push(("/var/tmp".into(), IMAGE_WORK));
    }
    if needs.is_empty() {
        return Ok(());
    }
    let places: Vec<PathBuf> = needs.iter().map(|(place, _)| existing(place)).collect();
    let table =
        cmd::output(host.command("df").arg("-Pk").args(&places)).context("cannot ask how full the disks are")?;
    let disks = parse(&table);
    if disks.len() != places.len() {
        bail!("df tells of {} disks, asked for {}:\n{table}", disks.len(), places.len());
    }
    let mut wanted: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for ((_, mib), (mount, free)) in needs.iter().zip(&disks) {
        wanted.entry(mount).or_insert((0, *free)).0 += mib * MIB;
    }
    for (mount, (needed, free)) in wanted {
        if free < needed {
            bail!(
                "the file system at {mount} has {:.1} GiB free and {:.1} are needed: free some, or set CARGO_TARGET_DIR \
                 to a directory on a larger disk, then try again",
                gib(free),
                gib(needed)
            );
        }
    }
    Ok(())
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

/// The nearest directory that is there already.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// Mount point and free bytes of each line of `df -Pk`.
fn parse(table: &str) -> Vec<(String, u64)> {
    let line = |line: &str| {
        let mut words = line.split_whitespace().skip(3);
        let free: u64 = words.next()?.parse().ok()?;
        Some((words.skip(1).collect::<Vec<_>>().join(" "), free * 1024))
    };
    table.lines().skip(1).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_bytes_are_read_from_dfs_portable_table() {
        let table = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n\
            /dev/vda         263940717 13000000  82000000      14% /\ntmpfs 2048 0 2048 0% /mnt/a b\n";
        assert_eq!(parse(table), [("/".to_owned(), 82_000_000 * 1024), ("/mnt/a b".to_owned(), 2048 * 1024)]);
    }

    #[test]
    fn a_directory_yet_to_be_made_lies_where_its_parent_does() {
        assert_eq!(existing(Path::new("/usr/no/such/directory")), Path::new("/usr"));
    }
}
