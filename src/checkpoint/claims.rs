//! What lies beside the weights, or before them in the same file: `config.json`, the model card's front matter, the
//! tokenizer.
//!
//! All of it is hearsay about the weights, so nothing here is ever fatal: what cannot be read becomes a finding.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

use super::adapter;
use crate::bytes::Store;
use crate::bytes::store::head;
use crate::finding::{Code, Finding, Level};
use crate::format::{Card, Claims, recognise};
use crate::limits::{MAX_CONFIG_BYTES, MAX_FRONT_MATTER_BYTES, MAX_SIDECAR_BYTES};
use crate::text::{hex, message, shown};

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
        let (config, card, tokenizer) = (beside.parsed("config.json"), beside.card(), beside.tokenizer());
        Self { claims: Claims { config, card, ..Claims::default() }, tokenizer, adapter }
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
        match serde_json::from_slice(&bytes) {
            Ok(config) => Some(config),
            Err(error) => {
                let place = format!("line {}, column {}", error.line(), error.column());
                self.unreadable(name, format_args!("{} at {place}", message(&error)));
                None
            }
        }
    }

    fn card(&mut self) -> Option<Card> {
        let bytes = self.head("README.md", MAX_CARD_HEAD_BYTES)?;
        let text = String::from_utf8_lossy(&bytes);
        match front_matter(&text).and_then(|yaml| yaml.map(parse_card).transpose()) {
            Ok(card) => card,
            Err(why) => {
                self.unreadable("README.md", why);
                None
            }
        }
    }

    fn tokenizer(&mut self) -> Option<Tokenizer> {
        let bytes = self.whole("tokenizer.json", MAX_SIDECAR_BYTES)?;
        let mut vocabulary = None;
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let parsed = Find { path: &["model", "vocab"], found: &mut vocabulary }.deserialize(&mut json);
        if let Err(error) = parsed.and_then(|()| json.end()) {
            vocabulary = None;
            self.unreadable("tokenizer.json", format_args!("its vocabulary is unknown: {}", message(&error)));
        }
        let sha256 = hex(&Sha256::digest(&bytes));
        Some(Tokenizer { sha256, bytes: bytes.len() as u64, vocabulary, content: FileBytes(bytes.into()) })
    }
}

/// The YAML between the `---` lines at the top, if the text begins with one.
fn front_matter(text: &str) -> Result<Option<&str>, String> {
    let text = text.trim_start_matches(|c: char| c == '\u{feff}' || c.is_whitespace());
    let Some((_, body)) = text.split_once('\n').filter(|(first, _)| first.trim_end() == "---") else {
        return Ok(None);
    };
    let mut end = 0;
    for line in body.split_inclusive('\n') {
        if matches!(line.trim_end(), "---" | "...") {
            return Ok(Some(&body[..end]));
        }
        end += line.len();
        if end > MAX_FRONT_MATTER_BYTES {
            return Err(format!("its front matter is longer than the limit of {MAX_FRONT_MATTER_BYTES} bytes"));
        }
    }
    Err("its front matter has no end".to_owned())
}

fn parse_card(yaml: &str) -> Result<Card, String> {
    #[derive(Deserialize)]
    struct Declared {
        #[serde(default)]
        base_model: Names,
        #[serde(default)]
        base_model_relation: Names,
        #[serde(default)]
        license: Names,
    }

    if yaml.trim().is_empty() {
        return Ok(Card::default());
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_documents: 1, max_depth: 32, max_nodes: 20_000, max_aliases: 100 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000 },
        with_snippet: false,
    };
    let declared: Declared = serde_saphyr::from_str_with_options(yaml, options)
        .map_err(|error| format!("its front matter is not what a card has: {}", shown(&error.to_string())))?;
    let joined = |names: Names| (!names.0.is_empty()).then(|| names.0.join(", "));
    Ok(Card {
        base_models: declared.base_model.0,
        relation: joined(declared.base_model_relation),
        license: joined(declared.license),
    })
}

/// A string, a list of strings, or nothing; blank ones are dropped.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names(Vec<String>);

impl Names {
    fn push(&mut self, name: &str) {
        let name = name.trim();
        if !name.is_empty() {
            self.0.push(name.to_owned());
        }
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a list of names")
            }

            fn visit_unit<E>(self) -> Result<Names, E> {
                Ok(Names::default())
            }

            fn visit_str<E>(self, name: &str) -> Result<Names, E> {
                let mut names = Names::default();
                names.push(name);
                Ok(names)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Names, A::Error> {
                let mut names = Names::default();
                while let Some(name) = seq.next_element::<Option<String>>()? {
                    names.push(&name.unwrap_or_default());
                }
                Ok(names)
            }
        }

        deserializer.deserialize_any(OneOrMany)
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
    use proptest::prelude::*;

    use super::*;

    fn card(text: &str) -> Result<Option<Card>, String> {
        front_matter(text).and_then(|yaml| yaml.map(parse_card).transpose())
    }

    #[test]
    fn base_models_are_a_name_or_a_list() {
        let one = card("---\nlicense: mit\nbase_model: org/name\ntags: [a, {b: c}]\n---\n# text\n").unwrap().unwrap();
        assert_eq!(one.base_models, ["org/name"]);
        assert_eq!(one.license.as_deref(), Some("mit"));
        let two = card("\u{feff}\n---\r\nbase_model:\r\n- a\r\n- b\r\nbase_model_relation: merge\r\n---\r\n");
        let two = two.unwrap().unwrap();
        assert_eq!(two.base_models, ["a", "b"]);
        assert_eq!(two.relation.as_deref(), Some("merge"));
        for none in ["---\nbase_model:\n---\n", "---\nbase_model: []\n---\n", "---\n---\n", "---\ntags: x\n---"] {
            assert_eq!(card(none).unwrap().unwrap().base_models, [""; 0], "{none:?}");
        }
        let licenses = card("---\nlicense:\n- mit\n- apache-2.0\n---\n").unwrap().unwrap();
        assert_eq!(licenses.license.as_deref(), Some("mit, apache-2.0"));
    }

    #[test]
    fn text_without_front_matter_declares_nothing() {
        for text in ["", "# title\n---\nbase_model: x\n---\n", "----\nbase_model: x\n---\n", "---"] {
            assert_eq!(card(text), Ok(None), "{text:?}");
        }
    }

    #[test]
    fn broken_front_matter_is_an_error_not_a_panic() {
        let endless = format!("---\n{}\n---\n", "a: b\n".repeat(MAX_FRONT_MATTER_BYTES));
        assert!(card(&endless).unwrap_err().contains("longer than the limit"));
        assert!(card("---\nbase_model: x\n").unwrap_err().contains("has no end"));
        let deep = format!("---\nx: {}\n---\n", "[".repeat(20_000));
        let bomb = "---\na: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nbase_model: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n---\n";
        for text in ["---\nbase_model: [x\n---\n", "---\nbase_model: {a: b}\n---\n", "---\n\tx\n---\n", &deep, bomb] {
            assert!(card(text).is_err(), "{}", &text[..40.min(text.len())]);
        }
    }

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

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_card_makes_the_parser_panic(text in "(---\n)?([a-z_*&\\[\\]{}:,\"'|>!%@#\n -]|base_model: ){0,80}(\n---\n)?") {
            let _ = card(&text);
        }
    }
}
