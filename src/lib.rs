//! scx_mosix: a few Linux machines that work as one.
//!
//! ARCHITECTURE.md tells what each module is for and which may use which.

#[cfg(test)]
extern crate self as scx_mosix;

pub mod agent;
pub mod api;
pub mod bounds;
pub mod causes;
pub mod cluster;
pub mod daemon;
pub mod descriptors;
pub mod guest;
pub mod home;
pub mod job;
pub mod keys;
pub mod link;
pub mod metrics;
pub mod migration;
pub mod node;
pub mod placement;
pub mod proto;
pub mod protocol;
pub mod scheduler;
pub mod sim;
pub mod sys;
pub mod telemetry;
pub mod ui;
