//! The process tree's pipes, terminal and shared files as this agent holds them.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use rustix::fs::{SeekFrom, fstat, seek};

use super::restore::RelayedEnd;
use crate::{
    guest::relay::{GuestRelays, Made, make, terminal},
    link::StdioSender,
    protocol::{
        home::{Channel, ChannelKind, FileOffset, SharedFile},
        moves::{Descriptors, Relayed},
    },
    sys::{descriptor::is_same_description, pidfd, proc::Process},
};

/// Our ends of the process tree's channels, made for a restore.
#[derive(Default)]
pub struct Ends {
    made: Vec<Made>,
    relayed: Vec<Relayed>,
    terminal: Option<Channel>,
}

impl Ends {
    /// Makes a pipe for each relayed pipe. Returns the process tree's ends too; the terminal is
    /// made by the guest's pid 1.
    ///
    /// # Errors
    /// If the system has no more pipes.
    pub fn make(relayed: &[Relayed]) -> io::Result<(Self, Vec<RelayedEnd>)> {
        let (mut ends, mut tree_ends) = (Self::default(), Vec::new());
        for Relayed { channel, criu_key } in relayed {
            if channel.kind == ChannelKind::Tty {
                ends.terminal = Some(*channel);
                continue;
            }
            let (made, descriptor) = make(*channel)?;
            // What CRIU will call it when the process tree moves on: both ends of a pipe are one
            // inode.
            let inode = fstat(&descriptor)?.st_ino;
            ends.relayed.push(Relayed { channel: *channel, criu_key: format!("pipe:[{inode}]") });
            ends.made.push(made);
            tree_ends.push(RelayedEnd { criu_key: criu_key.clone(), descriptor });
        }
        Ok((ends, tree_ends))
    }

    /// Adds the terminal that pid 1 has made, if the process tree has one.
    ///
    /// # Errors
    /// If pid 1 has not made it, or it cannot be used.
    pub fn add_terminal(&mut self, master: Option<OwnedFd>) -> io::Result<()> {
        match (self.terminal, master) {
            (None, _) => Ok(()),
            (Some(channel), Some(master)) => {
                self.made.push(terminal(channel, master)?);
                self.relayed.push(Relayed { channel, criu_key: String::new() });
                Ok(())
            }
            (Some(_), None) => Err(io::Error::other("the guest's terminal was not made")),
        }
    }

    /// Starts relaying.
    ///
    /// # Errors
    /// If a descriptor cannot be watched.
    pub fn relay(self, link: &StdioSender) -> io::Result<(Arc<GuestRelays>, Vec<Relayed>)> {
        Ok((Arc::new(GuestRelays::start(self.made, link)?), self.relayed))
    }
}

/// A file whose offset home wants to know, by a descriptor of ours that shares it.
pub struct HeldFile {
    id: u32,
    descriptor: OwnedFd,
}

/// Takes hold of the shared files of a process tree that stands still.
///
/// # Errors
/// If one of them cannot be taken: then the process tree is not what the source said.
pub fn hold_files(files: &[SharedFile], processes: &[Process]) -> io::Result<Vec<HeldFile>> {
    files
        .iter()
        .map(|file| {
            let process = processes.iter().find(|process| process.inner_pid == file.pid);
            let process = process.ok_or_else(|| io::Error::other(format!("process {} is not there", file.pid)))?;
            let descriptor = pidfd::duplicate(pidfd::open(process.pid)?, file.fd)?;
            Ok(HeldFile { id: file.id, descriptor })
        })
        .collect()
}

/// Where the files stand.
pub fn offsets(files: &[HeldFile]) -> Vec<FileOffset> {
    let offset = |file: &HeldFile| {
        // Not seekable: then there is no offset to keep.
        let offset = seek(&file.descriptor, SeekFrom::Current(0)).ok()?;
        Some(FileOffset { id: file.id, offset: i64::try_from(offset).ok()? })
    };
    files.iter().filter_map(offset).collect()
}

/// The table for the next target: what the process tree, which stands still, still has open of the
/// shared files. Its descriptors may have changed since it came, so each is looked for.
///
/// # Errors
/// If /proc cannot be read.
pub fn find_files(files: &[HeldFile], processes: &[Process]) -> io::Result<Vec<SharedFile>> {
    let own = std::process::id().cast_signed();
    let mut found = Vec::new();
    for file in files {
        'search: for process in processes.iter().filter(|process| process.state != 'Z') {
            for entry in std::fs::read_dir(process.proc("fd"))? {
                let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                if is_same_description((own, file.descriptor.as_raw_fd()), (process.pid, fd))? {
                    found.push(SharedFile { id: file.id, pid: process.inner_pid, fd });
                    break 'search;
                }
            }
        }
    }
    Ok(found)
}

/// What the next target must know.
///
/// # Errors
/// If /proc cannot be read.
pub fn descriptors(relayed: &[Relayed], files: &[HeldFile], processes: &[Process]) -> io::Result<Descriptors> {
    Ok(Descriptors { relayed: relayed.to_vec(), shared_files: find_files(files, processes)? })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_shared_description_is_found_and_its_offset_known() {
        let mut file = tempfile::tempfile().unwrap();
        let pid = std::process::id() as i32;
        let process = Process::read(pid).unwrap().unwrap();
        let shared = SharedFile { id: 4, pid: process.inner_pid, fd: file.as_raw_fd() };
        let held = hold_files(&[shared], std::slice::from_ref(&process)).unwrap();
        file.write_all(b"12345").unwrap();
        assert_eq!(offsets(&held), [FileOffset { id: 4, offset: 5 }]);
        let found = find_files(&held, &[process]).unwrap();
        assert_eq!((found.len(), found[0].id), (1, 4));
        let other = tempfile::tempfile().unwrap();
        assert!(!is_same_description((pid, held[0].descriptor.as_raw_fd()), (pid, other.as_raw_fd())).unwrap());
        assert!(is_same_description((pid, held[0].descriptor.as_raw_fd()), (pid, found[0].fd)).unwrap());
    }
}
