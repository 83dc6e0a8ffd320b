//! Data in place of text. Metadata are free to hold anything, and loaders do not look at most of it.
//!
//! Text that people or tools write into a weight file is short, or broken up by blanks and punctuation. A text that is
//! longer than any description, or a run of base64 or hexadecimal digits that no digest or key needs, is counted.

use crate::finding::{Code, Finding, Level};
use crate::unread::{Unread, UnreadKind};

/// Longest text that is taken for a description.
pub(crate) const MAX_TEXT: u64 = 64 << 10;

/// Longest run of digits that is taken for a digest, a signature or a key: those of certificates have about 3,000.
const MAX_RUN: u64 = 4096;

/// Lines of encoded data are at least this long; words in a list are shorter.
const LEAST_LINE: u64 = 40;

/// The longest run of base64 or hexadecimal digits in a text that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Density {
    run: u64,
    line: u64,
    longest: u64,
}

impl Density {
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut density = Self::default();
        density.feed(text);
        density
    }

    pub(crate) fn feed(&mut self, piece: &[u8]) {
        for byte in piece {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' | b'=' | b'-' | b'_' => {
                    (self.run, self.line) = (self.run + 1, self.line + 1);
                    self.longest = self.longest.max(self.run);
                }
                // Encoded data are wrapped at times.
                b'\r' | b'\n' if self.line == 0 || self.line >= LEAST_LINE => self.line = 0,
                _ => (self.run, self.line) = (0, 0),
            }
        }
    }

    /// How many bytes of encoded data there are in one piece; 0 where that may be a digest or a key.
    pub(crate) fn encoded(&self) -> u64 {
        if self.longest > MAX_RUN { self.longest } else { 0 }
    }
}

/// How many bytes of a text are data, as far as that was made out.
pub(crate) fn data_in(text: &str) -> u64 {
    let len = text.len() as u64;
    if len > MAX_TEXT || Density::of(text.as_bytes()).encoded() > 0 { len } else { 0 }
}

/// The remark on data under `key` of a file, and what is counted for it.
pub(crate) fn remark(file: &str, key: &str, bytes: u64) -> (Unread, Finding) {
    let shown = crate::text::shown(key);
    let message = format!("{bytes} bytes under {shown} of the metadata are no description and were not read");
    let finding = Finding::new(Code::EmbeddedData, Level::Warning, message, file.to_owned());
    (Unread::new(format!("{file}: metadata {shown}"), bytes, UnreadKind::EmbeddedData), finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_data_and_what_no_description_needs_are_told_from_text() {
        let base64 = "aGVsbG8+/w==".repeat(500);
        let wrapped: String = base64.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line) + "\n").collect();
        for data in [&base64, &wrapped, &"0f".repeat(3000), &"a word ".repeat(10_000)] {
            assert_eq!(data_in(data), data.len() as u64);
        }
        let words = "word\nother\n".repeat(1000);
        let numbers = format!("[{}]", "1.25, ".repeat(1000));
        for text in [&words, &numbers, &"ab".repeat(32), &"{% if a %} b {% endif %}".repeat(1000)] {
            assert_eq!(data_in(text), 0, "{}", &text[..20]);
        }
    }
}
