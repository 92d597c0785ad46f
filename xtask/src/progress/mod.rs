//! What is being done, what is left and about how long, on stderr: live lines on a terminal, plain
//! lines elsewhere (a log must stay readable).

mod plan;

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use plan::{Durations, Plan, about};
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shows several steps at once. Cheap to clone; steps may be started from any thread.
#[derive(Clone)]
pub struct Progress {
    lines: Option<MultiProgress>,
    plan: Arc<Mutex<Plan>>,
}

/// One thing under way. Dropped without [`Step::done`], it is shown as broken off.
pub struct Step {
    progress: Progress,
    bar: Option<ProgressBar>,
    what: String,
    since: Instant,
    ended: bool,
}

impl Progress {
    /// Shows nothing yet.
    pub fn new() -> Self {
        Self::with(Durations::load())
    }

    fn with(durations: Durations) -> Self {
        let lines = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { lines, plan: Arc::new(Mutex::new(Plan::new(durations))) }
    }

    /// Learns nothing from what tests do.
    #[cfg(test)]
    pub fn of_a_test() -> Self {
        Self::with(Durations::default())
    }

    /// Tells which steps will come: stages one after the other, each of steps at the same time.
    /// From now on it is shown how long all that is left will take.
    pub fn expect(&self, stages: &[&[&str]]) {
        let now = Instant::now();
        self.plan().expect(stages);
        let left = self.plan().left(now);
        let names = stages.iter().map(|stage| stage.join(" and ")).collect::<Vec<_>>().join(", then ");
        self.say(format!("{} in all: {names}", about(left)));
        let Some(lines) = &self.lines else { return };
        let plan = self.plan.clone();
        let left = move |_: &ProgressState, out: &mut dyn Write| {
            let left = lock(&plan).left(Instant::now());
            // An estimate that cannot be printed is no reason to fail.
            let _ = out.write_str(&about(left));
        };
        if let Ok(style) = ProgressStyle::with_template("  {left} left") {
            let bar = lines.add(ProgressBar::new_spinner());
            bar.set_style(style.with_key("left", left));
            bar.enable_steady_tick(Duration::from_secs(1));
            self.plan().total = Some(bar);
        }
    }

    /// Shows that `what` has begun.
    pub fn step(&self, what: impl Into<String>) -> Step {
        let what = what.into();
        let since = Instant::now();
        let usual = self.plan().begin(&what, since);
        let usual = usual.map(|seconds| format!(", usually {}", about(seconds))).unwrap_or_default();
        let bar = self.lines.as_ref().map(|lines| {
            let bar = ProgressBar::new_spinner();
            // Drawing asks for the plan: it must not be locked here.
            let total = self.plan().total.clone();
            let bar = match &total {
                Some(total) => lines.insert_before(total, bar),
                None => lines.add(bar),
            };
            if let Ok(style) = ProgressStyle::with_template(&format!("{{spinner}} {{msg}} ({{elapsed}}{usual})")) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(what.clone());
            bar
        });
        if bar.is_none() {
            eprintln!("xtask: {what} …{}", usual.replacen(',', "", 1));
        }
        Step { progress: self.clone(), bar, what, since, ended: false }
    }

    /// A step that writes to the screen by itself: live lines are away meanwhile.
    pub fn aside<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let since = Instant::now();
        self.plan().begin(what, since);
        let result = match &self.lines {
            Some(lines) => lines.suspend(work),
            None => work(),
        };
        if result.is_ok() {
            self.plan().end(what, since.elapsed());
        }
        result
    }

    /// Prints one line above the live ones.
    pub fn say(&self, line: impl AsRef<str>) {
        self.print(format!("xtask: {}", line.as_ref()));
    }

    /// Prints a line of another program above the live ones.
    pub fn print(&self, line: impl AsRef<str>) {
        match &self.lines {
            Some(lines) => drop(lines.println(line)),
            None => eprintln!("{}", line.as_ref()),
        }
    }

    /// Whether lines are live.
    pub fn is_live(&self) -> bool {
        self.lines.is_some()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        lock(&self.plan)
    }
}

fn lock(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Step {
    /// Shows how far it is, and what it is at.
    pub fn at(&self, done: u64, total: u64, what: &str) {
        self.progress.plan().at(&self.what, done, total);
        if let Some(bar) = &self.bar {
            let what: String = what.chars().take(40).collect();
            bar.set_message(format!("{}: {done} of {total}, {what}", self.what));
        }
    }

    /// Shows that the step ended well.
    pub fn done(mut self) {
        self.ended = true;
        self.progress.plan().end(&self.what, self.since.elapsed());
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
            None => {
                let left = self.progress.plan().left(Instant::now());
                let left = if left > 0.0 { format!("; {} left", about(left)) } else { String::new() };
                eprintln!("xtask: {line}{left}");
            }
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
