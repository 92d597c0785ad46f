//! Clients of the API: [`Client`] over the Unix socket, for commands; [`PeerClient`] over TLS, for nodes.
//!
//! Channels connect when they are first used and again when they were lost, so a client can be kept. Every call but watches has a
//! time limit.

mod error;
mod peer;
mod public;

use std::time::Duration;

use tonic::{Request, transport::Endpoint};

pub use error::CallError;
pub use peer::PeerClient;
pub use public::Client;

/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection is asked whether it lives while a call is under way, and how long the answer may take.
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
