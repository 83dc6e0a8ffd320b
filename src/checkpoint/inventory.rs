//! Everything that lies in a model's folder and below it, by content: what was not read as part of the model is counted.
//!
//! Nothing is opened but regular files, and no link is followed out of the folder. What is of no known kind counts, once it is
//! long enough: a file of [`LEAST_UNKNOWN`] bytes, or so many shorter ones that they come to that together. Texts,
//! vocabularies and pictures do not, unless there is so much of them beside the weights that other weights could lie in them,
//! in whatever way they are written there.

mod content;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

pub(super) use self::content::is_training;
use self::content::{Look, look};
use self::text::Budget;
use super::shard::Shard;
use crate::bytes::store::head;
use crate::bytes::{Entry, EntryKind, Store};
use crate::finding::{Code, Finding, Level};
use crate::format::recognise::{self, Content};
use crate::limits::{MAX_CONFIG_BYTES, MAX_FOLDER_DEPTH, MAX_LISTED_FILES};
use crate::text::{json, shown};
use crate::unread::{NEGLIGIBLE_PART, Unread, UnreadKind};

/// Fewest bytes of unknown content that may be weights: half of the smallest embedding of any language model that is
/// known, 1,024 tokens of 64 channels in 16 bits. Less of it is what systems and editors leave behind.
const LEAST_UNKNOWN: u64 = 1 << 16;

/// Files of a kind that a finding names, the largest ones.
const MOST_NAMED: usize = 5;

/// Texts beside a model count if together they are larger than one part in so many of the weights that were read: a copy in
/// 16 bits takes more than half of its bytes however it is compressed and written, and tokenizers of small quantised models
/// come to a fifth.
const TEXTS_PART: u64 = 2;

/// The same of pictures and the like, of which a model's folder has few.
const MEDIA_PART: u64 = 10;

/// What lies beside a model.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// Largest first.
    pub(super) unread: Vec<Unread>,
    pub(super) findings: Vec<Finding>,
}

/// Lists what lies in the folder of a store and below it and is none of the model's own files, `shards`.
pub(super) fn of_folder(store: &dyn Store, shards: &[Shard]) -> Inventory {
    let mut walk = Walk::new(store, shards);
    walk.folder("", 0);
    walk.add_small();
    for name in with_remote_code(store) {
        walk.unread.push(Unread::new(format!("{name}: auto_map"), 0, UnreadKind::RemoteCode));
    }
    let read = shards.iter().fold(0u64, |sum, shard| sum.saturating_add(shard.bytes));
    let mut unread = walk.unread;
    unread.extend(if_large(walk.texts, read / TEXTS_PART));
    unread.extend(if_large(walk.media, read / MEDIA_PART));
    sort(&mut unread);
    Inventory { findings: findings(&unread, read), unread }
}

/// These, if together they are larger than so many bytes.
fn if_large(found: Vec<Unread>, most: u64) -> Vec<Unread> {
    let bytes = found.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.bytes));
    if bytes > most.max(LEAST_UNKNOWN) { found } else { Vec::new() }
}

/// The shards of a set of which only some were named, and that lie beside them.
pub(super) fn of_siblings(store: &dyn Store, names: Vec<String>) -> Vec<Unread> {
    let bytes = |name: &String| store.open(name).map_or(0, |object| object.len());
    let mut unread: Vec<Unread> =
        names.into_iter().map(|name| Unread::new(&*name, bytes(&name), UnreadKind::WeightFile)).collect();
    sort(&mut unread);
    unread
}

/// Files below the folder of a store that are weights by their content, in a format that is read; as far as they are
/// found soon.
pub(super) fn weights_below(store: &dyn Store) -> Vec<String> {
    // A hint in a message is not worth a long search.
    const MOST: usize = 1000;
    let mut walk = Walk { left: MOST, budget: Budget::spent(), ..Walk::new(store, &[]) };
    walk.folder("", 0);
    walk.weights.into_iter().collect()
}

/// Puts the largest first, and counts a place once: of a text that was read as what its name says, the reader tells as well
/// what it holds beside that.
pub(super) fn count_once(unread: &mut Vec<Unread>) {
    sort(unread);
    let mut seen = BTreeSet::new();
    unread.retain(|entry| seen.insert((entry.place.clone(), entry.what)));
}

fn sort(unread: &mut [Unread]) {
    unread.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.place.cmp(&b.place)));
}

struct Walk<'a> {
    store: &'a dyn Store,
    /// Where the model's own files lie, and what they are: a hard link is the same file under another name.
    own: BTreeSet<PathBuf>,
    own_identities: BTreeSet<Vec<u8>>,
    /// Folders and files that were looked at, so that links in a circle end and no byte counts twice.
    entered: BTreeSet<PathBuf>,
    left: usize,
    budget: Budget,
    /// Number, bytes and the first of unknown files that are too small to count alone.
    small: (u64, u64, String),
    unread: Vec<Unread>,
    /// What counts only if there is much of it.
    texts: Vec<Unread>,
    media: Vec<Unread>,
    /// Files that are weights by content.
    weights: BTreeSet<String>,
}

impl<'a> Walk<'a> {
    fn new(store: &'a dyn Store, shards: &[Shard]) -> Self {
        Self {
            store,
            own: shards.iter().map(|shard| shard.location().to_path_buf()).collect(),
            own_identities: shards.iter().map(Shard::identity).collect(),
            entered: std::fs::canonicalize(store.root()).into_iter().collect(),
            left: MAX_LISTED_FILES,
            budget: Budget::new(),
            small: (0, 0, String::new()),
            unread: Vec::new(),
            texts: Vec::new(),
            media: Vec::new(),
            weights: BTreeSet::new(),
        }
    }

    /// `folder` is relative to the store; the store's own is empty.
    fn folder(&mut self, folder: &str, depth: usize) {
        let entries = (depth <= MAX_FOLDER_DEPTH).then(|| self.store.entries(folder, self.left));
        let Some(Ok(entries)) = entries else {
            let place = if folder.is_empty() { "." } else { folder };
            self.unread.push(Unread::new(place, 0, UnreadKind::UnlistedFolder));
            return;
        };
        self.left -= entries.len();
        for entry in entries {
            let place = if folder.is_empty() { entry.name.clone() } else { format!("{folder}/{}", entry.name) };
            match entry.kind {
                EntryKind::Folder if self.entered.insert(entry.location.clone()) => self.folder(&place, depth + 1),
                EntryKind::Object if self.entered.insert(entry.location.clone()) => self.file(place, &entry),
                EntryKind::Beyond if entry.bytes > 0 => {
                    self.unread.push(Unread::new(place, entry.bytes, UnreadKind::OutsideLink));
                }
                // Under another name it was looked at before; what is no file is not opened.
                EntryKind::Folder | EntryKind::Object | EntryKind::Beyond | EntryKind::Special => {}
            }
        }
    }

    fn file(&mut self, place: String, entry: &Entry) {
        if self.own.contains(&entry.location) {
            return;
        }
        let opened = self.store.open(&place).and_then(|object| {
            let is_own = self.own_identities.contains(&object.identity());
            Ok((!is_own).then_some(look(&entry.name, &*object, &mut self.budget)?))
        });
        let mut add = |kind| self.unread.push(Unread::new(&*place, entry.bytes, kind));
        match opened {
            Ok(None | Some(Look::Nothing)) => {}
            Ok(Some(Look::Text)) => self.texts.push(Unread::new(place, entry.bytes, UnreadKind::Texts)),
            Ok(Some(Look::Medium)) => self.media.push(Unread::new(place, entry.bytes, UnreadKind::Media)),
            Ok(Some(Look::Known(kind))) => {
                add(kind);
                if kind == UnreadKind::WeightFile {
                    self.weights.insert(place);
                }
            }
            Ok(Some(Look::Data(data))) if data >= LEAST_UNKNOWN => {
                self.unread.push(Unread::new(place, data, UnreadKind::EmbeddedData));
            }
            Ok(Some(Look::Data(data))) => self.add_to_small(place, data),
            Ok(Some(Look::Unknown)) if entry.bytes < LEAST_UNKNOWN => self.add_to_small(place, entry.bytes),
            // What cannot be opened is as unknown as what was not made out.
            Ok(Some(Look::Unknown)) | Err(_) => add(UnreadKind::UnknownFile),
        }
    }

    fn add_to_small(&mut self, place: String, bytes: u64) {
        if self.small.0 == 0 {
            self.small.2 = place;
        }
        self.small.0 += 1;
        self.small.1 = self.small.1.saturating_add(bytes);
    }

    /// Weights in many small pieces are weights.
    fn add_small(&mut self) {
        let (count, bytes, first) = &self.small;
        if *bytes >= LEAST_UNKNOWN {
            let place = format!("{first} and {} more small files", count.saturating_sub(1));
            self.unread.push(Unread::new(place, *bytes, UnreadKind::UnknownFile));
        }
    }
}

/// Configurations in the store itself that name code for loaders to run.
fn with_remote_code(store: &dyn Store) -> Vec<String> {
    let mut names = store.list().unwrap_or_default();
    names.retain(|name| name.ends_with(".json") && !name.ends_with(".index.json"));
    names.sort_unstable();
    let names_code = |name: &String| {
        let text = store.open(name).and_then(|object| head(&*object, MAX_CONFIG_BYTES)).unwrap_or_default();
        let config: Option<Value> = serde_json::from_slice(&json::tolerant(&text)).ok();
        config.is_some_and(|config| config.get("auto_map").is_some_and(|map| !map.is_null()))
    };
    names.retain(names_code);
    names
}

/// One finding for each kind, with the largest of it.
fn findings(unread: &[Unread], read: u64) -> Vec<Finding> {
    let mut kinds: BTreeMap<UnreadKind, Vec<&Unread>> = BTreeMap::new();
    for entry in unread {
        kinds.entry(entry.what).or_default().push(entry);
    }
    kinds.into_iter().filter_map(|(kind, entries)| finding(kind, &entries, read)).collect()
}

fn finding(kind: UnreadKind, entries: &[&Unread], read: u64) -> Option<Finding> {
    let (code, what) = match kind {
        UnreadKind::WeightFile => {
            (Code::ShardExtra, "weight files that are no part of the model that was read were left out")
        }
        UnreadKind::ForeignWeights => (Code::FileLeftOut, "files in formats that are not read were left out"),
        UnreadKind::UnknownFile => (Code::FileLeftOut, "files of unknown content, which may be weights, were left out"),
        UnreadKind::TrainingState => (Code::FileLeftOut, "training state was left out"),
        UnreadKind::OutsideLink => (Code::FileLeftOut, "links that lead out of the folder were not followed"),
        UnreadKind::Media => (Code::FileLeftOut, "pictures or documents are large enough to carry weights"),
        UnreadKind::Texts => (Code::EmbeddedData, "texts are large enough to carry weights"),
        UnreadKind::EmbeddedData => (Code::EmbeddedData, "texts hold encoded data, which was not read"),
        UnreadKind::UnlistedFolder => {
            (Code::NotListed, "folders could not be looked at, so that not all that lies there is known")
        }
        UnreadKind::RemoteCode => (Code::RemoteCode, "code that loaders run if they are told to trust it was not read"),
        // Of what lies in the files that are read, their formats tell.
        _ => return None,
    };
    let first = entries.first()?;
    let bytes = entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.bytes));
    let level = match kind {
        UnreadKind::UnlistedFolder => Level::Error,
        UnreadKind::RemoteCode => Level::Warning,
        // What does not stand in the way of a clean bill by itself is worth a note and no more.
        _ if bytes >= read / NEGLIGIBLE_PART => Level::Warning,
        _ => Level::Note,
    };
    let named: Vec<String> = entries.iter().take(MOST_NAMED).map(|entry| shown(&entry.place)).collect();
    let more = match entries.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!("{what}: {}{more}, {bytes} bytes", named.join(", "));
    Some(Finding::new(code, level, message, first.place.clone()))
}

/// Whether a name or the content of a file says that it is weights in a format that is read.
pub(super) fn is_weights(store: &dyn Store, place: &str) -> bool {
    let head = store.open(place).and_then(|object| Ok((object.len(), head(&*object, recognise::MAX_POINTER_BYTES)?)));
    let content = head.ok().and_then(|(len, head)| recognise::by_content(place, &head, len));
    matches!(content, Some(Content::Weights(_)))
}
