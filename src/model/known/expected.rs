//! From a record's fields to the architecture that its tensors show.

use super::Record;
use crate::model::{Architecture, Latent, QkNorm};

impl Record {
    /// The architecture that a checkpoint of this model shows, as its publisher stores it.
    pub fn architecture(&self) -> Architecture {
        let fused = self.fused.as_deref().unwrap_or("");
        let mut a = Architecture {
            hidden_size: self.hidden_size,
            layers: self.num_hidden_layers,
            q_size: Some(self.num_attention_heads * self.head_dim),
            kv_size: Some(self.num_key_value_heads * self.head_dim),
            heads: Some(self.num_attention_heads),
            kv_heads: Some(self.num_key_value_heads),
            head_dim: Some(self.head_dim),
            intermediate_size: Some(self.intermediate_size),
            vocab_size: Some(self.vocab_size),
            tied: Some(self.tie_word_embeddings),
            attention_bias: Some(false),
            attention_output_bias: Some(false),
            mlp_bias: Some(false),
            norm_bias: Some(false),
            output_bias: Some(false),
            qk_norm: Some(QkNorm::None),
            norms_per_layer: Some(2),
            final_norm: Some(true),
            embedding_norm: Some(false),
            router_bias: Some(self.router_bias.unwrap_or(false)),
            attention_sinks: Some(false),
            gated_mlp: true,
            fused_qkv: ["qkv", "W_pack", "c_attn", "query_key_value"].iter().any(|name| fused.contains(name)),
            fused_gate_up: ["gate_up", "gate|up"].iter().any(|name| fused.contains(name)),
            ..Architecture::default()
        };
        self.gated(&mut a);
        self.plain(&mut a);
        self.mixture(&mut a);
        a.name_family();
        a
    }

    fn gated(&self, a: &mut Architecture) {
        match self.param_formula.as_str() {
            "qwen2" | "glm_chat" | "qwen2moe" => a.attention_bias = Some(true),
            "qwen3" | "qwen3moe" => a.qk_norm = Some(QkNorm::PerHead),
            "gemma2" => a.norms_per_layer = Some(4),
            "gemma3" => (a.norms_per_layer, a.qk_norm) = (Some(4), Some(QkNorm::PerHead)),
            "glm4" => (a.norms_per_layer, a.attention_bias) = (Some(4), Some(true)),
            "olmo1" => (a.norms_per_layer, a.final_norm) = (Some(0), Some(false)),
            "olmo2" | "olmoe" => a.qk_norm = Some(QkNorm::Full),
            "internlm1" => (a.attention_bias, a.attention_output_bias) = (Some(true), Some(true)),
            "llama_ln" => a.norm_bias = Some(true),
            "stablelm2_1" => (a.norm_bias, a.attention_bias) = (Some(true), Some(true)),
            "stablelm2_12" => (a.norms_per_layer, a.qk_norm) = (Some(1), Some(QkNorm::Full)),
            "cohere" => a.norms_per_layer = Some(1),
            _ => {}
        }
    }

    fn plain(&self, a: &mut Architecture) {
        let formula = self.param_formula.as_str();
        let biased = ["phi", "neox", "gpt2", "bloom", "starcoder2", "bert", "roberta"].contains(&formula);
        let falcon = ["falcon7", "falcon40"].contains(&formula);
        let embeds_positions = ["gpt2", "bert", "roberta"].contains(&formula);
        if biased || falcon || ["mpt", "apertus"].contains(&formula) {
            a.gated_mlp = false;
            a.norm_bias = Some(biased || falcon);
            (a.attention_bias, a.attention_output_bias, a.mlp_bias) = (Some(biased), Some(biased), Some(biased));
            a.fused_qkv = falcon || ["neox", "gpt2", "bloom", "mpt"].contains(&formula);
            a.position_embeddings = embeds_positions.then_some(self.max_position_embeddings);
        }
        match formula {
            "phi" => (a.norms_per_layer, a.output_bias) = (Some(1), Some(true)),
            "falcon7" => a.norms_per_layer = Some(1),
            "gpt2" => a.conv1d_transposed = true,
            "bloom" => a.embedding_norm = Some(true),
            "apertus" => a.qk_norm = Some(QkNorm::PerHead),
            "bert" | "roberta" => {
                (a.embedding_norm, a.final_norm) = (Some(true), Some(false));
                a.token_types = Some(if formula == "bert" { 2 } else { 1 });
            }
            _ => {}
        }
    }

    fn mixture(&self, a: &mut Architecture) {
        let Some(experts) = self.num_experts else { return };
        let layers = self.num_hidden_layers;
        a.experts = Some(experts);
        a.expert_size = Some(self.moe_intermediate_size.unwrap_or(self.intermediate_size));
        let dense = match self.interleave_moe_layer_step {
            Some(step) if step > 0 => layers - layers / step,
            _ => self.first_k_dense_replace.unwrap_or(0),
        };
        a.expert_layers = Some(layers - dense);
        a.intermediate_size = (dense > 0).then_some(self.intermediate_size_mlp.unwrap_or(self.intermediate_size));
        a.shared_expert_size = self
            .shared_expert_intermediate_size
            .or_else(|| self.shared_experts.and_then(|count| a.expert_size.map(|size| count * size)));
        // Qwen's gate on the expert that all tokens use; DeepSeek's and Llama 4's have none.
        a.shared_expert_router = a.shared_expert_size.map(|_| self.param_formula == "qwen2moe");
        match self.param_formula.as_str() {
            "llama4" => (a.stacked_experts, a.fused_gate_up, a.conv1d_transposed) = (true, true, true),
            "gptoss" => {
                (a.stacked_experts, a.fused_gate_up, a.conv1d_transposed) = (true, true, true);
                (a.attention_bias, a.attention_output_bias, a.mlp_bias) = (Some(true), Some(true), Some(true));
                (a.router_bias, a.attention_sinks) = (Some(true), Some(true));
            }
            "mla" => self.latent(a),
            _ => {}
        }
    }

    fn latent(&self, a: &mut Architecture) {
        let (Some(kv_rank), Some(nope), Some(rope), Some(value)) =
            (self.kv_lora_rank, self.qk_nope_head_dim, self.qk_rope_head_dim, self.v_head_dim)
        else {
            return;
        };
        let heads = self.num_attention_heads;
        a.latent = Some(Latent {
            q_rank: self.q_lora_rank.filter(|&rank| rank > 0),
            kv_rank,
            rope_size: rope,
            value_size: heads * value,
        });
        a.q_size = Some(heads * (nope + rope));
        a.kv_size = Some(heads * (nope + value));
    }
}

/// Parameters in tensors of one element, which the blueprint leaves out: the four of Apertus' activation per layer.
#[cfg(test)]
pub(crate) fn scalars(record: &Record) -> u64 {
    if record.param_formula == "apertus" { 4 * record.num_hidden_layers } else { 0 }
}
