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

use self::external::External;
use self::wire::Reader;
use super::{Header, Opener};
use crate::Result;
use crate::bytes::Object;
use crate::finding::{Code, Finding, Level};
use crate::unread::{Unread, UnreadKind};

const FORMAT: &str = "ONNX file";

/// Reads what the file, called `name` in the folder of its model, says of its tensors. Files with values of their own are
/// opened by `beside`.
///
/// # Errors
/// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) with tensor and byte offset wherever the message or a tensor
/// breaks the format, or values lie outside the file or the folder; [`ErrorKind::Limit`](crate::ErrorKind::Limit) for a
/// ceiling of [`limits`](crate::limits); [`ErrorKind::Nothing`](crate::ErrorKind::Nothing) for a file of values that
/// was not downloaded; [`ErrorKind::Changed`](crate::ErrorKind::Changed) if the file shrank meanwhile.
pub(super) fn read(object: &dyn Object, name: &str, beside: Opener<'_>) -> Result<Header> {
    let mut reader = Reader::new(object);
    let model = graph::read(&mut reader)?;
    let consumers = graph::consumers(&mut reader, &model)?;
    let mut external = External::new(beside, name);
    let mut findings = Vec::new();
    let (placed, small) = tensors::place(&reader, &model, &consumers.recipes, &mut external, &mut findings)?;
    let tensors::Kept { tensors, aliases } = tensors::check_overlaps(&reader, placed, &mut findings)?;
    let mut unread = passed(&reader, name, &mut findings);
    for rest in tensors::rest(&external, tensors.iter().chain(small.values()))? {
        findings.extend(rest.findings);
        unread.extend(rest.unread);
    }
    let tensors = quantised::join(tensors, &small, &model, &consumers, &mut findings);
    let mut tensors = names::recover(tensors, &consumers.uses, &mut findings);
    tensors.sort_by(|a, b| a.place().cmp(&b.place()));
    findings.extend(graph::remarks(&model, name));
    let beside = external.into_files();
    Ok(Header { metadata: model.metadata, tensors, beside, aliases, findings, unread, ..Header::default() })
}

/// What of the message no runtime looks at, as one.
fn passed(reader: &Reader<'_>, name: &str, findings: &mut Vec<Finding>) -> Vec<Unread> {
    let bytes: u64 = reader.passed().map(|(_, len)| len).sum();
    let Some((first, _)) = reader.passed().next() else { return Vec::new() };
    let count = reader.passed().count();
    let message =
        format!("{bytes} bytes in {count} fields are no part of a graph that runs, the first at byte {first}");
    findings.push(Finding::new(Code::EmbeddedData, Level::Warning, message, name.to_owned()));
    vec![Unread::new(format!("{name}: fields of the message"), bytes, UnreadKind::EmbeddedData)]
}
