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
    /// Shapes of tensors in the layers that have no place in a transformer's block: recurrences, convolutions, gates and
    /// norms of other kinds. Where there are any, the other fields describe only a part of the layers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unplaced: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Architecture {
    /// Whether all that lies in the layers has its place in the block that the other fields describe.
    pub fn is_whole(&self) -> bool {
        self.unplaced == 0
    }

    /// Layers whose MLP is dense.
    pub fn dense_layers(&self) -> u64 {
        if self.experts.is_some() { self.layers.saturating_sub(self.expert_layers.unwrap_or(0)) } else { self.layers }
    }

    /// Names the family that the other fields make.
    pub(crate) fn name_family(&mut self) {
        self.family = self.family_of_features();
    }

    /// The family whose block has these features, all of them and no others. A set of features that no known model has
    /// names none: the nearest vendor would be a guess.
    fn family_of_features(&self) -> Family {
        let known = self.q_size.is_some() && (self.intermediate_size.is_some() || self.experts.is_some());
        if !known || self.layers == 0 {
            Family::Unknown
        } else if self.latent.is_some() {
            self.latent_family()
        } else if self.experts.is_some() {
            self.mixture_family()
        } else if self.gated_mlp {
            self.gated_family()
        } else {
            self.plain_family()
        }
    }

    fn biases(&self) -> Biases {
        Biases {
            qkv: self.attention_bias == Some(true),
            output: self.attention_output_bias == Some(true),
            mlp: self.mlp_bias == Some(true),
            norm: self.norm_bias == Some(true),
        }
    }

    /// Whether there is nothing that only encoders and the first decoders have.
    fn is_rotary_decoder(&self) -> bool {
        self.position_embeddings.is_none() && self.token_types.is_none() && self.embedding_norm != Some(true)
    }

    fn latent_family(&self) -> Family {
        let plain = self.biases() == Biases::NONE && matches!(self.qk_norm, Some(QkNorm::None));
        let usual = self.norms_per_layer == Some(2) && self.gated_mlp && self.shared_expert_router != Some(true);
        if plain && usual && self.is_rotary_decoder() { Family::DeepseekV2 } else { Family::Unknown }
    }

    fn mixture_family(&self) -> Family {
        let shared = self.shared_expert_size.is_some();
        let gate = self.shared_expert_router == Some(true);
        let corrected = self.router_bias == Some(true);
        let none = Biases::NONE;
        if self.norms_per_layer != Some(2) || !self.is_rotary_decoder() {
            return Family::Unknown;
        }
        match (self.qk_norm, self.biases()) {
            (Some(QkNorm::None), Biases { qkv: true, output: true, mlp: true, norm: false })
                if self.attention_sinks == Some(true) && corrected && !shared =>
            {
                Family::GptOss
            }
            _ if corrected || self.attention_sinks == Some(true) => Family::Unknown,
            (Some(QkNorm::None), biases) if biases == (Biases { qkv: true, ..none }) && shared && gate => {
                Family::Qwen2Moe
            }
            (_, biases) if biases != none || gate => Family::Unknown,
            (Some(QkNorm::PerHead), _) if !shared => Family::Qwen3Moe,
            (Some(QkNorm::Full), _) if !shared => Family::Olmoe,
            (Some(QkNorm::None), _) => self.plain_mixture(shared),
            _ => Family::Unknown,
        }
    }

    /// The family of a mixture without biases and norms of queries and keys.
    fn plain_mixture(&self, shared: bool) -> Family {
        match (self.stacked_experts, shared) {
            // In Llama 4 the shared expert is one more of the same size.
            (true, true) if self.conv1d_transposed && self.shared_expert_size == self.expert_size => Family::Llama4,
            (true, true) => Family::Unknown,
            (false, true) => Family::DeepseekMoe,
            (true, false) if !self.conv1d_transposed && self.fused_gate_up => Family::GraniteMoe,
            (_, false) => Family::Mixtral,
        }
    }

    fn gated_family(&self) -> Family {
        let biases = self.biases();
        let qkv_alone = biases == Biases { qkv: true, ..Biases::NONE };
        let fused = (self.fused_qkv, self.fused_gate_up);
        if biases.mlp || self.output_bias == Some(true) || !self.is_rotary_decoder() {
            return Family::Unknown;
        }
        match (self.norms_per_layer, self.qk_norm, biases) {
            (Some(0), Some(QkNorm::None), Biases::NONE) if self.final_norm == Some(false) => Family::Olmo,
            (Some(1), Some(QkNorm::None | QkNorm::Full), Biases::NONE) => Family::Cohere,
            (Some(4), Some(QkNorm::None), Biases::NONE) if !self.fused_gate_up => Family::Gemma2,
            (Some(4), Some(QkNorm::PerHead), Biases::NONE) if !self.fused_gate_up => Family::Gemma3,
            (Some(4), Some(QkNorm::None), _) if qkv_alone || self.fused_gate_up && !biases.output && !biases.norm => {
                Family::Glm4
            }
            (Some(2), Some(QkNorm::Full), Biases::NONE) => Family::Olmo2,
            (Some(2), Some(QkNorm::PerHead), Biases::NONE) => Family::Qwen3,
            (Some(2), Some(QkNorm::None), Biases { output: false, norm: true, .. }) if fused == (false, false) => {
                Family::Stablelm
            }
            (Some(2), Some(QkNorm::None), Biases { qkv: true, output: true, norm: false, .. }) => Family::Internlm,
            (Some(2), Some(QkNorm::None), _) if qkv_alone => match fused {
                (_, true) => Family::Chatglm,
                (true, false) => Family::Qwen,
                (false, false) => Family::Qwen2,
            },
            (Some(2), Some(QkNorm::None), Biases::NONE) => match fused {
                (true, true) => Family::Phi3,
                (false, true) => Family::Unknown,
                (true, false) if self.q_size == self.kv_size => Family::Baichuan,
                (true, false) => Family::Internlm2,
                (false, false) => Family::Llama,
            },
            _ => Family::Unknown,
        }
    }

    fn plain_family(&self) -> Family {
        let biases = self.biases();
        if self.token_types.is_some() {
            return if biases == Biases::ALL && self.norms_per_layer == Some(2) {
                Family::Bert
            } else {
                Family::Unknown
            };
        }
        if self.position_embeddings.is_some() {
            // Encoders and GPT-1 have norms behind attention and MLP, and none in front of the head.
            let pre_norm = self.final_norm == Some(true) && self.embedding_norm != Some(true);
            return match (self.conv1d_transposed, self.fused_qkv) {
                _ if biases != Biases::ALL || self.norms_per_layer != Some(2) || !pre_norm => Family::Unknown,
                (true, true) => Family::Gpt2,
                (false, true) => Family::GptBigcode,
                (false, false) => Family::Opt,
                (true, false) => Family::Unknown,
            };
        }
        if self.fused_qkv { self.plain_fused_family(biases) } else { self.plain_rotary_family(biases) }
    }

    fn plain_fused_family(&self, biases: Biases) -> Family {
        let norm_alone = biases == Biases { norm: true, ..Biases::NONE };
        match (self.norms_per_layer, biases) {
            (Some(2), Biases::ALL) if self.embedding_norm == Some(true) => Family::Bloom,
            (Some(2), Biases::ALL) => Family::GptNeox,
            (Some(1 | 2), _) if norm_alone => Family::Falcon,
            (Some(2), Biases::NONE) => Family::Mpt,
            _ => Family::Unknown,
        }
    }

    fn plain_rotary_family(&self, biases: Biases) -> Family {
        let grouped = self.q_size != self.kv_size;
        match (self.norms_per_layer, self.qk_norm, biases) {
            (Some(2), Some(QkNorm::PerHead | QkNorm::Full), Biases::NONE) => Family::Apertus,
            (Some(1), Some(QkNorm::None), Biases::ALL) => Family::Phi,
            (Some(2), Some(QkNorm::None), Biases::ALL) if grouped => Family::Starcoder2,
            (Some(1), Some(QkNorm::None), Biases { qkv: false, output: false, mlp: true, norm: true }) => Family::Gptj,
            _ => Family::Unknown,
        }
    }
}

/// Where a layer has biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Biases {
    qkv: bool,
    output: bool,
    mlp: bool,
    norm: bool,
}

impl Biases {
    const NONE: Self = Self { qkv: false, output: false, mlp: false, norm: false };
    const ALL: Self = Self { qkv: true, output: true, mlp: true, norm: true };
}
