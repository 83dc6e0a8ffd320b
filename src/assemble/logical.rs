//! One tensor for each role: fused matrices taken apart and Conv1D matrices turned round, before any value is read.
//!
//! Publishers store the same numbers in different arrangements: query, key and value in one matrix (one after the other,
//! or in groups of heads), gate and up in one, the experts of a layer in one stack, a matrix by (in, out) instead of
//! (out, in). Whoever fuses a copy changes no value, so every arrangement is brought to one before statistics. Only the
//! view changes: the stored bytes stay where they are. A matrix whose arrangement is not known stays as it is.

use std::sync::Arc;

use crate::anatomy::{Anatomy, Assignment, Source, residual};
use crate::model::naming::{self, Fusion, RowOrder, Scheme};
use crate::model::{Architecture, NormGain, Role};
use crate::tensor::extent::Run;
use crate::tensor::low_rank::LowRank;
use crate::tensor::view::{Piece, View};
use crate::tensor::{Extent, Storage, TensorMeta};

/// What a checkpoint looks like with one tensor for each role.
#[derive(Debug, Clone, PartialEq)]
pub struct Logical {
    /// The tensors. A part is called by the stored tensor's name, `#` and what it is.
    pub tensors: Vec<TensorMeta>,
    /// The anatomy of these tensors; the architecture stays that of the stored ones.
    pub anatomy: Anatomy,
    /// For each tensor, the index of the stored one that it is, or is a part of.
    pub stored: Vec<usize>,
}

/// Takes fused tensors apart, turns matrices round and adds the one to gains that are stored without it. `None` where
/// nothing of this is to be done.
pub fn logical(tensors: &[TensorMeta], anatomy: &Anatomy) -> Option<Logical> {
    let scheme = anatomy.naming.as_ref().and_then(|naming| naming::scheme(&naming.scheme));
    let none = Anatomy { assignments: Vec::new(), ..anatomy.clone() };
    let mut out = Logical { tensors: Vec::new(), anatomy: none, stored: Vec::new() };
    let (mut fused, mut turned, mut gains) = (0usize, 0usize, 0usize);
    for (index, (tensor, assignment)) in tensors.iter().zip(&anatomy.assignments).enumerate() {
        let parts = parts(tensor, assignment, &anatomy.architecture, scheme).unwrap_or_default();
        match parts.as_slice() {
            [] => {
                let gain = plain_gain(tensor, assignment, anatomy.architecture.norm_gain);
                gains += usize::from(gain.is_some());
                out.tensors.push(gain.unwrap_or_else(|| tensor.clone()));
                out.anatomy.assignments.push(assignment.clone());
                out.stored.push(index);
                continue;
            }
            [_] => turned += 1,
            _ => fused += 1,
        }
        for (meta, assignment) in parts {
            out.tensors.push(meta);
            out.anatomy.assignments.push(assignment);
            out.stored.push(index);
        }
    }
    if fused > 0 {
        let parts = out.tensors.len() - (tensors.len() - fused);
        out.anatomy.notes.push(format!("{fused} fused tensors were read as their {parts} parts"));
    }
    if turned > 0 {
        out.anatomy.notes.push(format!("{turned} matrices stored as (in, out) were turned round"));
    }
    if gains > 0 {
        out.anatomy.notes.push(format!("{gains} norm gains are stored less one and were read with the one added"));
    }
    (fused + turned + gains > 0).then_some(out)
}

/// Longest gain that is told as such: wider than any stream.
const MAX_GAIN: u64 = 1 << 20;

/// A norm gain as the norm multiplies with it, where it is stored less one. Brought to this side, equal gains are equal
/// bit for bit: the sum is rounded once, while taking the one off again would not give back the last bits of small ones.
fn plain_gain(tensor: &TensorMeta, assignment: &Assignment, convention: NormGain) -> Option<TensorMeta> {
    let is_gain = !assignment.roles.is_empty() && assignment.roles.iter().all(|role| role.is_gain());
    let is_vector = tensor.shape.len() == 1 && tensor.elements() <= MAX_GAIN;
    let is_read = is_vector && tensor.dtype.is_decoded() && tensor.dtype.is_float();
    let less_one = convention == NormGain::LessOne && is_gain && is_read;
    less_one.then(|| tensor.clone().with(Storage::PlusOne(Arc::new(tensor.clone()))))
}

/// A part of a tensor and what is known of it.
type LogicalPart = (TensorMeta, Assignment);

/// How the rows of a fused query, key and value follow each other: as the scheme has it, and without known names as most
/// have it.
fn qkv_order(scheme: Option<&Scheme>) -> Option<RowOrder> {
    scheme.map_or(Some(RowOrder::InTurn), |scheme| scheme.row_order(Fusion::Qkv))
}

/// A tensor as a matrix of (out, in), whichever way it is stored.
struct Matrix<'a> {
    tensor: &'a TensorMeta,
    outs: u64,
    ins: u64,
    /// Whether the stored rows are the ins.
    turned: bool,
    /// First byte of the matrix; of a packed one nothing is asked.
    offset: u64,
    /// Of a packed stack, the first row of the matrix.
    first: u64,
    /// What is added to it.
    change: Option<&'a LowRank>,
}

/// The parts of a tensor; none where it stays as it is.
fn parts(
    tensor: &TensorMeta,
    assignment: &Assignment,
    architecture: &Architecture,
    scheme: Option<&Scheme>,
) -> Option<Vec<LogicalPart>> {
    if is_turned_head(tensor, assignment, architecture) {
        return turned_head(tensor, assignment, architecture);
    }
    let role = *assignment.roles.first()?;
    let settled = assignment.roles.len() == 1;
    // Of a changed tensor the base is taken apart, and each part has its share of the change.
    let (tensor, change) = match &tensor.storage {
        Storage::LowRank(change) => (&change.base, Some(&**change)),
        _ => (tensor, None),
    };
    let is_sum = matches!(tensor.storage, Storage::Sum(_));
    if !tensor.dtype.is_decoded() || !tensor.dtype.is_float() || is_sum {
        return None;
    }
    if let (Storage::View(view), None) = (&tensor.storage, change)
        && is_turned(assignment, architecture)
        && transposed(tensor).is_none()
    {
        return turned(tensor, view, assignment, architecture).map(|part| vec![part]);
    }
    if let Storage::View(_) = tensor.storage {
        let (offset, outs) = (transposed(tensor).filter(|_| change.is_none())?, *tensor.shape.first()?);
        let matrix = Matrix { tensor, outs, ins: architecture.hidden_size, turned: true, offset, first: 0, change };
        let fused = settled && tensor.shape[1..] == [matrix.ins];
        let runs = fused.then(|| runs(role, outs, architecture, scheme)).flatten()?;
        return Some(split(&matrix, assignment, architecture, &runs));
    }
    let blocks = tensor.dtype.bytes().is_none();
    match tensor.shape[..] {
        [experts, rows, cols] if settled && change.is_none() => {
            experts_of(tensor, assignment, architecture, scheme, [experts, rows, cols])
        }
        [rows, cols] => {
            let d = architecture.hidden_size;
            let turned = is_turned(assignment, architecture);
            let (outs, ins) = if turned { (cols, rows) } else { (rows, cols) };
            if turned && blocks || role == Role::AttnQkv && ins != d {
                return None;
            }
            let matrix = Matrix { tensor, outs, ins, turned, offset: tensor.first_extent().offset, first: 0, change };
            match settled.then(|| runs(role, outs, architecture, scheme)).flatten() {
                Some(runs) => Some(split(&matrix, assignment, architecture, &runs)),
                None if turned => {
                    let whole =
                        matrix.part(&[Run::new(0, outs)], tensor.name.clone(), assignment.clone(), architecture);
                    whole.map(|part| vec![part])
                }
                None => None,
            }
        }
        [size] if settled => {
            let runs = runs(role, size, architecture, scheme)?;
            let matrix = Matrix {
                tensor,
                outs: size,
                ins: 1,
                turned: false,
                offset: tensor.first_extent().offset,
                first: 0,
                change,
            };
            Some(split(&matrix, assignment, architecture, &runs))
        }
        _ => None,
    }
}

/// First byte of a matrix that is the transpose of what is stored, in one piece.
fn transposed(tensor: &TensorMeta) -> Option<u64> {
    let (Storage::View(view), [outs, _]) = (&tensor.storage, &tensor.shape[..]) else { return None };
    let (&[piece], width) = (view.pieces(), tensor.dtype.bytes()?) else { return None };
    let turned = piece.row_step == width && Some(piece.col_step) == outs.checked_mul(width);
    (turned && piece.shard == tensor.first_extent().shard).then_some(piece.offset)
}

/// Whether a matrix of these roles is stored by (in, out).
fn is_turned(assignment: &Assignment, architecture: &Architecture) -> bool {
    let projections = assignment.roles.iter().copied().all(is_projection);
    architecture.conv1d_transposed && !architecture.stacked_experts && projections
}

/// Whether a matrix is an output head that is stored by (in, out), as a linear layer where all of them are. By its shape it
/// can be nothing else in a model whose head is not its embedding.
fn is_turned_head(tensor: &TensorMeta, assignment: &Assignment, architecture: &Architecture) -> bool {
    let of_head = architecture.vocab_size.is_some_and(|tokens| tensor.shape == [architecture.hidden_size, tokens]);
    let free = assignment.roles.is_empty() && architecture.tied == Some(false);
    let is_matrix = tensor.storage.is_plain() && tensor.dtype.bytes().is_some() && tensor.dtype.is_float();
    let is_square = architecture.vocab_size == Some(architecture.hidden_size);
    is_matrix && of_head && (free || assignment.role() == Some(Role::Output)) && !is_square
}

/// An output head the right way round.
fn turned_head(tensor: &TensorMeta, assignment: &Assignment, architecture: &Architecture) -> Option<Vec<LogicalPart>> {
    let [ins, outs] = tensor.shape[..] else { return None };
    let offset = tensor.first_extent().offset;
    let matrix = Matrix { tensor, outs, ins, turned: true, offset, first: 0, change: None };
    let by = assignment.by.or(Some(Source::Shapes));
    let assignment = Assignment { roles: vec![Role::Output], by, ..assignment.clone() };
    Some(vec![matrix.part(&[Run::new(0, outs)], tensor.name.clone(), assignment, architecture)?])
}

/// The other way round, whatever pieces a matrix is in: rows become columns and keep their place in the file.
fn turned(
    tensor: &TensorMeta,
    view: &View,
    assignment: &Assignment,
    architecture: &Architecture,
) -> Option<LogicalPart> {
    let [ins, outs] = tensor.shape[..] else { return None };
    let turn = |piece: &Piece| {
        let Piece { row, col, rows, cols, row_step, col_step, .. } = *piece;
        Piece { row: col, col: row, rows: cols, cols: rows, row_step: col_step, col_step: row_step, ..*piece }
    };
    let (shape, pieces) = (vec![outs, ins], view.pieces().iter().map(turn).collect());
    let turned = View::new(&tensor.dtype, &shape, pieces, view.extents().to_vec()).ok()?;
    let meta = TensorMeta { shape, ..tensor.clone() }.with(Storage::View(Arc::new(turned)));
    let upright = Architecture { conv1d_transposed: false, ..architecture.clone() };
    let residual = residual(&assignment.roles, &meta.shape, &upright);
    Some((meta, Assignment { residual, ..assignment.clone() }))
}

/// Roles whose matrices GPT-2's Conv1D stores as (in, out).
fn is_projection(role: Role) -> bool {
    matches!(
        role,
        Role::AttnQkv
            | Role::AttnQ
            | Role::AttnK
            | Role::AttnV
            | Role::AttnO
            | Role::FfnGate
            | Role::FfnUp
            | Role::FfnGateUp
            | Role::FfnDown
    )
}

/// What a part is called, its role, and the rows that it takes.
type Share = (&'static str, Role, Vec<Run>);

/// The rows of gate and of up in a matrix of both: first all of gate, unless the scheme has another order.
fn gate_and_up(outs: u64, scheme: Option<&Scheme>) -> Option<[Run; 2]> {
    let half = outs.is_multiple_of(2).then_some(outs / 2)?;
    match scheme.and_then(|scheme| scheme.row_order(Fusion::GateUp)) {
        Some(RowOrder::Alternating) => Some([0, 1].map(|first| Run { first, count: half, step: 2 })),
        Some(RowOrder::InTurn) | None => Some([0, half].map(|first| Run::new(first, half))),
        Some(RowOrder::ByGroup) => None,
    }
}

/// The parts of a fused matrix or bias; `None` for another role or an unknown arrangement.
fn runs(role: Role, outs: u64, a: &Architecture, scheme: Option<&Scheme>) -> Option<Vec<Share>> {
    let roles = match role {
        Role::AttnQkv => [Role::AttnQ, Role::AttnK, Role::AttnV],
        Role::AttnQkvBias => [Role::AttnQBias, Role::AttnKBias, Role::AttnVBias],
        Role::FfnGateUp | Role::FfnUp
            if outs.is_multiple_of(2)
                && (role == Role::FfnGateUp || a.fused_gate_up && a.intermediate_size == Some(outs / 2)) =>
        {
            let [gate, up] = gate_and_up(outs, scheme)?;
            return Some(vec![("gate", Role::FfnGate, vec![gate]), ("up", Role::FfnUp, vec![up])]);
        }
        _ => return None,
    };
    let (q, kv) = (a.q_size?, a.kv_size?);
    if kv == 0 || q.checked_add(kv.checked_mul(2)?)? != outs {
        return None;
    }
    let [q_role, k_role, v_role] = roles;
    let [q_runs, k_runs, v_runs] = match qkv_order(scheme)? {
        RowOrder::InTurn => [(0, q), (q, kv), (q + kv, kv)].map(|(first, count)| vec![Run::new(first, count)]),
        RowOrder::Alternating => return None,
        RowOrder::ByGroup => {
            let head = a.head_dim.filter(|head| *head > 0 && kv % head == 0 && q % kv == 0)?;
            let (groups, queries) = (kv / head, q / kv * head);
            let group = queries + 2 * head;
            let each = |from: u64, count: u64| (0..groups).map(|g| Run::new(g * group + from, count)).collect();
            [each(0, queries), each(queries, head), each(queries + head, head)]
        }
    };
    Some(vec![("q", q_role, q_runs), ("k", k_role, k_runs), ("v", v_role, v_runs)])
}

fn split(
    matrix: &Matrix<'_>,
    assignment: &Assignment,
    architecture: &Architecture,
    shares: &[Share],
) -> Vec<LogicalPart> {
    let part = |(name, role, rows): &Share| {
        let assignment = Assignment { roles: vec![*role], ..assignment.clone() };
        matrix.part(rows, format!("{}#{name}", matrix.tensor.name), assignment, architecture)
    };
    shares.iter().map(part).collect::<Option<_>>().unwrap_or_default()
}

/// The matrices of each expert in a stack of all.
fn experts_of(
    tensor: &TensorMeta,
    assignment: &Assignment,
    architecture: &Architecture,
    scheme: Option<&Scheme>,
    [experts, rows, cols]: [u64; 3],
) -> Option<Vec<LogicalPart>> {
    /// Experts that a layer has at most; beyond, the stack stays as it is.
    const MOST: u64 = 4096;

    let (role, d) = (*assignment.roles.first()?, architecture.hidden_size);
    let reads = match role {
        Role::ExpertGate | Role::ExpertUp | Role::ExpertGateUp => true,
        Role::ExpertDown => false,
        _ => return None,
    };
    // A reader's ins, and a writer's outs, are the stream. A square matrix is taken as it is usual.
    let usual = if reads { cols == d } else { rows == d };
    let turned = !usual && (if reads { rows == d } else { cols == d });
    if !(2..=MOST).contains(&experts) || !(usual || turned) || turned && tensor.dtype.bytes().is_none() {
        return None;
    }
    let packed = matches!(tensor.storage, Storage::Packed(_));
    let size = if packed { 0 } else { tensor.dtype.size_of(rows.checked_mul(cols)?)? };
    let (outs, ins) = if turned { (cols, rows) } else { (rows, cols) };
    let mut parts = Vec::new();
    for expert in 0..experts {
        let (offset, first) = (tensor.first_extent().offset + expert * size, expert * rows);
        let matrix = Matrix { tensor, outs, ins, turned, offset, first, change: None };
        let own = |role: Role| Assignment { roles: vec![role], expert: Some(expert as u32), ..assignment.clone() };
        let name = |part: &str| format!("{}#{expert}{part}", tensor.name);
        if role == Role::ExpertGateUp {
            let [gate, up] = gate_and_up(outs, scheme)?;
            parts.push(matrix.part(&[gate], name(".gate"), own(Role::ExpertGate), architecture)?);
            parts.push(matrix.part(&[up], name(".up"), own(Role::ExpertUp), architecture)?);
        } else {
            parts.push(matrix.part(&[Run::new(0, outs)], name(""), own(role), architecture)?);
        }
    }
    Some(parts)
}

impl Matrix<'_> {
    /// The rows of the given runs, one after the other, as a tensor of its own.
    fn part(
        &self,
        runs: &[Run],
        name: String,
        mut assignment: Assignment,
        architecture: &Architecture,
    ) -> Option<LogicalPart> {
        let Self { tensor, outs, ins, turned, offset, first, change } = *self;
        let count = runs.iter().map(|run| run.count).sum();
        let shape = if tensor.shape.len() == 1 { vec![count] } else { vec![count, ins] };
        let stored = TensorMeta { name, shape, ..tensor.clone() };
        let upright = Architecture { conv1d_transposed: false, ..architecture.clone() };
        let line = || tensor.dtype.size_of(if turned { outs } else { ins });
        let shard = tensor.first_extent().shard;
        let storage = match (&tensor.storage, runs) {
            (Storage::Packed(packed), _) => {
                let runs: Vec<Run> = runs.iter().map(|run| Run { first: first + run.first, ..*run }).collect();
                let rows = tensor.matrix().0;
                Storage::Packed(Arc::new(if turned { None } else { packed.part(&runs, rows) }?))
            }
            (_, &[Run { first, count, step: 1 }]) if !turned => {
                let line = line()?;
                Storage::Plain(Extent { shard, offset: offset + first * line, len: count * line })
            }
            _ => {
                let line = line()?;
                let pieces = self.pieces(runs, line)?;
                let extents = if turned {
                    // Columns of the stored rows: the bytes of the whole matrix are the part's.
                    vec![Extent { shard, offset, len: ins * line }]
                } else {
                    let extent = |run: &Run| {
                        let len = (run.end()? - run.first) * line;
                        Some(Extent { shard, offset: offset + run.first * line, len })
                    };
                    runs.iter().map(extent).collect::<Option<Vec<Extent>>>()?
                };
                Storage::View(Arc::new(View::new(&tensor.dtype, &stored.shape, pieces, extents).ok()?))
            }
        };
        let meta = stored.with(storage);
        let meta = match change {
            Some(change) => {
                let pairs = runs.iter().map(|run| (run.step == 1).then_some((run.first, run.count)));
                change.part(meta, &pairs.collect::<Option<Vec<_>>>()?, turned)?
            }
            None => meta,
        };
        assignment.residual = residual(&assignment.roles, &meta.shape, &upright);
        Some((meta, assignment))
    }

    fn pieces(&self, runs: &[Run], line: u64) -> Option<Vec<Piece>> {
        let (shard, flat) = (self.tensor.first_extent().shard, self.tensor.shape.len() == 1);
        let width = self.tensor.dtype.bytes().unwrap_or(0);
        let mut at = 0;
        let mut pieces = Vec::new();
        for &Run { first, count, step } in runs {
            let piece =
                Piece { row: at, col: 0, rows: count, cols: self.ins, shard, offset: 0, row_step: 0, col_step: width };
            pieces.push(if self.turned {
                Piece { offset: self.offset + first * width, row_step: step * width, col_step: line, ..piece }
            } else if flat {
                let col_step = step * width;
                Piece { row: 0, col: at, rows: 1, cols: count, offset: self.offset + first * line, col_step, ..piece }
            } else {
                Piece { offset: self.offset + first * line, row_step: step * line, ..piece }
            });
            at += count;
        }
        Some(pieces)
    }
}
