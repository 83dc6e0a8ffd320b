//! Published digests of weight files and of the files beside them, compiled in.
//!
//! A digest tells an exact copy of one file and nothing else: re-saving, re-sharding or a changed metadata key alters
//! it, so "not in this list" means nothing. Most records come from Git-LFS pointers in third-party mirrors; their
//! [`confidence`](PublishedDigest::confidence) says how sure it is that the mirror holds the model it names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::Deserialize;

/// The embedded data, as JSON.
pub(crate) const DATA: &str = include_str!("../data/digests.json");

/// How a digest was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
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
    /// How many files make up the model in this form, where the file is numbered and its name does not tell.
    #[serde(default)]
    pub parts: Option<u64>,
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

/// What a weight file is by its content, as far as digests without a size have to tell files apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Container {
    /// One GGUF file that is a whole model.
    Gguf,
    /// What `torch.save` writes.
    Torch,
}

impl Container {
    /// The container of files in a format, by the name that reports give it. Split GGUF files are in none: no digest
    /// without a size is of one.
    pub fn of_format(format: &str) -> Option<Self> {
        match format {
            "gguf" => Some(Self::Gguf),
            "torch" | "sharded-torch" => Some(Self::Torch),
            _ => None,
        }
    }

    /// The container of a file that was not opened, as its name has it.
    pub fn of_name(name: &str) -> Option<Self> {
        match ending(name) {
            "gguf" => Some(Self::Gguf),
            "bin" | "pt" | "pth" => Some(Self::Torch),
            _ => None,
        }
    }
}

/// What follows the last dot of a name; the name where it has none.
fn ending(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

impl PublishedDigest {
    /// Whether it is the SHA-256 of a file with weights.
    fn is_sha256_of_weights(&self) -> bool {
        self.algorithm == Algorithm::Sha256 && self.kind.is_weights()
    }

    /// What the file is by its content; `None` for containers of which all sizes were published.
    fn container(&self) -> Option<Container> {
        // Galleries and registries store quantised GGUF under other names too.
        match (ending(&self.file), self.kind) {
            ("bin" | "blob", Kind::QuantizedWeights) => Some(Container::Gguf),
            _ => Container::of_name(&self.file),
        }
    }
}

struct Catalog {
    records: Vec<PublishedDigest>,
    weight_sizes: BTreeSet<u64>,
    /// Containers of weight files whose size was not published.
    without_size: BTreeSet<Option<Container>>,
}

/// A test holds that the embedded file parses, so the empty fall-back never shows.
static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let parsed: Result<Embedded, _> = serde_json::from_str(DATA);
    let records = parsed.map(|embedded| embedded.records).unwrap_or_default();
    let weights = || records.iter().filter(|record| record.is_sha256_of_weights());
    let weight_sizes = weights().filter_map(|record| record.size).collect();
    let without_size = weights().filter(|record| record.size.is_none()).map(PublishedDigest::container).collect();
    Catalog { weight_sizes, without_size, records }
});

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

/// Whether a weight file of this size and container could be one with a published SHA-256, so that hashing it could
/// find it. Where the size was published too it decides; where it was not, every file in the same container may be
/// meant. Those are quantised GGUF and older PyTorch files, so that safetensors, of which all sizes are known, are
/// never hashed for nothing.
pub fn could_be(bytes: u64, container: Option<Container>) -> bool {
    CATALOG.weight_sizes.contains(&bytes) || container.is_some() && CATALOG.without_size.contains(&container)
}

/// How many published digests of weight files a file was held against: all if its own digest is known; otherwise those
/// that its size or its container rules out.
pub fn held_against(is_hashed: bool, container: Option<Container>) -> usize {
    let held = |record: &&PublishedDigest| {
        let ruled_out = || record.size.is_some() || record.container() != container;
        record.is_sha256_of_weights() && (is_hashed || ruled_out())
    };
    all().iter().filter(held).map(|record| record.digest.as_str()).collect::<BTreeSet<_>>().len()
}

/// Published files that make up a model together in one form: the shards of one numbering, or one file. Other formats,
/// numbers of shards and quantisations of the model are forms of their own.
#[derive(Debug)]
pub struct PublishedForm<'a> {
    /// Its files of which the digest was published.
    pub records: Vec<&'a PublishedDigest>,
    /// How many files there are, published or not; `None` where the records do not tell.
    pub files: Option<u64>,
}

impl PublishedForm<'_> {
    /// Whether it holds a model of its own, not what is added to one.
    pub fn is_model(&self) -> bool {
        self.records.iter().all(|record| record.kind != Kind::Adapter)
    }
}

/// The forms that have a weight file with one of these SHA-256s, in the order of the embedded file.
pub fn forms_with(digests: &BTreeSet<&str>) -> Vec<PublishedForm<'static>> {
    let has = |form: &PublishedForm<'_>| form.records.iter().any(|record| digests.contains(record.digest.as_str()));
    forms(all()).into_iter().filter(has).collect()
}

/// All forms, in the order of their first records.
fn forms(records: &[PublishedDigest]) -> Vec<PublishedForm<'_>> {
    let mut at = BTreeMap::new();
    let mut forms: Vec<(Vec<&PublishedDigest>, Numbers)> = Vec::new();
    for record in records.iter().filter(|record| record.is_sha256_of_weights()) {
        let (form, number, total) = numbering(&record.file);
        let key = (&record.model, &record.layout, &record.source, form);
        let index = *at.entry(key).or_insert_with(|| {
            forms.push((Vec::new(), Numbers { total: total.or(record.parts), from_zero: false }));
            forms.len() - 1
        });
        forms[index].0.push(record);
        // Numbers up to the stated total that begin with 0 are one more than it says.
        forms[index].1.from_zero |= total.is_some() && number == Some(0);
    }
    let form = |(records, Numbers { total, from_zero })| PublishedForm {
        records,
        files: total.map(|total| total + u64::from(from_zero)),
    };
    forms.into_iter().map(form).collect()
}

/// What numbered names and records say of how many files there are.
struct Numbers {
    total: Option<u64>,
    from_zero: bool,
}

/// A file's name without its number, its number, and how many there are, as far as the name tells: `NAME-2-of-5.EXT`,
/// and `consolidated.02.EXT`, which is numbered from 0 and does not say how far. A file without a number is a whole.
fn numbering(file: &str) -> (String, Option<u64>, Option<u64>) {
    let whole = (file.to_owned(), None, Some(1));
    let Some((stem, ending)) = file.rsplit_once('.') else { return whole };
    if let Some((head, total)) = stem.rsplit_once("-of-")
        && let Some((name, number)) = head.rsplit_once('-')
        && let (Ok(number), Ok(total)) = (number.parse(), total.parse())
    {
        return (format!("{name}-of-{total}.{ending}"), Some(number), Some(total));
    }
    match stem.rsplit_once('.').map(|(name, number)| (name, number.parse())) {
        Some((name, Ok(number))) if name.rsplit('/').next() == Some("consolidated") => {
            (format!("{name}.{ending}"), Some(number), None)
        }
        _ => whole,
    }
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
        assert!(could_be(13_476_939_516, None));
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
        assert!(!could_be(0, None));
        let tokenizer = all().iter().filter(|record| record.kind == Kind::Tokenizer).find_map(|record| record.size);
        assert!(tokenizer.is_some_and(|size| !could_be(size, None)));
    }

    #[test]
    fn every_digest_without_a_size_is_reached_by_its_container() {
        for record in all().iter().filter(|record| record.is_sha256_of_weights() && record.size.is_none()) {
            assert!(record.container().is_some() && could_be(1, record.container()), "{record:?}");
            assert!(!record.file.contains("-of-") || record.container() == Some(Container::Torch), "{record:?}");
        }
        for format in ["safetensors", "sharded-safetensors", "sharded-gguf", "onnx"] {
            assert!(!could_be(1, Container::of_format(format)), "{format}");
        }
    }

    #[test]
    fn a_file_is_held_against_what_its_digest_its_size_or_its_container_rules_out() {
        let weights: BTreeSet<_> = all().iter().filter(|r| r.is_sha256_of_weights()).map(|r| &r.digest).collect();
        assert_eq!(weights.len(), 493);
        assert_eq!(held_against(true, Some(Container::Torch)), 493);
        assert_eq!(held_against(false, None), 493);
        assert!(held_against(false, Some(Container::Gguf)) < held_against(false, Some(Container::Torch)));
    }

    #[test]
    fn forms_know_how_many_files_they_have() {
        let forms = forms(all());
        let files = |model: &str, first: &str| {
            let is = |form: &&PublishedForm<'_>| form.records[0].model == model && form.records[0].file == first;
            forms.iter().find(is).map(|form| (form.records.len(), form.files))
        };
        for (model, first, records, all) in [
            ("huggyllama/llama-7b", "model-00001-of-00002.safetensors", 2, 2),
            ("huggyllama/llama-7b", "pytorch_model-00001-of-00002.bin", 2, 2),
            ("LLaMA-65B", "consolidated.00.pth", 8, 8),
            ("meta-llama/Llama-3.1-405B (variant unknown, MP16)", "consolidated.00.pth", 11, 16),
            ("EleutherAI/gpt-j-6b", "pytorch_model.bin", 1, 1),
            // Numbered from 0 to 2.
            ("openai/gpt-oss-20b", "model-00000-of-00002.safetensors", 3, 3),
        ] {
            assert_eq!(files(model, first), Some((records, Some(all))), "{model}: {first}");
        }
        for form in &forms {
            let known = form.records.len() as u64;
            assert!(form.files.is_some_and(|files| files >= known), "more files than the form has: {form:?}");
        }
    }

    #[test]
    fn numbered_files_without_a_total_are_of_a_form_of_unknown_size() {
        let record = |file: &str| PublishedDigest { file: file.to_owned(), parts: None, ..all()[0].clone() };
        let records = [record("consolidated.00.pth"), record("consolidated.01.pth"), record("model-1.5.gguf")];
        let sizes: Vec<_> = forms(&records).iter().map(|form| (form.records.len(), form.files)).collect();
        assert_eq!(sizes, [(2, None), (1, Some(1))]);
    }
}
