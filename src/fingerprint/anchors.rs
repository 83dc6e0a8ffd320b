//! Anchor tokens: which embedding rows span a token frame, and where a suspect has them.
//!
//! The embedded list holds strings that are single tokens of many open models' vocabularies, so one pass over a suspect
//! serves all references whose vocabularies have them. A smaller vocabulary is topped up with tokens of its own.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::frame::{Anchor, DIRECTIONS};
use super::labels;
use crate::checkpoint::Checkpoint;
use crate::text::json::tolerant;

/// Fewest anchors that a suspect must have of a reference's for their frames to be compared.
pub(super) const MIN_COMMON: usize = DIRECTIONS / 2;

#[derive(Deserialize)]
struct Embedded {
    anchors: Vec<String>,
}

/// The embedded list, in its fixed order.
pub fn embedded() -> &'static [String] {
    static LIST: OnceLock<Vec<String>> = OnceLock::new();
    LIST.get_or_init(|| {
        let parsed: Result<Embedded, _> = serde_json::from_str(include_str!("../data/anchors.json"));
        // A test reads the same bytes, so this cannot fail in a released program.
        parsed.map(|embedded| embedded.anchors).unwrap_or_default()
    })
}

/// A tokenizer's strings and their ids. Strings are in decoded form: a leading space begins a word.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    ids: BTreeMap<String, u32>,
}

impl Vocabulary {
    /// The vocabulary of a checkpoint: the one in its weight file, or that of the `tokenizer.json` which was read beside
    /// it.
    pub(super) fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let Some(tokens) = &checkpoint.claims.tokens else {
            return Self::parse(checkpoint.tokenizer.as_ref()?.content.bytes());
        };
        let mut ids = BTreeMap::new();
        for (token, id) in tokens.iter().zip(0..) {
            // Of two spellings of one text, the tokenizer makes the one that marks its space.
            if token.contains(' ') {
                ids.entry(decoded(token)).or_insert(id);
            } else {
                ids.insert(decoded(token), id);
            }
        }
        (!ids.is_empty()).then_some(Self { ids })
    }

    /// The vocabulary in the bytes of a `tokenizer.json`; `None` where none can be made out in it.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let json: Value = serde_json::from_slice(&tolerant(json)).ok()?;
        let mut ids = BTreeMap::new();
        let model = json.get("model")?;
        let decoded = |token: &str| match word_piece_prefix(model) {
            Some(prefix) => token.strip_prefix(prefix).map_or_else(|| format!(" {token}"), str::to_owned),
            None => decoded(token),
        };
        match model.get("vocab")? {
            Value::Object(map) => {
                for (text, id) in map {
                    ids.insert(decoded(text), u32::try_from(id.as_u64()?).ok()?);
                }
            }
            Value::Array(list) => {
                for (id, entry) in list.iter().enumerate() {
                    ids.insert(decoded(entry.get(0)?.as_str()?), u32::try_from(id).ok()?);
                }
            }
            _ => return None,
        }
        Some(Self { ids })
    }
}

/// What a WordPiece vocabulary puts before a token that goes on with a word; all others begin one.
fn word_piece_prefix(model: &Value) -> Option<&str> {
    (model.get("type")?.as_str()? == "WordPiece")
        .then(|| model.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or("##"))
}

/// Byte-level BPE writes a space as U+0120, SentencePiece as U+2581.
fn decoded(token: &str) -> String {
    token.replace(['\u{120}', '\u{2581}'], " ")
}

/// The anchors of a checkpoint's own frame: embedded ones that its vocabulary has, then tokens of its own by hash of
/// their text. Without a tokenizer, rows by hash of their id.
pub(super) fn own(vocabulary: Option<&Vocabulary>, rows: u64) -> Vec<Anchor> {
    let Some(vocabulary) = vocabulary else {
        let ids = labels::chosen(rows, DIRECTIONS);
        return ids.into_iter().map(|id| Anchor { text: None, id }).collect();
    };
    let known = |text: &String| vocabulary.ids.get(text).filter(|&&id| u64::from(id) < rows);
    let mut anchors: Vec<Anchor> = embedded()
        .iter()
        .filter_map(|text| Some(Anchor { text: Some(text.clone()), id: *known(text)? }))
        .take(DIRECTIONS)
        .collect();
    let mut others: Vec<(u64, &String, u32)> = vocabulary
        .ids
        .iter()
        .filter(|&(text, &id)| u64::from(id) < rows && !embedded().contains(text))
        .map(|(text, &id)| (xxh3_64(text.as_bytes()), text, id))
        .collect();
    others.sort_unstable();
    let missing = DIRECTIONS - anchors.len();
    anchors.extend(others.into_iter().take(missing).map(|(_, text, id)| Anchor { text: Some(text.clone()), id }));
    anchors
}

/// Where a checkpoint has a reference's anchors: by text if both know it, otherwise by id. `None` where too few are
/// there.
pub(super) fn located(list: &[Anchor], vocabulary: Option<&Vocabulary>, rows: u64) -> Option<Vec<Option<u32>>> {
    let place = |anchor: &Anchor| match (vocabulary, &anchor.text) {
        (Some(vocabulary), Some(text)) => vocabulary.ids.get(text).copied(),
        _ => Some(anchor.id),
    };
    let places: Vec<Option<u32>> = list.iter().map(|anchor| place(anchor).filter(|&id| u64::from(id) < rows)).collect();
    (list.len() <= DIRECTIONS && places.iter().flatten().count() >= MIN_COMMON).then_some(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::OpenOptions;

    fn vocabulary(tokens: &[&str]) -> Vocabulary {
        Vocabulary { ids: tokens.iter().zip(0..).map(|(text, id)| (decoded(text), id)).collect() }
    }

    #[test]
    fn the_embedded_list_is_long_enough_and_has_no_doubles() {
        let mut sorted = embedded().to_vec();
        assert!(sorted.len() >= 256);
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), embedded().len());
    }

    #[cfg(unix)]
    #[test]
    fn a_tokenizer_that_was_refused_gives_no_vocabulary() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let weights = folder.path().join("model.safetensors");
        let header = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        std::fs::write(&weights, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat()).unwrap();
        let outside = elsewhere.path().join("tokenizer.json");
        std::fs::write(&outside, r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}}"#).unwrap();
        let inside = folder.path().join("tokenizer.json");
        let vocabulary = || Vocabulary::of(&Checkpoint::open(&weights, OpenOptions::default()).unwrap());
        std::os::unix::fs::symlink(&outside, &inside).unwrap();
        assert!(vocabulary().is_none(), "a link out of the folder is not followed");
        std::fs::remove_file(&inside).unwrap();
        std::fs::copy(&outside, &inside).unwrap();
        assert_eq!(vocabulary().unwrap().ids.len(), 2);
    }

    #[test]
    fn pieces_of_words_are_read_as_other_tokenizers_spell_them() {
        let read = |text: &str| Vocabulary::parse(text.as_bytes()).unwrap().ids.into_keys().collect::<Vec<_>>();
        let pieces = r###"{"model": {"type": "WordPiece", "vocab": {"house": 0, "##ing": 1, "[CLS]": 2}}}"###;
        assert_eq!(read(pieces), [" [CLS]", " house", "ing"]);
        let bytes = r#"{"model": {"type": "BPE", "vocab": {"Ġhouse": 0, "ing": 1}}}"#;
        assert_eq!(read(bytes), [" house", "ing"]);
        assert_eq!(
            read(r#"{"model": {"type": "Unigram", "vocab": [["▁house", -1.5], ["ing", -2]]}}"#),
            [" house", "ing"]
        );
    }

    #[test]
    fn a_shuffled_vocabulary_is_followed_by_its_text() {
        let tokens: Vec<String> = (0..400).map(|i| format!("\u{120}w{i}")).collect();
        let names: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let mut shuffled = names.clone();
        shuffled.reverse();
        let list = own(Some(&vocabulary(&names)), 400);
        assert_eq!(list.len(), DIRECTIONS);
        let places = located(&list, Some(&vocabulary(&shuffled)), 400).unwrap();
        assert!(list.iter().zip(&places).all(|(anchor, place)| *place == Some(399 - anchor.id)));
        let by_id = located(&list, None, 400).unwrap();
        assert!(list.iter().zip(&by_id).all(|(anchor, place)| *place == Some(anchor.id)));
        assert!(located(&list, Some(&vocabulary(&["other"])), 400).is_none(), "no anchor in common");
    }
}
