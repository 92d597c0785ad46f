//! The *why* pane: the last decision about the chosen program, with its figures.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::Line,
    widgets::{Paragraph, Widget, Wrap},
};

use super::list::Frame;
use crate::ui::{
    output,
    top::model::{Model, list::Meaning, rows::Program},
    why,
};

/// Draws the pane; returns how many programs were formatted.
pub fn why(model: &Model, frame: &Frame, buffer: &mut Buffer) -> usize {
    let Some(program) = model.chosen() else {
        frame.title("why", buffer);
        return 0;
    };
    frame.title(&format!("why  {}", program.row.name()), buffer);
    let quiet = frame.colours.of(Meaning::Quiet);
    let mut lines: Vec<Line> = facts(program).into_iter().map(|fact| Line::styled(fact, quiet)).collect();
    match &model.why.reasons {
        None => lines.push(Line::styled("asking …", quiet)),
        Some(Err(why)) => lines.push(Line::styled(output::clean(why), frame.colours.of(Meaning::Bad))),
        Some(Ok(reasons)) => {
            let text = output::clean(&why::render(reasons));
            lines.extend(text.lines().map(|line| {
                let chosen = line.starts_with('→');
                let meaning = if chosen { Meaning::Good } else { Meaning::Plain };
                Line::styled(line.to_owned(), frame.colours.of(meaning))
            }));
        }
    }
    let Rect { y, height, .. } = frame.area;
    let area = Rect { y: y + 1, height: height.saturating_sub(1), ..frame.area };
    // No further than to the last line.
    let last = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(1);
    Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((model.why.line.min(last), 0)).render(area, buffer);
    1
}

/// What the list has no room for.
fn facts(program: &Program) -> Vec<String> {
    let row = &program.row;
    let mut facts = vec![format!("{}: {}", row.cwd, row.command_line.join(" "))];
    if row.visited.len() > 1 {
        facts.push(format!("was on {}", row.visited.join(", ")));
    }
    let usage = &row.usage;
    facts.push(format!(
        "{} processes, {} threads, {} s of CPU time",
        usage.processes,
        usage.threads,
        usage.counters.cpu_ms() / 1000
    ));
    facts.into_iter().map(|fact| output::clean(&fact.replace('\n', "?"))).collect()
}
