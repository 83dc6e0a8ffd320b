//! The parts of a model that can be shared one without another.

use super::Role;

/// Parts of a model that can be shared one without another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

    /// The part to which tensors of these roles belong; of several, which are alternatives, the first speaks.
    pub fn of(roles: &[Role]) -> Self {
        roles.first().map_or(Self::Unknown, |role| Self::of_role(*role))
    }

    fn of_role(role: Role) -> Self {
        match role {
            Role::TokenEmbd | Role::PosEmbd | Role::TokenTypeEmbd | Role::Output | Role::OutputBias => Self::Embedding,
            Role::AttnQ
            | Role::AttnQBias
            | Role::AttnK
            | Role::AttnKBias
            | Role::AttnV
            | Role::AttnVBias
            | Role::AttnQkv
            | Role::AttnQkvBias
            | Role::AttnO
            | Role::AttnOBias
            | Role::AttnQNorm
            | Role::AttnKNorm
            | Role::AttnQA
            | Role::AttnQANorm
            | Role::AttnQB
            | Role::AttnKvA
            | Role::AttnKvANorm
            | Role::AttnKvB
            | Role::AttnSinks => Self::Attention,
            Role::FfnGate
            | Role::FfnGateBias
            | Role::FfnUp
            | Role::FfnUpBias
            | Role::FfnGateUp
            | Role::FfnDown
            | Role::FfnDownBias
            | Role::Router
            | Role::RouterBias
            | Role::ExpertGate
            | Role::ExpertUp
            | Role::ExpertGateUp
            | Role::ExpertGateUpBias
            | Role::ExpertGateUpScale
            | Role::ExpertDown
            | Role::ExpertDownBias
            | Role::ExpertDownScale
            | Role::SharedExpertGate
            | Role::SharedExpertUp
            | Role::SharedExpertDown
            | Role::SharedExpertRouter => Self::Mlp,
            Role::TokenEmbdNorm
            | Role::TokenEmbdNormBias
            | Role::AttnNorm
            | Role::AttnNormBias
            | Role::PostAttnNorm
            | Role::PostAttnNormBias
            | Role::FfnNorm
            | Role::FfnNormBias
            | Role::PostFfnNorm
            | Role::PostFfnNormBias
            | Role::OutputNorm
            | Role::OutputNormBias
            | Role::RopeFreqs
            | Role::Pooler
            | Role::PoolerBias
            | Role::MlmHead
            | Role::Mtp
            | Role::Quant
            | Role::QuantScale
            | Role::QuantBias
            | Role::Buffer => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts as their documentation has them, by the names of roles.
    const EMBEDDING: &str = "token_embd pos_embd token_type_embd output output_bias";
    const ATTENTION: &str = "attn_q attn_q_bias attn_k attn_k_bias attn_v attn_v_bias attn_qkv attn_qkv_bias attn_o \
        attn_o_bias attn_q_norm attn_k_norm attn_q_a attn_q_a_norm attn_q_b attn_kv_a attn_kv_a_norm attn_kv_b attn_sinks";
    const MLP: &str = "ffn_gate ffn_gate_bias ffn_up ffn_up_bias ffn_gate_up ffn_down ffn_down_bias router router_bias \
        expert_gate expert_up expert_gate_up expert_gate_up_bias expert_gate_up_scale expert_down expert_down_bias \
        expert_down_scale shared_expert_gate shared_expert_up shared_expert_down shared_expert_router";
    const OTHER: &str = "token_embd_norm token_embd_norm_bias attn_norm attn_norm_bias post_attn_norm \
        post_attn_norm_bias ffn_norm ffn_norm_bias post_ffn_norm post_ffn_norm_bias output_norm output_norm_bias \
        rope_freqs pooler pooler_bias mlm_head mtp quant quant_scale quant_bias buffer";

    #[test]
    fn every_role_belongs_to_the_part_that_the_documentation_says() {
        let table =
            [(Part::Embedding, EMBEDDING), (Part::Attention, ATTENTION), (Part::Mlp, MLP), (Part::Other, OTHER)];
        let mut seen = 0;
        for (part, names) in table {
            for name in names.split_whitespace() {
                assert_eq!(Part::of(&[Role::parse(name).unwrap()]), part, "{name}");
                seen += 1;
            }
        }
        assert_eq!(seen, Role::ALL.len());
        assert_eq!(Part::of(&[]), Part::Unknown);
    }
}
