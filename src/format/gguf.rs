//! The header of one GGUF file: counts, typed metadata, then each tensor's name, sizes, type and offset.
//!
//! Every count and length is held against what is left of the file before anything is allocated for it, and the header
//! as a whole against a ceiling. Stricter than llama.cpp's reader about names stated twice, overlaps and arrays in
//! arrays, which no writer makes; bytes that belong to no tensor and unknown types are reported, not refused. Never
//! touches tensor bytes. Format: ggml's `docs/gguf.md`.

mod metadata;
mod reader;
mod rows;
mod split;

use std::collections::HashSet;
use std::path::Path;

use self::metadata::Metadata;
use self::reader::Reader;
pub(crate) use self::rows::RowOrder;
pub(crate) use self::split::Split;
use super::Header;
use super::gaps::{Account, Rest};
use crate::bytes::Object;
use crate::limits::{MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS};
use crate::tensor::{Block, DType, Extent, Storage, TensorMeta};
use crate::text::shown;
use crate::{Error, Result};

const FORMAT: &str = "GGUF";

/// The first bytes of a file.
const MAGIC: &[u8] = b"GGUF";

/// Where data begins and tensors may begin, unless the metadata say otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Fewest bytes of a tensor's entry: the length of its name, the number of its sizes, its type and its offset.
const LEAST_ENTRY: u64 = 8 + 4 + 4 + 8;

/// A tensor as the header states it.
struct Entry {
    name: String,
    /// Outermost size first, as everywhere in this program; the file has them the other way round.
    shape: Vec<u64>,
    number: u32,
    offset: u64,
    /// Where in the header it is stated.
    at: u64,
}

/// Reads and checks the header; findings call the file `name`. Costs at most the header's bytes, whose
/// number is limited, whatever the file's length.
///
/// # Errors
/// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) with tensor and byte offset wherever the file breaks the
/// format: not version 2 or 3, the other byte order, an alignment that is no power of two, counts or lengths beyond the
/// end, anything stated twice, sizes that overflow or cut a block, tensors that overlap or reach beyond the end.
/// [`ErrorKind::Limit`](crate::ErrorKind::Limit) for a ceiling of [`limits`](crate::limits).
/// [`ErrorKind::Changed`](crate::ErrorKind::Changed) if the file shrank meanwhile.
pub(super) fn read(object: &dyn Object, name: &str) -> Result<Header> {
    let path = object.name();
    let mut reader = Reader::new(object);
    check_version(&mut reader)?;
    let tensors = reader.count(LEAST_ENTRY, "tensors")?;
    if tensors > MAX_TENSORS as u64 {
        let (path, limit) = (path.to_path_buf(), MAX_TENSORS as u64);
        return Err(Error::limit(path, "number of tensors", tensors, limit));
    }
    let metadata = Metadata::read(&mut reader)?;
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(value) => value.as_u64().filter(|alignment| alignment.is_power_of_two()).ok_or_else(|| {
            Error::malformed(path, FORMAT, format!("general.alignment is {value}, which is no power of two"))
        })?,
    };
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..tensors {
        let entry = read_entry(&mut reader)?;
        if !seen.insert(entry.name.clone()) {
            return Err(reader.refuse_at(entry.at, "the tensor is stated twice").in_tensor(entry.name));
        }
        entries.push(entry);
    }
    let start = reader.at().checked_next_multiple_of(alignment).ok_or_else(|| {
        let what = format!("general.alignment {alignment} puts the data beyond any file");
        Error::malformed(path, FORMAT, what)
    })?;
    let header = reader.at();
    let tensors = lay_out(path, entries, start, object.len(), alignment)?;
    let mut account = Account::new(object, name);
    account.take(0, header);
    tensors.iter().map(TensorMeta::first_extent).for_each(|extent| account.take(extent.offset, extent.end()));
    let Rest { mut unread, mut findings } = account.settle(alignment)?;
    for (counted, finding) in metadata.data(name) {
        unread.push(counted);
        findings.push(finding);
    }
    Ok(Header {
        tensors,
        metadata: metadata.texts(),
        claims: metadata.claims(),
        split: Split::of(&metadata),
        row_order: RowOrder::of(&metadata),
        findings,
        unread,
        ..Header::default()
    })
}

/// Takes version 3, and 2, which differs in nothing that is read here.
fn check_version(reader: &mut Reader<'_>) -> Result<()> {
    if reader.bytes(4, "the magic number")? != MAGIC {
        return Err(reader.refuse_at(0, "it does not begin with `GGUF`"));
    }
    let version = reader.u32("the version")?;
    match version {
        2 | 3 => Ok(()),
        1 => Err(reader.refuse_at(4, "version 1 is not read: convert it with llama.cpp")),
        // The same number with its bytes the other way round.
        _ if matches!(version.swap_bytes(), 1..=0xffff) => {
            Err(reader.refuse_at(4, "it is big-endian, which is not read: convert it with llama.cpp"))
        }
        _ => Err(reader.refuse_at(4, format!("version {version} is unknown"))),
    }
}

fn read_entry(reader: &mut Reader<'_>) -> Result<Entry> {
    let at = reader.at();
    let name = reader.string(MAX_NAME_BYTES as u64, "length of a tensor's name in bytes")?;
    let refuse = |reader: &Reader<'_>, what: String| reader.refuse_at(at, what).in_tensor(name.clone());
    let rank = reader.u32("the number of sizes")?;
    if rank as usize > MAX_RANK {
        return Err(refuse(reader, format!("it has {rank} dimensions, over the limit of {MAX_RANK}")));
    }
    let mut shape = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        shape.push(reader.u64("a size")?);
    }
    // The file has the fastest dimension first.
    shape.reverse();
    let number = reader.u32("a type")?;
    let offset = reader.u64("an offset")?;
    Ok(Entry { name, shape, number, offset, at })
}

/// The type of ggml's number. Unknown and removed ones are kept by number.
fn dtype(number: u32) -> DType {
    match number {
        0 => DType::F32,
        1 => DType::F16,
        24 => DType::I8,
        25 => DType::I16,
        26 => DType::I32,
        27 => DType::I64,
        28 => DType::F64,
        30 => DType::BF16,
        _ => Block::numbered(number).map_or_else(|| DType::Other(format!("ggml type {number}")), DType::Block),
    }
}

/// Bytes of a tensor; `None` where the type is unknown.
fn size(dtype: &DType, shape: &[u64]) -> Result<Option<u64>, String> {
    let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    let elements = elements.ok_or_else(|| format!("the number of elements of shape {shape:?} overflows 64 bits"))?;
    if let DType::Other(_) = dtype {
        return Ok(None);
    }
    if let DType::Block(block) = dtype
        && shape.last().is_none_or(|row| row % block.values() != 0)
    {
        return Err(format!("rows of shape {shape:?} are not whole blocks of {} values ({block})", block.values()));
    }
    let len = dtype.size_of(elements);
    len.map(Some).ok_or_else(|| format!("the number of bytes of shape {shape:?} of {dtype} overflows 64 bits"))
}

/// Checks every entry against itself, its neighbours and the end of the file.
fn lay_out(path: &Path, mut entries: Vec<Entry>, start: u64, end: u64, alignment: u64) -> Result<Vec<TensorMeta>> {
    entries.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    let mut tensors: Vec<TensorMeta> = Vec::with_capacity(entries.len());
    let mut covered = start;
    let followers: Vec<u64> = entries.iter().skip(1).map(|entry| entry.offset).collect();
    for (index, Entry { name, shape, number, offset, at }) in entries.into_iter().enumerate() {
        let dtype = dtype(number);
        let refuse = |what: String| Error::malformed(path, FORMAT, what).in_tensor(name.clone()).at(at);
        let from = match start.checked_add(offset) {
            Some(from) if offset % alignment == 0 => from,
            _ => return Err(refuse(format!("offset {offset} is not a multiple of the alignment {alignment}"))),
        };
        if from > end {
            return Err(refuse(format!("the tensor is cut off: file ends at byte {end}")));
        }
        if from < covered {
            let before = tensors.last().map(|tensor| shown(&tensor.name)).unwrap_or_default();
            return Err(refuse(format!("its bytes overlap those of tensor {before}")));
        }
        let len = match size(&dtype, &shape) {
            Err(what) => return Err(refuse(what)),
            Ok(Some(len)) => len,
            // Up to the next tensor or the end: all that can be said.
            Ok(None) => followers.get(index).map_or(end, |&next| start.saturating_add(next).min(end)) - from,
        };
        let Some(to) = from.checked_add(len).filter(|&to| to <= end) else {
            return Err(refuse(format!("the tensor is cut off: file ends at byte {end}")));
        };
        covered = to;
        let storage = Storage::Plain(Extent { shard: 0, offset: from, len });
        tensors.push(TensorMeta { name, dtype, shape, storage });
    }
    Ok(tensors)
}
