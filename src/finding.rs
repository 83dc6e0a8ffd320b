//! Remarks that a report carries beside its verdict, as data with stable codes.
//!
//! A finding never moves a verdict; writers only render it. [`explain`](crate::report::explain) says what each code means.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much a reader should mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Worth knowing.
    Note,
    /// Something is off, or something could not be looked at.
    Warning,
    /// The checkpoint is damaged in a way that limits what was tested.
    Error,
}

/// The kinds of findings. Codes are stable: scripts match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The index names a shard that is not there.
    ShardMissing,
    /// A weight file lies in the folder that the index does not name.
    ShardExtra,
    /// The index and a shard's header disagree about where a tensor is.
    IndexMismatch,
    /// A tensor's element type is unknown to this version; its values were not read.
    DtypeUnknown,
    /// A tensor has NaN or infinite values.
    NonFinite,
    /// A tensor holds one value throughout.
    ConstantTensor,
    /// A tensor has no elements.
    EmptyTensor,
    /// Values follow from a formula (rotary frequencies, sinusoidal positions, masks), not from training.
    FormulaTensor,
    /// Bytes between tensors belong to none of them.
    HeaderGap,
    /// Training state or another file that is not weights was left out.
    FileLeftOut,
    /// A file is a Git-LFS pointer: its weights were not downloaded.
    LfsPointer,
    /// A pickle names functions that are not needed to rebuild tensors; none of them was called.
    PickleRefused,
    /// Several names stand for one tensor, which was read once.
    SharedStorage,
    /// The checkpoint is an adapter: it changes a base model that is not part of it.
    NeedsBase,
    /// An adapter was merged into its base as it was read.
    AdapterMerged,
    /// Parts of one model disagree about a tensor that each of them holds whole.
    PartsDisagree,
    /// A tensor's values lie in an order that this version does not follow; they were not read.
    ValuesNotRead,
    /// `config.json` contradicts the shapes of the tensors.
    ConfigMismatch,
    /// `config.json`, the model card or the tokenizer could not be read.
    SidecarUnreadable,
    /// The architecture match has no weight fingerprint in any catalog.
    WeightsNotTested,
    /// A whole file's digest equals a published one.
    PublishedDigest,
    /// Channel labels carry an order of their own, so label tests on channels have no null distribution.
    OrderedChannels,
}

impl Code {
    /// Every code, in the order in which `explain` lists them.
    pub const ALL: [Self; 22] = [
        Self::ShardMissing,
        Self::ShardExtra,
        Self::IndexMismatch,
        Self::DtypeUnknown,
        Self::NonFinite,
        Self::ConstantTensor,
        Self::EmptyTensor,
        Self::FormulaTensor,
        Self::HeaderGap,
        Self::FileLeftOut,
        Self::LfsPointer,
        Self::PickleRefused,
        Self::SharedStorage,
        Self::NeedsBase,
        Self::AdapterMerged,
        Self::PartsDisagree,
        Self::ValuesNotRead,
        Self::ConfigMismatch,
        Self::SidecarUnreadable,
        Self::WeightsNotTested,
        Self::PublishedDigest,
        Self::OrderedChannels,
    ];

    /// The code as reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ShardMissing => "shard-missing",
            Self::ShardExtra => "shard-extra",
            Self::IndexMismatch => "index-mismatch",
            Self::DtypeUnknown => "dtype-unknown",
            Self::NonFinite => "non-finite",
            Self::ConstantTensor => "constant-tensor",
            Self::EmptyTensor => "empty-tensor",
            Self::FormulaTensor => "formula-tensor",
            Self::HeaderGap => "header-gap",
            Self::FileLeftOut => "file-left-out",
            Self::LfsPointer => "lfs-pointer",
            Self::PickleRefused => "pickle-refused",
            Self::SharedStorage => "shared-storage",
            Self::NeedsBase => "needs-base",
            Self::AdapterMerged => "adapter-merged",
            Self::PartsDisagree => "parts-disagree",
            Self::ValuesNotRead => "values-not-read",
            Self::ConfigMismatch => "config-mismatch",
            Self::SidecarUnreadable => "sidecar-unreadable",
            Self::WeightsNotTested => "weights-not-tested",
            Self::PublishedDigest => "published-digest",
            Self::OrderedChannels => "ordered-channels",
        }
    }
}

/// One remark, with the place it is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What kind of remark.
    pub code: Code,
    /// How much a reader should mind.
    pub level: Level,
    /// One sentence, lower-case, with names and numbers.
    pub message: String,
    /// The file, tensor or candidate that it is about, relative to the subject.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub location: Option<String>,
}

impl Finding {
    /// A finding about `location`.
    pub fn new(code: Code, level: Level, message: impl Into<String>, location: impl Into<Option<String>>) -> Self {
        Self { code, level, message: message.into(), location: location.into() }
    }
}

/// Findings of one kind, the first of them told and the rest counted, so that a hostile file cannot flood a report.
pub(crate) struct Capped {
    code: Code,
    level: Level,
    told: Vec<Finding>,
    untold: u64,
}

impl Capped {
    const MOST: usize = 20;

    pub(crate) fn new(code: Code, level: Level) -> Self {
        Self { code, level, told: Vec::new(), untold: 0 }
    }

    pub(crate) fn push(&mut self, message: impl FnOnce() -> String, location: impl FnOnce() -> String) {
        if self.told.len() < Self::MOST {
            self.told.push(Finding::new(self.code, self.level, message(), location()));
        } else {
            self.untold += 1;
        }
    }

    /// All of them, with a last one saying how many `more` there are.
    pub(crate) fn finish(mut self, more: &str) -> Vec<Finding> {
        if self.untold > 0 {
            self.told.push(Finding::new(self.code, self.level, format!("{} {more}", self.untold), None));
        }
        self.told
    }
}
