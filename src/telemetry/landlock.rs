//! Which processes have confined themselves by Landlock, of which the kernel tells nothing in
//! /proc.
//!
//! ```text
//!   daemon: publish ── bpf/landlock.bpf.c, a task iterator ──► pinned in bpffs ──► read by daemon and agents: Confined::look
//! ```
//!
//! Agents outlive their daemon, and so does the pinned program: it is there until the machine
//! reboots or the next daemon replaces it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::Path,
};

use aya::{
    Btf, EbpfLoader,
    programs::{Iter, links::FdLink},
};
use nix::mount::{MsFlags, mount};

use super::{
    TelemetryError,
    bpf::{program, refused},
};

/// Where bpffs is.
const BPFFS: &str = "/sys/fs/bpf";
/// Our directory there.
const DIR: &str = "/sys/fs/bpf/scx_mosix";
/// The list: reading it runs the iterator.
const LIST: &str = "/sys/fs/bpf/scx_mosix/landlocked";
/// `BPF_FS_MAGIC` of linux/magic.h.
const BPFFS_MAGIC: u64 = 0xcafe_4a11;
/// The iterator, and the variable of the kernel that it must know.
const ITERATOR: &str = "landlocked";
const BLOB_SIZES: &str = "landlock_blob_sizes";

/// Which processes are confined by Landlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confined {
    /// None: this kernel has no Landlock, or it was not enabled at boot.
    Never,
    /// These, as the initial pid namespace numbers them, in which daemon and agents live.
    Known(BTreeSet<i32>),
    /// It cannot be known: no daemon could publish the list since boot.
    Unknown,
}

impl Confined {
    /// Looks now, at all processes of the machine; that costs less than a millisecond per thousand
    /// of them.
    pub fn look() -> Self {
        if !is_enabled() {
            return Self::Never;
        }
        match fs::read_to_string(LIST).ok().and_then(|text| parse_list(&text)) {
            Some(pids) => Self::Known(pids),
            None => Self::Unknown,
        }
    }
}

/// Makes the list, in place of an earlier one. Blocks for as long as it takes to read the kernel's
/// symbols.
///
/// # Errors
/// [`TelemetryError::Refused`] with what the kernel or aya said.
pub fn publish() -> Result<(), TelemetryError> {
    if !is_enabled() {
        return Ok(());
    }
    let refused_io = |what| move |error: io::Error| refused(what, &error);
    let symbols = File::open("/proc/kallsyms").map_err(refused_io("the kernel's symbols"))?;
    let address = find_symbol(BufReader::new(symbols), BLOB_SIZES).map_err(refused_io("the kernel's symbols"))?;
    let not_there = || TelemetryError::Refused {
        what: "a list of programs confined by Landlock".into(),
        reason: format!("/proc/kallsyms does not tell where {BLOB_SIZES} is"),
    };
    let address = address.ok_or_else(not_there)?;
    let btf = Btf::from_sys_fs().map_err(|error| refused("the kernel's types (/sys/kernel/btf/vmlinux)", &error))?;
    let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/landlock.bpf.o"));
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global(BLOB_SIZES, &address, true)
        .load(object)
        .map_err(|error| refused(ITERATOR, &error))?;
    let iterator: &mut Iter = program(&mut ebpf, ITERATOR)?;
    iterator.load("task", &btf).map_err(|error| refused(ITERATOR, &error))?;
    let link = iterator.attach().map_err(|error| refused(ITERATOR, &error))?;
    let link = iterator.take_link(link).map_err(|error| refused(ITERATOR, &error))?;
    let link = FdLink::try_from(link).map_err(|error| refused(ITERATOR, &error))?;

    mount_bpffs().map_err(refused_io(BPFFS))?;
    fs::create_dir_all(DIR).map_err(refused_io(DIR))?;
    if fs::metadata(DIR).map_err(refused_io(DIR))?.uid() != 0 {
        // Where every user may write to bpffs, a user could have made it first, and would say who
        // is confined.
        return Err(refused(DIR, &io::Error::other("it is not root's")));
    }
    // Under another name first: an agent that looks meanwhile finds the old list or the new one.
    let new = format!("{LIST}-new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(&new, &error)),
        _ => {}
    }
    link.pin(&new).map_err(|error| refused(&new, &error))?;
    fs::rename(&new, LIST).map_err(refused_io(LIST))
}

fn mount_bpffs() -> io::Result<()> {
    if rustix::fs::statfs(BPFFS)?.f_type as u64 == BPFFS_MAGIC {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("bpf"), Path::new(BPFFS), Some("bpf"), flags, Some("mode=700"))?)
}

/// Whether processes of this machine can confine themselves.
fn is_enabled() -> bool {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the call takes no memory, makes nothing and tells the version of the
    // interface.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0usize, VERSION) };
    // Not built in, or not enabled. Whatever else comes, it is there.
    version >= 0 || !matches!(io::Error::last_os_error().raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP))
}

/// The address of a symbol in the text of /proc/kallsyms; `None` if it is not there or hidden from
/// us.
fn find_symbol(symbols: impl BufRead, name: &str) -> io::Result<Option<u64>> {
    for line in symbols.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        if let (Some(address), Some(found)) = (words.next(), words.nth(1))
            && found == name
        {
            return Ok(u64::from_str_radix(address, 16).ok().filter(|address| *address != 0));
        }
    }
    Ok(None)
}

/// One number a line, the same for each thread of a process; `None` if there is anything else.
fn parse_list(text: &str) -> Option<BTreeSet<i32>> {
    text.lines().map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_found_by_its_whole_name() {
        let text = "ffffffff81000000 T landlock_blob_sizes_of\nffffffff83a4b2c0 D landlock_blob_sizes\n\
                    0000000000000000 d hidden\nffffffffc0000000 t modular\t[ext4]\n";
        let find = |name| find_symbol(text.as_bytes(), name).unwrap();
        assert_eq!(find("landlock_blob_sizes"), Some(0xffff_ffff_83a4_b2c0));
        assert_eq!(find("modular"), Some(0xffff_ffff_c000_0000));
        assert_eq!(find("hidden"), None);
        assert_eq!(find("landlock"), None);
    }

    #[test]
    fn a_list_is_numbers_and_nothing_else() {
        assert_eq!(parse_list(""), Some(BTreeSet::new()));
        assert_eq!(parse_list("204\n7\n204\n"), Some(BTreeSet::from([7, 204])));
        assert_eq!(parse_list("204\n?\n"), None);
    }
}
