//! One ONNX file: which tensors its graph holds, where in the file or beside it their bytes lie, and what they are for
//! by the nodes that read them.
//!
//! A file is one protobuf message. It is walked in place: no length that it states is allocated, no tensor's bytes are
//! read, no node is run. Tensors of subgraphs and of constants are taken with those of the main graph; whole numbers and
//! single values that only steer the computation are not. Format: ONNX's `onnx.proto`, version 1.23.

mod external;
mod graph;
mod names;
mod quantised;
mod tensors;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;

use self::external::External;
use self::wire::Reader;
use crate::Result;
use crate::bytes::local::Source;
use crate::checkpoint::place::Place;
use crate::checkpoint::plan::File;
use crate::finding::Finding;
use crate::tensor::TensorMeta;

pub(crate) const FORMAT: &str = "ONNX file";

/// What an ONNX file states of its tensors, checked against the lengths of the files that hold them.
#[derive(Debug)]
pub(crate) struct Header {
    /// The producer and the properties of the model.
    pub(crate) metadata: BTreeMap<String, String>,
    /// The tensors by file, offset and name. Shard 0 is the ONNX file, those after it are `files`.
    pub(crate) tensors: Vec<TensorMeta>,
    /// The files with values beside the ONNX file, by name.
    pub(crate) files: Vec<(File, Source)>,
    /// Names that stand for tensors which were read under another name.
    pub(crate) aliases: Vec<String>,
    /// What was odd or not read.
    pub(crate) findings: Vec<Finding>,
}

/// Whether a file of `len` bytes that begins with `head` can be a model: a version, then another field of a model that
/// ends within the file.
pub(crate) fn looks_like(head: &[u8], len: u64) -> bool {
    /// Versions that there are, with room for those to come.
    const VERSIONS: std::ops::RangeInclusive<u8> = 1..=40;
    let [0x08, version, tag, rest @ ..] = head else { return false };
    // Fields with a length: the producer's name and version, the domain, documentation, the graph, operator sets, properties.
    if !VERSIONS.contains(version) || !matches!(tag, 0x12 | 0x1a | 0x22 | 0x32 | 0x3a | 0x42 | 0x72) {
        return false;
    }
    let mut taken = 0;
    let mut stated = 0u64;
    for byte in rest.iter().take(9) {
        stated |= u64::from(byte & 0x7f) << (7 * taken);
        taken += 1;
        if byte & 0x80 == 0 {
            return stated.checked_add(3 + taken).is_some_and(|end| end <= len) && stated > 0;
        }
    }
    false
}

/// Reads what the file at `path`, called `name` in findings, says of its tensors. Files with values of their own are
/// looked for beside it, in `place`.
///
/// # Errors
/// [`Error::Malformed`](crate::Error::Malformed) with tensor and byte offset wherever the message or a tensor breaks the
/// format, or values lie outside the file or the folder; [`Error::Limit`](crate::Error::Limit) for a ceiling of
/// [`limits`](crate::limits); [`Error::Nothing`](crate::Error::Nothing) for a file of values that was not downloaded;
/// [`Error::Changed`](crate::Error::Changed) if the file shrank meanwhile.
pub(crate) fn read_header(place: &Place, path: &Path, name: &str, source: &Source) -> Result<Header> {
    let mut reader = Reader::new(path, source);
    let model = graph::read(&mut reader)?;
    let consumers = graph::consumers(&mut reader, &model)?;
    let mut external = External::new(place, name);
    let mut findings = Vec::new();
    let (placed, small) = tensors::place(&reader, &model, &consumers.recipes, &mut external, &mut findings)?;
    let tensors::Kept { tensors, aliases } = tensors::check_overlaps(&reader, placed, &external, name, &mut findings)?;
    let tensors = quantised::join(tensors, &small, &model, &consumers, &mut findings);
    let mut tensors = names::recover(tensors, &consumers.uses, &mut findings);
    tensors.sort_by(|a, b| (a.shard, a.offset, &a.name).cmp(&(b.shard, b.offset, &b.name)));
    findings.extend(graph::remarks(&model, name));
    Ok(Header { metadata: model.metadata, tensors, files: external.into_files(), aliases, findings })
}
