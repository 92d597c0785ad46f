//! The deputy: what stays in the place of a program that runs elsewhere. Same pid, parent, group,
//! session; no memory.
//!
//! ```text
//!   parent, shell, kill ── signals, wait ──► deputy ◄── socketpair ──► home agent
//!                                              │ reads, when asked and in the foreground
//!                                           terminal
//! ```
//!
//! It keeps all signals blocked and tells each to the home agent, reads the terminal when told (it
//! is in the right session and group, so job control is right), stops and ends as the guest process
//! did, and reaps the deputies of the guest process's children. It knows nothing else. If the home
//! agent dies it ends with `LOST_EXIT_CODE`.
//!
//! Freestanding, built by build.rs into a static ELF of a few kB.

#![no_std]
#![no_main]

#[allow(dead_code, reason = "the home agent uses the other half")]
#[path = "../../protocol/deputy.rs"]
mod protocol;
mod sys;

use core::arch::global_asm;

use protocol::{COMMAND_BYTES, Command, LOST_EXIT_CODE, MAX_INPUT_BYTES, Report, SOCKET_FD};
use sys::PollFd;

global_asm!(".globl _start", "_start:", "xor %ebp, %ebp", "and $-16, %rsp", "call {main}", "ud2", main = sym main, options(att_syntax));

/// How often a job in the background looks whether it has come to the foreground, in ms.
const BACKGROUND_LOOK_MS: i32 = 100;
/// `struct signalfd_siginfo`.
const SIGINFO_BYTES: usize = 128;

struct Deputy {
    signals: i32,
    terminal: Option<i32>,
    /// Bytes of terminal input that home wants.
    wanted: usize,
    foreground: bool,
}

extern "C" fn main() -> ! {
    sys::block_all_signals();
    sys::clear_timers();
    sys::close_from(SOCKET_FD as u32 + 1);
    let mut deputy = Deputy { signals: sys::signalfd_for_all(), terminal: None, wanted: 0, foreground: true };
    while deputy.obey() {}
    sys::reap();
    report(Report::Ready);
    loop {
        deputy.wait();
    }
}

impl Deputy {
    fn wait(&mut self) {
        let wants_input = self.wanted > 0 && self.foreground;
        let terminal = self.terminal.filter(|_| wants_input).unwrap_or(-1);
        let looks_again = self.terminal.is_some() && !self.foreground;
        let watch = |fd| PollFd { fd, events: sys::POLLIN, revents: 0 };
        let mut fds = [watch(self.signals), watch(SOCKET_FD), watch(terminal)];
        sys::poll(&mut fds, if looks_again { BACKGROUND_LOOK_MS } else { -1 });
        let [signals, socket, input] = fds.map(|fd| fd.revents != 0);
        if signals {
            self.tell_signal();
        }
        if socket {
            self.obey();
        }
        if input || looks_again {
            self.look_at_foreground();
        }
        if input {
            self.read_terminal();
        }
    }

    /// Carries out one command if there is one.
    fn obey(&mut self) -> bool {
        let mut packet = [0; COMMAND_BYTES];
        let (got, fd) = sys::receive(SOCKET_FD, &mut packet);
        if got == sys::EAGAIN || got == sys::EINTR {
            return false;
        }
        let command = usize::try_from(got).ok().and_then(|bytes| packet.get(..bytes)).and_then(Command::decode);
        match command {
            // Closed by the home agent's death, or not a command of ours: nothing speaks for the
            // guest process any more.
            None => sys::exit(LOST_EXIT_CODE),
            Some(Command::Init { comm, dumped }) => {
                sys::set_name(&comm);
                sys::drop_pending(dumped);
            }
            Some(Command::Exit(code)) => sys::exit(code),
            Some(Command::Kill(signal)) => die(signal.into()),
            Some(Command::Stop(signal)) => self.stop(signal.into()),
            Some(Command::Terminal) => {
                if let Some(old) = self.terminal {
                    sys::close(old);
                }
                self.terminal = fd;
                self.foreground = self.is_foreground();
                report(Report::Foreground(self.foreground));
            }
            Some(Command::Read(bytes)) => self.wanted = usize::from(bytes).min(MAX_INPUT_BYTES),
        }
        true
    }

    fn tell_signal(&mut self) {
        let mut info = [0; SIGINFO_BYTES];
        if sys::read(self.signals, &mut info) != SIGINFO_BYTES as isize {
            return;
        }
        // struct signalfd_siginfo: signo u32 @0, code i32 @8, ptr u64 @48
        let word = |at: usize| i32::from_le_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let (signal, code) = (word(0), word(8));
        let value = word(48) as u32 as u64 | (word(52) as u32 as u64) << 32;
        match signal {
            // Deputies of the guest process's children; the guest process hears of its children
            // where it runs. A SIGCHLD from kill(2) is passed on.
            sys::SIGCHLD if code > 0 => return sys::reap(),
            // The last tick of a timer that went with the guest process.
            sys::SIGALRM | sys::SIGVTALRM | sys::SIGPROF if code == sys::SI_KERNEL => return,
            sys::SIGCONT => self.look_at_foreground(),
            _ => {}
        }
        report(Report::Signal { signal, code, value });
    }

    fn is_foreground(&self) -> bool {
        self.terminal.and_then(sys::is_foreground).unwrap_or(true)
    }

    fn look_at_foreground(&mut self) {
        let now = self.is_foreground();
        if now != self.foreground {
            self.foreground = now;
            report(Report::Foreground(now));
        }
    }

    fn read_terminal(&mut self) {
        let Some(terminal) = self.terminal.filter(|_| self.foreground) else { return };
        let mut buffer = [0; MAX_INPUT_BYTES];
        let Some(room) = buffer.get_mut(..self.wanted) else { return };
        let got = sys::read(terminal, room);
        if got == sys::EINTR || got == sys::EAGAIN {
            return;
        }
        match usize::try_from(got).ok().and_then(|bytes| room.get(..bytes)) {
            Some(input) => report(Report::Input(input)),
            // EIO is also what a reader in the background gets while SIGTTIN is blocked: then it
            // was not the terminal's end.
            None if !self.is_foreground() => return self.look_at_foreground(),
            None => report(Report::Hangup(-got as i32)),
        }
        self.wanted = 0;
    }

    /// Stops as the guest process did, unless it stopped for want of the terminal and that has
    /// meanwhile come to the foreground.
    fn stop(&mut self, signal: i32) {
        let for_terminal = signal == sys::SIGTTIN || signal == sys::SIGTTOU;
        if !(for_terminal && self.terminal.is_some() && self.is_foreground()) {
            sys::raise_default(if is_valid(signal) { signal } else { sys::SIGSTOP });
        }
        self.look_at_foreground();
        // Usually it was a SIGCONT that resumed it, which is told as every signal is.
        if !sys::is_pending(sys::SIGCONT) {
            report(Report::Continued);
        }
    }
}

fn is_valid(signal: i32) -> bool {
    (1..=64).contains(&signal)
}

fn die(signal: i32) -> ! {
    sys::forbid_core_dumps();
    if is_valid(signal) {
        sys::raise_default(signal);
    }
    // Not reached, except for a signal whose default is not to end.
    sys::exit(128_u8.wrapping_add(signal as u8));
}

fn report(report: Report) {
    let input = if let Report::Input(input) = report { input } else { &[] };
    sys::send(SOCKET_FD, &report.encode(), input);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    sys::exit(LOST_EXIT_CODE)
}
