//! Settings that must lie within bounds.

/// A setting that lies outside: what is set could not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{section}: {name} is {value}; set it between {min} and {max}")]
pub struct OutOfBounds {
    /// The section of the settings file.
    pub section: &'static str,
    /// The setting.
    pub name: &'static str,
    /// What it was set to.
    pub value: u64,
    /// The smallest value that works.
    pub min: u64,
    /// The largest value that works.
    pub max: u64,
}

/// Checks the settings of a section: each one's name, value, smallest and largest value that works.
///
/// # Errors
/// The first that is out of bounds.
pub fn check(
    section: &'static str,
    settings: impl IntoIterator<Item = (&'static str, u64, u64, u64)>,
) -> Result<(), OutOfBounds> {
    match settings.into_iter().find(|(_, value, min, max)| value < min || value > max) {
        Some((name, value, min, max)) => Err(OutOfBounds { section, name, value, min, max }),
        None => Ok(()),
    }
}
