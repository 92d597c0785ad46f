//! One node: its root file system, and how a process becomes the node's first process.

use super::cgroups::{Limits, NodeGroups};
use super::facts::may_raise_limits;
use crate::cmd;
use crate::vm::cluster::{Cluster, RootKind, State};
use crate::vm::image::{Image, Locked};
use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount};
use rustix::process::{Resource, Rlimit, chdir, getpid, getrlimit, pivot_root, set_child_subreaper, setrlimit, setsid};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The script that a node's first process becomes.
const INIT: &str = "/usr/local/sbin/node-init";

/// Device files of a node, by their names in /dev; the numbers are the machine's own.
const DEVICES: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun"];

/// The limit of descriptors that systemd gives its services and sessions.
const DESCRIPTORS: u64 = 524_288;

/// The shell of `user` where root may not raise limits of other users' programs: he is root with
/// few capabilities there.
const RESTRICTED_SHELL: &str = "/usr/local/sbin/restricted-shell";

/// Where a node's files lie on this machine.
pub struct Files {
    /// The root file system, or where it is mounted if it is an overlay.
    pub root: PathBuf,
    /// What the node wrote, if its root is an overlay.
    upper: PathBuf,
    work: PathBuf,
}

impl Files {
    /// The files of node `node`.
    pub fn of(cluster: &Cluster, node: usize) -> Self {
        let path = |kind: &str| cluster.dir.join(format!("n{node}.{kind}"));
        Self { root: path("root"), upper: path("upper"), work: path("work") }
    }

    /// Whether any of them is there.
    pub fn exist(&self) -> bool {
        [&self.root, &self.upper, &self.work].into_iter().any(|dir| dir.exists())
    }

    /// Takes them out of the way and removes them in the background: that takes seconds.
    pub fn discard(&self) -> Result<()> {
        // target/vm/trash: on the same file system, and no cluster's.
        let trash = self.root.ancestors().nth(3).unwrap_or(&self.root).join("trash");
        fs::create_dir_all(&trash)?;
        let place = tempfile::Builder::new().prefix("node").tempdir_in(&trash)?.keep();
        for dir in [&self.root, &self.upper, &self.work] {
            if let (true, Some(name)) = (dir.exists(), dir.file_name()) {
                fs::rename(dir, place.join(name)).with_context(|| format!("cannot remove {}", dir.display()))?;
            }
        }
        let mut remove = Command::new("rm");
        remove.arg("-rf").arg(&place).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        remove.process_group(0).spawn().map(drop).context("cannot start rm")
    }
}

/// The image's root as files, unpacked once per image. Nodes copy it, or lay an overlay over it.
pub fn unpacked_root(image: &Image) -> Result<PathBuf> {
    let root = image.dir.join("root");
    let _locked = Locked::wait("image-root")?;
    if root.is_dir() {
        return Ok(root);
    }
    let unfinished = image.dir.join("root.unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir(&unfinished)?;
    let mut unpack = Command::new("tar");
    unpack.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]).arg(image.dir.join("root.tar"));
    cmd::output(unpack.arg("-C").arg(&unfinished)).context("cannot unpack the image's root")?;
    fs::rename(&unfinished, &root)?;
    Ok(root)
}

/// Makes the root file system of a node that has none yet.
pub fn make_root(cluster: &Cluster, state: &State, node: usize) -> Result<()> {
    let files = Files::of(cluster, node);
    let image = Image { dir: state.image.clone() };
    let base = unpacked_root(&image)?;
    let written = match state.root {
        RootKind::Copy => {
            let mut copy = Command::new("cp");
            copy.args(["-a", "--reflink=auto"]).arg(&base).arg(&files.root);
            cmd::output(&mut copy).with_context(|| format!("cannot copy the root of n{node}"))?;
            &files.root
        }
        RootKind::Overlay => {
            for dir in [&files.root, &files.upper, &files.work] {
                fs::create_dir_all(dir)?;
            }
            &files.upper
        }
    };
    let mut copy = Command::new("cp");
    copy.args(["-R", "--preserve=mode,timestamps,links"]).arg(cluster.stage().join(".")).arg(written);
    cmd::output(&mut copy).with_context(|| format!("cannot put the cluster's files on n{node}"))?;
    if !may_raise_limits() {
        let passwd = fs::read_to_string(base.join("etc/passwd"))?;
        let etc = written.join("etc");
        fs::create_dir_all(&etc)?;
        fs::write(etc.join("passwd"), restrict_user(&passwd))?;
    }
    Ok(())
}

/// The user database in which `user` is root with a shell that gives up most capabilities.
fn restrict_user(passwd: &str) -> String {
    let line = |line: &str| match line.strip_prefix("user:") {
        Some(_) => format!("user:x:0:0::/home/user:{RESTRICTED_SHELL}\n"),
        None => format!("{line}\n"),
    };
    passwd.lines().map(line).collect()
}

/// What the node may use.
pub fn limits(state: &State) -> Limits {
    Limits { cpus: state.cpus, memory_mib: state.memory_mib }
}

/// Turns this process into the first process of node `node`; returns only if that fails.
pub fn become_node(cluster: &Cluster, state: &State, node: usize) -> Result<()> {
    let groups = NodeGroups::of(&cluster.id(), node)?;
    setsid().context("cannot begin a session")?;
    groups.enter()?;
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWCGROUP;
    // SAFETY: none of the flags shares or splits descriptors between threads, and this process has
    // one thread.
    unsafe { unshare_unsafe(flags) }.context("cannot make the node's namespaces")?;
    let base = Image { dir: state.image.clone() }.dir.join("root");
    mount_all(&Files::of(cluster, node), state.root, &base)?;
    // Orphans become children of this process, which reaps them: the machine's own process 1 may
    // not.
    set_child_subreaper(Some(getpid())).context("cannot become a subreaper")?;
    raise_descriptor_limit()?;
    let mut init = Command::new(INIT);
    init.env_clear().args([node.to_string(), state.nodes().to_string(), u8::from(state.daemon).to_string()]);
    init.arg(daemon_flags(state, &groups)).arg(cluster.files(node).pid);
    Err(init.exec()).with_context(|| format!("cannot start {INIT} in n{node}"))
}

/// What the daemon is told of a machine that it sees only in part.
fn daemon_flags(state: &State, groups: &NodeGroups) -> String {
    // One kernel can have one sched_ext scheduler, so no node may attach its own.
    let mut flags = "--no-sched-ext".to_owned();
    if groups.limits_are_hidden() {
        flags += &format!(" --cpus {} --memory {}", state.cpus, state.memory_mib);
    }
    flags
}

fn raise_descriptor_limit() -> Result<()> {
    let hard = if may_raise_limits() { Some(DESCRIPTORS) } else { getrlimit(Resource::Nofile).maximum };
    let limit = Rlimit { current: Some(1024), maximum: hard };
    setrlimit(Resource::Nofile, limit).context("cannot set the limit of descriptors")
}

fn mount_all(files: &Files, kind: RootKind, base: &Path) -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make the mounts private")?;
    let root = &files.root;
    match kind {
        RootKind::Copy => mount_bind(root, root).context("cannot bind the node's root")?,
        RootKind::Overlay => {
            let options = format!(
                "lowerdir={},upperdir={},workdir={}\0",
                base.display(),
                files.upper.display(),
                files.work.display()
            );
            let options = CStr::from_bytes_with_nul(options.as_bytes())?;
            mount("overlay", root, "overlay", MountFlags::empty(), options)
                .with_context(|| format!("cannot mount an overlay on {}", root.display()))?;
        }
    }
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let file_systems: [(&str, &str, MountFlags, &CStr); 8] = [
        ("proc", "proc", quiet, c""),
        ("sysfs", "sys", quiet, c""),
        ("cgroup2", "sys/fs/cgroup", quiet, c""),
        ("bpf", "sys/fs/bpf", quiet, c""),
        ("tmpfs", "dev", MountFlags::NOSUID, c"mode=755"),
        ("devpts", "dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, c"newinstance,gid=5,mode=620,ptmxmode=666"),
        ("tmpfs", "dev/shm", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777"),
        ("tmpfs", "run", MountFlags::NOSUID | MountFlags::NODEV, c"mode=755"),
    ];
    for (kind, place, flags, options) in file_systems {
        let place = root.join(place);
        fs::create_dir_all(&place)?;
        mount(kind, &place, kind, flags, options)
            .with_context(|| format!("cannot mount {kind} on {}", place.display()))?;
    }
    make_devices(&root.join("dev"))?;
    chdir(root)?;
    // The old root ends up below the new one, from where it is taken away (pivot_root(2)).
    pivot_root(".", ".").context("cannot make the node's root the root")?;
    unmount(".", UnmountFlags::DETACH).context("cannot leave the machine's root")?;
    chdir("/")?;
    Ok(())
}

fn make_devices(dev: &Path) -> Result<()> {
    for name in DEVICES {
        let Ok(metadata) = fs::metadata(Path::new("/dev").join(name)) else {
            // Without it the node misses a device that the machine has not got either.
            continue;
        };
        let place = dev.join(name);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        let number = makedev(rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        mknodat(CWD, &place, FileType::CharacterDevice, Mode::from_raw_mode(0o666), number)
            .with_context(|| format!("cannot make the device {}", place.display()))?;
        fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    }
    let links =
        [("pts/ptmx", "ptmx"), ("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")];
    for (target, name) in links {
        symlink(target, dev.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_test_user_is_restricted() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/home/user:/bin/bash\n";
        let restricted = restrict_user(passwd);
        assert!(restricted.starts_with("root:x:0:0:root:/root:/bin/bash\n"));
        assert!(restricted.ends_with(&format!("user:x:0:0::/home/user:{RESTRICTED_SHELL}\n")));
    }
}
