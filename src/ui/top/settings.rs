//! What is kept from one start to the next: how lists are sorted, the tree, which pane fills the
//! screen. In `$XDG_CONFIG_HOME/scx_mosix/top.toml`, by default below `~/.config`.

use std::{env, fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::model::{
    Model, Pane,
    list::{List, Listed, Sort},
};

/// What is kept. Columns have their titles' names, so that a later release may have others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Whether programs are shown as a tree.
    pub tree: bool,
    /// Whether one pane fills the screen.
    pub zoomed: bool,
    /// Whether *moves* and not *why* is shown where there is room for one.
    pub moves_below: bool,
    /// How nodes are sorted.
    pub nodes: SortBy,
    /// How programs are sorted.
    pub programs: SortBy,
    /// How moves are sorted.
    pub moves: SortBy,
}

/// How a list is sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SortBy {
    /// The title of the column; empty for the first.
    pub column: String,
    /// From the greatest to the least.
    pub descending: bool,
}

impl SortBy {
    fn of<R: Listed>(list: &List<R>) -> Self {
        let Sort { column, descending } = list.sort();
        let column = R::COLUMNS.get(column).map_or_else(String::new, |column| column.title.to_owned());
        Self { column, descending }
    }

    fn apply<R: Listed>(&self, list: &mut List<R>) {
        if let Some(column) = R::COLUMNS.iter().position(|column| column.title == self.column) {
            list.set_sort(Sort { column, descending: self.descending });
        }
    }
}

impl Settings {
    /// What a model has been set to.
    pub fn of(model: &Model) -> Self {
        Self {
            nodes: SortBy::of(&model.nodes),
            programs: SortBy::of(&model.programs),
            moves: SortBy::of(&model.moves),
            tree: model.programs.is_tree(),
            zoomed: model.zoomed,
            moves_below: model.lower == Pane::Moves,
        }
    }

    /// Sets a model to it.
    pub fn apply(&self, model: &mut Model) {
        self.nodes.apply(&mut model.nodes);
        self.programs.apply(&mut model.programs);
        self.moves.apply(&mut model.moves);
        model.programs.set_tree(self.tree);
        model.zoomed = self.zoomed;
        model.lower = if self.moves_below { Pane::Moves } else { Pane::Why };
    }

    /// Reads what was kept; what cannot be read is as if it had never been kept.
    pub fn load() -> Self {
        let text = path().and_then(|path| fs::read_to_string(path).ok());
        text.and_then(|text| toml::from_str(&text).ok()).unwrap_or_default()
    }

    /// Keeps it.
    ///
    /// # Errors
    /// If the file cannot be written. Without a home directory nothing is kept, which is no error.
    pub fn store(&self) -> io::Result<()> {
        let Some(path) = path() else { return Ok(()) };
        let text = toml::to_string(self).map_err(io::Error::other)?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(path, text)
    }
}

/// Where it is kept; relative paths are to be ignored, says the XDG specification.
fn path() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(config.join("scx_mosix/top.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::top::model::Rights;

    #[test]
    fn settings_survive_the_file_and_a_column_that_is_gone() {
        let programs = SortBy { column: "RSS".into(), descending: true };
        let kept = Settings { programs, tree: true, moves_below: true, ..Settings::default() };
        let read: Settings = toml::from_str(&toml::to_string(&kept).unwrap()).unwrap();
        assert_eq!(read, kept);
        let model = Model::new(&kept, Rights::default());
        let shown = Settings::of(&model);
        assert_eq!((shown.programs, shown.tree, shown.moves_below), (kept.programs, true, true));
        let gone = SortBy { column: "GONE".into(), descending: true };
        let model = Model::new(&Settings { programs: gone, ..Settings::default() }, Rights::default());
        assert_eq!(Settings::of(&model).programs, SortBy { column: "PID".into(), descending: false });
        assert_eq!(toml::from_str::<Settings>("later = 1").unwrap(), Settings::default());
    }
}
