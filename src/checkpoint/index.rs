//! The index of a sharded checkpoint: which shard holds which tensor.
//!
//! Checked against what the shards' headers say; where they disagree, the headers are right and the index is reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::shard::Shard;
use crate::bytes::store::head;
use crate::bytes::{Object, Store};
use crate::finding::{Capped, Code, Finding, Level};
use crate::format::recognise;
use crate::limits::{MAX_NAME_BYTES, MAX_SHARDS, MAX_SIDECAR_BYTES, MAX_TENSORS};
use crate::tensor::TensorMeta;
use crate::text::{byte_of, json, message, shown};
use crate::{Error, Result};

const FORMAT: &str = "index of shards";

/// A parsed `*.safetensors.index.json` or `*.bin.index.json`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Index {
    /// The index's own file name.
    name: String,
    /// The shards, sorted.
    pub(crate) files: Vec<String>,
    /// Tensor name to position in `files`.
    tensors: BTreeMap<String, usize>,
    /// Bytes of all tensors, if stated.
    total_size: Option<serde_json::Number>,
}

impl Index {
    /// Reads the index of this name.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) if it is not an object with a `weight_map` of plain
    /// relative paths, or states anything twice; [`ErrorKind::Limit`](crate::ErrorKind::Limit) for a ceiling;
    /// [`ErrorKind::Nothing`](crate::ErrorKind::Nothing) if it is a Git-LFS pointer.
    pub(crate) fn read(store: &dyn Store, name: &str) -> Result<Self> {
        let object = store.open(name)?;
        let path = object.name();
        let text = read_text(&*object)?;
        let text = json::tolerant(&text);
        let mut stated = WeightMap::default();
        let mut total_size = None;
        let mut reader = serde_json::Deserializer::from_slice(&text);
        let parsed =
            reader.deserialize_map(Top { map: &mut stated, total: &mut total_size }).and_then(|()| reader.end());
        if let Err(error) = parsed {
            if let Some((what, found, limit)) = stated.over {
                return Err(Error::limit(path, what, found as u64, limit as u64));
            }
            let at = byte_of(&text, &error);
            return Err(Error::malformed(path, FORMAT, message(&error)).at(at));
        }
        if stated.tensors.is_empty() {
            return Err(Error::malformed(path, FORMAT, "`weight_map` names no tensor"));
        }
        let mut files: Vec<(String, usize)> = stated.files.into_iter().collect();
        files.sort_unstable();
        if let Some((file, _)) = files.iter().find(|(file, _)| !is_plain(file)) {
            let what = format!("`weight_map` names {}, which is not a plain path below the folder", shown(file));
            return Err(Error::malformed(path, FORMAT, what));
        }
        let mut sorted = vec![0; files.len()];
        for (position, (_, met)) in files.iter().enumerate() {
            sorted[*met] = position;
        }
        let tensors = stated.tensors.into_iter().map(|(tensor, met)| (tensor, sorted[met])).collect();
        let files = files.into_iter().map(|(file, _)| file).collect();
        Ok(Self { name: name.to_owned(), files, tensors, total_size })
    }

    /// The position in `files` of the shard that it names for a tensor.
    pub(crate) fn stated(&self, tensor: &str) -> Option<usize> {
        self.tensors.get(tensor).copied()
    }

    /// Where index and headers disagree. `shards` are in the order of `files`; no tensor is in two of them. `aliases` are
    /// names that stand for tensors which were read under another name.
    pub(crate) fn compare(&self, shards: &[Shard], tensors: &[TensorMeta], aliases: &BTreeSet<String>) -> Vec<Finding> {
        let mut found = Capped::new(Code::IndexMismatch, Level::Error);
        let mut seen = BTreeSet::new();
        for tensor in tensors {
            let (name, shard) = (&tensor.name, tensor.first_extent().shard);
            seen.insert(name.as_str());
            let tensor = shown(name);
            let here = || shown(&shards[shard].name);
            match self.tensors.get(name) {
                Some(stated) if *stated == shard => {}
                Some(stated) => {
                    let there = shown(&self.files[*stated]);
                    found.push(|| format!("tensor {tensor} is in {}, the index says {there}", here()), || name.clone());
                }
                None => found.push(|| format!("tensor {tensor} of {} is not in the index", here()), || name.clone()),
            }
        }
        let is_missing = |name: &str| !seen.contains(name) && !aliases.contains(name);
        for (name, stated) in self.tensors.iter().filter(|(name, _)| is_missing(name)) {
            let shard = shown(&self.files[*stated]);
            let what = || format!("the index puts tensor {} in {shard}, whose header does not have it", shown(name));
            found.push(what, || name.clone());
        }
        let mut findings = found.finish("more disagreements between index and headers");
        let total: u64 = tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.stored_bytes()));
        // Writers do not agree on whether a shared tensor counts once.
        if let Some(stated) = &self.total_size
            && aliases.is_empty()
            && stated.as_u64() != Some(total)
            && stated.as_f64() != Some(total as f64)
        {
            let what = format!("the index states {stated} bytes of tensors, the headers {total}");
            findings.push(Finding::new(Code::IndexMismatch, Level::Warning, what, self.name.clone()));
        }
        findings
    }
}

fn read_text(object: &dyn Object) -> Result<Vec<u8>> {
    let (path, found, limit) = (object.name().to_path_buf(), object.len(), MAX_SIDECAR_BYTES);
    if found > limit {
        return Err(Error::limit(path, "index length in bytes", found, limit));
    }
    let text = head(object, limit)?;
    if let Some(pointer) = recognise::pointer(&text, found) {
        return Err(Error::nothing(path, pointer.advice("the index")));
    }
    Ok(text)
}

/// Whether `file` names something below the folder on every system: no root, no drive, no `..`, no backslash.
fn is_plain(file: &str) -> bool {
    let is_odd = |part: &str| part.is_empty() || part == "." || part == ".." || part.ends_with([' ', '.']);
    !file.contains(['\\', ':', '\0'])
        && !file.split('/').any(is_odd)
        && Path::new(file).components().all(|part| matches!(part, Component::Normal(_)))
}

#[derive(Default)]
struct WeightMap {
    files: HashMap<String, usize>,
    tensors: BTreeMap<String, usize>,
    over: Option<(&'static str, usize, usize)>,
}

impl WeightMap {
    fn limit<E: serde::de::Error>(&mut self, what: &'static str, found: usize, limit: usize) -> Result<(), E> {
        if found <= limit {
            return Ok(());
        }
        self.over = Some((what, found, limit));
        Err(E::custom(what))
    }
}

#[derive(Deserialize)]
struct Totals {
    #[serde(default)]
    total_size: Option<serde_json::Number>,
}

struct Top<'a> {
    map: &'a mut WeightMap,
    total: &'a mut Option<serde_json::Number>,
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `weight_map`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_map = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "weight_map" if std::mem::replace(&mut has_map, true) => {
                    return Err(A::Error::custom("`weight_map` is stated twice"));
                }
                "weight_map" => map.next_value_seed(&mut *self.map)?,
                "metadata" => *self.total = map.next_value::<Option<Totals>>()?.and_then(|totals| totals.total_size),
                _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
            }
        }
        if has_map { Ok(()) } else { Err(A::Error::missing_field("weight_map")) }
    }
}

impl<'de> DeserializeSeed<'de> for &mut WeightMap {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut WeightMap {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`weight_map` as an object of file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((tensor, file)) = map.next_entry::<String, String>()? {
            self.limit("length of a tensor's name in bytes", tensor.len(), MAX_NAME_BYTES)?;
            self.limit("length of a shard's name in bytes", file.len(), MAX_NAME_BYTES)?;
            self.limit("number of tensors", self.tensors.len() + 1, MAX_TENSORS)?;
            if self.tensors.contains_key(&tensor) {
                return Err(A::Error::custom(format!("`weight_map` states tensor {} twice", shown(&tensor))));
            }
            let next = self.files.len();
            let shard = *self.files.entry(file).or_insert(next);
            self.limit("number of shards", self.files.len(), MAX_SHARDS)?;
            self.tensors.insert(tensor, shard);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_taken() {
        for plain in ["model-00001-of-00002.safetensors", "part/a.safetensors", "..a", "a b"] {
            assert!(is_plain(plain), "{plain}");
        }
        for odd in ["", "/etc/passwd", "../a", "a/../b", "./a", "a//b", "a/", "a\\b", "..\\a", "C:a", "a\0", "a."] {
            assert!(!is_plain(odd), "{odd}");
        }
    }
}
