//! One tensor for each role: fused matrices taken apart and Conv1D matrices turned round, before any value is read.
//!
//! Publishers store the same numbers in different arrangements: query, key and value in one matrix (one after the other,
//! or in groups of heads), gate and up in one, the experts of a layer in one stack, a matrix by (in, out) instead of
//! (out, in). Whoever fuses a copy changes no value, so every arrangement is brought to one before statistics. Only the
//! view changes: the stored bytes stay where they are. A matrix whose arrangement is not known stays as it is.

use std::sync::Arc;

use crate::anatomy::{Anatomy, Assignment, residual};
use crate::model::{Architecture, Role};
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
    scheme: Option<&str>,
) -> Option<Vec<Part>> {
    let role = *assignment.roles.first()?;
    let settled = assignment.roles.len() == 1;
    // Of a changed tensor the base is taken apart, and each part has its share of the change.
    let (tensor, change) = match &tensor.storage {
        Storage::LowRank(change) => (&change.base, Some(&**change)),
        _ => (tensor, None),
    };
    if !tensor.dtype.is_decoded() || !tensor.dtype.is_float() {
        return None;
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
            let projections = assignment.roles.iter().copied().all(is_projection);
            let turned = architecture.conv1d_transposed && !architecture.stacked_experts && projections;
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

/// The rows of gate and of up in a matrix of both: first all of gate, or in turn, as gpt-oss has them.
fn gate_and_up(outs: u64, scheme: Option<&str>) -> Option<[Run; 2]> {
    let half = outs.is_multiple_of(2).then_some(outs / 2)?;
    Some(match scheme {
        Some("gpt_oss") => [0, 1].map(|first| Run { first, count: half, step: 2 }),
        _ => [0, half].map(|first| Run::new(first, half)),
    })
}

/// The parts of a fused matrix or bias; `None` for another role or an unknown arrangement.
fn runs(role: Role, outs: u64, a: &Architecture, scheme: Option<&str>) -> Option<Vec<Share>> {
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
    let [q_runs, k_runs, v_runs] = match fusion(scheme)? {
        Fusion::InTurn => [(0, q), (q, kv), (q + kv, kv)].map(|(first, count)| vec![Run::new(first, count)]),
        Fusion::ByGroup => {
            let head = a.head_dim.filter(|head| *head > 0 && kv % head == 0 && q % kv == 0)?;
            let (groups, queries) = (kv / head, q / kv * head);
            let group = queries + 2 * head;
            let each = |from: u64, count: u64| (0..groups).map(|g| Run::new(g * group + from, count)).collect();
            [each(0, queries), each(queries, head), each(queries + head, head)]
        }
    };
    Some(vec![("q", q_role, q_runs), ("k", k_role, k_runs), ("v", v_role, v_runs)])
}

fn split(matrix: &Matrix<'_>, assignment: &Assignment, architecture: &Architecture, shares: &[Share]) -> Vec<Part> {
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
    scheme: Option<&str>,
    [experts, rows, cols]: [u64; 3],
) -> Option<Vec<Part>> {
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
    ) -> Option<Part> {
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
