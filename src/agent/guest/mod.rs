//! The guest agent: one process per guest, at the node that hosts it.

pub mod init;
pub mod restore;
