//! What is being done, on stderr: live lines with spinners on a terminal, plain lines elsewhere (a log must stay readable).

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Shows several steps at once. Cheap to clone; steps may be started from any thread.
#[derive(Clone)]
pub struct Progress {
    lines: Option<MultiProgress>,
}

/// One thing under way. Dropped without [`Step::done`], it is shown as broken off.
pub struct Step {
    bar: Option<ProgressBar>,
    what: String,
    since: Instant,
    ended: bool,
}

impl Progress {
    /// Shows nothing yet.
    pub fn new() -> Self {
        Self { lines: std::io::stderr().is_terminal().then(MultiProgress::new) }
    }

    /// Shows that `what` has begun.
    pub fn step(&self, what: impl Into<String>) -> Step {
        let what = what.into();
        let bar = self.lines.as_ref().map(|lines| {
            let bar = lines.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(what.clone());
            bar
        });
        if bar.is_none() {
            eprintln!("xtask: {what} …");
        }
        Step { bar, what, since: Instant::now(), ended: false }
    }

    /// Prints one line above the live ones.
    pub fn say(&self, line: impl AsRef<str>) {
        match &self.lines {
            Some(lines) => drop(lines.println(format!("xtask: {}", line.as_ref()))),
            None => eprintln!("xtask: {}", line.as_ref()),
        }
    }
}

impl Step {
    /// Shows that the step ended well.
    pub fn done(mut self) {
        self.ended = true;
        self.end("done");
    }

    fn end(&self, how: &str) {
        let line = format!("{}: {how} after {:.1} s", self.what, self.since.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => {
                if let Ok(style) = ProgressStyle::with_template("  {msg}") {
                    bar.set_style(style);
                }
                bar.finish_with_message(line);
            }
            None => eprintln!("xtask: {line}"),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.end("broken off");
        }
    }
}
