//! Parts of a checkpoint that have a residual stream of their own: towers, encoders, a second language model.
//!
//! Names tell stacks of layers apart: what stands in front of a number that varies. The stack with most parameters is the
//! model's own; another one is a component if it has another width, or if it is a model by itself whose layers have the
//! same numbers. So are layers that predict further tokens, which content and position give away. Where names say
//! nothing, a run of matrices without a place in the model's block is a component if it makes a block of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::shapes::{self, Shapes};
use crate::model::{Architecture, naming};
use crate::tensor::TensorMeta;

/// Numbers of a name that are asked whether they count layers. No known wrapper is as deep.
const DEEPEST: usize = 8;

/// Matrices that a layer has at least: a block has four, two for attention and two for its MLP. Experts have three.
const FEWEST_MATRICES: usize = 4;

/// Stacks, largest first, that are asked whether they are components.
const MOST_STACKS: usize = 64;

/// Modules that are asked whether they predict further tokens.
const MOST_MODULES: usize = 16;

/// States of torch.optim's optimisers, by which their copies of a model's names differ from the model's.
const OPTIMISER_STATES: [&str; 6] =
    ["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg"];

/// A part of a checkpoint beside its main one.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    /// What stands in front of its names; empty where only shapes and order tell it apart.
    pub prefix: String,
    /// The architecture that its own tensors make.
    pub architecture: Architecture,
    /// Its tensors.
    pub tensors: Vec<usize>,
}

/// The numbers in a name that may count layers: what stands in front of each, and the number.
fn numbers(name: &str) -> impl Iterator<Item = (&str, u32)> {
    let mut at = 0;
    let parts = name.split_inclusive(['.', '/']).filter_map(move |segment| {
        let start = at;
        at += segment.len();
        let body = segment.strip_suffix(['.', '/']).unwrap_or(segment);
        let stem = body.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = body[stem.len()..].parse().ok()?;
        (stem.is_empty() || naming::counts_layers(stem)).then(|| (&name[..start + stem.len()], number))
    });
    parts.take(DEEPEST)
}

/// Layers whose names differ in one number.
#[derive(Debug)]
pub(super) struct Stack<'a> {
    /// What stands in front of the number.
    container: &'a str,
    /// The tensors of each layer.
    layers: BTreeMap<u32, Vec<usize>>,
    parameters: u128,
}

impl Stack<'_> {
    fn tensors(&self) -> impl Iterator<Item = usize> {
        self.layers.values().flatten().copied()
    }

    fn is_optimiser(&self) -> bool {
        is_optimiser(self.container)
    }
}

fn is_optimiser(name: &str) -> bool {
    name.split(['.', '/']).any(|segment| OPTIMISER_STATES.contains(&segment))
}

/// The stacks of `tensors`, largest first. A tensor belongs to the stack of the first number in its name that varies.
fn stacks<'a>(tensors: &'a [TensorMeta]) -> Vec<Stack<'a>> {
    let mut first: HashMap<&str, (u32, bool)> = HashMap::new();
    for tensor in tensors {
        for (container, number) in numbers(&tensor.name) {
            let seen = first.entry(container).or_insert((number, false));
            seen.1 |= seen.0 != number;
        }
    }
    let mut stacks: BTreeMap<&str, Stack<'a>> = BTreeMap::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let varies = |(container, _): &(&str, u32)| first.get(container).is_some_and(|(_, varies)| *varies);
        let Some((container, number)) = numbers(&tensor.name).find(varies) else { continue };
        let empty = || Stack { container, layers: BTreeMap::new(), parameters: 0 };
        let stack = stacks.entry(container).or_insert_with(empty);
        stack.layers.entry(number).or_default().push(index);
        stack.parameters = stack.parameters.saturating_add(u128::from(tensor.elements()));
    }
    let matrices = |stack: &Stack<'_>| stack.tensors().filter(|&i| tensors[i].shape.len() >= 2).count();
    let mut stacks: Vec<Stack<'a>> =
        stacks.into_values().filter(|stack| matrices(stack) >= FEWEST_MATRICES * stack.layers.len()).collect();
    stacks.sort_by(|a, b| {
        let size =
            |stack: &Stack<'_>| (stack.is_optimiser(), std::cmp::Reverse(stack.parameters), stack.container.len());
        size(a).cmp(&size(b)).then_with(|| a.container.cmp(b.container))
    });
    stacks.truncate(MOST_STACKS);
    stacks
}

/// What names tell of a checkpoint's parts.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    /// The model's own layers.
    main: Option<Stack<'a>>,
    /// Which tensors belong to no other component.
    pub(super) member: Vec<bool>,
    pub(super) components: Vec<Component>,
}

/// Takes a checkpoint's towers apart. `language` are the tensors that names do not give to a tower: the model's own
/// layers are among them.
pub(super) fn parts<'a>(tensors: &'a [TensorMeta], language: &[bool]) -> Parts<'a> {
    let mut stacks = stacks(tensors);
    let own = stacks.iter().position(|stack| stack.tensors().any(|i| language[i]));
    let main = own.map(|at| stacks.remove(at));
    let mut member: Vec<bool> = tensors.iter().map(|tensor| !is_optimiser(&tensor.name)).collect();
    let Some(main) = main else { return Parts { main, member, components: Vec::new() } };
    if stacks.is_empty() {
        return Parts { main: Some(main), member, components: Vec::new() };
    }
    let width = analyse(tensors, main.tensors(), None).architecture.hidden_size;
    stacks.retain(|stack| is_component(tensors, stack, &main, width));
    let mut components: Vec<Component> = stacks
        .iter()
        .map(|stack| Component {
            prefix: stack.container.to_owned(),
            architecture: Architecture::default(),
            tensors: Vec::new(),
        })
        .collect();
    if components.is_empty() {
        return Parts { main: Some(main), member, components };
    }
    let owners = owners(&main, &stacks);
    for (index, tensor) in tensors.iter().enumerate() {
        let owner = leading(&tensor.name).find_map(|path| owners.get(path)).copied().flatten();
        if let Some(owner) = owner {
            components[owner].tensors.push(index);
            member[index] = false;
        }
    }
    for component in &mut components {
        component.architecture = analyse(tensors, component.tensors.iter().copied(), None).architecture;
    }
    if !member.contains(&true) {
        member.fill(true);
    }
    Parts { main: Some(main), member, components }
}

fn analyse(tensors: &[TensorMeta], of: impl Iterator<Item = usize>, width: Option<u64>) -> Shapes {
    let mut indices: Vec<usize> = of.collect();
    indices.sort_unstable();
    let of: Vec<&TensorMeta> = indices.into_iter().map(|index| &tensors[index]).collect();
    shapes::analyse(&of, width)
}

/// Whether a stack is a component beside the main one.
fn is_component(tensors: &[TensorMeta], stack: &Stack<'_>, main: &Stack<'_>, width: u64) -> bool {
    if stack.is_optimiser() {
        return true;
    }
    let architecture = analyse(tensors, stack.tensors(), None).architecture;
    let numbers: BTreeSet<u32> = stack.layers.keys().copied().collect();
    let side_by_side = main.layers.keys().any(|number| numbers.contains(number));
    architecture.layers > 0 && (architecture.hidden_size != width || side_by_side)
}

/// Paths of modules that lead to a name, longest first; the empty one comes last.
fn leading(name: &str) -> impl Iterator<Item = &str> {
    let ends = name.char_indices().rev().filter(|(_, c)| matches!(c, '.' | '/')).map(|(at, _)| &name[..=at]);
    ends.chain([""])
}

/// Which component owns what lies under a path: the one whose layers do too, the main one first.
fn owners<'a>(main: &Stack<'a>, others: &[Stack<'a>]) -> HashMap<&'a str, Option<usize>> {
    let mut owners = HashMap::new();
    let stacks = [(main, None)].into_iter().chain(others.iter().enumerate().map(|(at, stack)| (stack, Some(at))));
    for (stack, owner) in stacks {
        for path in leading(stack.container) {
            owners.entry(path).or_insert(owner);
        }
    }
    owners
}

/// Layers behind the model's own, or beside them, that predict further tokens: a block, and in front of it a matrix that
/// reads two streams and writes one, which the model's own layers lack. Tensors of such a layer, with its number where it
/// is counted among the model's own.
pub(super) fn predictions(
    tensors: &[TensorMeta],
    parts: &Parts<'_>,
    included: &[bool],
    width: u64,
) -> BTreeMap<usize, Option<u32>> {
    let twice = width.saturating_mul(2);
    let joins = |tensor: &TensorMeta| tensor.shape == [width, twice] || tensor.shape == [twice, width];
    let joining: HashSet<usize> = (0..tensors.len()).filter(|&i| included[i] && joins(&tensors[i])).collect();
    let mut found = BTreeMap::new();
    let Some(main) = parts.main.as_ref().filter(|_| width > 0 && !joining.is_empty()) else { return found };
    last_layers(tensors, main, &joining, &mut found);
    let own: BTreeSet<usize> = main.tensors().collect();
    let mut modules: BTreeSet<&str> = BTreeSet::new();
    for &index in joining.iter().filter(|index| !own.contains(index)) {
        // The weight's module, and the one around that.
        let around = leading(&tensors[index].name).skip(1).filter(|path| !main.container.starts_with(path));
        modules.extend(around.take(DEEPEST));
    }
    // In this order modules come before those within them.
    for module in modules.into_iter().take(MOST_MODULES) {
        let inside: Vec<usize> = (0..tensors.len())
            .filter(|&i| included[i] && !found.contains_key(&i) && tensors[i].name.starts_with(module))
            .collect();
        if !inside.iter().any(|index| joining.contains(index)) {
            continue;
        }
        let layers = analyse(tensors, inside.iter().copied(), Some(width)).architecture.layers;
        if layers > 0 && layers.saturating_mul(2) <= main.layers.len() as u64 {
            found.extend(inside.into_iter().map(|index| (index, None)));
        }
    }
    found
}

/// Layers at the end of a stack that have all that most of its layers have, and a joining matrix that those lack.
fn last_layers(
    tensors: &[TensorMeta],
    main: &Stack<'_>,
    joining: &HashSet<usize>,
    found: &mut BTreeMap<usize, Option<u32>>,
) {
    let part = |index: usize| {
        let name = &tensors[index].name[main.container.len()..];
        name.trim_start_matches(|c: char| c.is_ascii_digit())
    };
    let mut holders: HashMap<&str, usize> = HashMap::new();
    for index in main.tensors() {
        *holders.entry(part(index)).or_default() += 1;
    }
    let usual = |part: &str| holders.get(part).is_some_and(|n| n * 2 > main.layers.len());
    let all: usize = holders.keys().filter(|part| usual(part)).count();
    for (&number, layer) in main.layers.iter().rev() {
        let joins = layer.iter().any(|index| joining.contains(index) && !usual(part(*index)));
        if !joins || layer.iter().filter(|index| usual(part(**index))).count() < all {
            break;
        }
        found.extend(layer.iter().map(|&index| (index, Some(number))));
    }
}

/// Components that only shapes and order tell from the model: what `shapes` found to lie apart, if it makes blocks of its
/// own.
pub(super) fn nameless(tensors: &[TensorMeta], members: &[usize], shapes: &Shapes) -> Vec<Component> {
    /// Towers that a model has beside it at most: vision, audio, a talker and its codec.
    const MOST: usize = 4;
    let mut rest: Vec<usize> =
        members.iter().zip(&shapes.foreign).filter(|(_, foreign)| **foreign).map(|(index, _)| *index).collect();
    let mut components = Vec::new();
    while !rest.is_empty() && components.len() < MOST {
        let found = analyse(tensors, rest.iter().copied(), None);
        let a = &found.architecture;
        // Equal squares make anything.
        let squares = [a.q_size, a.kv_size, a.intermediate_size].iter().all(|size| *size == Some(a.hidden_size));
        if a.layers == 0 || squares {
            break;
        }
        let apart = rest.iter().copied().zip(found.foreign);
        let (next, own): (Vec<_>, Vec<_>) = apart.partition(|(_, foreign)| *foreign);
        let index = |(index, _): (usize, bool)| index;
        let tensors = own.into_iter().map(index).collect();
        components.push(Component { prefix: String::new(), architecture: found.architecture, tensors });
        rest = next.into_iter().map(index).collect();
    }
    components
}
