//! Every block type against another implementation: the decoders of llama.cpp's Python package, whose results
//! `fixtures/ggml_blocks.py` wrote down, or candle, to which `tests/decode.rs` holds those that it has.

use std::collections::BTreeSet;

use safetensors::SafeTensors;

use super::*;
use crate::tensor::block::Grid;

fn decoded(block: Block, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / block.bytes() as usize * block.values() as usize];
    assert_eq!(decode(block, bytes, &mut out), Some(true), "{block}");
    out
}

/// One step of `f32` rounding at most: numpy rounds a product of three factors in another order.
#[test]
fn blocks_decode_as_by_the_decoders_of_llama_cpp() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/ggml-blocks.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    // Which that package does not decode, and candle does.
    let mut held = BTreeSet::from(["Q8_1", "Q8_K"]);
    let mut off_by_one = BTreeSet::new();
    for block in Block::all().filter(|block| block.grid() != Grid::Unread) {
        let Ok(blocks) = file.tensor(&format!("{block}.blocks")) else { continue };
        let values = file.tensor(&format!("{block}.values")).unwrap();
        let expected = values.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let ours = decoded(block, blocks.data());
        assert_eq!(ours.len(), expected.len(), "{block}");
        for (at, (a, b)) in ours.iter().zip(expected).enumerate() {
            let apart = a.to_bits().abs_diff(b.to_bits());
            assert!(apart <= 1 || *a == b, "{block} {at}: {a} {b}");
            if apart == 1 {
                off_by_one.insert(block.as_str());
            }
        }
        held.insert(block.as_str());
    }
    let read: BTreeSet<&str> = Block::all().filter(|block| block.grid() != Grid::Unread).map(Block::as_str).collect();
    assert_eq!(held, read, "every type that is read is held to a second decoder");
    assert_eq!(off_by_one, BTreeSet::new());
}

#[test]
fn cut_blocks_and_unread_types_are_refused() {
    for block in Block::all() {
        let (bytes, values) = (block.bytes() as usize, block.values() as usize);
        for (bytes, values) in [(bytes - 1, values), (bytes, values - 1), (bytes + 1, values), (bytes, 2 * values)] {
            assert_eq!(decode(block, &vec![0; bytes], &mut vec![0.0; values]), None, "{block}");
        }
        let whole = decode(block, &vec![0; bytes], &mut vec![0.0; values]);
        assert_eq!(whole.is_some(), block.grid() != Grid::Unread, "{block}");
    }
}
