//! Test programs, several at a time: most of them wait most of the time, for nodes to boot, for
//! time limits, for moves.

use super::count::Count;
use crate::cmd;
use anyhow::{Context, Result, anyhow};
use std::collections::VecDeque;
use std::io::{Read, Seek};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A program that prints what its tests came to, as `cargo test` does.
pub struct Program {
    pub name: String,
    pub command: Command,
}

/// What a program came to.
#[derive(Debug)]
pub struct Outcome {
    pub name: String,
    pub took: Duration,
    pub count: Count,
}

/// Runs all, `at_once` at a time, in the order given. What one prints appears as a whole when it
/// has ended; of a program that runs alone it appears as it comes.
pub fn run(programs: Vec<Program>, at_once: usize) -> Result<Vec<Outcome>> {
    let is_live = programs.len() == 1 || at_once == 1;
    let waiting = Mutex::new(VecDeque::from(programs));
    let outcomes = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        // Not in the loop's condition: there the lock would be held while the program runs.
        let next = || lock(&waiting).pop_front();
        while let Some(program) = next() {
            println!("== {}", program.name);
            let outcome = program.run(is_live)?;
            lock(&outcomes).push(outcome);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a test runner broke off"))?)
    })?;
    Ok(outcomes.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl Program {
    fn run(mut self, is_live: bool) -> Result<Outcome> {
        let began = Instant::now();
        self.command.stdin(Stdio::null());
        let ran = if is_live { run_live(&mut self.command) } else { run_quietly(&mut self.command) };
        let (status, text) = ran.with_context(|| format!("cannot run {}", self.name))?;
        let count = Count::of_run(&text, status.success());
        if !is_live {
            println!("== {}: what it printed\n{text}", self.name);
        }
        if !status.success() {
            println!("FAILED {}: {status}", self.name);
        }
        Ok(Outcome { name: self.name, took: began.elapsed(), count })
    }
}

/// What it says on stdout is printed as it comes.
fn run_live(command: &mut Command) -> std::io::Result<(ExitStatus, String)> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let text = cmd::pass_on(child.stdout.take(), |line| println!("{line}"))?;
    Ok((child.wait()?, text))
}

/// What it says on stdout and stderr, in the order in which it came.
fn run_quietly(command: &mut Command) -> std::io::Result<(ExitStatus, String)> {
    let mut said = tempfile::tempfile()?;
    let status = command.stdout(said.try_clone()?).stderr(said.try_clone()?).status()?;
    said.rewind()?;
    let mut text = Vec::new();
    said.read_to_end(&mut text)?;
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Program {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Program { name: name.to_owned(), command }
    }

    #[test]
    fn programs_side_by_side_are_counted_each() {
        let result = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'";
        let programs = vec![shell("breaks", &format!("{result}; exit 101")), shell("passes", result)];
        let mut outcomes = run(programs, 2).unwrap();
        outcomes.sort_by(|a, b| a.name.cmp(&b.name));
        let counts: Vec<Count> = outcomes.iter().map(|outcome| outcome.count).collect();
        assert_eq!(
            counts,
            [Count { passed: 2, failed: 1, skipped: 0 }, Count { passed: 2, failed: 0, skipped: 0 }],
            "{outcomes:?}"
        );
    }

    #[test]
    fn so_many_run_at_once_and_no_more() {
        // Two that wait for each other end only side by side.
        let dir = tempfile::tempdir().unwrap();
        let meet = |mine: &str, other: &str| {
            let dir = dir.path().display();
            format!("touch {dir}/{mine}; until [ -e {dir}/{other} ]; do sleep 0.01; done")
        };
        let programs = vec![shell("a", &meet("a", "b")), shell("b", &meet("b", "a"))];
        assert!(run(programs, 2).unwrap().iter().all(|outcome| outcome.count.failed == 0));
        // And one that minds another fails beside it.
        let alone = || format!("mkdir {0}/x && sleep 0.1 && rmdir {0}/x", dir.path().display());
        let programs = vec![shell("a", &alone()), shell("b", &alone()), shell("c", &alone())];
        assert!(run(programs, 1).unwrap().iter().all(|outcome| outcome.count.failed == 0));
    }
}
