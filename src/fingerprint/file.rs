//! The fingerprint as a file: a safetensors file with the record as JSON in its metadata.
//!
//! The arrays are concatenations over tensors in the order of the record; their pieces have lengths that follow from
//! the shapes, or are stated in the record.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Anchor, Approximate, Attention, Channels, ContentKeys, DIRECTIONS, Exact, FORM_NUMBERS, Fingerprint, FrameKind,
    FrameRecord, Origin, RowKey, SAMPLED_NEURONS, SCHEMA, SHAPE_NUMBERS, Sample, Summary, TensorFingerprint, Unit,
    ValueFingerprint, energy_counts, labels, sample_labels,
};
use crate::anatomy::Assignment;
use crate::bytes::{Numbers, write_whole};
use crate::error::{Error, Result};
use crate::finding::Finding;
use crate::limits::MAX_FINGERPRINT_BYTES;
use crate::model::Architecture;
use crate::tensor::DType;

const METADATA_KEY: &str = "weightprint";
const FORMAT: &str = "fingerprint";

/// The JSON part.
#[derive(Serialize, Deserialize)]
struct Record {
    schema: String,
    subject: Origin,
    architecture: Architecture,
    channel_tensors: u32,
    frames: Vec<FrameRecord>,
    units: Vec<UnitRecord>,
    attentions: Vec<AttentionRecord>,
    findings: Vec<Finding>,
    /// SHA-256 over all arrays, so that a damaged file is not taken for evidence.
    arrays_sha256: String,
    tensors: Vec<TensorRecord>,
}

#[derive(Serialize, Deserialize)]
struct TensorRecord {
    name: String,
    dtype: DType,
    shape: Vec<u64>,
    /// Stored bytes, where type and shape do not tell them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(flatten)]
    assignment: Assignment,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    formula: bool,
    /// Whether the arrays hold pieces of this tensor.
    decoded: bool,
    /// Whether widening its values to `f32` is exact.
    exact: bool,
    /// Digest over the values of a gain as they are stored, less one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    less_one_sha256: Option<[u8; 32]>,
    /// Whether the distances of levels at its sampled values are kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    steps: bool,
    sketch: usize,
    row_norms: bool,
    /// Whether its sample is kept in halves.
    sample_bf16: bool,
}

#[derive(Serialize, Deserialize)]
struct UnitRecord {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    layer: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expert: Option<u32>,
    neurons: u64,
    gated: bool,
    /// Number of landmarks whose shapes are kept.
    landmarks: usize,
}

#[derive(Serialize, Deserialize)]
struct AttentionRecord {
    layer: u32,
    heads: u32,
    groups: u32,
    head_dim: u32,
}

/// The array that fingerprints of before runs of values were kept do not have.
const CONTENT: &str = "content.keys";

/// The array that only fingerprints of quantised checkpoints have.
const STEPS: &str = "tensors.steps";

/// Number of `f64` in a summary's row.
const SUMMARY: usize = 11;

/// The part of a header that holds the record.
#[derive(Deserialize)]
struct HeaderOnly {
    #[serde(rename = "__metadata__")]
    metadata: HashMap<String, String>,
}

/// The part of a record that says how neurons were described.
#[derive(Deserialize)]
struct FramesOnly {
    frames: Vec<FrameRecord>,
}

/// The arrays, concatenated.
#[derive(Default)]
struct Arrays {
    stored_sha256: Vec<u8>,
    values_sha256: Vec<u8>,
    rounded: Vec<u64>,
    summary: Vec<f64>,
    sample: Vec<f32>,
    steps: Vec<bf16>,
    /// Samples whose values are all bf16: the upper halves of their bits.
    sample_bf16: Vec<u16>,
    energy: Vec<f16>,
    sketch: Vec<u64>,
    row_norms: Vec<f32>,
    descriptors: Vec<u8>,
    shapes: Vec<u8>,
    forms: Vec<u8>,
}

impl Fingerprint {
    /// The bytes of the file: the same for the same fingerprint, always.
    ///
    /// # Errors
    /// Only if the record cannot be written as JSON, which no fingerprint that was taken or read causes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut arrays = Arrays::default();
        let tensors = self.exact.tensors.iter().map(|tensor| arrays.push(tensor)).collect();
        let units = self.approximate.units.iter().map(|unit| arrays.push_unit(&unit.sampled())).collect();
        let attentions = self.approximate.attentions.iter().map(|attention| arrays.push_attention(attention)).collect();
        let layer_bytes: Vec<u8> = self.exact.channels.layers.iter().map(|&score| score as u8).collect();
        let mut pieces = vec![
            ("channels.layers", Dtype::I8, layer_bytes),
            ("channels.profile", Dtype::F32, le(&self.exact.channels.profile, f32::to_le_bytes)),
            (
                "frames.anchor_rows",
                Dtype::I8,
                self.approximate.anchor_rows.iter().flatten().map(|&v| v as u8).collect(),
            ),
            ("heads.forms", Dtype::I8, arrays.forms),
            ("neurons.descriptors", Dtype::I8, arrays.descriptors),
            ("neurons.shapes", Dtype::U8, arrays.shapes),
            ("tensors.energy", Dtype::F16, le(&arrays.energy, f16::to_le_bytes)),
            ("tensors.rounded_xxh3", Dtype::U64, le(&arrays.rounded, u64::to_le_bytes)),
            ("tensors.row_norms", Dtype::F32, le(&arrays.row_norms, f32::to_le_bytes)),
            ("tensors.sample", Dtype::F32, le(&arrays.sample, f32::to_le_bytes)),
            ("tensors.sample_bf16", Dtype::BF16, le(&arrays.sample_bf16, u16::to_le_bytes)),
            ("tensors.sketch", Dtype::U64, le(&arrays.sketch, u64::to_le_bytes)),
            ("tensors.stored_sha256", Dtype::U8, arrays.stored_sha256),
            ("tensors.summary", Dtype::F64, le(&arrays.summary, f64::to_le_bytes)),
            ("tensors.values_sha256", Dtype::U8, arrays.values_sha256),
        ];
        if !arrays.steps.is_empty() {
            pieces.push((STEPS, Dtype::BF16, le(&arrays.steps, bf16::to_le_bytes)));
        }
        if let Some(content) = &self.exact.content {
            pieces.push((CONTENT, Dtype::U64, le(content.keys(), u64::to_le_bytes)));
        }
        // The order in which they are digested.
        pieces.sort_unstable_by_key(|(name, ..)| *name);
        let record = Record {
            schema: SCHEMA.to_owned(),
            subject: self.exact.subject.clone(),
            architecture: self.exact.architecture.clone(),
            channel_tensors: self.exact.channels.tensors,
            frames: self.approximate.frames.clone(),
            units,
            attentions,
            findings: self.exact.findings.clone(),
            arrays_sha256: arrays_sha256(pieces.iter().map(|(_, _, bytes)| bytes.as_slice())),
            tensors,
        };
        let usage = |what: &dyn std::fmt::Display| Error::usage(format!("cannot write the fingerprint: {what}"));
        let json = serde_json::to_string(&record).map_err(|error| usage(&error))?;
        let views: Vec<(&str, TensorView<'_>)> = pieces
            .iter()
            .map(|(name, dtype, bytes)| {
                let shape = vec![bytes.len() * 8 / dtype.bitsize()];
                TensorView::new(*dtype, shape, bytes).map(|view| (*name, view))
            })
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| usage(&error))?;
        serialize(views, Some(HashMap::from([(METADATA_KEY.to_owned(), json)]))).map_err(|error| usage(&error))
    }

    /// Writes the file, whole or not at all. An existing file is only replaced with `force`.
    ///
    /// # Errors
    /// If the file exists and `force` is not given, or it cannot be written.
    pub fn write(&self, path: &Path, force: bool) -> Result<()> {
        if self.exact.tensors.is_empty() {
            self.require_model(path)?;
        }
        write_whole(path, &self.to_bytes()?, force)
    }

    /// Reads a fingerprint file. It is mapped where the system allows, and must not be truncated while the fingerprint
    /// lives; this library replaces such files whole and never writes into them.
    ///
    /// # Errors
    /// If it cannot be read, is not a fingerprint, is of another version, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_numbers(map_bounded(path)?, path)
    }

    /// The same with SHA-256 over the file's header, which states the digest of its arrays: fingerprints with equal
    /// digests are equal.
    ///
    /// # Errors
    /// As for [`Fingerprint::read`].
    pub(crate) fn read_with_digest(path: &Path) -> Result<(Self, [u8; 32])> {
        let numbers = map_bounded(path)?;
        let bytes: &[u8] = bytemuck::cast_slice(&numbers);
        let header = header_length(bytes).and_then(|len| bytes.get(8..8 + len)).unwrap_or_default();
        let digest = Sha256::digest(header).into();
        Ok((Self::from_numbers(numbers, path)?, digest))
    }

    /// The anchor lists of the token frames, from the file's header alone; whether the arrays are whole is not looked at.
    ///
    /// # Errors
    /// As for [`Fingerprint::read`], as far as the header goes.
    pub(crate) fn read_anchors(path: &Path) -> Result<Vec<Vec<Anchor>>> {
        let bad = |what: &str| Error::malformed(path, FORMAT, what);
        let failed = |source| Error::io(path, "read", source);
        let mut file = std::fs::File::open(path).map_err(failed)?;
        let most = file.metadata().map_err(failed)?.len();
        let mut head = Vec::new();
        Read::by_ref(&mut file).take(8).read_to_end(&mut head).map_err(failed)?;
        let len =
            header_length(&head).filter(|&len| (len as u64) < most).ok_or_else(|| bad("its header is cut off"))?;
        let mut header = Vec::new();
        file.take(len as u64).read_to_end(&mut header).map_err(failed)?;
        let header: HeaderOnly = serde_json::from_slice(&header).map_err(|error| bad(&error.to_string()))?;
        let json = header.metadata.get(METADATA_KEY).ok_or_else(|| bad("no fingerprint record in its metadata"))?;
        check_version(json, path)?;
        let record: FramesOnly = serde_json::from_str(json).map_err(|error| bad(&error.to_string()))?;
        let anchors = record.frames.into_iter().filter_map(|frame| match frame.kind {
            FrameKind::Token(anchors) => Some(anchors),
            FrameKind::Raw => None,
        });
        Ok(anchors.collect())
    }

    /// Whether the file at `path` says in its header that it is a fingerprint. Reads only the first bytes.
    pub fn is_fingerprint(path: &Path) -> bool {
        let mut head = [0; 64];
        path.metadata().is_ok_and(|meta| meta.is_file())
            && std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok()
            && head[8..].starts_with(br#"{"__metadata__":{"weightprint":"#)
    }

    /// The fingerprint in `bytes`; `path` is named in errors.
    ///
    /// # Errors
    /// As for [`Fingerprint::read`].
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        Self::from_numbers(bytes.into(), path)
    }

    /// As [`Fingerprint::from_bytes`]; the descriptors, most of the file, stay where they are.
    pub(crate) fn from_numbers(whole: Numbers, path: &Path) -> Result<Self> {
        let bad = |what: &str| Error::malformed(path, FORMAT, what);
        let bytes: &[u8] = bytemuck::cast_slice(&whole);
        let (len, header) = SafeTensors::read_metadata(bytes).map_err(|error| bad(&error.to_string()))?;
        let json = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA_KEY));
        let json = json.ok_or_else(|| bad("no fingerprint record in its metadata"))?;
        check_version(json, path)?;
        let record: Record = serde_json::from_str(json).map_err(|error| bad(&error.to_string()))?;
        let range = |name: &str| {
            let (from, to) = header.info(name)?.data_offsets;
            Some((8 + len).checked_add(from)?..(8 + len).checked_add(to)?)
        };
        let array = |name: &str| {
            let data = range(name).and_then(|range| bytes.get(range));
            data.ok_or_else(|| bad(&format!("array `{name}` is missing")))
        };
        let mut names: Vec<String> = header.tensors().into_keys().collect();
        // The order in which they were digested.
        names.sort_unstable();
        let all: Vec<&[u8]> = names.iter().map(|name| array(name)).collect::<Result<_>>()?;
        if arrays_sha256(all.into_iter()) != record.arrays_sha256 {
            return Err(bad("its arrays do not have the digest that its record states"));
        }
        let mut pieces = Pieces {
            stored_sha256: array("tensors.stored_sha256")?,
            values_sha256: array("tensors.values_sha256")?,
            rounded: array("tensors.rounded_xxh3")?,
            summary: array("tensors.summary")?,
            sample: array("tensors.sample")?,
            steps: array(STEPS).unwrap_or_default(),
            sample_bf16: array("tensors.sample_bf16")?,
            energy: array("tensors.energy")?,
            sketch: array("tensors.sketch")?,
            row_norms: array("tensors.row_norms")?,
            descriptors: whole.part(range("neurons.descriptors").unwrap_or_default()),
            shapes: array("neurons.shapes")?,
            forms: array("heads.forms")?,
        };
        let tensors = record.tensors.into_iter().map(|tensor| pieces.take_tensor(tensor));
        let tensors =
            tensors.collect::<Option<Vec<_>>>().ok_or_else(|| bad("its arrays are shorter than its record"))?;
        let frames = record.frames.len();
        let units = record.units.into_iter().map(|unit| pieces.take_unit(&unit, frames));
        let units = units.collect::<Option<Vec<_>>>().ok_or_else(|| bad("its arrays are shorter than its record"))?;
        let mut anchors = array("frames.anchor_rows")?;
        let len = |frame: &FrameRecord| match frame.kind {
            FrameKind::Raw => Some(0),
            FrameKind::Token(_) => DIRECTIONS.checked_mul(usize::try_from(record.architecture.hidden_size).ok()?),
        };
        let rows =
            record.frames.iter().map(|frame| Some(take(&mut anchors, len(frame)?)?.iter().map(|&v| v as i8).collect()));
        let anchor_rows =
            rows.collect::<Option<Vec<_>>>().ok_or_else(|| bad("its arrays are shorter than its record"))?;
        let token = |frame: &&FrameRecord| matches!(frame.kind, FrameKind::Token(_));
        let frames = record.frames.iter().filter(token).count();
        let attentions = record.attentions.into_iter().map(|attention| pieces.take_attention(&attention, frames));
        let attentions =
            attentions.collect::<Option<Vec<_>>>().ok_or_else(|| bad("its heads contradict its arrays"))?;
        let profile = numbers(array("channels.profile")?, f32::from_le_bytes);
        let layers: Vec<i8> = array("channels.layers")?.iter().map(|&byte| byte as i8).collect();
        let content = match range(CONTENT) {
            Some(_) => {
                let keys = ContentKeys::of(numbers(array(CONTENT)?, u64::from_le_bytes));
                Some(keys.ok_or_else(|| bad("its keys of runs are too many or out of order"))?)
            }
            None => None,
        };
        let exact = Exact {
            subject: record.subject,
            architecture: record.architecture,
            tensors,
            channels: Channels { profile, tensors: record.channel_tensors, layers },
            content,
            findings: record.findings,
        };
        Ok(Self { exact, approximate: Approximate { frames: record.frames, anchor_rows, units, attentions } })
    }
}

/// SHA-256 over the arrays in the order of their names.
fn arrays_sha256<'a>(arrays: impl Iterator<Item = &'a [u8]>) -> String {
    let mut all = Sha256::new();
    arrays.for_each(|array| all.update(array));
    crate::text::hex(&all.finalize())
}

#[derive(Deserialize)]
struct SchemaOnly {
    schema: String,
}

fn check_version(json: &str, path: &Path) -> Result<()> {
    let bad = |what: &str| Error::malformed(path, FORMAT, what);
    let SchemaOnly { schema } = serde_json::from_str(json).map_err(|error| bad(&error.to_string()))?;
    if schema != SCHEMA {
        return Err(bad(&format!("schema `{schema}` is not {SCHEMA}: take the fingerprint again")));
    }
    Ok(())
}

/// Bytes of a plain tensor of this type and shape; `None` where that is not known, or too many.
fn plain_bytes(dtype: &DType, shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(dtype.bytes()?, |bytes, &size| bytes.checked_mul(size))
}

impl Arrays {
    fn push(&mut self, tensor: &TensorFingerprint) -> TensorRecord {
        self.stored_sha256.extend(tensor.stored_sha256);
        let values = tensor.values.as_ref();
        let record = TensorRecord {
            name: tensor.name.clone(),
            dtype: tensor.dtype.clone(),
            shape: tensor.shape.clone(),
            bytes: Some(tensor.stored_bytes)
                .filter(|_| plain_bytes(&tensor.dtype, &tensor.shape) != Some(tensor.stored_bytes)),
            assignment: tensor.assignment.clone(),
            formula: tensor.formula,
            decoded: values.is_some(),
            exact: values.is_some_and(|values| values.sha256.is_some()),
            less_one_sha256: values.and_then(|values| values.less_one_sha256),
            steps: values.is_some_and(|values| !values.steps.is_empty()),
            sketch: values.map_or(0, |values| values.sketch.len()),
            row_norms: values.is_some_and(|values| values.row_norms.is_some()),
            sample_bf16: values.is_some_and(|values| values.sample.halves().is_some()),
        };
        if let Some(values) = values {
            let s = &values.summary;
            self.values_sha256.extend(values.sha256.unwrap_or_default());
            self.rounded.extend(values.rounded.iter().flat_map(|&key| [(key >> 64) as u64, key as u64]));
            self.summary.extend([s.finite, s.zeros, s.nan, s.infinite].map(|count| count as f64));
            self.summary.extend([s.mean, s.std, s.skewness, s.excess_kurtosis, s.rms, s.min, s.max]);
            match values.sample.halves() {
                Some(halves) => self.sample_bf16.extend(halves),
                None => self.sample.extend(values.sample.values().iter()),
            }
            self.steps.extend(&values.steps);
            self.energy.extend(values.row_rms.iter().chain(&values.col_rms));
            self.sketch.extend(values.sketch.iter().flat_map(|key| [key.order, key.id]));
            self.row_norms.extend(values.row_norms.iter().flatten());
        }
        record
    }
}

impl Arrays {
    fn push_unit(&mut self, unit: &Unit) -> UnitRecord {
        let numbers = unit.frames.iter().flatten().flat_map(|numbers| numbers.iter());
        self.descriptors.extend(numbers.map(|&number| number as u8));
        let gated = unit.frames.first().is_some_and(|[gate, ..]| !gate.is_empty());
        self.shapes.extend(unit.shapes.iter().flatten());
        let landmarks = unit.shapes[0].len() / SHAPE_NUMBERS;
        UnitRecord { layer: unit.layer, expert: unit.expert, neurons: unit.neurons, gated, landmarks }
    }
}

impl Arrays {
    fn push_attention(&mut self, attention: &Attention) -> AttentionRecord {
        self.forms.extend(attention.forms.iter().flatten().map(|&number| number as u8));
        let Attention { layer, heads, groups, head_dim, .. } = *attention;
        AttentionRecord { layer, heads, groups, head_dim }
    }
}

/// What is left of each array while tensors are taken off their fronts.
struct Pieces<'a> {
    stored_sha256: &'a [u8],
    values_sha256: &'a [u8],
    rounded: &'a [u8],
    summary: &'a [u8],
    sample: &'a [u8],
    steps: &'a [u8],
    sample_bf16: &'a [u8],
    energy: &'a [u8],
    sketch: &'a [u8],
    row_norms: &'a [u8],
    descriptors: Numbers,
    shapes: &'a [u8],
    forms: &'a [u8],
}

impl Pieces<'_> {
    fn take_unit(&mut self, record: &UnitRecord, frames: usize) -> Option<Unit> {
        let labels = labels::chosen(record.neurons, SAMPLED_NEURONS);
        let mut piece = |present: bool| -> Option<Numbers> {
            let len = if present { labels.len() * DIRECTIONS } else { 0 };
            let (all, numbers) = (self.descriptors.len(), self.descriptors.part(0..len));
            self.descriptors = self.descriptors.part(len..all);
            (numbers.len() == len).then_some(numbers)
        };
        let frames = (0..frames).map(|_| Some([piece(record.gated)?, piece(true)?, piece(true)?]));
        let frames = frames.collect::<Option<Vec<_>>>()?;
        let len = record.landmarks.checked_mul(SHAPE_NUMBERS)?;
        let mut shape = || Some(take(&mut self.shapes, len)?.to_vec());
        let shapes = [shape()?, shape()?, shape()?];
        Some(Unit::kept(record.layer, record.expert, record.neurons, labels, frames, shapes))
    }

    fn take_attention(&mut self, record: &AttentionRecord, frames: usize) -> Option<Attention> {
        let &AttentionRecord { layer, heads, groups, head_dim } = record;
        if groups == 0 || !heads.is_multiple_of(groups) {
            return None;
        }
        let len = (heads as usize).checked_mul(2 * FORM_NUMBERS)?;
        let mut frame = || Some(take(&mut self.forms, len)?.iter().map(|&byte| byte as i8).collect());
        let forms = (0..frames).map(|_| frame()).collect::<Option<Vec<_>>>()?;
        Some(Attention { layer, heads, groups, head_dim, forms })
    }

    fn take_tensor(&mut self, record: TensorRecord) -> Option<TensorFingerprint> {
        let stored_sha256 = take(&mut self.stored_sha256, 32)?.try_into().ok()?;
        let values = if record.decoded { Some(self.take_values(&record)?) } else { None };
        let stored_bytes = record.bytes.or_else(|| plain_bytes(&record.dtype, &record.shape))?;
        Some(TensorFingerprint {
            name: record.name,
            dtype: record.dtype,
            shape: record.shape,
            assignment: record.assignment,
            formula: record.formula,
            stored_bytes,
            stored_sha256,
            values,
        })
    }

    fn take_values(&mut self, record: &TensorRecord) -> Option<ValueFingerprint> {
        record.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size))?;
        let (rows, cols) = crate::tensor::matrix(&record.shape);
        let (sample_rows, sample_cols) = sample_labels(rows, cols);
        let sha256: [u8; 32] = take(&mut self.values_sha256, 32)?.try_into().ok()?;
        let rounded = numbers(take(&mut self.rounded, 32)?, u64::from_le_bytes);
        let joined = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let s = numbers(take(&mut self.summary, 8 * SUMMARY)?, f64::from_le_bytes);
        let (row_energies, col_energies) = energy_counts(rows, cols);
        let sampled = sample_rows.len() * sample_cols.len();
        let sample = if record.sample_bf16 {
            Sample::of_halves(numbers(take(&mut self.sample_bf16, 2 * sampled)?, u16::from_le_bytes))
        } else {
            numbers(take(&mut self.sample, 4 * sampled)?, f32::from_le_bytes).into()
        };
        let steps = if record.steps { take(&mut self.steps, 2 * sampled)? } else { &[] };
        let row_rms = numbers(take(&mut self.energy, 2 * row_energies)?, f16::from_le_bytes);
        let col_rms = numbers(take(&mut self.energy, 2 * col_energies)?, f16::from_le_bytes);
        let keys = numbers(take(&mut self.sketch, record.sketch.checked_mul(16)?)?, u64::from_le_bytes);
        let norms = usize::try_from(rows).ok().and_then(|rows| rows.checked_mul(4)).filter(|_| record.row_norms);
        let row_norms = match norms {
            Some(len) => Some(numbers(take(&mut self.row_norms, len)?, f32::from_le_bytes)),
            None => None,
        };
        Some(ValueFingerprint {
            summary: Summary {
                finite: s[0] as u64,
                zeros: s[1] as u64,
                nan: s[2] as u64,
                infinite: s[3] as u64,
                mean: s[4],
                std: s[5],
                skewness: s[6],
                excess_kurtosis: s[7],
                rms: s[8],
                min: s[9],
                max: s[10],
            },
            sha256: record.exact.then_some(sha256),
            rounded: [joined(rounded[0], rounded[1]), joined(rounded[2], rounded[3])],
            sample,
            less_one_sha256: record.less_one_sha256,
            steps: numbers(steps, bf16::from_le_bytes),
            row_rms,
            col_rms,
            sketch: keys.as_chunks::<2>().0.iter().map(|&[order, id]| RowKey { order, id }).collect(),
            row_norms,
        })
    }
}

/// Length of the header after the first eight bytes.
fn header_length(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?)).ok()
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(front)
}

fn le<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| bytes(value)).collect()
}

fn numbers<T, const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| value(chunk)).collect()
}

/// The file's bytes, which are mapped: most of them are looked at once, for their digest.
fn map_bounded(path: &Path) -> Result<Numbers> {
    let meta = path.metadata().map_err(|source| Error::io(path, "read", source))?;
    if !meta.is_file() {
        return Err(Error::malformed(path, FORMAT, "not a regular file"));
    }
    if meta.len() > MAX_FINGERPRINT_BYTES {
        let (found, limit) = (meta.len(), MAX_FINGERPRINT_BYTES);
        return Err(Error::limit(path, "fingerprint size in bytes", found, limit));
    }
    Numbers::map(path)
}
