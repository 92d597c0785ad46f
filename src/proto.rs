//! What prost and tonic generate from `proto/`; the comments are there.

#![allow(missing_docs, clippy::all, reason = "generated code")]

/// The packages, nested as their names are, because generated code refers to its neighbours by
/// relative paths.
mod scx_mosix {
    pub mod v1 {
        tonic::include_proto!("scx_mosix.v1");
    }
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("scx_mosix.peer.v1");
        }
    }
}

/// CRIU's own protocol, the part that we speak.
pub mod criu {
    tonic::include_proto!("criu");
}
/// `scx_mosix.peer.v1`: what nodes ask of each other.
pub use scx_mosix::peer::v1 as peer;
/// `scx_mosix.v1`: the public API.
pub use scx_mosix::v1;

/// An encoded `FileDescriptorSet` of all packages, with their comments, for reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
