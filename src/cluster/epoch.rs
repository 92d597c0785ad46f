//! Numbers that grow from start to start of a node's daemon: first incarnation, and part of its
//! gossip key.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// The epoch of this start: microseconds since 1970, or one more than the last epoch if the clock
/// went back. The last epoch is kept in `file`, which should survive a reboot
/// (`/var/lib/scx_mosix/epoch`).
///
/// If `file` cannot be read or written, the error comes *with* the epoch: with a right clock a node
/// may well continue, and should say so.
pub fn next_epoch(file: &Path) -> (u64, Option<io::Error>) {
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let now_us = u64::try_from(now_us).unwrap_or(u64::MAX);
    let (last, read_error) = match fs::read_to_string(file) {
        Ok(text) => match text.trim().parse::<u64>() {
            Ok(last) => (last, None),
            Err(_) => (0, Some(io::Error::new(io::ErrorKind::InvalidData, "it does not hold a number"))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => (0, None),
        Err(error) => (0, Some(error)),
    };
    let epoch = now_us.max(last.saturating_add(1));
    let written = write_whole(file, &format!("{epoch}\n"));
    (epoch, read_error.or(written.err()))
}

/// Replaces `file` as a whole, so that a crash leaves the old or the new one.
fn write_whole(file: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut new = PathBuf::from(file);
    new.set_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_grow_even_when_the_clock_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lib/epoch");
        let (first, error) = next_epoch(&file);
        assert!(error.is_none() && first > 1_700_000_000_000_000);
        let far = first + 1_000_000_000_000;
        fs::write(&file, format!("{far}\n")).unwrap();
        assert_eq!(next_epoch(&file).0, far + 1);
        assert_eq!(next_epoch(&file).0, far + 2);
    }

    #[test]
    fn a_damaged_file_is_reported_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("epoch");
        fs::write(&file, "rubbish").unwrap();
        let (epoch, error) = next_epoch(&file);
        assert!(error.is_some() && epoch > 0);
        assert!(next_epoch(&file).1.is_none());
        assert!(next_epoch(Path::new("/proc/nowhere/epoch")).1.is_some());
    }
}
