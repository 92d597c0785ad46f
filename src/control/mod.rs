//! What the processes of one node say to each other, and how a stream finds its agent.

mod constraints;
mod messages;
pub mod packet;
pub mod stream;

pub use constraints::Constraints;
pub use messages::*;
