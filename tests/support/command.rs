//! Commands with deadlines, whose failures tell all: the command, its status, what it printed.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(10);

/// What came of a command.
#[derive(Debug, Clone)]
pub struct Finished {
    command: String,
    /// How it ended; `None` if it was killed at its deadline.
    pub status: Option<ExitStatus>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Finished {
    /// Its stdout; fails the test unless it succeeded.
    pub fn success(self) -> String {
        assert!(self.status.is_some_and(|status| status.success()), "{self}");
        self.stdout
    }

    /// Its exit status as a shell would tell it: 128 + N for signal N. Fails the test if it did not
    /// end in time.
    pub fn code(&self) -> i32 {
        let status = self.status.unwrap_or_else(|| panic!("{self}"));
        status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or_else(|| panic!("{self}"))
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{}: {status}", self.command)?,
            None => write!(f, "{}: did not end in time and was killed", self.command)?,
        }
        write!(f, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}

/// Runs a command with empty stdin; kills it after `limit`.
pub fn run(command: Command, limit: Duration) -> Finished {
    let mut running = Running::start(command);
    running.close_stdin();
    running.finish_within(limit)
}

/// One stream of a running command, collected as it comes.
struct Stream {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    fn collect(mut from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 4_096];
            while let Ok(length @ 1..) = from.read(&mut chunk) {
                into.lock().unwrap().extend_from_slice(&chunk[..length]);
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn now(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader only reads");
        }
        self.now()
    }
}

/// A command that runs, in a process group of its own. Killed when dropped.
pub struct Running {
    command: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Stream,
    stderr: Stream,
}

impl Running {
    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let shown = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // A shell that started the tests in its background left SIGINT ignored, and whom a test
        // interrupts must hear it. SAFETY: system calls only between fork and exec.
        unsafe {
            command.pre_exec(|| {
                for signal in [nix::libc::SIGINT, nix::libc::SIGQUIT] {
                    nix::libc::signal(signal, nix::libc::SIG_DFL);
                }
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        let stdin = child.stdin.take();
        let stdout = Stream::collect(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Stream::collect(child.stderr.take().expect("stderr is a pipe"));
        Self { command: shown, child, stdin, stdout, stderr }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Writes to its stdin.
    pub fn send(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap_or_else(|| panic!("{}: its stdin was closed", self.command));
        let written = stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush());
        written.unwrap_or_else(|error| panic!("{}: does not read its stdin: {error}", self.command));
    }

    /// Ends its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.stdout.now()
    }

    /// Waits until its stdout contains `text`, and gives all of it so far.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> String {
        let start = Instant::now();
        loop {
            // First whether it ended, then what it printed: nothing comes after that.
            let ended = self.child.try_wait().expect("our child can be waited for");
            let printed = if ended.is_some() { self.stdout.all() } else { self.stdout.now() };
            if printed.contains(text) {
                return printed;
            }
            if ended.is_some() || start.elapsed() >= limit {
                panic!("{text:?} was not printed within {limit:?} by {}", self.snapshot(ended));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits for its end; kills it after `limit`.
    pub fn finish_within(mut self, limit: Duration) -> Finished {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child can be waited for") {
                return Finished {
                    stdout: self.stdout.all(),
                    stderr: self.stderr.all(),
                    ..self.snapshot(Some(status))
                };
            }
            if start.elapsed() >= limit {
                return self.snapshot(None);
            }
            std::thread::sleep(POLL);
        }
    }

    fn snapshot(&self, status: Option<ExitStatus>) -> Finished {
        Finished { command: self.command.clone(), status, stdout: self.stdout.now(), stderr: self.stderr.now() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let group = nix::unistd::Pid::from_raw(self.pid());
            // Its helpers (an ssh, say) go with it. It cannot have been reaped in between: only we
            // wait for it.
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
