//! A pickle as plain data: what it builds of dictionaries, lists, numbers, text and PyTorch tensors.
//!
//! Pickles are programs for a stack machine that may call any function. This machine calls none: it knows what a few
//! listed functions of PyTorch would build ([`Global`]) and builds that; everything else becomes an opaque value, and
//! is listed in [`Pickle::refused`]. Values are shared by number, so a pickle that refers to one value many times, or
//! nests values deeply, costs what its bytes cost.

mod cursor;
mod global;
mod literals;
mod machine;
mod rebuild;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;

pub(crate) use self::global::{Element, Global};
pub(crate) use self::machine::load;

/// A value, or the number of one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Text),
    /// A function or class that is known here.
    Global(Global),
    /// A function, class, or result of a call that was refused: its position in [`Pickle::refused`].
    Refused(u32),
    Node(NodeId),
    /// Anything else: bytes, sets, objects of classes that are known to be harmless.
    Opaque,
}

/// Number of a text of a pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Text(u32);

/// Number of a container or tensor of a pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(u32);

/// A value with parts.
#[derive(Debug)]
pub(crate) enum Node {
    Tuple(Box<[Value]>),
    List(Vec<Value>),
    /// Entries in the order in which they were set; a key that was set twice is there twice.
    Dict(Vec<(Value, Value)>),
    /// A whole number beyond 64 bits, little-endian.
    Wide([u8; 16]),
    Storage(Storage),
    Tensor(Box<Tensor>),
    /// An object of a class that is not listed: what its attributes would be set from, most often a dictionary.
    Object(Value),
}

/// A run of elements that lies outside the pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Storage {
    /// Its name in the checkpoint.
    pub(crate) key: Text,
    pub(crate) element: Element,
    /// Number of elements.
    pub(crate) count: u64,
}

/// A tensor as a window on a storage.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tensor {
    pub(crate) storage: Storage,
    pub(crate) element: Element,
    /// First element, counted in elements of the tensor's own type.
    pub(crate) offset: u64,
    /// Size of each dimension, outermost first.
    pub(crate) size: Vec<u64>,
    /// Elements from one index to the next, for each dimension.
    pub(crate) stride: Vec<u64>,
    /// What its whole numbers stand for, where they are codes.
    pub(crate) quantiser: Option<Quantiser>,
}

/// How PyTorch's quantised tensors become numbers: `(q - z)·s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Quantiser {
    /// One scale, by the bits of an `f64`, and one zero point.
    Whole { scale: u64, zero: i64 },
    /// A scale and a zero point for each index along an axis, in tensors of their own.
    Along { scales: NodeId, zeros: NodeId, axis: u64 },
}

/// A function or class that was not called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Module and name, as in `os.system`.
    pub(crate) name: String,
    /// Byte of the pickle at which it was first named.
    pub(crate) at: usize,
    /// Whether the pickle asks to call it, rather than only naming it.
    pub(crate) called: bool,
    /// Whether the pickle has objects of it.
    pub(crate) built: bool,
}

/// The functions and classes that a pickle names and that are not listed.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Each once, in the order in which they come; at most [`Refusals::MOST`].
    pub(crate) told: Vec<Refusal>,
    positions: HashMap<String, u32>,
}

impl Refusals {
    /// More than this many names count as one.
    const MOST: usize = 100;

    fn note(&mut self, name: String, at: usize) -> u32 {
        let next = self.told.len();
        if let Some(position) = self.positions.get(&name) {
            return *position;
        }
        if next == Self::MOST {
            return next as u32 - 1;
        }
        self.positions.insert(name.clone(), next as u32);
        self.told.push(Refusal { name, at, called: false, built: false });
        next as u32
    }

    fn call(&mut self, position: u32) {
        if let Some(refusal) = self.told.get_mut(position as usize) {
            refusal.called = true;
        }
    }

    fn build(&mut self, position: u32) {
        if let Some(refusal) = self.told.get_mut(position as usize) {
            refusal.built = true;
        }
    }
}

/// What one pickle built.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub(crate) root: Value,
    /// Bytes from the first to the stop opcode.
    pub(crate) len: usize,
    pub(crate) refused: Vec<Refusal>,
    /// Bytes that the pickle holds as bytes objects, such as those of NumPy arrays.
    pub(crate) raw: u64,
    nodes: Vec<Node>,
    texts: Vec<Cow<'a, str>>,
}

impl Pickle<'_> {
    /// The parts of a value that has some.
    pub(crate) fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(NodeId(position)) => self.nodes.get(position as usize),
            _ => None,
        }
    }

    /// A tensor by the number of its node.
    pub(crate) fn tensor(&self, NodeId(position): NodeId) -> Option<&Tensor> {
        match self.nodes.get(position as usize) {
            Some(Node::Tensor(tensor)) => Some(tensor),
            _ => None,
        }
    }

    /// The entries of a dictionary.
    pub(crate) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.node(value)? {
            Node::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items of a list or tuple.
    pub(crate) fn items(&self, value: Value) -> Option<&[Value]> {
        match self.node(value)? {
            Node::List(items) => Some(items),
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The attributes of an object.
    pub(crate) fn attributes(&self, value: Value) -> Option<&[(Value, Value)]> {
        let &Node::Object(state) = self.node(value)? else { return None };
        match self.node(state) {
            // Attributes in slots come second.
            Some(Node::Tuple(parts)) => parts.first().and_then(|state| self.dict(*state)),
            _ => self.dict(state),
        }
    }

    /// The text behind its number.
    pub(crate) fn text(&self, Text(position): Text) -> &str {
        self.texts.get(position as usize).map_or("", |text| text)
    }

    /// What an entry's key reads as, where it is text or a whole number.
    pub(crate) fn key(&self, key: Value) -> Option<Cow<'_, str>> {
        match key {
            Value::Text(text) => Some(Cow::Borrowed(self.text(text))),
            Value::Int(number) => Some(Cow::Owned(number.to_string())),
            _ => None,
        }
    }

    /// Every storage that the pickle names, in order, repeats included.
    pub(crate) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(storage),
            _ => None,
        })
    }
}

/// Why a pickle was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Byte of the pickle.
    pub(crate) at: usize,
    pub(crate) why: Why,
}

/// The kinds of faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// The bytes end inside it; with more of them it may be right.
    CutOff,
    /// It breaks the format's rules.
    Broken(String),
    /// It would cost more than a ceiling allows.
    Over { what: &'static str, found: u64, limit: u64 },
}
