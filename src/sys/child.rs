//! What a child process does between fork and exec, and how a process continues as its own child.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask},
};

/// The namespaces of a child.
#[derive(Debug, Default)]
pub enum Namespaces {
    /// Those of its parent.
    #[default]
    Inherited,
    /// New ones of these kinds.
    New(CloneFlags),
    /// All of these kinds of the process with this pidfd.
    Of(OwnedFd, CloneFlags),
}

/// What a child does between fork and exec, in this order.
#[derive(Debug, Default)]
pub struct Setup {
    /// It becomes leader of a new session.
    pub new_session: bool,
    /// The `cgroup.procs` of the cgroup that it enters.
    pub cgroup: Option<OwnedFd>,
    /// Its namespaces. A pid namespace is only for children: it continues as its own child, and the
    /// process that was forked first waits, holds nothing open, and ends as it ends.
    pub namespaces: Namespaces,
    /// Descriptors that it gets, each at a number.
    pub descriptors: Vec<(OwnedFd, RawFd)>,
    /// What is open from this number on is closed by the exec.
    pub close_from: Option<RawFd>,
    /// Its group becomes the foreground group of the terminal that is its standard input.
    pub foreground: bool,
    /// No signal is blocked, and SIGHUP is not ignored.
    pub default_signals: bool,
}

/// Has the child of `command` do all of `setup`. To be called once for a command.
pub fn set_up(command: &mut Command, setup: Setup) {
    // SAFETY: between fork and exec only system calls are made, which are async-signal-safe, and
    // nothing is allocated.
    unsafe { command.pre_exec(move || setup.carry_out()) };
}

impl Setup {
    fn carry_out(&self) -> io::Result<()> {
        if self.new_session {
            rustix::process::setsid()?;
        }
        if let Some(procs) = &self.cgroup {
            // 0 stands for the process that writes.
            rustix::io::write(procs, b"0")?;
        }
        match &self.namespaces {
            Namespaces::Inherited => {}
            Namespaces::New(kinds) => {
                unshare(*kinds)?;
                continue_as_child()?;
            }
            Namespaces::Of(process, kinds) => {
                setns(process.as_fd(), *kinds)?;
                continue_as_child()?;
            }
        }
        for (descriptor, number) in &self.descriptors {
            give(descriptor, *number)?;
        }
        if let Some(number) = self.close_from {
            // Close on exec and not now: the standard library reports a failed exec through a
            // descriptor of its own. SAFETY: the call takes numbers only.
            if unsafe { libc::syscall(libc::SYS_close_range, number, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        if self.foreground {
            rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid())?;
        }
        if self.default_signals {
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            // SAFETY: the default action runs no code of this process.
            unsafe { signal(Signal::SIGHUP, SigHandler::SigDfl) }?;
        }
        Ok(())
    }
}

/// Duplicates a descriptor to a number where it stays open after exec.
fn give(descriptor: &OwnedFd, number: RawFd) -> io::Result<()> {
    if descriptor.as_raw_fd() == number {
        return Ok(rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?);
    }
    // SAFETY: the child's descriptors belong only to the program that it is about to execute.
    match unsafe { libc::dup2(descriptor.as_raw_fd(), number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Forks: the child returns; its parent stays behind, holds nothing open, and ends as the child
/// ends. If it is killed, the kernel kills the child. Only for a process between fork and exec.
fn continue_as_child() -> io::Result<()> {
    // SAFETY: plain system calls with valid arguments in a process with one thread, whose
    // descriptors nothing relies on in the parent.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            }
            child => {
                // Among these is the pipe that tells our parent whether exec worked.
                libc::close_range(0, libc::c_uint::MAX, 0);
                let mut status = 0;
                while libc::waitpid(child, &mut status, 0) < 0 && *libc::__errno_location() == libc::EINTR {}
                libc::_exit(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 255 })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn sh(script: &str, setup: Setup) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        set_up(&mut command, setup);
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn a_child_gets_its_descriptors_and_no_others() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"passed\n").unwrap();
        drop(writer);
        let leaked = rustix::io::dup(&reader).unwrap();
        let setup = Setup { descriptors: vec![(reader.into(), 9)], close_from: Some(10), ..Setup::default() };
        let number = leaked.as_raw_fd();
        let script = format!("cat <&9; test {number} -lt 10 -o ! -e /proc/self/fd/{number} && echo closed");
        assert_eq!(sh(&script, setup), "passed\nclosed");
        drop(leaked);
    }

    #[test]
    fn a_descriptor_that_has_its_number_already_stays_open() {
        let (mut reader, writer) = io::pipe().unwrap();
        let number = writer.as_raw_fd();
        let setup = Setup { descriptors: vec![(writer.into(), number)], ..Setup::default() };
        sh(&format!("echo here >/proc/self/fd/{number}"), setup);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here\n");
    }

    /// Needs root, as agents do.
    #[test]
    fn a_child_lives_in_new_namespaces_and_ends_as_itself() {
        let namespaces = Namespaces::New(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS);
        assert_eq!(sh("echo $$", Setup { namespaces, new_session: true, ..Setup::default() }), "1");
        let mut command = Command::new("sh");
        command.args(["-c", "exit 7"]);
        let namespaces = Namespaces::New(CloneFlags::CLONE_NEWPID);
        set_up(&mut command, Setup { namespaces, ..Setup::default() });
        assert_eq!(command.status().unwrap().code(), Some(7));
    }
}
