//! Mutexes of which a test finds out when two are taken in one order here and in the other there,
//! also if no two threads ever meet: with debug assertions the second order panics, and names
//! itself. Without them these are the standard library's.
//!
//! Two threads that take two mutexes in different orders may wait for each other forever. What is
//! borrowed within an expression is held to the end of its statement, so that such an order is
//! easily overlooked.

pub use tracing_mutex::stdsync::{Mutex, MutexGuard};
