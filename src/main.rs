//! The `scx_mosix` command.

fn main() {}
