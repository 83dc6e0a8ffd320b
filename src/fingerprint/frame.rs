//! Frames: directions in the residual space along which neurons are described.
//!
//! A neuron's descriptor is its vector (folded with the norm gain in front of it) times the frame, K numbers. In the
//! **raw frame** the directions are fixed pseudo-random signs, so descriptors of two models compare only if nobody
//! changed the basis. In a **token frame** they are the centred embedding rows of K anchor tokens (for what reads the
//! stream) and the centred rows of the output head times the final norm gain (for what writes to it): a rotation,
//! permutation or rescaling of the stream moves neurons and tokens together, and the descriptor stays.

use serde::{Deserialize, Serialize};

use super::anchors::{self, Vocabulary};
use super::heads::HEAD_DIRECTIONS;
use super::labels;
use crate::anatomy::Assignment;
use crate::assemble::Subject;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::Role;

/// Directions of a frame, and so numbers in a descriptor.
pub const DIRECTIONS: usize = 128;

/// Neurons per layer (and expert) whose descriptors a reference keeps.
pub const SAMPLED_NEURONS: usize = 128;

/// A token that gives a frame a direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Anchor {
    /// Its text, with a leading space where it begins a word; absent where the checkpoint came without a tokenizer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
    /// Its row in the embedding.
    pub id: u32,
}

/// What spans a frame.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameKind {
    /// Pseudo-random signs.
    Raw,
    /// Embedding rows of these tokens.
    Token(Vec<Anchor>),
}

/// What is kept of a frame beside its descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRecord {
    /// What spans it. For a suspect's frame made for a reference, the reference's anchors.
    pub kind: FrameKind,
    /// Directions that this model has no token for: their numbers are zero.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub missing: Vec<u32>,
}

/// The directions of a frame in one model, for matrices that read the stream and for those that write to it.
pub(super) struct Frame {
    pub(super) record: FrameRecord,
    /// `DIRECTIONS` rows of the hidden size.
    read: Vec<f32>,
    write: Vec<f32>,
}

/// Which side of the stream a matrix is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Read,
    Write,
}

impl Frame {
    /// The raw frame of a hidden size.
    fn raw(hidden: usize) -> Self {
        let signs: Vec<f32> = (0..DIRECTIONS * hidden)
            .map(|index| if labels::hash(index as u32) & 1 == 0 { -1.0 } else { 1.0 })
            .collect();
        let record = FrameRecord { kind: FrameKind::Raw, missing: Vec::new() };
        Self { record, read: signs.clone(), write: signs }
    }

    /// The token frame of a checkpoint on a list of anchors, at the rows given; `None` where a row cannot be read.
    fn token(stream: &Stream<'_>, list: &[Anchor], places: &[Option<u32>]) -> Result<Option<Self>> {
        let ids: Vec<u32> = places.iter().flatten().copied().collect();
        let Some(read) = rows(stream.checkpoint, stream.embedding, &ids, stream.hidden)? else { return Ok(None) };
        let Some(write) = rows(stream.checkpoint, stream.head, &ids, stream.hidden)? else { return Ok(None) };
        let missing: Vec<u32> =
            (0..DIRECTIONS as u32).filter(|&d| !matches!(places.get(d as usize), Some(Some(_)))).collect();
        let spread = |mut present: Vec<f32>| {
            centre(&mut present, stream.hidden);
            let mut all = Vec::with_capacity(DIRECTIONS * stream.hidden);
            let mut rows = present.chunks_exact(stream.hidden);
            for direction in 0..DIRECTIONS as u32 {
                match missing.binary_search(&direction) {
                    Ok(_) => all.resize(all.len() + stream.hidden, 0.0),
                    Err(_) => all.extend_from_slice(rows.next().unwrap_or_default()),
                }
            }
            all
        };
        let (read, mut write) = (spread(read), spread(write));
        if let Some(gain) = &stream.final_gain {
            for row in write.chunks_exact_mut(stream.hidden) {
                row.iter_mut().zip(gain).for_each(|(value, gain)| *value *= gain);
            }
        }
        Ok(Some(Self { record: FrameRecord { kind: FrameKind::Token(list.to_vec()), missing }, read, write }))
    }

    fn directions(&self, side: Side) -> &[f32] {
        match side {
            Side::Read => &self.read,
            Side::Write => &self.write,
        }
    }
}

/// Subtracts the mean row and scales each row to length one.
fn centre(rows: &mut [f32], width: usize) {
    let count = (rows.len() / width) as f32;
    let mut mean = vec![0.0f32; width];
    for row in rows.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / count);
    }
    for row in rows.chunks_exact_mut(width) {
        row.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean);
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|value| *value /= length);
        }
    }
}

/// What frames need of a checkpoint: where its embedding and head are, and its final norm gain.
struct Stream<'a> {
    checkpoint: &'a Checkpoint,
    hidden: usize,
    embedding: usize,
    head: usize,
    final_gain: Option<Vec<f32>>,
}

impl<'a> Stream<'a> {
    fn find(subject: &'a Subject) -> Result<Option<Self>> {
        let (checkpoint, anatomy) = (subject.checkpoint(), subject.anatomy());
        let hidden = anatomy.architecture.hidden_size as usize;
        let settled = |role| anatomy.assignments.iter().position(|a| a.role() == Some(role));
        let tables: Vec<usize> = (0..anatomy.assignments.len())
            .filter(|&index| {
                let roles = &anatomy.assignments[index].roles;
                roles.contains(&Role::TokenEmbd) || roles.contains(&Role::Output)
            })
            .collect();
        let embedding = match (settled(Role::TokenEmbd), tables.as_slice()) {
            (Some(index), _) | (None, &[index]) => Some(index),
            (None, &[a, b]) => Some(less_common(checkpoint, a, b)?),
            _ => None,
        };
        let Some(embedding) = embedding else { return Ok(None) };
        let head =
            settled(Role::Output).or_else(|| tables.iter().copied().find(|&t| t != embedding)).unwrap_or(embedding);
        let final_gain = match settled(Role::OutputNorm) {
            Some(index) => gain(subject, index)?,
            None => None,
        };
        Ok(Some(Self { checkpoint, hidden, embedding, head, final_gain }))
    }
}

/// Rows of a table as `f32`; `None` where one is missing or not finite.
fn rows(checkpoint: &Checkpoint, table: usize, ids: &[u32], width: usize) -> Result<Option<Vec<f32>>> {
    let tensor = &checkpoint.tensors[table];
    let (count, cols) = tensor.matrix();
    if cols != width as u64 {
        return Ok(None);
    }
    let (mut buf, mut all) = (Vec::new(), vec![0.0; ids.len() * width]);
    for (row, &id) in all.chunks_exact_mut(width).zip(ids) {
        if u64::from(id) >= count {
            return Ok(None);
        }
        let read = checkpoint.values(tensor, u64::from(id) * cols, row, &mut buf)?;
        if read.is_none() || row.iter().any(|v| !v.is_finite()) {
            return Ok(None);
        }
    }
    Ok(Some(all))
}

/// Of two tables of one shape, the one whose rows have less in common: the input embedding. All rows of an output head
/// are pushed the same way by every token that is not theirs, which gives them a common part.
fn less_common(checkpoint: &Checkpoint, a: usize, b: usize) -> Result<usize> {
    let common = |table: usize| -> Result<f64> {
        let (count, cols) = checkpoint.tensors[table].matrix();
        let Some(rows) = rows(checkpoint, table, &labels::chosen(count, 1024), cols as usize)? else { return Ok(0.0) };
        let mut mean = vec![0.0f64; cols as usize];
        let mut energy = 0.0;
        let n = (rows.len() / cols as usize).max(1) as f64;
        for row in rows.chunks_exact(cols as usize) {
            for (mean, &value) in mean.iter_mut().zip(row) {
                *mean += f64::from(value) / n;
                energy += f64::from(value) * f64::from(value) / n;
            }
        }
        Ok(mean.iter().map(|m| m * m).sum::<f64>() / energy.max(f64::MIN_POSITIVE))
    };
    Ok(if common(a)? <= common(b)? { a } else { b })
}

/// The values of a norm gain.
fn gain(subject: &Subject, index: usize) -> Result<Option<Vec<f32>>> {
    rows(subject.checkpoint(), index, &[0], subject.anatomy().architecture.hidden_size as usize)
}

/// The frames of one checkpoint, and the gains that fold into its MLPs.
pub(super) struct Frames {
    hidden: usize,
    pub(super) frames: Vec<Frame>,
    read_gains: Vec<Option<Vec<f32>>>,
    write_gains: Vec<Option<Vec<f32>>>,
    /// The same for attention: what it reads through, and what it writes through.
    attention_gains: [Vec<Option<Vec<f32>>>; 2],
    /// For reading and for writing, the directions of all frames side by side: a row of numbers for each channel.
    neuron_directions: [Vec<f32>; 2],
    /// The same of the token frames' first directions.
    head_directions: [Vec<f32>; 2],
}

impl Frames {
    /// The raw frame, the checkpoint's own token frame, and one for each list of a reference that it has rows for.
    pub(super) fn of(subject: &Subject, lists: &[Vec<Anchor>]) -> Result<Self> {
        let (checkpoint, anatomy) = (subject.checkpoint(), subject.anatomy());
        let hidden = anatomy.architecture.hidden_size as usize;
        let mut frames = Vec::new();
        if (1..=super::MAX_HIDDEN).contains(&hidden) {
            frames.push(Frame::raw(hidden));
            if let Some(stream) = Stream::find(subject)? {
                let vocabulary = Vocabulary::of(checkpoint);
                let table_rows = checkpoint.tensors[stream.embedding].matrix().0;
                let own = anchors::own(vocabulary.as_ref(), table_rows);
                let places: Vec<Option<u32>> = own.iter().map(|anchor| Some(anchor.id)).collect();
                frames.extend(Frame::token(&stream, &own, &places)?);
                for list in lists.iter().filter(|list| **list != own) {
                    if let Some(places) = anchors::located(list, vocabulary.as_ref(), table_rows) {
                        frames.extend(Frame::token(&stream, list, &places)?);
                    }
                }
            }
        }
        let mut by_layer = LayerNorms::default();
        for (index, assignment) in anatomy.assignments.iter().enumerate() {
            by_layer.note(index, assignment);
        }
        let layers = if frames.is_empty() { 0 } else { by_layer.layers.len() };
        let read = |pick: &dyn Fn(&Norms) -> Option<usize>| -> Result<Vec<Option<Vec<f32>>>> {
            let of_layer = |norms: &Norms| pick(norms).map(|index| gain(subject, index)).transpose();
            by_layer.layers.iter().take(layers).map(|norms| Ok(of_layer(norms)?.flatten())).collect()
        };
        let read_gains = read(&Norms::before_mlp)?;
        let write_gains = read(&Norms::after_mlp)?;
        let mut attention_reads = read(&Norms::before_attention)?;
        if anatomy.architecture.norm_bias == Some(true) {
            by_layer.read_last_of_the_layer_before(&mut attention_reads, &read(&|norms| norms.post_mlp)?);
        }
        let attention_gains = [attention_reads, read(&Norms::after_attention)?];
        let neuron_directions =
            [Side::Read, Side::Write].map(|side| side_by_side(frames.iter(), DIRECTIONS, hidden, side));
        let tokens = || frames.iter().filter(|frame| matches!(frame.record.kind, FrameKind::Token(_)));
        let head_directions =
            [Side::Read, Side::Write].map(|side| side_by_side(tokens(), HEAD_DIRECTIONS, hidden, side));
        Ok(Self { hidden, frames, read_gains, write_gains, attention_gains, neuron_directions, head_directions })
    }

    /// No frames: nothing is described.
    pub(super) fn none() -> Self {
        let (frames, read_gains, write_gains, attention_gains) = Default::default();
        let (neuron_directions, head_directions) = Default::default();
        Self { hidden: 0, frames, read_gains, write_gains, attention_gains, neuron_directions, head_directions }
    }

    /// Width of the residual stream.
    pub(super) fn hidden(&self) -> usize {
        self.hidden
    }

    /// The norm gain that folds into what the MLP of a layer reads, or writes.
    pub(super) fn gain(&self, layer: Option<u32>, side: Side) -> Option<&Vec<f32>> {
        let gains = if side == Side::Read { &self.read_gains } else { &self.write_gains };
        gains.get(layer? as usize)?.as_ref()
    }

    /// The embedding rows that span each token frame, centred and scaled, eight bits a value; empty for the raw frame.
    pub(super) fn anchor_rows(&self) -> Vec<Vec<i8>> {
        let rows = |frame: &Frame| match frame.record.kind {
            FrameKind::Raw => Vec::new(),
            FrameKind::Token(_) => frame.read.chunks_exact(self.hidden).flat_map(eight_bits).collect(),
        };
        self.frames.iter().map(rows).collect()
    }

    /// What is kept of the frames.
    pub(super) fn records(&self) -> Vec<FrameRecord> {
        self.frames.iter().map(|frame| frame.record.clone()).collect()
    }

    /// The directions of all frames side by side, the gain around the MLP of a layer folded in: hidden size × (frames ×
    /// `DIRECTIONS`).
    pub(super) fn weights(&self, layer: Option<u32>, side: Side) -> Vec<f32> {
        folded(&self.neuron_directions[side as usize], self.hidden, self.gain(layer, side))
    }

    /// Numbers for each coordinate of a head: none without a token frame.
    pub(super) fn head_width(&self) -> usize {
        self.head_directions[0].len() / self.hidden.max(1)
    }

    /// The first directions of the token frames side by side, the gains around the attention of a layer folded in:
    /// hidden size × (token frames × `HEAD_DIRECTIONS`).
    pub(super) fn head_weights(&self, layer: Option<u32>, side: Side) -> Vec<f32> {
        let gain = layer.and_then(|layer| self.attention_gains[side as usize].get(layer as usize)?.as_ref());
        folded(&self.head_directions[side as usize], self.hidden, gain)
    }
}

/// Directions with each channel's numbers times its gain.
fn folded(directions: &[f32], hidden: usize, gain: Option<&Vec<f32>>) -> Vec<f32> {
    let mut weights = directions.to_vec();
    if let Some(gain) = gain {
        let width = directions.len() / hidden.max(1);
        for (numbers, gain) in weights.chunks_exact_mut(width.max(1)).zip(gain) {
            numbers.iter_mut().for_each(|number| *number *= gain);
        }
    }
    weights
}

/// The first directions of frames side by side: hidden size × (frames × `directions`).
fn side_by_side<'a>(frames: impl Iterator<Item = &'a Frame>, directions: usize, hidden: usize, side: Side) -> Vec<f32> {
    let frames: Vec<&Frame> = frames.collect();
    let width = frames.len() * directions;
    let mut beside = vec![0.0f32; hidden * width];
    for (index, frame) in frames.iter().enumerate() {
        for (direction, row) in frame.directions(side).chunks_exact(hidden.max(1)).take(directions).enumerate() {
            for (channel, value) in row.iter().enumerate() {
                beside[channel * width + index * directions + direction] = *value;
            }
        }
    }
    beside
}

/// A row scaled so that its largest value is 127.
fn eight_bits(row: &[f32]) -> Vec<i8> {
    let largest = row.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
    let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    row.iter().map(|v| (v * scale).round() as i8).collect()
}

/// The norms around the attention and the MLP of a layer, by tensor index.
#[derive(Default, Clone)]
struct Norms {
    attention: Option<usize>,
    post_attention: Option<usize>,
    mlp: Option<usize>,
    post_mlp: Option<usize>,
}

impl Norms {
    /// The norm whose output the MLP reads: its own; where there is none, that after the attention (BERT), or the one
    /// it shares with the attention (parallel blocks).
    fn before_mlp(&self) -> Option<usize> {
        self.mlp.or(self.post_attention.filter(|_| self.attention.is_none())).or(self.attention)
    }

    /// The norm through which the MLP writes: only where the MLP has one in front as well (Gemma 2).
    fn after_mlp(&self) -> Option<usize> {
        self.post_mlp.filter(|_| self.mlp.is_some())
    }

    /// The norm whose output the attention reads, where the layer has it.
    fn before_attention(&self) -> Option<usize> {
        self.attention
    }

    /// The norm through which the attention writes: only where it has one in front as well (Gemma 2).
    fn after_attention(&self) -> Option<usize> {
        self.post_attention.filter(|_| self.attention.is_some())
    }
}

#[derive(Default)]
struct LayerNorms {
    layers: Vec<Norms>,
}

impl LayerNorms {
    /// In a layer with norms after its parts alone (BERT) attention reads what the last norm of the layer before
    /// leaves. OLMo 2, whose norms have no biases, has its norms in the branches and is none of these.
    fn read_last_of_the_layer_before(&self, reads: &mut [Option<Vec<f32>>], last: &[Option<Vec<f32>>]) {
        for layer in 1..reads.len() {
            let norms = &self.layers[layer];
            if norms.attention.is_none() && norms.mlp.is_none() && norms.post_attention.is_some() {
                reads[layer].clone_from(&last[layer - 1]);
            }
        }
    }

    fn note(&mut self, index: usize, assignment: &Assignment) {
        let (Some(role), Some(layer)) = (assignment.role(), assignment.layer) else { return };
        if layer as usize >= super::MAX_FRAMED_LAYERS {
            return;
        }
        if self.layers.len() <= layer as usize {
            self.layers.resize(layer as usize + 1, Norms::default());
        }
        let norms = &mut self.layers[layer as usize];
        let slot = match role {
            Role::AttnNorm => &mut norms.attention,
            Role::PostAttnNorm => &mut norms.post_attention,
            Role::FfnNorm => &mut norms.mlp,
            Role::PostFfnNorm => &mut norms.post_mlp,
            _ => return,
        };
        *slot = Some(index);
    }
}

/// Descriptors as they are kept: each neuron's numbers centred and scaled so that the largest is 127.
pub(super) fn quantise(projected: &[f32], frame: usize, frames: usize) -> Vec<i8> {
    let width = frames * DIRECTIONS;
    let mut out = Vec::with_capacity(projected.len() / frames.max(1));
    for neuron in projected.chunks_exact(width) {
        let numbers = &neuron[frame * DIRECTIONS..][..DIRECTIONS];
        let mean = numbers.iter().sum::<f32>() / DIRECTIONS as f32;
        let largest = numbers.iter().fold(0.0f32, |largest, v| largest.max((v - mean).abs()));
        let scale = if largest > 0.0 && largest.is_finite() { 127.0 / largest } else { 0.0 };
        out.extend(numbers.iter().map(|v| ((v - mean) * scale).round() as i8));
    }
    out
}
