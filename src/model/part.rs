//! The parts of a model that can be shared one without another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Role;

/// Parts of a model that can be shared one without another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Token, position and type embeddings, and the output head.
    Embedding,
    /// Query, key, value and output matrices with their biases and norms.
    Attention,
    /// Feed-forward matrices, experts and routers.
    Mlp,
    /// Norm gains and whatever else has a known role.
    Other,
    /// Tensors without a role.
    Unknown,
}

impl Part {
    /// The part as reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Mlp => "mlp",
            Self::Other => "other",
            Self::Unknown => "unknown",
        }
    }

    /// The part to which tensors of these roles belong; several roles are alternatives of one part.
    pub fn of(roles: &[Role]) -> Self {
        let Some(role) = roles.first() else { return Self::Unknown };
        let name = role.as_str();
        if name.contains("embd") || name.starts_with("output") && !name.contains("norm") {
            Self::Embedding
        } else if name.contains("norm") {
            Self::Other
        } else if name.starts_with("attn") {
            Self::Attention
        } else if ["ffn", "expert", "shared_expert", "router"].iter().any(|prefix| name.starts_with(prefix)) {
            Self::Mlp
        } else {
            Self::Other
        }
    }
}
