//! The older form: five pickles in a row (a magic number, a version, facts about the machine, the data, the keys of
//! the storages), then for each key the number of its elements in eight bytes and the elements.

use std::collections::HashMap;

use super::{Header, Named, Ranges, STORAGE_ALIGNMENT, tensors};
use crate::Result;
use crate::format::gaps::{Account, Rest};
use crate::format::pickle::{Node, Pickle, Value};
use crate::limits::MAX_TENSORS;

/// What the first pickle holds.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// What the second pickle holds.
const VERSION: i64 = 1001;

/// Reads the tensors of a file in the older form.
pub(crate) fn read(file: Named<'_>) -> Result<Header> {
    let mut at = 0;
    let mut next = |check: &dyn Fn(&Pickle<'_>) -> Result<()>| {
        let len = file.pickle(at, file.object.len() - at, |pickle| check(pickle).map(|()| pickle.len as u64))?;
        at += len;
        Ok(at)
    };
    next(&|pickle| check_magic(file, pickle))?;
    next(&|pickle| match pickle.root {
        Value::Int(VERSION) => Ok(()),
        _ => Err(file.malformed("its version is not 1001, the only one of this form")),
    })?;
    let data = next(&|pickle| check_machine(file, pickle))?;
    file.pickle(data, file.object.len() - data, |pickle| {
        let start = data + pickle.len as u64;
        let mut account = Account::new(file.object, file.name);
        let ranges = storages(file, pickle, start, &mut account)?;
        let mut header = tensors::read(file, pickle, &ranges, false, &mut account)?;
        let Rest { unread, findings } = account.settle(STORAGE_ALIGNMENT)?;
        header.unread.extend(unread);
        header.findings.extend(findings);
        Ok(header)
    })
}

/// Whether a pickle is the number that every file in this form begins with.
pub(super) fn has_magic(pickle: &Pickle<'_>) -> bool {
    matches!(pickle.node(pickle.root), Some(Node::Wide(bytes)) if i128::from_le_bytes(*bytes) == MAGIC)
}

fn check_magic(file: Named<'_>, pickle: &Pickle<'_>) -> Result<()> {
    if has_magic(pickle) {
        return Ok(());
    }
    Err(match pickle.refused.first() {
        Some(refusal) => {
            let what = format!("a pickle that PyTorch did not write: it {}, which was refused", super::asks(refusal));
            file.malformed(what).at(refusal.at as u64)
        }
        None => file.malformed("a pickle that PyTorch did not write: it does not begin with its magic number"),
    })
}

fn check_machine(file: Named<'_>, pickle: &Pickle<'_>) -> Result<()> {
    let entries = pickle.dict(pickle.root).unwrap_or_default();
    let is_order = |key: Value| pickle.key(key).is_some_and(|key| key == "little_endian");
    match entries.iter().find(|(key, _)| is_order(*key)) {
        Some((_, Value::Bool(true))) | None => Ok(()),
        Some(_) => Err(file.malformed("its numbers are big-endian, which is not read")),
    }
}

/// Where the storages lie, from the pickle of their keys at byte `start` on; what is in front of them is taken.
fn storages(file: Named<'_>, data: &Pickle<'_>, start: u64, account: &mut Account<'_>) -> Result<Ranges> {
    let mut elements = HashMap::new();
    for storage in data.storages() {
        let key = data.text(storage.key);
        if elements.insert(key, (storage.element, storage.count)).is_some_and(|(before, _)| before != storage.element) {
            return Err(file.malformed(format!("storage {} has two types", super::shown(key))));
        }
    }
    file.pickle(start, file.object.len() - start, |keys| {
        let Some(listed) = keys.items(keys.root) else {
            return Err(file.malformed("the keys of its storages are no list").at(start));
        };
        if listed.len() > MAX_TENSORS {
            return Err(file.malformed(format!("{} storages", listed.len())).at(start));
        }
        let mut at = start + keys.len as u64;
        account.take(0, at);
        let mut ranges = Ranges::new();
        let mut buf = Vec::new();
        for key in listed {
            let key = keys.key(*key).unwrap_or_default();
            let Some((element, count)) = elements.get(key.as_ref()).copied() else {
                return Err(file.malformed(format!("no tensor has storage {}", super::shown(&key))).at(at));
            };
            let cut_off = || file.malformed(format!("storage {} is cut off", super::shown(&key))).at(at);
            let first = at.checked_add(8).filter(|first| *first <= file.object.len()).ok_or_else(cut_off)?;
            let stated = file.object.read(at, 8, &mut buf)?.first_chunk().map(|b| u64::from_le_bytes(*b));
            if stated != Some(count) {
                let what = format!("storage {} of {count} elements says that it has {stated:?}", super::shown(&key));
                return Err(file.malformed(what).at(at));
            }
            let len = count.checked_mul(element.bytes).ok_or_else(cut_off)?;
            let end = first.checked_add(len).filter(|end| *end <= file.object.len()).ok_or_else(cut_off)?;
            account.take(at, first);
            if ranges.insert(key.into_owned(), (first, len)).is_some() {
                return Err(file.malformed("its keys state a storage twice").at(at));
            }
            at = end;
        }
        Ok(ranges)
    })
}
