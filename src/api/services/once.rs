//! Requests that carry an id have their effect once: a repetition gets the first one's answer.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, PoisonError},
};

use tokio::sync::OnceCell;

use crate::{
    api::{ApiError, Caller},
    sys::lock::Mutex,
};

/// How many requests are remembered.
const MAX_REMEMBERED: usize = 1024;
/// The longest id.
const MAX_ID_BYTES: usize = 64;

/// The last requests with an id and their answers.
pub(super) struct Once<T> {
    recent: Mutex<VecDeque<Entry<T>>>,
}

struct Entry<T> {
    caller: String,
    id: String,
    /// What was asked, so that an id which is used twice by mistake is noticed.
    request: String,
    answer: Arc<OnceCell<T>>,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self { recent: Mutex::new(VecDeque::new()) }
    }
}

impl<T: Clone> Once<T> {
    /// Does `work`, or returns what it gave when the same caller asked for `request` with this `id`
    /// before. A failure is not remembered. Without an id it is always done.
    pub(super) async fn run(
        &self,
        caller: &Caller,
        id: &str,
        request: String,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        if id.is_empty() {
            return work.await;
        }
        if id.len() > MAX_ID_BYTES {
            return Err(ApiError::invalid("request_id", "it has more than 64 characters"));
        }
        let answer = self.entry(caller, id, request)?;
        answer.get_or_try_init(|| work).await.cloned()
    }

    fn entry(&self, caller: &Caller, id: &str, request: String) -> Result<Arc<OnceCell<T>>, ApiError> {
        // A user who repeats a request does so from another process.
        let caller = match caller {
            Caller::Local { uid, .. } => format!("user {uid}"),
            Caller::Client { .. } | Caller::Node { .. } => caller.to_string(),
        };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = recent.iter().find(|entry| entry.id == id && entry.caller == caller) {
            if entry.request != request {
                return Err(ApiError::invalid("request_id", "it was used for another request before"));
            }
            return Ok(Arc::clone(&entry.answer));
        }
        if recent.len() >= MAX_REMEMBERED {
            recent.pop_front();
        }
        let answer = Arc::new(OnceCell::new());
        recent.push_back(Entry { caller, id: id.to_owned(), request, answer: Arc::clone(&answer) });
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_repetition_has_no_effect_and_a_failure_may_be_repeated() {
        let once = Once::default();
        let (me, other) = (Caller::Local { uid: 1, pid: 1 }, Caller::Local { uid: 2, pid: 1 });
        let me_again = Caller::Local { uid: 1, pid: 2 };
        let fail = async { Err::<u32, _>(ApiError::Leaving) };
        assert!(once.run(&me, "a", "x".into(), fail).await.is_err());
        assert_eq!(once.run(&me, "a", "x".into(), async { Ok(1) }).await, Ok(1));
        assert_eq!(once.run(&me_again, "a", "x".into(), async { Ok(2) }).await, Ok(1));
        assert_eq!(once.run(&other, "a", "x".into(), async { Ok(3) }).await, Ok(3));
        assert_eq!(once.run(&me, "", "x".into(), async { Ok(4) }).await, Ok(4));
        assert!(once.run(&me, "a", "y".into(), async { Ok(5) }).await.is_err());
        assert!(once.run(&me, &"a".repeat(65), "x".into(), async { Ok(6) }).await.is_err());
    }
}
