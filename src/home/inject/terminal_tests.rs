//! A deputy under an interactive shell on a real terminal: job control is right because the deputy
//! is where the program was.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Program};
use std::time::Instant;

use super::tests::{deputise_in, make_cgroup, remove_cgroup, send};
use super::*;
use crate::protocol::deputy::MAX_INPUT_BYTES;

/// `si_code` of what the terminal sends.
const SI_KERNEL: i32 = 0x80;

/// Someone who sits at a terminal with a shell.
struct Person {
    terminal: File,
    shell: Child,
    seen: String,
}

impl Person {
    fn sit_down() -> (Self, OwnedFd) {
        let flags =
            rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let mut shell = Program::new("bash");
        shell.args(["--norc", "--noprofile", "-i"]).env("PS1", "$ ");
        shell.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave.try_clone().unwrap());
        // SAFETY: system calls only between fork and exec.
        unsafe {
            shell.pre_exec(|| {
                rustix::process::setsid()?;
                Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
            });
        }
        let shell = shell.spawn().unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        (Self { terminal: File::from(master), shell, seen: String::new() }, slave)
    }

    fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` is on the screen, and returns the line that follows it.
    fn sees(&mut self, text: &str) -> String {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.seen.split_once(text).and_then(|(_, rest)| rest.split_once("\r\n"));
            if let Some((line, rest)) = found.map(|(line, rest)| (line.to_owned(), rest.to_owned())) {
                self.seen = rest;
                return line;
            }
            assert!(Instant::now() < limit, "{text} does not appear: {:?}", self.seen);
            let mut buffer = [0; 1024];
            match self.terminal.read(&mut buffer) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&buffer[..bytes])),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.shell.kill().unwrap();
        self.shell.wait().unwrap();
    }
}

/// Reports until the wanted one.
fn hear(deputy: &Deputised, wanted: Report<'_>) {
    rustix::net::sockopt::set_socket_timeout(
        &deputy.socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(Duration::from_secs(10)),
    )
    .unwrap();
    let mut heard = Vec::new();
    loop {
        let mut packet = vec![0; REPORT_BYTES + MAX_INPUT_BYTES];
        let bytes = rustix::io::read(&deputy.socket, &mut packet)
            .unwrap_or_else(|error| panic!("{error}: {wanted:?} not in {heard:?}"));
        let report = Report::decode(&packet[..bytes]).unwrap();
        if report == wanted {
            return;
        }
        heard.push(format!("{report:?}"));
    }
}

fn pass_terminal(deputy: &Deputised, slave: &OwnedFd) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let fds = [slave.as_fd()];
    control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
    let packet = Command::Terminal.encode();
    rustix::net::sendmsg(
        &deputy.socket,
        &[std::io::IoSlice::new(&packet)],
        &mut control,
        rustix::net::SendFlags::empty(),
    )
    .unwrap();
}

#[test]
fn ctrl_c_ctrl_z_bg_fg_and_typing_work_with_a_deputy() {
    let (mut person, slave) = Person::sit_down();
    // Written so that what is typed, which the terminal and the shell may both show, does not look
    // like what is printed.
    person.types("sh -c 'echo p\"\"id=$$.; exec sleep 1000'\n");
    let pid: i32 = person.sees("pid=").trim_end_matches('.').parse().unwrap();
    let cgroup = make_cgroup("terminal");
    let deputy = &deputise_in(&cgroup, &[pid])[0];
    pass_terminal(deputy, &slave);
    hear(deputy, Report::Foreground(true));

    person.types("\x03");
    hear(deputy, Report::Signal { signal: libc::SIGINT, code: SI_KERNEL, value: 0 });
    send(deputy, Command::Read(100));
    person.types("hello\n");
    hear(deputy, Report::Input(b"hello\n"));

    person.types("\x1a");
    hear(deputy, Report::Signal { signal: libc::SIGTSTP, code: SI_KERNEL, value: 0 });
    send(deputy, Command::Stop(libc::SIGTSTP as u8));
    person.sees("Stopped");
    person.types("bg\n");
    hear(deputy, Report::Foreground(false));
    hear(deputy, Report::Signal { signal: libc::SIGCONT, code: 0, value: 0 });

    // In the background it reads nothing; the shell does.
    send(deputy, Command::Read(100));
    person.types("echo for' the shell'.\n");
    person.sees("for the shell.");
    person.types("fg\n");
    hear(deputy, Report::Foreground(true));
    person.types("more\n");
    hear(deputy, Report::Input(b"more\n"));

    send(deputy, Command::Exit(3));
    person.types("echo stat''us=$?.\n");
    assert_eq!(person.sees("status="), "3.");
    remove_cgroup(&cgroup);
}
