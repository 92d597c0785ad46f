//! Home's side of the terminal.
//!
//! Output is written here. Input is read by the deputy, one read at a time, when the guest has room
//! for it: home's line discipline edits and echoes, so in canonical mode one read is one line, and
//! job control works because the reader is in the right session and group. Settings that the
//! process tree makes are made on home's terminal in order with its output.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::{Buf, Bytes};
use rustix::fs::OFlags;
use tokio::sync::mpsc;

use super::{ToRelay, tell};
use crate::home::deputy::Told;
use crate::link::StdioSender;
use crate::link::relay::NonBlocking;
use crate::link::relay::terminal::{ECHO, EXTPROC, get_termios, get_winsize, set_termios, type_byte};
use crate::protocol::{
    deputy::{Command, MAX_INPUT_BYTES},
    home::{StdioOp, Termios, cost},
};

pub(super) struct HomeTty {
    channel: u32,
    /// The shared description, of which a duplicate goes to the deputy.
    terminal: OwnedFd,
    /// Our own, for output; `None` when the terminal is gone.
    output: Option<NonBlocking>,
    deputy: mpsc::Sender<Command>,
    link: Option<StdioSender>,
    input: Input,
    foreground: bool,
}

/// Where terminal input is on its way to the process tree.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    /// The deputy was not asked to read.
    Idle,
    /// The deputy will read.
    Asked,
    /// It has read this, which the process tree has not read yet.
    Line(Bytes),
    /// An end-of-file was typed, which the process tree has not seen yet.
    Eof,
    /// The terminal is gone.
    Gone,
}

impl HomeTty {
    pub(super) fn new(channel: u32, terminal: OwnedFd, deputy: mpsc::Sender<Command>) -> io::Result<Self> {
        let output = Some(NonBlocking::reopen(&terminal, OFlags::RDWR)?);
        Ok(Self { channel, terminal, output, deputy, link: None, input: Input::Idle, foreground: true })
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<ToRelay>) {
        while let Some(message) = queue.recv().await {
            match message {
                ToRelay::Step(step) => self.step(step).await,
                ToRelay::Attach(link) => self.attach(link).await,
                ToRelay::Deputy(told) => self.told(told).await,
                ToRelay::Resized => self.show_size().await,
                ToRelay::Settle(done) => drop(done.send(())),
                ToRelay::GiveBack(done) => {
                    self.give_back();
                    let _ = done.send(());
                }
            }
        }
    }

    async fn tell(&self, op: StdioOp) {
        tell(&self.link, self.channel, op).await;
    }

    async fn attach(&mut self, link: StdioSender) {
        self.link = Some(link);
        self.show_settings().await;
        self.show_size().await;
        self.tell(StdioOp::Foreground(self.foreground)).await;
        self.offer_input().await;
    }

    /// Shows the new guest what the one before has not read, or asks for more.
    async fn offer_input(&mut self) {
        match &self.input {
            Input::Line(line) => self.tell(StdioOp::Data(line.clone())).await,
            Input::Eof => self.tell(StdioOp::Eof).await,
            Input::Gone => self.tell(StdioOp::Hup).await,
            Input::Asked => {}
            Input::Idle => {
                // Never full: the deputy's queue has room for one read and the few commands of an
                // end.
                if self.deputy.send(Command::Read(MAX_INPUT_BYTES as u16)).await.is_ok() {
                    self.input = Input::Asked;
                }
            }
        }
    }

    async fn show_settings(&self) {
        match get_termios(&self.terminal) {
            Ok(termios) => self.tell(StdioOp::Termios(termios)).await,
            Err(error) => tracing::debug!(%error, "the terminal is gone"),
        }
    }

    async fn show_size(&self) {
        if let Ok(winsize) = get_winsize(&self.terminal) {
            self.tell(StdioOp::Winsize(winsize)).await;
        }
    }

    async fn step(&mut self, step: StdioOp) {
        match step {
            StdioOp::Data(data) => {
                if let Some(output) = &self.output
                    && let Err(error) = output.write_all(&data).await
                {
                    tracing::debug!(%error, "the terminal is gone");
                    self.output = None;
                    self.tell(StdioOp::Hup).await;
                }
                self.tell(StdioOp::Taken(cost(&data))).await;
            }
            StdioOp::Taken(bytes) => {
                self.taken(bytes as usize);
                if self.input == Input::Idle {
                    self.offer_input().await;
                }
            }
            StdioOp::Termios(termios) => {
                let termios = Termios { lflag: termios.lflag & !EXTPROC, ..termios };
                if let Err(error) = set_termios(&self.terminal, &termios) {
                    tracing::debug!(%error, "the terminal does not take the program's settings");
                }
            }
            StdioOp::Eof | StdioOp::Hup | StdioOp::Winsize(_) | StdioOp::Foreground(_) => {}
        }
    }

    fn taken(&mut self, bytes: usize) {
        match &mut self.input {
            Input::Line(line) if bytes < line.len() => line.advance(bytes),
            Input::Line(_) | Input::Eof => self.input = Input::Idle,
            Input::Idle | Input::Asked | Input::Gone => {}
        }
    }

    async fn told(&mut self, told: Told) {
        match told {
            Told::Input(line) => {
                self.input = if line.is_empty() { Input::Eof } else { Input::Line(line) };
                self.offer_input().await;
            }
            Told::Hangup(_) => {
                self.input = Input::Gone;
                self.offer_input().await;
            }
            Told::Foreground(yes) => {
                self.foreground = yes;
                // While it was in the background others may have changed the settings.
                if yes {
                    self.show_settings().await;
                }
                self.tell(StdioOp::Foreground(yes)).await;
            }
            Told::Signal { .. } | Told::Continued => {}
        }
    }

    /// Types again what the process tree has not read, without echo: it was echoed when it was
    /// typed first. What has been typed since comes after it.
    fn give_back(&mut self) {
        let Input::Line(line) = std::mem::replace(&mut self.input, Input::Idle) else { return };
        let Some(terminal) = self.output.as_ref().map(|output| output.fd().as_fd()) else { return };
        if let Err(error) = retype(terminal, &line) {
            tracing::warn!(%error, bytes = line.len(), "unread terminal input could not be put back");
        }
    }
}

fn retype(terminal: impl AsFd + Copy, line: &[u8]) -> io::Result<()> {
    let mut bytes = line.to_vec();
    // What was typed since waits in the terminal: it goes behind the line. Read through a
    // description of our own, outside the session, so job control does not apply.
    let mut buffer = [0; MAX_INPUT_BYTES];
    while let Ok(got) = rustix::io::read(terminal, &mut buffer)
        && got > 0
    {
        bytes.extend_from_slice(buffer.get(..got).unwrap_or_default());
    }
    let termios = get_termios(terminal)?;
    set_termios(terminal, &Termios { lflag: termios.lflag & !ECHO, ..termios })?;
    let typed = bytes.iter().try_for_each(|byte| type_byte(terminal, *byte));
    set_termios(terminal, &termios)?;
    typed
}
