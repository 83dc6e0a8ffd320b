//! Whether a file is text, and how much of it is data in place of words.

use crate::Result;
use crate::bytes::Object;
use crate::limits::MAX_TEXT_BYTES;

const CHUNK: usize = 1 << 20;

/// Chunks of a text that are looked at where the budget is spent.
const SAMPLED_CHUNKS: u64 = 16;

/// Shortest run of one alphabet that counts as data: longer than any word, identifier, key or digest of a text.
const LEAST_RUN: u64 = 4096;

/// Shortest line of such a run: what encoders break their output at is 60 characters and more. Vocabularies that list
/// encoded words have one short word a line.
const LEAST_LINE: u64 = 60;

/// Control characters among as many bytes that a text may have. In what is not text one byte in nine is one.
const BYTES_PER_CONTROL: u64 = 1000;

/// Bytes of texts that may still be read.
#[derive(Debug)]
pub(super) struct Budget(u64);

impl Budget {
    pub(super) fn new() -> Self {
        Self(MAX_TEXT_BYTES)
    }

    /// None left: of every text, samples are read.
    pub(super) fn spent() -> Self {
        Self(0)
    }
}

/// What a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// No text.
    NoText,
    /// A text, of which so many bytes are data.
    Text {
        /// Characters of runs of base64, hexadecimal digits or numbers.
        data: u64,
    },
}

/// Reads a file as text, or evenly spaced parts of it where it is longer than what is left of the budget.
pub(super) fn scan(object: &dyn Object, budget: &mut Budget) -> Result<Found> {
    let len = object.len();
    let chunks = len.div_ceil(CHUNK as u64);
    let step = if len <= budget.0 { 1 } else { (chunks / SAMPLED_CHUNKS).max(1) };
    let (mut count, mut runs, mut read, mut buf) = (Count::default(), Runs::default(), 0u64, Vec::new());
    for chunk in (0..chunks).step_by(step as usize) {
        let at = chunk * CHUNK as u64;
        let bytes = object.read(at, (len - at).min(CHUNK as u64) as usize, &mut buf)?;
        count.take(bytes);
        if !count.is_text() {
            return Ok(Found::NoText);
        }
        bytes.iter().for_each(|byte| runs.take(*byte));
        read += bytes.len() as u64;
    }
    budget.0 = budget.0.saturating_sub(read);
    Ok(Found::Text { data: runs.finish().saturating_mul(step) })
}

/// Bytes that no text has, or few of.
#[derive(Debug, Default)]
struct Count {
    all: u64,
    control: u64,
    broken: u64,
}

impl Count {
    fn take(&mut self, bytes: &[u8]) {
        let is_control = |byte: &&u8| matches!(byte, 0..=8 | 0x0e..=0x1a | 0x1c..=0x1f | 0x7f);
        self.all += bytes.len() as u64;
        self.control += bytes.iter().filter(is_control).count() as u64;
        self.broken += bytes.utf8_chunks().map(|chunk| chunk.invalid().len() as u64).sum::<u64>();
    }

    /// The ends of chunks may cut a character.
    fn is_text(&self) -> bool {
        let most = |per: u64| self.all / per;
        self.control <= most(BYTES_PER_CONTROL) && self.broken <= most(BYTES_PER_CONTROL / 10) + 8
    }
}

/// Sums up runs of what encodes data: base64 of either alphabet (hexadecimal digits are part of it), and numbers one
/// after the other.
#[derive(Debug, Default)]
struct Runs {
    words: Run,
    numbers: Run,
}

/// A run of one alphabet that is going on, and what those before it came to.
#[derive(Debug, Default)]
struct Run {
    len: u64,
    line: u64,
    total: u64,
    /// That the last byte was a backslash, behind which `n` is the end of a line inside JSON.
    is_escaped: bool,
}

impl Run {
    fn go_on(&mut self) {
        self.len += 1;
        self.line += 1;
    }

    /// The end of a line ends a run only where the line is a short one.
    fn end_line(&mut self) {
        if self.line < LEAST_LINE && self.line > 0 {
            self.end();
        }
        self.line = 0;
    }

    fn end(&mut self) {
        if self.len >= LEAST_RUN {
            self.total += self.len;
        }
        (self.len, self.line) = (0, 0);
    }
}

impl Runs {
    fn take(&mut self, byte: u8) {
        let was_escaped = std::mem::replace(&mut self.words.is_escaped, byte == b'\\');
        match byte {
            b'n' | b'r' if was_escaped => self.words.end_line(),
            b'\n' | b'\r' => self.words.end_line(),
            b'\\' => {}
            byte if byte.is_ascii_alphanumeric() || b"+/=_-".contains(&byte) => self.words.go_on(),
            _ => self.words.end(),
        }
        match byte {
            b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E' | b',' | b'[' | b']' => self.numbers.go_on(),
            byte if byte.is_ascii_whitespace() => {}
            _ => self.numbers.end(),
        }
    }

    fn finish(mut self) -> u64 {
        self.words.end();
        self.numbers.end();
        // Digits alone are of both alphabets.
        self.words.total.max(self.numbers.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &str) -> u64 {
        let mut runs = Runs::default();
        text.bytes().for_each(|byte| runs.take(byte));
        runs.finish()
    }

    #[test]
    fn encoded_data_is_told_from_words() {
        let base64 = "QUJD".repeat(5000);
        let lines: Vec<&str> = base64.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        assert_eq!(data(&format!("{{\"a\": \"{base64}\"}}")), 20_000);
        assert_eq!(data(&lines.join("\n")), 20_000);
        assert_eq!(data(&format!("\"{}\"", lines.join("\\n"))), 20_000);
        assert_eq!(data(&"0f".repeat(4000)), 8000);
        assert!(data(&"-0.0131, 1e-05,\n".repeat(1000)) > 10_000);
        let vocabulary: String = (0..20_000).map(|rank| format!("IHRoZQ== {rank}\n")).collect();
        let prose = "All of these come out the same with every name replaced, and nothing is found. ".repeat(1000);
        let tokens = "\"Ġthe\": 262, \"abcdefghij\": 1000,\n".repeat(5000);
        for text in [vocabulary, prose, tokens, "word\n".repeat(10_000)] {
            assert_eq!(data(&text), 0, "{}", &text[..40]);
        }
    }
}
