//! The zip form: `NAME/data.pkl` and one member for each storage, `NAME/data/KEY`, all stored without compression.
//!
//! Only the directory at the end of the file and the local headers of what is needed are read. Sizes and offsets are
//! checked against the file; the checksums of the members are not, as no reader of these files does.
//!
//! What two readers could understand differently is refused, so that no loader gets other weights than were looked at:
//! PyTorch takes the last end record whatever its comment, looks names up without regard to case, and below the first
//! member's folder alone.

use std::collections::{HashMap, HashSet};

use super::{Header, Named, Ranges, tensors};
use crate::format::pickle::Pickle;
use crate::limits::{MAX_PICKLE_BYTES, MAX_SIDECAR_BYTES, MAX_TENSORS};
use crate::{Error, Result};

/// Longest end record with its comment, in bytes.
const MAX_END: u64 = 22 + 65_535;

/// More members than this are refused: one for each tensor and a few beside them.
const MAX_MEMBERS: u64 = MAX_TENSORS as u64 + 1000;

/// A member as the directory states it.
#[derive(Debug, Clone, Copy)]
struct Member {
    method: u16,
    encrypted: bool,
    packed: u64,
    len: u64,
    /// First byte of the local header.
    header: u64,
    /// First byte of what the directory says of it.
    entry: u64,
}

/// Reads the tensors of an archive.
pub(crate) fn read(file: Named<'_>) -> Result<Header> {
    let members = directory(file)?;
    let prefix = folder(file, &members)?;
    check_byte_order(file, &members, &prefix)?;
    let (start, len) = place(file, &format!("{prefix}/data.pkl"), &members)?;
    if len > MAX_PICKLE_BYTES {
        let path = file.path.to_path_buf();
        return Err(Error::limit(path, "length of a pickle in bytes", len, MAX_PICKLE_BYTES));
    }
    let constants = constants(file, &members, &prefix)?;
    let others = constants.is_some();
    let mut header = file.pickle(start, len, |pickle| {
        let ranges = storages(file, pickle, &members, &format!("{prefix}/data"))?;
        tensors::read(file, pickle, &ranges, others)
    })?;
    if let Some(constants) = constants {
        header.tensors.extend(constants.tensors);
        header.tensors.sort_unstable_by(|a, b| a.place().cmp(&b.place()));
        header.aliases.extend(constants.aliases);
        header.findings.extend(constants.findings);
        header.unread.extend(constants.unread);
    }
    Ok(header)
}

/// The folder that holds the pickle and everything else.
fn folder(file: Named<'_>, members: &HashMap<String, Member>) -> Result<String> {
    let is_pickle = |name: &&String| name.to_ascii_lowercase().ends_with("/data.pkl");
    let mut pickles: Vec<(&String, &Member)> = members.iter().filter(|(name, _)| is_pickle(name)).collect();
    pickles.sort_unstable_by_key(|(_, member)| member.entry);
    let prefix = match pickles.as_slice() {
        [] => {
            let why = foreign(members).to_owned();
            return Err(Error::nothing(file.path, why));
        }
        [(name, member)] => name.strip_suffix("/data.pkl").ok_or_else(|| {
            let what = format!("the archive's pickle is called {} and not `data.pkl`", super::shown(name));
            file.malformed(what).at(member.entry)
        })?,
        [_, (_, second), ..] => {
            return Err(file.malformed("the archive has more than one `data.pkl`").at(second.entry));
        }
    };
    let is_outside =
        |name: &str| prefix.contains('/') || !name.strip_prefix(prefix).is_some_and(|n| n.starts_with('/'));
    let outside = members.iter().filter(|(name, _)| is_outside(name)).min_by_key(|(_, member)| member.entry);
    match outside {
        Some((name, member)) => {
            let what = format!("member {} is not in the archive's one folder", super::shown(name));
            Err(file.malformed(what).at(member.entry))
        }
        None => Ok(prefix.to_owned()),
    }
}

/// Where the storages lie that the pickle names, each a member of the archive in `folder`.
fn storages(file: Named<'_>, pickle: &Pickle<'_>, members: &HashMap<String, Member>, folder: &str) -> Result<Ranges> {
    let mut ranges = Ranges::new();
    for storage in pickle.storages() {
        let key = pickle.text(storage.key);
        // A key that the archive lacks is only an error if a tensor needs it.
        let member = format!("{folder}/{key}");
        if !ranges.contains_key(key) && members.contains_key(&member) {
            ranges.insert(key.to_owned(), place(file, &member, members)?);
        }
    }
    Ok(ranges)
}

/// The constants of a TorchScript archive, if it has any.
fn constants(file: Named<'_>, members: &HashMap<String, Member>, prefix: &str) -> Result<Option<Header>> {
    let name = format!("{prefix}/constants.pkl");
    if !members.contains_key(&name) {
        return Ok(None);
    }
    let (start, len) = place(file, &name, members)?;
    file.pickle(start, len, |pickle| {
        let ranges = storages(file, pickle, members, &format!("{prefix}/constants"))?;
        tensors::read_constants(file, pickle, &ranges)
    })
}

/// What an archive is that is no checkpoint of PyTorch.
fn foreign(members: &HashMap<String, Member>) -> &'static str {
    let has = |ending: &str| members.keys().any(|name| name.ends_with(ending));
    if has(".weights.h5") {
        "a Keras model, which is not read"
    } else if has(".npy") {
        "a zip archive of NumPy arrays, which is not read"
    } else if has(".mlmodel") {
        "a Core ML package, which is not read"
    } else {
        "a zip archive without the `data.pkl` of a PyTorch checkpoint"
    }
}

/// Newer files state the byte order of their numbers; older ones were only written on little-endian machines.
fn check_byte_order(file: Named<'_>, members: &HashMap<String, Member>, prefix: &str) -> Result<()> {
    let name = format!("{prefix}/byteorder");
    if !members.contains_key(&name) {
        return Ok(());
    }
    let (start, len) = place(file, &name, members)?;
    let mut buf = Vec::new();
    match file.object.read(start, len.min(16) as usize, &mut buf)? {
        b"little" => Ok(()),
        b"big" => Err(file.malformed("its numbers are big-endian, which is not read").at(start)),
        _ => Err(file.malformed("its byte order is neither little nor big").at(start)),
    }
}

/// First byte and length of a member's data.
fn place(file: Named<'_>, name: &str, members: &HashMap<String, Member>) -> Result<(u64, u64)> {
    const HEADER: u64 = 30;
    let inside = |what: &str| file.malformed(format!("member {} of the archive {what}", super::shown(name)));
    let Some(member) = members.get(name) else { return Err(inside("is missing")) };
    if member.encrypted {
        return Err(inside("is encrypted").at(member.header));
    }
    if member.method != 0 || member.packed != member.len {
        return Err(inside("is compressed, which PyTorch does not write and is not read").at(member.header));
    }
    let cut_off = || inside("reaches beyond the end of the file").at(member.header);
    let data = member.header.checked_add(HEADER).filter(|data| *data <= file.object.len()).ok_or_else(cut_off)?;
    let mut buf = Vec::new();
    let header = file.object.read(member.header, HEADER as usize, &mut buf)?;
    if !header.starts_with(b"PK\x03\x04") || half(header, 8) != Some(0) {
        return Err(inside("has no header where the directory says").at(member.header));
    }
    let (name_len, extra) = (half(header, 26).unwrap_or(0), half(header, 28).unwrap_or(0));
    let start = data + u64::from(name_len) + u64::from(extra);
    let end = start.checked_add(member.len).filter(|end| *end <= file.object.len());
    end.map(|_| (start, member.len)).ok_or_else(cut_off)
}

/// The members by name.
fn directory(file: Named<'_>) -> Result<HashMap<String, Member>> {
    let (count, start, len) = find_directory(file)?;
    let end = start.checked_add(len).filter(|end| *end <= file.object.len());
    if end.is_none() {
        return Err(file.malformed("the archive's directory reaches beyond the end of the file").at(start));
    }
    for (what, found, limit) in [
        ("number of members of an archive", count, MAX_MEMBERS),
        ("length of an archive's directory in bytes", len, MAX_SIDECAR_BYTES),
    ] {
        if found > limit {
            return Err(Error::limit(file.path, what, found, limit));
        }
    }
    let mut buf = Vec::new();
    let bytes = file.object.read(start, len as usize, &mut buf)?;
    let (mut members, mut lowercase) = (HashMap::new(), HashSet::new());
    let mut at = 0;
    for _ in 0..count {
        let here = start + at as u64;
        let broken = |what: &str| file.malformed(format!("the archive's directory {what}")).at(here);
        let (name, member, taken) = entry(&bytes[at..]).ok_or_else(|| broken("is cut off or broken"))?;
        at += taken;
        let is_new = lowercase.insert(name.to_ascii_lowercase());
        if members.insert(name, Member { entry: here, ..member }).is_some() {
            return Err(broken("states a member twice"));
        }
        if !is_new {
            return Err(broken("states two members whose names differ in case alone"));
        }
    }
    Ok(members)
}

/// Number of members, first byte and length of the directory.
fn find_directory(file: Named<'_>) -> Result<(u64, u64, u64)> {
    let len = file.object.len();
    let tail = len.min(MAX_END);
    let mut buf = Vec::new();
    let bytes = file.object.read(len - tail, tail as usize, &mut buf)?;
    let at = end_record(file, bytes, len - tail)?;
    let record = &bytes[at..];
    let stated = (half(record, 10), word(record, 12), word(record, 16));
    let (Some(count), Some(size), Some(start)) = stated else {
        return Err(file.malformed("the archive's end record is cut off"));
    };
    if count != u16::MAX && size != u32::MAX && start != u32::MAX {
        return Ok((count.into(), start.into(), size.into()));
    }
    // ZIP64: a locator of twenty bytes in front of the end record says where the larger record is.
    let broken = || file.malformed("the archive's 64-bit end record is missing or broken");
    let locator = at.checked_sub(20).and_then(|from| bytes.get(from..at)).ok_or_else(broken)?;
    let wide = long(locator, 8).filter(|_| locator.starts_with(b"PK\x06\x07")).ok_or_else(broken)?;
    if wide.checked_add(56).is_none_or(|end| end > len) {
        return Err(broken());
    }
    let mut buf = Vec::new();
    let record = file.object.read(wide, 56, &mut buf)?;
    match (long(record, 32), long(record, 40), long(record, 48)) {
        (Some(count), Some(size), Some(start)) if record.starts_with(b"PK\x06\x06") => Ok((count, start, size)),
        _ => Err(broken()),
    }
}

/// Where in `bytes`, the end of the file from byte `first` on, the end record begins. It is the last thing that looks
/// like one, and the only one whose comment ends with the file.
fn end_record(file: Named<'_>, bytes: &[u8], first: u64) -> Result<usize> {
    let marks = || (0..bytes.len()).rev().filter(|at| bytes[*at..].starts_with(b"PK\x05\x06"));
    let reaches_end =
        |at: &usize| half(bytes, at + 20).is_some_and(|comment| at + 22 + usize::from(comment) == bytes.len());
    let Some(last) = marks().next() else {
        return Err(file.malformed("the archive is cut off: it has no directory at its end"));
    };
    if !reaches_end(&last) {
        let what = "the archive's last end record is cut off, or its comment is not as long as it says";
        return Err(file.malformed(what).at(first + last as u64));
    }
    match marks().skip(1).find(reaches_end) {
        Some(other) => Err(file.malformed("the archive has two end records").at(first + other as u64)),
        None => Ok(last),
    }
}

/// The entry at the front of `bytes`, its name, and how many bytes it takes.
fn entry(bytes: &[u8]) -> Option<(String, Member, usize)> {
    if !bytes.starts_with(b"PK\x01\x02") {
        return None;
    }
    let (name, extra, comment) = (half(bytes, 28)?, half(bytes, 30)?, half(bytes, 32)?);
    let (name, extra, comment) = (usize::from(name), usize::from(extra), usize::from(comment));
    let text = bytes.get(46..46 + name)?;
    let mut fields = bytes.get(46 + name..46 + name + extra)?;
    let (packed, len, header) = (word(bytes, 20)?, word(bytes, 24)?, word(bytes, 42)?);
    let mut member = Member {
        method: half(bytes, 10)?,
        encrypted: half(bytes, 8)? & 1 != 0,
        packed: packed.into(),
        len: len.into(),
        header: header.into(),
        entry: 0,
    };
    while let (Some(kind), Some(size)) = (half(fields, 0), half(fields, 2)) {
        let field = fields.get(4..4 + usize::from(size))?;
        if kind == 1 {
            // In this order, and only those that do not fit their 32 bits.
            let mut at = 0;
            for (stated, value) in [(len, &mut member.len), (packed, &mut member.packed), (header, &mut member.header)]
            {
                if stated == u32::MAX {
                    *value = long(field, at)?;
                    at += 8;
                }
            }
        }
        fields = fields.get(4 + usize::from(size)..)?;
    }
    let taken = 46 + name + extra + comment;
    bytes.get(..taken)?;
    Some((String::from_utf8_lossy(text).into_owned(), member, taken))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
