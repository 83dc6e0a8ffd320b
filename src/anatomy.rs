//! Which tensor plays which role, and the architecture that they make.
//!
//! Names are used where they help and where shapes agree with them; what they leave open is worked out from shapes and
//! counts. Where shape cannot tell two roles apart, both are given. Values are never looked at, and nothing here knows
//! of weights' origin.

mod components;
mod config;
mod family;
mod gain;
mod names;
mod record;
mod shapes;
mod slots;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::format::Claims;
use crate::model::{Architecture, Family, Role, Touch, block, blueprint, naming};
use crate::tensor::TensorMeta;
pub use components::Component;
pub use config::{config_findings, config_layers};
use names::{Group, ResidualStream, SchemeMatch};
use shapes::Shapes;

/// How a role was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// By the tensor's name, with a shape that agrees.
    Names,
    /// By shape and number; the order of names, at most, told equal vectors apart.
    Shapes,
}

impl Source {
    /// The source as reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Shapes => "shapes",
        }
    }
}

/// How a tensor touches the residual stream. Axes count from zero, outermost first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residual {
    /// A matrix that reads the stream; its channels lie along this axis.
    Reads(usize),
    /// A matrix that writes to the stream; its channels lie along this axis.
    Writes(usize),
    /// An embedding or an output head; its channels lie along this axis.
    Embeds(usize),
    /// A vector that multiplies the stream.
    Gain,
    /// A vector that is added to the stream.
    Bias,
    /// It does touch the stream, but shape cannot tell along which axis, or whether it multiplies or adds.
    Ambiguous,
    /// It does not touch the stream, or its role is unknown.
    None,
}

/// What is known of one tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Its role; several where shape cannot tell, none where it is unknown.
    pub roles: Vec<Role>,
    /// The layer that its name states.
    pub layer: Option<u32>,
    /// The expert that its name states.
    pub expert: Option<u32>,
    /// How the role was found.
    pub by: Option<Source>,
    /// How it touches the residual stream.
    pub residual: Residual,
}

impl Assignment {
    const UNKNOWN: Self = Self { roles: Vec::new(), layer: None, expert: None, by: None, residual: Residual::None };

    /// The role, where it is settled.
    pub fn role(&self) -> Option<Role> {
        match self.roles[..] {
            [role] => Some(role),
            _ => None,
        }
    }
}

/// The naming scheme that a checkpoint follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamingMatch {
    /// Id of the scheme.
    pub scheme: String,
    /// Its title.
    pub title: String,
    /// What stands in front of the scheme's names.
    pub prefix: String,
    /// Tensors whose name and shape fit the scheme.
    pub matched: usize,
    /// Tensors of the language model, quantisation data aside.
    pub of: usize,
}

/// A tensor, or one of every layer, that does not have its usual name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The name found, with `{layer}` and `{expert}` for numbers that vary.
    pub found: String,
    /// The name that the family's standard scheme has.
    pub canonical: String,
    /// What the tensor is for.
    pub role: Role,
    /// How many tensors this is about.
    pub count: usize,
}

/// A checkpoint taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Anatomy {
    /// What is known of each tensor, in the order of the tensors.
    pub assignments: Vec<Assignment>,
    /// The architecture that they make.
    pub architecture: Architecture,
    /// The naming scheme, where the names follow a known one.
    pub naming: Option<NamingMatch>,
    /// Names that differ from the standard of the scheme, or of the family where no scheme fits.
    pub renamed: Vec<Renamed>,
    /// The family whose block takes all that lies in the layers. It is the architecture's, unless other families have the
    /// same shapes and nothing tells which one it is.
    pub block: Option<Family>,
    /// What most roles come from.
    pub by: Source,
    /// What has a residual stream of its own beside the main one: towers, an encoder, a second language model.
    pub components: Vec<Component>,
    /// Tensors of the language model that no role explains: what a transformer's block, its embeddings and its heads have
    /// no place for.
    pub leftovers: Vec<usize>,
    /// What could not be told, and what was left out.
    pub notes: Vec<String>,
}

/// What a checkpoint says of itself beside its tensors. Claims are hints: where shapes contradict them, shapes decide.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints<'a> {
    /// Its configuration, which is asked for the number of heads and the model type.
    pub config: Option<&'a Map<String, Value>>,
    /// Whether the weights lie in GGUF, which knows one convention for the gains of norms.
    pub in_gguf: bool,
}

impl<'a> Hints<'a> {
    /// The hints in what a checkpoint claims.
    pub fn of(claims: &'a Claims) -> Self {
        Self { config: claims.config.as_ref(), in_gguf: claims.in_gguf }
    }
}

impl<'a> From<&'a Map<String, Value>> for Hints<'a> {
    fn from(config: &'a Map<String, Value>) -> Self {
        Self { config: Some(config), ..Self::default() }
    }
}

/// Takes a checkpoint apart by names, where a known scheme fits and shapes agree, and by shapes where not.
pub fn dissect(tensors: &[TensorMeta], hints: Hints<'_>) -> Anatomy {
    let mut found = Found::new(tensors);
    let groups = names::group(tensors, |tensor| found.included[tensor]);
    let (shapes, best) = found.choose(tensors, &groups);
    if let Some(best) = best {
        accept(tensors, &groups, best, &shapes, &mut found.assignments);
    }
    found.mark_predictions();
    let assignments = &mut found.assignments;
    let mut notes = Vec::new();
    let ordered = slots::fill(tensors, &groups, &shapes, assignments);
    if !ordered.is_empty() {
        let names: Vec<&str> = ordered.iter().map(|role| role.as_str()).collect();
        notes.push(format!("only the order of their names tells {} apart", names.join(", ")));
    }
    let settled = is_settled(tensors, &found.counted, assignments, shapes.architecture.hidden_size);
    let mut architecture = if settled && shapes.architecture.hidden_size > 0 {
        record::from_roles(tensors, assignments, &shapes.architecture)
    } else {
        notes.extend(shapes.notes.iter().cloned());
        let layers = record::named_layers(assignments).filter(|_| best.is_some());
        Architecture { layers: layers.unwrap_or(shapes.architecture.layers), ..shapes.architecture.clone() }
    };
    if let Some(config) = hints.config {
        config::hint_heads(config, &mut architecture);
    }
    architecture.norm_gain = gain::convention(hints, &architecture);
    let own = found.own();
    let kinds = found.kinds(tensors, &groups);
    let assignments = &mut found.assignments;
    let evidence = family::Evidence { tensors, own: &own, groups: &groups, assignments, best, settled };
    let block = evidence.tell(&mut architecture, &kinds);
    if let Some(block) = block.filter(|block| *block != architecture.family) {
        notes.push(format!("the shapes are those of {block}, and of other families that names would tell apart"));
    }
    if architecture.heads.is_none() && settled && architecture.q_size.is_some() {
        notes.push("the number of heads is not visible in shapes".to_owned());
    }
    let others = found.member.iter().filter(|member| !**member).count();
    if others > 0 {
        notes.push(format!("{others} tensors of other towers and projectors have no role"));
    }
    finish(tensors, &shapes.architecture, assignments);
    let of = groups.iter().map(|group| group.members.len()).sum();
    Anatomy {
        renamed: renamed(&groups, assignments, best, &architecture),
        naming: best.map(|best| naming_match(best, of)),
        block,
        by: if best.is_some() { Source::Names } else { Source::Shapes },
        leftovers: found.leftovers(),
        assignments: found.assignments,
        architecture,
        components: found.components,
        notes,
    }
}

/// What lies in the layers of a checkpoint, from which a record of its block is learned.
#[cfg(feature = "_internals")]
pub fn layer_kinds(tensors: &[TensorMeta]) -> block::Kinds<'_> {
    let mut found = Found::new(tensors);
    let groups = names::group(tensors, |tensor| found.included[tensor]);
    found.choose(tensors, &groups);
    found.kinds(tensors, &groups)
}

/// What is known of each tensor while a checkpoint is taken apart.
struct Found<'a> {
    parts: components::Parts<'a>,
    /// Tensors that names do not give to a tower.
    language: Vec<bool>,
    /// Tensors of the language model.
    member: Vec<bool>,
    /// Those without quantisation data and the factors of adapters.
    included: Vec<bool>,
    /// Those that count for the architecture: layers and heads that predict further tokens do not.
    counted: Vec<bool>,
    predictions: BTreeMap<usize, Option<u32>>,
    components: Vec<Component>,
    assignments: Vec<Assignment>,
}

impl<'a> Found<'a> {
    fn new(tensors: &'a [TensorMeta]) -> Self {
        let language = names::language_model(tensors);
        let mut parts = components::parts(tensors, &language);
        let components = std::mem::take(&mut parts.components);
        let both: Vec<bool> = language.iter().zip(&parts.member).map(|(a, b)| *a && *b).collect();
        let member = if both.contains(&true) { both } else { language.clone() };
        let mut assignments = vec![Assignment::UNKNOWN; tensors.len()];
        let mut included = member.clone();
        for (tensor, role) in names::quantised(tensors) {
            included[tensor] = false;
            assignments[tensor].roles = vec![role];
            assignments[tensor].by = Some(Source::Names);
        }
        for tensor in names::adapters(tensors) {
            included[tensor] = false;
        }
        let counted = included.clone();
        Self { parts, language, member, included, counted, predictions: BTreeMap::new(), components, assignments }
    }

    /// Reads shapes and names; once more where some layers or heads turn out to predict further tokens.
    fn choose(&mut self, tensors: &'a [TensorMeta], groups: &[Group]) -> (Shapes, Option<SchemeMatch>) {
        let (mut shapes, mut best) = choose(tensors, &self.counted, groups);
        let width = shapes.architecture.hidden_size;
        self.predictions = components::predictions(tensors, &self.parts, &self.included, width);
        let heads = names::further_heads(tensors, groups, width, self.parts.layers());
        if !self.predictions.is_empty() || !heads.is_empty() {
            for &tensor in self.predictions.keys().chain(&heads) {
                self.counted[tensor] = false;
            }
            (shapes, best) = choose(tensors, &self.counted, groups);
        }
        let members: Vec<usize> = (0..tensors.len()).filter(|&tensor| self.counted[tensor]).collect();
        if best.is_none() {
            self.components.extend(components::nameless(tensors, &members, &shapes));
        }
        (shapes, best)
    }

    /// What no name explained of layers that predict further tokens.
    fn mark_predictions(&mut self) {
        for (&tensor, &layer) in &self.predictions {
            let assignment = &mut self.assignments[tensor];
            if assignment.by.is_none() {
                (assignment.roles, assignment.by) = (vec![Role::Mtp], Some(Source::Names));
                assignment.layer = layer;
            }
        }
    }

    /// The tensors that the model's own block, its embeddings and its heads must explain.
    fn own(&self) -> Vec<bool> {
        let mut own = self.counted.clone();
        for &tensor in self.components.iter().flat_map(|component| &component.tensors) {
            own[tensor] = false;
        }
        own
    }

    /// What lies in the layers of the model and of the components that are no towers, by the names behind their numbers.
    fn kinds<'t>(&self, tensors: &'t [TensorMeta], groups: &[Group]) -> block::Kinds<'t> {
        let counts = |tensor: usize| {
            let of_model = self.language[tensor] && !self.predictions.contains_key(&tensor);
            of_model && (self.included[tensor] || !self.member[tensor])
        };
        if self.components.is_empty() {
            return family::kinds(tensors, groups, counts);
        }
        family::kinds(tensors, &names::group(tensors, counts), counts)
    }

    fn leftovers(&self) -> Vec<usize> {
        let mut explained: Vec<bool> = self.assignments.iter().map(|assignment| !assignment.roles.is_empty()).collect();
        for &tensor in self.components.iter().flat_map(|component| &component.tensors) {
            explained[tensor] = true;
        }
        (0..explained.len()).filter(|&tensor| self.included[tensor] && !explained[tensor]).collect()
    }
}

/// The shapes' reading and the names'. Where a scheme's embedding or final norm states another width than the shapes
/// suggest and more names agree with it, that width is taken.
fn choose(tensors: &[TensorMeta], included: &[bool], groups: &[Group]) -> (Shapes, Option<SchemeMatch>) {
    let members: Vec<&TensorMeta> =
        tensors.iter().zip(included).filter(|(_, included)| **included).map(|(meta, _)| meta).collect();
    let analyse = |width| shapes::analyse(&members, width);
    let shapes = analyse(None);
    let a = &shapes.architecture;
    let stream = ResidualStream { width: a.hidden_size, transposed: a.conv1d_transposed };
    let best = names::best(tensors, groups, stream, a.family);
    let stated = stated_width(tensors, groups).filter(|&width| width != a.hidden_size);
    if let Some(width) = stated
        && let Some(other) = names::best(tensors, groups, ResidualStream { width, transposed: false }, Family::Unknown)
        && other.matched > best.map_or(0, |best| best.matched)
    {
        return (analyse(Some(width)), Some(other));
    }
    (shapes, best)
}

/// The width that most embeddings and final norms, by any scheme's names, have.
fn stated_width(tensors: &[TensorMeta], groups: &[Group]) -> Option<u64> {
    let mut votes: HashMap<u64, usize> = HashMap::new();
    for member in groups.iter().filter(|group| group.members.len() == 1).map(|group| (&group.key, &group.members[0])) {
        let (key, member) = member;
        let outside = |role| matches!(role, Role::TokenEmbd | Role::OutputNorm);
        if naming::lookup(key, &member.numbers).any(|hit| outside(hit.row().role))
            && let Some(&width) = tensors[member.tensor].shape.last()
        {
            *votes.entry(width).or_default() += 1;
        }
    }
    votes.into_iter().max_by_key(|&(width, n)| (n, width)).map(|(width, _)| width)
}

/// Takes over what the names claim. Where the claims contradict each other (a query projection of another size than the
/// output projection reads) and the shapes have a place for every matrix, only claims that shapes allow are kept.
fn accept(
    tensors: &[TensorMeta],
    groups: &[Group],
    best: SchemeMatch,
    shapes: &Shapes,
    assignments: &mut [Assignment],
) {
    let Architecture { hidden_size: width, conv1d_transposed: transposed, .. } = shapes.architecture;
    let mut claimed = Vec::new();
    for group in groups {
        for member in &group.members {
            let meta = &tensors[member.tensor];
            if let Some(hit) = names::claim(best.reading, group, member, meta, ResidualStream { width, transposed }) {
                claimed.push((member.tensor, hit));
                let assignment = &mut assignments[member.tensor];
                assignment.roles = vec![hit.row().role];
                (assignment.layer, assignment.expert) = (hit.layer, hit.expert);
                assignment.by = Some(Source::Names);
            }
        }
    }
    if !shapes.complete {
        return;
    }
    let named = record::from_roles(tensors, assignments, &shapes.architecture);
    let mut expected: HashMap<Role, Vec<Vec<u64>>> = HashMap::new();
    for slot in blueprint::blueprint(&named) {
        expected.entry(slot.role).or_default().push(slot.shape);
    }
    let contradicts = |tensor: usize, role: Role| {
        is_core(role) && expected.get(&role).is_some_and(|shapes| !shapes.contains(&tensors[tensor].shape))
    };
    if !claimed.iter().any(|&(tensor, hit)| contradicts(tensor, hit.row().role)) {
        return;
    }
    for (tensor, hit) in claimed {
        let allowed = shapes.roles.get(&tensors[tensor].shape);
        if is_core(hit.row().role) && allowed.is_some_and(|roles| !roles.contains(&hit.row().role)) {
            assignments[tensor] = Assignment::UNKNOWN;
        }
    }
}

/// Matrices that every layer has one of.
fn is_core(role: Role) -> bool {
    matches!(
        role,
        Role::AttnQ
            | Role::AttnK
            | Role::AttnV
            | Role::AttnO
            | Role::AttnQkv
            | Role::FfnGate
            | Role::FfnUp
            | Role::FfnDown
            | Role::FfnGateUp
    )
}

/// Whether no matrix and no vector of the stream's width is undecided between roles, and hardly one has none, so that
/// roles make a better record than counts of shapes.
fn is_settled(tensors: &[TensorMeta], included: &[bool], assignments: &[Assignment], d: u64) -> bool {
    /// Share of tensors without a role beside which the others still make a record: heads and adapters of other kinds.
    const MOST_UNKNOWN: f64 = 0.05;
    let (mut known, mut unknown) = (0_usize, 0_usize);
    for ((meta, included), assignment) in tensors.iter().zip(included).zip(assignments) {
        if *included && (meta.shape.len() >= 2 || meta.shape == [d]) {
            match assignment.roles.len() {
                0 => unknown += 1,
                1 => known += 1,
                _ => return false,
            }
        }
    }
    known > 0 && unknown as f64 <= MOST_UNKNOWN * known as f64
}

/// Works out how each tensor touches the residual stream.
fn finish(tensors: &[TensorMeta], architecture: &Architecture, assignments: &mut [Assignment]) {
    for (meta, assignment) in tensors.iter().zip(assignments) {
        assignment.residual = residual(&assignment.roles, &meta.shape, architecture);
    }
}

pub(crate) fn residual(roles: &[Role], shape: &[u64], architecture: &Architecture) -> Residual {
    let d = architecture.hidden_size;
    let Some(touch) = roles.first().map(|role| role.touch()) else { return Residual::None };
    if roles.iter().any(|role| role.touch() != touch) {
        return if shape.contains(&d) { Residual::Ambiguous } else { Residual::None };
    }
    // Stacked experts turned round stand beside other matrices that are not.
    let transposed = architecture.conv1d_transposed && (shape.len() == 3 || !architecture.stacked_experts);
    let along = |usual: usize, other: usize| {
        let has = |axis: usize| shape.get(axis) == Some(&d);
        let (first, second) = if transposed { (other, usual) } else { (usual, other) };
        if has(first) { Some(first) } else { has(second).then_some(second) }
    };
    let last = shape.len().saturating_sub(1);
    let row = last.saturating_sub(1);
    match touch {
        Touch::Reads => along(last, row).map_or(Residual::None, Residual::Reads),
        Touch::Writes => along(row, last).map_or(Residual::None, Residual::Writes),
        Touch::Embeds if shape.get(last) == Some(&d) => Residual::Embeds(last),
        Touch::Embeds => shape.iter().position(|&n| n == d).map_or(Residual::None, Residual::Embeds),
        Touch::Gain if shape == [d] => Residual::Gain,
        Touch::Bias if shape == [d] => Residual::Bias,
        Touch::Gain | Touch::Bias | Touch::None => Residual::None,
    }
}

fn naming_match(best: SchemeMatch, of: usize) -> NamingMatch {
    let scheme = &naming::schemes()[best.reading.scheme];
    NamingMatch {
        scheme: scheme.id.clone(),
        title: scheme.title.clone(),
        prefix: naming::prefixes()[best.reading.prefix].clone(),
        matched: best.matched,
        of,
    }
}

fn renamed(
    groups: &[Group],
    assignments: &[Assignment],
    best: Option<SchemeMatch>,
    architecture: &Architecture,
) -> Vec<Renamed> {
    // Where the block is not known, or takes not all that lies in the layers, its places have no usual names.
    if !architecture.family.is_of_features() || !architecture.is_whole() {
        return Vec::new();
    }
    let own = best.map(|best| &naming::schemes()[best.reading.scheme]);
    let standard = match own {
        Some(scheme) => scheme.variant_of.as_deref().map_or(Some(scheme), naming::scheme),
        None => naming::standard(architecture.family),
    };
    let reading = best.map(|best| best.reading);
    standard.map_or_else(Vec::new, |standard| slots::renamed(groups, assignments, standard, reading))
}
