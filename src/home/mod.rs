//! Home: what makes a program that runs elsewhere look as if it ran here.

pub mod files;
pub mod link;
pub mod wire;
