//! Clients of the API: [`Client`] over the Unix socket or, with a client's certificate, over TLS,
//! for commands; [`PeerClient`] over TLS, for nodes.
//!
//! Channels connect when they are first used and again when they were lost, so a client can be
//! kept. Every call but watches has a time limit.

mod error;
mod peer;
mod public;

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::{
    Request,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

pub use error::CallError;
pub use peer::PeerClient;
pub use public::Client;

/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection to another machine may take to be made, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection is asked whether it lives while a call is under way, and how long the
/// answer may take.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer: a page of long command lines.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

fn timed<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn endpoint() -> Endpoint {
    // The address is the connector's; this one only fills the requests' authority.
    Endpoint::from_static("http://scx-mosix.invalid")
        .user_agent(concat!("scx_mosix/", env!("CARGO_PKG_VERSION")))
        .unwrap_or_else(|_| Endpoint::from_static("http://scx-mosix.invalid"))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
}

/// A channel over TLS to the port at `address` (`HOST:PORT`), whose certificate must be for `name`.
fn tls_channel(name: ServerName<'static>, address: &str, tls: Arc<ClientConfig>) -> Channel {
    let address: Arc<str> = address.into();
    let connector = TlsConnector::from(tls);
    endpoint().connect_with_connector_lazy(service_fn(move |_: Uri| {
        let (name, address, connector) = (name.clone(), Arc::clone(&address), connector.clone());
        async move {
            let connect = async {
                let stream = TcpStream::connect(&*address).await?;
                stream.set_nodelay(true)?;
                connector.connect(name, stream).await
            };
            let stream =
                timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    }))
}
