//! The parts that a tensor can play in a transformer, and how each part touches the residual stream.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! roles {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $touch:ident;)*) => {
        /// What a tensor is for. The spelling is that of the naming catalog.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Role {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Role {
            /// Every role.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The role as reports and the naming catalog spell it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The role that `name` spells.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// How a tensor of this role touches the residual stream.
            pub fn touch(self) -> Touch {
                match self { $(Self::$variant => Touch::$touch,)* }
            }
        }
    };
}

/// How a role touches the residual stream, whatever the storage order of its matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touch {
    /// A matrix that reads the stream.
    Reads,
    /// A matrix that writes to it.
    Writes,
    /// A table with one row of the stream's width per token or position.
    Embeds,
    /// A vector that multiplies it.
    Gain,
    /// A vector that is added to it.
    Bias,
    /// Neither.
    None,
}

roles! {
    /// Token embedding, one row per token.
    TokenEmbd = "token_embd", Embeds;
    /// Learned position embedding.
    PosEmbd = "pos_embd", Embeds;
    /// BERT's segment embedding.
    TokenTypeEmbd = "token_type_embd", Embeds;
    /// Norm right after the embeddings.
    TokenEmbdNorm = "token_embd_norm", Gain;
    /// Its bias.
    TokenEmbdNormBias = "token_embd_norm_bias", Bias;
    /// Norm in front of the attention.
    AttnNorm = "attn_norm", Gain;
    /// Its bias.
    AttnNormBias = "attn_norm_bias", Bias;
    /// Query projection.
    AttnQ = "attn_q", Reads;
    /// Its bias.
    AttnQBias = "attn_q_bias", None;
    /// Key projection.
    AttnK = "attn_k", Reads;
    /// Its bias.
    AttnKBias = "attn_k_bias", None;
    /// Value projection.
    AttnV = "attn_v", Reads;
    /// Its bias.
    AttnVBias = "attn_v_bias", None;
    /// Query, key and value projections in one matrix.
    AttnQkv = "attn_qkv", Reads;
    /// Its bias.
    AttnQkvBias = "attn_qkv_bias", None;
    /// Output projection of the attention.
    AttnO = "attn_o", Writes;
    /// Its bias.
    AttnOBias = "attn_o_bias", Bias;
    /// Norm of the queries, per head or over their full width.
    AttnQNorm = "attn_q_norm", None;
    /// Norm of the keys.
    AttnKNorm = "attn_k_norm", None;
    /// Latent attention: the queries' down projection.
    AttnQA = "attn_q_a", Reads;
    /// Norm of the queries' latent.
    AttnQANorm = "attn_q_a_norm", None;
    /// Latent attention: the queries' up projection.
    AttnQB = "attn_q_b", None;
    /// Latent attention: down projection of keys and values, with the rotary key.
    AttnKvA = "attn_kv_a", Reads;
    /// Norm of the keys' and values' latent.
    AttnKvANorm = "attn_kv_a_norm", None;
    /// Latent attention: up projection of keys and values.
    AttnKvB = "attn_kv_b", None;
    /// One learned sink logit per head.
    AttnSinks = "attn_sinks", None;
    /// Norm after the attention.
    PostAttnNorm = "post_attn_norm", Gain;
    /// Its bias.
    PostAttnNormBias = "post_attn_norm_bias", Bias;
    /// Norm in front of the MLP.
    FfnNorm = "ffn_norm", Gain;
    /// Its bias.
    FfnNormBias = "ffn_norm_bias", Bias;
    /// Gate projection of a gated MLP.
    FfnGate = "ffn_gate", Reads;
    /// Its bias.
    FfnGateBias = "ffn_gate_bias", None;
    /// Up projection; the in projection of a plain MLP.
    FfnUp = "ffn_up", Reads;
    /// Its bias.
    FfnUpBias = "ffn_up_bias", None;
    /// Gate and up projections in one matrix.
    FfnGateUp = "ffn_gate_up", Reads;
    /// Down projection; the out projection of a plain MLP.
    FfnDown = "ffn_down", Writes;
    /// Its bias.
    FfnDownBias = "ffn_down_bias", Bias;
    /// Norm after the MLP.
    PostFfnNorm = "post_ffn_norm", Gain;
    /// Its bias.
    PostFfnNormBias = "post_ffn_norm_bias", Bias;
    /// Scores of a mixture's experts.
    Router = "router", Reads;
    /// Its bias, or the load-balancing correction.
    RouterBias = "router_bias", None;
    /// Gate projection of one expert, or of all of them stacked.
    ExpertGate = "expert_gate", Reads;
    /// Up projection of one expert, or of all of them stacked.
    ExpertUp = "expert_up", Reads;
    /// Gate and up projections of experts in one tensor.
    ExpertGateUp = "expert_gate_up", Reads;
    /// Its bias.
    ExpertGateUpBias = "expert_gate_up_bias", None;
    /// Quantisation scales of the experts' gate and up.
    ExpertGateUpScale = "expert_gate_up_scale", None;
    /// Down projection of one expert, or of all of them stacked.
    ExpertDown = "expert_down", Writes;
    /// Its bias, one row per expert.
    ExpertDownBias = "expert_down_bias", None;
    /// Quantisation scales of the experts' down.
    ExpertDownScale = "expert_down_scale", None;
    /// Gate projection of the expert that every token uses.
    SharedExpertGate = "shared_expert_gate", Reads;
    /// Up projection of the shared expert.
    SharedExpertUp = "shared_expert_up", Reads;
    /// Down projection of the shared expert.
    SharedExpertDown = "shared_expert_down", Writes;
    /// How much the shared expert counts.
    SharedExpertRouter = "shared_expert_router", Reads;
    /// Norm in front of the output head.
    OutputNorm = "output_norm", Gain;
    /// Its bias.
    OutputNormBias = "output_norm_bias", Bias;
    /// Output head (unembedding).
    Output = "output", Embeds;
    /// Its bias.
    OutputBias = "output_bias", None;
    /// Rotary frequencies: a formula, no weights.
    RopeFreqs = "rope_freqs", None;
    /// BERT's pooler.
    Pooler = "pooler", None;
    /// Its bias.
    PoolerBias = "pooler_bias", None;
    /// Part of a masked-language-model head.
    MlmHead = "mlm_head", None;
    /// Part of a multi-token-prediction layer.
    Mtp = "mtp", None;
    /// Packed codes of a quantised matrix.
    Quant = "quant", None;
    /// Scales of a quantised matrix.
    QuantScale = "quant_scale", None;
    /// Offsets of a quantised matrix.
    QuantBias = "quant_bias", None;
    /// A mask, an index or another constant: no weights.
    Buffer = "buffer", None;
}

impl Role {
    /// Whether one tensor of this role is expected in a layer of the kind it belongs to, so that it counts layers.
    pub fn in_layer(self) -> bool {
        !matches!(
            self,
            Self::TokenEmbd
                | Self::PosEmbd
                | Self::TokenTypeEmbd
                | Self::TokenEmbdNorm
                | Self::TokenEmbdNormBias
                | Self::OutputNorm
                | Self::OutputNormBias
                | Self::Output
                | Self::OutputBias
                | Self::Pooler
                | Self::PoolerBias
                | Self::MlmHead
        )
    }

    /// Whether the tensor is the gain of a norm, of the stream's or of another width.
    pub fn is_gain(self) -> bool {
        self.touch() == Touch::Gain
            || matches!(self, Self::AttnQNorm | Self::AttnKNorm | Self::AttnQANorm | Self::AttnKvANorm)
    }

    /// Whether the tensor holds no trained weights: constants, formulas and quantisation data.
    pub fn is_constant(self) -> bool {
        matches!(
            self,
            Self::RopeFreqs
                | Self::Buffer
                | Self::Quant
                | Self::QuantScale
                | Self::QuantBias
                | Self::ExpertGateUpScale
                | Self::ExpertDownScale
        )
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
