//! The canonical architecture record: sizes and features that shapes show, and the family that they make.
//!
//! Everything here is visible in tensor shapes, except the head count of a model without per-head tensors, which may
//! come from a configuration.

use serde::{Deserialize, Serialize};

use super::Family;

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QkNorm {
    /// There are none.
    None,
    /// One gain per coordinate of a head, shared by the heads (Qwen3, Gemma 3).
    PerHead,
    /// One gain per row of the projection (OLMo 2).
    Full,
}

/// Sizes of multi-head latent attention (DeepSeek V2 and later).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latent {
    /// Width of the queries' latent; absent where queries are projected directly.
    pub q_rank: Option<u64>,
    /// Width of the latent of keys and values.
    pub kv_rank: u64,
    /// Width of the rotary key that all heads share.
    pub rope_size: u64,
    /// Columns of the output projection: heads times value head size.
    pub value_size: u64,
}

impl Latent {
    /// The number of heads, which the sizes of latent attention give away: a head has `nope + rope` rows of queries,
    /// `nope + value` of keys and values and `value` columns of the output, and all share one rotary key.
    pub fn heads(&self, q_size: u64, kv_size: u64) -> Option<u64> {
        let rotary = q_size.checked_sub(kv_size.checked_sub(self.value_size)?)?;
        let heads = rotary.checked_div(self.rope_size)?;
        let whole = heads > 0 && heads * self.rope_size == rotary;
        let divides = |size: u64| whole && size.is_multiple_of(heads);
        (divides(q_size) && divides(kv_size) && divides(self.value_size)).then_some(heads)
    }
}

/// How a checkpoint stores the gains of its norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormGain {
    /// A stored value is what the norm multiplies with.
    #[default]
    Plain,
    /// The norm multiplies with one more than the stored value.
    LessOne,
}

impl NormGain {
    /// Whether gains are stored as they are multiplied with.
    pub fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
}

/// A model's architecture as its tensors show it. `None` is "cannot be told", not "no".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Architecture {
    /// The family that the other fields make.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Number of layers.
    pub layers: u64,
    /// Rows of the query projection: heads times head size.
    pub q_size: Option<u64>,
    /// Rows of the key projection, and of the value projection.
    pub kv_size: Option<u64>,
    /// Query heads.
    pub heads: Option<u64>,
    /// Key and value heads.
    pub kv_heads: Option<u64>,
    /// Size of a head.
    pub head_dim: Option<u64>,
    /// Latent attention, where keys and values come from one.
    pub latent: Option<Latent>,
    /// Hidden units of a dense layer's MLP; absent where every layer is a mixture of experts.
    pub intermediate_size: Option<u64>,
    /// Rows of the token embedding.
    pub vocab_size: Option<u64>,
    /// Experts per mixture layer.
    pub experts: Option<u64>,
    /// Hidden units of one expert.
    pub expert_size: Option<u64>,
    /// Layers whose MLP is a mixture of experts.
    pub expert_layers: Option<u64>,
    /// Hidden units of the expert that every token uses.
    pub shared_expert_size: Option<u64>,
    /// A gate on that expert: how much it counts. Only mixtures with such an expert can have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_expert_router: Option<bool>,
    /// Whether the output head is the token embedding (no separate tensor).
    pub tied: Option<bool>,
    /// Biases on queries, keys and values.
    pub attention_bias: Option<bool>,
    /// Bias on the attention's output projection.
    pub attention_output_bias: Option<bool>,
    /// Biases in the MLP.
    pub mlp_bias: Option<bool>,
    /// Biases in the norms (LayerNorm rather than RMSNorm).
    pub norm_bias: Option<bool>,
    /// Bias on the output head.
    pub output_bias: Option<bool>,
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Norms of the residual stream's width in each layer.
    pub norms_per_layer: Option<u32>,
    /// How the file stores the gains of norms; a matter of storage, no trait of the model.
    #[serde(default, skip_serializing_if = "NormGain::is_plain")]
    pub norm_gain: NormGain,
    /// A norm in front of the output head.
    pub final_norm: Option<bool>,
    /// A norm right after the embeddings.
    pub embedding_norm: Option<bool>,
    /// Bias on the router, or a load-balancing correction.
    pub router_bias: Option<bool>,
    /// Learned attention sinks, one per head.
    pub attention_sinks: Option<bool>,
    /// Rows of a learned position embedding.
    pub position_embeddings: Option<u64>,
    /// Rows of a segment embedding.
    pub token_types: Option<u64>,
    /// Gate and up projections rather than one in projection.
    pub gated_mlp: bool,
    /// Query, key and value projections stored as one matrix.
    pub fused_qkv: bool,
    /// Gate and up projections stored as one matrix.
    pub fused_gate_up: bool,
    /// Experts of a layer stored as one three-dimensional tensor.
    pub stacked_experts: bool,
    /// Matrices stored (in, out), as GPT-2's Conv1D stores them; for stacked experts, the experts alone.
    pub conv1d_transposed: bool,
}

impl Architecture {
    /// Layers whose MLP is dense.
    pub fn dense_layers(&self) -> u64 {
        if self.experts.is_some() { self.layers.saturating_sub(self.expert_layers.unwrap_or(0)) } else { self.layers }
    }

    /// Names the family that the other fields make.
    pub(crate) fn name_family(&mut self) {
        self.family = self.family_of_features();
    }

    fn family_of_features(&self) -> Family {
        let known = self.q_size.is_some() && (self.intermediate_size.is_some() || self.experts.is_some());
        if !known || self.layers == 0 {
            Family::Unknown
        } else if self.latent.is_some() {
            Family::DeepseekV2
        } else if self.experts.is_some() {
            self.mixture_family()
        } else if self.gated_mlp {
            self.gated_family()
        } else {
            self.plain_family()
        }
    }

    fn mixture_family(&self) -> Family {
        let shared = self.shared_expert_size.is_some();
        match (self.attention_bias, self.qk_norm) {
            (Some(true), _) if self.attention_output_bias == Some(true) => Family::GptOss,
            (Some(true), _) => Family::Qwen2Moe,
            (_, Some(QkNorm::PerHead)) => Family::Qwen3Moe,
            (_, Some(QkNorm::Full)) => Family::Olmoe,
            _ if self.stacked_experts && shared => Family::Llama4,
            _ if shared => Family::DeepseekMoe,
            _ if self.stacked_experts && !self.conv1d_transposed && self.fused_gate_up => Family::GraniteMoe,
            _ => Family::Mixtral,
        }
    }

    fn gated_family(&self) -> Family {
        let qkv_bias = self.attention_bias == Some(true);
        let per_head = self.qk_norm == Some(QkNorm::PerHead);
        match self.norms_per_layer {
            Some(0) => Family::Olmo,
            Some(1) => Family::Cohere,
            Some(4) if per_head => Family::Gemma3,
            Some(4) if qkv_bias || self.fused_gate_up => Family::Glm4,
            Some(4) => Family::Gemma2,
            _ if self.qk_norm == Some(QkNorm::Full) => Family::Olmo2,
            _ if per_head => Family::Qwen3,
            _ if self.norm_bias == Some(true) => Family::Stablelm,
            _ if qkv_bias && self.fused_gate_up => Family::Chatglm,
            _ if qkv_bias && self.fused_qkv => Family::Qwen,
            _ if qkv_bias && self.attention_output_bias == Some(true) => Family::Internlm,
            _ if qkv_bias => Family::Qwen2,
            _ if self.fused_gate_up => Family::Phi3,
            _ if self.fused_qkv && self.q_size == self.kv_size => Family::Baichuan,
            _ if self.fused_qkv => Family::Internlm2,
            _ => Family::Llama,
        }
    }

    fn plain_family(&self) -> Family {
        let mlp_bias = self.mlp_bias == Some(true);
        if self.token_types.is_some() {
            return Family::Bert;
        }
        if self.position_embeddings.is_some() {
            return match (self.conv1d_transposed, self.fused_qkv) {
                (true, _) => Family::Gpt2,
                (false, true) => Family::GptBigcode,
                (false, false) => Family::Opt,
            };
        }
        match (self.fused_qkv, self.norm_bias) {
            (true, Some(true)) if mlp_bias && self.embedding_norm == Some(true) => Family::Bloom,
            (true, Some(true)) if mlp_bias => Family::GptNeox,
            (true, Some(true)) => Family::Falcon,
            (true, _) => Family::Mpt,
            (false, _) if matches!(self.qk_norm, Some(QkNorm::PerHead | QkNorm::Full)) => Family::Apertus,
            (false, Some(true)) if self.attention_bias == Some(true) && self.norms_per_layer == Some(1) => Family::Phi,
            (false, Some(true)) if self.attention_bias == Some(true) && self.q_size != self.kv_size => {
                Family::Starcoder2
            }
            (false, Some(true)) if mlp_bias => Family::Gptj,
            _ => Family::Unknown,
        }
    }
}
