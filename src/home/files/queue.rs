//! Requests that wait for a worker. Workers that wait sleep at once: those of a channel spin first,
//! and yield, which keeps a single CPU from the task that would bring the next request.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A queue with room for so many.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    room: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    is_closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(room: usize) -> Self {
        Self { state: Mutex::new(State { waiting: VecDeque::new(), is_closed: false }), filled: Condvar::new(), room }
    }

    /// Adds one at the end; gives it back if there is no room.
    pub(super) fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.waiting.len() >= self.room {
            return Err(item);
        }
        state.waiting.push_back(item);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes the first one; waits for it. `None` once the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<T> {
        let state = self.filled.wait_while(self.lock(), |state| state.waiting.is_empty() && !state.is_closed);
        state.unwrap_or_else(PoisonError::into_inner).waiting.pop_front()
    }

    /// Wakes the waiting threads, once nothing is left.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.filled.notify_all();
    }

    // Items come and go whole.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn each_is_taken_once_and_all_are_before_the_end() {
        let queue = Queue::new(1_000);
        let taken: Vec<usize> = thread::scope(|scope| {
            let workers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>())).collect();
            (0..1_000).for_each(|number| queue.push(number).unwrap());
            queue.close();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        let mut sorted = taken.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn what_finds_no_room_is_given_back() {
        let queue = Queue::new(1);
        assert_eq!((queue.push(1), queue.push(2), queue.pop(), queue.push(3)), (Ok(()), Err(2), Some(1), Ok(())));
    }
}
