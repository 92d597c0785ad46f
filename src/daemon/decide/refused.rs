//! Programs that could not move at their start.

use std::{
    collections::HashMap,
    sync::PoisonError,
    time::{Duration, Instant},
};

use crate::{
    job::SessionId,
    sys::lock::{Mutex, MutexGuard},
};

/// How long a program starts here if it could not move at its start in the same job: what an exec
/// gate holds in vain loses time, and what hinders it is likely to hinder the next one too.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Programs of which that is known at a time.
const MAX_REFUSED: usize = 1_024;

/// What could not move at its start, and when that was: a program by its name, in the job that its
/// user started.
#[derive(Default)]
pub struct Refused(Mutex<HashMap<(SessionId, String), Instant>>);

impl Refused {
    /// It could not move now.
    pub fn note(&self, program: (SessionId, String)) {
        self.note_at(program, Instant::now());
    }

    /// Whether it could not move a short while ago.
    pub fn holds(&self, program: &(SessionId, String)) -> bool {
        self.holds_at(program, Instant::now())
    }

    fn note_at(&self, program: (SessionId, String), now: Instant) {
        let mut refused = self.lock();
        refused.retain(|_, at| now.duration_since(*at) < REFUSED_FOR);
        if refused.len() < MAX_REFUSED {
            refused.insert(program, now);
        }
    }

    fn holds_at(&self, program: &(SessionId, String), now: Instant) -> bool {
        self.lock().get(program).is_some_and(|at| now.duration_since(*at) < REFUSED_FOR)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(SessionId, String), Instant>> {
        // Entries come and go whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_move_is_not_held_again_for_a_while() {
        let refused = Refused::default();
        let (session, now) = (SessionId::random(), Instant::now());
        let program = (session, "cc1".to_owned());
        assert!(!refused.holds_at(&program, now));
        refused.note_at(program.clone(), now);
        assert!(refused.holds_at(&program, now + REFUSED_FOR / 2));
        assert!(!refused.holds_at(&(session, "ld".into()), now) && !refused.holds_at(&program, now + REFUSED_FOR));
        for _ in 0..2 * MAX_REFUSED {
            refused.note_at((SessionId::random(), "cc1".into()), now);
        }
        assert_eq!(refused.lock().len(), MAX_REFUSED);
        refused.note_at(program.clone(), now + REFUSED_FOR);
        assert!(refused.holds_at(&program, now + REFUSED_FOR) && refused.lock().len() == 1);
    }
}
