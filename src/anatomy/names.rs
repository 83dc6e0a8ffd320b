//! Roles from names: which scheme a checkpoint's names follow, and which role each name claims.
//!
//! A claim counts only where the tensor's shape can play the role.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;

use crate::model::naming::{self, Hit};
use crate::model::{Architecture, Family, Role, Touch};
use crate::tensor::{DType, TensorMeta};

/// Smallest share of the tensors that a scheme has to name to be taken for the checkpoint's.
const LEAST_COVERAGE: f64 = 0.3;

/// Tensors whose names differ only in numbers.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: String,
    pub(super) members: Vec<Member>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) tensor: usize,
    pub(super) numbers: Vec<u32>,
}

impl Group {
    /// Which number of the names counts layers: the first that varies, or the first.
    pub(super) fn layer_position(&self) -> Option<usize> {
        let first = &self.members.first()?.numbers;
        let varies = |at: &usize| self.members.iter().any(|member| member.numbers.get(*at) != first.get(*at));
        (0..first.len()).find(varies).or_else(|| (!first.is_empty()).then_some(0))
    }

    /// The names as one pattern with `{layer}` and `{expert}`; numbers that do not vary stay.
    pub(super) fn pattern(&self) -> String {
        let Some(first) = self.members.first() else { return self.key.clone() };
        let mut names = ["{layer}", "{expert}"].into_iter();
        let parts: Vec<&str> = self.key.split('#').collect();
        // A name may itself hold the placeholder: then the parts and the numbers do not fit together.
        if parts.len() != first.numbers.len() + 1 {
            return self.key.clone();
        }
        let mut pattern = parts[0].to_owned();
        for (at, part) in parts[1..].iter().enumerate() {
            let fixed = self.members.iter().all(|member| member.numbers.get(at) == first.numbers.get(at));
            match names.next().filter(|_| !fixed) {
                Some(name) => pattern.push_str(name),
                None => pattern.push_str(&first.numbers[at].to_string()),
            }
            pattern.push_str(part);
        }
        pattern
    }
}

/// Groups the tensors that `include` admits, in file order of their first members.
pub(super) fn group(tensors: &[TensorMeta], include: impl Fn(usize) -> bool) -> Vec<Group> {
    let mut at: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (tensor, meta) in tensors.iter().enumerate().filter(|(tensor, _)| include(*tensor)) {
        let naming::Collapsed { key, numbers } = naming::collapse(&meta.name);
        let member = Member { tensor, numbers };
        match at.get(&key) {
            Some(&group) => groups[group].members.push(member),
            None => {
                at.insert(key.clone(), groups.len());
                groups.push(Group { key, members: vec![member] });
            }
        }
    }
    groups
}

/// Tensors of numbered modules each of which holds a table over the whole vocabulary: heads that draft further tokens,
/// and no layers. A model's layers hold none.
pub(super) fn further_heads(tensors: &[TensorMeta], groups: &[Group], architecture: &Architecture) -> Vec<usize> {
    let Some(vocabulary) = architecture.vocab_size else { return Vec::new() };
    let table = [vocabulary, architecture.hidden_size];
    let module = |group: &Group| group.key.split_once('#').map(|(module, _)| module.to_owned());
    let is_head = |group: &&Group| {
        let members = &group.members;
        members.len() > 1 && members.iter().all(|member| tensors[member.tensor].shape == table)
    };
    let heads: BTreeSet<String> = groups.iter().filter(is_head).filter_map(module).collect();
    let within = groups.iter().filter(|group| module(group).is_some_and(|module| heads.contains(&module)));
    // With as many layers as heads, or more, the module is the model's own stack.
    let few = |group: &&Group| (group.members.len() as u64) < architecture.layers;
    within.filter(few).flat_map(|group| group.members.iter().map(|member| member.tensor)).collect()
}

/// A scheme under a prefix, with or without its outer module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Reading {
    pub(super) bare: bool,
    pub(super) prefix: usize,
    pub(super) scheme: usize,
}

/// The scheme that names most tensors.
#[derive(Debug, Clone, Copy)]
pub(super) struct SchemeMatch {
    pub(super) reading: Reading,
    pub(super) matched: usize,
}

struct Prefix {
    key: String,
    numbers: usize,
}

fn collapsed_prefixes() -> &'static [Prefix] {
    static CELL: OnceLock<Vec<Prefix>> = OnceLock::new();
    CELL.get_or_init(|| {
        let collapse = |prefix: &String| {
            let collapsed = naming::collapse(prefix);
            Prefix { key: collapsed.key, numbers: collapsed.numbers.len() }
        };
        naming::prefixes().iter().map(collapse).collect()
    })
}

/// Chooses the scheme: most tensors with an agreeing shape; then the one usual for the family that the shapes make; then
/// fewest names that the scheme demands and the file lacks; then the catalog's order.
pub(super) fn best(
    tensors: &[TensorMeta],
    groups: &[Group],
    stream: ResidualStream,
    family: Family,
) -> Option<SchemeMatch> {
    let mut scores: BTreeMap<Reading, (usize, BTreeSet<usize>)> = BTreeMap::new();
    let prefixes = collapsed_prefixes();
    for group in groups {
        for (index, prefix) in prefixes.iter().enumerate() {
            let Some(key) = group.key.strip_prefix(&prefix.key) else { continue };
            for member in &group.members {
                let meta = &tensors[member.tensor];
                let mut seen: Vec<Reading> = Vec::new();
                for hit in naming::lookup(key, member.numbers.get(prefix.numbers..).unwrap_or(&[])) {
                    let reading = Reading { bare: hit.bare, prefix: index, scheme: hit.scheme };
                    if !seen.contains(&reading) && agrees(hit, meta, stream) {
                        seen.push(reading);
                        let score = scores.entry(reading).or_default();
                        score.0 += 1;
                        score.1.insert(hit.row);
                    }
                }
            }
        }
    }
    let total: usize = groups.iter().map(|group| group.members.len()).sum();
    let (reading, (matched, _)) = scores.into_iter().min_by_key(|(reading, (matched, rows))| {
        let scheme = &naming::schemes()[reading.scheme];
        let lacks = scheme.tensors.iter().enumerate().filter(|(row, r)| !r.optional && !rows.contains(row)).count();
        let usual = scheme.families.contains(&family);
        (std::cmp::Reverse(*matched), !usual, lacks, *reading)
    })?;
    (matched as f64 >= LEAST_COVERAGE * total as f64).then_some(SchemeMatch { reading, matched })
}

/// What the chosen scheme says of a tensor. The output head is looked for outside the prefix too.
pub(super) fn claim(
    reading: Reading,
    group: &Group,
    member: &Member,
    meta: &TensorMeta,
    stream: ResidualStream,
) -> Option<Hit> {
    let prefix = &collapsed_prefixes()[reading.prefix];
    let find = |key: &str, skip: usize, bare: bool| {
        naming::lookup(key, member.numbers.get(skip..).unwrap_or(&[]))
            .find(|hit| hit.scheme == reading.scheme && hit.bare == bare && agrees(*hit, meta, stream))
    };
    group
        .key
        .strip_prefix(&prefix.key)
        .and_then(|key| find(key, prefix.numbers, reading.bare))
        .or_else(|| find(&group.key, 0, false).filter(|hit| matches!(hit.row().role, Role::Output | Role::OutputBias)))
}

/// What shapes say of the residual stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResidualStream {
    /// Its width.
    pub(super) width: u64,
    /// Whether the matrices that read and write it are stored by (in, out).
    pub(super) transposed: bool,
}

/// Whether a tensor's shape can play the role that its name claims.
fn agrees(hit: Hit, meta: &TensorMeta, ResidualStream { width: d, transposed }: ResidualStream) -> bool {
    let role = hit.row().role;
    let transposed = transposed || !naming::schemes()[hit.scheme].transposed.starts_with("none");
    if matches!(meta.dtype, DType::U8 | DType::U32 | DType::I32) && meta.shape.len() >= 2 {
        // Packed codes: the shape says nothing about the matrix.
        return !matches!(role.touch(), Touch::Gain | Touch::Bias);
    }
    match (role.touch(), meta.shape.as_slice()) {
        (Touch::Gain | Touch::Bias, shape) => shape == [d],
        (Touch::Embeds, [rows, columns]) => *columns == d || (transposed && *rows == d),
        (Touch::Reads, [rows, columns]) => *columns == d || (transposed && *rows == d),
        (Touch::Writes, [rows, columns]) => *rows == d || (transposed && *columns == d),
        (Touch::Reads | Touch::Writes, [_, rows, columns]) => *rows == d || *columns == d,
        (Touch::Reads | Touch::Writes, [_, _, _, _]) => true,
        (Touch::None, shape) => role_of_no_stream(role, shape),
        _ => false,
    }
}

fn role_of_no_stream(role: Role, shape: &[u64]) -> bool {
    match role {
        Role::AttnQB | Role::AttnKvB => shape.len() == 2,
        Role::ExpertGateUpBias | Role::ExpertDownBias | Role::Pooler | Role::MlmHead | Role::Mtp => shape.len() <= 2,
        role if role.is_constant() => true,
        _ => shape.len() <= 2 && !matches!(shape, [rows, columns] if *rows > 1024 && *columns > 1024),
    }
}

/// Endings of names that quantisation tools add to a matrix's own: codes, scales, offsets.
const QUANTISED: [(&str, Role); 22] = [
    (".qweight", Role::Quant),
    (".weight_packed", Role::Quant),
    (".qzeros", Role::QuantBias),
    (".weight_zero_point", Role::QuantBias),
    (".g_idx", Role::Buffer),
    (".weight_shape", Role::Buffer),
    (".weight_format", Role::Buffer),
    (".scales", Role::QuantScale),
    (".SCB", Role::QuantScale),
    (".weight_scale", Role::QuantScale),
    (".weight_scale_inv", Role::QuantScale),
    (".input_scale", Role::QuantScale),
    (".weight.absmax", Role::QuantScale),
    (".weight.nested_absmax", Role::QuantScale),
    (".weight.SCB", Role::QuantScale),
    (".weight_scale_2", Role::QuantScale),
    (".weight_global_scale", Role::QuantScale),
    (".weight.quant_map", Role::Buffer),
    (".weight.nested_quant_map", Role::Buffer),
    (".weight.quant_state.bitsandbytes__nf4", Role::Buffer),
    (".weight.quant_state.bitsandbytes__fp4", Role::Buffer),
    (".biases", Role::QuantBias),
];

/// Tensors that carry the quantisation of another one: a name that only such tensors have, beside the tensor it
/// belongs to, and not larger than an eighth of it.
pub(super) fn quantised(tensors: &[TensorMeta]) -> Vec<(usize, Role)> {
    let ending = |name: &str| {
        QUANTISED.iter().find_map(|(ending, role)| name.strip_suffix(ending).map(|stem| (stem.to_owned(), *role)))
    };
    let candidates: Vec<(usize, String, Role)> = tensors
        .iter()
        .enumerate()
        .filter_map(|(index, meta)| ending(&meta.name).map(|(stem, role)| (index, stem, role)))
        .collect();
    let unread = of_codes(tensors);
    if candidates.is_empty() {
        return unread;
    }
    let sizes: HashMap<&str, u64> = tensors.iter().map(|meta| (meta.name.as_str(), meta.elements())).collect();
    let belongs = |(index, stem, role): &(usize, String, Role)| {
        let own = tensors[*index].elements();
        let packed = *role == Role::Quant && !tensors[*index].dtype.is_float();
        packed
            || [".weight", ".qweight", ".weight_packed"]
                .iter()
                .filter_map(|end| sizes.get(format!("{stem}{end}").as_str()))
                .any(|&matrix| own <= matrix / 8 || !tensors[*index].dtype.is_float())
    };
    let mut found: Vec<(usize, Role)> =
        candidates.into_iter().filter(belongs).map(|(index, _, role)| (index, role)).collect();
    let known: HashSet<usize> = found.iter().map(|(index, _)| *index).collect();
    found.extend(unread.into_iter().filter(|(index, _)| !known.contains(index)));
    found
}

/// A module with more tensors of its own than this is no matrix in parts.
const MOST_PARTS: usize = 64;

/// Codes that nothing could put together, and what stands beside them in their module: scales, code books, signs. A
/// matrix that is an index or a mask has none of these beside it, or the weights themselves.
fn of_codes(tensors: &[TensorMeta]) -> Vec<(usize, Role)> {
    fn parent(name: &str) -> &str {
        name.rsplit_once('.').map_or("", |(module, _)| module)
    }
    let mut modules: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, meta) in tensors.iter().enumerate() {
        modules.entry(parent(&meta.name)).or_default().push(index);
    }
    let is_many = |meta: &TensorMeta| meta.shape.iter().any(|&n| n > 1) && !meta.shape.contains(&0);
    let is_codes = |meta: &TensorMeta| {
        use DType::{I8, I16, I32, U8, U16, U32};
        meta.shape.len() >= 2 && is_many(meta) && matches!(meta.dtype, U8 | I8 | U16 | I16 | U32 | I32)
    };
    let last = |meta: &TensorMeta| meta.name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let is_part = |meta: &TensorMeta| meta.dtype.is_float() && is_many(meta) && last(meta) != "bias";
    let holds_codes = |module: &str| {
        let Some(own) = modules.get(module).filter(|own| own.len() <= MOST_PARTS) else { return false };
        let own = || own.iter().map(|&index| &tensors[index]);
        let is_weight = |meta: &TensorMeta| meta.dtype.is_float() && meta.shape.len() >= 2 && last(meta) == "weight";
        own().any(is_codes) && own().any(is_part) && !own().any(is_weight)
    };
    let holding: HashSet<&str> = modules.keys().copied().filter(|module| holds_codes(module)).collect();
    let is_book = |module: &str| {
        let last = module.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        ["centroid", "book", "cluster"].iter().any(|word| last.contains(word))
    };
    let within = |meta: &TensorMeta| {
        let module = parent(&meta.name);
        holding.contains(module) || is_book(module) && holding.contains(parent(module))
    };
    let role = |(index, meta): (usize, &TensorMeta)| {
        let role = if is_codes(meta) { Role::Quant } else { Role::QuantScale };
        (is_codes(meta) || is_part(meta)).then_some((index, role)).filter(|_| within(meta))
    };
    if holding.is_empty() { Vec::new() } else { tensors.iter().enumerate().filter_map(role).collect() }
}

/// Parts of adapters in a model that has the weights besides.
pub(super) fn adapters(tensors: &[TensorMeta]) -> Vec<usize> {
    let parts = tensors.iter().enumerate().filter(|(_, meta)| naming::is_adapter_part(&meta.name));
    let parts: Vec<usize> = parts.map(|(index, _)| index).collect();
    let lacks_base = || naming::lacks_base(tensors.iter().map(|meta| meta.name.as_str()));
    if parts.is_empty() || lacks_base() { Vec::new() } else { parts }
}

/// Which tensors belong to the language model: towers and projectors of a multimodal model do not. Where nothing would
/// be left, everything belongs.
pub(super) fn language_model(tensors: &[TensorMeta]) -> Vec<bool> {
    let inner = ["language_model.", "model.language_model.", "text_model.", "llm.", "thinker.model."];
    let holds = |meta: &TensorMeta, prefix: &str| meta.name.starts_with(prefix);
    let other = |meta: &TensorMeta| {
        let name = meta.name.strip_prefix("model.").unwrap_or(&meta.name);
        let named = |module: &String| name.starts_with(module.as_str()) || meta.name.starts_with(module.as_str());
        naming::other_modules().iter().any(named)
    };
    let within: Vec<&str> = inner.into_iter().filter(|prefix| tensors.iter().any(|meta| holds(meta, prefix))).collect();
    let inside = |meta: &TensorMeta| within.iter().any(|prefix| holds(meta, prefix));
    let count = tensors.iter().filter(|meta| inside(meta)).count();
    let belongs = |meta: &TensorMeta| {
        let top = meta.name.starts_with("lm_head.");
        // A few names that happen to begin like this do not make the rest another tower.
        if count * 4 >= tensors.len() && count > 0 { inside(meta) || top } else { !other(meta) }
    };
    let mask: Vec<bool> = tensors.iter().map(belongs).collect();
    if mask.contains(&true) { mask } else { vec![true; tensors.len()] }
}
