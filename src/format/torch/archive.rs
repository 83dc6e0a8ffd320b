//! The zip form: `NAME/data.pkl` and one member for each storage, `NAME/data/KEY`, all stored without compression.
//!
//! Only the directory at the end of the file and the local headers of what is needed are read. Sizes and offsets are
//! checked against the file; the checksums of the members are not, as no reader of these files does.
//!
//! What two readers could understand differently is refused, so that no loader gets other weights than were looked at:
//! PyTorch looks names up without regard to case, and below the first member's folder alone.

use std::collections::HashMap;

use super::directory::{Directory, Member};
use super::{Header, Named, Ranges, STORAGE_ALIGNMENT, tensors};
use crate::format::gaps::{Account, PAGE, Rest};
use crate::format::pickle::Pickle;
use crate::limits::MAX_PICKLE_BYTES;
use crate::unread::{Unread, UnreadKind};
use crate::{Error, Result};

/// What PyTorch writes beside the pickle and the storages, a few bytes each.
const SMALL: [&str; 6] =
    ["byteorder", "version", ".format_version", ".storage_alignment", ".data/serialization_id", "traced_inputs.pkl"];

/// The code of a TorchScript archive is no longer than this, or than a hundredth of the file: its weights are not there.
const MAX_CODE_BYTES: u64 = 1 << 20;

/// Reads the tensors of an archive.
pub(crate) fn read(file: Named<'_>) -> Result<Header> {
    let directory = Directory::read(file)?;
    let members = &directory.members;
    let prefix = folder(file, members)?;
    check_byte_order(file, members, &prefix)?;
    let mut account = Account::new(file.object, file.name);
    directory.account(&mut account);
    let code = around(file, members, &prefix, &mut account);
    let (start, len) = place(file, &format!("{prefix}/data.pkl"), members)?;
    account.take(start, start + len);
    if len > MAX_PICKLE_BYTES {
        let path = file.path.to_path_buf();
        return Err(Error::limit(path, "length of a pickle in bytes", len, MAX_PICKLE_BYTES));
    }
    let constants = constants(file, members, &prefix, &mut account)?;
    let others = constants.is_some();
    let mut header = file.pickle(start, len, |pickle| {
        let ranges = storages(file, pickle, members, &format!("{prefix}/data"))?;
        tensors::read(file, pickle, &ranges, others, &mut account)
    })?;
    if let Some(constants) = constants {
        header.tensors.extend(constants.tensors);
        header.tensors.sort_unstable_by(|a, b| a.place().cmp(&b.place()));
        header.aliases.extend(constants.aliases);
        header.findings.extend(constants.findings);
        header.unread.extend(constants.unread);
    }
    let Rest { unread, findings } = account.settle(STORAGE_ALIGNMENT)?;
    header.unread.extend(unread);
    header.unread.extend(code);
    header.findings.extend(findings);
    Ok(header)
}

/// Takes what lies around pickle and storages into the account, and returns the code of a TorchScript archive.
fn around(
    file: Named<'_>,
    members: &HashMap<String, Member>,
    prefix: &str,
    account: &mut Account<'_>,
) -> Option<Unread> {
    let own = |name: &str| name.strip_prefix(prefix).and_then(|name| name.strip_prefix('/')).map(str::to_owned);
    let mut code = Vec::new();
    for (name, member) in members {
        let Some(own) = own(name) else { continue };
        if SMALL.contains(&own.as_str()) && member.packed <= PAGE {
            account.take(member.data, member.data + member.packed);
        } else if own.starts_with("code/") {
            code.push((member.data, member.data + member.packed));
        }
    }
    let bytes: u64 = code.iter().map(|(from, to)| to - from).sum();
    if bytes == 0 || bytes > MAX_CODE_BYTES.max(file.object.len() / 100) {
        return None;
    }
    code.into_iter().for_each(|(from, to)| account.take(from, to));
    Some(Unread::new(format!("{}: {prefix}/code", file.name), bytes, UnreadKind::RemoteCode))
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
fn constants(
    file: Named<'_>,
    members: &HashMap<String, Member>,
    prefix: &str,
    account: &mut Account<'_>,
) -> Result<Option<Header>> {
    let name = format!("{prefix}/constants.pkl");
    if !members.contains_key(&name) {
        return Ok(None);
    }
    let (start, len) = place(file, &name, members)?;
    account.take(start, start + len);
    file.pickle(start, len, |pickle| {
        let ranges = storages(file, pickle, members, &format!("{prefix}/constants"))?;
        tensors::read_constants(file, pickle, &ranges, account)
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

/// First byte and length of the data of a member that has to be stored as it is.
fn place(file: Named<'_>, name: &str, members: &HashMap<String, Member>) -> Result<(u64, u64)> {
    let refuse = |what: &str| file.malformed(format!("member {} of the archive {what}", super::shown(name)));
    let Some(member) = members.get(name) else { return Err(refuse("is missing")) };
    if member.encrypted {
        return Err(refuse("is encrypted").at(member.header));
    }
    if member.method != 0 {
        return Err(refuse("is compressed, which PyTorch does not write and is not read").at(member.header));
    }
    Ok((member.data, member.len))
}
