//! The tensors that an architecture is made of: which roles, what shapes, how many.
//!
//! The inverse of reading an architecture off a checkpoint. It gives the parameter count of a catalog record, the roles
//! that a shape can have, and the places in a layer that a renamed tensor can fill.

use super::{Architecture, QkNorm, Role};

/// Which layers hold a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// It is outside the layers.
    Outside,
    /// Every layer.
    All,
    /// Layers with a dense MLP.
    Dense,
    /// Layers with a mixture of experts.
    Mixture,
}

/// A kind of tensor that an architecture has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// What it is for.
    pub role: Role,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Which layers hold one.
    pub layers: Layers,
    /// Copies in each of those layers: the number of experts where each has a tensor of its own, else one.
    pub experts: u64,
}

impl Slot {
    /// How many tensors of this kind the model has.
    pub fn tensors(&self, architecture: &Architecture) -> u64 {
        let layers = match self.layers {
            Layers::Outside => 1,
            Layers::All => architecture.layers,
            Layers::Dense => architecture.dense_layers(),
            Layers::Mixture => architecture.expert_layers.unwrap_or(0),
        };
        layers.saturating_mul(self.experts)
    }
}

/// Every kind of tensor of `architecture`, in the order in which a forward pass meets them. Features that are not known
/// are taken as absent.
pub fn blueprint(architecture: &Architecture) -> Vec<Slot> {
    let mut plan = Plan { a: architecture, slots: Vec::new() };
    plan.embeddings();
    if architecture.layers > 0 {
        plan.attention();
        plan.dense();
        plan.mixture();
    }
    plan.head();
    plan.slots
}

struct Plan<'a> {
    a: &'a Architecture,
    slots: Vec<Slot>,
}

impl Plan<'_> {
    fn put(&mut self, role: Role, layers: Layers, shape: &[u64]) {
        self.slots.push(Slot { role, shape: shape.to_vec(), layers, experts: 1 });
    }

    /// A matrix with `out` rows, turned round where the model stores (in, out).
    fn matrix(&mut self, role: Role, layers: Layers, out: u64, into: u64) {
        let turned = self.a.conv1d_transposed && !self.a.stacked_experts;
        let shape = if turned { [into, out] } else { [out, into] };
        self.put(role, layers, &shape);
    }

    fn norm(&mut self, gain: Role, bias: Role, layers: Layers) {
        self.put(gain, layers, &[self.a.hidden_size]);
        if self.a.norm_bias == Some(true) {
            self.put(bias, layers, &[self.a.hidden_size]);
        }
    }

    fn embeddings(&mut self) {
        let d = self.a.hidden_size;
        if let Some(vocabulary) = self.a.vocab_size {
            self.put(Role::TokenEmbd, Layers::Outside, &[vocabulary, d]);
        }
        if let Some(positions) = self.a.position_embeddings {
            self.put(Role::PosEmbd, Layers::Outside, &[positions, d]);
        }
        if let Some(types) = self.a.token_types {
            self.put(Role::TokenTypeEmbd, Layers::Outside, &[types, d]);
        }
        if self.a.embedding_norm == Some(true) {
            self.norm(Role::TokenEmbdNorm, Role::TokenEmbdNormBias, Layers::Outside);
        }
    }

    /// Whether a layer's two norms stand behind attention and MLP rather than in front.
    fn post_norm(&self) -> bool {
        self.a.norms_per_layer == Some(2) && self.a.family.is_post_norm()
    }

    fn attention(&mut self) {
        let norms = self.a.norms_per_layer.unwrap_or(0);
        if norms > 0 && !self.post_norm() {
            self.norm(Role::AttnNorm, Role::AttnNormBias, Layers::All);
        }
        if self.a.latent.is_some() {
            self.latent_attention();
        } else if let (Some(q), Some(kv)) = (self.a.q_size, self.a.kv_size) {
            self.plain_attention(q, kv);
        }
        if self.a.attention_output_bias == Some(true) {
            self.put(Role::AttnOBias, Layers::All, &[self.a.hidden_size]);
        }
        if let (Some(true), Some(heads)) = (self.a.attention_sinks, self.a.heads) {
            self.put(Role::AttnSinks, Layers::All, &[heads]);
        }
        if norms >= 4 || self.post_norm() {
            self.norm(Role::PostAttnNorm, Role::PostAttnNormBias, Layers::All);
        }
        if norms >= 2 && !self.post_norm() {
            self.norm(Role::FfnNorm, Role::FfnNormBias, Layers::All);
        }
        if norms >= 4 || self.post_norm() {
            self.norm(Role::PostFfnNorm, Role::PostFfnNormBias, Layers::All);
        }
    }

    fn plain_attention(&mut self, q: u64, kv: u64) {
        let d = self.a.hidden_size;
        let bias = self.a.attention_bias == Some(true);
        let parts: &[(Role, Role, u64)] = if self.a.fused_qkv {
            &[(Role::AttnQkv, Role::AttnQkvBias, q.saturating_add(kv.saturating_mul(2)))]
        } else {
            &[(Role::AttnQ, Role::AttnQBias, q), (Role::AttnK, Role::AttnKBias, kv), (Role::AttnV, Role::AttnVBias, kv)]
        };
        for &(weight, offset, rows) in parts {
            self.matrix(weight, Layers::All, rows, d);
            if bias {
                self.put(offset, Layers::All, &[rows]);
            }
        }
        self.matrix(Role::AttnO, Layers::All, d, q);
        let (q_norm, k_norm) = match (self.a.qk_norm, self.a.head_dim) {
            (Some(QkNorm::PerHead), Some(head)) => (head, head),
            (Some(QkNorm::Full), _) => (q, kv),
            _ => return,
        };
        self.put(Role::AttnQNorm, Layers::All, &[q_norm]);
        self.put(Role::AttnKNorm, Layers::All, &[k_norm]);
    }

    fn latent_attention(&mut self) {
        let (Some(latent), Some(q), Some(kv)) = (self.a.latent, self.a.q_size, self.a.kv_size) else { return };
        let d = self.a.hidden_size;
        match latent.q_rank {
            Some(rank) => {
                self.matrix(Role::AttnQA, Layers::All, rank, d);
                self.put(Role::AttnQANorm, Layers::All, &[rank]);
                self.matrix(Role::AttnQB, Layers::All, q, rank);
            }
            None => self.matrix(Role::AttnQ, Layers::All, q, d),
        }
        self.matrix(Role::AttnKvA, Layers::All, latent.kv_rank.saturating_add(latent.rope_size), d);
        self.put(Role::AttnKvANorm, Layers::All, &[latent.kv_rank]);
        self.matrix(Role::AttnKvB, Layers::All, kv, latent.kv_rank);
        self.matrix(Role::AttnO, Layers::All, d, latent.value_size);
    }

    fn dense(&mut self) {
        let (Some(f), d) = (self.a.intermediate_size, self.a.hidden_size) else { return };
        if self.a.dense_layers() == 0 {
            return;
        }
        let bias = self.a.mlp_bias == Some(true);
        let fused = self.a.fused_gate_up && !self.a.stacked_experts;
        let parts: &[(Role, Role, u64)] = match (self.a.gated_mlp, fused) {
            (true, true) => &[(Role::FfnGateUp, Role::FfnUpBias, f.saturating_mul(2))],
            (true, false) => &[(Role::FfnGate, Role::FfnGateBias, f), (Role::FfnUp, Role::FfnUpBias, f)],
            (false, _) => &[(Role::FfnUp, Role::FfnUpBias, f)],
        };
        for &(weight, offset, rows) in parts {
            self.matrix(weight, Layers::Dense, rows, d);
            if bias {
                self.put(offset, Layers::Dense, &[rows]);
            }
        }
        self.matrix(Role::FfnDown, Layers::Dense, d, f);
        if bias {
            self.put(Role::FfnDownBias, Layers::Dense, &[d]);
        }
    }

    fn mixture(&mut self) {
        let (Some(experts), Some(f), d) = (self.a.experts, self.a.expert_size, self.a.hidden_size) else { return };
        self.put(Role::Router, Layers::Mixture, &[experts, d]);
        if self.a.router_bias == Some(true) {
            self.put(Role::RouterBias, Layers::Mixture, &[experts]);
        }
        let rows: &[(Role, u64)] = if self.a.fused_gate_up {
            &[(Role::ExpertGateUp, f.saturating_mul(2))]
        } else {
            &[(Role::ExpertGate, f), (Role::ExpertUp, f)]
        };
        for (role, out, into) in rows.iter().map(|&(role, out)| (role, out, d)).chain([(Role::ExpertDown, d, f)]) {
            let (out, into) = if self.a.conv1d_transposed { (into, out) } else { (out, into) };
            if self.a.stacked_experts {
                self.put(role, Layers::Mixture, &[experts, out, into]);
            } else {
                self.slots.push(Slot { role, shape: vec![out, into], layers: Layers::Mixture, experts });
            }
        }
        if self.a.mlp_bias == Some(true) && self.a.stacked_experts {
            self.put(Role::ExpertGateUpBias, Layers::Mixture, &[experts, f.saturating_mul(2)]);
            self.put(Role::ExpertDownBias, Layers::Mixture, &[experts, d]);
        }
        if let Some(shared) = self.a.shared_expert_size {
            self.put(Role::SharedExpertGate, Layers::Mixture, &[shared, d]);
            self.put(Role::SharedExpertUp, Layers::Mixture, &[shared, d]);
            self.put(Role::SharedExpertDown, Layers::Mixture, &[d, shared]);
            if self.a.shared_expert_router == Some(true) {
                self.put(Role::SharedExpertRouter, Layers::Mixture, &[1, d]);
            }
        }
    }

    fn head(&mut self) {
        if self.a.final_norm == Some(true) {
            self.norm(Role::OutputNorm, Role::OutputNormBias, Layers::Outside);
        }
        let Some(vocabulary) = self.a.vocab_size else { return };
        if self.a.tied == Some(false) {
            self.put(Role::Output, Layers::Outside, &[vocabulary, self.a.hidden_size]);
        }
        if self.a.output_bias == Some(true) {
            self.put(Role::OutputBias, Layers::Outside, &[vocabulary]);
        }
    }
}
