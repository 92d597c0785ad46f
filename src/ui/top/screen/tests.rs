//! Screens as users see them.

use crossterm::event::KeyCode;
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    style::{Color, Modifier},
};

use super::*;
use crate::ui::top::{
    fixture::{self, LOCAL, change, key, large, large_program, press, small},
    model::{Event, Rights},
};

/// Draws on a screen of a size; what is then on it, and how many rows were formatted.
fn drawn(model: &mut Model, colours: Colours, width: u16, height: u16) -> (Buffer, usize) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let mut formatted = 0;
    terminal.draw(|frame| formatted = draw(model, colours, frame.buffer_mut())).unwrap();
    (terminal.backend().buffer().clone(), formatted)
}

/// The characters on a screen, without spaces at the ends of lines.
fn shown(model: &mut Model, width: u16, height: u16) -> String {
    let (buffer, _) = drawn(model, Colours(true), width, height);
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_cluster_is_shown_at_three_sizes() {
    for (width, height) in [(80, 24), (120, 40), (200, 60)] {
        insta::assert_snapshot!(format!("cluster_{width}x{height}"), shown(&mut small(LOCAL), width, height));
    }
}

#[test]
fn dialogs_fit_a_small_screen() {
    let mut model = small(LOCAL);
    insta::assert_snapshot!("targets_80x24", {
        press(&mut model, "m");
        shown(&mut model, 80, 24)
    });
    insta::assert_snapshot!("question_80x24", {
        press(&mut model, "n3\n");
        shown(&mut model, 80, 24)
    });
    press(&mut model, "na");
    insta::assert_snapshot!("allowed_80x24", {
        press(&mut model, " ");
        shown(&mut model, 80, 24)
    });
    press(&mut model, "\x1b");
    insta::assert_snapshot!("help_80x24", {
        press(&mut model, "?");
        shown(&mut model, 80, 24)
    });
    model.update(key(KeyCode::End));
    insta::assert_snapshot!("help_end_80x24", shown(&mut model, 80, 24));
}

#[test]
fn help_tells_only_what_may_be_done() {
    let mut model = small(Rights { read_only: true, ..LOCAL });
    press(&mut model, "?");
    let help = shown(&mut model, 120, 60);
    assert!(help.contains("quit") && help.contains("read-only"), "{help}");
    assert!(!help.contains("drain") && !help.contains("signal"), "{help}");
}

#[test]
fn a_lost_connection_is_told_above_what_was_known() {
    let mut model = small(LOCAL);
    let why = "no connection to the daemon: connection refused".to_owned();
    model.update(Event::Link(Pane::Programs, Link::Lost { why, retry_s: 4 }));
    let screen = shown(&mut model, 80, 24);
    assert!(screen.starts_with(" disconnected, again in 4 s: ") && screen.contains("connection refused"), "{screen}");
    assert!(screen.contains("zstd -19"), "{screen}");
    model.update(Event::Link(Pane::Programs, Link::Live));
    assert!(shown(&mut model, 80, 24).starts_with(" scx_mosix top  asks n1"));
}

#[test]
fn no_size_is_too_small() {
    for width in [0, 1, 2, 9, 20, 40, 79, 109, 110] {
        for height in [0, 1, 2, 3, 4, 8, 15, 16, 17] {
            for keys in ["", "m", "?", "H", "1", "3", "4", "z", "/x"] {
                let mut model = small(LOCAL);
                model.update(Event::Resized(width, height));
                press(&mut model, keys);
                drawn(&mut model, Colours(true), width, height);
            }
        }
    }
}

#[test]
fn without_colours_there_are_marks_only() {
    let mut model = small(LOCAL);
    let (buffer, _) = drawn(&mut model, Colours(false), 120, 40);
    assert!(buffer.content.iter().all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset)));
    let chosen = buffer.content.iter().filter(|cell| cell.modifier.contains(Modifier::REVERSED)).count();
    // The chosen row, and the lines at the top and at the bottom.
    assert_eq!(chosen, 3 * 120);
}

#[test]
fn only_rows_on_the_screen_are_formatted() {
    let mut model = large();
    let rows = |model: &mut Model| drawn(model, Colours(true), 120, 40).1;
    assert!((20..=40).contains(&rows(&mut model)), "{}", rows(&mut model));
    for code in [KeyCode::End, KeyCode::PageUp, KeyCode::Char('P'), KeyCode::Char('t'), KeyCode::Home] {
        model.update(key(code));
        assert!(rows(&mut model) <= 40, "{code:?}");
    }
    model.update(Event::Programs(change((1..=10_000).map(large_program).collect(), Vec::new())));
    press(&mut model, "/node=n7 cpu>50\n");
    assert!(rows(&mut model) <= 40);
    press(&mut model, "m");
    assert!(rows(&mut model) <= 80, "a menu of a thousand nodes formats those that it shows");
    insta::assert_snapshot!("large_80x24", shown(&mut large(), 80, 24));
}

#[test]
fn what_could_steer_a_terminal_is_not_sent() {
    let mut model = small(LOCAL);
    let rows = [fixture::program(5, "n1", "a\x1b]0;x\x07b", 1.0)];
    model.update(Event::Programs(change(rows.to_vec(), Vec::new())));
    let screen = shown(&mut model, 200, 60);
    assert!(screen.contains("a?]0;x?b") && !screen.contains('\x1b'), "{screen}");
}
