//! `cargo xtask`: the one door to setting up, building, checking and demonstrating scx_mosix.

fn main() {}
