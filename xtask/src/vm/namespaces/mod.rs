//! Nodes that are namespaces on this machine's own kernel, at native speed.
//!
//! ```text
//!   vm up ──► hub (root) ── control socket: cut, heal, rate, start, power off, down
//!              │  └── 127.0.0.1:PORT ──► sshd of each node, through the bridge
//!              ├── network namespace of its own: bridge 10.77.0.254/24, one veth per node
//!              └── n1 … nN: mount, network, uts, ipc and cgroup namespaces; root file system of its own; init that reaps
//! ```
//!
//! The process id namespace is the machine's own, because the tracepoints report global process
//! ids. A node cannot have a kernel of its own, nor sched_ext of its own: that needs `--backend
//! qemu`.

mod cgroups;
mod facts;
mod fuse;
pub mod hub;
mod net;
mod node;

pub use facts::{as_root, obstacle};
pub use node::become_node;
