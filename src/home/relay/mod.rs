//! Home's side of all channels of a job: it lives as long as the job, while guests come and go.
//!
//! Pipes here; the terminal is in `tty`. A relay is [`attached`](HomeRelays::attach) to the
//! link of each new guest: what the guest before had not taken is shown again.

mod tty;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::pipe::SpliceFlags;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use self::tty::HomeTty;
use crate::descriptors::TakenChannel;
use crate::home::deputy::Told;
use crate::link::StdioSender;
use crate::link::relay::{CHUNK_BYTES, NonBlocking, QUEUE_STEPS, RelayError};
use crate::protocol::{
    deputy::Command,
    home::{ChannelKind, Stdio, StdioOp, cost},
};

/// What a relay is told.
enum ToRelay {
    /// A step from the guest.
    Step(StdioOp),
    /// This guest's link is the one from now on.
    Attach(StdioSender),
    /// Answer when everything before this is done.
    Settle(oneshot::Sender<()>),
    /// News of the terminal from its deputy.
    Deputy(Told),
    /// The terminal's size has changed.
    Resized,
    /// Put back what was read for the process tree and not read by it.
    GiveBack(oneshot::Sender<()>),
}

/// Home's side of all channels. Dropping it ends all relays and closes what they hold.
pub struct HomeRelays {
    queues: BTreeMap<u32, mpsc::Sender<ToRelay>>,
    terminal: Option<u32>,
    _tasks: JoinSet<()>,
}

impl HomeRelays {
    /// Starts the relays. `deputy` leads to the deputy that reads the terminal, if there is one;
    /// commands to it must not be lost.
    ///
    /// # Errors
    /// If a pipe or the terminal cannot be opened again.
    pub fn start(channels: Vec<TakenChannel>, deputy: mpsc::Sender<Command>) -> io::Result<Self> {
        let (mut queues, mut terminal, mut tasks) = (BTreeMap::new(), None, JoinSet::new());
        for TakenChannel { channel, descriptor, .. } in channels {
            let (sender, queue) = mpsc::channel(QUEUE_STEPS);
            queues.insert(channel.id, sender);
            match channel.kind {
                ChannelKind::PipeOut => {
                    let pipe = match NonBlocking::reopen(&descriptor, OFlags::WRONLY) {
                        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => None,
                        pipe => Some(pipe?),
                    };
                    tasks.spawn(pipe_out(channel.id, pipe.map(|pipe| (pipe, descriptor)), queue));
                }
                ChannelKind::PipeIn => {
                    let pipe = NonBlocking::reopen(&descriptor, OFlags::RDONLY)?;
                    tasks.spawn(pipe_in(PipeIn::new(channel.id, pipe, descriptor)?, queue));
                }
                ChannelKind::Tty => {
                    terminal = Some(channel.id);
                    let relay = HomeTty::new(channel.id, descriptor, deputy.clone())?;
                    tasks.spawn(relay.run(queue));
                }
            }
        }
        Ok(Self { queues, terminal, _tasks: tasks })
    }

    /// A step from the current guest. Does not wait.
    ///
    /// # Errors
    /// If the guest does not keep to the protocol; its connection should be cut.
    pub fn deliver(&self, stdio: Stdio) -> Result<(), RelayError> {
        let queue = self.queues.get(&stdio.channel).ok_or(RelayError::NoSuchChannel(stdio.channel))?;
        queue.try_send(ToRelay::Step(stdio.op)).map_err(|_| RelayError::Flooded(stdio.channel))
    }

    /// Uses the link of a new guest from now on: at its commit, before it runs.
    pub async fn attach(&self, link: &StdioSender) {
        for queue in self.queues.values() {
            // An error is a relay that has ended: its pipe is closed on both sides.
            let _ = queue.send(ToRelay::Attach(link.clone())).await;
        }
    }

    /// Waits until all output that has been delivered is in home's pipes and terminal.
    pub async fn settle(&self) {
        self.ask(self.queues.values(), ToRelay::Settle).await;
    }

    /// Puts back terminal input that was read for the process tree and not read by it: when the job
    /// ends.
    pub async fn give_back(&self) {
        self.ask(self.terminal.and_then(|id| self.queues.get(&id)), ToRelay::GiveBack).await;
    }

    async fn ask<'a>(
        &self,
        queues: impl IntoIterator<Item = &'a mpsc::Sender<ToRelay>>,
        question: fn(oneshot::Sender<()>) -> ToRelay,
    ) {
        for queue in queues {
            let (done, answer) = oneshot::channel();
            if queue.send(question(done)).await.is_ok() {
                // Not answered: ended, so nothing is left to wait for.
                let _ = answer.await;
            }
        }
    }

    /// News of the terminal from the deputy that reads it. Does not wait.
    pub fn told(&self, told: Told) {
        self.tell_terminal(ToRelay::Deputy(told));
    }

    /// The terminal's size has changed (SIGWINCH reached a deputy); whether there is a terminal to
    /// tell.
    pub fn resized(&self) -> bool {
        self.tell_terminal(ToRelay::Resized)
    }

    fn tell_terminal(&self, message: ToRelay) -> bool {
        let Some(queue) = self.terminal.and_then(|id| self.queues.get(&id)) else { return false };
        if queue.try_send(message).is_err() {
            tracing::warn!("the relay of the terminal is too busy to hear of its deputy");
        }
        true
    }
}

/// Sends to the current guest, if there is one; a guest that is gone misses nothing that it could
/// use.
async fn tell(link: &Option<StdioSender>, channel: u32, op: StdioOp) {
    if let Some(link) = link {
        let _ = link.send(channel, op).await;
    }
}

/// Writes what the process tree writes. `pipe` is `None` when no process reads at home any more, or
/// the process tree has closed it.
async fn pipe_out(channel: u32, mut pipe: Option<(NonBlocking, OwnedFd)>, mut queue: mpsc::Receiver<ToRelay>) {
    let mut link = None;
    let mut has_ended = false;
    loop {
        let readers_gone = async {
            match &pipe {
                Some((pipe, _)) => pipe.readers_gone().await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            next = queue.recv() => next,
            () = readers_gone => {
                pipe = None;
                tell(&link, channel, StdioOp::Hup).await;
                continue;
            }
        };
        match next {
            None => return,
            Some(ToRelay::Step(StdioOp::Data(data))) => {
                if let Some((end, _)) = &pipe
                    && let Err(error) = end.write_all(&data).await
                {
                    tracing::debug!(channel, %error, "no process reads this pipe any more");
                    pipe = None;
                    tell(&link, channel, StdioOp::Hup).await;
                }
                tell(&link, channel, StdioOp::Taken(cost(&data))).await;
            }
            Some(ToRelay::Step(StdioOp::Eof)) => {
                pipe = None;
                has_ended = true;
            }
            Some(ToRelay::Attach(new)) => {
                link = Some(new);
                if pipe.is_none() && !has_ended {
                    tell(&link, channel, StdioOp::Hup).await;
                }
            }
            Some(ToRelay::Settle(done) | ToRelay::GiveBack(done)) => drop(done.send(())),
            Some(ToRelay::Step(_) | ToRelay::Deputy(_) | ToRelay::Resized) => {}
        }
    }
}

struct PipeIn {
    channel: u32,
    pipe: NonBlocking,
    /// Holds the shared description for the process tree.
    _descriptor: OwnedFd,
    /// Where tee(2) shows the pipe's contents.
    look: (OwnedFd, OwnedFd),
}

impl PipeIn {
    fn new(channel: u32, pipe: NonBlocking, descriptor: OwnedFd) -> io::Result<Self> {
        let look = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // As large as the pipe, so that all of it fits; root may exceed the limit for users.
        if let Ok(bytes) = rustix::pipe::fcntl_getpipe_size(pipe.fd()) {
            let _ = rustix::pipe::fcntl_setpipe_size(&look.1, bytes);
        }
        Ok(Self { channel, pipe, _descriptor: descriptor, look })
    }

    /// What lies in the pipe, left there; empty at its end. Waits for something. Cancel safe.
    async fn peek(&self) -> io::Result<Vec<u8>> {
        loop {
            let mut ready = self.pipe.readable().await?;
            let seen = ready.try_io(|pipe| {
                Ok(rustix::pipe::tee(pipe.get_ref(), &self.look.1, CHUNK_BYTES, SpliceFlags::NONBLOCK)?)
            });
            let Ok(seen) = seen else { continue };
            let mut bytes = vec![0; seen?];
            let mut filled = 0;
            while filled < bytes.len() {
                filled += rustix::io::read(&self.look.0, &mut bytes[filled..])?;
            }
            return Ok(bytes);
        }
    }

    /// Takes out what the process tree has read.
    fn take(&self, mut bytes: usize) -> io::Result<()> {
        while bytes > 0 {
            match self.pipe.try_read(bytes.min(CHUNK_BYTES))? {
                // Another process at home has read it meanwhile; there is no more to take.
                None => return Ok(()),
                Some(taken) if taken.is_empty() => return Ok(()),
                Some(taken) => bytes -= taken.len(),
            }
        }
        Ok(())
    }
}

/// Shows the process tree what lies in the pipe, one piece at a time, and takes out what it has
/// read.
async fn pipe_in(pipe: PipeIn, mut queue: mpsc::Receiver<ToRelay>) {
    let mut link = None;
    let (mut shown, mut has_ended) = (0_usize, false);
    loop {
        let next = tokio::select! {
            next = queue.recv() => next,
            seen = pipe.peek(), if link.is_some() && shown == 0 && !has_ended => {
                let seen = seen.unwrap_or_else(|error| {
                    tracing::warn!(channel = pipe.channel, %error, "this pipe cannot be read any more");
                    Vec::new()
                });
                (shown, has_ended) = (seen.len(), seen.is_empty());
                let op = if has_ended { StdioOp::Eof } else { StdioOp::Data(Bytes::from(seen)) };
                tell(&link, pipe.channel, op).await;
                continue;
            }
        };
        match next {
            None => return,
            Some(ToRelay::Step(StdioOp::Taken(bytes))) => {
                let bytes = (bytes as usize).min(shown);
                shown -= bytes;
                if let Err(error) = pipe.take(bytes) {
                    tracing::warn!(channel = pipe.channel, %error, "what the process tree has read cannot be taken out of this pipe");
                }
            }
            // The process tree has closed its end; so does home, and the writer learns it.
            Some(ToRelay::Step(StdioOp::Hup)) => return,
            Some(ToRelay::Attach(new)) => {
                (link, shown, has_ended) = (Some(new), 0, false);
            }
            Some(ToRelay::Settle(done) | ToRelay::GiveBack(done)) => drop(done.send(())),
            Some(ToRelay::Step(_) | ToRelay::Deputy(_) | ToRelay::Resized) => {}
        }
    }
}

#[cfg(test)]
mod tests;
