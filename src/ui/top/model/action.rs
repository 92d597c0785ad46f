//! What a user can have done.

use rustix::process::Signal;

use crate::{
    api::backend::{ConstraintsChange, Destination},
    job::{JobId, SessionId},
};

/// The signals that are offered, the usual one first.
pub static SIGNALS: [(Signal, &str); 9] = [
    (Signal::TERM, "TERM"),
    (Signal::INT, "INT"),
    (Signal::HUP, "HUP"),
    (Signal::QUIT, "QUIT"),
    (Signal::KILL, "KILL"),
    (Signal::STOP, "STOP"),
    (Signal::CONT, "CONT"),
    (Signal::USR1, "USR1"),
    (Signal::USR2, "USR2"),
];

/// The name of a signal that is offered.
pub fn signal_name(signal: Signal) -> &'static str {
    SIGNALS.iter().find(|(offered, _)| *offered == signal).map_or("?", |(_, name)| name)
}

/// A node that is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedNode {
    /// Its name.
    pub name: String,
    /// Where its port is, if it is another node than the one that the monitor watches.
    pub address: Option<String>,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Move a program.
    Migrate {
        /// The program.
        program: JobId,
        /// Where to.
        to: Destination,
    },
    /// Change what placement may do with a program.
    Constrain {
        /// The program.
        program: JobId,
        /// What is to change.
        change: ConstraintsChange,
    },
    /// Give a move up.
    Cancel {
        /// The program.
        program: JobId,
        /// The move.
        migration: SessionId,
    },
    /// Send a signal to a program whose home is this machine.
    Signal {
        /// The program.
        program: JobId,
        /// When it was started, in ms since the epoch: tells it from a later one with its pid.
        start_time_ms: Option<u64>,
        /// The signal.
        signal: Signal,
    },
    /// Let a node send its guests away and take no others, or end that.
    Drain {
        /// The node.
        node: AskedNode,
        /// Begin, or end.
        on: bool,
    },
    /// Send the guests of a node home, once.
    Expel {
        /// The node.
        node: AskedNode,
    },
}
