//! The rows of the three lists and their columns.

mod moves;
mod nodes;
mod programs;

pub use moves::Move;
pub use nodes::Node;
pub use programs::Program;
