//! What this program wants of the kernel, each in one place and safe to call.
//!
//! Most `unsafe` code of the project is here; modules that need none forbid it.

pub mod cgroup;
pub mod child;
pub mod clock;
pub mod descriptor;
pub mod fuse;
pub mod lock;
pub mod namespaces;
pub mod pidfd;
pub mod priority;
pub mod proc;
pub mod seqpacket;
pub mod signals;
pub mod startup;
pub mod tracee;
