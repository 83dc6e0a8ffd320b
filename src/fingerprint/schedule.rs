//! Which thread does what next: pieces of tensors in file order, with no more tensors at once than memory allows.
//!
//! A tensor is admitted when all pieces before it were handed out and its sums fit what is left of the budget; one is
//! always admitted, so a tensor larger than the budget runs alone. Nothing here knows what a piece is.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a tensor asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    /// Pieces of work, which may run at the same time.
    pub(super) pieces: usize,
    /// Bytes that it holds from its first piece to its last.
    pub(super) bytes: u64,
}

/// The tensors still to do.
pub(super) struct Queue {
    demands: Vec<Demand>,
    budget: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: usize,
    ready: VecDeque<(usize, usize)>,
    held: u64,
    admitted: usize,
    stopped: bool,
}

impl Queue {
    /// A queue of tensors that hold no more than `budget` bytes together.
    pub(super) fn new(demands: Vec<Demand>, budget: u64) -> Self {
        Self { demands, budget, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next tensor and piece, waiting for memory where it has to; `None` when all were handed out. A waiting thread
    /// waits for pieces that others are running, never for one that nobody has taken.
    pub(super) fn next(&self) -> Option<(usize, usize)> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(piece) = state.ready.pop_front() {
                return Some(piece);
            }
            let tensor = state.next;
            let demand = self.demands.get(tensor)?;
            if state.admitted == 0 || state.held.saturating_add(demand.bytes) <= self.budget {
                state.next += 1;
                state.admitted += 1;
                state.held = state.held.saturating_add(demand.bytes);
                state.ready.extend((0..demand.pieces).map(|piece| (tensor, piece)));
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Says that the last piece of a tensor has run.
    pub(super) fn finished(&self, tensor: usize) {
        let mut state = self.lock();
        state.admitted = state.admitted.saturating_sub(1);
        state.held = state.held.saturating_sub(self.demands.get(tensor).map_or(0, |demand| demand.bytes));
        drop(state);
        self.changed.notify_all();
    }

    /// Hands out nothing more.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// Stops a queue when a thread panics, so that no other waits for it for ever.
pub(super) struct StopOnPanic<'a>(pub(super) &'a Queue);

impl Drop for StopOnPanic<'_> {
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
    fn every_piece_is_handed_out_once_and_the_budget_is_kept() {
        let demands: Vec<Demand> =
            (0..200).map(|i| Demand { pieces: 1 + i % 5, bytes: (i as u64 * 37) % 90 }).collect();
        let left: Vec<AtomicU64> = demands.iter().map(|demand| AtomicU64::new(demand.pieces as u64)).collect();
        let (queue, held, seen) = (Queue::new(demands.clone(), 100), AtomicU64::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some((tensor, piece)) = queue.next() {
                        if left[tensor].load(Ordering::SeqCst) == demands[tensor].pieces as u64 && piece == 0 {
                            let now = held.fetch_add(demands[tensor].bytes, Ordering::SeqCst) + demands[tensor].bytes;
                            assert!(now <= 100, "{now}");
                        }
                        seen.lock().unwrap().push((tensor, piece));
                        std::thread::yield_now();
                        if left[tensor].fetch_sub(1, Ordering::SeqCst) == 1 {
                            held.fetch_sub(demands[tensor].bytes, Ordering::SeqCst);
                            queue.finished(tensor);
                        }
                    }
                });
            }
        });
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        let all: Vec<(usize, usize)> =
            demands.iter().enumerate().flat_map(|(t, demand)| (0..demand.pieces).map(move |p| (t, p))).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn a_tensor_larger_than_the_budget_runs_alone() {
        let queue = Queue::new(vec![Demand { pieces: 1, bytes: 500 }, Demand { pieces: 1, bytes: 1 }], 100);
        assert_eq!(queue.next(), Some((0, 0)));
        queue.finished(0);
        assert_eq!(queue.next(), Some((1, 0)));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_stopped_queue_hands_out_nothing() {
        let queue = Queue::new(vec![Demand { pieces: 9, bytes: 1 }], 100);
        assert!(queue.next().is_some());
        queue.stop();
        assert_eq!(queue.next(), None);
    }
}
