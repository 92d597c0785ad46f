//! The bench's nodes: commands on them with deadlines, and an end for them whatever happens.

use std::{
    io::{Read, Seek},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    cmd, product,
    progress::Progress,
    vm::{
        cluster::{Cluster, State},
        up,
    },
};

/// How long a command on a node may take unless its caller says otherwise.
pub const LIMIT: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(5);

/// Nodes n1 and n2. They go down when this is dropped, and at SIGINT or SIGTERM.
pub struct Guests {
    cluster: Cluster,
    /// What was booted.
    pub state: State,
}

impl Guests {
    /// Boots the nodes, with our own programs on them.
    pub fn up(wanted: &up::Wanted, progress: &Progress) -> Result<Self> {
        let cluster = Cluster::named("bench")?;
        down_at_signals()?;
        let state = up::up(&cluster, wanted, progress)?;
        let guests = Self { cluster, state };
        let step = progress.step("putting the bench's programs on the nodes");
        guests.push_programs()?;
        step.done();
        Ok(guests)
    }

    fn push_programs(&self) -> Result<()> {
        let names = ["workload", "bench"];
        let mut build = product::cargo("build");
        build.args(["--package", "scx_mosix"]).args(names.iter().flat_map(|name| ["--example", name]));
        cmd::run(&mut build).context("cannot build the bench's programs")?;
        let examples = product::target_dir().join(product::TARGET).join("debug/examples");
        let stripped = tempfile::tempdir()?;
        for name in names {
            let path = stripped.path().join(name);
            cmd::output(std::process::Command::new("strip").arg("-o").arg(&path).arg(examples.join(name)))?;
            for node in 1..=self.state.nodes() {
                self.cluster.access(node, "root")?.push(&path, &format!("/usr/local/bin/{name}"))?;
            }
        }
        Ok(())
    }

    /// Runs a bash script as root on a node and returns what it printed, without the last line's
    /// end. A failure's error holds what it printed on stderr.
    pub fn bash(&self, node: &str, script: &str) -> Result<String> {
        self.bash_within(node, LIMIT, script)
    }

    /// The same, with a deadline of its own: after it the script is killed here and there.
    pub fn bash_within(&self, node: &str, limit: Duration, script: &str) -> Result<String> {
        let access = self.cluster.access(self.cluster.node(&self.state, node)?, "root")?;
        access.connect()?;
        let seconds = limit.as_secs().to_string();
        let words = ["timeout", "-k", "5", &seconds, "bash", "-c", script].map(str::to_owned);
        let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut command = access.command(&words);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
        let mut child = command.spawn().context("cannot start ssh")?;
        // The guest's own timeout comes first, unless the guest hangs.
        let until = Instant::now() + limit + Duration::from_secs(15);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{node} does not answer");
            }
            std::thread::sleep(POLL);
        };
        let text = |file: &mut std::fs::File| -> Result<String> {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        let (out, err) = (text(&mut out)?, text(&mut err)?);
        match cmd::shell_status(status) {
            0 => Ok(out),
            124 => bail!("not done on {node} within {seconds} s: {}", cmd::tail(&err, 10)),
            // ssh's own: it does not say which signal.
            255 => bail!(
                "a signal ended it on {node}, or the connection broke; {node}'s kernel says: {}",
                self.kernel_log(node)
            ),
            status => bail!("failed on {node} with status {status}: {}", cmd::tail(&err, 15)),
        }
    }

    fn kernel_log(&self, node: &str) -> String {
        let tail =
            self.cluster.node(&self.state, node).and_then(|node| self.cluster.access(node, "root")).and_then(
                |access| cmd::output(&mut access.command(&["sh", "-c", "dmesg | tail -n 5"].map(str::to_owned))),
            );
        tail.unwrap_or_else(|error| format!("{error:#}"))
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.down() {
            eprintln!("xtask: {error:#}");
        }
    }
}

/// Takes the nodes down and ends this process when it is told to end.
fn down_at_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => libc::SIGINT,
                _ = terminate.recv() => libc::SIGTERM,
            }
        });
        if let Err(error) = Cluster::named("bench").and_then(|cluster| cluster.down()) {
            eprintln!("xtask: {error:#}");
        }
        std::process::exit(128 + number);
    });
    Ok(())
}
