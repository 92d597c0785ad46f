//! The daemon: wires the layers together; every node runs one, master of its own jobs and host of others'.

pub mod acceptor;
pub mod agents;
pub mod jobs;

/// The wall clock in ms since the epoch.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}
