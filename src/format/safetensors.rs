//! The header of one safetensors file: eight bytes of length, JSON, then the tensors' bytes.
//!
//! Stricter than the reference implementation about names (a tensor or a key stated twice is refused, not
//! overwritten), and laxer in two points that it reports instead of refusing: bytes that belong to no tensor, and
//! element types it does not know. Never touches tensor bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::gaps::{Account, Rest};
use super::recognise::MAX_POINTER_BYTES;
use super::{Header, embedded, recognise, torch};
use crate::bytes::Object;
use crate::bytes::store::head;
use crate::limits::{MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS};
use crate::tensor::{DType, Extent, Storage, TensorMeta};
use crate::text::{byte_of, message, shown};
use crate::{Error, Result};

/// Bytes of the length in front of the header.
const LENGTH_BYTES: u64 = 8;

/// Most entries of `__metadata__`; real files have fewer than ten.
const MAX_METADATA_ENTRIES: usize = 100_000;

const FORMAT: &str = "safetensors";

/// Reads and checks the header; findings call the file `name`. Costs at most the header's bytes
/// (100 MB) plus a few times as much for its names, whatever the file's length.
///
/// # Errors
/// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) with tensor and byte offset wherever the file breaks the
/// format: too short, not JSON, unknown structure, anything stated twice, sizes that overflow or contradict each other,
/// tensors that overlap or reach beyond the end. [`ErrorKind::Limit`](crate::ErrorKind::Limit) for a ceiling of
/// [`limits`](crate::limits). [`ErrorKind::Changed`](crate::ErrorKind::Changed) if the file shrank meanwhile.
pub(super) fn read(object: &dyn Object, name: &str) -> Result<Header> {
    let path = object.name();
    let mut buf = Vec::new();
    let text = header_bytes(object, &mut buf)?;
    let text = std::str::from_utf8(text).map_err(|error| {
        Error::malformed(path, FORMAT, "the header is not UTF-8").at(LENGTH_BYTES + error.valid_up_to() as u64)
    })?;
    let stated = parse(path, text)?;
    let start = LENGTH_BYTES + text.len() as u64;
    refuse_second_reading(object)?;
    let tensors = lay_out(path, stated.entries, start, object.len())?;
    let mut account = Account::new(object, name);
    account.take(0, start);
    tensors.iter().map(TensorMeta::first_extent).for_each(|extent| account.take(extent.offset, extent.end()));
    let Rest { mut unread, mut findings } = account.settle(1)?;
    for (key, value) in &stated.metadata {
        let bytes = embedded::data_in(value);
        if bytes > 0 {
            let (counted, finding) = embedded::remark(name, key, bytes);
            unread.push(counted);
            findings.push(finding);
        }
    }
    Ok(Header { metadata: stated.metadata, tensors, findings, unread, ..Header::default() })
}

/// Refuses a file that other programs take for another format by its first bytes, whatever its name.
fn refuse_second_reading(object: &dyn Object) -> Result<()> {
    let head = head(object, MAX_POINTER_BYTES)?;
    let other = if recognise::is_onnx(&head, object.len()) {
        "an ONNX model"
    } else if torch::is_legacy(&head) {
        "a PyTorch checkpoint"
    } else {
        return Ok(());
    };
    Err(Error::malformed(object.name(), FORMAT, format!("its first bytes are those of {other} too")).at(0))
}

fn header_length(head: &[u8]) -> Option<u64> {
    head.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

fn header_bytes<'a>(object: &'a dyn Object, buf: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    let (path, len) = (object.name(), object.len());
    let mut head = [0; 32];
    let head = &mut head[..len.min(32) as usize];
    head.copy_from_slice(object.read(0, head.len(), buf)?);
    let Some(header) = header_length(head) else {
        return Err(Error::malformed(path, FORMAT, format!("file ends at byte {len}, inside the header length")));
    };
    if header > MAX_HEADER_BYTES || header > len - LENGTH_BYTES {
        return Err(match beginning(head) {
            Some(text) => Error::malformed(path, FORMAT, format!("not a safetensors file: it begins with {text}")),
            None if header > MAX_HEADER_BYTES => {
                let path = path.to_path_buf();
                Error::limit(path, "header length in bytes", header, MAX_HEADER_BYTES)
            }
            None => {
                let what = format!("header of {header} bytes is longer than the file ({len} bytes)");
                Error::malformed(path, FORMAT, what).at(LENGTH_BYTES)
            }
        });
    }
    if header > 0 && head.get(8) != Some(&b'{') {
        let what = "not a safetensors file: the header does not begin with `{`";
        return Err(Error::malformed(path, FORMAT, what).at(LENGTH_BYTES));
    }
    object.read(LENGTH_BYTES, header as usize, buf)
}

/// The first line of a file that is text, as a message shows it.
fn beginning(head: &[u8]) -> Option<String> {
    let is_text = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A character that is cut off by the end of `head` is still text.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    head.get(..8).filter(|eight| eight.iter().all(is_text))?;
    Some(shown(text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default()))
}

/// A tensor's entry as the header spells it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// Dimensions, at most [`MAX_RANK`] of them.
struct Shape(Vec<u64>);

/// What was read so far, and what was being read when it failed.
#[derive(Default)]
struct Stated {
    metadata: BTreeMap<String, String>,
    has_metadata: bool,
    entries: HashMap<String, Entry>,
    current: Option<String>,
    over: Option<Over>,
}

/// A ceiling that was hit inside a visitor, where only strings can be returned.
struct Over {
    what: &'static str,
    found: usize,
    limit: usize,
}

fn parse(path: &Path, text: &str) -> Result<Stated> {
    let mut stated = Stated::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = json.deserialize_map(&mut stated).and_then(|()| json.end());
    let Err(error) = parsed else { return Ok(stated) };
    if let Some(Over { what, found, limit }) = stated.over {
        return Err(Error::limit(path, what, found as u64, limit as u64));
    }
    let at = LENGTH_BYTES + byte_of(text.as_bytes(), &error);
    let malformed = Error::malformed(path, FORMAT, format!("header: {}", message(&error))).at(at);
    Err(match stated.current {
        Some(tensor) => malformed.in_tensor(tensor),
        None => malformed,
    })
}

impl Stated {
    fn limit<E: serde::de::Error>(&mut self, what: &'static str, found: usize, limit: usize) -> Result<(), E> {
        if found <= limit {
            return Ok(());
        }
        self.over = Some(Over { what, found, limit });
        Err(E::custom(what))
    }
}

impl<'de> Visitor<'de> for &mut Stated {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "__metadata__" {
                if std::mem::replace(&mut self.has_metadata, true) {
                    return Err(A::Error::custom("`__metadata__` is stated twice"));
                }
                map.next_value_seed(Metadata(self))?;
                continue;
            }
            self.limit("length of a tensor's name in bytes", key.len(), MAX_NAME_BYTES)?;
            self.limit("number of tensors", self.entries.len() + 1, MAX_TENSORS)?;
            let twice = self.entries.contains_key(&key);
            self.current = Some(key);
            if twice {
                return Err(A::Error::custom("the tensor is stated twice"));
            }
            let entry = map.next_value_seed(EntrySeed)?;
            self.limit("length of a dtype's name in bytes", entry.dtype.len(), MAX_NAME_BYTES)?;
            if let Some(name) = self.current.take() {
                self.entries.insert(name, entry);
            }
        }
        Ok(())
    }
}

struct Metadata<'a>(&'a mut Stated);

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`__metadata__` as an object of strings")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            let count = self.0.metadata.len() + 1;
            self.0.limit("number of `__metadata__` entries", count, MAX_METADATA_ENTRIES)?;
            if self.0.metadata.contains_key(&key) {
                return Err(A::Error::custom(format!("`__metadata__` states {} twice", shown(&key))));
            }
            self.0.metadata.insert(key, value);
        }
        Ok(())
    }
}

/// Takes an entry as an object only; the derived code alone would take an array of the three values too.
struct EntrySeed;

impl<'de> DeserializeSeed<'de> for EntrySeed {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `dtype`, `shape` and `data_offsets`")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        Entry::deserialize(MapAccessDeserializer::new(map))
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;

        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`shape` as an array of whole numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(size) = seq.next_element()? {
                    if shape.len() == MAX_RANK {
                        return Err(A::Error::custom(format!("`shape` has more than {MAX_RANK} dimensions")));
                    }
                    shape.push(size);
                }
                Ok(Shape(shape))
            }
        }

        deserializer.deserialize_seq(Dimensions)
    }
}

/// Checks every entry against itself, its neighbours and the end of the file. `start` is the first byte of data, `end`
/// the length of the file.
fn lay_out(path: &Path, entries: HashMap<String, Entry>, start: u64, end: u64) -> Result<Vec<TensorMeta>> {
    let mut entries: Vec<(String, Entry)> = entries.into_iter().collect();
    // A tensor without bytes comes before one that begins at the same place, as the reference implementation has it.
    entries.sort_unstable_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));

    let data = end - start;
    let mut covered = 0;
    let mut tensors: Vec<TensorMeta> = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let (from, to) = entry.data_offsets;
        let at = start.saturating_add(from);
        let refuse = |name: &str, what: String| Error::malformed(path, FORMAT, what).in_tensor(name).at(at);
        let dtype = DType::from(entry.dtype);
        let shape = entry.shape.0;
        check_size(&dtype, &shape, from, to).map_err(|what| refuse(&name, what))?;
        if from < covered {
            let before = tensors.last().map(|tensor| shown(&tensor.name)).unwrap_or_default();
            return Err(refuse(&name, format!("its bytes overlap those of tensor {before}")));
        }
        if to > data {
            return Err(refuse(&name, format!("the tensor is cut off: file ends at byte {end}")));
        }
        covered = to;
        let storage = Storage::Plain(Extent { shard: 0, offset: at, len: to - from });
        tensors.push(TensorMeta { name, dtype, shape, storage });
    }
    tensors.sort_unstable_by(|a, b| a.place().cmp(&b.place()));
    Ok(tensors)
}

/// Whether the offsets run forwards and span what shape and type need. The size of an unknown type is unknown, but
/// its shape must not overflow either.
fn check_size(dtype: &DType, shape: &[u64], from: u64, to: u64) -> Result<(), String> {
    let Some(len) = to.checked_sub(from) else {
        return Err(format!("data_offsets [{from}, {to}] run backwards"));
    };
    let Some(elements) = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size)) else {
        return Err(format!("the number of elements of shape {shape:?} overflows 64 bits"));
    };
    let Some(width) = dtype.bytes() else { return Ok(()) };
    match elements.checked_mul(width) {
        Some(needed) if needed == len => Ok(()),
        Some(needed) => {
            Err(format!("shape {shape:?} of {dtype} needs {needed} bytes, data_offsets [{from}, {to}] span {len}"))
        }
        None => Err(format!("the number of bytes of shape {shape:?} of {dtype} overflows 64 bits")),
    }
}

#[cfg(test)]
mod tests {
    use ::safetensors::SafeTensors;
    use ::safetensors::tensor::{Dtype, TensorView};
    use proptest::prelude::*;

    use super::*;
    use crate::bytes::local::LocalFile;

    fn read(bytes: &[u8]) -> Result<Header> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let source = LocalFile::open(file.path()).unwrap();
        let header = super::read(&source, "file");
        let mapped = super::read(&source.mapped(), "file");
        let stated = |header: &Result<Header>| {
            let header = header.as_ref().ok()?;
            Some((header.metadata.clone(), header.tensors.clone(), header.findings.clone()))
        };
        assert_eq!(stated(&header), stated(&mapped), "a mapped file reads the same");
        header
    }

    fn with_length(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    /// A tensor as both parsers can state it: name, type, shape, offset, length.
    type Stated = (String, String, Vec<u64>, u64, u64);

    fn ours(header: &Header) -> Vec<Stated> {
        let mut tensors: Vec<_> = header
            .tensors
            .iter()
            .map(|t| (t.name.clone(), t.dtype.to_string(), t.shape.clone(), t.first_extent().offset, t.stored_bytes()))
            .collect();
        tensors.sort();
        tensors
    }

    fn reference(bytes: &[u8]) -> Option<Vec<Stated>> {
        let file = SafeTensors::deserialize(bytes).ok()?;
        let mut tensors: Vec<_> = file
            .iter()
            .map(|(name, view)| {
                let shape = view.shape().iter().map(|size| *size as u64).collect();
                let offset = view.data().as_ptr() as u64 - bytes.as_ptr() as u64;
                (name.to_owned(), view.dtype().to_string(), shape, offset, view.data().len() as u64)
            })
            .collect();
        tensors.sort();
        Some(tensors)
    }

    fn dtype() -> impl Strategy<Value = Dtype> {
        use Dtype::*;
        prop::sample::select(vec![
            BOOL, U8, I8, F8_E5M2, F8_E4M3, I16, U16, F16, BF16, I32, U32, F32, F64, I64, U64, C64, F8_E8M0,
        ])
    }

    /// A file that the reference implementation wrote.
    fn file() -> impl Strategy<Value = Vec<u8>> {
        let name = "[a-z.0-9\\\\\"ä\n]{0,12}";
        let tensor = (dtype(), prop::collection::vec(0usize..5, 0..5));
        let tensors = prop::collection::btree_map(name, tensor, 0..8);
        // The reference writes broken JSON for a file without tensors whose metadata is there but empty.
        let metadata = prop::option::of(prop::collection::hash_map("[a-z]{0,4}", "[a-z ]{0,9}", 1..3));
        (tensors, metadata).prop_map(|(tensors, metadata)| {
            let data = vec![7; 8 * 625];
            let views = tensors.iter().map(|(name, (dtype, shape))| {
                let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
                (name.as_str(), TensorView::new(*dtype, shape.clone(), &data[..len]).unwrap())
            });
            ::safetensors::serialize(views, metadata).unwrap()
        })
    }

    #[derive(Debug, Clone)]
    enum Damage {
        Set(prop::sample::Index, u8),
        SetInHeader(prop::sample::Index, u8),
        Number(prop::sample::Index, u64),
        Truncate(prop::sample::Index),
        Extend(u8),
    }

    impl Damage {
        fn any() -> impl Strategy<Value = Self> {
            let number =
                prop_oneof![6 => 0u64..9, 2 => 0u64..200, 1 => any::<u64>(), 1 => Just(1 << 62), 1 => Just(1 << 63)];
            prop_oneof![
                1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Self::Set(at, byte)),
                1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Self::SetInHeader(at, byte)),
                5 => (any::<prop::sample::Index>(), number).prop_map(|(at, number)| Self::Number(at, number)),
                1 => any::<prop::sample::Index>().prop_map(Self::Truncate),
                1 => any::<u8>().prop_map(Self::Extend),
            ]
        }

        fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
            let header = header_length(&bytes).unwrap_or(0) as usize;
            match self {
                Self::Set(at, byte) if !bytes.is_empty() => *at.get_mut(&mut bytes) = *byte,
                Self::SetInHeader(at, byte) if header > 0 && bytes.len() >= 8 + header => {
                    *at.get_mut(&mut bytes[8..8 + header]) = *byte;
                }
                Self::Number(at, number) if bytes.len() >= 8 + header => {
                    let Ok(text) = std::str::from_utf8(&bytes[8..8 + header]) else { return bytes };
                    let starts = |(at, c): (usize, char)| matches!(c, '[' | ',').then_some(at + 1);
                    let is_digit = |at: &usize| text.as_bytes().get(*at).is_some_and(u8::is_ascii_digit);
                    let runs: Vec<usize> = text.char_indices().filter_map(starts).filter(is_digit).collect();
                    if runs.is_empty() {
                        return bytes;
                    }
                    let (before, after) = text.split_at(*at.get(&runs));
                    let text = format!("{before}{number}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()));
                    let data = bytes.split_off(8 + header);
                    bytes = with_length(&text, 0);
                    bytes.extend(data);
                }
                Self::Truncate(at) => bytes.truncate(at.index(bytes.len() + 1)),
                Self::Extend(by) => bytes.resize(bytes.len() + usize::from(*by), 0),
                _ => {}
            }
            bytes
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_the_reference_writes_is_read_alike(bytes in file()) {
            let header = read(&bytes).unwrap();
            prop_assert!(header.findings.is_empty());
            prop_assert_eq!(Some(ours(&header)), reference(&bytes));
            let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
            let metadata = metadata.metadata().clone().unwrap_or_default();
            prop_assert_eq!(header.metadata, metadata.into_iter().collect::<BTreeMap<_, _>>());
        }

        #[test]
        fn what_is_read_without_findings_the_reference_accepts(
            bytes in file(),
            damage in prop::collection::vec(Damage::any(), 1..4),
        ) {
            let bytes = damage.iter().fold(bytes, |bytes, damage| damage.apply(bytes));
            if let Ok(header) = read(&bytes) {
                let is_known = header.tensors.iter().all(|tensor| tensor.dtype.bytes().is_some());
                if is_known && header.findings.is_empty() {
                    prop_assert_eq!(Some(ours(&header)), reference(&bytes));
                }
            }
        }
    }

    #[test]
    fn tensors_come_by_offset_whatever_the_order_of_the_header() {
        let header = read(&with_length(
            r#"{"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"a":{"shape":[],"data_offsets":[0,1],"dtype":"I8"},
                "0":{"dtype":"F32","shape":[0,9],"data_offsets":[1,1]}}   "#,
            3,
        ))
        .unwrap();
        let names: Vec<&str> = header.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "0", "b"]);
        assert!(header.findings.is_empty());
    }

    #[test]
    fn gaps_are_told_with_offset_and_length() {
        let text = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}"#;
        let start = 8 + text.len();
        let found: Vec<String> =
            read(&with_length(text, 9)).unwrap().findings.into_iter().map(|finding| finding.message).collect();
        assert_eq!(
            found,
            [
                format!("3 bytes at byte {start} belong to no tensor"),
                format!("4 bytes at byte {} belong to no tensor", start + 5),
            ]
        );
    }

    #[test]
    fn a_flood_of_gaps_is_counted_not_told() {
        let tensor =
            |i: usize| format!(r#""{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}}"#, 2 * i, 2 * i + 1);
        let text = format!("{{{}}}", (0..100).map(tensor).collect::<Vec<_>>().join(","));
        let findings = read(&with_length(&text, 200)).unwrap().findings;
        assert_eq!(findings.len(), 21);
        assert_eq!(findings[20].message, "80 more gaps between tensors");
    }
}
