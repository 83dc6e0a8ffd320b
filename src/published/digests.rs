//! Published digests of weight files and of the files beside them, compiled in.
//!
//! A digest tells an exact copy of one file and nothing else: re-saving, re-sharding or a changed metadata key alters
//! it, so "not in this list" means nothing. Most records come from Git-LFS pointers in third-party mirrors; their
//! [`confidence`](PublishedDigest::confidence) says how sure it is that the mirror holds the model it names.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// The embedded data, as JSON.
pub(crate) const DATA: &str = include_str!("../data/digests.json");

/// How a digest was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// SHA-256: what hubs and Git-LFS publish.
    Sha256,
    /// MD5: what some makers published beside their downloads. Collisions can be made, so it is never evidence.
    Md5,
}

impl Algorithm {
    /// Length of a digest in hexadecimal digits.
    pub fn hex_digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Md5 => 32,
        }
    }
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Weights as their maker saved them, or in a plain conversion.
    Weights,
    /// A quantised conversion.
    QuantizedWeights,
    /// A low-rank adapter.
    Adapter,
    /// An archive with weights inside.
    Archive,
    /// A tokenizer; several models share one.
    Tokenizer,
    /// A configuration file.
    Config,
    /// A list of checksums.
    Checksums,
}

impl Kind {
    /// Whether an equal digest says that the weights are equal. Tokenizers and configurations are shared by models
    /// trained apart.
    pub fn is_weights(self) -> bool {
        matches!(self, Self::Weights | Self::QuantizedWeights | Self::Adapter | Self::Archive)
    }
}

/// One published digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedDigest {
    /// The model, as its maker or hub names it.
    pub model: String,
    /// The file's name.
    pub file: String,
    /// The digest in lower-case hexadecimal digits.
    pub digest: String,
    /// How it was computed.
    pub algorithm: Algorithm,
    /// The file's size in bytes, where it was published too.
    #[serde(default)]
    pub size: Option<u64>,
    /// What the file holds.
    pub kind: Kind,
    /// Where the digest was published.
    pub source: String,
    /// How sure it is that the file belongs to the model.
    pub confidence: String,
    /// `meta` or `hf`, where the model exists in both layouts.
    #[serde(default)]
    pub layout: Option<String>,
    /// The model that this one was made from, where its maker says so.
    #[serde(default)]
    pub derivative_of: Option<String>,
    /// What in a mirror identifies the model.
    #[serde(default)]
    pub identity_evidence: Option<String>,
    /// Anything else that a reader should know.
    #[serde(default)]
    pub note: Option<String>,
}

#[derive(Deserialize)]
struct Embedded {
    records: Vec<PublishedDigest>,
}

struct Catalog {
    records: Vec<PublishedDigest>,
    weight_sizes: BTreeSet<u64>,
}

/// A test holds that the embedded file parses, so the empty fall-back never shows.
static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let parsed: Result<Embedded, _> = serde_json::from_str(DATA);
    let records = parsed.map(|embedded| embedded.records).unwrap_or_default();
    let weight_sizes = records.iter().filter(|record| is_sha256_of_weights(record)).filter_map(|record| record.size);
    Catalog { weight_sizes: weight_sizes.collect(), records }
});

fn is_sha256_of_weights(record: &PublishedDigest) -> bool {
    record.algorithm == Algorithm::Sha256 && record.kind.is_weights()
}

/// Every published digest, in the order of the embedded file.
pub fn all() -> &'static [PublishedDigest] {
    &CATALOG.records
}

/// The records with this SHA-256, given as hexadecimal digits of either case; several where one file serves several
/// models. Empty for anything that is not a SHA-256.
pub fn lookup_sha256(hex: &str) -> Vec<&'static PublishedDigest> {
    let same = |record: &&PublishedDigest| {
        record.algorithm == Algorithm::Sha256 && record.digest.eq_ignore_ascii_case(hex.trim())
    };
    all().iter().filter(same).collect()
}

/// Whether some weight file with a published SHA-256 has exactly this size, so that hashing a file of this size could
/// find it. Records without a size are not asked: [`sizes_unknown`] lists those.
pub fn could_match_size(bytes: u64) -> bool {
    CATALOG.weight_sizes.contains(&bytes)
}

/// Weight files with a published SHA-256 and no published size: [`could_match_size`] cannot rule them in or out.
pub fn sizes_unknown() -> Vec<&'static PublishedDigest> {
    all().iter().filter(|record| is_sha256_of_weights(record) && record.size.is_none()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn the_embedded_file_parses_whole() {
        let embedded: Embedded = serde_json::from_str(DATA).unwrap();
        assert_eq!(embedded.records.len(), 585);
        assert_eq!(all().len(), embedded.records.len());
    }

    #[test]
    fn every_record_is_well_formed_and_has_a_source() {
        for record in all() {
            assert_eq!(record.digest.len(), record.algorithm.hex_digits(), "{record:?}");
            assert!(record.digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{record:?}");
            for text in [&record.model, &record.file, &record.source, &record.confidence] {
                assert!(!text.trim().is_empty(), "{record:?}");
            }
            assert_ne!(record.size, Some(0), "{record:?}");
            let mirror = record.confidence.starts_with("LFS pointer");
            assert!(!mirror || record.identity_evidence.is_some(), "a mirror without evidence of identity: {record:?}");
        }
    }

    /// One weight digest under two makers' names would make every match ambiguous.
    #[test]
    fn a_weight_digest_names_one_file() {
        let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut sizes: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
        for record in all() {
            if record.kind.is_weights() {
                seen.entry(&record.digest).or_default().insert(&record.model);
            }
            sizes.entry(&record.digest).or_default().extend(record.size);
        }
        let shared: Vec<_> = seen.iter().filter(|(_, models)| models.len() > 1).collect();
        // The two shards of LLaMA-7B, listed under Meta's name and under that of the conversion that the list is of.
        assert!(
            shared.iter().all(|(_, models)| models.iter().eq(["LLaMA-7B", "huggyllama/llama-7b"].iter())),
            "{shared:?}"
        );
        assert_eq!(shared.len(), 2);
        assert!(sizes.values().all(|sizes| sizes.len() <= 1), "one digest, two sizes");
    }

    #[test]
    fn a_digest_is_found_in_either_case() {
        // consolidated.00.pth of LLaMA-7B, from llama.cpp's SHA256SUMS.
        let hex = "700df0d3013b703a806d2ae7f1bfb8e59814e3d06ae78be0c66368a50059f33d";
        let found = lookup_sha256(hex);
        assert_eq!(found.first().map(|record| record.model.as_str()), Some("LLaMA-7B"));
        assert_eq!(lookup_sha256(&hex.to_uppercase()), found);
        assert!(could_match_size(13_476_939_516));
        assert!(lookup_sha256(&hex[1..]).is_empty());
        assert!(lookup_sha256("").is_empty());
    }

    #[test]
    fn an_md5_is_never_taken_for_a_sha256() {
        let md5 = all().iter().find(|record| record.algorithm == Algorithm::Md5).unwrap();
        assert!(lookup_sha256(&md5.digest).is_empty());
    }

    #[test]
    fn sizes_are_those_of_weight_files_alone() {
        assert!(!could_match_size(0));
        let tokenizer = all().iter().filter(|record| record.kind == Kind::Tokenizer).find_map(|record| record.size);
        assert!(tokenizer.is_some_and(|size| !could_match_size(size)));
        assert!(sizes_unknown().iter().all(|record| record.size.is_none() && record.kind.is_weights()));
        assert!(!sizes_unknown().is_empty());
    }
}
