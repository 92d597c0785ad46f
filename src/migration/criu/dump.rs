//! A dump without pages of a frozen tree.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair},
};
use tokio::{process::Child, time::Instant};

use super::{
    Connection, CriuError, LOG_NAME, Program, Step,
    log::reason_in,
    program::{CGROUP_FD, HOST_ROOT_FD, IMAGES_FD, PAGES_FD},
};
use crate::{
    proto::criu::{CgroupMode, Options, RequestType},
    sys::pidfd,
};

/// The page server's message `PS_IOV_CLOSE` of criu/page-xfer.c: the command's number in a header
/// of 24 bytes.
const CLOSE_MESSAGE: [u8; 24] = {
    let mut message = [0; 24];
    message[0] = 0x23;
    message[1] = 0x10;
    message
};

/// Largest unlinked but open file that goes along in the images, in bytes.
pub const MAX_UNLINKED_BYTES: u32 = 8 << 20;

/// What to dump.
pub struct DumpRequest {
    /// Root of the tree as this node numbers it, if CRIU must enter its namespaces.
    pub enter: Option<i32>,
    /// The cgroup with the tree and nothing else, frozen.
    pub cgroup: PathBuf,
    /// An empty directory for the images.
    pub images: PathBuf,
    /// How long it may take.
    pub limit: Duration,
}

/// A CRIU that waits for the word to dump. It is started before the process tree is frozen, because
/// that takes as long as the dump of a small program. Dropped, it ends.
pub struct Dumper {
    request: DumpRequest,
    child: Child,
    connection: Connection,
    /// Must stay open until CRIU has answered.
    _page_client: OwnedFd,
}

impl Dumper {
    /// Starts CRIU.
    pub fn start(program: &Program, request: DumpRequest) -> Result<Self, CriuError> {
        let directory = |path: &Path| {
            rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| CriuError::Image { name: path.display().to_string(), what: errno.to_string() })
        };
        let images = directory(&request.images)?;
        let (cgroup, root) = (directory(&request.cgroup)?, directory(Path::new("/"))?);
        let (page_client, pages) = closing_page_client()?;
        let guest = request.enter.map(pidfd::open).transpose().map_err(CriuError::Start)?;
        let (child, connection) = program.start(
            guest.as_ref().map(AsFd::as_fd),
            &[
                (images.as_fd(), IMAGES_FD),
                (cgroup.as_fd(), CGROUP_FD),
                (pages.as_fd(), PAGES_FD),
                (root.as_fd(), HOST_ROOT_FD),
            ],
        )?;
        Ok(Self { request, child, connection, _page_client: page_client })
    }

    /// Dumps the tree whose root has the number `pid` in the namespace where CRIU runs; the tree is
    /// frozen afterwards as it was before.
    ///
    /// Not to be cancelled: CRIU lends the process tree code of its own meanwhile, and takes it
    /// back only if it can finish. So CRIU continues to its end even if this future is dropped, and
    /// is killed only when the limit is over.
    pub async fn dump(self, pid: i32) -> Result<(), CriuError> {
        let Self { request, mut child, connection, _page_client } = self;
        let options = Options {
            images_dir_fd: -1,
            images_dir: Some(format!("/proc/self/fd/{IMAGES_FD}")),
            pid: Some(pid),
            leave_running: Some(true),
            shell_job: Some(true),
            log_level: Some(2),
            log_file: Some(LOG_NAME.into()),
            manage_cgroups_mode: Some(CgroupMode::Ignore as i32),
            ghost_limit: Some(MAX_UNLINKED_BYTES),
            freeze_cgroup: Some(format!("/proc/self/fd/{CGROUP_FD}")),
            timeout: Some(u32::try_from(request.limit.as_secs()).unwrap_or(u32::MAX)),
            lazy_pages: Some(true),
            ..Default::default()
        };
        let outcome = talk(&connection, options, request.limit).await;
        if matches!(outcome, Err(CriuError::TimedOut(_))) {
            // Nothing more can be done for it: its parasite ends by itself when CRIU has gone.
            let _ = child.start_kill();
        }
        let _ = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
        outcome.map_err(|error| match error {
            CriuError::Failed { what, why } => {
                CriuError::Failed { what, why: reason_in(&request.images.join(LOG_NAME)).or(why) }
            }
            CriuError::Ended(_) => CriuError::Ended(reason_in(&request.images.join(LOG_NAME))),
            other => other,
        })
    }
}

async fn talk(connection: &Connection, options: Options, limit: Duration) -> Result<(), CriuError> {
    let until = Instant::now() + limit;
    connection.request(RequestType::Dump, Some(options)).await?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match connection.next(left).await? {
            Step::Reached(_) => connection.resume(true).await?,
            Step::Finished(response) if response.success && response.r#type() == RequestType::Dump => return Ok(()),
            Step::Finished(response) => return Err(CriuError::Failed { what: "dump it", why: response.cr_errmsg }),
        }
    }
}

/// CRIU's page server as a socket pair whose client has already said that it wants nothing: our
/// end, which must stay open until CRIU has answered, and CRIU's.
fn closing_page_client() -> Result<(OwnedFd, OwnedFd), CriuError> {
    let failed = |errno: rustix::io::Errno| CriuError::Socket { what: "page server", source: errno.into() };
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
    rustix::net::send(&ours, &CLOSE_MESSAGE, SendFlags::NOSIGNAL).map_err(failed)?;
    Ok((ours, theirs))
}
