//! The terminal: taken as a whole, and given back as it was, whatever happens.

use std::{
    io::{self, Stdout, stdout},
    panic,
    sync::Once,
};

use crossterm::{
    cursor::Show,
    event::{DisableMouseCapture, EnableMouseCapture},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use ratatui::{Terminal, backend::CrosstermBackend, buffer::Buffer};
use rustix::process::{Signal, getpid, kill_process};

/// The terminal while the monitor has it.
pub struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// If it does not do what it is told.
    pub fn open() -> io::Result<Self> {
        // Made first, so that it is given back if what follows fails half-way.
        let screen = Self(Terminal::new(CrosstermBackend::new(stdout()))?);
        give_back_on_panic();
        take()?;
        Ok(screen)
    }

    /// Its size in cells.
    ///
    /// # Errors
    /// If it does not tell.
    pub fn size(&self) -> io::Result<(u16, u16)> {
        self.0.size().map(|size| (size.width, size.height))
    }

    /// Draws a picture; only what differs from the one before is sent.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn draw(&mut self, picture: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        self.0.draw(|frame| picture(frame.buffer_mut()))?;
        Ok(())
    }

    /// Gives the terminal back, stops this process until the shell continues it, and takes the
    /// terminal again.
    ///
    /// # Errors
    /// If it does not do what it is told.
    pub fn suspend(&mut self) -> io::Result<()> {
        give_back();
        kill_process(getpid(), Signal::TSTP)?;
        take()?;
        // As after a change of size, all is drawn anew.
        let size = self.0.size()?;
        self.0.resize(size.into())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, EnableMouseCapture)
}

/// A terminal that is gone needs nothing back.
fn give_back() {
    let _ = execute!(stdout(), DisableMouseCapture, LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// The message of a panic is to be read.
fn give_back_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
    });
}
