//! What lies beside the weights, or before them in the same file: `config.json`, the model card's front matter, the
//! tokenizer.
//!
//! All of it is hearsay about the weights, so nothing here is ever fatal: what cannot be read becomes a finding.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

use super::{adapter, card};
use crate::bytes::Store;
use crate::bytes::store::head;
use crate::finding::{Code, Finding, Level};
use crate::format::{Card, Claims, recognise};
use crate::limits::{MAX_CONFIG_BYTES, MAX_FRONT_MATTER_BYTES, MAX_SIDECAR_BYTES};
use crate::text::{hex, json, message, shown};

/// The files beside the weights, as far as they are there and could be read.
#[derive(Debug, Default)]
pub(super) struct Sidecars {
    /// `config.json` and the front matter of `README.md`.
    pub(super) claims: Claims,
    /// `tokenizer.json`.
    pub(super) tokenizer: Option<Tokenizer>,
    /// `adapter_config.json`.
    pub(super) adapter: Option<adapter::Config>,
}

/// What is kept of `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenizer {
    /// SHA-256 of the file, lowercase hexadecimal.
    pub sha256: String,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Number of entries of `model.vocab`, without added tokens; `None` if the file has no such list.
    pub vocabulary: Option<u64>,
    /// What the file holds.
    pub content: FileBytes,
}

/// The bytes of a file, shared.
#[derive(Clone, PartialEq, Eq)]
pub struct FileBytes(Arc<[u8]>);

impl FileBytes {
    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Sidecars {
    /// Reads what lies in the root of a store; whatever cannot be read is added to `findings`.
    pub(super) fn read(store: &dyn Store, findings: &mut Vec<Finding>) -> Self {
        let mut beside = Beside { store, findings };
        let adapter = beside.parsed("adapter_config.json");
        let mut claims = Claims { config: beside.parsed("config.json"), ..Claims::default() };
        beside.card(&mut claims);
        let tokenizer = beside.tokenizer();
        Self { claims, tokenizer, adapter }
    }
}

/// What the weight file itself claims together with what lies beside it: its configuration and vocabulary come first, its
/// declarations last.
pub(super) fn together(in_weights: Claims, beside: Claims) -> Claims {
    let mut all = beside;
    if in_weights.config.is_some() {
        (all.config, all.in_weights) = (in_weights.config, true);
    }
    (all.tokens, all.in_gguf) = (in_weights.tokens, in_weights.in_gguf);
    if let Some(Card { base_models, relation, license }) = in_weights.card {
        let card = all.card.get_or_insert_default();
        for name in base_models {
            if !card.base_models.contains(&name) {
                card.base_models.push(name);
            }
        }
        card.relation = card.relation.take().or(relation);
        card.license = card.license.take().or(license);
    }
    all
}

/// A card cut off in front of this many bytes still has all of the front matter that is parsed.
const MAX_CARD_HEAD_BYTES: u64 = MAX_FRONT_MATTER_BYTES as u64 + 1024;

struct Beside<'a> {
    store: &'a dyn Store,
    findings: &'a mut Vec<Finding>,
}

impl Beside<'_> {
    fn unreadable(&mut self, name: &str, why: impl fmt::Display) {
        let message = format!("{name} could not be read: {why}");
        self.findings.push(Finding::new(Code::SidecarUnreadable, Level::Warning, message, name.to_owned()));
    }

    /// The first `most` bytes of a file, or nothing if it is not there.
    fn head(&mut self, name: &str, most: u64) -> Option<Vec<u8>> {
        if !self.store.contains(name) {
            return None;
        }
        let read = self.store.open(name).and_then(|object| head(&*object, most));
        let bytes = read.map_err(|error| self.unreadable(name, error)).ok()?;
        let Some(pointer) = recognise::pointer(&bytes, bytes.len() as u64) else { return Some(bytes) };
        let message = pointer.advice(name);
        self.findings.push(Finding::new(Code::LfsPointer, Level::Warning, message, name.to_owned()));
        None
    }

    /// The whole of a file that is no longer than `limit`.
    fn whole(&mut self, name: &str, limit: u64) -> Option<Vec<u8>> {
        let bytes = self.head(name, limit + 1)?;
        if bytes.len() as u64 > limit {
            self.unreadable(name, format_args!("it is longer than the limit of {limit} bytes"));
            return None;
        }
        Some(bytes)
    }

    /// A small file of JSON.
    fn parsed<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let bytes = self.whole(name, MAX_CONFIG_BYTES)?;
        let bytes = json::tolerant(&bytes);
        match serde_json::from_slice(&bytes) {
            Ok(config) => {
                if let Some(key) = json::stated_twice(&bytes) {
                    self.stated_twice(name, &shown(&key));
                }
                Some(config)
            }
            Err(error) => {
                let place = format!("line {}, column {}", error.line(), error.column());
                self.unreadable(name, format_args!("{} at {place}", message(&error)));
                None
            }
        }
    }

    /// What the model card declares, in its front matter and in its text.
    fn card(&mut self, claims: &mut Claims) {
        const NAME: &str = "README.md";
        let Some(bytes) = self.head(NAME, MAX_CARD_HEAD_BYTES) else { return };
        let text = String::from_utf8_lossy(&bytes);
        let (front, body) = match card::split(&text) {
            Ok(parts) => parts,
            Err(why) => {
                claims.card_unreadable = true;
                return self.unreadable(NAME, why);
            }
        };
        claims.mentions = card::mentions(body);
        match front.map(card::parse).transpose() {
            Ok(parsed) => {
                if parsed.as_ref().is_some_and(|parsed| parsed.stated_twice) {
                    self.stated_twice(NAME, "a key of the front matter");
                }
                claims.card = parsed.map(|parsed| parsed.card);
            }
            Err(why) => {
                claims.card_unreadable = true;
                self.unreadable(NAME, why);
            }
        }
    }

    fn stated_twice(&mut self, name: &str, what: &str) {
        let message = format!("{name} states {what} twice; the last value was used");
        self.findings.push(Finding::new(Code::StatedTwice, Level::Warning, message, name.to_owned()));
    }

    fn tokenizer(&mut self) -> Option<Tokenizer> {
        let bytes = self.whole("tokenizer.json", MAX_SIDECAR_BYTES)?;
        let mut vocabulary = None;
        let text = json::tolerant(&bytes);
        let mut reader = serde_json::Deserializer::from_slice(&text);
        let parsed = Find { path: &["model", "vocab"], found: &mut vocabulary }.deserialize(&mut reader);
        if let Err(error) = parsed.and_then(|()| reader.end()) {
            vocabulary = None;
            self.unreadable("tokenizer.json", format_args!("its vocabulary is unknown: {}", message(&error)));
        }
        drop(text);
        let sha256 = hex(&Sha256::digest(&bytes));
        Some(Tokenizer { sha256, bytes: bytes.len() as u64, vocabulary, content: FileBytes(bytes.into()) })
    }
}

/// Follows keys of nested objects and counts the entries of what lies at the end, building nothing.
struct Find<'a> {
    path: &'a [&'a str],
    found: &'a mut Option<u64>,
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((wanted, rest)) = self.path.split_first() else {
            let mut count = 0;
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                count += 1;
            }
            *self.found = Some(count);
            return Ok(());
        };
        while let Some(key) = map.next_key::<String>()? {
            if key == *wanted {
                map.next_value_seed(Find { path: rest, found: &mut *self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut count = 0;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        if self.path.is_empty() {
            *self.found = Some(count);
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vocabularies_are_objects_or_arrays() {
        let count = |text: &str| {
            let mut found = None;
            let mut json = serde_json::Deserializer::from_str(text);
            Find { path: &["model", "vocab"], found: &mut found }.deserialize(&mut json).map(|()| found)
        };
        assert_eq!(count(r#"{"x":[1],"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}"#).unwrap(), Some(2));
        assert_eq!(count(r#"{"model":{"vocab":[["a",0.5],["b",1],["c",2]]}}"#).unwrap(), Some(3));
        assert_eq!(count(r#"{"model":null}"#).unwrap(), None);
        assert!(count(r#"{"model":{"vocab":7}}"#).is_err());
    }
}
