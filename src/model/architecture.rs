//! The canonical architecture record: sizes and features that shapes show, and the family that they make.
//!
//! Everything here is visible in tensor shapes, except the head count of a model without per-head tensors, which may
//! come from a configuration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// A model's architecture as its tensors show it. `None` is "cannot be told", not "no".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Architecture {
    /// Family name: `llama`, `qwen2`, `gemma2`, `gpt-neox`, ..., or `unknown`.
    pub family: String,
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
        self.family = self.family_name().to_owned();
    }

    fn family_name(&self) -> &'static str {
        let known = self.q_size.is_some() && (self.intermediate_size.is_some() || self.experts.is_some());
        if !known || self.layers == 0 {
            "unknown"
        } else if self.latent.is_some() {
            "deepseek-v2"
        } else if self.experts.is_some() {
            self.mixture_family()
        } else if self.gated_mlp {
            self.gated_family()
        } else {
            self.plain_family()
        }
    }

    fn mixture_family(&self) -> &'static str {
        let shared = self.shared_expert_size.is_some();
        match (self.attention_bias, self.qk_norm) {
            (Some(true), _) if self.attention_output_bias == Some(true) => "gpt-oss",
            (Some(true), _) => "qwen2-moe",
            (_, Some(QkNorm::PerHead)) => "qwen3-moe",
            (_, Some(QkNorm::Full)) => "olmoe",
            _ if self.stacked_experts && shared => "llama4",
            _ if shared => "deepseek-moe",
            _ if self.stacked_experts && !self.conv1d_transposed && self.fused_gate_up => "granite-moe",
            _ => "mixtral",
        }
    }

    fn gated_family(&self) -> &'static str {
        let qkv_bias = self.attention_bias == Some(true);
        let per_head = self.qk_norm == Some(QkNorm::PerHead);
        match self.norms_per_layer {
            Some(0) => "olmo",
            Some(1) => "cohere",
            Some(4) if per_head => "gemma3",
            Some(4) if qkv_bias || self.fused_gate_up => "glm4",
            Some(4) => "gemma2",
            _ if self.qk_norm == Some(QkNorm::Full) => "olmo2",
            _ if per_head => "qwen3",
            _ if self.norm_bias == Some(true) => "stablelm",
            _ if qkv_bias && self.fused_gate_up => "chatglm",
            _ if qkv_bias && self.fused_qkv => "qwen",
            _ if qkv_bias && self.attention_output_bias == Some(true) => "internlm",
            _ if qkv_bias => "qwen2",
            _ if self.fused_gate_up => "phi3",
            _ if self.fused_qkv && self.q_size == self.kv_size => "baichuan",
            _ if self.fused_qkv => "internlm2",
            _ => "llama",
        }
    }

    fn plain_family(&self) -> &'static str {
        let mlp_bias = self.mlp_bias == Some(true);
        if self.token_types.is_some() {
            return "bert";
        }
        if self.position_embeddings.is_some() {
            return match (self.conv1d_transposed, self.fused_qkv) {
                (true, _) => "gpt2",
                (false, true) => "gpt-bigcode",
                (false, false) => "opt",
            };
        }
        match (self.fused_qkv, self.norm_bias) {
            (true, Some(true)) if mlp_bias && self.embedding_norm == Some(true) => "bloom",
            (true, Some(true)) if mlp_bias => "gpt-neox",
            (true, Some(true)) => "falcon",
            (true, _) => "mpt",
            (false, _) if matches!(self.qk_norm, Some(QkNorm::PerHead | QkNorm::Full)) => "apertus",
            (false, Some(true)) if self.attention_bias == Some(true) && self.norms_per_layer == Some(1) => "phi",
            (false, Some(true)) if self.attention_bias == Some(true) && self.q_size != self.kv_size => "starcoder2",
            (false, Some(true)) if mlp_bias => "gptj",
            _ => "unknown",
        }
    }
}
