//! An error with what it comes from, as people read it.

use std::error::Error;

/// An error and its causes, the outermost first, in one line.
pub fn explain(error: impl Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the key")]
    struct Outer(#[source] io::Error);

    #[test]
    fn an_error_is_told_with_its_causes() {
        assert_eq!(explain(Outer(io::Error::other("disk on fire"))), "cannot read the key: disk on fire");
        assert_eq!(explain(&io::Error::other("alone") as &dyn Error), "alone");
    }
}
