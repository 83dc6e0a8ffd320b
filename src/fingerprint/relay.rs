//! A segment of a tensor in two hands: one thread reads and decodes it for the digests, which take bytes in order, and
//! another walks through the same values for everything else.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Chunks on their way at a time, 256 KB each. Who reads waits for who walks beyond it.
const WAITING: usize = 8;

/// The values of a chunk.
struct Chunk {
    first: u64,
    values: Vec<f32>,
}

/// The end that gives chunks away.
pub(super) struct Giver {
    chunks: SyncSender<Chunk>,
    spent: Receiver<Vec<f32>>,
}

/// The end that takes them.
pub(super) struct Taker {
    /// Index of the tensor.
    pub(super) tensor: usize,
    /// Index of the segment in it.
    pub(super) segment: usize,
    chunks: Receiver<Chunk>,
    spent: Sender<Vec<f32>>,
}

/// Both ends of a segment.
pub(super) fn relay(tensor: usize, segment: usize) -> (Taker, Giver) {
    let ((give, take), (empty, refill)) = (sync_channel(WAITING), channel());
    (Taker { tensor, segment, chunks: take, spent: empty }, Giver { chunks: give, spent: refill })
}

impl Giver {
    /// Gives away the values from element `first` on, and leaves a buffer in their place.
    pub(super) fn give(&self, first: u64, values: &mut Vec<f32>) {
        let buffer = self.spent.try_recv().unwrap_or_default();
        let chunk = Chunk { first, values: std::mem::replace(values, buffer) };
        // The other end is gone only if its thread panicked, and then nothing comes of the pass.
        let _ = self.chunks.send(chunk);
    }
}

impl Taker {
    /// Takes chunks until the other end is dropped.
    pub(super) fn each(&self, mut take: impl FnMut(u64, &mut [f32])) {
        for Chunk { first, mut values } in &self.chunks {
            take(first, &mut values);
            // Who reads may be done with the segment, and needs no buffer then.
            let _ = self.spent.send(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_arrive_in_order_and_few_are_on_their_way() {
        let (taker, giver) = relay(3, 7);
        assert_eq!((taker.tensor, taker.segment), (3, 7));
        let mut buffers = 0;
        let seen = std::thread::scope(|scope| {
            let walking = scope.spawn(move || {
                let mut seen = Vec::new();
                taker.each(|first, values| seen.push((first, values.to_vec())));
                seen
            });
            let mut values = Vec::new();
            for first in 0..1000u64 {
                buffers += u32::from(values.capacity() == 0);
                values.resize(2, 0.0);
                values.fill(first as f32);
                giver.give(first, &mut values);
            }
            drop(giver);
            walking.join().unwrap()
        });
        let expected: Vec<(u64, Vec<f32>)> = (0..1000).map(|first| (first, vec![first as f32; 2])).collect();
        assert_eq!(seen, expected);
        assert!(buffers <= WAITING as u32 + 3, "{buffers} buffers");
    }

    #[test]
    fn who_reads_does_not_wait_for_a_thread_that_is_gone() {
        let (taker, giver) = relay(0, 0);
        drop(taker);
        for first in 0..100 {
            giver.give(first, &mut vec![1.0]);
        }
    }
}
