//! The harness's way into a node: ssh through QEMU's user-mode network.
//!
//! A new ssh connection takes an emulated guest about a second, so that one per node and user stays
//! open in the background (ssh's ControlMaster); every command is a channel of it. If it is not
//! there, the next command opens it again.

use crate::cmd;
use anyhow::{Context, Result, bail};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a guest that has started sshd may take to let us in (emulated, with all nodes booting
/// at once).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// A user's access to a node.
pub struct Access<'a> {
    /// The cluster's run directory: sockets, and the key `id`.
    pub run_dir: &'a Path,
    /// The node's number, from 1.
    pub node: usize,
    /// The port of 127.0.0.1 that leads to its sshd.
    pub port: u16,
    /// The user there.
    pub user: &'a str,
}

impl Access<'_> {
    fn socket(&self) -> PathBuf {
        self.run_dir.join(format!("n{}.{}.ssh", self.node, self.user))
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, path: PathBuf| format!("{name}={}", path.display());
        command
            .args(["-F", "/dev/null", "-o", &option("ControlPath", self.socket())])
            .args(["-o", &option("IdentityFile", self.run_dir.join("id")), "-o", "IdentitiesOnly=yes"])
            .args(["-o", &option("UserKnownHostsFile", self.run_dir.join("known_hosts")), "-o", "HostKeyAlias=node"])
            .args(["-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"])
            // What an emulated processor does fastest.
            .args(["-o", "Ciphers=aes128-ctr", "-o", "MACs=umac-64-etm@openssh.com"])
            .args(["-o", &format!("Port={}", self.port)]);
        command
    }

    fn host(&self) -> String {
        format!("{}@127.0.0.1", self.user)
    }

    /// Opens the lasting connection if it is not open.
    pub fn connect(&self) -> Result<()> {
        if self.socket().exists() && self.control("check", &[]).is_ok() {
            return Ok(());
        }
        let _ = std::fs::remove_file(self.socket());
        let until = Instant::now() + CONNECT_TIMEOUT;
        loop {
            let mut master = self.client("ssh");
            master
                .args(["-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-o", "ConnectTimeout=15", "-f", "-N"])
                .arg(self.host())
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            // It continues in the background, so not with our stderr: a reader of that would wait
            // for its end.
            let errors = self.socket().with_extension("log");
            master.stderr(std::fs::File::create(&errors)?);
            if master.status().context("cannot start ssh: run `cargo xtask setup`")?.success() {
                return Ok(());
            }
            if Instant::now() > until {
                let said = std::fs::read_to_string(&errors).unwrap_or_default();
                bail!("no ssh connection to n{} as {}: {}", self.node, self.user, cmd::tail(said.trim(), 5));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends the lasting connection, and with it what goes through it.
    pub fn disconnect(&self) {
        if self.socket().exists() {
            let _ = self.control("exit", &[]);
            let _ = std::fs::remove_file(self.socket());
        }
    }

    fn control(&self, order: &str, options: &[&str]) -> Result<String> {
        cmd::output(self.client("ssh").args(["-O", order]).args(options).arg(self.host()))
    }

    /// The local command that runs `words` on the node with exactly these arguments, and passes
    /// stdin, stdout, stderr and the exit status (128 + the signal if a signal ended it) through.
    pub fn command(&self, words: &[String]) -> Command {
        let mut command = self.client("ssh");
        command.args(["-o", "ControlMaster=no", "-T", &self.host(), "--", &remote_line(words)]);
        command
    }

    /// Becomes that command: nothing of ours stays in between.
    pub fn exec(&self, words: &[String]) -> Result<()> {
        self.connect()?;
        Err(self.command(words).exec()).context("cannot start ssh: run `cargo xtask setup`")
    }

    /// Becomes a terminal on the node.
    pub fn shell(&self) -> Result<()> {
        self.connect()?;
        let mut command = self.client("ssh");
        command.args(["-o", "ControlMaster=no", "-t", &self.host()]);
        Err(command.exec()).context("cannot start ssh: run `cargo xtask setup`")
    }

    /// Copies a file or a directory there, with its mode and times. `destination` may be a
    /// directory.
    pub fn push(&self, source: &Path, destination: &str) -> Result<()> {
        self.connect()?;
        let there = format!("{}:{destination}", self.host());
        cmd::run(self.client("scp").args(["-q", "-p", "-r", "--"]).arg(absolute(source)?).arg(there))
    }

    /// Copies a file or a directory from there.
    pub fn pull(&self, source: &str, destination: &Path) -> Result<()> {
        self.connect()?;
        let there = format!("{}:{source}", self.host());
        cmd::run(self.client("scp").args(["-q", "-p", "-r", "--"]).arg(there).arg(absolute(destination)?))
    }

    /// Makes `local` of 127.0.0.1 lead to the node's `port` for as long as the connection lasts.
    pub fn forward(&self, local: u16, port: u16) -> Result<()> {
        self.connect()?;
        // The guest's /etc/hosts gives that name the node's own address and loopback; sshd tries
        // one after the other.
        self.control("forward", &["-L", &format!("127.0.0.1:{local}:forwarded:{port}")]).map(drop)
    }
}

/// A port of 127.0.0.1 that is free at this moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("no free port on 127.0.0.1")?.local_addr()?.port())
}

/// `words` as the line that the user's shell over there is given.
///
/// ssh tells nothing of signals, so that the shell must stay and turn them into a status; its own
/// words about them ("Killed") do not belong to the program's stderr.
fn remote_line(words: &[String]) -> String {
    format!("exec 3>&2 2>/dev/null; (exec {} 2>&3 3>&-); exit $?", cmd::quote_all(words))
}

/// scp takes what has a colon before the first slash for another machine's.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("not a path: {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(words: &[&str]) -> (Option<i32>, String, String) {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let output = Command::new("sh").arg("-c").arg(remote_line(&words)).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    #[test]
    fn the_remote_line_keeps_arguments_output_and_status() {
        let (status, out, err) =
            shell(&["sh", "-c", "printf '<%s>' \"$@\"; echo oops >&2; exit 7", "x", "a  b", "$c", ""]);
        assert_eq!((status, out.as_str(), err.as_str()), (Some(7), "<a  b><$c><>", "oops\n"));
    }

    #[test]
    fn a_signal_is_a_status_and_the_shell_says_nothing_of_it() {
        assert_eq!(shell(&["sh", "-c", "kill -KILL $$"]), (Some(137), String::new(), String::new()));
    }

    #[test]
    fn a_program_that_is_not_there_is_told_on_stderr() {
        let (status, out, err) = shell(&["no-such-program"]);
        assert_eq!((status, out.as_str()), (Some(127), ""));
        assert!(err.contains("no-such-program"), "{err}");
    }
}
