//! What the build script generates from `bpf/`: the libbpf-rs skeleton of the scheduler, and the
//! Rust counterparts of `bpf/intf.h`.

#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "generated code")]
#[allow(clippy::undocumented_unsafe_blocks, clippy::pedantic, non_snake_case, non_camel_case_types, dead_code)]
mod scheduler {
    include!(concat!(env!("OUT_DIR"), "/scheduler_skel.rs"));
}

/// Constants and structures shared with the BPF half.
#[allow(missing_docs, clippy::all, reason = "generated code")]
#[allow(clippy::undocumented_unsafe_blocks, non_upper_case_globals, non_camel_case_types, non_snake_case, dead_code)]
pub(super) mod intf {
    include!(concat!(env!("OUT_DIR"), "/scheduler_intf.rs"));
}

pub(super) use scheduler::*;
