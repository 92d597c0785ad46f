//! The API: gRPC services over what the daemon knows, and the clients of them.
//!
//! ```text
//!   scx_mosix ps, run, … ── Unix socket ──┐                    ┌── Views: tables that can be watched ◄── the daemon writes
//!   grpcurl with a client certificate ────┤                    │
//!   other nodes ── TLS, node certificate ─┴─► Caller ─► services ── Backend: commands ──────────────► the daemon acts
//!                                                              └── PeerBackend: calls of nodes ─────► the daemon acts
//! ```
//!
//! A connection knows its [`Caller`] from the first byte on (peer credentials or certificate);
//! [`caller`] alone says what he may do. Services check names, read [`backend::Views`], and pass
//! commands on; they hold no state but ids of past requests. The peer service is served on TLS
//! connections only. Reflection (v1 and v1alpha) and health are open to everyone who can connect.

#![forbid(unsafe_code)]

pub mod backend;
pub mod caller;
pub mod client;
mod connection;
mod error;
mod message;
pub mod name;
mod server;
mod services;
pub mod table;
pub mod view;

#[cfg(test)]
pub mod memory;
#[cfg(test)]
mod tests;

pub use backend::{Backend, PeerBackend};
pub use caller::Caller;
pub use client::{CallError, Client, PeerClient};
pub use error::{ApiError, ERROR_DOMAIN};
pub use server::{ApiServer, ServeError, bind_unix};

/// The API's socket below the run-time directory.
pub const SOCKET_NAME: &str = "api.sock";
