//! Views to protobuf messages and back, field by field. What another release does not know becomes
//! `Unknown` or a default; a name that cannot be read is an error.

mod event;
mod job;
mod migration;
mod node;
mod peer;
mod process;

pub use peer::parse_session;

use prost_types::Timestamp;

/// A time as a message says it.
fn timestamp(ms: u64) -> Timestamp {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(ms % 1000).map_or(0, |ms| ms * 1_000_000);
    Timestamp { seconds, nanos }
}

/// A time out of a message; times before the epoch are the epoch.
fn millis(time: &Timestamp) -> u64 {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(u64::try_from(time.nanos / 1_000_000).unwrap_or(0))
}

/// An empty string is how messages say "none".
fn some_text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn times_survive(ms in 0..u64::MAX / 4) {
            prop_assert_eq!(millis(&timestamp(ms)), ms);
        }
    }

    #[test]
    fn a_wild_time_is_no_panic() {
        assert_eq!(millis(&Timestamp { seconds: i64::MIN, nanos: i32::MIN }), 0);
        assert_eq!(millis(&Timestamp { seconds: i64::MAX, nanos: i32::MAX }), u64::MAX);
    }
}
