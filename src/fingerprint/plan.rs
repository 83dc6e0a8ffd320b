//! How a tensor is cut: chunks that fit a core's cache, and segments of many chunks, whose sums one thread takes.
//!
//! Both follow from the shape alone, so sums over them are added up in the same order whatever the element type, the
//! number of threads or the way of reading.

use std::ops::Range;

/// Values handled at a time: their `f32` form fits a core's second-level cache.
pub(super) const CHUNK: usize = 1 << 16;

/// Values of a segment, unless the tensor would have more than [`MAX_SEGMENTS`]. Small in tests, so that small tensors
/// have several. Another size adds up in another order, and so is another [`FORMAT`](super::FORMAT).
const SEGMENT: u64 = if cfg!(test) { 1 << 17 } else { 1 << 25 };

/// Most segments of a tensor: each has sums of its own for all columns.
const MAX_SEGMENTS: u64 = 16;

/// The cuts of one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) rows: u64,
    pub(super) cols: u64,
    /// Values of a chunk, and how many of them lie between two beginnings of the numbering: whole rows where a row
    /// fits a chunk, otherwise pieces of one row.
    per_chunk: u64,
    span: u64,
    chunks: u64,
    per_segment: u64,
}

impl Plan {
    /// The cuts of a matrix of this size, whose number of values fits 64 bits.
    pub(super) fn of(rows: u64, cols: u64) -> Self {
        let chunk = CHUNK as u64;
        let whole = cols <= chunk;
        let per_chunk = if whole { (chunk / cols.max(1)).max(1) * cols.max(1) } else { chunk };
        let span = if whole { rows * cols } else { cols };
        let spans = if whole { 1 } else { rows };
        let chunks = span.div_ceil(per_chunk) * spans;
        let segments = (rows * cols).div_ceil(SEGMENT).clamp(1, MAX_SEGMENTS);
        Self { rows, cols, per_chunk, span, chunks, per_segment: chunks.div_ceil(segments).max(1) }
    }

    /// Whether every chunk is of whole rows.
    pub(super) fn whole_rows(&self) -> bool {
        self.cols <= CHUNK as u64
    }

    /// Number of segments; one at least.
    pub(super) fn segments(&self) -> usize {
        self.chunks.div_ceil(self.per_segment).max(1) as usize
    }

    /// The chunks of a segment.
    pub(super) fn segment(&self, index: usize) -> Range<u64> {
        let first = index as u64 * self.per_segment;
        first..(first + self.per_segment).min(self.chunks)
    }

    /// All chunks.
    #[cfg(test)]
    pub(super) fn all(&self) -> Range<u64> {
        0..self.chunks
    }

    /// First value of a chunk, and how many it has.
    pub(super) fn chunk(&self, index: u64) -> (u64, usize) {
        let per_span = self.span.div_ceil(self.per_chunk).max(1);
        let at = index % per_span * self.per_chunk;
        (index / per_span * self.span + at, (self.span - at).min(self.per_chunk) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_value_once_in_order() {
        let chunk = CHUNK as u64;
        let shapes = [(1, 1), (3, 100_000), (1000, 7), (5, chunk), (2, chunk + 1), (70_000, 1), (4096, 11_008)];
        for (rows, cols) in shapes {
            let plan = Plan::of(rows, cols);
            let mut at = 0;
            for segment in 0..plan.segments() {
                for index in plan.segment(segment) {
                    let (first, count) = plan.chunk(index);
                    assert_eq!(first, at);
                    assert!(count > 0 && count <= CHUNK);
                    assert!(
                        first % cols + count as u64 <= cols
                            || (first.is_multiple_of(cols) && (count as u64).is_multiple_of(cols))
                    );
                    at += count as u64;
                }
            }
            assert_eq!(at, rows * cols, "{rows} x {cols}");
        }
    }

    #[test]
    fn a_large_tensor_has_several_segments_and_never_very_many() {
        assert_eq!(Plan::of(256, SEGMENT / 256).segments(), 1);
        assert_eq!(Plan::of(256, SEGMENT / 128).segments(), 2);
        assert!((2..=MAX_SEGMENTS as usize).contains(&Plan::of(128_256, 16_384).segments()));
        assert!(Plan::of(1 << 30, 1 << 20).segments() <= MAX_SEGMENTS as usize);
        assert_eq!(Plan::of(0, 5).all(), 0..0);
    }
}
