//! The same random operations on the mount and on a plain directory come to the same.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::fixture::Guest;

/// Few names, so that operations meet.
const NAMES: [&str; 8] = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "l"];

#[derive(Debug, Clone)]
enum Op {
    Write { name: usize, offset: u16, len: u16, fill: u8, append: bool, truncate: bool },
    Open { name: usize },
    WriteOpen { slot: usize, offset: u16, fill: u8 },
    Truncate { name: usize, len: u16 },
    Mkdir { name: usize },
    Remove { name: usize },
    Rename { from: usize, to: usize },
    Link { from: usize, to: usize },
    Symlink { target: usize, name: usize },
    Chmod { name: usize, mode: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    let name = || 0..NAMES.len();
    prop_oneof![
        4 => (name(), 0..20_000u16, 0..20_000u16, any::<u8>(), any::<bool>(), any::<bool>())
            .prop_map(|(name, offset, len, fill, append, truncate)| Op::Write { name, offset, len, fill, append, truncate }),
        2 => name().prop_map(|name| Op::Open { name }),
        3 => (0..4usize, 0..20_000u16, any::<u8>()).prop_map(|(slot, offset, fill)| Op::WriteOpen { slot, offset, fill }),
        2 => (name(), 0..30_000u16).prop_map(|(name, len)| Op::Truncate { name, len }),
        2 => name().prop_map(|name| Op::Mkdir { name }),
        2 => name().prop_map(|name| Op::Remove { name }),
        3 => (name(), name()).prop_map(|(from, to)| Op::Rename { from, to }),
        2 => (name(), name()).prop_map(|(from, to)| Op::Link { from, to }),
        1 => (name(), name()).prop_map(|(target, name)| Op::Symlink { target, name }),
        1 => (name(), 0..0o1000u32).prop_map(|(name, mode)| Op::Chmod { name, mode }),
    ]
}

/// One of the two directories and the files that are open in it.
struct Place {
    root: PathBuf,
    open: Vec<File>,
}

impl Place {
    /// Does it; what comes of it, as a program would see it.
    fn perform(&mut self, op: &Op) -> Result<Vec<u8>, i32> {
        let path = |name: usize| self.root.join(NAMES[name]);
        let done = match *op {
            Op::Write { name, offset, len, fill, append, truncate } => {
                let mut options = OpenOptions::new();
                options.write(true).read(true).create(true).append(append).truncate(truncate && !append);
                options.open(path(name)).and_then(|file| {
                    file.write_all_at(&vec![fill; len.into()], offset.into())?;
                    let mut back = vec![0; 40_000];
                    let len = file.read_at(&mut back, 0)?;
                    back.truncate(len);
                    Ok(back)
                })
            }
            Op::Open { name } => OpenOptions::new().read(true).write(true).open(path(name)).map(|file| {
                self.open.insert(0, file);
                self.open.truncate(4);
                vec![]
            }),
            Op::WriteOpen { slot, offset, fill } => match self.open.get(slot) {
                Some(file) => file.write_all_at(&[fill; 3000], offset.into()).and_then(|()| {
                    let mut back = vec![0; 5000];
                    let len = file.read_at(&mut back, u64::from(offset / 2))?;
                    back.truncate(len);
                    let metadata = file.metadata()?;
                    back.extend(metadata.len().to_le_bytes());
                    back.extend(metadata.nlink().to_le_bytes());
                    Ok(back)
                }),
                None => Ok(vec![]),
            },
            Op::Truncate { name, len } => OpenOptions::new()
                .write(true)
                .open(path(name))
                .and_then(|file| file.set_len(len.into()))
                .map(|()| vec![]),
            Op::Mkdir { name } => fs::create_dir(path(name)).map(|()| vec![]),
            Op::Remove { name } => match fs::symlink_metadata(path(name)) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir(path(name)).map(|()| vec![]),
                Ok(_) => fs::remove_file(path(name)).map(|()| vec![]),
                Err(error) => Err(error),
            },
            Op::Rename { from, to } => fs::rename(path(from), path(to)).map(|()| vec![]),
            Op::Link { from, to } => fs::hard_link(path(from), path(to)).map(|()| vec![]),
            Op::Symlink { target, name } => std::os::unix::fs::symlink(NAMES[target], path(name)).map(|()| vec![]),
            Op::Chmod { name, mode } => {
                fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).map(|()| vec![])
            }
        };
        done.map_err(|error| error.raw_os_error().unwrap_or(0))
    }
}

/// All that can be told of a tree, except inode numbers and times.
fn tree(root: &Path) -> Vec<(PathBuf, u32, u64, u64, Vec<u8>)> {
    let mut found = vec![];
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_file() {
                fs::read(&path).unwrap()
            } else if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                todo.push(path.clone());
                vec![]
            };
            let name = path.strip_prefix(root).unwrap().to_owned();
            let size = if metadata.is_dir() { 0 } else { metadata.len() };
            found.push((name, metadata.mode(), metadata.nlink(), size, content));
        }
    }
    found.sort();
    found
}

#[test]
fn random_operations_come_to_the_same_as_in_a_plain_directory() {
    let guest = Guest::new();
    // One mount for all cases; cases of one process must not meet in a directory.
    let number = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&proptest::collection::vec(op(), 1..120), |ops| {
        number.set(number.get() + 1);
        let name = format!("case{}", number.get());
        let plain = tempfile::tempdir().unwrap();
        fs::create_dir(guest.guest(&name)).unwrap();
        let mut here = Place { root: guest.guest(&name), open: vec![] };
        let mut there = Place { root: plain.path().to_owned(), open: vec![] };
        for op in &ops {
            prop_assert_eq!(here.perform(op), there.perform(op), "{:?}", op);
        }
        let expected = tree(plain.path());
        prop_assert_eq!(&tree(&guest.guest(&name)), &expected, "as the guest sees it");
        prop_assert_eq!(&tree(&guest.home(&name)), &expected, "as home sees it");
        Ok(())
    });
    outcome.unwrap();
}
