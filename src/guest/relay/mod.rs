//! The guest's side of all channels: pipes here, the terminal in `tty`.
//!
//! ```text
//!   make ─► (ours, the tree's end) ─► CRIU inherits the tree's end, we close ours of it ─► start ─► arm, at the tree's first run
//!   drain before an exit is reported;   pause after a freeze, then Drained;   resume if the move is given up
//! ```

mod tty;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use rustix::pipe::PipeFlags;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::tty::{GuestTty, Pty};
use crate::link::StdioSender;
use crate::link::relay::{CHUNK_BYTES, NonBlocking, QUEUE_STEPS, RelayError, unread_bytes};
use crate::protocol::home::{Channel, ChannelKind, Stdio, StdioOp, WINDOW, cost};

/// How often it is looked whether the process tree has read, at first and at most.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(20);

/// What a relay is told.
enum ToRelay {
    /// A step from home.
    Step(StdioOp),
    /// Send all that the process tree has written so far and tell all that it has read; afterwards
    /// stand still if `pause`.
    Drain { pause: bool, done: oneshot::Sender<()> },
    /// Resume after a pause.
    Resume,
    /// The process tree is about to run for the first time: CRIU has set the terminal's settings.
    Arm,
}

/// Our end of a channel, made but not yet relayed.
pub struct Made {
    channel: Channel,
    end: End,
}

enum End {
    Pipe(OwnedFd),
    Pty(Pty),
}

/// Makes the pipe or pty of a channel: our end, and the process tree's to be inherited by CRIU and
/// then closed here.
///
/// # Errors
/// If the system has no more of them.
pub fn make(channel: Channel) -> io::Result<(Made, OwnedFd)> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (end, theirs) = match channel.kind {
        ChannelKind::PipeOut => pipe().map(|(read, write)| (End::Pipe(read), write))?,
        ChannelKind::PipeIn => pipe().map(|(read, write)| (End::Pipe(write), read))?,
        ChannelKind::Tty => {
            Pty::open().and_then(|pty| Ok((pty.slave()?, pty))).map(|(slave, pty)| (End::Pty(pty), slave))?
        }
    };
    Ok((Made { channel, end }, theirs))
}

/// Our end of a terminal that was made elsewhere, in the guest's own /dev/pts: its master.
///
/// # Errors
/// If the slave cannot be opened from it.
pub fn terminal(channel: Channel, master: OwnedFd) -> io::Result<Made> {
    Ok(Made { channel, end: End::Pty(Pty::from_master(master)?) })
}

/// The guest's side of all channels. Dropping it ends all relays and closes our ends.
pub struct GuestRelays {
    queues: BTreeMap<u32, mpsc::Sender<ToRelay>>,
    foreground: watch::Receiver<bool>,
    _tasks: JoinSet<()>,
}

impl GuestRelays {
    /// Starts the relays over `link`.
    ///
    /// # Errors
    /// If a descriptor cannot be watched.
    pub fn start(made: Vec<Made>, link: &StdioSender) -> io::Result<Self> {
        let (mut queues, mut tasks) = (BTreeMap::new(), JoinSet::new());
        let (foreground_sender, foreground) = watch::channel(true);
        for Made { channel, end } in made {
            let (sender, queue) = mpsc::channel(QUEUE_STEPS);
            queues.insert(channel.id, sender);
            let out = Out { channel: channel.id, link: link.clone(), window: WINDOW };
            match end {
                End::Pipe(pipe) if channel.kind == ChannelKind::PipeOut => {
                    tasks.spawn(pipe_out(out, NonBlocking::own(pipe)?, queue));
                }
                End::Pipe(pipe) => {
                    let relay = PipeIn { pipe: NonBlocking::own(pipe)?, out, waiting: 0 };
                    tasks.spawn(relay.run(queue));
                }
                End::Pty(pty) => {
                    tasks.spawn(GuestTty::new(pty, out, foreground_sender.clone())?.run(queue));
                }
            }
        }
        Ok(Self { queues, foreground, _tasks: tasks })
    }

    /// A step from home. Does not wait.
    ///
    /// # Errors
    /// If home does not keep to the protocol.
    pub fn deliver(&self, stdio: Stdio) -> Result<(), RelayError> {
        let queue = self.queues.get(&stdio.channel).ok_or(RelayError::NoSuchChannel(stdio.channel))?;
        match queue.try_send(ToRelay::Step(stdio.op)) {
            // A relay that has ended has closed its pipe: no caller waits for the step.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(RelayError::Flooded(stdio.channel)),
        }
    }

    /// Whether the job is in the foreground of home's terminal. The guest's pid 1 mirrors it with
    /// `tcsetpgrp`: to the job's group, or to its own, so that the kernel stops a process tree that
    /// reads in the background.
    pub fn foreground(&self) -> watch::Receiver<bool> {
        self.foreground.clone()
    }

    /// To be called when the process tree is restored and about to run.
    pub async fn arm(&self) {
        for queue in self.queues.values() {
            let _ = queue.send(ToRelay::Arm).await;
        }
    }

    /// Waits until all that the process tree has written is on the link, before anything that is
    /// sent after this: before an exit is reported.
    pub async fn drain(&self) {
        self.drain_all(false).await;
    }

    /// As [`Self::drain`], and the relays stand still afterwards: when the process tree is frozen
    /// and moves on. Follow it by `Drained`.
    pub async fn pause(&self) {
        self.drain_all(true).await;
    }

    /// The process tree resumes here.
    pub async fn resume(&self) {
        for queue in self.queues.values() {
            let _ = queue.send(ToRelay::Resume).await;
        }
    }

    async fn drain_all(&self, pause: bool) {
        for queue in self.queues.values() {
            let (done, answer) = oneshot::channel();
            if queue.send(ToRelay::Drain { pause, done }).await.is_ok() {
                // Not answered: the relay has ended, having sent everything.
                let _ = answer.await;
            }
        }
    }
}

/// The way to home of one channel.
struct Out {
    channel: u32,
    link: StdioSender,
    /// What home can take now, in units of [`cost`].
    window: u32,
}

impl Out {
    async fn tell(&self, op: StdioOp) {
        // A link that has ended for good ends the guest, which ends the relays.
        let _ = self.link.send(self.channel, op).await;
    }

    async fn data(&mut self, data: Vec<u8>) {
        self.window = self.window.saturating_sub(cost(&data));
        self.tell(StdioOp::Data(Bytes::from(data))).await;
    }

    fn taken(&mut self, cost: u32) {
        self.window = self.window.saturating_add(cost).min(WINDOW);
    }

    fn is_open(&self) -> bool {
        self.window > 0
    }
}

async fn pipe_out(mut out: Out, pipe: NonBlocking, mut queue: mpsc::Receiver<ToRelay>) {
    let mut is_paused = false;
    loop {
        let next = tokio::select! {
            biased;
            next = queue.recv() => next,
            data = pipe.read(CHUNK_BYTES), if out.is_open() && !is_paused => {
                match data {
                    Ok(data) if !data.is_empty() => out.data(data).await,
                    // All write ends are closed. An error is the same for the reader.
                    _ => return out.tell(StdioOp::Eof).await,
                }
                continue;
            }
        };
        match next {
            // Closing the pipe gives the process tree EPIPE.
            None | Some(ToRelay::Step(StdioOp::Hup)) => return,
            Some(ToRelay::Step(StdioOp::Taken(cost))) => out.taken(cost),
            Some(ToRelay::Drain { pause, done }) => {
                // Beyond the window, but never more than the pipe holds.
                while let Ok(Some(data)) = pipe.try_read(CHUNK_BYTES)
                    && !data.is_empty()
                {
                    out.data(data).await;
                }
                is_paused = pause;
                let _ = done.send(());
            }
            Some(ToRelay::Resume) => is_paused = false,
            Some(ToRelay::Step(_) | ToRelay::Arm) => {}
        }
    }
}

struct PipeIn {
    pipe: NonBlocking,
    out: Out,
    /// Bytes in the pipe when we last looked.
    waiting: u32,
}

impl PipeIn {
    async fn run(mut self, mut queue: mpsc::Receiver<ToRelay>) {
        let mut look = LOOK_FIRST;
        let mut is_paused = false;
        loop {
            let next = tokio::select! {
                biased;
                next = queue.recv() => next,
                () = self.pipe.readers_gone(), if !is_paused => {
                    self.tell_taken().await;
                    return self.out.tell(StdioOp::Hup).await;
                }
                () = sleep(look), if self.waiting > 0 && !is_paused => {
                    look = if self.tell_taken().await { LOOK_FIRST } else { (look * 2).min(LOOK_LAST) };
                    continue;
                }
            };
            match next {
                // All of it was read, or home would not have said so; closing the pipe is the end
                // of file.
                None | Some(ToRelay::Step(StdioOp::Eof)) => return,
                Some(ToRelay::Step(StdioOp::Data(data))) => {
                    // Fits: home shows a piece when the one before was read, and a piece is not
                    // more than a pipe holds.
                    if self.pipe.write_all(&data).await.is_ok() {
                        self.waiting += data.len() as u32;
                    }
                    look = LOOK_FIRST;
                }
                Some(ToRelay::Drain { pause, done }) => {
                    self.tell_taken().await;
                    is_paused = pause;
                    let _ = done.send(());
                }
                Some(ToRelay::Resume) => is_paused = false,
                Some(ToRelay::Step(_) | ToRelay::Arm) => {}
            }
        }
    }

    /// Tells home what the process tree has read since the last look; whether it has.
    async fn tell_taken(&mut self) -> bool {
        let left = unread_bytes(self.pipe.fd()).unwrap_or(self.waiting);
        let taken = self.waiting.saturating_sub(left);
        self.waiting -= taken;
        if taken > 0 {
            self.out.tell(StdioOp::Taken(taken)).await;
        }
        taken > 0
    }
}
