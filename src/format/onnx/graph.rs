//! The model, its graphs, and what their tensors state of themselves.
//!
//! Graphs inside nodes (the branches of a condition, the body of a loop) are walked like the main one, to a depth that
//! is limited. Numbers of fields are those of `onnx.proto`.

use std::collections::{BTreeMap, HashMap};

use super::names::{Consumers, Known, consume};
use super::wire::{Field, Reader, Span};
use crate::Result;
use crate::finding::{Code, Finding, Level};
use crate::limits::{MAX_NAME_BYTES, MAX_ONNX_DEPTH, MAX_ONNX_NODES, MAX_RANK, MAX_TENSORS};

/// Inputs, attributes and properties of a node beyond this many are not looked at.
const MAX_PARTS: usize = 64;

/// Longest list of numbers of variable length that is gone through, in bytes.
const MAX_NUMBERS: u64 = 1 << 20;

/// Longest value of a property that is kept, in bytes.
const MAX_PROPERTY: u64 = 4096;

/// Fewest numbers of a list in a node's attribute that can be weights.
const LEAST_LIST: u64 = 64;

/// What the file holds.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: Vec<Stored>,
    /// The nodes of all graphs, in order.
    nodes: Vec<Span>,
    /// Tensors by name, with the graph that has them.
    names: HashMap<String, usize>,
    graphs: usize,
    has_training: bool,
}

/// A tensor as the file states it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) name: String,
    /// First byte of its message, and the byte after the last.
    pub(crate) at: u64,
    pub(crate) end: u64,
    /// ONNX's number of the element type.
    pub(crate) kind: u64,
    /// Sizes, outermost first.
    pub(crate) shape: Vec<u64>,
    pub(crate) values: Values,
}

/// Where a tensor's values are stated.
#[derive(Debug, Clone)]
pub(crate) enum Values {
    /// Nowhere.
    Missing,
    /// Bytes of the file, as they lie in memory.
    Raw(Span),
    /// In numbers of variable length, or in parts: not read.
    Scattered,
    /// As one number of variable length.
    Number(i64),
    /// As numbers of variable length that take one byte each, and so are the bytes of a type of one byte.
    Single(Span),
    /// As indices and values of those that are not zero: not read.
    Sparse,
    /// In another file, by these keys.
    External(Vec<(String, String)>),
}

/// Reads the whole file.
pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Model> {
    let mut model = Model::default();
    let mut span = reader.whole();
    let mut has_graph = false;
    while let Some(field) = reader.next(&mut span)? {
        match (field.number, field.bytes()) {
            (2, Some(text)) => model.describe(reader, "producer_name", text)?,
            (3, Some(text)) => model.describe(reader, "producer_version", text)?,
            (4, Some(text)) => model.describe(reader, "domain", text)?,
            (7, Some(graph)) => {
                if has_graph {
                    return Err(reader.refuse(field.at, "the model has two graphs"));
                }
                has_graph = true;
                model.graph(reader, graph, 0)?;
            }
            (14, Some(entry)) => {
                let (key, value) = entry_of(reader, entry)?;
                if let Some(value) = value
                    && !key.is_empty()
                {
                    model.metadata.entry(key).or_insert(value);
                }
            }
            (20, _) => {
                model.has_training = true;
                reader.pass(field, false)?;
            }
            (25, Some(function)) => model.function(reader, function)?,
            (2..=4 | 7 | 14 | 25, None) => return Err(reader.refuse(field.at, "a field of the model has no length")),
            // The sixth is what people write of it.
            (number, _) => reader.pass(field, number == 6)?,
        }
    }
    if !has_graph {
        return Err(reader.refuse(0, "it has no graph"));
    }
    Ok(model)
}

/// What nodes do with the tensors, in the order of [`Model::tensors`].
pub(crate) fn consumers(reader: &mut Reader<'_>, model: &Model) -> Result<Consumers> {
    let known = |tensor: &Stored| (tensor.name.clone(), Known::stored(&tensor.name));
    let mut known: HashMap<String, Known> = model.tensors.iter().map(known).collect();
    let mut consumers = Consumers::default();
    for span in &model.nodes {
        let node = Node::read(reader, *span)?;
        consume(reader, &node, &mut known, &mut consumers)?;
    }
    Ok(consumers)
}

/// What was left out.
pub(crate) fn remarks(model: &Model, file: &str) -> Vec<Finding> {
    let what = "graphs for training were left out";
    let found = model.has_training.then(|| Finding::new(Code::FileLeftOut, Level::Note, what, file.to_owned()));
    found.into_iter().collect()
}

/// A key and its value; a value that is too long is left out.
fn entry_of(reader: &mut Reader<'_>, mut span: Span) -> Result<(String, Option<String>)> {
    let (mut key, mut value) = (String::new(), None);
    while let Some(field) = reader.next(&mut span)? {
        match (field.number, field.bytes()) {
            (1, Some(text)) => key = reader.text(text, MAX_NAME_BYTES as u64, "length of a key in bytes")?,
            (2, Some(text)) if text.len() <= MAX_PROPERTY => {
                value = Some(reader.text(text, MAX_PROPERTY, "length of a property in bytes")?);
            }
            _ => reader.pass(field, true)?,
        }
    }
    Ok((key, value))
}

impl Model {
    fn describe(&mut self, reader: &mut Reader<'_>, key: &str, text: Span) -> Result<()> {
        if text.len() > 0 && text.len() <= MAX_PROPERTY {
            let text = reader.text(text, MAX_PROPERTY, "length of a property in bytes")?;
            self.metadata.insert(key.to_owned(), text);
        }
        Ok(())
    }

    fn graph(&mut self, reader: &mut Reader<'_>, mut span: Span, depth: usize) -> Result<()> {
        if depth > MAX_ONNX_DEPTH {
            return Err(reader.over("depth of graphs in graphs", depth as u64, MAX_ONNX_DEPTH as u64));
        }
        let graph = self.graphs;
        self.graphs += 1;
        while let Some(field) = reader.next(&mut span)? {
            match (field.number, field.bytes()) {
                (1, Some(node)) => {
                    self.nodes.push(node);
                    self.node(reader, node, depth)?;
                }
                (5, Some(tensor)) => {
                    let tensor = tensor_of(reader, field.at, tensor)?;
                    self.push(reader, tensor, graph)?;
                }
                (15, Some(tensor)) => {
                    let tensor = sparse_of(reader, field.at, tensor)?;
                    self.push(reader, tensor, graph)?;
                }
                (1 | 5 | 15, None) => return Err(reader.refuse(field.at, "a field of a graph has no length")),
                // Its description and its properties.
                (number, _) => reader.pass(field, matches!(number, 10 | 16))?,
            }
        }
        Ok(())
    }

    /// A function's nodes may hold constants; what they do is not followed.
    fn function(&mut self, reader: &mut Reader<'_>, mut span: Span) -> Result<()> {
        self.graphs += 1;
        while let Some(field) = reader.next(&mut span)? {
            if let (7, Some(node)) = (field.number, field.bytes()) {
                self.node(reader, node, 0)?;
            } else {
                reader.pass(field, field.number == 8)?;
            }
        }
        Ok(())
    }

    /// The tensors and graphs in a node's attributes.
    fn node(&mut self, reader: &mut Reader<'_>, span: Span, depth: usize) -> Result<()> {
        if self.nodes.len() > MAX_ONNX_NODES {
            return Err(reader.over("number of nodes", self.nodes.len() as u64, MAX_ONNX_NODES as u64));
        }
        let graph = self.graphs - 1;
        let node = Node::read(reader, span)?;
        for mut attribute in node.attributes.iter().copied() {
            while let Some(field) = reader.next(&mut attribute)? {
                let tensor = match (field.number, field.bytes()) {
                    (5 | 10, Some(tensor)) => tensor_of(reader, field.at, tensor)?,
                    (22 | 23, Some(tensor)) => sparse_of(reader, field.at, tensor)?,
                    (7, Some(list)) if list.len() >= 4 * LEAST_LIST && list.len() % 4 == 0 => Stored {
                        name: String::new(),
                        at: field.at,
                        end: list.end,
                        kind: 1,
                        shape: vec![list.len() / 4],
                        values: Values::Raw(list),
                    },
                    (6 | 11, Some(inner)) => {
                        self.graph(reader, inner, depth + 1)?;
                        continue;
                    }
                    // Texts, one or several, and the description.
                    (number, _) => {
                        reader.pass(field, matches!(number, 4 | 9 | 13))?;
                        continue;
                    }
                };
                // What a constant is called is what its node gives.
                let name = match node.output {
                    Some(output) => reader.text(output, MAX_NAME_BYTES as u64, "length of a tensor's name in bytes")?,
                    None => tensor.name,
                };
                self.push(reader, Stored { name, ..tensor }, graph)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, reader: &Reader<'_>, mut tensor: Stored, graph: usize) -> Result<()> {
        if self.tensors.len() == MAX_TENSORS {
            return Err(reader.over("number of tensors", MAX_TENSORS as u64 + 1, MAX_TENSORS as u64));
        }
        match self.names.get(&tensor.name) {
            // Graphs may use a name again for something of their own.
            Some(other) if *other != graph => tensor.name = format!("{}#{}", tensor.name, self.tensors.len()),
            Some(_) => {
                return Err(reader.refuse(tensor.at, "the tensor is stated twice").in_tensor(tensor.name));
            }
            None => {}
        }
        self.names.insert(tensor.name.clone(), graph);
        self.tensors.push(tensor);
        Ok(())
    }
}

/// A node, as far as it is looked at.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) inputs: Vec<Span>,
    pub(crate) output: Option<Span>,
    pub(crate) name: Option<Span>,
    pub(crate) op: Option<Span>,
    pub(crate) attributes: Vec<Span>,
    pub(crate) properties: Vec<Span>,
}

impl Node {
    pub(crate) fn read(reader: &mut Reader<'_>, mut span: Span) -> Result<Self> {
        let mut node = Self::default();
        while let Some(field) = reader.next(&mut span)? {
            let Some(bytes) = field.bytes() else {
                if matches!(field.number, 1..=5 | 9) {
                    return Err(reader.refuse(field.at, "a field of a node has no length"));
                }
                continue;
            };
            match field.number {
                1 if node.inputs.len() < MAX_PARTS => node.inputs.push(bytes),
                2 if node.output.is_none() => node.output = Some(bytes),
                3 => node.name = Some(bytes),
                4 => node.op = Some(bytes),
                5 if node.attributes.len() < MAX_PARTS => node.attributes.push(bytes),
                5 => return Err(reader.over("number of a node's attributes", MAX_PARTS as u64 + 1, MAX_PARTS as u64)),
                9 if node.properties.len() < MAX_PARTS => node.properties.push(bytes),
                // Its description and its domain.
                number => reader.pass(field, matches!(number, 6..=9))?,
            }
        }
        Ok(node)
    }

    /// The whole number that the attribute `name` is.
    pub(crate) fn number(&self, reader: &mut Reader<'_>, name: &str) -> Result<Option<i64>> {
        for mut span in self.attributes.iter().copied() {
            let (mut called, mut number) = (false, 0);
            while let Some(field) = reader.next(&mut span)? {
                match (field.number, field.bytes()) {
                    (1, Some(text)) => {
                        called = text.len() == name.len() as u64
                            && reader.text(text, MAX_NAME_BYTES as u64, "length of a name in bytes")? == name;
                    }
                    (3, None) => number = field.number_of().unwrap_or(0).cast_signed(),
                    _ => {}
                }
            }
            if called {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// The value of the property `name`.
    pub(crate) fn property(&self, reader: &mut Reader<'_>, name: &str) -> Result<Option<String>> {
        for span in &self.properties {
            let (key, value) = entry_of(reader, *span)?;
            if key == name {
                return Ok(value);
            }
        }
        Ok(None)
    }
}

fn tensor_of(reader: &mut Reader<'_>, at: u64, mut span: Span) -> Result<Stored> {
    let end = span.end;
    let mut tensor = Stored { name: String::new(), at, end, kind: 0, shape: Vec::new(), values: Values::Missing };
    let (mut external, mut keys) = (false, Vec::new());
    while let Some(field) = reader.next(&mut span)? {
        match (field.number, field.bytes()) {
            (1, _) => dimensions(reader, field, &mut tensor.shape)?,
            (2, None) => tensor.kind = field.number_of().unwrap_or(0),
            (8, Some(text)) => {
                tensor.name = reader.text(text, MAX_NAME_BYTES as u64, "length of a tensor's name in bytes")?;
            }
            (3, _) => return Err(reader.refuse(field.at, "the tensor is in segments, which no writer makes")),
            (9, Some(raw)) => tensor.take(reader, field, Values::Raw(raw))?,
            // Numbers of four and of eight bytes lie side by side if they are packed.
            (4 | 10, Some(raw)) if raw.len() > 0 => {
                let fits = matches!((field.number, tensor.kind), (4, 1) | (10, 11));
                tensor.take(reader, field, if fits { Values::Raw(raw) } else { Values::Scattered })?;
            }
            (4 | 10, None) => tensor.values = Values::Scattered,
            (5..=7 | 11, None) => tensor.values = Values::Scattered,
            (5..=7 | 11, Some(numbers)) if numbers.len() > 0 => {
                let is_short = field.number == 5 && numbers.len() <= MAX_NUMBERS;
                let values = if is_short { few_numbers(reader, field, numbers)? } else { Values::Scattered };
                tensor.take(reader, field, values)?;
            }
            (13, Some(entry)) if keys.len() < MAX_PARTS => {
                let (key, value) = entry_of(reader, entry)?;
                keys.push((key, value.unwrap_or_default()));
            }
            (14, None) => external = field.number_of() == Some(1),
            // Its description and its properties.
            (number, _) => reader.pass(field, matches!(number, 12 | 16))?,
        }
    }
    if external {
        if !matches!(tensor.values, Values::Missing) {
            let what = "its values are in the file and in another one";
            return Err(reader.refuse(at, what).in_tensor(tensor.name));
        }
        tensor.values = Values::External(keys);
    }
    Ok(tensor)
}

/// Zero points of quantised matrices are listed so.
fn few_numbers(reader: &mut Reader<'_>, field: Field, span: Span) -> Result<Values> {
    let (mut count, mut last) = (0, 0);
    reader.numbers(field, |_, number| {
        (count, last) = (count + 1, number);
        Ok(())
    })?;
    Ok(match count {
        1 => Values::Number(last.cast_signed()),
        _ if count == span.len() => Values::Single(span),
        _ => Values::Scattered,
    })
}

impl Stored {
    fn take(&mut self, reader: &Reader<'_>, field: Field, values: Values) -> Result<()> {
        if matches!(self.values, Values::Raw(_)) {
            let what = "its values are stated twice";
            return Err(reader.refuse(field.at, what).in_tensor(self.name.clone()));
        }
        self.values = values;
        Ok(())
    }
}

fn dimensions(reader: &mut Reader<'_>, field: Field, shape: &mut Vec<u64>) -> Result<()> {
    reader.numbers(field, |reader, number| {
        if i64::try_from(number).is_err() {
            return Err(reader.refuse(field.at, format!("a size of {}", number.cast_signed())));
        }
        if shape.len() == MAX_RANK {
            return Err(reader.refuse(field.at, format!("it has more than {MAX_RANK} dimensions")));
        }
        shape.push(number);
        Ok(())
    })
}

/// A tensor of which only the values that are not zero are stored.
fn sparse_of(reader: &mut Reader<'_>, at: u64, mut span: Span) -> Result<Stored> {
    let end = span.end;
    let mut sparse = Stored { name: String::new(), at, end, kind: 0, shape: Vec::new(), values: Values::Sparse };
    while let Some(field) = reader.next(&mut span)? {
        match (field.number, field.bytes()) {
            (1, Some(values)) => {
                let Stored { name, kind, .. } = tensor_of(reader, field.at, values)?;
                (sparse.name, sparse.kind) = (name, kind);
            }
            (3, _) => dimensions(reader, field, &mut sparse.shape)?,
            _ => {}
        }
    }
    Ok(sparse)
}
