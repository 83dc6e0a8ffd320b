//! What lies with a model and was not read as part of it: counted, so that a clean bill never rests on a part.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Unread bytes that come to less than this part of those that were read do not stand in the way of a clean bill: a model
/// that is hidden beside another is rarely a hundred times smaller, and what trainers leave beside a model often is.
pub(crate) const NEGLIGIBLE_PART: u64 = 100;

/// Bytes in or beside a model that no test looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Unread {
    /// File or place, relative to the model's folder: `old/model.safetensors`, or `model.safetensors: after the last tensor`.
    pub place: String,
    /// How many bytes. Of code, its length: it counts as no weights.
    pub bytes: u64,
    /// What they are, as far as that was made out.
    pub what: UnreadKind,
}

impl Unread {
    /// So many bytes at a place.
    pub fn new(place: impl Into<String>, bytes: u64, what: UnreadKind) -> Self {
        Self { place: place.into(), bytes, what }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $weights:literal;)*) => {
        /// What unread bytes are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[non_exhaustive]
        pub enum UnreadKind {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl UnreadKind {
            /// Whether the bytes may be weights, so that they count among what there was to look at.
            pub fn may_be_weights(self) -> bool {
                match self { $(Self::$variant => $weights,)* }
            }
        }
    };
}

kinds! {
    /// A weight file that is no part of the model that was read: another model, a layout of its own, a left-out shard.
    WeightFile = "weight-file", true;
    /// Weights in a format that is not read.
    ForeignWeights = "foreign-weights", true;
    /// A file whose content was not made out and is dense enough to be weights.
    UnknownFile = "unknown-file", true;
    /// What a trainer keeps beside the model: the optimizer's state and the like. Moments of an optimizer are no weights,
    /// but the file may hold a model as well.
    TrainingState = "training-state", true;
    /// Tensors in a weight file beside the model that was read there: an average of it, another network.
    LeftOut = "left-out", true;
    /// Bytes of a weight file that belong to no tensor and to nothing else that the format knows.
    Gap = "gap", true;
    /// Pictures, sounds, films and documents that come to so much that weights may lie in them.
    Media = "media", true;
    /// Texts that come to so much that weights may lie in them.
    Texts = "texts", true;
    /// Data in place of text: in metadata, a configuration, a tokenizer.
    EmbeddedData = "embedded-data", true;
    /// A folder that could not be looked at: how much lies there is not known.
    UnlistedFolder = "unlisted-folder", true;
    /// A link that leads out of the folder and was not followed.
    OutsideLink = "outside-link", true;
    /// Code that loaders run when they are told to trust it.
    RemoteCode = "remote-code", false;
}
