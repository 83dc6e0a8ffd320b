//! Fields of a protobuf message in order, through a window on the file, so that bytes of tensors are stepped over.

use std::collections::BTreeMap;
use std::path::Path;

use super::FORMAT;
use crate::bytes::Object;
use crate::format::embedded::{Density, MAX_TEXT};
use crate::format::gaps::PAGE;
use crate::limits::{MAX_HEADER_BYTES, MAX_ONNX_FIELDS};
use crate::{Error, Result};

/// Bytes read at a time.
const WINDOW: u64 = 1 << 14;

/// Bytes `[at, end)` of the file that are still to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The byte that is read next.
    pub(crate) at: u64,
    /// The byte after the last.
    pub(crate) end: u64,
}

impl Span {
    /// Number of bytes left.
    pub(crate) fn len(self) -> u64 {
        self.end.saturating_sub(self.at)
    }
}

/// A field's value as the wire has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// A whole number.
    Varint(u64),
    /// Text, bytes, a message, or numbers one after the other.
    Bytes(Span),
    /// Four or eight bytes.
    Fixed(Span),
}

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    /// Its number in the message's definition.
    pub(crate) number: u64,
    /// First byte of the field.
    pub(crate) at: u64,
    pub(crate) wire: Wire,
}

impl Field {
    /// The bytes of a field that has a length.
    pub(crate) fn bytes(&self) -> Option<Span> {
        match self.wire {
            Wire::Bytes(span) => Some(span),
            _ => None,
        }
    }

    /// The number of a field that is one.
    pub(crate) fn number_of(&self) -> Option<u64> {
        match self.wire {
            Wire::Varint(number) => Some(number),
            _ => None,
        }
    }
}

/// A file that is read as protobuf.
pub(crate) struct Reader<'a> {
    pub(crate) path: &'a Path,
    pub(crate) object: &'a dyn Object,
    window: Vec<u8>,
    window_at: u64,
    buf: Vec<u8>,
    /// Fields looked at so far.
    fields: u64,
    /// Bytes of the texts read so far.
    texts: u64,
    /// Length of what was stepped over and may hold data, by its first byte.
    passed: BTreeMap<u64, u64>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(object: &'a dyn Object) -> Self {
        Self {
            path: object.name(),
            object,
            window: Vec::new(),
            window_at: 0,
            buf: Vec::new(),
            fields: 0,
            texts: 0,
            passed: BTreeMap::new(),
        }
    }

    /// The whole file.
    pub(crate) fn whole(&self) -> Span {
        Span { at: 0, end: self.object.len() }
    }

    pub(crate) fn refuse(&self, at: u64, what: impl Into<String>) -> Error {
        Error::malformed(self.path, FORMAT, what).at(at)
    }

    pub(crate) fn over(&self, what: &'static str, found: u64, limit: u64) -> Error {
        Error::limit(self.path, what, found, limit)
    }

    /// Counts something that was looked at.
    fn spend(&mut self) -> Result<()> {
        self.fields += 1;
        if self.fields > MAX_ONNX_FIELDS {
            return Err(self.over("number of fields of an ONNX file", self.fields, MAX_ONNX_FIELDS));
        }
        Ok(())
    }

    fn byte(&mut self, span: &mut Span) -> Result<u8> {
        if span.at >= span.end {
            return Err(self.refuse(span.at, "a message ends inside a number"));
        }
        let byte = self.window(span.at, 1)?.first().copied();
        span.at += 1;
        byte.ok_or_else(|| self.refuse(span.at, "the file ends"))
    }

    /// Bytes `[at, at + len)` of the file, which are no more than a window takes.
    fn window(&mut self, at: u64, len: u64) -> Result<&[u8]> {
        let held = self.window.len() as u64;
        if at < self.window_at || at - self.window_at + len > held {
            let wanted = WINDOW.min(self.object.len().saturating_sub(at));
            let read = self.object.read(at, wanted as usize, &mut self.buf)?;
            self.window.clear();
            self.window.extend_from_slice(read);
            self.window_at = at;
        }
        let from = (at - self.window_at) as usize;
        Ok(self.window.get(from..from + len as usize).unwrap_or_default())
    }

    /// A whole number of up to 64 bits, seven to a byte.
    pub(crate) fn varint(&mut self, span: &mut Span) -> Result<u64> {
        let at = span.at;
        let mut number = 0u64;
        for place in 0..10 {
            let byte = self.byte(span)?;
            // The tenth byte has room for one bit.
            if place == 9 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.refuse(at, "a number is longer than 64 bits"))
    }

    /// The next field of the message that `span` is, which is then what is left of it.
    pub(crate) fn next(&mut self, span: &mut Span) -> Result<Option<Field>> {
        if span.at >= span.end {
            return Ok(None);
        }
        self.spend()?;
        let at = span.at;
        let tag = self.varint(span)?;
        let (number, kind) = (tag >> 3, tag & 7);
        if number == 0 || tag > u64::from(u32::MAX) {
            return Err(self.refuse(at, format!("field {number} is none that a message can have")));
        }
        let wire = match kind {
            0 => Wire::Varint(self.varint(span)?),
            1 => Wire::Fixed(self.step(span, 8, at)?),
            2 => {
                let len = self.varint(span)?;
                Wire::Bytes(self.step(span, len, at)?)
            }
            5 => Wire::Fixed(self.step(span, 4, at)?),
            other => return Err(self.refuse(at, format!("field {number} is of wire type {other}, which is not used"))),
        };
        Ok(Some(Field { number, at, wire }))
    }

    /// Steps over `len` bytes.
    fn step(&self, span: &mut Span, len: u64, at: u64) -> Result<Span> {
        let begin = span.at;
        let Some(end) = begin.checked_add(len).filter(|end| *end <= span.end) else {
            let what = format!("a field of {len} bytes reaches beyond its message, which ends at byte {}", span.end);
            return Err(self.refuse(at, what));
        };
        span.at = end;
        Ok(Span { at: begin, end })
    }

    /// Steps over a field that means nothing here. Runtimes step over fields that they do not know, whatever is in them:
    /// one longer than a page is kept in mind, of a `text` if it is none.
    pub(crate) fn pass(&mut self, field: Field, text: bool) -> Result<()> {
        let Wire::Bytes(span) = field.wire else { return Ok(()) };
        if span.len() > PAGE && !self.passed.contains_key(&span.at) && !(text && self.is_text(span)?) {
            self.passed.insert(span.at, span.len());
        }
        Ok(())
    }

    /// First byte and length of what was stepped over and may hold data.
    pub(crate) fn passed(&self) -> impl Iterator<Item = (u64, u64)> {
        self.passed.iter().map(|(at, len)| (*at, *len))
    }

    /// Whether bytes are a text that may be a description.
    fn is_text(&mut self, span: Span) -> Result<bool> {
        if span.len() > MAX_TEXT {
            return Ok(false);
        }
        let mut buf = std::mem::take(&mut self.buf);
        let bytes = self.object.read(span.at, span.len() as usize, &mut buf)?;
        let is_text = std::str::from_utf8(bytes).is_ok() && Density::of(bytes).encoded() == 0;
        self.buf = buf;
        Ok(is_text)
    }

    /// Text of at most `limit` bytes, which a window has to take; over it the error says `what`. Bytes that are no
    /// UTF-8 are replaced.
    pub(crate) fn text(&mut self, span: Span, limit: u64, what: &'static str) -> Result<String> {
        if span.len() > limit {
            return Err(self.over(what, span.len(), limit));
        }
        self.texts += span.len();
        if self.texts > MAX_HEADER_BYTES {
            return Err(self.over("length of all texts of an ONNX file in bytes", self.texts, MAX_HEADER_BYTES));
        }
        let bytes = self.window(span.at, span.len())?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// Hands each number of a repeated field to `take`, whether they are packed or one to a field.
    pub(crate) fn numbers(&mut self, field: Field, mut take: impl FnMut(&Self, u64) -> Result<()>) -> Result<()> {
        match field.wire {
            Wire::Varint(number) => take(self, number),
            Wire::Bytes(mut span) => {
                while span.at < span.end {
                    self.spend()?;
                    let number = self.varint(&mut span)?;
                    take(self, number)?;
                }
                Ok(())
            }
            Wire::Fixed(_) => Err(self.refuse(field.at, "a whole number is stored as a fraction")),
        }
    }
}
