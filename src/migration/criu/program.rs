//! Which CRIU there is and how to start it, here or where its files are reached through a
//! descriptor only.
//!
//! CRIU is always started through the dynamic loader that belongs to it, with its own libraries: so
//! the same command works from another distribution's tree, and inside a guest, whose root is
//! home's and where this node's files are reached through `/proc/self/fd/N` only.

use std::{
    ffi::OsString,
    fmt,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::sched::CloneFlags;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{Connection, CriuError, Features, Step};
use crate::{
    proto::criu::RequestType,
    sys::child::{self, Namespaces, Setup},
};

/// Names another CRIU than the system's: the path of its binary.
const PATH_VARIABLE: &str = "SCX_MOSIX_CRIU";
/// Where CRIU may be, best first. The first is for machines whose distribution has none or one that
/// is too old.
const PLACES: [&str; 4] =
    ["/usr/lib/scx_mosix/criu/usr/sbin/criu", "/usr/sbin/criu", "/usr/local/sbin/criu", "/usr/bin/criu"];
/// The loader of a dynamic x86-64 program, below the root that it belongs to.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// Where libraries lie, below the same root.
const LIBRARIES: [&str; 6] =
    ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64", "usr/local/lib", "usr/lib"];

/// Older ones cannot cope with the vDSO of today's kernels.
pub const MIN_VERSION: Version = Version { major: 4, minor: 0, patch: 0 };

/// Descriptor of the RPC socket in CRIU's process.
pub const RPC_FD: RawFd = 100;
/// Descriptor of the page server's socket in CRIU's process.
pub const PAGES_FD: RawFd = 101;
/// Descriptor of the images' directory in CRIU's process.
pub const IMAGES_FD: RawFd = 102;
/// Descriptor of the cgroup's directory in CRIU's process.
pub const CGROUP_FD: RawFd = 103;
/// Descriptor of this node's root in a CRIU that runs in a guest.
pub const HOST_ROOT_FD: RawFd = 104;
/// First descriptor for what the process tree inherits.
pub const FIRST_FREE_FD: RawFd = 110;

/// CRIU's environment. It looks for plugins; in a guest it would find home's, which need not fit,
/// so it is shown a directory without any.
const ENVIRONMENT: [(&str, &str); 2] =
    [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("CRIU_LIBS_DIR", "/proc/self/fdinfo")];

/// How long questions that need no work may take; a kernel under emulation is slow at CRIU's first
/// probes.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(60);

/// What CRIU has found out about this kernel; gone after a reboot.
const KERNEL_FACTS: &str = "/run/criu.kdat";
/// How long finding it out may take.
const LEARN_TIMEOUT: Duration = Duration::from_secs(60);

/// A version of CRIU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// As 4 in 4.1.1.
    pub major: i32,
    /// As the first 1 in 4.1.1.
    pub minor: i32,
    /// As the last 1 in 4.1.1.
    pub patch: i32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A CRIU that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The root that its loader and libraries belong to.
    root: PathBuf,
    /// The binary, without links.
    binary: PathBuf,
}

impl Program {
    /// Looks for CRIU on this node.
    pub fn find() -> Result<Self, CriuError> {
        let named = std::env::var_os(PATH_VARIABLE).map(PathBuf::from);
        let places: Vec<PathBuf> = named.into_iter().chain(PLACES.map(PathBuf::from)).collect();
        let found = places.iter().filter_map(|place| place.canonicalize().ok()).find_map(Self::at);
        found.ok_or_else(|| CriuError::Missing {
            looked_for: places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", "),
        })
    }

    fn at(binary: PathBuf) -> Option<Self> {
        let root = binary.ancestors().skip(1).find(|root| root.join(LOADER).exists())?.to_owned();
        Some(Self { root, binary })
    }

    /// Has CRIU find out what this kernel can do, unless it knows. It tries a hundred things for
    /// that, which takes longer than all else of a restore; without this it would do so in each
    /// guest again, while the process tree stands still.
    pub async fn learn_kernel(&self) {
        if Path::new(KERNEL_FACTS).exists() {
            return;
        }
        let line = self.command_line(Path::new("/"));
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).args(["check", "--feature", "mem_dirty_track"]).env_clear().envs(ENVIRONMENT);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let begun = Instant::now();
        let learnt = timeout(LEARN_TIMEOUT, command.status()).await;
        tracing::debug!(?learnt, ms = begun.elapsed().as_millis(), "criu has looked at this kernel");
    }

    /// The command line of a `criu swrk` in a guest, which must have [`HOST_ROOT_FD`] and
    /// [`RPC_FD`], and its environment.
    pub fn in_guest(&self) -> (Vec<OsString>, Vec<(&'static str, &'static str)>) {
        let mut line = self.command_line(&host_root());
        line.extend(["swrk".into(), RPC_FD.to_string().into()]);
        (line, ENVIRONMENT.to_vec())
    }

    /// The command line up to and without CRIU's own arguments, all paths below `prefix`.
    fn command_line(&self, prefix: &Path) -> Vec<OsString> {
        let below = |path: &Path| prefix.join(path.strip_prefix("/").unwrap_or(path));
        let root = below(&self.root);
        let libraries: Vec<String> = LIBRARIES.iter().map(|dir| root.join(dir).display().to_string()).collect();
        vec![
            root.join(LOADER).into(),
            "--library-path".into(),
            libraries.join(":").into(),
            below(&self.binary).into(),
            "--no-default-config".into(),
        ]
    }

    /// Starts `criu swrk`: here, or in the namespaces of a guest's process. `more` are further
    /// descriptors, each with its number there; inside a guest [`HOST_ROOT_FD`] must be one of
    /// them.
    pub(super) fn start(
        &self,
        guest: Option<BorrowedFd<'_>>,
        more: &[(BorrowedFd<'_>, RawFd)],
    ) -> Result<(Child, Connection), CriuError> {
        let (connection, theirs) = Connection::pair()?;
        let prefix = if guest.is_some() { host_root() } else { PathBuf::from("/") };
        let mut line = self.command_line(&prefix);
        if more.iter().any(|(_, number)| *number == PAGES_FD) {
            line.push(format!("--ps-socket={PAGES_FD}").into());
        }
        line.extend(["swrk".into(), RPC_FD.to_string().into()]);
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env_clear().envs(ENVIRONMENT);
        let mut descriptors = vec![(duplicate_high(&theirs)?, RPC_FD)];
        for (fd, number) in more {
            descriptors.push((duplicate_high(fd)?, *number));
        }
        let namespaces = match guest {
            Some(guest) => Namespaces::Of(duplicate_high(&guest)?, guest_namespaces()),
            None => Namespaces::Inherited,
        };
        child::set_up(command.as_std_mut(), Setup { namespaces, descriptors, ..Setup::default() });
        let child = command.spawn().map_err(CriuError::Start)?;
        Ok((child, connection))
    }
}

/// The namespaces that a guest has of its own.
fn guest_namespaces() -> CloneFlags {
    CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)
}

/// Where this node's root is for a process that has [`HOST_ROOT_FD`].
fn host_root() -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{HOST_ROOT_FD}"))
}

/// A copy of a descriptor that no number in CRIU's process collides with.
fn duplicate_high(fd: &impl std::os::fd::AsFd) -> Result<OwnedFd, CriuError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 256).map_err(|errno| CriuError::Start(errno.into()))
}

/// Which CRIU this is and what this kernel offers it.
pub async fn check(program: &Program) -> Result<(Version, Features), CriuError> {
    let (_child, connection) = program.start(None, &[])?;
    connection.request(RequestType::Version, None).await?;
    let version = match connection.next(QUESTION_TIMEOUT).await? {
        Step::Finished(response) => response.version,
        Step::Reached(_) => None,
    };
    let version = version.ok_or_else(|| CriuError::Protocol("no version".into()))?;
    let version =
        Version { major: version.major_number, minor: version.minor_number, patch: version.sublevel.unwrap_or(0) };
    let (_child, connection) = program.start(None, &[])?;
    connection.request_features().await?;
    let Step::Finished(response) = connection.next(QUESTION_TIMEOUT).await? else {
        return Err(CriuError::Protocol("a notification instead of features".into()));
    };
    if !response.success {
        return Err(CriuError::Failed { what: "probe this kernel", why: response.cr_errmsg });
    }
    Ok((version, response.features.unwrap_or_default()))
}
