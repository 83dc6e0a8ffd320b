//! What a file that lies beside a model is, from its bytes; the name counts only against it.
//!
//! What is neither text nor a kind of file that is known to hold no weights may be weights. A kind is known by how a file
//! begins and by how it has to end, so that a mark in front of weights does not make a picture of them.

use super::LEAST_UNKNOWN;
use super::text::{self, Budget, Found};
use crate::Result;
use crate::bytes::Object;
use crate::bytes::store::head;
use crate::format::recognise::{self, Content, Kind};
use crate::unread::UnreadKind;

/// Bytes at the beginning that are looked at.
const HEAD_BYTES: u64 = 4096;

/// Longest piece of a vocabulary. SentencePiece's own ceiling is far below it.
const MAX_PIECE_BYTES: u64 = 1024;

/// Most bytes that a vocabulary file has beside its pieces: the settings of its training and the largest of the tables
/// of normalisation that SentencePiece comes with, which has 240 KB.
const MAX_PIECE_SETTINGS: u64 = 1 << 20;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing, or what stands for something that does not lie here.
    Nothing,
    /// A picture, a sound, a film or a document.
    Medium,
    /// A text or a vocabulary.
    Text,
    /// Known to be of a kind, whatever its size.
    Known(UnreadKind),
    /// Not made out and no text: weights, if there is enough of it.
    Unknown,
    /// A text with so many bytes of data in it.
    Data(u64),
}

/// Whether a file of this name, in lower case, is what a trainer keeps beside the model: the optimizer's state or its
/// parts, the schedule, random state, arguments. DeepSpeed's `zero_pp_rank` files hold slices of everything at once.
pub(crate) fn is_training(lower: &str) -> bool {
    const BEGINNINGS: [&str; 8] = [
        "optimizer",
        "scheduler",
        "scaler",
        "rng_state",
        "random_states",
        "training_args",
        "zero_pp_rank",
        "bf16_zero_pp_rank",
    ];
    BEGINNINGS.iter().any(|beginning| lower.starts_with(beginning))
        || lower.contains("optim_states")
        || lower.starts_with("distrib_optim")
}

/// What the object called `name` in its folder is. Reads its head, and of a text all that is left of `budget`.
pub(super) fn look(name: &str, object: &dyn Object, budget: &mut Budget) -> Result<Look> {
    let head = head(object, HEAD_BYTES)?;
    let lower = name.to_lowercase();
    let of_weights = |kind| if is_training(&lower) { UnreadKind::TrainingState } else { kind };
    match recognise::by_content(name, &head, object.len()) {
        None if head.is_empty() => return Ok(Look::Nothing),
        // What it stands for does not lie here.
        Some(Content::Pointer(_)) => return Ok(Look::Nothing),
        Some(Content::Foreign(_)) => return Ok(Look::Known(of_weights(UnreadKind::ForeignWeights))),
        Some(Content::Weights(_)) if recognise::foreign_name(name, &[]).is_some() => {
            return Ok(Look::Known(UnreadKind::ForeignWeights));
        }
        Some(Content::Weights(_)) => return Ok(Look::Known(of_weights(UnreadKind::WeightFile))),
        None => {}
    }
    if is_apple_double(&head) {
        return Ok(Look::Unknown);
    }
    if recognise::foreign_name(name, &[]).is_some() {
        return Ok(Look::Known(of_weights(UnreadKind::ForeignWeights)));
    }
    // Pickles of the oldest protocols are texts.
    if Kind::of_name(&lower).is_some() {
        return Ok(Look::Known(of_weights(UnreadKind::WeightFile)));
    }
    if is_medium(&head, object)? {
        return Ok(Look::Medium);
    }
    if is_vocabulary(object)? {
        return Ok(Look::Text);
    }
    Ok(match text::scan(object, budget)? {
        Found::NoText => Look::Unknown,
        Found::Text { data } if data >= LEAST_UNKNOWN => Look::Data(data),
        Found::Text { .. } if is_code(&lower) => Look::Known(UnreadKind::RemoteCode),
        Found::Text { data: 0 } => Look::Text,
        Found::Text { data } => Look::Data(data),
    })
}

fn is_code(lower: &str) -> bool {
    lower.ends_with(".py")
}

/// What macOS writes beside a file on foreign disks; called like a weight file, but for two characters in front.
fn is_apple_double(head: &[u8]) -> bool {
    head.starts_with(&[0, 5, 0x16, 7])
}

/// Whether it is a picture, a sound, a film or a document that ends as such a file has to.
fn is_medium(head: &[u8], object: &dyn Object) -> Result<bool> {
    /// Beginnings, with what has to stand among the last bytes. JPEG files may have more behind their end.
    const MARKS: [(&[u8], &[u8]); 6] = [
        (b"\x89PNG\r\n\x1a\n", b"IEND\xae\x42\x60\x82"),
        (b"\xff\xd8\xff", b"\xff\xd9"),
        (b"GIF87a", b"\x3b"),
        (b"GIF89a", b"\x3b"),
        (b"%PDF-", b"%%EOF"),
        (b"OggS", b"OggS"),
    ];
    const TAIL_BYTES: u64 = 1024;
    if head.starts_with(b"RIFF") || head.get(4..8) == Some(b"ftyp") {
        return is_chunked(head, object);
    }
    let Some((_, end)) = MARKS.iter().find(|(begin, _)| head.starts_with(begin)) else { return Ok(false) };
    let len = object.len().min(TAIL_BYTES);
    let mut buf = Vec::new();
    let tail = object.read(object.len() - len, len as usize, &mut buf)?;
    Ok(tail.windows(end.len()).any(|found| found == *end))
}

/// Whether the lengths that the parts of a WAVE, WebP, AVI or MPEG-4 file state lead to its end.
fn is_chunked(head: &[u8], object: &dyn Object) -> Result<bool> {
    const MOST_PARTS: usize = 10_000;
    if head.starts_with(b"RIFF") {
        let stated = head.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
        return Ok(
            stated.is_some_and(|stated| u64::from(stated).next_multiple_of(2) + 8 == object.len().next_multiple_of(2))
        );
    }
    let (mut at, mut buf) = (0u64, Vec::new());
    for _ in 0..MOST_PARTS {
        if at == object.len() {
            return Ok(true);
        }
        if object.len() - at < 16 {
            return Ok(false);
        }
        let part = object.read(at, 16, &mut buf)?;
        let is_name = part[4..8].iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ' || *byte == 0xa9);
        let len = match u32::from_be_bytes([part[0], part[1], part[2], part[3]]) {
            0 => object.len() - at,
            1 => u64::from_be_bytes(part[8..16].try_into().unwrap_or_default()),
            len => u64::from(len),
        };
        match at.checked_add(len).filter(|end| is_name && len >= 8 && *end <= object.len()) {
            Some(end) => at = end,
            None => return Ok(false),
        }
    }
    Ok(false)
}

/// Whether it is a vocabulary of SentencePiece and nothing else: pieces of text, and settings that are no longer than
/// they can be. Of another program's Protobuf, and of weights behind pieces, it is not true.
fn is_vocabulary(object: &dyn Object) -> Result<bool> {
    const PIECES: u64 = 0x0a;
    const SETTINGS: [u64; 4] = [0x12, 0x1a, 0x22, 0x2a];
    let len = object.len();
    let (mut at, mut settings, mut pieces, mut buf) = (0, 0u64, 0u64, Vec::new());
    while at < len {
        let window = len.saturating_sub(at).min(MAX_PIECE_BYTES + 16) as usize;
        let bytes = object.read(at, window, &mut buf)?;
        let Some((tag, stated, used)) = field(bytes) else { return Ok(false) };
        let Some(end) = at.checked_add(used + stated).filter(|end| *end <= len) else { return Ok(false) };
        if tag == PIECES {
            let piece = bytes.get(used as usize..(used + stated) as usize);
            if !piece.is_some_and(is_piece) {
                return Ok(false);
            }
            pieces += 1;
        } else if SETTINGS.contains(&tag) {
            settings += stated;
        } else {
            return Ok(false);
        }
        at = end;
    }
    Ok(pieces > 0 && settings <= MAX_PIECE_SETTINGS)
}

/// Tag and length of a field of Protobuf that has one, and how many bytes state them.
fn field(bytes: &[u8]) -> Option<(u64, u64, u64)> {
    let (tag, rest) = bytes.split_first()?;
    let mut stated = 0u64;
    for (taken, byte) in rest.iter().take(5).enumerate() {
        stated |= u64::from(byte & 0x7f) << (7 * taken);
        if byte & 0x80 == 0 {
            return Some((u64::from(*tag), stated, 2 + taken as u64));
        }
    }
    None
}

/// A text, its score and its kind.
fn is_piece(bytes: &[u8]) -> bool {
    let Some((0x0a, len, used)) = field(bytes) else { return bytes.is_empty() };
    let (from, to) = (used as usize, (used + len) as usize);
    let Some(text) = bytes.get(from..to) else { return false };
    // Pieces of single bytes are no Unicode by themselves.
    let is_text = std::str::from_utf8(text).is_ok() || text.len() == 1;
    is_text && matches!(&bytes[to..], [] | [0x15, _, _, _, _] | [0x15, _, _, _, _, 0x18, _] | [0x18, _])
}
