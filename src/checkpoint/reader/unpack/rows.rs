//! Matrices of (out, in) whose codes lie row by row: 8-bit numbers with scales, MLX, compressed-tensors, microscaled
//! floats.

use super::{Parts, field, span};
use crate::Result;
use crate::checkpoint::reader::Window;
use crate::tensor::decode::{E2M1, gap, grid_step};
use crate::tensor::packed::{ByRow, Code, Offset, Scale};

/// 1/127, with which bitsandbytes multiplies last.
const ONE_127TH: f32 = 1.0 / 127.0;

impl Parts<'_> {
    pub(super) fn by_row(&self, form: ByRow, window: Window, out: &mut [f32]) -> Result<Option<()>> {
        let packed = self.packed;
        let (tall, wide) = form.block;
        let order = match &packed.order {
            Some(order) => self.words(order, Window { row: 0, rows: 1, col: window.col, cols: window.cols })?,
            None => None,
        };
        let (top, bottom) = (window.row / tall, (window.row + window.rows).div_ceil(tall));
        let (left, right) = match order {
            Some(_) => (0, packed.scales.cols),
            None => (window.col / wide, (window.col + window.cols).div_ceil(wide)),
        };
        let cover = Window { row: top, rows: bottom - top, col: left, cols: right - left };
        let Some(scales) = self.scales(form.scale, cover)? else { return Ok(None) };
        let Some(offsets) = self.offsets(form, window, cover)? else { return Ok(None) };
        let Some(()) = self.levels(form.code, window, out)? else { return Ok(None) };
        if order.iter().flatten().any(|&group| u64::from(group) >= right) {
            return Ok(None);
        }
        for (row, line) in (window.row..).zip(out.chunks_exact_mut(window.cols.max(1) as usize)) {
            let first = ((row / tall - top) * cover.cols) as usize;
            // Scale and offset of a group.
            let of = |group: u64| {
                let place = first + (group - left) as usize;
                (scales[place], offsets.get(place).copied().unwrap_or(0.0))
            };
            match &order {
                Some(order) => {
                    for (value, &group) in line.iter_mut().zip(order) {
                        self.finish(form, of(group.into()), std::slice::from_mut(value));
                    }
                }
                None => {
                    let mut from = 0;
                    while from < window.cols {
                        let group = (window.col + from) / wide;
                        let to = window.cols.min((group + 1).saturating_mul(wide) - window.col);
                        self.finish(form, of(group), &mut line[from as usize..to as usize]);
                        from = to;
                    }
                }
            }
        }
        Ok(Some(()))
    }

    /// What codes stand for to values, or to the distances of the levels around them.
    fn finish(&self, form: ByRow, (scale, offset): (f32, f32), values: &mut [f32]) {
        let last = if form.scale == Scale::Of127 { ONE_127TH } else { 1.0 };
        for value in values {
            *value = last
                * match (self.steps, form.offset) {
                    (true, _) => self.step(form.code, *value, scale),
                    (false, Offset::None) => *value * scale,
                    (false, Offset::Added) => *value * scale + offset,
                    (false, Offset::Zero | Offset::ZeroCodes) => (*value - offset) * scale,
                    (false, Offset::Stated(zero)) => (*value - zero as f32) * scale,
                };
        }
    }

    /// The distance of the levels around a value.
    fn step(&self, code: Code, number: f32, scale: f32) -> f32 {
        match code {
            Code::Bits { .. } => scale.abs(),
            Code::E2m1 => gap(&E2M1, scale, number * scale),
            Code::Number if !self.packed.codes.dtype.is_float() => scale.abs(),
            Code::Number => grid_step(&self.packed.codes.dtype, number).unwrap_or(0.0) * scale.abs(),
        }
    }

    /// The scales of a cover, as codes are multiplied with them.
    pub(super) fn scales(&self, scale: Scale, cover: Window) -> Result<Option<Vec<f32>>> {
        let packed = self.packed;
        if scale == Scale::Exponent {
            let power = |code: u8| if code == 255 { f32::NAN } else { libm::ldexpf(1.0, i32::from(code) - 127) };
            let bytes = self.bytes(&packed.scales, cover)?;
            return Ok(bytes.map(|bytes| bytes.into_iter().map(power).collect()));
        }
        if let Scale::Stated(bits) = scale {
            return Ok(Some(vec![f32::from_bits(bits); (cover.rows * cover.cols) as usize]));
        }
        let Some(mut values) = self.floats(&packed.scales, cover)? else { return Ok(None) };
        let whole = match (scale, &packed.second) {
            (Scale::Plain | Scale::Of127 | Scale::Exponent | Scale::Stated(_), _) => return Ok(Some(values)),
            (Scale::Inverse, _) => {
                values.iter_mut().for_each(|value| *value = value.recip());
                return Ok(Some(values));
            }
            (Scale::Times | Scale::Over, Some(second)) => {
                let one = self.floats(second, Window { row: 0, col: 0, rows: 1, cols: 1 })?;
                let Some(&[whole]) = one.as_deref() else { return Ok(None) };
                whole
            }
            (Scale::Times | Scale::Over, None) => return Ok(None),
        };
        for value in &mut values {
            *value = if scale == Scale::Over { *value / whole } else { *value * whole };
        }
        Ok(Some(values))
    }

    /// One for each scale of the cover; nothing where the form has none.
    fn offsets(&self, form: ByRow, window: Window, cover: Window) -> Result<Option<Vec<f32>>> {
        let stored = match (form.offset, &self.packed.offsets) {
            (Offset::None | Offset::Stated(_), _) => return Ok(Some(Vec::new())),
            (_, Some(stored)) => stored,
            (_, None) => return Ok(None),
        };
        let (Offset::ZeroCodes, Code::Bits { bits, middle }) = (form.offset, form.code) else {
            return self.floats(stored, cover);
        };
        if form.block.0 != 1 {
            return Ok(None);
        }
        let (first, lines) = span(window.row, window.rows, bits, 32);
        let Some(words) = self.words(stored, Window { row: first, rows: lines, ..cover })? else { return Ok(None) };
        let zero = |row: u64, col: u64| {
            let code = field(|word| words[((word - first) * cover.cols + col) as usize], row, bits);
            code as f32 - middle as f32
        };
        let rows = window.row..window.row + window.rows;
        Ok(Some(rows.flat_map(|row| (0..cover.cols).map(move |col| (row, col))).map(|(r, c)| zero(r, c)).collect()))
    }

    /// What the codes of the window stand for.
    fn levels(&self, code: Code, window: Window, out: &mut [f32]) -> Result<Option<()>> {
        let stored = &self.packed.codes;
        let (bits, table): (u32, Vec<f32>) = match code {
            Code::Number => {
                let Some(numbers) = self.floats(stored, window)? else { return Ok(None) };
                out.copy_from_slice(&numbers);
                return Ok(Some(()));
            }
            Code::Bits { bits, middle } => (bits, (0..1u32 << bits).map(|code| code as f32 - middle as f32).collect()),
            // The highest bit is the sign; the levels from zero on are in the order of the codes.
            Code::E2m1 => (4, E2M1[7..].iter().copied().chain(E2M1[7..].iter().map(|level| -level)).collect()),
        };
        let mut slots = out.iter_mut();
        self.codes(stored, bits, window, |code| {
            if let Some(slot) = slots.next() {
                *slot = table[code as usize];
            }
        })
    }
}
