//! The deputy's system calls (x86-64), without any library.

use core::arch::asm;

pub const POLLIN: i16 = 1;
pub const EINTR: isize = -4;
pub const EAGAIN: isize = -11;
pub const SIGALRM: i32 = 14;
pub const SIGCHLD: i32 = 17;
pub const SIGCONT: i32 = 18;
pub const SIGSTOP: i32 = 19;
pub const SIGTTIN: i32 = 21;
pub const SIGTTOU: i32 = 22;
pub const SIGVTALRM: i32 = 26;
pub const SIGPROF: i32 = 27;
/// `si_code` of signals that the kernel sends.
pub const SI_KERNEL: i32 = 0x80;

const WNOHANG: usize = 1;
const WALL: usize = 0x4000_0000;
const SIG_BLOCK: usize = 0;
const SIG_UNBLOCK: usize = 1;
const SIGSET_BYTES: usize = 8;
const TIOCGPGRP: usize = 0x540f;
const RLIMIT_CORE: usize = 4;
const PR_SET_DUMPABLE: usize = 4;
const PR_SET_NAME: usize = 15;
const SFD_CLOEXEC: usize = 0o2000000;
const SCM_RIGHTS: i32 = 1;
const SOL_SOCKET: i32 = 1;
const MSG_NOSIGNAL: usize = 0x4000;
const MSG_DONTWAIT: usize = 0x40;

fn call(number: usize, args: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: every caller below passes numbers, or pointers to live memory of the size that the
    // call expects; the kernel clobbers rcx and r11 only.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
             in("r10") args[3], in("r8") args[4], in("r9") 0, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[repr(C)]
pub struct PollFd {
    pub fd: i32,
    pub events: i16,
    pub revents: i16,
}

/// Waits for any of `fds`, at most `timeout_ms`, for ever if negative.
pub fn poll(fds: &mut [PollFd], timeout_ms: i32) -> isize {
    call(7, [fds.as_mut_ptr() as usize, fds.len(), timeout_ms as usize, 0, 0])
}

pub fn exit(code: u8) -> ! {
    loop {
        call(231, [code as usize, 0, 0, 0, 0]);
    }
}

pub fn read(fd: i32, buffer: &mut [u8]) -> isize {
    call(0, [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0])
}

pub fn close(fd: i32) {
    call(3, [fd as usize, 0, 0, 0, 0]);
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) {
    call(436, [first as usize, u32::MAX as usize, 0, 0, 0]);
}

pub fn clear_timers() {
    let none = [0_i64; 4];
    for which in 0..3 {
        call(38, [which, none.as_ptr() as usize, 0, 0, 0]);
    }
}

pub fn set_name(comm: &[u8; 16]) {
    call(157, [PR_SET_NAME, comm.as_ptr() as usize, 0, 0, 0]);
}

pub fn forbid_core_dumps() {
    let none = [0_u64; 2];
    call(160, [RLIMIT_CORE, none.as_ptr() as usize, 0, 0, 0]);
    call(157, [PR_SET_DUMPABLE, 0, 0, 0, 0]);
}

pub fn block_all_signals() {
    let all = u64::MAX;
    call(14, [SIG_BLOCK, &raw const all as usize, 0, SIGSET_BYTES, 0]);
}

pub fn signalfd_for_all() -> i32 {
    let all = u64::MAX;
    call(289, [usize::MAX, &raw const all as usize, SIGSET_BYTES, SFD_CLOEXEC, 0]) as i32
}

/// Removes pending signals of this set.
pub fn drop_pending(set: u64) {
    let now = [0_i64; 2];
    while call(128, [&raw const set as usize, 0, now.as_ptr() as usize, SIGSET_BYTES, 0]) > 0 {}
}

/// Whether this signal waits to be read.
pub fn is_pending(signal: i32) -> bool {
    let mut set = 0_u64;
    call(127, [&raw mut set as usize, SIGSET_BYTES, 0, 0, 0]);
    set & 1 << (signal - 1) != 0
}

/// Takes the signal's default action now, then blocks it again if it comes back.
pub fn raise_default(signal: i32) {
    // struct sigaction of the kernel: SIG_DFL, no flags, no restorer, empty mask
    let default = [0_usize; 4];
    call(13, [signal as usize, default.as_ptr() as usize, 0, SIGSET_BYTES, 0]);
    let set = 1_u64 << (signal - 1);
    call(62, [pid(), signal as usize, 0, 0, 0]);
    call(14, [SIG_UNBLOCK, &raw const set as usize, 0, SIGSET_BYTES, 0]);
    block_all_signals();
}

fn pid() -> usize {
    call(39, [0; 5]) as usize
}

/// Takes away the dead children; they are deputies too.
pub fn reap() {
    while call(61, [usize::MAX, 0, WNOHANG | WALL, 0, 0]) > 0 {}
}

/// The foreground group of the terminal and our own; `None` if it is not our controlling terminal.
pub fn is_foreground(terminal: i32) -> Option<bool> {
    let mut group = 0_i32;
    let result = call(16, [terminal as usize, TIOCGPGRP, &raw mut group as usize, 0, 0]);
    (result == 0).then(|| group as isize == call(121, [0; 5]))
}

#[repr(C)]
struct IoVec {
    base: usize,
    length: usize,
}

#[repr(C)]
struct MsgHdr {
    name: usize,
    name_bytes: usize,
    iov: usize,
    iov_count: usize,
    control: usize,
    control_bytes: usize,
    flags: usize,
}

/// Sends one packet of two parts. A full socket waits; a closed one is noticed by the next receive.
pub fn send(fd: i32, head: &[u8], tail: &[u8]) {
    let iov = [
        IoVec { base: head.as_ptr() as usize, length: head.len() },
        IoVec { base: tail.as_ptr() as usize, length: tail.len() },
    ];
    let message =
        MsgHdr { name: 0, name_bytes: 0, iov: iov.as_ptr() as usize, iov_count: 2, control: 0, control_bytes: 0, flags: 0 };
    while call(46, [fd as usize, &raw const message as usize, MSG_NOSIGNAL, 0, 0]) == EINTR {}
}

/// Receives one packet without waiting, and the descriptor that came with it.
pub fn receive(fd: i32, packet: &mut [u8]) -> (isize, Option<i32>) {
    #[repr(C)]
    struct Control {
        bytes: usize,
        level: i32,
        kind: i32,
        fd: i32,
        pad: i32,
    }
    let mut control = Control { bytes: 0, level: 0, kind: 0, fd: -1, pad: 0 };
    let iov = IoVec { base: packet.as_mut_ptr() as usize, length: packet.len() };
    let mut message = MsgHdr {
        name: 0,
        name_bytes: 0,
        iov: &raw const iov as usize,
        iov_count: 1,
        control: &raw mut control as usize,
        control_bytes: size_of::<Control>(),
        flags: 0,
    };
    let got = call(47, [fd as usize, &raw mut message as usize, MSG_DONTWAIT, 0, 0]);
    let has_fd = message.control_bytes > 0 && control.level == SOL_SOCKET && control.kind == SCM_RIGHTS;
    (got, has_fd.then_some(control.fd))
}

// What the compiler takes for granted. In assembly, so that it cannot turn them into calls of
// themselves.

#[unsafe(no_mangle)]
extern "C" fn memset(to: *mut u8, byte: i32, bytes: usize) -> *mut u8 {
    // SAFETY: the compiler calls this with `bytes` writable bytes at `to`.
    unsafe { asm!("rep stosb", inout("rdi") to => _, inout("rcx") bytes => _, in("al") byte as u8, options(nostack)) };
    to
}

#[unsafe(no_mangle)]
extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: the compiler calls this with `bytes` writable bytes at `to` and as many readable
    // ones, apart from them, at `from`.
    unsafe { asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") bytes => _, options(nostack)) };
    to
}
