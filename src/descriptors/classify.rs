//! What is to become of each descriptor when its program moves, from home or on from a guest: pure,
//! over facts that [`super`] has gathered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::protocol::home::ChannelKind;

/// How a descriptor was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// For reading.
    Read,
    /// For writing.
    Write,
    /// For both, or by path only.
    Both,
}

/// What a descriptor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A regular file or a directory.
    File {
        /// Its size in bytes if it has no name any more.
        nameless_bytes: Option<u64>,
        /// Whether it is a regular file.
        is_regular: bool,
    },
    /// An anonymous pipe.
    Pipe {
        /// Its inode, which names it.
        inode: u64,
    },
    /// A named pipe.
    Fifo,
    /// A terminal.
    Tty {
        /// Its device number.
        device: u64,
        /// Whether it is the process's controlling terminal.
        is_controlling: bool,
    },
    /// A Unix socket.
    UnixSocket {
        /// Its inode.
        inode: u64,
        /// The inode of the socket that it is connected with.
        peer: Option<u64>,
    },
    /// Another socket, described.
    OtherSocket(String),
    /// An anonymous inode, by the name in brackets.
    Anonymous(String),
    /// A character device.
    CharDevice {
        /// Major and minor number.
        number: (u32, u32),
    },
    /// A block device.
    BlockDevice,
    /// Memory without a name in the file system.
    Memory,
}

/// One descriptor of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The process.
    pub pid: i32,
    /// Its number there.
    pub fd: i32,
    /// How it was opened.
    pub access: Access,
    /// What it is.
    pub what: What,
    /// What /proc calls it.
    pub target: String,
}

/// Where a job is when its descriptors are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Surroundings {
    /// At home, among other programs.
    Home {
        /// Inodes of the pipes and sockets that those hold.
        held: BTreeSet<u64>,
    },
    /// In a guest's namespaces: what connects programs there connects the job's own, or is relayed
    /// already.
    Guest,
}

/// What becomes of all descriptors of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To relay from home: the kind, CRIU's name, and the index of a descriptor to do it with.
    pub channels: Vec<(ChannelKind, String, usize)>,
    /// Regular files: indices of descriptors whose offset home keeps in step.
    pub files: Vec<usize>,
}

/// Directories that every node and every guest has of its own; what is open there is not elsewhere.
const OWN_DIRECTORIES: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];
/// Devices that every guest has: null, zero, full, random, urandom.
const COMMON_DEVICES: [(u32, u32); 5] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9)];
/// The name of whatever terminal controls the process that opens it.
const ANY_TERMINAL: &str = "/dev/tty";
/// Anonymous inodes that CRIU carries.
const CARRIED: [&str; 5] = ["eventpoll", "eventfd", "timerfd", "signalfd", "eventfd-file"];
/// Where a guest has its terminals.
const TERMINALS: &str = "/dev/pts/";
/// CRIU carries the contents of files without a name up to this size, in bytes.
pub const NAMELESS_LIMIT_BYTES: u64 = 1 << 20;

fn names_terminal(descriptor: &Descriptor) -> bool {
    matches!(descriptor.what, What::Tty { .. }) && descriptor.target != ANY_TERMINAL
}

/// The directory that another node has of its own, if `path` is there.
pub fn own_directory(path: impl AsRef<Path>) -> Option<&'static str> {
    OWN_DIRECTORIES.into_iter().find(|dir| path.as_ref().starts_with(dir))
}

/// Decides what becomes of `descriptors`, all those of a job.
///
/// # Errors
/// The first reason why the job cannot move, readable.
pub fn classify(descriptors: &[Descriptor], surroundings: &Surroundings) -> Result<Plan, String> {
    static NOTHING: BTreeSet<u64> = BTreeSet::new();
    let (outside, in_guest) = match surroundings {
        Surroundings::Home { held } => (held, false),
        Surroundings::Guest => (&NOTHING, true),
    };
    let mut plan = Plan::default();
    let mut pipes: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    let mut terminal: Option<(u64, usize)> = None;
    let sockets: BTreeSet<u64> = descriptors.iter().filter_map(socket_inode).collect();
    for (index, descriptor) in descriptors.iter().enumerate() {
        let refuse = |what: &str| Err(format!("descriptor {} of process {} is {what}", descriptor.fd, descriptor.pid));
        let target = &descriptor.target;
        match &descriptor.what {
            What::File { nameless_bytes: Some(bytes), .. } if *bytes > NAMELESS_LIMIT_BYTES => {
                return refuse(&format!("a deleted file of more than {} KiB: {target}", NAMELESS_LIMIT_BYTES >> 10));
            }
            What::File { is_regular, .. } => {
                if let Some(dir) = own_directory(target) {
                    return refuse(&format!("{target}, and {dir} is not home's on another node"));
                }
                if *is_regular {
                    plan.files.push(index);
                }
            }
            What::Pipe { inode } => pipes.entry(*inode).or_default().push(index),
            // CRIU carries both ends.
            What::Fifo | What::Tty { .. } | What::UnixSocket { .. } if in_guest => {}
            What::Fifo => return refuse(&format!("the named pipe {target}")),
            What::Tty { is_controlling: false, .. } => {
                return refuse(&format!("the terminal {target}, which is not its controlling terminal"));
            }
            // CRIU finds a /dev/tty's terminal by the descriptors that name it.
            What::Tty { .. } if target == ANY_TERMINAL && !descriptors.iter().any(names_terminal) => {
                return refuse("the terminal, which it knows as /dev/tty only");
            }
            What::Tty { device, .. } => match terminal {
                Some((other, _)) if other != *device => return refuse(&format!("a second terminal, {target}")),
                // The relay reads and writes: one that was opened for both is best.
                Some((_, best)) if descriptors.get(best).is_some_and(|best| best.access == Access::Both) => {}
                _ => terminal = Some((*device, index)),
            },
            What::UnixSocket { inode, peer: Some(peer) }
                if sockets.contains(peer) && !outside.contains(peer) && !outside.contains(inode) => {}
            What::UnixSocket { .. } => return refuse("a Unix socket to a program outside the job"),
            What::OtherSocket(described) => return refuse(described),
            What::Anonymous(name) if CARRIED.contains(&name.as_str()) => {}
            What::Anonymous(name) => return refuse(&format!("of the kind {name}, which cannot be carried over")),
            What::CharDevice { number } if COMMON_DEVICES.contains(number) => {}
            // A terminal that hung up answers as none.
            What::CharDevice { .. } if in_guest && target.starts_with(TERMINALS) => {}
            What::CharDevice { .. } => return refuse(&format!("the device {target}")),
            What::BlockDevice => return refuse(&format!("the block device {target}")),
            What::Memory => {}
        }
    }
    for (inode, ends) in pipes {
        plan.channels.extend(pipe_channel(descriptors, inode, &ends, outside.contains(&inode))?);
    }
    plan.channels.extend(terminal.map(|(_, index)| (ChannelKind::Tty, String::new(), index)));
    Ok(plan)
}

fn socket_inode(descriptor: &Descriptor) -> Option<u64> {
    if let What::UnixSocket { inode, .. } = descriptor.what { Some(inode) } else { None }
}

/// A pipe with one end in the job is relayed, one with both ends in it moves along, unless a
/// process outside has it as well.
fn pipe_channel(
    descriptors: &[Descriptor],
    inode: u64,
    ends: &[usize],
    is_held_outside: bool,
) -> Result<Option<(ChannelKind, String, usize)>, String> {
    let access: BTreeSet<Access> = ends.iter().filter_map(|end| descriptors.get(*end)).map(|end| end.access).collect();
    let kind = match (access.contains(&Access::Read), access.contains(&Access::Write), access.contains(&Access::Both)) {
        (true, false, false) => ChannelKind::PipeIn,
        (false, true, false) => ChannelKind::PipeOut,
        _ if !is_held_outside => return Ok(None),
        _ => {
            let end = ends.first().and_then(|end| descriptors.get(*end));
            let (fd, pid) = end.map_or((-1, 0), |end| (end.fd, end.pid));
            return Err(format!(
                "descriptor {fd} of process {pid} is a pipe whose both ends it shares with a program outside the job"
            ));
        }
    };
    Ok(ends.first().map(|end| (kind, format!("pipe:[{inode}]"), *end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(fd: i32, access: Access, what: What, target: &str) -> Descriptor {
        Descriptor { pid: 7, fd, access, what, target: target.into() }
    }

    fn home<const N: usize>(held: [u64; N]) -> Surroundings {
        Surroundings::Home { held: held.into() }
    }

    fn pipe(fd: i32, access: Access, inode: u64) -> Descriptor {
        descriptor(fd, access, What::Pipe { inode }, &format!("pipe:[{inode}]"))
    }

    fn reason(what: What, target: &str) -> String {
        classify(&[descriptor(5, Access::Both, what, target)], &home([])).unwrap_err()
    }

    #[test]
    fn one_end_is_relayed_and_two_ends_move_along() {
        let all = [
            pipe(0, Access::Read, 10),
            pipe(1, Access::Write, 11),
            pipe(2, Access::Write, 11),
            pipe(3, Access::Read, 12),
            pipe(4, Access::Write, 12),
        ];
        let plan = classify(&all, &home([10, 11])).unwrap();
        assert_eq!(
            plan.channels,
            [(ChannelKind::PipeIn, "pipe:[10]".into(), 0), (ChannelKind::PipeOut, "pipe:[11]".into(), 1)]
        );
        assert!(classify(&all, &home([12])).unwrap_err().contains("descriptor 3"));
    }

    #[test]
    fn the_terminal_is_one_channel_by_its_best_descriptor() {
        let tty = |fd, access| descriptor(fd, access, What::Tty { device: 34816, is_controlling: true }, "/dev/pts/0");
        let plan = classify(&[tty(0, Access::Read), tty(1, Access::Both), tty(2, Access::Write)], &home([])).unwrap();
        assert_eq!(plan.channels, [(ChannelKind::Tty, String::new(), 1)]);
        let second = descriptor(3, Access::Both, What::Tty { device: 34817, is_controlling: true }, "/dev/pts/1");
        assert!(classify(&[tty(0, Access::Both), second], &home([])).unwrap_err().contains("second terminal"));
        let own = || descriptor(4, Access::Both, What::Tty { device: 34816, is_controlling: true }, "/dev/tty");
        classify(&[tty(0, Access::Both), own()], &home([])).unwrap();
        assert!(classify(&[own()], &home([])).unwrap_err().contains("as /dev/tty only"));
    }

    #[test]
    fn what_cannot_move_is_told_by_name() {
        let tcp = What::OtherSocket("a TCP socket to 10.0.0.1:80".into());
        assert_eq!(reason(tcp, "socket:[3]"), "descriptor 5 of process 7 is a TCP socket to 10.0.0.1:80");
        let file = What::File { nameless_bytes: None, is_regular: true };
        assert_eq!(
            reason(file.clone(), "/proc/meminfo"),
            "descriptor 5 of process 7 is /proc/meminfo, and /proc is not home's on another node"
        );
        assert!(classify(&[descriptor(3, Access::Read, file, "/device/x")], &home([])).is_ok());
        assert!(reason(What::Anonymous("io_uring".into()), "anon_inode:[io_uring]").contains("io_uring"));
        assert!(reason(What::CharDevice { number: (10, 200) }, "/dev/net/tun").contains("/dev/net/tun"));
        assert!(reason(What::Fifo, "/tmp/f").contains("named pipe"));
    }

    #[test]
    fn socket_pairs_inside_move_along() {
        let socket = |fd, inode, peer| descriptor(fd, Access::Both, What::UnixSocket { inode, peer }, "socket:[1]");
        let pair = [socket(3, 1, Some(2)), socket(4, 2, Some(1))];
        assert_eq!(classify(&pair, &home([])), Ok(Plan::default()));
        assert!(classify(&pair, &home([2])).is_err());
        assert!(classify(&[socket(3, 1, Some(9))], &home([])).is_err());
        assert!(classify(&[socket(3, 1, None)], &home([])).is_err());
    }

    #[test]
    fn a_later_move_refuses_with_the_words_of_the_first() {
        let file = |nameless_bytes| What::File { nameless_bytes, is_regular: true };
        for (what, target) in [
            (What::OtherSocket("an inet socket".into()), "socket:[3]"),
            (What::Anonymous("io_uring".into()), "anon_inode:[io_uring]"),
            (What::CharDevice { number: (10, 200) }, "/dev/net/tun"),
            (What::BlockDevice, "/dev/sda"),
            (file(None), "/run/lock/x"),
            (file(Some(NAMELESS_LIMIT_BYTES + 1)), "/tmp/x (deleted)"),
        ] {
            let all = [descriptor(5, Access::Both, what, target)];
            let refused = classify(&all, &Surroundings::Guest);
            assert!(refused.is_err(), "{target}");
            assert_eq!(refused, classify(&all, &home([])));
        }
    }

    #[test]
    fn what_connects_a_guests_own_programs_moves_on() {
        let all = [
            pipe(0, Access::Read, 10),
            descriptor(1, Access::Both, What::Fifo, "/tmp/f"),
            descriptor(2, Access::Both, What::Tty { device: 34817, is_controlling: false }, "/dev/pts/1"),
            descriptor(3, Access::Both, What::Tty { device: 1282, is_controlling: false }, "/dev/ptmx"),
            descriptor(4, Access::Both, What::CharDevice { number: (136, 2) }, "/dev/pts/2"),
            descriptor(5, Access::Both, What::UnixSocket { inode: 1, peer: None }, "socket:[1]"),
            descriptor(6, Access::Both, What::Memory, "/memfd:x (deleted)"),
        ];
        classify(&all, &Surroundings::Guest).unwrap();
        for one in all.into_iter().skip(1).take(5) {
            let target = one.target.clone();
            assert!(classify(&[one], &home([])).is_err(), "{target}");
        }
    }

    #[test]
    fn directories_of_a_nodes_own_are_told_by_whole_names() {
        assert_eq!(own_directory("/proc/meminfo"), Some("/proc"));
        assert_eq!(own_directory("/dev"), Some("/dev"));
        assert_eq!((own_directory("/devices/x"), own_directory("pipe:[3]")), (None, None));
    }
}
