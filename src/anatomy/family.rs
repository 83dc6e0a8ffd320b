//! Which family a checkpoint is of: told only where everything in its layers has its place in that family's block, and
//! where no other family's block looks the same.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{Group, SchemeMatch};
use super::{Assignment, Source};
use crate::model::block::{self, Kinds};
use crate::model::blueprint::blueprint;
use crate::model::{Architecture, Family, Role, Touch, naming};
use crate::tensor::{DType, TensorMeta};

/// What a family is told from.
pub(super) struct Evidence<'a> {
    pub(super) tensors: &'a [TensorMeta],
    /// Which tensors the block, the embeddings and the heads must explain.
    pub(super) own: &'a [bool],
    pub(super) groups: &'a [Group],
    pub(super) assignments: &'a [Assignment],
    pub(super) best: Option<SchemeMatch>,
    /// Whether roles, rather than counts of shapes, made the record.
    pub(super) settled: bool,
}

impl Evidence<'_> {
    /// Sets the family, and what has no place in its block. Returns the family of features whose block takes everything,
    /// whether or not others have the same shapes.
    pub(super) fn tell(&self, architecture: &mut Architecture, kinds: &Kinds<'_>) -> Option<Family> {
        // Names speak where they fill the block's places; otherwise counts do.
        let by_roles = self.best.map(|_| self.by_roles(architecture)).filter(|(_, complete)| *complete || self.settled);
        let (unplaced, complete) = by_roles.unwrap_or_else(|| self.by_shapes(architecture));
        architecture.unplaced = unplaced;
        let is_whole = unplaced == 0 && complete;
        // What a tool fused was counted as it is stored; the family is that of the model.
        let fuses = self.best.is_some_and(|best| naming::schemes()[best.reading.scheme].fuses);
        if fuses && self.settled && is_whole {
            (architecture.fused_qkv, architecture.fused_gate_up) = (false, false);
            architecture.name_family();
        }
        let family = architecture.family;
        architecture.family = Family::Unknown;
        let block = (is_whole && family != Family::Unknown).then_some(family);
        if let Some(recorded) = block::told(kinds) {
            architecture.family = recorded;
            architecture.layers = self.layers().map_or(architecture.layers, |(_, layers)| layers);
        } else if let Some(family) = block.filter(|&family| self.distinguishes(family, architecture)) {
            architecture.family = family;
        }
        block
    }

    /// Shapes in layers that no role explains, and whether the roles that the block has are there.
    fn by_roles(&self, architecture: &Architecture) -> (u64, bool) {
        let mut expected: BTreeMap<Role, u64> = BTreeMap::new();
        for slot in blueprint(architecture) {
            *expected.entry(slot.role).or_default() += slot.tensors(architecture);
        }
        let has_place = |role: &Role| expected.contains_key(role) || role.is_constant() || *role == Role::Mtp;
        let mut unplaced: BTreeSet<&[u64]> = BTreeSet::new();
        let layers = self.layers().map_or("", |(prefix, _)| prefix);
        let inside = |group: &&Group| group.key.split_once('#').is_some_and(|(prefix, _)| prefix == layers);
        for group in self.groups.iter().filter(inside).filter(|group| group.members.len() > 1) {
            for (at, meta) in self.weights(group) {
                if !self.assignments[at].roles.iter().any(has_place) {
                    unplaced.insert(&meta.shape);
                }
            }
        }
        let mut found: BTreeMap<Role, u64> = BTreeMap::new();
        for role in self.assignments.iter().filter_map(Assignment::role) {
            *found.entry(role).or_default() += 1;
        }
        let is_there = |(role, n): (&Role, &u64)| found.get(role).copied().unwrap_or(0) >= least(*n);
        // Which of two places a norm has is told by names alone; their number was counted.
        let complete = expected.iter().filter(|(role, _)| role.touch() != Touch::Gain).all(is_there);
        (unplaced.len() as u64, complete)
    }

    /// The tensors of a group that the block must explain.
    fn weights<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = (usize, &'a TensorMeta)> {
        let tensors = group.members.iter().map(|member| (member.tensor, &self.tensors[member.tensor]));
        tensors.filter(|(at, meta)| self.own[*at] && holds_weights(meta))
    }

    /// The same from counts: shapes of which there are more than the block has places, and whether all of its shapes are
    /// there.
    fn by_shapes(&self, architecture: &Architecture) -> (u64, bool) {
        let mut found: BTreeMap<&[u64], u64> = BTreeMap::new();
        for (at, meta) in self.tensors.iter().enumerate() {
            let roles = &self.assignments[at].roles;
            let constant = !roles.is_empty() && roles.iter().all(|role| role.is_constant());
            if self.own[at] && !constant && holds_weights(meta) {
                *found.entry(&meta.shape).or_default() += 1;
            }
        }
        let slots = blueprint(architecture);
        let mut expected: BTreeMap<&[u64], u64> = BTreeMap::new();
        for slot in &slots {
            *expected.entry(&slot.shape).or_default() += slot.tensors(architecture);
        }
        let width = architecture.hidden_size;
        let mut missing: BTreeMap<Class, u64> = BTreeMap::new();
        let mut complete = true;
        for (shape, n) in &expected {
            let there = found.get(shape).copied().unwrap_or(0);
            complete &= there >= least(*n);
            *missing.entry(Class::of(shape, width)).or_default() += n.saturating_sub(there);
        }
        let mut unplaced = 0;
        for (shape, n) in found {
            let surplus = n.saturating_sub(expected.get(shape).copied().unwrap_or(0));
            // One of a kind stands outside the layers: a classifier, a pooler, a copy of the head.
            let surplus = if surplus == 1 { 0 } else { surplus };
            // A few layers may be wider or narrower than most: their tensors are missing among the usual ones.
            let room = missing.entry(Class::of(shape, width)).or_default();
            unplaced += u64::from(surplus > *room);
            *room = room.saturating_sub(surplus);
        }
        (unplaced, complete)
    }

    /// Whether what is known beside shapes leaves no other family. Where a layer's two norms stand is told by names alone,
    /// and other families may have the same shapes with norms elsewhere, or with the same projections used otherwise.
    fn distinguishes(&self, family: Family, architecture: &Architecture) -> bool {
        if architecture.norms_per_layer == Some(2)
            && let Some(post) = self.norms_stand_behind()
        {
            return post == Some(family.is_post_norm());
        }
        let usual = self.best.is_some_and(|best| naming::schemes()[best.reading.scheme].families.contains(&family));
        // Of so few layers it cannot be told how many biased norms are theirs and how many stand outside.
        let shallow = architecture.norm_bias == Some(true) && architecture.layers <= MOST_SHALLOW;
        usual || !(block::has_look_alike(family) || shallow)
    }

    /// Whether the names say that a layer's norms stand behind attention and MLP; the inner `None` if they say both.
    fn norms_stand_behind(&self) -> Option<Option<bool>> {
        let named = |roles: [Role; 2]| {
            let is = |assignment: &Assignment| assignment.role().is_some_and(|role| roles.contains(&role));
            self.assignments.iter().any(|assignment| assignment.by == Some(Source::Names) && is(assignment))
        };
        match (named([Role::AttnNorm, Role::FfnNorm]), named([Role::PostAttnNorm, Role::PostFfnNorm])) {
            (false, false) => None,
            (true, true) => Some(None),
            (_, post) => Some(Some(post)),
        }
    }

    /// What stands in front of the number of a layer, where most parameters are, and how many layers names count there.
    fn layers(&self) -> Option<(&str, u64)> {
        let mut stacks: BTreeMap<&str, (u64, BTreeSet<u32>)> = BTreeMap::new();
        for group in self.groups {
            let Some((prefix, _)) = group.key.split_once('#') else { continue };
            let (parameters, layers) = stacks.entry(prefix).or_default();
            for member in group.members.iter().filter(|member| self.own[member.tensor]) {
                *parameters = parameters.saturating_add(parameters_of(&self.tensors[member.tensor]));
                layers.extend(member.numbers.first());
            }
        }
        let largest = stacks.into_iter().max_by_key(|(_, (parameters, _))| *parameters);
        largest.map(|(prefix, (_, layers))| (prefix, layers.len() as u64))
    }
}

/// What lies in the layers, by the names behind their numbers.
pub(super) fn kinds<'a>(tensors: &'a [TensorMeta], groups: &[Group], counts: impl Fn(usize) -> bool) -> Kinds<'a> {
    let mut kinds = Kinds::new();
    for group in groups {
        let Some((_, name)) = group.key.split_once("#.") else { continue };
        // Rotary frequencies are a formula, which some tools store.
        if name.ends_with("inv_freq") {
            continue;
        }
        let members = group.members.iter().map(|member| member.tensor).filter(|&at| counts(at));
        let mut shapes: BTreeSet<&[u64]> =
            members.map(|at| &tensors[at]).filter(|meta| holds_weights(meta)).map(|meta| &*meta.shape).collect();
        if !shapes.is_empty() {
            kinds.entry(name.to_owned()).or_default().append(&mut shapes);
        }
    }
    kinds
}

/// Layers up to which vectors inside and outside of them may be counted either way.
const MOST_SHALLOW: u64 = 4;

/// How a shape can touch the residual stream: its rank and the axes that have the stream's width.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class(usize, Vec<bool>);

impl Class {
    fn of(shape: &[u64], width: u64) -> Self {
        Self(shape.len(), shape.iter().map(|&n| n == width).collect())
    }
}

/// How many of `n` tensors must be there: a damaged checkpoint may lack a tenth.
fn least(n: u64) -> u64 {
    n - n / 10
}

fn parameters_of(meta: &TensorMeta) -> u64 {
    meta.shape.iter().fold(1, |product: u64, &n| product.saturating_mul(n))
}

/// Whether a tensor can hold weights: indices, masks, scalars and empty tensors do not.
fn holds_weights(meta: &TensorMeta) -> bool {
    let number = meta.dtype.is_float() || matches!(meta.dtype, DType::I8 | DType::Strided(_) | DType::Other(_));
    number && meta.shape.iter().any(|&n| n > 1) && !meta.shape.contains(&0)
}
