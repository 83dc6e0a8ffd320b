//! The directory of a zip archive, held against the headers in front of its members.
//!
//! A zip file states everything twice, and readers differ in what they believe: PyTorch takes the last end record whatever
//! its comment, Python shifts offsets by what lies in front, some go by the headers in front of the data. An archive whose
//! statements differ is refused, so that there is one reading. Bytes between the members are left to the caller's account.

use std::collections::{HashMap, HashSet};

use super::Named;
use crate::format::gaps::Account;
use crate::limits::{MAX_SIDECAR_BYTES, MAX_TENSORS};
use crate::{Error, Result};

/// Longest end record with its comment, in bytes.
const MAX_END: u64 = 22 + 65_535;

/// Bytes of the header in front of a member, without name and extra fields.
const LOCAL: u64 = 30;

/// Extra fields longer than this are no alignment: counted, as the comments are.
const MAX_EXTRA: u64 = 4096;

/// More members than this are refused: one for each tensor and a few beside them.
const MAX_MEMBERS: u64 = MAX_TENSORS as u64 + 1000;

/// A member as the directory and its own header state it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) method: u16,
    pub(super) encrypted: bool,
    pub(super) packed: u64,
    pub(super) len: u64,
    /// First byte of the local header.
    pub(super) header: u64,
    /// First byte of what the directory says of it.
    pub(super) entry: u64,
    /// First byte of the data.
    pub(super) data: u64,
    /// Bytes of its extra fields and comment in the directory.
    described: u64,
}

/// The members of an archive, and where it says so.
pub(super) struct Directory {
    pub(super) members: HashMap<String, Member>,
    /// Ranges of headers, directory and end records.
    framing: Vec<(u64, u64)>,
}

impl Directory {
    pub(super) fn read(file: Named<'_>) -> Result<Self> {
        let end = find_end(file)?;
        let mut members = entries(file, &end)?;
        let described = members.values().map(|member| member.described).sum::<u64>();
        // What is described at such length is counted: as if the directory ended where that begins.
        let spare = if described > MAX_EXTRA.max(36 * members.len() as u64) { described } else { 0 };
        let mut framing = vec![(end.start, end.start + end.size - spare), (end.place, end.whole + 22)];
        let mut buf = Vec::new();
        let mut blocks = Vec::with_capacity(members.len());
        for (name, member) in &mut members {
            let extra = local(file, name, member, &mut buf)?;
            let skipped = if extra > MAX_EXTRA { extra } else { 0 };
            framing.push((member.header, member.data - skipped));
            let after = descriptor(file, member, &mut buf)?;
            framing.push((member.data + member.packed, member.data + member.packed + after));
            blocks.push((member.header, member.data + member.packed, name.clone()));
        }
        blocks.push((end.start, end.whole, "the directory".to_owned()));
        blocks.sort_unstable();
        if let Some(pair) = blocks.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            let (one, other) = (super::shown(&pair[0].2), super::shown(&pair[1].2));
            return Err(file.malformed(format!("members {one} and {other} of the archive overlap")).at(pair[1].0));
        }
        Ok(Self { members, framing })
    }

    /// Takes everything but the members' data.
    pub(super) fn account(&self, account: &mut Account<'_>) {
        self.framing.iter().for_each(|(from, to)| account.take(*from, *to));
    }
}

/// Holds the header in front of a member against the directory, says where its data begin, and returns the length of its
/// extra fields.
fn local(file: Named<'_>, name: &str, member: &mut Member, buf: &mut Vec<u8>) -> Result<u64> {
    let refuse =
        |what: &str| file.malformed(format!("member {} of the archive {what}", super::shown(name))).at(member.header);
    let cut_off = || refuse("reaches beyond the end of the file");
    let fixed = member.header.checked_add(LOCAL).filter(|end| *end <= file.object.len()).ok_or_else(cut_off)?;
    let header = file.object.read(member.header, LOCAL as usize, buf)?;
    if !header.starts_with(b"PK\x03\x04") {
        return Err(refuse("has no header where the directory says"));
    }
    let (flags, method) = (half(header, 6).unwrap_or(0), half(header, 8).unwrap_or(0));
    let (packed, len) = (word(header, 18).unwrap_or(0), word(header, 22).unwrap_or(0));
    let (name_len, extra) = (half(header, 26).unwrap_or(0), u64::from(half(header, 28).unwrap_or(0)));
    // A writer that did not know the sizes yet states them after the data.
    let is_later = flags & 8 != 0;
    let agrees = |stated: u32, wide: u64| {
        u64::from(stated) == wide || stated == u32::MAX && wide >= u32::MAX.into() || stated == 0 && is_later
    };
    let same = method == member.method
        && (flags & 1 != 0) == member.encrypted
        && agrees(packed, member.packed)
        && agrees(len, member.len);
    let data = fixed + u64::from(name_len) + extra;
    if data.checked_add(member.packed).is_none_or(|end| end > file.object.len()) {
        return Err(cut_off());
    }
    let own = file.object.read(fixed, usize::from(name_len), buf)?;
    if !same || String::from_utf8_lossy(own) != name {
        return Err(refuse("has a header that contradicts the directory"));
    }
    if member.method == 0 && member.packed != member.len {
        return Err(refuse("is stored as it is, in another length than its own"));
    }
    member.data = data;
    Ok(extra)
}

/// Bytes of the record behind the data that states the sizes again, if there is one.
fn descriptor(file: Named<'_>, member: &Member, buf: &mut Vec<u8>) -> Result<u64> {
    const LONGEST: u64 = 24;
    let at = member.data + member.packed;
    let len = LONGEST.min(file.object.len() - at);
    let bytes = file.object.read(at, len as usize, buf)?;
    if !bytes.starts_with(b"PK\x07\x08") {
        return Ok(0);
    }
    let narrow =
        word(bytes, 8).map(u64::from) == Some(member.packed) && word(bytes, 12).map(u64::from) == Some(member.len);
    let wide = long(bytes, 8) == Some(member.packed) && long(bytes, 16) == Some(member.len);
    match (narrow, wide) {
        (_, true) => Ok(24),
        (true, false) => Ok(16),
        (false, false) => {
            let what = format!("what follows member of {} bytes states other sizes", member.len);
            Err(file.malformed(what).at(at))
        }
    }
}

/// The members by name, as the directory has them.
fn entries(file: Named<'_>, end: &End) -> Result<HashMap<String, Member>> {
    let &End { count, start, size, place, .. } = end;
    for (what, found, limit) in [
        ("number of members of an archive", count, MAX_MEMBERS),
        ("length of an archive's directory in bytes", size, MAX_SIDECAR_BYTES),
    ] {
        if found > limit && start.checked_add(size).is_some_and(|end| end <= file.object.len()) {
            return Err(Error::limit(file.path, what, found, limit));
        }
    }
    match start.checked_add(size) {
        Some(after) if after == place => {}
        Some(after) if after <= file.object.len() => {
            return Err(file.malformed("the archive's directory does not end where its end record begins").at(after));
        }
        _ => return Err(file.malformed("the archive's directory reaches beyond the end of the file").at(start)),
    }
    let mut buf = Vec::new();
    let bytes = file.object.read(start, size as usize, &mut buf)?;
    let (mut members, mut lowercase) = (HashMap::new(), HashSet::new());
    let mut at = 0;
    for _ in 0..count {
        let here = start + at as u64;
        let broken = |what: &str| file.malformed(format!("the archive's directory {what}")).at(here);
        let (name, member, taken) = entry(&bytes[at..]).ok_or_else(|| broken("is cut off or broken"))?;
        at += taken;
        if name.contains('\0') {
            return Err(broken("has a name that some readers cut off"));
        }
        let is_new = lowercase.insert(name.to_lowercase());
        if members.insert(name, Member { entry: here, ..member }).is_some() {
            return Err(broken("states a member twice"));
        }
        if !is_new {
            return Err(broken("states two members whose names differ in case alone"));
        }
    }
    if at != bytes.len() {
        let what = "the archive's directory has more in it than the members that its end record counts";
        return Err(file.malformed(what).at(start + at as u64));
    }
    Ok(members)
}

/// What the end records say, once they agree.
struct End {
    /// Number of members.
    count: u64,
    /// First byte and length of the directory.
    start: u64,
    size: u64,
    /// First byte of the end record, or of the 64-bit one.
    place: u64,
    /// First byte of the last end record.
    whole: u64,
}

fn find_end(file: Named<'_>) -> Result<End> {
    let len = file.object.len();
    let tail = len.min(MAX_END);
    let mut buf = Vec::new();
    let bytes = file.object.read(len - tail, tail as usize, &mut buf)?;
    let at = end_record(file, bytes, len - tail)?;
    let record = &bytes[at..];
    let place = len - tail + at as u64;
    let stated = (half(record, 8), half(record, 10), word(record, 12), word(record, 16));
    let (Some(here), Some(count), Some(size), Some(start)) = stated else {
        return Err(file.malformed("the archive's end record is cut off"));
    };
    if here != count || half(record, 4) != Some(0) || half(record, 6) != Some(0) {
        return Err(file.malformed("the archive's end record speaks of other disks").at(place));
    }
    let locator = at.checked_sub(20).and_then(|from| bytes.get(from..at));
    let locator = locator.filter(|locator| locator.starts_with(b"PK\x06\x07"));
    let is_full = count == u16::MAX || size == u32::MAX || start == u32::MAX;
    let Some(locator) = locator else {
        if is_full {
            return Err(file.malformed("the archive's 64-bit end record is missing or broken").at(place));
        }
        return Ok(End { count: count.into(), start: start.into(), size: size.into(), place, whole: place });
    };
    // Readers take the 64-bit record wherever there is a locator of it, so the two have to agree.
    let wide = wide_end(file, locator, place)?;
    let agrees = |narrow: u64, full: u64, wide: u64| narrow == full || narrow == wide;
    let all = agrees(count.into(), u16::MAX.into(), wide.count)
        && agrees(size.into(), u32::MAX.into(), wide.size)
        && agrees(start.into(), u32::MAX.into(), wide.start);
    if all { Ok(wide) } else { Err(file.malformed("the archive's two end records contradict each other").at(place)) }
}

/// The 64-bit end record. A locator of twenty bytes in front of the end record at byte `end` says where it begins.
fn wide_end(file: Named<'_>, locator: &[u8], end: u64) -> Result<End> {
    let broken = || file.malformed("the archive's 64-bit end record is missing or broken").at(end);
    let place = long(locator, 8).ok_or_else(broken)?;
    if place.checked_add(56).is_none_or(|after| after > end - 20) {
        return Err(broken());
    }
    let mut buf = Vec::new();
    let record = file.object.read(place, 56, &mut buf)?;
    let rest = long(record, 4).and_then(|rest| place.checked_add(12)?.checked_add(rest));
    if rest != Some(end - 20) || !record.starts_with(b"PK\x06\x06") || long(record, 24) != long(record, 32) {
        return Err(broken());
    }
    match (long(record, 32), long(record, 40), long(record, 48)) {
        (Some(count), Some(size), Some(start)) => Ok(End { count, start, size, place, whole: end }),
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
        data: 0,
        described: (extra + comment) as u64,
    };
    let mut widened = false;
    while let (Some(kind), Some(size)) = (half(fields, 0), half(fields, 2)) {
        let field = fields.get(4..4 + usize::from(size))?;
        if kind == 1 {
            if std::mem::replace(&mut widened, true) {
                return None;
            }
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
