//! What guests say.

use std::os::fd::OwnedFd;

use super::super::endings::Ending;
use super::super::guests::{self, BoxedStream, FromGuest, Guest};
use super::Core;
use crate::home::arbiter::Party;
use crate::home::files::FileServer;
use crate::job::SessionId;
use crate::link::{Event, files::StableFiles};
use crate::protocol::{
    StreamKind,
    home::{Call, FileOffset, GuestToHome},
};

impl Core {
    /// The daemon hands over a connection: TLS and the call in a task of their own.
    pub(super) fn incoming(&self, kind: StreamKind, socket: OwnedFd) {
        if kind != StreamKind::Home {
            tracing::warn!(?kind, "a stream that is not for a home agent");
            return;
        }
        let (connector, callers, session) =
            (self.settings.connector.clone(), self.to.callers.clone(), self.settings.role.session);
        tokio::spawn(async move {
            let (stream, name) = match connector.accept(socket, kind).await {
                Ok(accepted) => accepted,
                Err(error) => {
                    return tracing::warn!(error = &error as &dyn std::error::Error, "a caller was turned away");
                }
            };
            let mut stream: BoxedStream = Box::new(stream);
            match guests::call(&mut stream).await {
                Ok(call) if call.node != name.as_str() || call.session != session => {
                    let reason = format!("{name} says that it is {} and calls for session {}", call.node, call.session);
                    guests::refuse(stream, reason).await;
                }
                Ok(call) => drop(callers.send((stream, call)).await),
                Err(error) => tracing::warn!(%name, %error, "a caller did not say who it is"),
            }
        });
    }

    pub(super) async fn caller(&mut self, stream: BoxedStream, call: Call) {
        let migration = call.migration;
        let actions = match self.arbiter.hello(migration, call.epoch) {
            Ok(actions) => actions,
            Err(reason) => {
                tracing::info!(node = call.node, %migration, reason, "a guest was refused");
                tokio::spawn(guests::refuse(stream, reason));
                return;
            }
        };
        if !self.guests.contains_key(&migration) {
            let server = self.settings.root.try_clone().map_err(|error| error.to_string());
            let stable = StableFiles::new(&self.settings.run_dir);
            let server = server.and_then(|root| FileServer::new(root, stable).map_err(|error| error.to_string()));
            match server {
                Ok(files) => {
                    let guest = Guest::new(migration, call.node.clone(), files, self.to.guests.clone());
                    self.guests.insert(migration, guest);
                }
                Err(reason) => {
                    self.arbiter.disconnected(migration);
                    tokio::spawn(guests::refuse(stream, format!("home cannot serve its files: {reason}")));
                    return;
                }
            }
        }
        tracing::info!(node = call.node, %migration, epoch = call.epoch, "a guest calls");
        if let Some(guest) = self.guests.get_mut(&migration) {
            guest.connect(stream, call, self.arbiter.epoch());
        }
        self.act(actions).await;
    }

    pub(super) async fn guest_says(&mut self, id: SessionId, event: FromGuest) {
        let is_owner = self.arbiter.owner() == Party::Guest(id);
        match event {
            FromGuest::Disconnected { last_heard } => {
                self.arbiter.disconnected(id);
                if let Some(guest) = self.guests.get_mut(&id) {
                    guest.lost_since = Some(last_heard);
                }
            }
            FromGuest::Event(Event::Control(message)) => self.control(id, is_owner, message).await,
            FromGuest::Event(Event::Stdio(stdio)) if is_owner => {
                if let Some(Err(error)) = self.relays.as_ref().map(|relays| relays.deliver(stdio)) {
                    tracing::warn!(%error, "a step of a guest's input or output was dropped");
                }
            }
            // Of a guest whose process tree has moved on, or does not run yet.
            FromGuest::Event(Event::Stdio(_)) => {}
        }
    }

    async fn control(&mut self, id: SessionId, is_owner: bool, message: GuestToHome) {
        let from = Party::Guest(id);
        let actions = match message {
            GuestToHome::Begin { migration, target } => self.arbiter.begin(from, migration, target),
            GuestToHome::Abort { migration, reason } => self.arbiter.abort(from, migration, &reason),
            GuestToHome::Drained { migration } => self.arbiter.drained(from, migration),
            GuestToHome::Restored { migration } if migration == id => self.arbiter.restored(migration),
            GuestToHome::Running { migration } => {
                tracing::info!(%migration, "the process tree runs there");
                Vec::new()
            }
            GuestToHome::Stopped { pid, signal } if is_owner => {
                self.deputies.stop(pid, signal).await;
                Vec::new()
            }
            GuestToHome::Offsets { offsets } if is_owner => {
                self.set_offsets(&offsets);
                Vec::new()
            }
            GuestToHome::Exited { pid, status } if is_owner => {
                let is_root = pid == self.settings.role.root_pid;
                self.queue_ending(Ending::Exited { pid, status, is_root });
                Vec::new()
            }
            GuestToHome::Ended if is_owner => {
                self.queue_ending(Ending::Ended);
                Vec::new()
            }
            other => {
                tracing::warn!(guest = %id, ?other, "a guest says what it is not entitled to say");
                Vec::new()
            }
        };
        self.act(actions).await;
    }

    fn queue_ending(&self, ending: Ending) {
        if self.to.endings.try_send((ending, self.relays.clone())).is_err() {
            tracing::error!(?ending, "too many ends at once; this one is lost");
        }
    }

    /// Home's copies of the descriptions that processes outside the job may share stand where the
    /// process tree's stand.
    fn set_offsets(&self, offsets: &[FileOffset]) {
        for FileOffset { id, offset } in offsets {
            let Some((_, file)) = self.files.iter().find(|(shared, _)| shared.id == *id) else { continue };
            if let Err(error) = rustix::fs::seek(file, rustix::fs::SeekFrom::Start(offset.unsigned_abs())) {
                tracing::debug!(id, offset, %error, "a file's offset could not be set");
            }
        }
    }
}
