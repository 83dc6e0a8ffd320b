//! The opcodes that push text, bytes and whole numbers.

use std::borrow::Cow;

use super::cursor::{quoted, utf8};
use super::machine::Machine;
use super::{Fault, Node, Value};

impl Machine<'_> {
    pub(crate) fn string(&mut self, len: u64) -> Result<(), Fault> {
        let text = utf8(self.cursor.take(len)?);
        self.push_text(text)
    }

    pub(crate) fn old_string(&mut self) -> Result<(), Fault> {
        let line = self.cursor.line()?;
        let text = quoted(line).ok_or_else(|| self.broken("a string without quotes"))?;
        self.push_text(Cow::Owned(text))
    }

    pub(crate) fn raw(&mut self, len: u64) -> Result<(), Fault> {
        self.cursor.take(len)?;
        self.raw += len;
        self.push(Value::Opaque)
    }

    /// A whole number of `len` bytes, little-endian with its sign.
    pub(crate) fn number(&mut self, len: u64) -> Result<(), Fault> {
        let bytes = self.cursor.take(len)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        let Some(low) = wide.get_mut(..bytes.len()) else { return self.push(Value::Opaque) };
        low.copy_from_slice(bytes);
        self.push_number(i128::from_le_bytes(wide))
    }

    fn push_number(&mut self, number: i128) -> Result<(), Fault> {
        match i64::try_from(number) {
            Ok(number) => self.push(Value::Int(number)),
            Err(_) => self.push_node(Node::Wide(number.to_le_bytes()), 0),
        }
    }

    pub(crate) fn text_number(&mut self) -> Result<(), Fault> {
        let line = self.cursor.line()?.trim_ascii();
        match line {
            b"00" => self.push(Value::Bool(false)),
            b"01" => self.push(Value::Bool(true)),
            _ => {
                let digits = std::str::from_utf8(line).map(|text| text.trim_end_matches('L')).unwrap_or_default();
                let is_number = digits.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit());
                match digits.parse() {
                    Ok(number) => self.push_number(number),
                    Err(_) if is_number && digits.len() > 30 => self.push(Value::Opaque),
                    Err(_) => Err(self.broken("a number that is none")),
                }
            }
        }
    }

    pub(crate) fn text_fraction(&mut self) -> Result<(), Fault> {
        let line = self.cursor.line()?.trim_ascii();
        let number = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
        // What is no number here may be one to Python; nothing that is read depends on it.
        self.push(number.map_or(Value::Opaque, Value::Float))
    }

    pub(crate) fn text_index(&mut self) -> Result<u64, Fault> {
        let line = self.cursor.line()?.trim_ascii();
        let index = std::str::from_utf8(line).ok().and_then(|digits| digits.parse().ok());
        index.ok_or_else(|| self.broken("a place in the memo that is no number"))
    }
}
