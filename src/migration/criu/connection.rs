//! The RPC socket to one `criu swrk`.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use prost::Message;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use tokio::{io::unix::AsyncFd, time::timeout};

use super::CriuError;
use crate::proto::criu::{Options, Request, RequestType, Response};

/// Larger than any response: an error message of CRIU has at most 1 KiB.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// Optional features of this kernel, as CRIU found them.
pub type Features = crate::proto::criu::Features;

/// What CRIU reports while it works.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It has reached a step and waits for [`Connection::go_on`].
    Reached(String),
    /// It has finished; the response says how.
    Finished(Response),
}

/// Our end of the socket to one CRIU.
pub struct Connection {
    socket: AsyncFd<OwnedFd>,
}

fn socket_error(what: &'static str) -> impl FnOnce(io::Error) -> CriuError {
    move |source| CriuError::Socket { what, source }
}

impl Connection {
    /// A fresh socket pair: our end and the one for CRIU. Must be called inside a tokio runtime.
    pub fn pair() -> Result<(Self, OwnedFd), CriuError> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| socket_error("create")(errno.into()))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| socket_error("make non-blocking")(errno.into()))?;
        // SAFETY: an `OwnedFd` owns its descriptor for as long as it lives and never hands out another.
        let socket = unsafe { AsyncFd::register(ours) }.map_err(|error| socket_error("register")(error.into()))?;
        Ok((Self { socket }, theirs))
    }

    /// Asks CRIU for something.
    pub async fn request(&self, kind: RequestType, options: Option<Options>) -> Result<(), CriuError> {
        self.send(Request { r#type: kind as i32, opts: options, ..Default::default() }).await
    }

    /// Asks which optional features there are.
    pub async fn request_features(&self) -> Result<(), CriuError> {
        let wanted = Features { mem_track: Some(true), lazy_pages: Some(true), pidfd_store: Some(true) };
        self.send(Request { r#type: RequestType::FeatureCheck as i32, features: Some(wanted), ..Default::default() })
            .await
    }

    /// Lets CRIU go on after [`Step::Reached`], or tells it that we failed.
    pub async fn go_on(&self, success: bool) -> Result<(), CriuError> {
        self.send(Request { r#type: RequestType::Notify as i32, notify_success: Some(success), ..Default::default() })
            .await
    }

    /// Waits for CRIU's next step for at most `limit`. [`CriuError::Ended`] if it has gone.
    pub async fn next(&self, limit: Duration) -> Result<Step, CriuError> {
        let bytes = timeout(limit, self.receive()).await.map_err(|_| CriuError::TimedOut(limit.as_secs()))??;
        let response = Response::decode(bytes.as_slice()).map_err(|error| CriuError::Protocol(error.to_string()))?;
        if response.r#type() != RequestType::Notify {
            return Ok(Step::Finished(response));
        }
        let script = response.notify.and_then(|notify| notify.script);
        script.map(Step::Reached).ok_or_else(|| CriuError::Protocol("a notification without a name".into()))
    }

    async fn send(&self, request: Request) -> Result<(), CriuError> {
        let bytes = request.encode_to_vec();
        loop {
            let mut ready = self.socket.writable().await.map_err(socket_error("wait to send"))?;
            match ready.try_io(|socket| Ok(rustix::net::send(socket.as_fd(), &bytes, SendFlags::NOSIGNAL)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Err(CriuError::Ended(None)),
                Ok(sent) => return sent.map(drop).map_err(socket_error("send")),
                Err(_would_block) => continue,
            }
        }
    }

    async fn receive(&self) -> Result<Vec<u8>, CriuError> {
        let mut bytes = vec![0; MAX_RESPONSE_BYTES];
        loop {
            let mut ready = self.socket.readable().await.map_err(socket_error("wait to receive"))?;
            let got = ready
                .try_io(|socket| Ok(rustix::net::recv(socket.as_fd(), bytes.as_mut_slice(), RecvFlags::empty())?.0));
            match got {
                Ok(Ok(0)) => return Err(CriuError::Ended(None)),
                Ok(Ok(length)) => {
                    bytes.truncate(length);
                    return Ok(bytes);
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Err(CriuError::Ended(None)),
                Ok(Err(error)) => return Err(socket_error("receive")(error)),
                Err(_would_block) => continue,
            }
        }
    }
}
