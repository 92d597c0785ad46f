//! What the switch is told: one line of JSON on its Unix socket, one line back.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An order about the pair of nodes `a` and `b` (numbers from 1), both directions.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Nothing passes any more.
    Cut { a: usize, b: usize },
    /// Everything passes again.
    Heal { a: usize, b: usize },
    /// At most `mbit` 10^6 bits a second pass each way; 0 lifts the limit.
    Rate { a: usize, b: usize, mbit: u32 },
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

/// Has the switch at `socket` carry out `request`.
pub fn order(socket: &Path, request: Request) -> Result<()> {
    let stream = UnixStream::connect(socket).with_context(|| {
        format!("the cluster's switch does not answer at {}: take the cluster down and up again", socket.display())
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(&stream);
    (&stream).write_all(format!("{}\n", serde_json::to_string(&request)?).as_bytes())?;
    let mut line = String::new();
    reader.read_line(&mut line).context("the cluster's switch does not answer")?;
    match serde_json::from_str(&line).context("the cluster's switch gave no sensible answer")? {
        Reply::Done => Ok(()),
        Reply::Refused(why) => bail!(why),
    }
}
