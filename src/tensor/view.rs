//! Tensors whose values are not one range of bytes in order: rows that an exporter permuted, parts of a fused matrix, the
//! other way round, or spread over several files.

use super::extent::Extent;
use super::{DType, matrix};

/// Most pieces of one tensor: a query projection of 128 heads in 8 shards has 2,048.
pub const MAX_PIECES: usize = 1 << 16;

/// A rectangle of the tensor's matrix (see [`matrix`]) and where its values lie in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First row of the matrix that it fills.
    pub row: u64,
    /// First column that it fills.
    pub col: u64,
    /// Number of rows.
    pub rows: u64,
    /// Number of columns.
    pub cols: u64,
    /// Index of the shard that holds its values.
    pub shard: usize,
    /// First byte of its first value, counted from the start of that shard's file.
    pub offset: u64,
    /// Bytes from the start of one of its rows to the start of the next.
    pub row_step: u64,
    /// Bytes from one value of a row to the next; the size of a value where they lie side by side. Of a type in
    /// blocks, whose values always lie side by side, nothing is asked.
    pub col_step: u64,
}

/// A tensor put together from pieces that fill its matrix without gap or overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pieces: Vec<Piece>,
    extents: Vec<Extent>,
}

impl View {
    /// A view of a tensor of this type and shape. `extents` are the stored bytes that belong to it, in the order in
    /// which its stored digest takes them; every piece has to lie within them.
    ///
    /// # Errors
    /// In words, if the pieces do not fill the matrix in bands of rows, leave the extents, or state sizes that
    /// overflow or cut a block.
    pub fn new(dtype: &DType, shape: &[u64], mut pieces: Vec<Piece>, extents: Vec<Extent>) -> Result<Self, String> {
        if pieces.len() > MAX_PIECES || extents.len() > MAX_PIECES {
            return Err(format!("it is in more than {MAX_PIECES} pieces"));
        }
        pieces.sort_unstable_by_key(|piece| (piece.row, piece.col));
        fills(&pieces, matrix(shape))?;
        let mut sorted = extents.clone();
        sorted.sort_unstable_by_key(|extent| (extent.shard, extent.offset));
        for piece in &pieces {
            let end = end(piece, dtype).ok_or("a piece has a size that overflows or cuts a block")?;
            let at = sorted.partition_point(|extent| (extent.shard, extent.offset) <= (piece.shard, piece.offset));
            if !reaches(&sorted[..at], &sorted[at..], piece, end) {
                return Err(format!("a piece leaves the stored bytes at {} to {end}", piece.offset));
            }
        }
        Ok(Self { pieces, extents })
    }

    /// The pieces by row, then column. Pieces that have a row in common have all their rows in common.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The stored bytes, in the order in which the stored digest takes them.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The same view with every shard `by` places further on.
    pub(crate) fn shifted(&self, by: usize) -> Self {
        let mut moved = self.clone();
        moved.pieces.iter_mut().for_each(|piece| piece.shard += by);
        moved.extents.iter_mut().for_each(|extent| extent.shard += by);
        moved
    }
}

/// Whether the pieces make bands of rows, each filled from the first column to the last.
fn fills(pieces: &[Piece], (rows, cols): (u64, u64)) -> Result<(), String> {
    let gap = |row: u64| format!("its pieces leave a gap, overlap or stick out at row {row}");
    let (mut row, mut at) = (0u64, 0);
    while row < rows {
        let band = pieces.get(at).filter(|piece| piece.row == row && piece.rows > 0).ok_or_else(|| gap(row))?.rows;
        let mut col = 0u64;
        while col < cols {
            let fits = |piece: &&Piece| (piece.row, piece.rows, piece.col) == (row, band, col) && piece.cols > 0;
            let piece = pieces.get(at).filter(fits).ok_or_else(|| gap(row))?;
            col = col.checked_add(piece.cols).filter(|&end| end <= cols).ok_or_else(|| gap(row))?;
            at += 1;
        }
        row = row.checked_add(band).filter(|&end| end <= rows).ok_or_else(|| gap(row))?;
    }
    if at == pieces.len() { Ok(()) } else { Err(gap(rows)) }
}

/// The byte after a piece's last one; `None` where that overflows or the type has no size.
fn end(piece: &Piece, dtype: &DType) -> Option<u64> {
    let rows = piece.row_step.checked_mul(piece.rows.checked_sub(1)?)?;
    let line = match dtype.bytes() {
        Some(width) => piece.col_step.checked_mul(piece.cols.checked_sub(1)?)?.checked_add(width)?,
        None => dtype.size_of(piece.cols)?,
    };
    piece.offset.checked_add(rows)?.checked_add(line)
}

/// Whether extents that follow one another without a gap hold everything from the piece's first byte to `end`.
fn reaches(before: &[Extent], after: &[Extent], piece: &Piece, end: u64) -> bool {
    let Some(first) = before.last().filter(|extent| extent.shard == piece.shard) else { return false };
    let mut to = first.offset.saturating_add(first.len);
    for next in after {
        if to >= end || next.shard != piece.shard || next.offset > to {
            break;
        }
        to = to.max(next.offset.saturating_add(next.len));
    }
    to >= end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(row: u64, col: u64, rows: u64, cols: u64) -> Piece {
        Piece { row, col, rows, cols, shard: 0, offset: 0, row_step: 0, col_step: 4 }
    }

    fn view(pieces: &[Piece]) -> Result<View, String> {
        let extents = vec![Extent { shard: 0, offset: 0, len: 1 << 20 }];
        View::new(&DType::F32, &[4, 6], pieces.to_vec(), extents)
    }

    #[test]
    fn pieces_must_fill_the_matrix() {
        assert!(view(&[piece(0, 0, 4, 6)]).is_ok());
        assert!(view(&[piece(2, 0, 2, 6), piece(0, 3, 2, 3), piece(0, 0, 2, 3)]).is_ok());
        for bad in [
            &[][..],
            &[piece(0, 0, 3, 6)],
            &[piece(0, 0, 5, 6)],
            &[piece(0, 0, 4, 5)],
            &[piece(0, 0, 4, 7)],
            &[piece(0, 0, 4, 6), piece(0, 0, 4, 6)],
            &[piece(0, 0, 2, 6), piece(1, 0, 3, 6)],
            &[piece(0, 0, 0, 6), piece(0, 0, 4, 6)],
            &[piece(0, 0, 4, 3), piece(0, 3, 3, 3)],
            &[piece(0, 0, u64::MAX, 6)],
        ] {
            assert!(view(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pieces_stay_within_the_stored_bytes() {
        let whole = piece(0, 0, 4, 6);
        let view = |piece: Piece, extents: &[(usize, u64, u64)]| {
            let extents = extents.iter().map(|&(shard, offset, len)| Extent { shard, offset, len }).collect();
            View::new(&DType::F32, &[4, 6], vec![piece], extents).is_ok()
        };
        let plain = Piece { offset: 100, row_step: 24, ..whole };
        assert!(view(plain, &[(0, 100, 96)]));
        assert!(view(plain, &[(0, 148, 48), (0, 100, 48)]), "in two halves");
        for extents in [&[(0, 100, 95)][..], &[(0, 101, 96)], &[(1, 100, 96)], &[(0, 100, 48), (0, 149, 48)], &[]] {
            assert!(!view(plain, extents), "{extents:?}");
        }
        assert!(!view(Piece { row_step: u64::MAX, ..plain }, &[(0, 0, u64::MAX)]));
        assert!(!view(Piece { col_step: u64::MAX / 2, ..plain }, &[(0, 0, u64::MAX)]));
        assert!(!view(Piece { offset: u64::MAX - 8, ..plain }, &[(0, 0, u64::MAX)]));
    }
}
