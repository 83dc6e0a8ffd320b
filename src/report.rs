//! The report: one schema, `weightprint/report/1`, filled from verdicts and evidence and rendered by writers.
//!
//! Its types are its own: a change inside the program reaches the schema only where the conversions of `build` let it.
//! Writers only render; nothing here computes a statistic.

mod build;
pub mod codes;
pub mod explain;
pub mod inspect;
mod json;
mod reference;
pub mod text;
pub(crate) mod words;
pub mod writer;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::build::Results;
pub use self::codes::{ClassCode, HowCode, ObstacleCode, PartCode, RenamedBy, StatusCode, TestCode};
pub use self::inspect::Inspection;
pub use self::reference::{FingerprintReport, KnownModel};
pub use self::writer::{WriteError, Writer};
pub use crate::finding::{Code as FindingCode, Finding, Level};

/// Name and version of the schema.
pub const SCHEMA: &str = "weightprint/report/1";

/// All that a scan or a comparison has to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Report {
    /// Always `weightprint/report/1`.
    pub schema: String,
    /// What was looked at.
    pub subject: SubjectReport,
    /// Whose architecture it is.
    pub architecture: ArchitectureReport,
    /// Whose weights they are.
    pub verdict: Verdict,
    /// The references that matter: those that share weights, those of the same structure, and the best unrelated one
    /// for contrast, strongest first.
    pub candidates: Vec<Candidate>,
    /// How many references were tested, and in what way.
    pub tested: Tested,
    /// Whether it was declared.
    pub declared: DeclaredReport,
    /// Remarks. One at error level stands in the way of a clean bill; none accuses.
    pub findings: Vec<Finding>,
    /// What made the report.
    pub tool: Tool,
}

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Subject")]
#[non_exhaustive]
pub struct SubjectReport {
    /// The path as it was given.
    pub path: String,
    /// The name used in sentences.
    pub name: String,
    /// Container format: `safetensors`, `gguf`, either with `sharded-` in front, or `merged`.
    pub format: String,
    /// Weight files.
    pub files: Vec<FileReport>,
    /// Number of values in floating-point tensors.
    pub parameters: u64,
    /// Share of the weights that a test compared with some reference, 0 to 1: of every weight of every tensor, and of what
    /// else in or beside the files may be weights. Digests alone compare nothing.
    pub coverage: f64,
    /// Everything that was not compared, largest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub untested: Vec<UntestedReport>,
    /// What was merged, if the subject is an adapter together with its base.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub merged: Option<MergedReport>,
}

/// Something that was not compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Untested")]
#[non_exhaustive]
pub struct UntestedReport {
    /// A file or a place in one, relative to the subject; or the names of tensors, with `*` for numbers.
    pub place: String,
    /// How many tensors; 0 for bytes that are none.
    pub tensors: usize,
    /// Stored bytes.
    pub bytes: u64,
    /// Why not.
    pub why: String,
}

/// What stands in the way of a clean bill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Obstacle")]
#[non_exhaustive]
pub struct ObstacleReport {
    /// Which kind.
    pub code: ObstacleCode,
    /// The same in words.
    pub says: String,
}

/// A file of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FileRecord")]
#[non_exhaustive]
pub struct FileReport {
    /// Path relative to the checkpoint's folder.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole file, where it is known: only if a published file has the same size, or may be in the same
    /// container where its size was not published, or if an adapter was merged.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<String>,
}

/// What a merged view was put together from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Merged")]
#[non_exhaustive]
pub struct MergedReport {
    /// The adapter: its repository, or the name of its folder.
    pub adapter: String,
    /// The base that it was merged into, likewise.
    pub base: String,
    /// The method, such as `LORA`.
    pub method: String,
    /// The ranks of its changes, ascending.
    pub ranks: Vec<u64>,
    /// The kinds of modules that it changes: the last part of their names.
    pub modules: Vec<String>,
    /// Number of the base's tensors that have a change added.
    pub changed: usize,
    /// Number of tensors that it replaces or adds whole.
    pub replaced: usize,
    /// How many of the subject's files, the last ones, are the adapter's; those before are the base's.
    pub adapter_files: usize,
}

/// Whose architecture it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct ArchitectureReport {
    /// Family: `llama`, `qwen2`, …, or `unknown`.
    pub family: String,
    /// Identifier of the nearest known architecture.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reference: Option<String>,
    /// Whether all its fields are equal.
    pub equal: bool,
    /// Known naming scheme of the tensors, if they follow one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub naming_scheme: Option<String>,
    /// Whether roles come from names (held against shapes) or from shapes alone.
    pub by: String,
    /// The fields of the canonical record.
    pub fields: BTreeMap<String, Value>,
    /// Tensors whose names differ from the canonical ones.
    pub renamed: Vec<RenamedReport>,
    /// The nearest known architectures, with their differences and sources.
    pub nearest: Vec<NearestReport>,
    /// What shapes could not tell.
    pub notes: Vec<String>,
}

/// A tensor name, or a pattern of names, that differs from the canonical one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Renamed")]
#[non_exhaustive]
pub struct RenamedReport {
    /// As found; `{layer}` and `{expert}` stand for numbers where several tensors follow one pattern.
    pub found: String,
    /// The canonical name: that of the counterpart in the matched reference, or that of the architecture's usual scheme.
    pub canonical: String,
    /// Number of tensors.
    pub count: usize,
    /// What settled it: `content` (the counterpart in a reference) or `structure` (names and shapes).
    pub by: RenamedBy,
}

/// A known architecture and how far it equals a checkpoint's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Nearest")]
#[non_exhaustive]
pub struct NearestReport {
    /// The record's id: its repository on the Hugging Face hub.
    pub id: String,
    /// The record's name.
    pub name: String,
    /// The record's release line.
    pub family: String,
    /// Whether no field that shapes show differs.
    pub equal: bool,
    /// Fields that are equal.
    pub fields_equal: usize,
    /// Fields that could be compared.
    pub fields: usize,
    /// Fields that differ.
    pub differs: Vec<DifferenceReport>,
    /// Ids of all records with these shapes, this one included: shape cannot tell them apart.
    pub group: Vec<String>,
    /// Where the record came from.
    pub source: Vec<String>,
    /// How far its shape is confirmed.
    pub verification: String,
}

/// A field in which a checkpoint and a record differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FieldDifference")]
#[non_exhaustive]
pub struct DifferenceReport {
    /// Name of the field in the architecture's record.
    #[schemars(description = "Name of the field in [`Architecture`].")]
    pub field: String,
    /// The checkpoint's value.
    pub found: Value,
    /// The record's value.
    pub expected: Value,
}

/// Whose weights they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Verdict {
    /// The class.
    pub class: ClassCode,
    /// References that share weights with the subject, strongest first.
    pub references: Vec<ReferenceShare>,
    /// log10 of the probability that independent training gives such evidence, corrected for all references tried.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log10_p: Option<f64>,
    /// Size of the effect, 0 to 1.
    pub effect: f64,
    /// What stands in the way of a clean bill. Where there is anything, that nothing was found is not a result.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub obstacles: Vec<ObstacleReport>,
    /// One or two sentences that a reader can defend.
    pub summary: String,
}

/// A reference and how much of the subject it accounts for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct ReferenceShare {
    /// The reference.
    pub id: String,
    /// Share of the subject's comparable parameters with a counterpart in it, 0 to 1; absent where only published
    /// norms or digests of the reference are known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub share: Option<f64>,
}

/// A reference that was tested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Candidate {
    /// The reference.
    pub id: String,
    /// What the evidence amounts to for this reference alone.
    pub class: ClassCode,
    /// Corrected log10 p of the strongest test.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log10_p: Option<f64>,
    /// Effect of that test, 0 to 1.
    pub effect: f64,
    /// Why this class, in words.
    pub because: String,
    /// Each test's evidence.
    pub tests: Vec<TestReport>,
    /// What was done to the reference: order, basis, sizes, layers. Only for references that share weights.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub changes: Vec<String>,
    /// Layers of the subject with the reference's layer that holds most of their counterparts.
    pub layers: Vec<LayerReport>,
    /// Parts of the subject with the share that has a counterpart.
    pub parts: Vec<PartReport>,
    /// Parts that are shared, for `shares-components`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub components: Vec<PartCode>,
    /// Every tensor of the subject with a counterpart in the reference; only for references that share weights.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub counterparts: Vec<Counterpart>,
}

/// What one test says of one pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Test")]
#[non_exhaustive]
pub struct TestReport {
    /// Which test.
    pub code: TestCode,
    /// Whether its conditions hold for this pair.
    pub applicable: bool,
    /// If not, why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why_not: Option<String>,
    /// The test's own statistic: equal tensors, correlation, rows on the common ratio, equal fields.
    pub statistic: f64,
    /// What the statistic was taken over: tensors, channels, usable rows, fields.
    pub n: u64,
    /// log10 of the probability of a statistic at least this large for independently trained models, before any
    /// correction for several references. Absent where the test has no null distribution.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log10_p: Option<f64>,
    /// Size of the effect, 0 to 1: the share of what was looked at that agrees.
    pub effect: f64,
    /// The result in words.
    pub says: String,
}

/// How much of a part of the suspect has a counterpart in the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PartShare")]
#[non_exhaustive]
pub struct PartReport {
    /// Which part.
    pub part: PartCode,
    /// Parameters of the suspect in it that could be compared.
    pub parameters: u64,
    /// Share of them in tensors with a counterpart, 0 to 1.
    pub matched: f64,
    /// Correlation of sampled values with the counterpart's at equal labels, averaged over matched parameters.
    pub correlation: f64,
}

/// How much of a layer of the suspect has its counterpart in a layer of the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LayerShare")]
#[non_exhaustive]
pub struct LayerReport {
    /// Layer of the reference.
    pub reference: u32,
    /// Layer of the suspect.
    pub suspect: u32,
    /// Share of the suspect layer's parameters whose counterpart lies in that layer, 0 to 1.
    pub share: f64,
}

/// A tensor and its counterpart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Counterpart {
    /// The subject's tensor.
    pub found: String,
    /// The reference's tensor.
    pub reference: String,
    /// How it was found.
    pub how: HowCode,
    /// Correlation of sampled values at equal labels; 1 where the values are equal.
    pub correlation: f64,
}

/// How many references were tested, and in what way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Tested {
    /// References with a weight fingerprint.
    pub weights: usize,
    /// How many of them were compared in full; the others by digests, channels and sampled values, and by a few of their
    /// neurons where none of those matched.
    pub in_full: usize,
    /// Models with published embedding norms; 0 where the subject has no embedding to hold against them.
    pub published_norms: usize,
    /// Published SHA-256 digests of weight files that every file of the subject was held against: by its own digest, or
    /// because its size or its container rules the published file out. 0 where nothing was, as in a comparison with one
    /// reference or for an adapter together with its base.
    pub published_digests: usize,
}

/// What was declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Declared")]
#[non_exhaustive]
pub struct DeclaredReport {
    /// `base_model` of the card's front matter.
    pub base_models: Vec<String>,
    /// `base_model_relation`: `adapter`, `merge`, `quantized` or `finetune`, as the card spells it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relation: Option<String>,
    /// `license` of the card.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub license: Option<String>,
    /// How it relates to the evidence.
    pub status: StatusCode,
    /// The same in words.
    pub says: String,
}

/// What made the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Tool {
    /// Program name.
    pub name: String,
    /// Program version.
    pub version: String,
    /// Thresholds and sampling that the verdict depends on.
    pub settings: BTreeMap<String, Value>,
    /// SHA-256 over the embedded data and every reference file: equal digests mean equal references.
    pub catalog_digest: String,
}

impl Report {
    /// The JSON Schema (draft 2020-12) of the report.
    pub fn json_schema() -> Value {
        schemars::schema_for!(Self).to_value()
    }
}
