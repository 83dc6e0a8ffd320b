//! What the headers of a checkpoint say, without a byte of weights being read: `weightprint/inspect/1`.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::NearestReport;
use crate::anatomy::{self, Anatomy, Assignment, NamingMatch, Residual};
use crate::assemble::Logical;
use crate::checkpoint::Checkpoint;
use crate::finding::Finding;
use crate::model::known::Nearest;
use crate::tensor::{Storage, TensorMeta};
use crate::text::in_order;

/// Name and version of the form.
pub const SCHEMA: &str = "weightprint/inspect/1";

/// All that the headers say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Inspection {
    /// Always `weightprint/inspect/1`.
    pub schema: String,
    /// The path as it was given.
    pub path: String,
    /// Container format.
    pub format: String,
    /// Weight files.
    pub files: Vec<InspectedFile>,
    /// Number of values in floating-point tensors.
    pub parameters: u64,
    /// What the tensors make together.
    pub anatomy: InspectedAnatomy,
    /// The nearest known architectures.
    pub nearest: Vec<NearestReport>,
    /// Remarks.
    pub findings: Vec<Finding>,
    /// Every tensor, in the order of the files.
    pub tensors: Vec<InspectedTensor>,
}

/// A weight file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InspectedFile {
    /// Path relative to the checkpoint's folder.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// What the tensors make together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InspectedAnatomy {
    /// The fields of the canonical record.
    pub architecture: Fields,
    /// The naming scheme, where the names follow a known one.
    pub naming: Option<InspectedNaming>,
    /// Names that differ from the usual ones.
    pub renamed: Vec<InspectedName>,
    /// What most roles come from: `names` or `shapes`.
    pub by: String,
    /// What could not be told, and what was left out.
    pub notes: Vec<String>,
}

/// The naming scheme that a checkpoint follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InspectedNaming {
    /// Id of the scheme.
    pub scheme: String,
    /// Its title.
    pub title: String,
    /// What stands in front of the scheme's names.
    pub prefix: String,
    /// Tensors whose name and shape fit the scheme.
    pub matched: usize,
    /// Tensors of the language model, quantisation data aside.
    pub of: usize,
}

/// A tensor, or one of every layer, that does not have its usual name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InspectedName {
    /// The name found, with `{layer}` and `{expert}` for numbers that vary.
    pub found: String,
    /// The usual name.
    pub canonical: String,
    /// What the tensor is for.
    pub role: String,
    /// How many tensors this is about.
    pub count: usize,
}

/// A tensor as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InspectedTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The file that it lies in.
    pub file: String,
    /// Its first byte there.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it is for.
    #[serde(flatten)]
    pub place: InspectedPlace,
    /// What it is read as, where that is not what is stored.
    #[serde(skip_serializing_if = "<[_]>::is_empty", default)]
    pub parts: Vec<InspectedPart>,
}

/// A tensor as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InspectedPart {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What it is for.
    #[serde(flatten)]
    pub place: InspectedPlace,
}

/// What is known of a tensor's place in the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InspectedPlace {
    /// Its role; several where shape cannot tell, none where it is unknown.
    pub roles: Vec<String>,
    /// The layer that its name states.
    pub layer: Option<u32>,
    /// The expert that its name states.
    pub expert: Option<u32>,
    /// How the role was found: by `names` or by `shapes`.
    pub by: Option<String>,
    /// How it touches the residual stream.
    pub residual: ResidualCode,
}

/// How a tensor touches the residual stream. Axes count from zero, outermost first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ResidualCode {
    /// A matrix that reads the stream; its channels lie along this axis.
    Reads(usize),
    /// A matrix that writes to the stream; its channels lie along this axis.
    Writes(usize),
    /// An embedding or an output head; its channels lie along this axis.
    Embeds(usize),
    /// A vector that multiplies the stream.
    Gain,
    /// A vector that is added to the stream.
    Bias,
    /// It does touch the stream, but shape cannot tell how.
    Ambiguous,
    /// It does not touch the stream, or its role is unknown.
    None,
}

/// What `inspect` found out about a checkpoint.
pub(crate) struct Seen<'a> {
    pub(crate) path: &'a Path,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) anatomy: &'a Anatomy,
    /// The tensors as they are read, where that is not as they are stored.
    pub(crate) logical: Option<&'a Logical>,
    pub(crate) nearest: Vec<Nearest>,
    pub(crate) findings: Vec<Finding>,
}

impl TryFrom<Seen<'_>> for Inspection {
    type Error = serde_json::Error;

    fn try_from(seen: Seen<'_>) -> serde_json::Result<Self> {
        let Seen { path, checkpoint, anatomy, logical, nearest, findings } = seen;
        let file = |shard: &crate::checkpoint::Shard| InspectedFile { path: shard.name.clone(), bytes: shard.bytes };
        Ok(Self {
            schema: SCHEMA.to_owned(),
            path: path.display().to_string(),
            format: checkpoint.format.as_str().to_owned(),
            files: checkpoint.shards.iter().map(file).collect(),
            parameters: checkpoint.parameters(),
            anatomy: anatomy.try_into()?,
            nearest: nearest.into_iter().map(NearestReport::from).collect(),
            findings,
            tensors: tensors(checkpoint, anatomy, logical),
        })
    }
}

fn tensors(checkpoint: &Checkpoint, anatomy: &Anatomy, logical: Option<&Logical>) -> Vec<InspectedTensor> {
    let mut parts = logical.map(|logical| parts(&checkpoint.tensors, logical).into_iter());
    let stored = checkpoint.tensors.iter().zip(&anatomy.assignments);
    let tensor = |(tensor, assignment): (&TensorMeta, &Assignment)| InspectedTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.to_string(),
        shape: tensor.shape.clone(),
        file: checkpoint.shards[tensor.first_extent().shard].name.clone(),
        offset: tensor.first_extent().offset,
        bytes: tensor.stored_bytes(),
        place: assignment.into(),
        parts: parts.as_mut().and_then(Iterator::next).unwrap_or_default(),
    };
    stored.map(tensor).collect()
}

/// The logical tensors of each stored one, in order; none where it is read as it is.
fn parts(tensors: &[TensorMeta], logical: &Logical) -> Vec<Vec<InspectedPart>> {
    let mut parts: Vec<Vec<InspectedPart>> = tensors.iter().map(|_| Vec::new()).collect();
    let seen = logical.tensors.iter().zip(&logical.anatomy.assignments).zip(&logical.stored);
    for ((part, assignment), &stored) in seen {
        // A gain with the one added is the same tensor, in the same place; a note tells it.
        let is_gain = matches!(part.storage, Storage::PlusOne(_));
        if *part != tensors[stored] && !is_gain {
            let (name, shape) = (part.name.clone(), part.shape.clone());
            parts[stored].push(InspectedPart { name, shape, place: assignment.into() });
        }
    }
    parts
}

impl TryFrom<&Anatomy> for InspectedAnatomy {
    type Error = serde_json::Error;

    fn try_from(anatomy: &Anatomy) -> serde_json::Result<Self> {
        Ok(Self {
            architecture: Fields::of(&anatomy.architecture)?,
            naming: anatomy.naming.as_ref().map(InspectedNaming::from),
            renamed: anatomy.renamed.iter().map(InspectedName::from).collect(),
            by: anatomy.by.as_str().to_owned(),
            notes: anatomy.notes.clone(),
        })
    }
}

impl From<&NamingMatch> for InspectedNaming {
    fn from(naming: &NamingMatch) -> Self {
        let NamingMatch { scheme, title, prefix, matched, of } = naming.clone();
        Self { scheme, title, prefix, matched, of }
    }
}

impl From<&anatomy::Renamed> for InspectedName {
    fn from(row: &anatomy::Renamed) -> Self {
        let (found, canonical) = (row.found.clone(), row.canonical.clone());
        Self { found, canonical, role: row.role.as_str().to_owned(), count: row.count }
    }
}

impl From<&Assignment> for InspectedPlace {
    fn from(assignment: &Assignment) -> Self {
        Self {
            roles: assignment.roles.iter().map(|role| role.as_str().to_owned()).collect(),
            layer: assignment.layer,
            expert: assignment.expert,
            by: assignment.by.map(|by| by.as_str().to_owned()),
            residual: assignment.residual.into(),
        }
    }
}

impl From<Residual> for ResidualCode {
    fn from(residual: Residual) -> Self {
        match residual {
            Residual::Reads(axis) => Self::Reads(axis),
            Residual::Writes(axis) => Self::Writes(axis),
            Residual::Embeds(axis) => Self::Embeds(axis),
            Residual::Gain => Self::Gain,
            Residual::Bias => Self::Bias,
            Residual::Ambiguous => Self::Ambiguous,
            Residual::None => Self::None,
        }
    }
}

/// The fields of a record in its own order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fields(Vec<(String, Field)>);

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Field {
    /// A record of its own.
    Record(Fields),
    /// Anything else.
    Plain(Value),
}

impl Fields {
    pub(super) fn of(record: &impl Serialize) -> serde_json::Result<Self> {
        serde_json::from_str(&serde_json::to_string(record)?)
    }

    /// The field of this name.
    pub fn get(&self, name: &str) -> Option<&Field> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, field)| field)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, field)| (name, field)))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        in_order(deserializer, "a record").map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_in_records_within_records_too() {
        let text = r#"{"b":1,"a":{"d":null,"c":[2]}}"#;
        let fields: Fields = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&fields).unwrap(), text);
        assert_eq!(fields.get("b"), Some(&Field::Plain(Value::from(1))));
    }
}
