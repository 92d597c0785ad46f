//! A connection that knows who is at its other end, over any byte stream; and how many of them a
//! user may have.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::Caller;
use crate::sys::lock::Mutex;

/// Connections that one user may have at a time.
const MAX_PER_USER: usize = 32;
/// Connections that all users but root may have at a time.
const MAX_OF_USERS: usize = 256;

/// A byte stream with its [`Caller`], whom handlers find among the extensions of their requests.
pub(super) struct Connection<S> {
    stream: S,
    caller: Caller,
    _slot: Option<Slot>,
}

impl<S> Connection<S> {
    /// A connection of `caller`, counted by `slot` if he is one of those who are.
    pub(super) fn new(stream: S, caller: Caller, slot: Option<Slot>) -> Self {
        Self { stream, caller, _slot: slot }
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Counts the connections of users, so that none can take all of the daemon's descriptors.
#[derive(Clone, Default)]
pub(super) struct Slots(Arc<Mutex<HashMap<u32, usize>>>);

/// One counted connection, until it is dropped.
pub(super) struct Slot {
    slots: Slots,
    uid: u32,
}

impl Slots {
    /// Counts one more connection of a user; `None` if he, or all together, have too many.
    pub(super) fn take(&self, uid: u32) -> Option<Slot> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.values().sum::<usize>() >= MAX_OF_USERS {
            return None;
        }
        let count = counts.entry(uid).or_default();
        if *count >= MAX_PER_USER {
            return None;
        }
        *count += 1;
        Some(Slot { slots: self.clone(), uid })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_cannot_take_all_connections() {
        let slots = Slots::default();
        let mut held: Vec<_> = (0..MAX_PER_USER).map(|_| slots.take(1000).unwrap()).collect();
        assert!(slots.take(1000).is_none());
        held.pop();
        held.push(slots.take(1000).unwrap());
        held.extend((0..MAX_OF_USERS - MAX_PER_USER).map(|n| slots.take(2000 + (n / MAX_PER_USER) as u32).unwrap()));
        assert!(slots.take(9000).is_none());
        drop(held);
        assert!(slots.0.lock().unwrap().is_empty());
    }
}
