//! `top`: machines, programs and moves on the whole terminal.
//!
//! ```text
//!   API ── streams ─► Event ─► model ─► screen ─► terminal
//!   keys, mouse ────►   ▲        │
//!                       └────────┴─ Effect ─► perform ─► API
//! ```
//!
//! All state is in [`model`], which is pure, as is [`screen`]. This loop waits for events, and
//! draws after a key within [`KEY_FRAME`], after other events within [`FRAME`].

#[cfg(test)]
mod fixture;
mod layout;
mod model;
mod perform;
mod screen;
mod settings;
mod streams;
mod terminal;

use std::{
    future::Future,
    io::{self, IsTerminal as _, stdin, stdout},
    pin::{Pin, pin},
    process::ExitCode,
    time::Duration,
};

use crossterm::event::{Event as Input, EventStream};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

pub(super) use model::{
    Event, Link, Pane,
    action::{Action, AskedNode, SIGNALS},
    list::Batch,
};
pub(super) use perform::Daemons;
pub(super) use streams::follow;

use super::{UiError, args::TopArgs};
use crate::sys::clock::now_ms;
use model::{Effect, Model, Rights};
use screen::Colours;
use settings::Settings;
use terminal::Screen;

/// Events of the API that wait to be taken.
const WAITING: usize = 64;
/// How long what came of the API may wait to be drawn, so that much of it is drawn once.
const FRAME: Duration = Duration::from_millis(60);
/// The same for keys, so that a burst of them is drawn once.
const KEY_FRAME: Duration = Duration::from_millis(15);

/// Work that is under way: it ends with an event.
type Work = Pin<Box<dyn Future<Output = Event>>>;

pub(super) async fn top(args: &TopArgs) -> Result<ExitCode, UiError> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(UiError::NoTerminal);
    }
    let daemons = Daemons::new(args)?;
    let rights = Rights {
        read_only: args.read_only,
        is_local: args.server.is_none(),
        has_credentials: args.credentials.is_some(),
    };
    let mut model = Model::new(&Settings::load(), rights);
    let kept = Settings::of(&model);
    let screen = Screen::open().map_err(UiError::Terminal)?;
    let end = run(&mut model, screen, &daemons).await;
    let settings = Settings::of(&model);
    if settings != kept
        && let Err(error) = settings.store()
    {
        eprintln!("scx_mosix: cannot keep how the screen was set: {error}");
    }
    end.map_err(UiError::Terminal)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs until the user or a signal ends it. The terminal is given back when `screen` goes.
async fn run(model: &mut Model, mut screen: Screen, daemons: &Daemons) -> io::Result<()> {
    let (sender, mut events) = mpsc::channel(WAITING);
    let mut streams = pin!(streams::follow(&daemons.watched, &sender));
    let mut work: FuturesUnordered<Work> = FuturesUnordered::new();
    let (mut terminated, mut hung_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut input = EventStream::new();
    let colours = Colours::wanted();
    let (width, height) = screen.size()?;
    model.update(Event::Resized(width, height));
    let mut draw_at = Some(Instant::now());
    loop {
        let event = tokio::select! {
            typed = input.next() => match typed {
                Some(typed) => {
                    let soon = Instant::now() + KEY_FRAME;
                    draw_at = Some(draw_at.map_or(soon, |at| at.min(soon)));
                    of_input(typed?)
                }
                None => return Ok(()),
            },
            event = events.recv() => event,
            Some(done) = work.next(), if !work.is_empty() => Some(done),
            _ = seconds.tick() => Some(Event::Time(now_ms())),
            () = sleep_until(draw_at.unwrap_or_else(Instant::now)), if draw_at.is_some() => {
                screen.draw(|buffer| {
                    screen::draw(model, colours, buffer);
                })?;
                draw_at = None;
                continue;
            }
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
            _ = interrupted.recv() => return Ok(()),
            () = &mut streams => return Ok(()),
        };
        let Some(event) = event else { continue };
        draw_at = draw_at.or_else(|| Some(Instant::now() + FRAME));
        for effect in model.update(event) {
            match effect {
                Effect::Quit => return Ok(()),
                Effect::Suspend => screen.suspend()?,
                Effect::Act(action) => {
                    let done = daemons.clone().perform(action);
                    work.push(Box::pin(async move { Event::Done(done.await) }));
                }
                Effect::AskWhy(program) => {
                    let mut client = daemons.watched.clone();
                    work.push(Box::pin(async move {
                        let reasons = client.placement_reasons(&program).await;
                        Event::Reasons(program, reasons.map_err(|error| error.to_string()))
                    }));
                }
            }
        }
    }
}

fn of_input(input: Input) -> Option<Event> {
    match input {
        Input::Key(key) => Some(Event::Key(key)),
        Input::Mouse(mouse) => Some(Event::Mouse(mouse)),
        Input::Resize(width, height) => Some(Event::Resized(width, height)),
        _ => None,
    }
}
