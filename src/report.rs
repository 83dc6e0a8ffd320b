//! The report: one schema, `weightprint/report/1`, filled from verdicts and evidence and rendered by writers.
//!
//! Writers only render; nothing here computes a statistic.

pub mod text;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::catalog::architectures::Nearest;
use crate::checkpoint::adapter::Merged;
use crate::compare::matching::How;
use crate::compare::{LayerShare, Part, PartShare, Test};
use crate::finding::Finding;
use crate::fingerprint::FileRecord;
use crate::verdict::Class;
use crate::verdict::declared::Declared;

/// Name and version of the schema.
pub const SCHEMA: &str = "weightprint/report/1";

/// All that a scan or a comparison has to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Always `weightprint/report/1`.
    pub schema: String,
    /// What was looked at.
    pub subject: Subject,
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
    pub declared: Declared,
    /// Remarks; they never move the verdict.
    pub findings: Vec<Finding>,
    /// What made the report.
    pub tool: Tool,
}

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// The path as it was given.
    pub path: String,
    /// The name used in sentences.
    pub name: String,
    /// Container format: `safetensors`, `gguf`, either with `sharded-` in front, or `merged`.
    pub format: String,
    /// Weight files.
    pub files: Vec<FileRecord>,
    /// Number of values in floating-point tensors.
    pub parameters: u64,
    /// Share of them in tensors that at least one applicable test looked at, 0 to 1.
    pub coverage: f64,
    /// What was merged, if the subject is an adapter together with its base.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub merged: Option<Merged>,
}

/// Whose architecture it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    pub renamed: Vec<Renamed>,
    /// The nearest known architectures, with their differences and sources.
    pub nearest: Vec<Nearest>,
    /// What shapes could not tell.
    pub notes: Vec<String>,
}

/// A tensor name, or a pattern of names, that differs from the canonical one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Renamed {
    /// As found; `{layer}` and `{expert}` stand for numbers where several tensors follow one pattern.
    pub found: String,
    /// The canonical name: that of the counterpart in the matched reference, or that of the architecture's usual scheme.
    pub canonical: String,
    /// Number of tensors.
    pub count: usize,
    /// What settled it: `content` (the counterpart in a reference) or `structure` (names and shapes).
    pub by: RenamedBy,
}

/// What settled a canonical name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RenamedBy {
    /// The tensor's counterpart in a reference, found by its values.
    Content,
    /// Names and shapes.
    Structure,
}

/// Whose weights they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The class.
    pub class: Class,
    /// References that share weights with the subject, strongest first.
    pub references: Vec<ReferenceShare>,
    /// log10 of the probability that independent training gives such evidence, corrected for all references tried.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log10_p: Option<f64>,
    /// Size of the effect, 0 to 1.
    pub effect: f64,
    /// One or two sentences that a reader can defend.
    pub summary: String,
}

/// A reference and how much of the subject it accounts for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
pub struct Candidate {
    /// The reference.
    pub id: String,
    /// What the evidence amounts to for this reference alone.
    pub class: Class,
    /// Corrected log10 p of the strongest test.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log10_p: Option<f64>,
    /// Effect of that test, 0 to 1.
    pub effect: f64,
    /// Why this class, in words.
    pub because: String,
    /// Each test's evidence.
    pub tests: Vec<Test>,
    /// What was done to the reference: order, basis, sizes, layers. Only for references that share weights.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub changes: Vec<String>,
    /// Layers of the subject with the reference's layer that holds most of their counterparts.
    pub layers: Vec<LayerShare>,
    /// Parts of the subject with the share that has a counterpart.
    pub parts: Vec<PartShare>,
    /// Parts that are shared, for `shares-components`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub components: Vec<Part>,
    /// Every tensor of the subject with a counterpart in the reference; only for references that share weights.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub counterparts: Vec<Counterpart>,
}

/// A tensor and its counterpart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Counterpart {
    /// The subject's tensor.
    pub found: String,
    /// The reference's tensor.
    pub reference: String,
    /// How it was found.
    pub how: How,
    /// Correlation of sampled values at equal labels; 1 where the values are equal.
    pub correlation: f64,
}

/// How many references were tested, and in what way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// What made the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// The report as JSON, indented, with a newline at the end. Fields come in the order of the schema.
    ///
    /// # Errors
    /// Never for a report that this crate made.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }

    /// The JSON Schema (draft 2020-12) of the report.
    pub fn json_schema() -> Value {
        schemars::schema_for!(Self).to_value()
    }
}
