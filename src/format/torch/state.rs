//! Which of the values of a pickle are the model's tensors, and what they are called.
//!
//! A checkpoint is a dictionary of tensors, or a dictionary that has one under a known name beside the training's
//! state. Dictionaries and lists inside it are followed, their keys and places joined with dots. A whole pickled module, or one of
//! TorchScript, is walked like its own `state_dict` does: parameters, buffers, then the modules inside.

use std::collections::{HashMap, HashSet};

use super::Named;
use crate::format::pickle::{Node, NodeId, Pickle, Quantiser, Storage, Tensor, Value};
use crate::limits::{MAX_HEADER_BYTES, MAX_MODULE_DEPTH, MAX_NAME_BYTES, MAX_STATE_DEPTH, MAX_TENSORS};
use crate::unread::UnreadKind;
use crate::{Error, Result};

/// Keys under which trainers put the model, the better known first.
const MODEL_KEYS: [&str; 6] = ["state_dict", "model_state_dict", "model", "module", "net", "params"];

/// Beginnings of keys under which trainers put what is not the model.
const TRAINING_KEYS: [&str; 9] =
    ["optim", "last_optim", "lr_sched", "scheduler", "scaler", "rng", "random_rng", "ema_", "callbacks"];

/// The tensors of a pickle.
pub(crate) struct State<'p> {
    /// Names and tensors in the order in which the pickle has them; no name occurs twice.
    pub(crate) tensors: Vec<(String, &'p Tensor)>,
    /// Keys beside the model that hold tensors or objects and were left out.
    pub(crate) left_out: Vec<String>,
    /// What was left out, for its storages.
    pub(crate) unwanted: Vec<Value>,
    /// Names of tensors whose bytes no listed function would give.
    pub(crate) refused: Vec<String>,
}

/// Looks for the model's tensors; `None` if there are none and nothing that could have been one.
pub(crate) fn find<'p>(file: Named<'_>, pickle: &'p Pickle<'_>) -> Result<Option<State<'p>>> {
    let mut search = Search { file, pickle, visits: 0, named: 0, walked: HashSet::new(), holding: HashMap::new() };
    let mut root = pickle.root;
    let (mut left_out, mut unwanted) = (Vec::new(), Vec::new());
    for _ in 0..MAX_STATE_DEPTH {
        let entries = match pickle.items(root) {
            Some(items) => numbered(items),
            None => pickle.dict(root).unwrap_or_default().to_vec(),
        };
        let Some(model) = search.model_of(&entries)? else { break };
        for (key, value) in &entries {
            if *value != model && search.holds_tensors(*value, 0)? {
                let key = pickle.key(*key).unwrap_or_default();
                left_out.push(search.name("", &key)?);
                unwanted.push(*value);
            }
        }
        root = model;
    }
    let listed = pickle.items(root).map(numbered);
    let mut found = Found { names: HashMap::new(), tensors: Vec::new(), refused: Vec::new(), left_out, unwanted };
    search.is_new(root);
    match (listed, pickle.dict(root), pickle.attributes(root)) {
        (Some(items), _, _) if search.holds_tensors(root, 0)? => search.collect(&items, "", 0, &mut found)?,
        (_, Some(entries), _) => search.collect(entries, "", 0, &mut found)?,
        (_, None, Some(attributes)) => search.module(attributes, "", 0, &mut found)?,
        _ => return Ok(None),
    }
    let Found { tensors, refused, left_out, unwanted, .. } = found;
    Ok(Some(State { tensors, left_out, unwanted, refused }))
}

struct Search<'f, 'p, 'b> {
    file: Named<'f>,
    pickle: &'p Pickle<'b>,
    /// Entries looked at. A dictionary may be in another many times over, so they are counted, not the dictionaries.
    visits: usize,
    /// Bytes of the names made so far.
    named: u64,
    /// Dictionaries whose tensors were taken. One that is met again gives the same tensors under other names.
    walked: HashSet<NodeId>,
    /// Whether a dictionary is known to hold tensors.
    holding: HashMap<NodeId, bool>,
}

struct Found<'p> {
    names: HashMap<String, usize>,
    tensors: Vec<(String, &'p Tensor)>,
    refused: Vec<String>,
    left_out: Vec<String>,
    unwanted: Vec<Value>,
}

impl<'p> Search<'_, 'p, '_> {
    fn visit(&mut self) -> Result<()> {
        const MOST: usize = MAX_TENSORS;
        self.visits += 1;
        if self.visits > MOST {
            let path = self.file.path.to_path_buf();
            let (what, found) = ("number of entries in a checkpoint's dictionaries", self.visits as u64);
            return Err(Error::limit(path, what, found, MOST as u64));
        }
        Ok(())
    }

    /// The dictionary with the model, if these are the entries of a dictionary around it.
    fn model_of(&mut self, entries: &[(Value, Value)]) -> Result<Option<Value>> {
        // Random state is a tensor too; any other tensor here makes this the state dict itself.
        let is_weights = |(key, value): &(Value, Value)| {
            matches!(self.pickle.node(*value), Some(Node::Tensor(_)))
                && !self.pickle.key(*key).is_some_and(|key| is_training(&key))
        };
        if entries.iter().any(is_weights) {
            return Ok(None);
        }
        if entries.iter().all(|(key, _)| matches!(key, Value::Int(_))) {
            return self.only_one(entries);
        }
        for wanted in MODEL_KEYS {
            let named = |(key, _): &&(Value, Value)| self.pickle.key(*key).is_some_and(|key| key == wanted);
            if let Some((_, value)) = entries.iter().rev().find(named)
                && (self.pickle.dict(*value).is_some() || self.pickle.attributes(*value).is_some())
                && self.holds_tensors(*value, 0)?
            {
                return Ok(if self.is_of_one_tree(*value, entries)? { None } else { Some(*value) });
            }
        }
        Ok(None)
    }

    /// The one item that holds tensors, of a list of dictionaries.
    fn only_one(&mut self, entries: &[(Value, Value)]) -> Result<Option<Value>> {
        let mut found = None;
        for (_, value) in entries {
            if self.holds_tensors(*value, 0)? && found.replace(*value).is_some() {
                return Ok(None);
            }
        }
        Ok(found.filter(|value| self.pickle.dict(*value).is_some() || self.pickle.items(*value).is_some()))
    }

    /// Whether `model` is a module among others of a tree of dictionaries, one for each module, rather than all of it:
    /// beside it lie other modules, and none has its keys, as a copy would. Keys with dots are names of a whole state.
    fn is_of_one_tree(&mut self, model: Value, entries: &[(Value, Value)]) -> Result<bool> {
        let pickle = self.pickle;
        // Many keys may stand for one large dictionary.
        for (_, value) in entries {
            for _ in pickle.dict(*value).unwrap_or_default() {
                self.visit()?;
            }
        }
        let keys = |value: Value| {
            let entries = pickle.dict(value)?;
            let keys = entries.iter().map(|(key, _)| pickle.key(*key)).collect::<Option<HashSet<_>>>()?;
            (!keys.iter().any(|key| key.contains('.'))).then_some(keys)
        };
        let Some(own) = keys(model) else { return Ok(false) };
        let mut others = false;
        for (key, value) in entries {
            let is_training = pickle.key(*key).is_none_or(|key| is_training(&key));
            if *value == model || is_training || !self.holds_tensors(*value, 0)? {
                continue;
            }
            match keys(*value) {
                Some(theirs) if theirs.is_disjoint(&own) => others = true,
                _ => return Ok(false),
            }
        }
        Ok(others)
    }

    fn holds_tensors(&mut self, value: Value, depth: usize) -> Result<bool> {
        self.visit()?;
        let Value::Node(id) = value else { return Ok(false) };
        if let Some(known) = self.holding.get(&id) {
            return Ok(*known);
        }
        let values: Vec<Value> = match self.pickle.node(value) {
            Some(Node::Tensor(_)) => return Ok(true),
            _ if depth == MAX_MODULE_DEPTH => return Ok(false),
            Some(Node::Object(state)) => vec![*state],
            Some(Node::Dict(entries)) => entries.iter().map(|(_, value)| *value).collect(),
            Some(Node::List(items)) => items.clone(),
            Some(Node::Tuple(items)) => items.to_vec(),
            _ => return Ok(false),
        };
        // A dictionary that holds itself holds no more for that.
        self.holding.insert(id, false);
        let mut holds = false;
        for value in values {
            if self.holds_tensors(value, depth + 1)? {
                holds = true;
                break;
            }
        }
        self.holding.insert(id, holds);
        Ok(holds)
    }

    /// The name of an entry, paid for by its length: one long prefix may stand in front of a million keys.
    fn name(&mut self, prefix: &str, key: &str) -> Result<String> {
        let len = (prefix.len() + key.len()) as u64;
        self.named += len;
        for (what, found, limit) in [
            ("length of a tensor's name in bytes", len, MAX_NAME_BYTES as u64),
            ("length of all tensors' names in bytes", self.named, MAX_HEADER_BYTES),
        ] {
            if found > limit {
                return Err(Error::limit(self.file.path, what, found, limit));
            }
        }
        Ok(format!("{prefix}{key}"))
    }

    fn is_new(&mut self, dict: Value) -> bool {
        matches!(dict, Value::Node(id) if self.walked.insert(id))
    }

    fn collect(&mut self, entries: &[(Value, Value)], prefix: &str, depth: usize, found: &mut Found<'p>) -> Result<()> {
        for (key, value) in entries {
            self.visit()?;
            let Some(key) = self.pickle.key(*key) else { continue };
            let name = self.name(prefix, &key)?;
            match self.pickle.node(*value) {
                Some(Node::Tensor(tensor)) => found.push(name, tensor),
                Some(Node::Dict(inner)) if is_training(&name) && !inner.is_empty() => {
                    found.left_out.push(name);
                    found.unwanted.push(*value);
                }
                Some(Node::Dict(inner)) if depth < MAX_STATE_DEPTH && self.is_new(*value) => {
                    self.collect(inner, &format!("{name}."), depth + 1, found)?;
                }
                Some(Node::List(_) | Node::Tuple(_)) if is_training(&name) => {
                    found.left_out.push(name);
                    found.unwanted.push(*value);
                }
                Some(Node::List(_) | Node::Tuple(_)) if depth < MAX_STATE_DEPTH && self.is_new(*value) => {
                    let items = numbered(self.pickle.items(*value).unwrap_or_default());
                    self.collect(&items, &format!("{name}."), depth + 1, found)?;
                }
                Some(Node::Object(_)) if depth < MAX_STATE_DEPTH && self.is_new(*value) => {
                    let attributes = self.pickle.attributes(*value).unwrap_or_default();
                    self.module(attributes, &format!("{name}."), depth + 1, found)?;
                }
                Some(Node::List(_) | Node::Tuple(_) | Node::Dict(_) | Node::Object(_))
                    if self.holds_tensors(*value, 0)? =>
                {
                    found.left_out.push(name);
                    found.unwanted.push(*value);
                }
                _ if matches!(value, Value::Refused(_)) => found.refused.push(name),
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'p> Search<'_, 'p, '_> {
    /// The tensors of a module, from its attributes. Those that its class would not save are left out.
    fn module(
        &mut self,
        attributes: &'p [(Value, Value)],
        prefix: &str,
        depth: usize,
        found: &mut Found<'p>,
    ) -> Result<()> {
        let pickle = self.pickle;
        let named = |wanted: &str| {
            let is = |(key, _): &&(Value, Value)| pickle.key(*key).is_some_and(|key| key == wanted);
            attributes.iter().rev().find(is).map(|(_, value)| *value)
        };
        let (parameters, modules) = (named("_parameters"), named("_modules"));
        let (Some(parameters), Some(modules)) =
            (parameters.and_then(|value| pickle.dict(value)), modules.and_then(|value| pickle.dict(value)))
        else {
            // Of TorchScript, whose modules have everything as attributes.
            return self.members(attributes, prefix, depth, found);
        };
        let unsaved = named("_non_persistent_buffers_set").and_then(|value| pickle.items(value)).unwrap_or_default();
        let unsaved: HashSet<_> = unsaved.iter().filter_map(|key| pickle.key(*key)).collect();
        let buffers = named("_buffers").and_then(|value| pickle.dict(value)).unwrap_or_default();
        self.members(parameters, prefix, depth, found)?;
        for (key, value) in buffers {
            match pickle.key(*key) {
                Some(text) if unsaved.contains(&text) => {
                    self.visit()?;
                    if pickle.node(*value).is_some() {
                        found.left_out.push(self.name(prefix, &text)?);
                        found.unwanted.push(*value);
                    }
                }
                _ => self.members(std::slice::from_ref(&(*key, *value)), prefix, depth, found)?,
            }
        }
        self.members(modules, prefix, depth, found)
    }

    /// Tensors and modules among the entries; anything else is no part of the state.
    fn members(&mut self, entries: &[(Value, Value)], prefix: &str, depth: usize, found: &mut Found<'p>) -> Result<()> {
        let pickle = self.pickle;
        for (key, value) in entries {
            self.visit()?;
            let Some(key) = pickle.key(*key) else { continue };
            match pickle.node(*value) {
                Some(Node::Tensor(tensor)) => {
                    let name = self.name(prefix, &key)?;
                    found.push(name, tensor);
                }
                Some(Node::Object(_)) if depth < MAX_MODULE_DEPTH && self.is_new(*value) => {
                    let prefix = self.name(prefix, &key)? + ".";
                    let attributes = pickle.attributes(*value).unwrap_or_default();
                    self.module(attributes, &prefix, depth + 1, found)?;
                }
                _ if matches!(value, Value::Refused(_)) => {
                    let name = self.name(prefix, &key)?;
                    found.refused.push(name);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'p> Found<'p> {
    /// Of entries with one key, Python keeps the last, in the place of the first.
    fn push(&mut self, name: String, tensor: &'p Tensor) {
        match self.names.get(&name) {
            Some(position) => self.tensors[*position].1 = tensor,
            None => {
                self.names.insert(name.clone(), self.tensors.len());
                self.tensors.push((name, tensor));
            }
        }
    }
}

/// The items of a list as entries, under their places.
fn numbered(items: &[Value]) -> Vec<(Value, Value)> {
    items.iter().zip(0..).map(|(item, at)| (Value::Int(at), *item)).collect()
}

/// What was left out on purpose: its key, its bytes that no tensor of the model has, and what it is.
pub(crate) fn left_out(pickle: &Pickle<'_>, state: &State<'_>) -> Vec<(String, u64, UnreadKind)> {
    let mut known: HashSet<&str> = state.tensors.iter().map(|(_, tensor)| pickle.text(tensor.storage.key)).collect();
    let mut met = HashSet::new();
    let mut all = Vec::new();
    for (key, value) in state.left_out.iter().zip(&state.unwanted) {
        let mut bytes = 0u64;
        reach(pickle, vec![*value], &mut met, |tensor| {
            if known.insert(pickle.text(tensor.storage.key)) {
                let Storage { element, count, .. } = tensor.storage;
                bytes = bytes.saturating_add(count.saturating_mul(element.bytes));
            }
        });
        let what = if is_training(key) { UnreadKind::TrainingState } else { UnreadKind::LeftOut };
        if bytes > 0 {
            all.push((key.clone(), bytes, what));
        }
    }
    all
}

/// Hands every tensor that is in the values, or in what they hold, to `take`.
fn reach<'p>(
    pickle: &'p Pickle<'_>,
    mut open: Vec<Value>,
    met: &mut HashSet<NodeId>,
    mut take: impl FnMut(&'p Tensor),
) {
    while let Some(value) = open.pop() {
        let Value::Node(id) = value else { continue };
        if !met.insert(id) {
            continue;
        }
        match pickle.node(value) {
            Some(Node::Tensor(tensor)) => {
                open.extend(beside(tensor));
                take(tensor);
            }
            Some(Node::Dict(entries)) => open.extend(entries.iter().map(|(_, value)| *value)),
            Some(Node::List(items)) => open.extend(items),
            Some(Node::Tuple(items)) => open.extend(items.iter()),
            Some(Node::Object(state)) => open.push(*state),
            _ => {}
        }
    }
}

/// The tensors with the scales and zero points of another one.
fn beside(tensor: &Tensor) -> impl Iterator<Item = Value> {
    let parts = match tensor.quantiser {
        Some(Quantiser::Along { scales, zeros, axis: _ }) => [Some(scales), Some(zeros)],
        _ => [None, None],
    };
    parts.into_iter().flatten().map(Value::Node)
}

/// Bytes of storages that belong neither to the tensors nor to what was left out on purpose: what functions that were
/// refused would have made weights of. Bytes objects count too, beyond what settings and random state need.
pub(crate) fn unread(pickle: &Pickle<'_>, state: &State<'_>) -> u64 {
    let mut known: HashSet<&str> = state.tensors.iter().map(|(_, tensor)| pickle.text(tensor.storage.key)).collect();
    known.extend(around(pickle, state));
    let others = pickle.storages().filter(|storage| known.insert(pickle.text(storage.key)));
    let bytes =
        others.fold(0u64, |sum, storage| sum.saturating_add(storage.count.saturating_mul(storage.element.bytes)));
    bytes.saturating_add(raw(pickle))
}

/// Bytes in the pickle itself that are more than settings take: arrays of NumPy, say.
pub(crate) fn raw(pickle: &Pickle<'_>) -> u64 {
    const SETTINGS: u64 = 1 << 20;
    if pickle.raw > SETTINGS { pickle.raw } else { 0 }
}

/// Keys of the storages of what was left out on purpose, and of scales and zero points.
pub(crate) fn around<'p>(pickle: &'p Pickle<'_>, state: &State<'_>) -> HashSet<&'p str> {
    let (mut keys, mut met) = (HashSet::new(), HashSet::new());
    let of_codes = state.tensors.iter().flat_map(|(_, tensor)| beside(tensor));
    let open = state.unwanted.iter().copied().chain(of_codes).collect();
    reach(pickle, open, &mut met, |tensor| {
        keys.insert(pickle.text(tensor.storage.key));
    });
    keys
}

fn is_training(name: &str) -> bool {
    TRAINING_KEYS.iter().any(|beginning| name.starts_with(beginning))
}
