//! Colours by meaning. Without colours the same is read from marks, bars and words.

use ratatui::style::{Color, Modifier, Style};

use crate::ui::top::model::list::Meaning;

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colours(pub bool);

impl Colours {
    /// As the user wants it: `NO_COLOR` (no-color.org) switches them off.
    pub fn wanted() -> Self {
        Self(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    fn fore(self, colour: Color) -> Style {
        if self.0 { Style::new().fg(colour) } else { Style::new() }
    }

    /// A cell that means this.
    pub fn of(self, meaning: Meaning) -> Style {
        match meaning {
            Meaning::Plain => Style::new(),
            Meaning::Good => self.fore(Color::Green),
            Meaning::Busy => self.fore(Color::Yellow),
            Meaning::Bad => self.fore(Color::Red).add_modifier(Modifier::BOLD),
            Meaning::Quiet => Style::new().add_modifier(Modifier::DIM),
        }
    }

    /// The lines at the top and at the bottom.
    pub fn bar(self) -> Style {
        if self.0 {
            Style::new().fg(Color::Black).bg(Color::Cyan)
        } else {
            Style::new().add_modifier(Modifier::REVERSED)
        }
    }

    /// A line that must be seen.
    pub fn alarm(self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if self.0 { style.fg(Color::White).bg(Color::Red) } else { style.add_modifier(Modifier::REVERSED) }
    }

    /// The title of a pane.
    pub fn title(self, has_focus: bool) -> Style {
        let style = self.fore(Color::Cyan);
        if has_focus { style.add_modifier(Modifier::BOLD) } else { style }
    }

    /// The titles of columns.
    pub fn head(self) -> Style {
        Style::new().add_modifier(Modifier::UNDERLINED)
    }

    /// The chosen row.
    pub fn chosen(self, has_focus: bool) -> Style {
        Style::new().add_modifier(if has_focus { Modifier::REVERSED } else { Modifier::BOLD })
    }
}
