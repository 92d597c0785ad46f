//! One process under ptrace: its threads held, and system calls made in its name.
//!
//! Everything here belongs to the thread that seized the process: ptrace knows threads, not
//! processes. The calls wait for events of this thread's tracees only (`__WNOTHREAD`), so children
//! of the rest of the agent are left alone.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

/// A process all of whose threads stand still under ptrace. Should the seizing thread die, the
/// kernel kills it.
pub struct Tracee {
    pid: i32,
    threads: Vec<i32>,
}

/// What a system call made in the tracee gave.
enum Returned {
    /// The result, a negative errno if it failed.
    Value(i64),
    /// The call was an exec, and it succeeded: the process is another program now.
    Execed,
}

const SECCOMP_SUSPENDED: i32 = libc::PTRACE_O_SUSPEND_SECCOMP;
const OPTIONS: i32 = libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
const SYSCALL_INSTRUCTION: [u8; 2] = [0x0f, 0x05];
/// `cs` of 64-bit code.
const USER_CS: u64 = 0x33;

fn ptrace(request: libc::c_uint, tid: i32, addr: usize, data: usize) -> io::Result<i64> {
    // SAFETY: `addr` and `data` are numbers, or point to memory of the caller that the request
    // reads or fills.
    let result = unsafe { libc::ptrace(request, tid, addr, data) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn gone(pid: i32) -> io::Error {
    io::Error::other(format!("process {pid} ended meanwhile"))
}

/// Waits for the next event of a tracee of this thread: its tid and status.
fn wait_any() -> io::Result<(i32, i32)> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is ours to fill.
        let tid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) };
        if tid > 0 {
            return Ok((tid, status));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

impl Tracee {
    /// Seizes every thread and waits until it stands still under ptrace; works on a cgroup that is
    /// frozen.
    ///
    /// # Errors
    /// If the process is gone, or its leader is, or it may not be traced (traced already, or too
    /// few rights).
    pub fn seize(pid: i32) -> io::Result<Self> {
        let mut tracee = Self { pid, threads: Vec::new() };
        loop {
            let listed = tracee.list_threads()?;
            let fresh: Vec<_> = listed.into_iter().filter(|tid| !tracee.threads.contains(tid)).collect();
            if fresh.is_empty() {
                break;
            }
            for tid in fresh {
                let seize = |options| ptrace(libc::PTRACE_SEIZE, tid, 0, options as usize);
                // Without CAP_SYS_ADMIN, or under seccomp ourselves, filters cannot be suspended;
                // then they stay in force.
                let seized = seize(OPTIONS | SECCOMP_SUSPENDED).or_else(|_| seize(OPTIONS));
                match seized {
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) && tid != pid => continue,
                    result => result?,
                };
                ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
                tracee.wait_stopped(tid)?;
                tracee.threads.push(tid);
            }
        }
        if tracee.threads.contains(&pid) { Ok(tracee) } else { Err(gone(pid)) }
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    fn list_threads(&self) -> io::Result<Vec<i32>> {
        let names = fs::read_dir(format!("/proc/{}/task", self.pid))?;
        Ok(names.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
    }

    fn wait_stopped(&self, tid: i32) -> io::Result<()> {
        let mut status = 0;
        loop {
            // SAFETY: `status` is ours to fill.
            if unsafe { libc::waitpid(tid, &mut status, libc::__WALL | libc::__WNOTHREAD) } == tid {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        if libc::WIFSTOPPED(status) { Ok(()) } else { Err(gone(self.pid)) }
    }

    /// Blocks all signals of the leader: what comes from now on stays pending, over exec too.
    pub fn block_signals(&self) -> io::Result<()> {
        let all = u64::MAX;
        ptrace(libc::PTRACE_SETSIGMASK, self.pid, size_of::<u64>(), &raw const all as usize).map(drop)
    }

    /// An address in the process where a `syscall` instruction stands; nothing in it needs to be
    /// changed.
    pub fn find_syscall_instruction(&self) -> io::Result<u64> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        let memory = fs::File::open(format!("/proc/{}/mem", self.pid))?;
        let (vdso, others): (Vec<_>, Vec<_>) =
            maps.lines().filter_map(executable_range).partition(|(_, _, name)| *name == "[vdso]");
        for (start, end, name) in vdso.into_iter().chain(others) {
            if name == "[vsyscall]" {
                continue;
            }
            let mut code = vec![0; (end - start).min(16 << 20) as usize];
            let Ok(bytes) = memory.read_at(&mut code, start) else { continue };
            if let Some(at) = code[..bytes].windows(2).position(|pair| pair == SYSCALL_INSTRUCTION) {
                return Ok(start + at as u64);
            }
        }
        Err(io::Error::other("no system call instruction in the program's memory"))
    }

    /// Makes a system call in the leader.
    ///
    /// # Errors
    /// If the call fails, or the process goes away.
    pub fn call(&self, instruction: u64, number: i64, args: [u64; 5]) -> io::Result<i64> {
        match self.run(instruction, number, args)? {
            Returned::Value(value) if (-4095..0).contains(&value) => Err(io::Error::from_raw_os_error(-value as i32)),
            Returned::Value(value) => Ok(value),
            Returned::Execed => Err(io::Error::other("an exec came out of nowhere")),
        }
    }

    /// Makes an exec in the leader; afterwards the process is the new program, stopped before its
    /// first instruction.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn exec(&self, instruction: u64, number: i64, args: [u64; 5]) -> io::Result<()> {
        match self.run(instruction, number, args)? {
            Returned::Execed => Ok(()),
            Returned::Value(value) => Err(io::Error::from_raw_os_error(-value as i32)),
        }
    }

    fn run(&self, instruction: u64, number: i64, args: [u64; 5]) -> io::Result<Returned> {
        let mut regs = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
        ptrace(libc::PTRACE_GETREGS, self.pid, 0, regs.as_mut_ptr() as usize)?;
        // SAFETY: zeroed first, and filled by the kernel; any bits are valid numbers.
        let mut regs = unsafe { regs.assume_init() };
        if regs.cs != USER_CS {
            return Err(io::Error::other("a 32-bit program"));
        }
        // -1: the system call that was interrupted by the stop is not restarted.
        regs.orig_rax = u64::MAX;
        (regs.rip, regs.rax) = (instruction, number as u64);
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8] = args;
        regs.r9 = 0;
        ptrace(libc::PTRACE_SETREGS, self.pid, 0, &raw const regs as usize)?;
        ptrace(libc::PTRACE_SYSCALL, self.pid, 0, 0)?;
        loop {
            let (tid, status) = wait_any()?;
            // Other threads die in exec, and exec waits until they are reaped: `wait_any` has just
            // done it.
            if tid != self.pid {
                continue;
            }
            if !libc::WIFSTOPPED(status) {
                return Err(gone(self.pid));
            }
            if status >> 8 == libc::SIGTRAP | (libc::PTRACE_EVENT_EXEC << 8) {
                return Ok(Returned::Execed);
            }
            if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 && self.is_syscall_exit()? {
                ptrace(libc::PTRACE_GETREGS, self.pid, 0, &raw mut regs as usize)?;
                return Ok(Returned::Value(regs.rax as i64));
            }
            // The entry of the call; or a job-control stop, which must not hold us up.
            ptrace(libc::PTRACE_SYSCALL, self.pid, 0, 0)?;
        }
    }

    fn is_syscall_exit(&self) -> io::Result<bool> {
        // SAFETY: plain old data, all zeros is valid.
        let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
        let bytes = size_of_val(&info);
        ptrace(libc::PTRACE_GET_SYSCALL_INFO, self.pid, bytes, &raw mut info as usize)?;
        Ok(info.op == libc::PTRACE_SYSCALL_INFO_EXIT)
    }

    /// Raises a limit that is lower than `wanted`, the hard one too if we may; whether that could
    /// be done. `None` if the limit is high enough, or cannot be read.
    pub fn raise_limit(&self, resource: libc::__rlimit_resource_t, wanted: u64) -> Option<bool> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: reads into `limit`, which is ours.
        if unsafe { libc::prlimit(self.pid, resource, std::ptr::null(), &mut limit) } != 0 || limit.rlim_cur >= wanted {
            return None;
        }
        let hard_too = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
        let soft = libc::rlimit { rlim_cur: wanted.min(limit.rlim_max), rlim_max: limit.rlim_max };
        // SAFETY: both limits are read only, and live until the calls return.
        let set = |new| unsafe { libc::prlimit(self.pid, resource, new, std::ptr::null_mut()) } == 0;
        Some([&hard_too, &soft].into_iter().any(|new| set(new)))
    }

    /// Writes to the process's memory.
    pub fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        fs::OpenOptions::new().write(true).open(format!("/proc/{}/mem", self.pid))?.write_all_at(bytes, address)
    }

    /// Reads from the process's memory.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
        fs::File::open(format!("/proc/{}/mem", self.pid))?.read_exact_at(bytes, address)
    }

    /// Lets the new program run, no longer traced.
    pub fn detach(self) -> io::Result<()> {
        ptrace(libc::PTRACE_DETACH, self.pid, 0, 0).map(drop)
    }
}

/// Start, end and name of an executable mapping.
fn executable_range(line: &str) -> Option<(u64, u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_executable = words.next()?.as_bytes().get(2) == Some(&b'x');
    let name = words.nth(3).unwrap_or_default();
    is_executable.then_some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?, name))
}
