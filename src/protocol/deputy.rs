//! What a home agent and a deputy say to each other: one packet per message on a `SOCK_SEQPACKET`
//! pair.
//!
//! This file is compiled into the freestanding deputy too, so it uses `core` only.

/// The deputy's end of the pair is this descriptor.
pub const SOCKET_FD: i32 = 0;
/// Exit code of a deputy whose guest process was lost: its host or its home agent died. Not one
/// that shells use themselves.
pub const LOST_EXIT_CODE: u8 = 121;
/// Length of every command in bytes.
pub const COMMAND_BYTES: usize = 32;
/// Length of a report in bytes, without the input that may follow.
pub const REPORT_BYTES: usize = 24;
/// The most input of a terminal in one report; the kernel's line discipline holds no longer line.
pub const MAX_INPUT_BYTES: usize = 4096;

/// From the home agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The first command, already queued when the deputy begins.
    Init {
        /// The process's name, as `PR_SET_NAME` takes it.
        comm: [u8; 16],
        /// Signals (bit n-1 for signal n) that are pending and went with the guest process: drop
        /// them.
        dumped: u64,
    },
    /// End by `exit`.
    Exit(u8),
    /// End by this signal.
    Kill(u8),
    /// Stop by this signal, as the guest process did.
    Stop(u8),
    /// The attached descriptor is the terminal of the guest process.
    Terminal,
    /// Read once from the terminal, at most so many bytes, when the job is in the foreground.
    Read(u16),
}

/// From the deputy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report<'a> {
    /// In place: all signals are blocked, all other descriptors closed.
    Ready,
    /// A signal came.
    Signal {
        /// Its number.
        signal: i32,
        /// `si_code`.
        code: i32,
        /// `si_value`, for queued signals.
        value: u64,
    },
    /// Answer to [`Command::Read`]: what was read; nothing means end of file.
    Input(&'a [u8]),
    /// Answer to [`Command::Read`]: the terminal is gone, with this errno.
    Hangup(i32),
    /// Whether the deputy's group is in the terminal's foreground; sent first for
    /// [`Command::Terminal`], then on each change seen.
    Foreground(bool),
    /// Did not stay stopped after [`Command::Stop`], without a SIGCONT: it has come to the
    /// terminal's foreground, or its group has no process that could resume it. So the guest
    /// process must resume too.
    Continued,
}

impl Command {
    /// The packet.
    pub fn encode(&self) -> [u8; COMMAND_BYTES] {
        let mut packet = [0; COMMAND_BYTES];
        let (op, byte) = match self {
            Self::Init { comm, dumped } => {
                packet[8..16].copy_from_slice(&dumped.to_le_bytes());
                packet[16..].copy_from_slice(comm);
                (0, 0)
            }
            Self::Exit(code) => (1, *code),
            Self::Kill(signal) => (2, *signal),
            Self::Stop(signal) => (3, *signal),
            Self::Terminal => (4, 0),
            Self::Read(bytes) => {
                packet[2..4].copy_from_slice(&bytes.to_le_bytes());
                (5, 0)
            }
        };
        packet[0] = op;
        packet[1] = byte;
        packet
    }

    /// What a packet says; `None` if it is not of this version.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let packet: &[u8; COMMAND_BYTES] = packet.try_into().ok()?;
        let [op, byte, low, high, ..] = *packet;
        Some(match op {
            0 => {
                let (mut dumped, mut comm) = ([0; 8], [0; 16]);
                dumped.copy_from_slice(&packet[8..16]);
                comm.copy_from_slice(&packet[16..]);
                Self::Init { comm, dumped: u64::from_le_bytes(dumped) }
            }
            1 => Self::Exit(byte),
            2 => Self::Kill(byte),
            3 => Self::Stop(byte),
            4 => Self::Terminal,
            5 => Self::Read(u16::from_le_bytes([low, high])),
            _ => return None,
        })
    }
}

impl<'a> Report<'a> {
    /// The packet's fixed part; the bytes of [`Report::Input`] follow it.
    pub fn encode(&self) -> [u8; REPORT_BYTES] {
        let mut packet = [0; REPORT_BYTES];
        let (op, number, code, value) = match self {
            Self::Ready => (0, 0, 0, 0),
            Self::Signal { signal, code, value } => (1, *signal, *code, *value),
            Self::Input(_) => (2, 0, 0, 0),
            Self::Hangup(errno) => (3, *errno, 0, 0),
            Self::Foreground(yes) => (4, *yes as i32, 0, 0),
            Self::Continued => (5, 0, 0, 0),
        };
        packet[0] = op;
        packet[4..8].copy_from_slice(&i32::to_le_bytes(number));
        packet[8..12].copy_from_slice(&i32::to_le_bytes(code));
        packet[16..].copy_from_slice(&u64::to_le_bytes(value));
        packet
    }

    /// What a packet says; `None` if it is not of this version.
    pub fn decode(packet: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = packet.split_first_chunk::<REPORT_BYTES>()?;
        let [op, _, _, _, a, b, c, d, e, f, g, h, _, _, _, _, value @ ..] = *fixed;
        let (number, code) = (i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]));
        Some(match op {
            0 => Self::Ready,
            1 => Self::Signal { signal: number, code, value: u64::from_le_bytes(value) },
            2 => Self::Input(rest),
            3 => Self::Hangup(number),
            4 => Self::Foreground(number != 0),
            5 => Self::Continued,
            _ => return None,
        })
    }
}
