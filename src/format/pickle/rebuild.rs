//! What the listed functions would build of their arguments, and objects of classes that are not listed.

use super::machine::Machine;
use super::{Fault, Global, Node, NodeId, Quantiser, Storage, Tensor, Text, Value};
use crate::limits::MAX_RANK;

impl Machine<'_> {
    /// An object without its attributes, which a loader would get by importing its class.
    pub(crate) fn new_object(&mut self) -> Result<(), Fault> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let object = match class {
            Value::Refused(class) => {
                self.refusals.build(class);
                self.node(Node::Object(Value::None), 0)?
            }
            _ => self.call(class, arguments)?,
        };
        self.push(object)
    }

    /// Sets the attributes of an object; those of dictionaries are not kept.
    pub(crate) fn build(&mut self) -> Result<(), Fault> {
        let state = self.pop()?;
        if let Value::Node(NodeId(position)) = self.top()?
            && let Some(Node::Object(object)) = self.nodes.get_mut(position as usize)
        {
            *object = state;
        }
        Ok(())
    }

    /// A storage that lies outside the pickle: `("storage", class, key, device, number of elements, …)`.
    pub(crate) fn persistent(&mut self, id: Value) -> Result<Value, Fault> {
        let Some(items) = self.tuple(id) else { return Ok(Value::Opaque) };
        if let [Value::Text(Text(kind)), class, ..] = *items
            && self.texts[kind as usize] == "module"
        {
            // A class of modules, with its source for whoever wants to compare.
            return Ok(class);
        }
        let found = match *items {
            [Value::Text(kind), class, key, _, count] => Some((kind, class, key, count, Value::None)),
            [Value::Text(kind), class, key, _, count, view] => Some((kind, class, key, count, view)),
            _ => None,
        };
        let Some((_, class, key, count, view)) =
            found.filter(|(Text(kind), ..)| self.texts[*kind as usize] == "storage")
        else {
            return Ok(Value::Opaque);
        };
        let (Value::Global(Global::Storage(element)), Value::Text(key), Value::Int(count)) = (class, key, count) else {
            return Err(self.broken("a storage is not named by class, key and number of elements"));
        };
        if view != Value::None {
            return Err(self.broken("a storage that is a part of another, as PyTorch wrote them before 0.4"));
        }
        let count = u64::try_from(count).map_err(|_| self.broken(format!("a storage of {count} elements")))?;
        self.node(Node::Storage(Storage { key, element, count }), 0)
    }

    /// The value that calling `callable` would give, where that is known to be plain data.
    pub(crate) fn call(&mut self, callable: Value, arguments: Value) -> Result<Value, Fault> {
        match callable {
            Value::Refused(position) => {
                self.refusals.call(position);
                Ok(callable)
            }
            Value::Global(global) => self.rebuild(global, arguments),
            _ => Ok(Value::Opaque),
        }
    }

    fn rebuild(&mut self, global: Global, arguments: Value) -> Result<Value, Fault> {
        match global {
            Global::OrderedDict => self.ordered_dict(arguments),
            Global::DefaultDict => self.node(Node::Dict(Vec::new()), 0),
            Global::RebuildTensor | Global::RebuildTensorV2 | Global::RebuildTensorV3 | Global::RebuildQuantised => {
                self.rebuild_tensor(global, arguments)
            }
            Global::RebuildParameter | Global::Size => self.first(arguments),
            Global::Set => match self.tuple(arguments).and_then(|items| items.first().copied()) {
                Some(items @ Value::Node(_)) => Ok(items),
                _ => self.node(Node::List(Vec::new()), 0),
            },
            Global::RebuildFromType => self.rebuild_from_type(arguments),
            Global::Storage(_) | Global::Element(_) | Global::Scheme { .. } | Global::Inert => Ok(Value::Opaque),
        }
    }

    fn first(&self, arguments: Value) -> Result<Value, Fault> {
        let items = self.tuple(arguments).unwrap_or_default();
        items.first().copied().ok_or_else(|| self.broken("a call without arguments"))
    }

    /// Empty, or with the pairs of a list.
    fn ordered_dict(&mut self, arguments: Value) -> Result<Value, Fault> {
        let list = self.tuple(arguments).and_then(|items| items.first().copied());
        let list = list.unwrap_or(Value::None);
        // One list may be the argument of many calls: what is gone through is paid for, whether or not it is kept.
        self.spend(self.nodes_of(list).len())?;
        let pair = |pair: &Value| match self.nodes_of(*pair) {
            [key, value] => Some((*key, *value)),
            _ => None,
        };
        let entries: Vec<_> = self.nodes_of(list).iter().filter_map(pair).collect();
        let parts = entries.len();
        self.node(Node::Dict(entries), parts)
    }

    fn nodes_of(&self, value: Value) -> &[Value] {
        match value {
            Value::Node(NodeId(position)) => match self.nodes.get(position as usize) {
                Some(Node::Tuple(items)) => items,
                Some(Node::List(items)) => items,
                _ => &[],
            },
            _ => &[],
        }
    }

    /// A subclass of a tensor (or a tensor with attributes) is the tensor that its own function builds.
    fn rebuild_from_type(&mut self, arguments: Value) -> Result<Value, Fault> {
        let inner = match self.tuple(arguments) {
            Some([function, _, arguments, ..]) => Some((*function, *arguments)),
            _ => None,
        };
        match inner {
            // Not another of its own kind: that could go on without end.
            Some((Value::Global(Global::RebuildFromType), _)) | None => Ok(Value::Opaque),
            Some((function, arguments)) => self.call(function, arguments),
        }
    }

    fn rebuild_tensor(&mut self, global: Global, arguments: Value) -> Result<Value, Fault> {
        let Some([storage, offset, size, stride, rest @ ..]) = self.tuple(arguments) else {
            return Err(self.broken("a tensor is rebuilt from fewer than four arguments"));
        };
        let (storage, offset, size, stride) = (*storage, *offset, *size, *stride);
        let quantiser = match (global, rest) {
            (Global::RebuildQuantised, [parameters, ..]) => self.quantiser(*parameters)?,
            _ => None,
        };
        let stated = match (global, rest) {
            (Global::RebuildTensorV3, [_, _, element, ..]) => Some(*element),
            (Global::RebuildTensorV3, _) => return Err(self.broken("a tensor is rebuilt without its type")),
            _ => None,
        };
        let Some(storage) = self.storage(storage) else {
            // Its numbers come from something that was refused, or lie where they are not read.
            return Ok(match storage {
                Value::Refused(_) => storage,
                _ => Value::Opaque,
            });
        };
        let element = match stated {
            None => storage.element,
            Some(Value::Global(Global::Element(element))) => element,
            Some(_) => return Err(self.broken("a tensor is rebuilt with an unknown type")),
        };
        let Value::Int(offset) = offset else { return Err(self.broken("a tensor's offset is no number")) };
        let offset = u64::try_from(offset).map_err(|_| self.broken(format!("a tensor at offset {offset}")))?;
        let (size, stride) = (self.dimensions(size, "size")?, self.dimensions(stride, "stride")?);
        if size.len() != stride.len() {
            let what = format!("a tensor of {} dimensions with {} strides", size.len(), stride.len());
            return Err(self.broken(what));
        }
        let parts = 4 + 2 * size.len();
        self.node(Node::Tensor(Box::new(Tensor { storage, element, offset, size, stride, quantiser })), parts)
    }

    /// `(scheme, scale, zero point)`, or `(scheme, scales, zero points, axis)` with tensors. `None` for a scheme that is
    /// not known: the codes stay codes.
    fn quantiser(&self, parameters: Value) -> Result<Option<Quantiser>, Fault> {
        let scheme = |value: &Value| match value {
            Value::Global(Global::Scheme { along }) => Some(*along),
            _ => None,
        };
        let broken = || self.broken("the scales of a quantised tensor are not what its scheme asks for");
        let items = self.tuple(parameters).ok_or_else(broken)?;
        match (items.first().and_then(scheme), items) {
            (Some(false), [_, Value::Float(scale), Value::Int(zero), ..]) => {
                Ok(Some(Quantiser::Whole { scale: scale.to_bits(), zero: *zero }))
            }
            (Some(true), [_, Value::Node(scales), Value::Node(zeros), Value::Int(axis), ..]) => {
                let axis = u64::try_from(*axis).map_err(|_| broken())?;
                Ok(Some(Quantiser::Along { scales: *scales, zeros: *zeros, axis }))
            }
            (Some(_), _) => Err(broken()),
            (None, _) => Ok(None),
        }
    }

    fn storage(&self, value: Value) -> Option<Storage> {
        let Value::Node(NodeId(position)) = value else { return None };
        match self.nodes.get(position as usize) {
            Some(Node::Storage(storage)) => Some(*storage),
            _ => None,
        }
    }

    fn dimensions(&self, value: Value, what: &str) -> Result<Vec<u64>, Fault> {
        let items = match value {
            Value::Node(_) => self.nodes_of(value),
            _ => return Err(self.broken(format!("a tensor's {what} is no tuple"))),
        };
        if items.len() > MAX_RANK {
            return Err(self.broken(format!("a tensor of {} dimensions", items.len())));
        }
        let number = |item: &Value| match item {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let numbers: Option<Vec<u64>> = items.iter().map(number).collect();
        numbers.ok_or_else(|| self.broken(format!("a tensor's {what} is not made of whole numbers from 0 on")))
    }
}
