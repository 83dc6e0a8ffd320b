//! Codes packed across the rows of a matrix that holds the values in reading order: HQQ, BitNet.

use super::Parts;
use crate::Result;
use crate::checkpoint::reader::Window;
use crate::tensor::packed::{Shared, Slabs, Stored};

impl Parts<'_> {
    pub(super) fn slabs(&self, form: Slabs, window: Window, out: &mut [f32]) -> Result<Option<()>> {
        let (lines, line) =
            if window.cols == form.cols { (1, window.rows * window.cols) } else { (window.rows, window.cols) };
        for (at, out) in (0..lines).zip(out.chunks_exact_mut((line as usize).max(1))) {
            let first = (window.row + at) * form.cols + window.col;
            let mut done = 0;
            while done < out.len() {
                let (at, left) = (first + done as u64, out.len() - done);
                // Scales that come round again are read as far as the values go, not all of them.
                let run = match form.shared {
                    Shared::Every(len) => left.min((len - at % len) as usize),
                    Shared::Runs(_) => left,
                };
                let Some(()) = self.slab_values(form, at, &mut out[done..done + run])? else { return Ok(None) };
                done += run;
            }
        }
        Ok(Some(()))
    }

    /// Values from the one at `first` on, in reading order.
    fn slab_values(&self, form: Slabs, first: u64, out: &mut [f32]) -> Result<Option<()>> {
        let stored = &self.packed.codes;
        let (width, count) = (stored.cols, out.len() as u64);
        if width == 0 || stored.rows == 0 {
            return Ok(None);
        }
        let (from, to) = shared(form.shared, first, count);
        let cover = Window { row: 0, rows: 1, col: from, cols: to - from };
        let Some(factors) = self.scales(form.scale, cover)? else { return Ok(None) };
        let zeros = match &self.packed.offsets {
            Some(stored) => self.floats(stored, cover)?,
            None => Some(vec![form.middle as f32; factors.len()]),
        };
        let Some(zeros) = zeros.filter(|zeros| zeros.len() == factors.len()) else { return Ok(None) };
        // A run of codes lies side by side as far as a row of the matrix goes.
        let mut at = 0;
        while at < count {
            let (row, col) = ((first + at) / width, (first + at) % width);
            let run = (width - col).min(count - at);
            let place = Window { row: row % stored.rows, rows: 1, col, cols: run };
            let Some(codes) = self.slab_codes(form, stored, row / stored.rows, place)? else { return Ok(None) };
            for (index, code) in (at..).zip(codes) {
                let group = match form.shared {
                    Shared::Runs(len) => (first + index) / len - from,
                    Shared::Every(len) => (first + index) % len - from,
                } as usize;
                let (scale, zero) = (factors[group], zeros[group]);
                out[index as usize] = if self.steps { scale.abs() } else { (code as f32 - zero) * scale };
            }
            at += run;
        }
        Ok(Some(()))
    }

    /// The codes that a part of a stored row has for the rows of one slab.
    fn slab_codes(&self, form: Slabs, stored: &Stored, slab: u64, part: Window) -> Result<Option<Vec<u32>>> {
        let Some(width) = stored.dtype.bytes() else { return Ok(None) };
        let slabs = width * 8 / u64::from(form.bits.max(1));
        if slab >= slabs {
            return Ok(None);
        }
        let place = if form.high_first { slabs - 1 - slab } else { slab };
        let (shift, mask) = (place * u64::from(form.bits), (1u32 << form.bits) - 1);
        let Some(bytes) = self.bytes(stored, part)? else { return Ok(None) };
        let element = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        Ok(Some(bytes.chunks_exact(width as usize).map(|bytes| (element(bytes) >> shift) as u32 & mask).collect()))
    }
}

/// The scales (first, behind the last) of values in reading order, which go round once at most.
fn shared(shared: Shared, first: u64, count: u64) -> (u64, u64) {
    match shared {
        Shared::Runs(len) => (first / len, (first + count).div_ceil(len)),
        Shared::Every(len) => (first % len, first % len + count),
    }
}
