//! A tree at "home", its mount at the "guest", and the link between them, which a test can cut or
//! silence.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use scx_mosix::guest::files::{FileChannel, Mounted, mount};
use scx_mosix::home::files::FileServer;
use scx_mosix::link::files::{MAX_IN_FLIGHT, SILENCE_LIMIT_MS, StableFiles};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// Longest time that anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What holds for a daemon's guests too.
const SILENCE_LIMIT: Duration = Duration::from_millis(SILENCE_LIMIT_MS);

thread_local! {
    /// This test's thread, and what it starts, has mounts of its own: home is this machine, and
    /// tells its guests that everything may have changed when anything is mounted there, by
    /// whatever process.
    static OWN_MOUNTS: () = own_mounts();
}

fn own_mounts() {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("these tests need root");
}

pub struct Guest {
    mounted: Option<Mounted>,
    pub channel: Arc<FileChannel>,
    /// While `true`, the link carries nothing.
    pub stalled: watch::Sender<bool>,
    _digests: TempDir,
    home: TempDir,
    guest: TempDir,
    runtime: Option<Runtime>,
}

impl Guest {
    /// Mounts an empty tree, writable for all users.
    pub fn new() -> Self {
        Self::make(Duration::MAX, SILENCE_LIMIT)
    }

    /// The same with a home that is taken for lost after this time of silence.
    pub fn with_silence_limit(limit: Duration) -> Self {
        Self::make(Duration::MAX, limit)
    }

    /// The same, where files that only root can change are stable however lately they changed.
    pub fn with_ttl() -> Self {
        Self::make(Duration::ZERO, SILENCE_LIMIT)
    }

    fn make(stable_after: Duration, silence_limit: Duration) -> Self {
        use std::os::unix::fs::PermissionsExt;
        OWN_MOUNTS.with(|()| {});
        let (home, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [home.path(), guest.path()] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stalled, stall) = watch::channel(false);
        let entered = runtime.enter();
        let (to_home, from_guest) = lane(stall.clone());
        let (to_guest, from_home) = lane(stall);
        let root = std::fs::File::open(home.path()).unwrap();
        let digests = tempfile::tempdir().unwrap();
        let stable = || StableFiles::after(digests.path(), stable_after);
        let server = FileServer::new(root.into(), stable()).unwrap();
        tokio::spawn(async move { server.serve(from_guest, to_guest).await.unwrap() });
        let channel = FileChannel::with_silence_limit(to_home, from_home, silence_limit);
        let mounted = mount(guest.path(), channel.clone(), stable()).expect("these tests need root and /dev/fuse");
        drop(entered);
        Self { mounted: Some(mounted), channel, stalled, _digests: digests, home, guest, runtime: Some(runtime) }
    }

    /// The path of `name` at home.
    pub fn home(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The path of `name` for the guest.
    pub fn guest(&self, name: &str) -> PathBuf {
        self.guest.path().join(name)
    }

    pub fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().unwrap()
    }

    pub fn unmount(&mut self) {
        drop(self.mounted.take());
    }

    /// Runs a shell script in the guest's tree, `$HOME_TREE` being home's; it must succeed. Returns
    /// what it printed.
    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(self.guest.path(), script);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{}\n{stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a shell script in `dir`.
    pub fn try_sh(&self, dir: &Path, script: &str) -> Output {
        self.command(dir, script).output().unwrap()
    }

    /// A shell that will run a script in `dir`.
    pub fn command(&self, dir: &Path, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-euc", script]).current_dir(dir).stdin(Stdio::null());
        command.env("HOME_TREE", self.home.path()).env("GUEST_TREE", self.guest.path());
        command
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.unmount();
        // Without waiting for threads that a failed test left behind.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One direction of a link.
fn lane(mut stall: watch::Receiver<bool>) -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
    let (sender, mut input) = mpsc::channel::<Bytes>(MAX_IN_FLIGHT);
    let (output, receiver) = mpsc::channel(MAX_IN_FLIGHT);
    tokio::spawn(async move {
        while let Some(frame) = input.recv().await {
            if stall.wait_for(|stalled| !stalled).await.is_err() || output.send(frame).await.is_err() {
                return;
            }
        }
    });
    (sender, receiver)
}

/// Waits until `what` holds.
pub fn eventually(what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < PATIENCE, "it did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}
