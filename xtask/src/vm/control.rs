//! What the switch or the hub is told: one line of JSON on its Unix socket, one line back.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// An order about the pair of nodes `a` and `b` (numbers from 1), both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Nothing passes any more.
    Cut { a: usize, b: usize },
    /// Everything passes again.
    Heal { a: usize, b: usize },
    /// At most `mbit` 10^6 bits a second pass each way; 0 lifts the limit.
    Rate { a: usize, b: usize, mbit: u32 },
}

/// An order to the hub of a cluster whose nodes are namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HubRequest {
    /// About a pair of nodes.
    Link(Request),
    /// Start a node that is off.
    Start { node: usize },
    /// End everything of a node at once.
    PowerOff { node: usize },
    /// End everything, remove what root made, and end.
    Down,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// It is not, because …
    Refused(String),
}

impl Request {
    /// The nodes it is about.
    pub fn pair(self) -> (usize, usize) {
        match self {
            Self::Cut { a, b } | Self::Heal { a, b } | Self::Rate { a, b, .. } => (a, b),
        }
    }
}

/// Makes the socket that takes orders, for user `owner` alone. It gets its name once it accepts
/// connections: between its bind and its listen a connection is refused, and `up` waits for the
/// name only.
pub fn listen(socket: &Path, owner: u32) -> Result<UnixListener> {
    let make = || -> std::io::Result<UnixListener> {
        let unnamed = socket.with_extension("new");
        let listener = UnixListener::bind(&unnamed)?;
        chown(&unnamed, Some(owner), None)?;
        fs::set_permissions(&unnamed, fs::Permissions::from_mode(0o600))?;
        fs::rename(&unnamed, socket)?;
        Ok(listener)
    };
    make().with_context(|| format!("cannot listen on {}", socket.display()))
}

/// Has the switch or hub at `socket` carry out `request`, for at most `limit`.
pub fn order(socket: &Path, request: &impl Serialize, limit: Duration) -> Result<()> {
    let stream = UnixStream::connect(socket).with_context(|| {
        format!("the cluster's network does not answer at {}: take the cluster down and up again", socket.display())
    })?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut reader = BufReader::new(&stream);
    (&stream).write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
    let mut line = String::new();
    reader.read_line(&mut line).context("the cluster's network does not answer")?;
    match serde_json::from_str(&line).context("the cluster's network gave no sensible answer")? {
        Reply::Done => Ok(()),
        Reply::Refused(why) => bail!(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// A refused connection was seen within the first hundred when the name came before the listen.
    const ROUNDS: usize = 500;

    #[test]
    fn a_socket_that_has_its_name_accepts_connections() {
        let directory = tempfile::tempdir().unwrap();
        let socket = |round: usize| directory.path().join(format!("{round}.ctl"));
        let owner = rustix::process::getuid().as_raw();
        thread::scope(|threads| {
            let asker = threads.spawn(|| {
                for round in 0..ROUNDS {
                    while !socket(round).exists() {}
                    UnixStream::connect(socket(round)).unwrap();
                }
            });
            let listeners: Vec<_> = (0..ROUNDS).map(|round| listen(&socket(round), owner).unwrap()).collect();
            asker.join().unwrap();
            drop(listeners);
        });
    }
}
