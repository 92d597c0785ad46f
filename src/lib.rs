//! scx_mosix: a few Linux machines that work as one.
//!
//! ARCHITECTURE.md tells what each module is for and which may use which.

#[cfg(test)]
extern crate self as scx_mosix;

pub mod agent;
pub mod api;
pub mod bounds;
pub mod cluster;
pub mod control;
pub mod daemon;
pub mod home;
pub mod keys;
pub mod migration;
pub mod node;
pub mod placement;
pub mod proto;
pub mod scheduler;
pub mod sim;
pub mod telemetry;
pub mod ui;
