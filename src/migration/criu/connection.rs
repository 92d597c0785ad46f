//! The RPC socket to one `criu swrk`.

use std::{io, os::fd::OwnedFd, time::Duration};

use prost::Message;
use tokio::time::timeout;

use super::CriuError;
use crate::{
    proto::criu::{Options, Request, RequestType, Response},
    sys::seqpacket::Seqpacket,
};

/// Larger than any response: an error message of CRIU has at most 1 KiB.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// Optional features of this kernel, as CRIU found them.
pub type Features = crate::proto::criu::Features;

/// What CRIU reports while it works.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It has reached a step and waits for [`Connection::resume`].
    Reached(String),
    /// It has finished; the response says how.
    Finished(Response),
}

/// Our end of the socket to one CRIU.
pub struct Connection {
    socket: Seqpacket,
}

fn socket_error(what: &'static str) -> impl FnOnce(io::Error) -> CriuError {
    move |source| CriuError::Socket { what, source }
}

impl Connection {
    /// A fresh socket pair: our end and the one for CRIU. Must be called inside a tokio runtime.
    pub fn pair() -> Result<(Self, OwnedFd), CriuError> {
        let (socket, theirs) = Seqpacket::pair().map_err(socket_error("create"))?;
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

    /// Lets CRIU continue after [`Step::Reached`], or tells it that we failed.
    pub async fn resume(&self, success: bool) -> Result<(), CriuError> {
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
        self.socket.send(&request.encode_to_vec(), &[]).await.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => CriuError::Ended(None),
            _ => socket_error("send")(error),
        })
    }

    async fn receive(&self) -> Result<Vec<u8>, CriuError> {
        let packet = self.socket.recv(MAX_RESPONSE_BYTES).await.map_err(socket_error("receive"))?;
        packet.map(|packet| packet.bytes).ok_or(CriuError::Ended(None))
    }
}
