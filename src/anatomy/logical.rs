//! One tensor for each role: fused matrices taken apart and Conv1D matrices turned round, before any value is read.
//!
//! Publishers store the same numbers in different arrangements: query, key and value in one matrix (one after the other,
//! or in groups of heads), gate and up in one, the experts of a layer in one stack, a matrix by (in, out) instead of
//! (out, in). Whoever fuses a copy changes no value, so every arrangement is brought to one before statistics. Only the
//! view changes: the stored bytes stay where they are. A matrix whose arrangement is not known stays as it is.

use std::sync::Arc;

use super::{Anatomy, Architecture, Assignment, Role, residual};
use crate::tensor::changed::Changed;
use crate::tensor::layout::{Extent, Piece, View};
use crate::tensor::{Layout, TensorMeta};

/// What a checkpoint looks like with one tensor for each role.
#[derive(Debug, Clone, PartialEq)]
pub struct Logical {
    /// The tensors. A part is called by the stored tensor's name, `#` and what it is.
    pub tensors: Vec<TensorMeta>,
    /// The anatomy of these tensors; the architecture stays that of the stored ones.
    pub anatomy: Anatomy,
}

/// Takes fused tensors apart. `None` where there are none, or none whose arrangement is known.
pub fn logical(tensors: &[TensorMeta], anatomy: &Anatomy) -> Option<Logical> {
    let scheme = anatomy.naming.as_ref().map(|naming| naming.scheme.as_str());
    let mut out = Logical { tensors: Vec::new(), anatomy: Anatomy { assignments: Vec::new(), ..anatomy.clone() } };
    let (mut fused, mut turned) = (0usize, 0usize);
    for (tensor, assignment) in tensors.iter().zip(&anatomy.assignments) {
        let parts = parts(tensor, assignment, &anatomy.architecture, scheme).unwrap_or_default();
        match parts.as_slice() {
            [] => {
                out.tensors.push(tensor.clone());
                out.anatomy.assignments.push(assignment.clone());
                continue;
            }
            [_] => turned += 1,
            _ => fused += 1,
        }
        for (meta, assignment) in parts {
            out.tensors.push(meta);
            out.anatomy.assignments.push(assignment);
        }
    }
    if fused > 0 {
        let parts = out.tensors.len() - (tensors.len() - fused);
        out.anatomy.notes.push(format!("{fused} fused tensors were read as their {parts} parts"));
    }
    if turned > 0 {
        out.anatomy.notes.push(format!("{turned} matrices stored as (in, out) were turned round"));
    }
    (fused + turned > 0).then_some(out)
}

/// A part of a tensor and what is known of it.
type Part = (TensorMeta, Assignment);

/// How the rows of a fused query, key and value follow each other.
enum Fusion {
    /// All of q, then all of k, then all of v.
    InTurn,
    /// For each group of keys its queries, its key, its value.
    ByGroup,
}

fn fusion(scheme: Option<&str>) -> Option<Fusion> {
    Some(match scheme {
        Some("internlm2" | "falcon" | "megatron_core" | "gpt_neox" | "bloom") => Fusion::ByGroup,
        Some(
            "baichuan" | "qwen1" | "chatglm" | "phi3" | "phi_msft_old" | "gpt2" | "mpt" | "gpt_bigcode" | "litgpt"
            | "modernbert" | "gguf",
        ) => Fusion::InTurn,
        // Without a known name, the order that most have.
        None => Fusion::InTurn,
        Some(_) => return None,
    })
}

/// A tensor as a matrix of (out, in), whichever way it is stored.
struct Matrix<'a> {
    tensor: &'a TensorMeta,
    outs: u64,
    ins: u64,
    /// Whether the stored rows are the ins.
    turned: bool,
    /// First byte of the matrix.
    offset: u64,
    /// What is added to it.
    change: Option<&'a Changed>,
}

/// The parts of a tensor; none where it stays as it is.
fn parts(
    tensor: &TensorMeta,
    assignment: &Assignment,
    architecture: &Architecture,
    scheme: Option<&str>,
) -> Option<Vec<Part>> {
    let role = *assignment.roles.first()?;
    let settled = assignment.roles.len() == 1;
    // Of a changed tensor the base is taken apart, and each part has its share of the change.
    let (tensor, change) = match &tensor.layout {
        Layout::Changed(changed) => (&changed.base, Some(&**changed)),
        _ => (tensor, None),
    };
    if !tensor.dtype.is_decoded() || !tensor.dtype.is_float() {
        return None;
    }
    if !tensor.layout.is_plain() {
        let (offset, outs) = (transposed(tensor).filter(|_| change.is_none())?, *tensor.shape.first()?);
        let matrix = Matrix { tensor, outs, ins: architecture.hidden_size, turned: true, offset, change };
        let fused = settled && tensor.shape[1..] == [matrix.ins];
        let runs = fused.then(|| runs(role, outs, architecture, scheme)).flatten()?;
        return Some(split(&matrix, assignment, architecture, &runs));
    }
    let blocks = tensor.dtype.bytes().is_none();
    match tensor.shape[..] {
        [experts, rows, cols] if settled && change.is_none() => {
            experts_of(tensor, assignment, role, architecture, [experts, rows, cols])
        }
        [rows, cols] => {
            let d = architecture.hidden_size;
            let projections = assignment.roles.iter().copied().all(is_projection);
            let turned = architecture.conv1d_transposed && !architecture.stacked_experts && projections;
            let (outs, ins) = if turned { (cols, rows) } else { (rows, cols) };
            if turned && blocks || role == Role::AttnQkv && ins != d {
                return None;
            }
            let matrix = Matrix { tensor, outs, ins, turned, offset: tensor.offset, change };
            match settled.then(|| runs(role, outs, architecture, scheme)).flatten() {
                Some(runs) => Some(split(&matrix, assignment, architecture, &runs)),
                None if turned => {
                    let whole = matrix.part(&[(0, outs)], tensor.name.clone(), assignment.clone(), architecture);
                    whole.map(|part| vec![part])
                }
                None => None,
            }
        }
        [size] if settled => {
            let runs = runs(role, size, architecture, scheme)?;
            let matrix = Matrix { tensor, outs: size, ins: 1, turned: false, offset: tensor.offset, change };
            Some(split(&matrix, assignment, architecture, &runs))
        }
        _ => None,
    }
}

/// First byte of a matrix that is the transpose of what is stored, in one piece.
fn transposed(tensor: &TensorMeta) -> Option<u64> {
    let (Layout::View(view), [outs, _]) = (&tensor.layout, &tensor.shape[..]) else { return None };
    let (&[piece], width) = (view.pieces(), tensor.dtype.bytes()?) else { return None };
    let turned = piece.row_step == width && Some(piece.col_step) == outs.checked_mul(width);
    (turned && piece.shard == tensor.shard).then_some(piece.offset)
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

/// What a part is called, its role, and the runs of rows (first, count) that it takes.
type Run = (&'static str, Role, Vec<(u64, u64)>);

/// The parts of a fused matrix or bias; `None` for another role or an unknown arrangement.
fn runs(role: Role, outs: u64, a: &Architecture, scheme: Option<&str>) -> Option<Vec<Run>> {
    let roles = match role {
        Role::AttnQkv => [Role::AttnQ, Role::AttnK, Role::AttnV],
        Role::AttnQkvBias => [Role::AttnQBias, Role::AttnKBias, Role::AttnVBias],
        Role::FfnGateUp | Role::FfnUp
            if outs.is_multiple_of(2)
                && (role == Role::FfnGateUp || a.fused_gate_up && a.intermediate_size == Some(outs / 2)) =>
        {
            let half = outs / 2;
            return Some(vec![("gate", Role::FfnGate, vec![(0, half)]), ("up", Role::FfnUp, vec![(half, half)])]);
        }
        _ => return None,
    };
    let (q, kv) = (a.q_size?, a.kv_size?);
    if kv == 0 || q.checked_add(kv.checked_mul(2)?)? != outs {
        return None;
    }
    let [q_role, k_role, v_role] = roles;
    let [q_runs, k_runs, v_runs] = match fusion(scheme)? {
        Fusion::InTurn => [vec![(0, q)], vec![(q, kv)], vec![(q + kv, kv)]],
        Fusion::ByGroup => {
            let head = a.head_dim.filter(|head| *head > 0 && kv % head == 0 && q % kv == 0)?;
            let (groups, queries) = (kv / head, q / kv * head);
            let group = queries + 2 * head;
            let each = |from: u64, count: u64| (0..groups).map(|g| (g * group + from, count)).collect();
            [each(0, queries), each(queries, head), each(queries + head, head)]
        }
    };
    Some(vec![("q", q_role, q_runs), ("k", k_role, k_runs), ("v", v_role, v_runs)])
}

fn split(matrix: &Matrix<'_>, assignment: &Assignment, architecture: &Architecture, runs: &[Run]) -> Vec<Part> {
    let part = |(name, role, rows): &Run| {
        let assignment = Assignment { roles: vec![*role], ..assignment.clone() };
        matrix.part(rows, format!("{}#{name}", matrix.tensor.name), assignment, architecture)
    };
    runs.iter().map(part).collect::<Option<_>>().unwrap_or_default()
}

/// The matrices of each expert in a stack of all.
fn experts_of(
    tensor: &TensorMeta,
    assignment: &Assignment,
    role: Role,
    architecture: &Architecture,
    [experts, rows, cols]: [u64; 3],
) -> Option<Vec<Part>> {
    /// Experts that a layer has at most; beyond, the stack stays as it is.
    const MOST: u64 = 4096;

    let d = architecture.hidden_size;
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
    let size = tensor.dtype.size_of(rows.checked_mul(cols)?)?;
    let (outs, ins) = if turned { (cols, rows) } else { (rows, cols) };
    let mut parts = Vec::new();
    for expert in 0..experts {
        let matrix = Matrix { tensor, outs, ins, turned, offset: tensor.offset + expert * size, change: None };
        let own = |role: Role| Assignment { roles: vec![role], expert: Some(expert as u32), ..assignment.clone() };
        let name = |part: &str| format!("{}#{expert}{part}", tensor.name);
        if role == Role::ExpertGateUp {
            let half = (outs % 2 == 0).then_some(outs / 2)?;
            parts.push(matrix.part(&[(0, half)], name(".gate"), own(Role::ExpertGate), architecture)?);
            parts.push(matrix.part(&[(half, half)], name(".up"), own(Role::ExpertUp), architecture)?);
        } else {
            parts.push(matrix.part(&[(0, outs)], name(""), own(role), architecture)?);
        }
    }
    Some(parts)
}

impl Matrix<'_> {
    /// The rows of the given runs, one after the other, as a tensor of its own.
    fn part(
        &self,
        runs: &[(u64, u64)],
        name: String,
        mut assignment: Assignment,
        architecture: &Architecture,
    ) -> Option<Part> {
        let Self { tensor, outs, ins, turned, offset, change } = *self;
        let line = tensor.dtype.size_of(if turned { outs } else { ins })?;
        let count = runs.iter().map(|run| run.1).sum();
        let shape = if tensor.shape.len() == 1 { vec![count] } else { vec![count, ins] };
        let stored = TensorMeta { name, shape, ..tensor.clone() };
        let meta = match *runs {
            [(first, count)] if !turned => TensorMeta { offset: offset + first * line, len: count * line, ..stored },
            _ => {
                let pieces = self.pieces(runs, line)?;
                let extents = if turned {
                    // Columns of the stored rows: the bytes of the whole matrix are the part's.
                    vec![Extent { shard: tensor.shard, offset, len: ins * line }]
                } else {
                    let extent = |&(first, count): &(u64, u64)| Extent {
                        shard: tensor.shard,
                        offset: offset + first * line,
                        len: count * line,
                    };
                    runs.iter().map(extent).collect()
                };
                let len = extents.iter().map(|extent| extent.len).sum();
                let view = View::new(&tensor.dtype, &stored.shape, pieces, extents).ok()?;
                TensorMeta { offset, len, layout: Layout::View(Arc::new(view)), ..stored }
            }
        };
        let meta = match change {
            Some(change) => change.part(meta, runs, turned)?,
            None => meta,
        };
        let upright = Architecture { conv1d_transposed: false, ..architecture.clone() };
        assignment.residual = residual(&assignment.roles, &meta.shape, &upright);
        Some((meta, assignment))
    }

    fn pieces(&self, runs: &[(u64, u64)], line: u64) -> Option<Vec<Piece>> {
        let (shard, flat) = (self.tensor.shard, self.tensor.shape.len() == 1);
        let width = self.tensor.dtype.bytes().unwrap_or(0);
        let mut at = 0;
        let mut pieces = Vec::new();
        for &(first, count) in runs {
            let piece =
                Piece { row: at, col: 0, rows: count, cols: self.ins, shard, offset: 0, row_step: 0, col_step: width };
            pieces.push(if self.turned {
                Piece { offset: self.offset + first * width, row_step: width, col_step: line, ..piece }
            } else if flat {
                Piece { row: 0, col: at, rows: 1, cols: count, offset: self.offset + first * line, ..piece }
            } else {
                Piece { offset: self.offset + first * line, row_step: line, ..piece }
            });
            at += count;
        }
        Some(pieces)
    }
}
