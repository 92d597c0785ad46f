//! What runs at home for a job that runs elsewhere: the home agent, with all that it does, and the
//! deputies that keep the places of the job's processes.

pub mod agent;
pub mod arbiter;
mod control;
mod core;
mod deputies;
pub mod deputy;
mod endings;
pub mod files;
mod first_move;
mod guests;
pub mod inject;
pub mod relay;
