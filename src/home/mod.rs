//! Home: what makes a program that runs elsewhere look as if it ran here.

pub mod arbiter;
pub mod deputy;
pub mod descriptors;
pub mod files;
pub mod inject;
pub mod link;
pub mod relay;
pub mod wire;
