//! The stack machine that turns the opcodes of protocols 0 to 5 into values.

use std::borrow::Cow;
use std::collections::HashMap;

use super::cursor::{Cursor, unescape, utf8};
use super::{Fault, Global, Node, NodeId, Pickle, Refusals, Text, Value, Why};
use crate::limits::{MAX_NAME_BYTES, MAX_PICKLE_MARKS, MAX_PICKLE_STACK, MAX_PICKLE_VALUES};

/// Highest protocol that there is.
const MAX_PROTOCOL: u8 = 5;

/// Reads the pickle at the front of `bytes`.
///
/// # Errors
/// A [`Fault`] if the bytes end before the pickle does, break the format, or would build more than
/// [`limits`](crate::limits) allow. Functions that are not listed are no fault; see [`Pickle::refused`].
pub(crate) fn load(bytes: &[u8]) -> Result<Pickle<'_>, Fault> {
    let mut machine = Machine {
        cursor: Cursor::new(bytes),
        op: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        far_memo: HashMap::new(),
        nodes: Vec::new(),
        texts: Vec::new(),
        refusals: Refusals::default(),
        built: 0,
        raw: 0,
    };
    let root = loop {
        if let Some(root) = machine.step()? {
            break root;
        }
    };
    let Machine { cursor, nodes, texts, refusals, raw, .. } = machine;
    Ok(Pickle { root, len: cursor.at, refused: refusals.told, raw, nodes, texts })
}

pub(crate) struct Machine<'a> {
    pub(crate) cursor: Cursor<'a>,
    /// Byte of the opcode that is being carried out.
    op: usize,
    stack: Vec<Value>,
    /// Heights of the stack at which a container was begun.
    marks: Vec<usize>,
    /// Kept values by their place, from 0 on without a gap.
    memo: Vec<Value>,
    /// Those at places beyond a gap.
    far_memo: HashMap<u64, Value>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) texts: Vec<Cow<'a, str>>,
    pub(crate) refusals: Refusals,
    /// Values and entries built so far, dropped ones too.
    built: u64,
    /// Bytes of bytes objects.
    pub(crate) raw: u64,
}

impl<'a> Machine<'a> {
    /// Carries out one opcode. Returns the root if it was the last.
    fn step(&mut self) -> Result<Option<Value>, Fault> {
        self.op = self.cursor.at;
        match self.cursor.byte()? {
            0x80 => self.protocol()?,
            0x95 => self.frame()?,
            b'.' => return self.pop().map(Some),
            b'(' => self.mark()?,
            b'0' => self.drop_top()?,
            b'1' => drop(self.pop_mark()?),
            b'2' => self.top().and_then(|top| self.push(top))?,
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'I' | b'L' => self.text_number()?,
            b'J' => self.cursor.fixed().and_then(|bytes| self.push(Value::Int(i32::from_le_bytes(bytes).into())))?,
            b'K' => self.cursor.byte().and_then(|byte| self.push(Value::Int(byte.into())))?,
            b'M' => self.cursor.fixed().and_then(|bytes| self.push(Value::Int(u16::from_le_bytes(bytes).into())))?,
            0x8a => self.length1().and_then(|len| self.number(len))?,
            0x8b => self.length_signed().and_then(|len| self.number(len))?,
            b'F' => self.text_fraction()?,
            b'G' => self.cursor.fixed().and_then(|bytes| self.push(Value::Float(f64::from_be_bytes(bytes))))?,
            b'S' => self.old_string()?,
            b'V' => self.cursor.line().and_then(|line| self.push_text(Cow::Owned(unescape(line))))?,
            b'T' => self.length_signed().and_then(|len| self.string(len))?,
            b'U' | 0x8c => self.length1().and_then(|len| self.string(len))?,
            b'X' => self.length4().and_then(|len| self.string(len))?,
            0x8d => self.length8().and_then(|len| self.string(len))?,
            b'B' => self.length4().and_then(|len| self.raw(len))?,
            b'C' => self.length1().and_then(|len| self.raw(len))?,
            0x8e | 0x96 => self.length8().and_then(|len| self.raw(len))?,
            b')' => self.push_node(Node::Tuple(Box::default()), 0)?,
            0x85 => self.tuple_of(1)?,
            0x86 => self.tuple_of(2)?,
            0x87 => self.tuple_of(3)?,
            b't' => self.pop_mark().and_then(|items| self.push_tuple(items))?,
            b']' => self.push_node(Node::List(Vec::new()), 0)?,
            b'l' => self.pop_mark().and_then(|items| self.push_list(items))?,
            b'}' => self.push_node(Node::Dict(Vec::new()), 0)?,
            b'd' => self.dict()?,
            b'a' => self.pop().and_then(|item| self.append(vec![item]))?,
            b'e' => self.pop_mark().and_then(|items| self.append(items))?,
            b's' => self.pop_pair().and_then(|pair| self.set_items(pair))?,
            b'u' => self.pop_mark().and_then(|items| self.set_items(items))?,
            // Sets are kept as lists.
            0x8f => self.push_node(Node::List(Vec::new()), 0)?,
            0x90 => self.pop_mark().and_then(|items| self.append(items))?,
            0x91 => self.pop_mark().and_then(|items| self.push_list(items))?,
            other => self.step_object(other)?,
        }
        Ok(None)
    }

    /// Opcodes of the memo, of classes and of calls.
    fn step_object(&mut self, opcode: u8) -> Result<(), Fault> {
        match opcode {
            b'g' => self.text_index().and_then(|index| self.get(index)),
            b'h' => self.cursor.byte().and_then(|index| self.get(index.into())),
            b'j' => self.cursor.fixed().and_then(|bytes| self.get(u32::from_le_bytes(bytes).into())),
            b'p' => self.text_index().and_then(|index| self.put(index)),
            b'q' => self.cursor.byte().and_then(|index| self.put(index.into())),
            b'r' => self.cursor.fixed().and_then(|bytes| self.put(u32::from_le_bytes(bytes).into())),
            0x94 => self.put((self.memo.len() + self.far_memo.len()) as u64),
            b'c' => {
                let global = self.two_lines()?;
                self.push(global)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let global = self.stack_global(module, name)?;
                self.push(global)
            }
            b'i' => {
                let class = self.two_lines()?;
                let items = self.pop_mark()?;
                self.call_with(class, items)
            }
            b'o' => {
                let mut items = self.pop_mark()?;
                if items.is_empty() {
                    return Err(self.broken("an object without a class"));
                }
                let class = items.remove(0);
                self.call_with(class, items)
            }
            0x92 => {
                let _keywords = self.pop()?;
                self.new_object()
            }
            b'R' => self.reduce(),
            0x81 => self.new_object(),
            b'b' => self.build(),
            b'P' => self.cursor.line().and_then(|_| self.push(Value::Opaque)),
            b'Q' => {
                let id = self.pop()?;
                let value = self.persistent(id)?;
                self.push(value)
            }
            0x82 => self.extension(1),
            0x83 => self.extension(2),
            0x84 => self.extension(4),
            0x97 => self.push(Value::Opaque),
            0x98 => self.top().map(drop),
            other => Err(self.broken(format!("0x{other:02x} is no opcode"))),
        }
    }

    pub(crate) fn broken(&self, what: impl Into<String>) -> Fault {
        Fault { at: self.op, why: Why::Broken(what.into()) }
    }

    fn over(&self, what: &'static str, found: u64, limit: u64) -> Fault {
        Fault { at: self.op, why: Why::Over { what, found, limit } }
    }

    fn protocol(&mut self) -> Result<(), Fault> {
        match self.cursor.byte()? {
            ..=MAX_PROTOCOL => Ok(()),
            other => Err(self.broken(format!("protocol {other} is unknown"))),
        }
    }

    /// Frames only tell how much to read ahead.
    fn frame(&mut self) -> Result<(), Fault> {
        let len = self.length8()?;
        if len > self.cursor.left() {
            return Err(Fault { at: self.op, why: Why::CutOff });
        }
        Ok(())
    }

    fn length1(&mut self) -> Result<u64, Fault> {
        self.cursor.byte().map(u64::from)
    }

    fn length4(&mut self) -> Result<u64, Fault> {
        self.cursor.fixed().map(|bytes| u32::from_le_bytes(bytes).into())
    }

    fn length8(&mut self) -> Result<u64, Fault> {
        self.cursor.fixed().map(u64::from_le_bytes)
    }

    fn length_signed(&mut self) -> Result<u64, Fault> {
        let len = i32::from_le_bytes(self.cursor.fixed()?);
        u64::try_from(len).map_err(|_| self.broken(format!("a length of {len}")))
    }

    /// Counts values that are about to be kept.
    pub(crate) fn spend(&mut self, values: usize) -> Result<(), Fault> {
        self.built += values as u64;
        if self.built > MAX_PICKLE_VALUES {
            return Err(self.over("number of values in a pickle", self.built, MAX_PICKLE_VALUES));
        }
        Ok(())
    }

    pub(crate) fn push(&mut self, value: Value) -> Result<(), Fault> {
        if self.stack.len() == MAX_PICKLE_STACK {
            return Err(self.over("height of a pickle's stack", MAX_PICKLE_STACK as u64 + 1, MAX_PICKLE_STACK as u64));
        }
        self.stack.push(value);
        Ok(())
    }

    /// Keeps a node with `parts` entries.
    pub(crate) fn node(&mut self, node: Node, parts: usize) -> Result<Value, Fault> {
        self.spend(1 + parts)?;
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(node);
        Ok(Value::Node(id))
    }

    pub(crate) fn push_node(&mut self, node: Node, parts: usize) -> Result<(), Fault> {
        let value = self.node(node, parts)?;
        self.push(value)
    }

    pub(crate) fn push_text(&mut self, text: Cow<'a, str>) -> Result<(), Fault> {
        self.spend(1)?;
        let id = Text(self.texts.len() as u32);
        self.texts.push(text);
        self.push(Value::Text(id))
    }

    fn mark(&mut self) -> Result<(), Fault> {
        if self.marks.len() == MAX_PICKLE_MARKS {
            let limit = MAX_PICKLE_MARKS as u64;
            return Err(self.over("number of marks on a pickle's stack", limit + 1, limit));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// The topmost value, which must lie above the last mark.
    pub(crate) fn pop(&mut self) -> Result<Value, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(value) if self.stack.len() >= floor => Ok(value),
            _ => Err(self.broken("the stack is empty")),
        }
    }

    pub(crate) fn top(&self) -> Result<Value, Fault> {
        self.stack.last().copied().ok_or_else(|| self.broken("the stack is empty"))
    }

    fn drop_top(&mut self) -> Result<(), Fault> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    /// Everything above the last mark, and the mark.
    fn pop_mark(&mut self) -> Result<Vec<Value>, Fault> {
        let mark = self.marks.pop().ok_or_else(|| self.broken("no mark on the stack"))?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_pair(&mut self) -> Result<Vec<Value>, Fault> {
        let (value, key) = (self.pop()?, self.pop()?);
        Ok(vec![key, value])
    }

    fn tuple_of(&mut self, count: usize) -> Result<(), Fault> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push_tuple(items)
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Result<(), Fault> {
        let parts = items.len();
        self.push_node(Node::Tuple(items.into_boxed_slice()), parts)
    }

    fn push_list(&mut self, items: Vec<Value>) -> Result<(), Fault> {
        let parts = items.len();
        self.push_node(Node::List(items), parts)
    }

    fn dict(&mut self) -> Result<(), Fault> {
        let items = self.pop_mark()?;
        self.push_node(Node::Dict(Vec::new()), 0)?;
        self.set_items(items)
    }

    fn append(&mut self, new: Vec<Value>) -> Result<(), Fault> {
        self.spend(new.len())?;
        let target = self.top()?;
        let Value::Node(NodeId(position)) = target else { return Ok(()) };
        match self.nodes.get_mut(position as usize) {
            Some(Node::List(items)) => items.extend(new),
            // What an unknown class makes of them is unknown.
            Some(Node::Object(_)) => {}
            _ => return Err(self.broken("items are added to what is no list")),
        }
        Ok(())
    }

    /// Sets entries given as key, value, key, value.
    fn set_items(&mut self, new: Vec<Value>) -> Result<(), Fault> {
        self.spend(new.len())?;
        let pairs = new.chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err(self.broken("a key without a value"));
        }
        let Value::Node(NodeId(position)) = self.top()? else { return Ok(()) };
        match self.nodes.get_mut(position as usize) {
            Some(Node::Dict(entries)) => entries.extend(pairs.map(|pair| (pair[0], pair[1]))),
            Some(Node::Object(_)) => {}
            _ => return Err(self.broken("entries are set in what is no dictionary")),
        }
        Ok(())
    }

    fn get(&mut self, index: u64) -> Result<(), Fault> {
        let near = usize::try_from(index).ok().and_then(|index| self.memo.get(index));
        match near.or_else(|| self.far_memo.get(&index)) {
            Some(value) => self.push(*value),
            None => Err(self.broken(format!("nothing is kept at place {index} of the memo"))),
        }
    }

    fn put(&mut self, index: u64) -> Result<(), Fault> {
        self.spend(1)?;
        let top = self.top()?;
        let next = self.memo.len() as u64;
        if index == next {
            self.far_memo.remove(&index);
            self.memo.push(top);
        } else if index < next {
            self.memo[index as usize] = top;
        } else {
            self.far_memo.insert(index, top);
        }
        Ok(())
    }

    fn two_lines(&mut self) -> Result<Value, Fault> {
        let (module, name) = (utf8(self.cursor.line()?), utf8(self.cursor.line()?));
        self.global(&module, &name)
    }

    fn stack_global(&mut self, module: Value, name: Value) -> Result<Value, Fault> {
        let (Value::Text(Text(module)), Value::Text(Text(name))) = (module, name) else {
            return Err(self.broken("a function whose name is not text"));
        };
        let (module, name) = (&self.texts[module as usize], &self.texts[name as usize]);
        // Measured before it is copied: a pickle may name one long text a million times.
        self.check_name(module, name)?;
        let (module, name) = (module.clone(), name.clone());
        self.global(&module, &name)
    }

    fn check_name(&self, module: &str, name: &str) -> Result<(), Fault> {
        let (len, limit) = (module.len().max(name.len()) as u64, MAX_NAME_BYTES as u64);
        if len > limit {
            return Err(self.over("length of a function's name in bytes", len, limit));
        }
        Ok(())
    }

    /// A function or class.
    fn global(&mut self, module: &str, name: &str) -> Result<Value, Fault> {
        self.check_name(module, name)?;
        Ok(match Global::find(module, name) {
            Some(known) => Value::Global(known),
            None => self.refuse(format!("{module}.{name}")),
        })
    }

    fn refuse(&mut self, name: String) -> Value {
        Value::Refused(self.refusals.note(name, self.op))
    }

    fn extension(&mut self, width: u64) -> Result<(), Fault> {
        let code = self.cursor.take(width)?;
        let code = code.iter().rev().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
        let refused = self.refuse(format!("extension {code}"));
        self.push(refused)
    }

    fn reduce(&mut self) -> Result<(), Fault> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let result = self.call(callable, arguments)?;
        self.push(result)
    }

    fn call_with(&mut self, callable: Value, arguments: Vec<Value>) -> Result<(), Fault> {
        let parts = arguments.len();
        let arguments = self.node(Node::Tuple(arguments.into_boxed_slice()), parts)?;
        let result = self.call(callable, arguments)?;
        self.push(result)
    }

    /// The items of a tuple.
    pub(crate) fn tuple(&self, value: Value) -> Option<&[Value]> {
        let Value::Node(NodeId(position)) = value else { return None };
        match self.nodes.get(position as usize) {
            Some(Node::Tuple(items)) => Some(items),
            _ => None,
        }
    }
}
