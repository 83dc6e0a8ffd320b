//! Typed metadata of a GGUF file, and what of it the rest of the program asks for: the configuration in Hugging Face's
//! words, the vocabulary, and what the file declares of its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Number, Value as Json, json};

use super::reader::Reader;
use crate::finding::Finding;
use crate::format::claims::{Card, Claims};
use crate::format::embedded::{self, Density, MAX_TEXT};
use crate::text::shown;
use crate::unread::Unread;
use crate::{Error, Result};

/// Longest key in bytes; the specification's own ceiling.
const MAX_KEY_BYTES: u64 = 65_535;

/// Longest string that is kept; chat templates are longer at times and are passed over.
const MAX_KEPT_BYTES: u64 = 4096;

/// Longest array of numbers that is kept: one for each layer.
const MAX_KEPT_NUMBERS: u64 = 4096;

/// Most entries; real files have about thirty.
const MAX_ENTRIES: u64 = 100_000;

/// Most base models that are listed.
const MAX_BASES: u64 = 1000;

/// The strings of the vocabulary by id.
const TOKENS: &str = "tokenizer.ggml.tokens";

/// Most tokens; the largest vocabularies have 262,144.
const MAX_TOKENS: u64 = 1 << 21;

/// Longest token; longer ones are no words.
const MAX_TOKEN_BYTES: u64 = 1 << 16;

/// Mean length of the strings of a tokenizer's list that none has: those of real vocabularies have 5 to 12 bytes.
const MEAN_TOKEN: u64 = 64;

/// SentencePiece's table of how characters are normalised, which has the size of the table and not of the vocabulary.
const CHARACTERS: &str = "tokenizer.ggml.precompiled_charsmap";

/// That table has about 240 KB in every model so far.
const MAX_CHARACTERS: u64 = 1 << 19;

/// A value as far as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number of any width, or a truth value as 0 or 1.
    Whole(i128),
    /// A number with a fraction.
    Real(f64),
    /// A string.
    Text(String),
    /// An array of whole numbers or truth values.
    Numbers(Vec<i128>),
    /// A long string, or an array of anything else, that was passed over.
    Passed,
}

impl Value {
    /// The number, if it is a whole one that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Whole(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => write!(f, "{number}"),
            Self::Real(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(&shown(text)),
            Self::Numbers(_) | Self::Passed => f.write_str("an array or a long text"),
        }
    }
}

/// Everything that a header states beside its tensors.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
    /// The strings of the vocabulary by id, in the tokenizer's own spelling.
    tokens: Option<Arc<Vec<String>>>,
    /// Keys of long texts and lists, and what was seen of them as they were passed over.
    long: Vec<(String, Passed)>,
}

/// What is kept of a value that was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// A text: its length, and whether a part of it is encoded data.
    Text { bytes: u64, encoded: bool },
    /// Texts: how many, their length together, and that of those which are encoded data.
    Texts { count: u64, bytes: u64, encoded: u64 },
    /// Numbers: how many, and their length together.
    Numbers { count: u64, bytes: u64 },
}

/// Value types by their numbers in the file.
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a value of fixed size.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | BOOL => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

impl Metadata {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut metadata = Self::default();
        // A key's length, a type and a value of one byte.
        let count = reader.count(8 + 4 + 1, "metadata entries")?;
        if count > MAX_ENTRIES {
            let path = reader.path().to_path_buf();
            return Err(Error::limit(path, "number of metadata entries", count, MAX_ENTRIES));
        }
        for _ in 0..count {
            let at = reader.at();
            let key = reader.string(MAX_KEY_BYTES, "length of a metadata key in bytes")?;
            let kind = reader.u32("the type of a metadata value")?;
            let value = match kind {
                ARRAY => metadata.array(reader, &key)?,
                STRING => metadata.text(reader, &key)?,
                _ => scalar(reader, kind)?,
            };
            if metadata.values.insert(key.clone(), value).is_some() {
                return Err(reader.refuse_at(at, format!("metadata state {} twice", shown(&key))));
            }
        }
        Ok(metadata)
    }

    fn array(&mut self, reader: &mut Reader<'_>, key: &str) -> Result<Value> {
        let at = reader.at();
        let kind = reader.u32("the type of an array's elements")?;
        if kind == ARRAY {
            return Err(reader.refuse_at(at, format!("{} is an array of arrays, which is not read", shown(key))));
        }
        if kind != STRING {
            let Some(width) = width(kind) else { return Err(unknown(reader, at, kind)) };
            let count = reader.count(width, "elements of an array")?;
            self.long.push((key.to_owned(), Passed::Numbers { count, bytes: count.saturating_mul(width) }));
            if count > MAX_KEPT_NUMBERS || matches!(kind, 6 | 12) {
                reader.pass(count.saturating_mul(width), "an array")?;
                return Ok(Value::Passed);
            }
            let mut numbers = Vec::with_capacity(count as usize);
            for _ in 0..count {
                if let Value::Whole(number) = scalar(reader, kind)? {
                    numbers.push(number);
                }
            }
            return Ok(Value::Numbers(numbers));
        }
        let count = reader.count(8, "strings of an array")?;
        if key == TOKENS && count > MAX_TOKENS {
            let path = reader.path().to_path_buf();
            return Err(Error::limit(path, "number of tokens", count, MAX_TOKENS));
        }
        let mut tokens = Vec::new();
        let (begin, mut encoded) = (reader.at(), 0);
        for _ in 0..count {
            if key == TOKENS {
                tokens.push(reader.string(MAX_TOKEN_BYTES, "length of a token in bytes")?);
            } else {
                let (len, density) = passed(reader)?;
                encoded += if density.encoded() > 0 { len } else { 0 };
            }
        }
        let bytes = reader.at() - begin - 8 * count;
        encoded += tokens.iter().map(|token| embedded::data_in(token)).sum::<u64>();
        self.long.push((key.to_owned(), Passed::Texts { count, bytes, encoded }));
        if key == TOKENS {
            self.tokens = Some(Arc::new(tokens));
        }
        Ok(Value::Passed)
    }

    fn text(&mut self, reader: &mut Reader<'_>, key: &str) -> Result<Value> {
        let at = reader.at();
        let (bytes, density) = passed(reader)?;
        let encoded = density.encoded() > 0;
        self.long.push((key.to_owned(), Passed::Text { bytes, encoded }));
        if bytes > MAX_KEPT_BYTES {
            return Ok(Value::Passed);
        }
        let end = reader.at();
        reader.back(at + 8);
        let text = reader.bytes(end - at - 8, "a metadata value")?.to_vec();
        Ok(Value::Text(String::from_utf8(text).map_err(|_| reader.refuse_at(at, "a string is not UTF-8"))?))
    }

    /// Data in place of text, as far as that was made out. A tokenizer takes much room for good reasons: a text that is
    /// one, lists of short strings, a number for each token. Anything else that is longer than a description is not.
    pub(super) fn data(&self, file: &str) -> Vec<(Unread, Finding)> {
        let tokens = self.tokens.as_ref().map_or(0, |tokens| tokens.len() as u64);
        let data = |(key, passed): &(String, Passed)| {
            let of_tokenizer = key.starts_with("tokenizer.");
            let bytes = match *passed {
                Passed::Text { bytes, encoded } if encoded || bytes > MAX_TEXT && !of_tokenizer => bytes,
                Passed::Texts { count, bytes, .. } if bytes > MAX_TEXT && bytes / MEAN_TOKEN > count => bytes,
                Passed::Texts { bytes, .. } if bytes > MAX_TEXT && !of_tokenizer => bytes,
                Passed::Texts { encoded, .. } => encoded,
                Passed::Numbers { count, .. } if of_tokenizer && count <= tokens => 0,
                Passed::Numbers { bytes, .. } if key == CHARACTERS && bytes <= MAX_CHARACTERS => 0,
                Passed::Numbers { bytes, .. } if bytes > MAX_TEXT => bytes,
                _ => 0,
            };
            (bytes > 0).then(|| embedded::remark(file, key, bytes))
        };
        self.long.iter().filter_map(data).collect()
    }

    /// The value of a key, if it is stated.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// What the file says of the model.
    pub(super) fn claims(&self) -> Claims {
        let config = self.config();
        let (card, tokens) = (self.card(), self.tokens.clone());
        Claims { in_weights: config.is_some(), in_gguf: true, config, card, tokens, ..Claims::default() }
    }

    /// Names, licences and the like: every text under `general.`.
    pub fn texts(&self) -> BTreeMap<String, String> {
        let texts = self.values.iter().filter(|(key, _)| key.starts_with("general."));
        texts.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    }

    /// The architecture as llama.cpp calls it.
    pub fn architecture(&self) -> Option<&str> {
        self.get("general.architecture")?.as_str()
    }

    /// A value of the architecture's own: `key` without its name in front.
    pub fn own(&self, key: &str) -> Option<&Value> {
        self.get(&format!("{}.{key}", self.architecture()?))
    }

    /// What the metadata state of the architecture, under the names that `config.json` has for it.
    fn config(&self) -> Option<Map<String, Json>> {
        const NAMES: [(&str, &str); 13] = [
            ("block_count", "num_hidden_layers"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("attention.key_length", "head_dim"),
            ("context_length", "max_position_embeddings"),
            ("rope.freq_base", "rope_theta"),
            ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
            ("attention.layer_norm_epsilon", "layer_norm_eps"),
            ("vocab_size", "vocab_size"),
            ("expert_count", "num_local_experts"),
            ("expert_used_count", "num_experts_per_tok"),
        ];
        let mut config = Map::new();
        config.insert("model_type".to_owned(), json!(self.architecture()?));
        for (own, theirs) in NAMES {
            let value = match self.own(own) {
                Some(Value::Whole(number)) => u64::try_from(*number).ok().map(Json::from),
                Some(Value::Real(number)) => Number::from_f64(*number).map(Json::Number),
                _ => None,
            };
            if let Some(value) = value {
                config.insert(theirs.to_owned(), value);
            }
        }
        Some(config)
    }

    /// What the metadata declare of the model's origin; `None` if nothing.
    fn card(&self) -> Option<Card> {
        let text = |key: &str| Some(self.get(key)?.as_str()?.trim().to_owned()).filter(|text| !text.is_empty());
        let stated = self.get("general.base_model.count").and_then(Value::as_u64).unwrap_or(0);
        let base = |index: u64| {
            let part = |part: &str| text(&format!("general.base_model.{index}.{part}"));
            let name = part("name");
            let from_url = part("repo_url").and_then(|url| repository(&url));
            from_url.or_else(|| match (part("organization"), name.clone()) {
                (Some(organization), Some(name)) => Some(format!("{organization}/{}", name.replace(' ', "-"))),
                _ => name,
            })
        };
        let card = Card {
            base_models: (0..stated.min(MAX_BASES)).filter_map(base).collect(),
            relation: None,
            license: text("general.license"),
        };
        (card != Card::default()).then_some(card)
    }
}

/// `organisation/name` at the end of the address of a repository.
fn repository(url: &str) -> Option<String> {
    let (_, path) = url.trim_end_matches('/').split_once("://")?;
    let parts: Vec<&str> = path.split('/').collect();
    let [_host, organization, name] = parts[..] else { return None };
    Some(format!("{organization}/{name}"))
}

/// Steps over a string, looking at what it is made of.
fn passed(reader: &mut Reader<'_>) -> Result<(u64, Density)> {
    const PIECE: u64 = 1 << 16;
    let len = reader.count(1, "bytes of a string")?;
    let (mut density, mut left) = (Density::default(), len);
    while left > 0 {
        let piece = left.min(PIECE);
        density.feed(reader.bytes(piece, "a string")?);
        left -= piece;
    }
    Ok((len, density))
}

fn scalar(reader: &mut Reader<'_>, kind: u32) -> Result<Value> {
    let at = reader.at();
    let what = "a metadata value";
    Ok(match kind {
        0 => Value::Whole(reader.array(what).map(u8::from_le_bytes)?.into()),
        1 => Value::Whole(reader.array(what).map(i8::from_le_bytes)?.into()),
        2 => Value::Whole(reader.array(what).map(u16::from_le_bytes)?.into()),
        3 => Value::Whole(reader.array(what).map(i16::from_le_bytes)?.into()),
        4 => Value::Whole(reader.u32(what)?.into()),
        5 => Value::Whole(reader.array(what).map(i32::from_le_bytes)?.into()),
        6 => Value::Real(reader.array(what).map(f32::from_le_bytes)?.into()),
        BOOL => match reader.array::<1>(what)? {
            [truth @ 0..=1] => Value::Whole(truth.into()),
            [other] => return Err(reader.refuse_at(at, format!("a truth value is {other}"))),
        },
        10 => Value::Whole(reader.u64(what)?.into()),
        11 => Value::Whole(reader.array(what).map(i64::from_le_bytes)?.into()),
        12 => Value::Real(reader.array(what).map(f64::from_le_bytes)?),
        _ => return Err(unknown(reader, at, kind)),
    })
}

fn unknown(reader: &Reader<'_>, at: u64, kind: u32) -> Error {
    reader.refuse_at(at, format!("metadata type {kind} is unknown"))
}
