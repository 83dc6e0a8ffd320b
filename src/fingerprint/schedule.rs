//! Which thread does what next: tensors in file order, with no more of them at once than memory allows; and where there is
//! none, a part of what another thread is doing.
//!
//! A tensor is admitted when all before it were and its sums fit what is left of the budget; one is always admitted, so a
//! tensor larger than the budget runs alone. Nothing here knows what is done with a tensor, or what a part is.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a thread does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<P> {
    /// All of a tensor.
    Tensor(usize),
    /// A part that another thread offers.
    Part(P),
}

/// The tensors still to do.
pub(super) struct Queue<P> {
    /// For each tensor, the bytes that it holds from its beginning to its end.
    demands: Vec<u64>,
    budget: u64,
    state: Mutex<State<P>>,
    changed: Condvar,
}

struct State<P> {
    next: usize,
    held: u64,
    admitted: usize,
    /// Threads that wait.
    idle: usize,
    /// Parts that were offered to them: never more than there are.
    offered: VecDeque<P>,
    stopped: bool,
}

impl<P> Queue<P> {
    /// A queue of tensors that hold no more than `budget` bytes together.
    pub(super) fn new(demands: Vec<u64>, budget: u64) -> Self {
        let state = State { next: 0, held: 0, admitted: 0, idle: 0, offered: VecDeque::new(), stopped: false };
        Self { demands, budget, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do next, waiting for memory or for an offer where there is nothing; `None` when all tensors are done. A
    /// part that was offered is taken even from a stopped queue, as somebody may wait for what becomes of it.
    pub(super) fn next(&self) -> Option<Next<P>> {
        let mut state = self.lock();
        loop {
            if let Some(part) = state.offered.pop_front() {
                return Some(Next::Part(part));
            }
            if state.stopped {
                return None;
            }
            let tensor = state.next;
            match self.demands.get(tensor) {
                Some(&bytes) if state.admitted == 0 || state.held.saturating_add(bytes) <= self.budget => {
                    state.next += 1;
                    state.admitted += 1;
                    state.held = state.held.saturating_add(bytes);
                    return Some(Next::Tensor(tensor));
                }
                None if state.admitted == 0 => return None,
                _ => {
                    state.idle += 1;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle -= 1;
                }
            }
        }
    }

    /// Offers a part to a thread that waits, if there is one; `make` gives it, and what the offering thread keeps.
    pub(super) fn offer<K>(&self, make: impl FnOnce() -> (P, K)) -> Option<K> {
        let mut state = self.lock();
        if state.idle <= state.offered.len() {
            return None;
        }
        let (part, kept) = make();
        state.offered.push_back(part);
        drop(state);
        self.changed.notify_all();
        Some(kept)
    }

    /// Says that a tensor is done.
    pub(super) fn finished(&self, tensor: usize) {
        let mut state = self.lock();
        state.admitted = state.admitted.saturating_sub(1);
        state.held = state.held.saturating_sub(self.demands.get(tensor).copied().unwrap_or(0));
        drop(state);
        self.changed.notify_all();
    }

    /// Hands out no more tensors.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// Stops a queue when a thread panics, so that no other waits for it for ever.
pub(super) struct StopOnPanic<'a, P>(pub(super) &'a Queue<P>);

impl<P> Drop for StopOnPanic<'_, P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn every_tensor_is_handed_out_once_and_the_budget_is_kept() {
        let demands: Vec<u64> = (0..200).map(|i| (i as u64 * 37) % 90).collect();
        let (queue, held, seen) = (Queue::new(demands.clone(), 100), AtomicU64::new(0), Mutex::new(Vec::new()));
        let parts = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(next) = queue.next() {
                        let Next::Tensor(tensor) = next else {
                            parts.fetch_add(1, Ordering::SeqCst);
                            continue;
                        };
                        let now = held.fetch_add(demands[tensor], Ordering::SeqCst) + demands[tensor];
                        assert!(now <= 100, "{now}");
                        seen.lock().unwrap().push(tensor);
                        if queue.offer(|| (tensor, ())).is_some() {
                            parts.fetch_add(1000, Ordering::SeqCst);
                        }
                        std::thread::yield_now();
                        held.fetch_sub(demands[tensor], Ordering::SeqCst);
                        queue.finished(tensor);
                    }
                });
            }
        });
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        let parts = parts.into_inner();
        assert_eq!(parts / 1000, parts % 1000, "every part that was offered is taken");
    }

    #[test]
    fn a_tensor_larger_than_the_budget_runs_alone() {
        let queue: Queue<()> = Queue::new(vec![500, 1], 100);
        assert_eq!(queue.next(), Some(Next::Tensor(0)));
        queue.finished(0);
        assert_eq!(queue.next(), Some(Next::Tensor(1)));
        queue.finished(1);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn parts_are_offered_to_threads_that_wait_and_to_no_others() {
        let queue = Queue::new(vec![1], 100);
        assert_eq!(queue.next(), Some(Next::Tensor(0)));
        assert_eq!(queue.offer(|| ("part", ())), None, "nobody waits");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| (queue.next(), queue.next()));
            while queue.offer(|| ("part", ())).is_none() {
                std::thread::yield_now();
            }
            queue.finished(0);
            assert_eq!(waiting.join().unwrap(), (Some(Next::Part("part")), None));
        });
    }

    #[test]
    fn a_stopped_queue_hands_out_nothing() {
        let queue: Queue<()> = Queue::new(vec![1, 1], 100);
        assert!(queue.next().is_some());
        queue.stop();
        assert_eq!(queue.next(), None);
    }
}
