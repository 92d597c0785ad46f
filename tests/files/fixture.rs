//! A tree at "home", its mount at the "guest", and the link between them, which a test can cut or silence.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use scx_mosix::home::files::{FileChannel, FileServer, MAX_IN_FLIGHT, Mounted, Settled, mount};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// Longest time that anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Locked for reading by whoever mounts or unmounts something.
static MOUNTS: RwLock<()> = RwLock::new(());

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
    /// Mounts an empty tree, writable for everybody.
    pub fn new() -> Self {
        Self::where_settled(Duration::MAX)
    }

    /// The same, where what only root can change is believed for a while however lately it was changed.
    pub fn that_believes() -> Self {
        Self::where_settled(Duration::ZERO)
    }

    fn where_settled(after: Duration) -> Self {
        use std::os::unix::fs::PermissionsExt;
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
        let settled = || Settled::after(digests.path(), after);
        let server = FileServer::new(root.into(), settled()).unwrap();
        tokio::spawn(async move { server.serve(from_guest, to_guest).await.unwrap() });
        let channel = FileChannel::new(to_home, from_home);
        let mounting = mounting();
        let mounted = mount(guest.path(), channel.clone(), settled()).expect("these tests need root and /dev/fuse");
        drop(mounting);
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
        let _mounting = mounting();
        drop(self.mounted.take());
    }

    /// Runs a shell script in the guest's tree, `$HOME_TREE` being home's; it must succeed. Returns what it printed.
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

/// To be held while something is mounted or unmounted.
pub fn mounting() -> impl Sized {
    MOUNTS.read().unwrap_or_else(PoisonError::into_inner)
}

/// While this is held, home does not tell its guests that everything may have changed: home is this machine, so it notices what
/// any test mounts.
pub fn nothing_is_mounted() -> impl Sized {
    let alone = MOUNTS.write().unwrap_or_else(PoisonError::into_inner);
    // What was mounted before is told by then: it takes some 40 ms, and longer where the tests have to share a processor.
    std::thread::sleep(Duration::from_secs(1));
    alone
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
