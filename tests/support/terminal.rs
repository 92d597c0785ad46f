//! Programs on a terminal, as a user sees them: keys go in, a screen comes out.

use std::num::NonZeroU16;
use std::process::Command;
use std::time::Duration;

use super::command::Running;
use super::eventually;

/// How long a screen may take until it shows what is waited for, on a busy machine.
pub const SCREEN_LIMIT: Duration = Duration::from_secs(60);

/// A program on a terminal of a given size.
pub struct Terminal {
    running: Running,
    lines: NonZeroU16,
    columns: NonZeroU16,
}

/// What to run on a terminal that gets a size before, and tells in the end whether it was given
/// back as it was.
pub fn on_terminal(program: &str, columns: u16, lines: u16) -> String {
    format!(
        "stty rows {lines} cols {columns}; before=$(stty -g); {program}; echo STATUS $?.; \
         [ \"$(stty -g)\" = \"$before\" ] && echo GIVEN BACK."
    )
}

impl Terminal {
    /// What runs `on_terminal`, by whatever means.
    pub fn new(running: Running, columns: u16, lines: u16) -> Self {
        let [lines, columns] = [lines, columns].map(|cells| NonZeroU16::new(cells).unwrap());
        Self { running, lines, columns }
    }

    /// Runs a shell command on a terminal of this machine.
    pub fn here(program: &str, columns: u16, lines: u16) -> Self {
        let mut command = Command::new("script");
        let line = on_terminal(program, columns, lines);
        command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        Self::new(Running::start(command), columns, lines)
    }

    /// Types.
    pub fn send(&mut self, keys: &str) {
        self.running.send(keys);
    }

    /// What the screen shows now.
    pub fn screen(&self) -> String {
        let mut parser = vt100::Parser::new(self.lines, self.columns, 0);
        parser.process(self.running.stdout().as_bytes());
        parser.screen().contents()
    }

    /// Waits until the screen is as it should be, and gives it.
    pub fn wait_for(&self, what: &str, limit: Duration, is_right: impl Fn(&str) -> bool) -> String {
        eventually(what, limit, || {
            let screen = self.screen();
            if is_right(&screen) { Ok(screen) } else { Err(screen) }
        })
    }

    /// Waits until the program has ended and the terminal was given back.
    pub fn ended(&self, status: i32) -> String {
        let status = format!("STATUS {status}.");
        self.wait_for("the program ends", SCREEN_LIMIT, |screen| {
            screen.contains(&status) && screen.contains("GIVEN BACK.")
        })
    }
}

/// The word below a column's title, in the first row that contains `row`; the word's beginning must
/// touch the title's columns.
pub fn cell(screen: &str, title: &str, row: &str) -> Option<String> {
    let head: Vec<char> = screen.lines().find(|line| line.contains("COMMAND"))?.chars().collect();
    let title: Vec<char> = title.chars().collect();
    let start = head.windows(title.len()).position(|part| part == title)?;
    let line: Vec<char> = screen.lines().find(|line| line.contains(row))?.chars().collect();
    let word = line.get(start..)?.iter().take_while(|c| !c.is_whitespace()).collect();
    Some(word)
}
