//! The bytes of a pickle, taken from the front: fixed widths, lengths that are checked before anything is kept, lines.

use std::borrow::Cow;

use super::{Fault, Why};

/// A place in the bytes of a pickle.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn cut_off(&self) -> Fault {
        Fault { at: self.bytes.len(), why: Why::CutOff }
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let taken = self.bytes[self.at..].first_chunk().ok_or_else(|| self.cut_off())?;
        self.at += N;
        Ok(*taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Fault> {
        self.fixed().map(|[byte]: [u8; 1]| byte)
    }

    /// The next `len` bytes. Lengths come from the pickle and may be anything.
    pub(crate) fn take(&mut self, len: u64) -> Result<&'a [u8], Fault> {
        if len > self.left() {
            return Err(self.cut_off());
        }
        let taken = &self.bytes[self.at..][..len as usize];
        self.at += len as usize;
        Ok(taken)
    }

    /// The bytes up to the end of the line, which is passed.
    pub(crate) fn line(&mut self) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| self.cut_off())?;
        self.at += end + 1;
        Ok(rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]))
    }
}

/// Text of the binary opcodes. What is not UTF-8 is replaced; Python's own lone surrogates are no names of tensors.
pub(crate) fn utf8(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Text of the opcode for old strings: quoted and escaped as Python shows it. `None` without quotes.
pub(crate) fn quoted(line: &[u8]) -> Option<String> {
    let line = line.trim_ascii();
    let (quote, inner) = line.split_first()?;
    let inner = inner.strip_suffix(std::slice::from_ref(quote)).filter(|_| matches!(quote, b'\'' | b'"'))?;
    Some(unescape(inner))
}

/// Text of the opcode for old Unicode strings: bytes are characters, and some are escaped.
pub(crate) fn unescape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let (character, taken) = match (first, after.first()) {
            (b'\\', Some(b'x')) => escaped(after, 2),
            (b'\\', Some(b'u')) => escaped(after, 4),
            (b'\\', Some(b'U')) => escaped(after, 8),
            (b'\\', Some(b'n')) => ('\n', 2),
            (b'\\', Some(b't')) => ('\t', 2),
            (b'\\', Some(b'r')) => ('\r', 2),
            (b'\\', Some(&other)) if other.is_ascii_punctuation() => (char::from(other), 2),
            _ => (char::from(first), 1),
        };
        text.push(character);
        rest = &rest[taken..];
    }
    text
}

/// The character of an escape with `digits` hexadecimal digits behind one letter, and its length with the backslash.
fn escaped(after: &[u8], digits: usize) -> (char, usize) {
    let number = after.get(1..=digits).and_then(|code| std::str::from_utf8(code).ok());
    let code = number.and_then(|code| u32::from_str_radix(code, 16).ok());
    match code {
        Some(code) => (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), digits + 2),
        None => ('\\', 1),
    }
}
