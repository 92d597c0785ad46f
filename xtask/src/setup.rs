//! `cargo xtask setup`: what must be installed on this computer, and why.

use crate::progress::Progress;
use anyhow::Result;

/// Installs what is missing; quick when nothing is.
pub fn ensure(_progress: &Progress) -> Result<()> {
    Ok(())
}
