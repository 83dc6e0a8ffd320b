//! Families of architectures, and what hangs on the family alone.
//!
//! A family is a set of features that shapes show, or a block that the names of its tensors and their shapes make
//! together; no claim makes one. Whatever a family decides is a method here, so that every such decision is seen in one
//! place.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::block;

macro_rules! families {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// A family of architectures, as its shapes show it. The spelling is that of reports and of the naming catalog.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[non_exhaustive]
        pub enum Family {
            $($(#[$doc])* $variant,)*
            /// An architecture whose block is recorded ([`block`]), and that no feature tells.
            Recorded(&'static str),
            /// Features that no known family has together.
            #[default]
            Unknown,
        }

        impl Family {
            /// Every family that features tell.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The family as reports and the naming catalog spell it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Recorded(name) => name,
                    Self::Unknown => "unknown",
                }
            }
        }
    };
}

families! {
    /// LLaMA, and all that share its shapes: Mistral, Yi, Gemma 1, ...
    Llama = "llama";
    /// Qwen 1.
    Qwen = "qwen";
    /// Qwen 1.5 to 2.5.
    Qwen2 = "qwen2";
    /// Qwen 3.
    Qwen3 = "qwen3";
    /// Qwen 1.5 and 2 with experts.
    Qwen2Moe = "qwen2-moe";
    /// Qwen 3 with experts.
    Qwen3Moe = "qwen3-moe";
    /// Gemma 2, and others with four norms in a layer.
    Gemma2 = "gemma2";
    /// Gemma 3, and others with four norms in a layer and norms of queries and keys.
    Gemma3 = "gemma3";
    /// GLM-4 of 2025.
    Glm4 = "glm4";
    /// ChatGLM 2 and 3, GLM-4 of 2024.
    Chatglm = "chatglm";
    /// OLMo 1.
    Olmo = "olmo";
    /// OLMo 2 and 3.
    Olmo2 = "olmo2";
    /// OLMo with experts.
    Olmoe = "olmoe";
    /// Command R.
    Cohere = "cohere";
    /// StableLM, and others with LayerNorm and a gated MLP.
    Stablelm = "stablelm";
    /// InternLM 1.
    Internlm = "internlm";
    /// InternLM 2.
    Internlm2 = "internlm2";
    /// Phi-3 and Phi-4.
    Phi3 = "phi3";
    /// Baichuan.
    Baichuan = "baichuan";
    /// DeepSeek V2 and later: latent attention.
    DeepseekV2 = "deepseek-v2";
    /// DeepSeekMoE.
    DeepseekMoe = "deepseek-moe";
    /// Mixtral.
    Mixtral = "mixtral";
    /// Granite with experts.
    GraniteMoe = "granite-moe";
    /// Llama 4.
    Llama4 = "llama4";
    /// gpt-oss.
    GptOss = "gpt-oss";
    /// BERT and its relatives.
    Bert = "bert";
    /// GPT-2.
    Gpt2 = "gpt2";
    /// StarCoder 1.
    GptBigcode = "gpt-bigcode";
    /// OPT.
    Opt = "opt";
    /// BLOOM.
    Bloom = "bloom";
    /// GPT-NeoX, Pythia.
    GptNeox = "gpt-neox";
    /// GPT-J.
    Gptj = "gptj";
    /// Falcon 1 and 2.
    Falcon = "falcon";
    /// MPT.
    Mpt = "mpt";
    /// Apertus.
    Apertus = "apertus";
    /// Phi-1 and Phi-2.
    Phi = "phi";
    /// StarCoder 2.
    Starcoder2 = "starcoder2";
}

impl Family {
    /// The known family of this name.
    pub fn named(name: &str) -> Option<Self> {
        let of_features = Self::ALL.iter().copied().find(|family| family.as_str() == name);
        of_features.or_else(|| block::family_named(name).map(Self::Recorded))
    }

    /// Whether features of a transformer's block tell the family, so that its places and their usual names are known.
    pub fn is_of_features(self) -> bool {
        !matches!(self, Self::Recorded(_) | Self::Unknown)
    }

    /// Whether the two norms of a layer stand behind attention and MLP rather than in front: BERT's original order, and
    /// OLMo 2's norms of what a block writes.
    pub fn is_post_norm(self) -> bool {
        matches!(self, Self::Bert | Self::Olmo2)
    }

    /// Whether the rotary embedding turns all of a head, so that a vector of its frequencies is half as long as a head.
    /// Elsewhere only part of a head may be rotated.
    pub fn rotates_whole_heads(self) -> bool {
        matches!(self, Self::Llama | Self::Qwen2 | Self::Qwen3)
    }

    /// Whether heads have an order of their own where there are no learned positions: BERT's shapes without them are those
    /// of a model with ALiBi, whose heads each have a slope.
    pub fn orders_heads_without_positions(self) -> bool {
        self == Self::Bert
    }

    /// Whether, unless a claim says otherwise, norm gains are stored less one: four norms in a layer without biases are
    /// Gemma 2's and 3's.
    pub(crate) fn stores_gains_less_one(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Family {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A name that this version does not know is kept readable as [`Family::Unknown`]: a newer version may have written it.
impl<'de> Deserialize<'de> for Family {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(Self::named(&name).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_newer_ones_are_unknown() {
        for &family in Family::ALL {
            assert_eq!(Family::named(family.as_str()), Some(family));
            let json = serde_json::to_string(&family).unwrap();
            assert_eq!(json, format!("\"{family}\""));
            assert_eq!(serde_json::from_str::<Family>(&json).unwrap(), family);
        }
        assert_eq!(Family::named("jamba"), Some(Family::Recorded("jamba")));
        assert_eq!(serde_json::from_str::<Family>("\"jamba\"").unwrap(), Family::Recorded("jamba"));
        assert_eq!(serde_json::from_str::<Family>("\"llama9\"").unwrap(), Family::Unknown);
        assert_eq!(serde_json::to_string(&Family::Unknown).unwrap(), "\"unknown\"");
        assert_eq!(Family::named("unknown"), None, "no data file can mean it");
    }
}
