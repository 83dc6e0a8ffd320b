//! The architecture from roles: what the named tensors' shapes add up to.

use std::collections::{BTreeMap, BTreeSet};

use super::shapes::heads;
use super::{Assignment, Source};
use crate::model::{Architecture, Latent, QkNorm, Role};
use crate::tensor::TensorMeta;

/// Shapes and layers by role.
struct Inventory<'a> {
    shapes: BTreeMap<Role, BTreeMap<&'a [u64], usize>>,
    layers: BTreeMap<Role, BTreeSet<u32>>,
    d: u64,
}

impl<'a> Inventory<'a> {
    fn take(tensors: &'a [TensorMeta], assignments: &[Assignment], d: u64) -> Self {
        let mut inventory = Self { shapes: BTreeMap::new(), layers: BTreeMap::new(), d };
        let single = |assignment: &Assignment| match assignment.roles[..] {
            [role] => Some(role),
            _ => None,
        };
        let roles = assignments.iter().map(|assignment| (single(assignment), assignment.layer));
        let beyond: BTreeSet<u32> =
            roles.clone().filter(|(role, _)| *role == Some(Role::Mtp)).filter_map(|(_, layer)| layer).collect();
        for (meta, (role, layer)) in tensors.iter().zip(roles) {
            let Some(role) = role.filter(|_| !layer.is_some_and(|layer| beyond.contains(&layer))) else { continue };
            *inventory.shapes.entry(role).or_default().entry(&meta.shape).or_default() += 1;
            if let Some(layer) = layer {
                inventory.layers.entry(role).or_default().insert(layer);
            }
        }
        inventory
    }

    fn has(&self, role: Role) -> bool {
        self.shapes.contains_key(&role)
    }

    fn any(&self, roles: &[Role]) -> bool {
        roles.iter().any(|role| self.has(*role))
    }

    /// The shape that most tensors of the role have.
    fn shape(&self, role: Role) -> Option<&'a [u64]> {
        let shapes = self.shapes.get(&role)?;
        shapes.iter().max_by_key(|(_, n)| **n).map(|(shape, _)| *shape)
    }

    /// The size that a matrix has beside the stream's; of a stack, that of one expert.
    fn size(&self, role: Role) -> Option<u64> {
        match *self.shape(role)? {
            [rows, columns] | [_, rows, columns] => Some(if columns == self.d { rows } else { columns }),
            _ => None,
        }
    }

    /// Rows of an attention projection, whose heads may be an axis of their own.
    fn heads(&self, role: Role) -> Option<u64> {
        match *self.shape(role)? {
            [_, _] => self.size(role),
            [heads, a, b] => heads.checked_mul(if a == self.d { b } else { a }),
            _ => None,
        }
    }

    fn layers(&self, role: Role) -> u64 {
        self.layers.get(&role).map_or(0, |layers| layers.len() as u64)
    }
}

/// How many layers the names count; those that predict further tokens are none. `None` where no name counts.
pub(super) fn named_layers(assignments: &[Assignment]) -> Option<u64> {
    let named = || assignments.iter().filter(|assignment| assignment.by == Some(Source::Names));
    let beyond: BTreeSet<u32> =
        named().filter(|assignment| assignment.role() == Some(Role::Mtp)).filter_map(|a| a.layer).collect();
    let layers: BTreeSet<u32> = named().filter_map(|a| a.layer).filter(|layer| !beyond.contains(layer)).collect();
    (!layers.is_empty()).then_some(layers.len() as u64)
}

/// The architecture that settled roles make; sizes that no role shows are taken from `shapes`.
pub(super) fn from_roles(tensors: &[TensorMeta], assignments: &[Assignment], shapes: &Architecture) -> Architecture {
    let inventory = Inventory::take(tensors, assignments, shapes.hidden_size);
    let mut a = Architecture { hidden_size: shapes.hidden_size, ..Architecture::default() };
    let counted: BTreeSet<u32> = inventory.layers.values().flatten().copied().collect();
    a.layers = if counted.is_empty() { shapes.layers } else { counted.len() as u64 };
    attention(&mut a, &inventory);
    mlp(&mut a, &inventory);
    outside(&mut a, &inventory);
    a.conv1d_transposed = shapes.conv1d_transposed;
    norms(&mut a, &inventory);
    a.name_family();
    let rope = inventory.shape(Role::RopeFreqs).and_then(|shape| shape.last()).map(|n| n * 2);
    if a.head_dim.is_none() && a.family.rotates_whole_heads() {
        a.head_dim = rope.filter(|&head| head > 0 && a.q_size.is_some_and(|q| q % head == 0));
    }
    heads(&mut a);
    a
}

fn attention(a: &mut Architecture, inventory: &Inventory<'_>) {
    a.q_size = inventory.heads(Role::AttnQ);
    a.kv_size = inventory.heads(Role::AttnK);
    if let (Some(rows), Some(q)) = (inventory.size(Role::AttnQkv), inventory.heads(Role::AttnO)) {
        a.fused_qkv = true;
        (a.q_size, a.kv_size) = (Some(q), Some(rows.saturating_sub(q) / 2));
    }
    if let (Some(&[kv, kv_rank]), Some(down)) = (inventory.shape(Role::AttnKvB), inventory.size(Role::AttnKvA)) {
        let q_up = inventory.shape(Role::AttnQB);
        let value_size = inventory.size(Role::AttnO).unwrap_or(0);
        let q_rank = q_up.and_then(|shape| shape.last().copied());
        a.latent = Some(Latent { q_rank, kv_rank, rope_size: down.saturating_sub(kv_rank), value_size });
        a.q_size = q_up.and_then(|shape| shape.first().copied()).or(a.q_size);
        a.kv_size = Some(kv);
    }
    a.attention_bias = Some(inventory.any(&[Role::AttnQBias, Role::AttnQkvBias]));
    a.attention_output_bias = Some(inventory.has(Role::AttnOBias));
    a.attention_sinks = Some(inventory.has(Role::AttnSinks));
    if let Some(&[heads]) = inventory.shape(Role::AttnSinks) {
        a.heads = Some(heads);
        a.head_dim = a.q_size.filter(|q| heads > 0 && q % heads == 0).map(|q| q / heads);
    }
    a.qk_norm = Some(match inventory.shape(Role::AttnQNorm) {
        None => QkNorm::None,
        Some(&[n]) if Some(n) != a.q_size => {
            a.head_dim = Some(n);
            QkNorm::PerHead
        }
        Some(_) => QkNorm::Full,
    });
}

fn mlp(a: &mut Architecture, inventory: &Inventory<'_>) {
    let down = inventory.size(Role::FfnDown);
    let fused = inventory.size(Role::FfnGateUp).or_else(|| inventory.size(Role::FfnUp));
    let twice = |rows: u64| down.is_some_and(|down| down.checked_mul(2) == Some(rows));
    a.intermediate_size = down;
    a.gated_mlp = inventory.has(Role::FfnGate);
    if !a.gated_mlp && fused.is_some_and(twice) {
        (a.gated_mlp, a.fused_gate_up) = (true, true);
    }
    a.mlp_bias = Some(inventory.any(&[Role::FfnUpBias, Role::FfnDownBias, Role::ExpertDownBias]));
    let (Some(experts), Some(size)) = (inventory.size(Role::Router), inventory.size(Role::ExpertDown)) else { return };
    a.experts = Some(experts);
    a.expert_size = Some(size);
    a.expert_layers = Some(inventory.layers(Role::Router));
    a.shared_expert_size = inventory.size(Role::SharedExpertDown);
    a.shared_expert_router = a.shared_expert_size.map(|_| inventory.has(Role::SharedExpertRouter));
    a.stacked_experts = inventory.shape(Role::ExpertDown).is_some_and(|shape| shape.len() == 3);
    a.gated_mlp = true;
    a.fused_gate_up |= inventory.has(Role::ExpertGateUp);
    a.router_bias = Some(inventory.has(Role::RouterBias));
}

fn outside(a: &mut Architecture, inventory: &Inventory<'_>) {
    let rows = |role| inventory.shape(role).and_then(|shape| shape.first().copied());
    a.vocab_size = rows(Role::TokenEmbd);
    a.position_embeddings = rows(Role::PosEmbd);
    a.token_types = rows(Role::TokenTypeEmbd);
    a.tied = a.vocab_size.map(|_| !inventory.has(Role::Output));
    a.output_bias = a.vocab_size.map(|_| inventory.has(Role::OutputBias));
}

fn norms(a: &mut Architecture, inventory: &Inventory<'_>) {
    const LAYER: [Role; 4] = [Role::AttnNorm, Role::PostAttnNorm, Role::FfnNorm, Role::PostFfnNorm];
    const BIAS: [Role; 6] = [
        Role::AttnNormBias,
        Role::PostAttnNormBias,
        Role::FfnNormBias,
        Role::PostFfnNormBias,
        Role::OutputNormBias,
        Role::TokenEmbdNormBias,
    ];
    a.norms_per_layer = Some(LAYER.iter().map(|role| u32::from(inventory.has(*role))).sum());
    a.norm_bias = Some(inventory.any(&BIAS));
    a.final_norm = Some(inventory.has(Role::OutputNorm));
    a.embedding_norm = Some(inventory.has(Role::TokenEmbdNorm));
}
