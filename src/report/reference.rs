//! What can be told of a reference without its arrays: of a fingerprint, and of an architecture that is compiled in.

use serde::{Deserialize, Serialize};

use super::FileReport;
use super::inspect::Fields;
use crate::fingerprint::{Exact, Fingerprint};
use crate::model::known;

/// What a fingerprint was taken from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FingerprintReport {
    /// Identifier as a reference of a catalog, if it is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
    /// The repository if known, otherwise the name of the folder or file.
    pub name: String,
    /// Container format of the checkpoint.
    pub format: String,
    /// Version of the program that took it.
    pub tool_version: String,
    /// Number of values in floating-point tensors.
    pub parameters: u64,
    /// Number of tensors.
    pub tensors: usize,
    /// Weight files of the checkpoint.
    pub files: Vec<FileReport>,
    /// Family of the architecture.
    pub family: String,
    /// The architecture record.
    pub architecture: Fields,
}

impl From<&Fingerprint> for FingerprintReport {
    fn from(fingerprint: &Fingerprint) -> Self {
        let Exact { subject, architecture, tensors, .. } = &fingerprint.exact;
        Self {
            id: subject.id.clone(),
            name: subject.name.clone(),
            format: subject.format.clone(),
            tool_version: subject.tool_version.clone(),
            parameters: subject.parameters,
            tensors: tensors.len(),
            files: subject.files.iter().map(FileReport::from).collect(),
            family: architecture.family.to_string(),
            architecture: fields(architecture),
        }
    }
}

/// An open model whose architecture is compiled in. Its weights are not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KnownModel {
    /// Its repository.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Family of its architecture.
    pub family: String,
    /// How the record was checked.
    pub verification: String,
    /// The record, with its sources.
    pub record: Fields,
}

impl KnownModel {
    /// Every model that is compiled in.
    pub fn all() -> impl Iterator<Item = Self> {
        known::records().map(Self::from)
    }

    /// The model with this repository or name.
    pub fn find(id: &str) -> Option<Self> {
        known::find(id).map(Self::from)
    }
}

impl From<&known::Record> for KnownModel {
    fn from(record: &known::Record) -> Self {
        Self {
            id: record.hf_repo.clone(),
            name: record.name.clone(),
            family: record.family.to_string(),
            verification: record.verification.clone(),
            record: fields(record),
        }
    }
}

/// The fields of a record of this crate, none of which JSON cannot hold.
fn fields(record: &impl Serialize) -> Fields {
    Fields::of(record).unwrap_or_default()
}
