//! Every block type against another implementation: candle where it has the type, and the decoders of llama.cpp's Python
//! package, whose results `fixtures/ggml_blocks.py` wrote down.

use std::collections::BTreeSet;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use safetensors::SafeTensors;

use super::*;
use crate::tensor::block::Grid;
use crate::tensor::decode::tests::random_bytes;

fn decoded(block: Block, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / block.bytes() as usize * block.values() as usize];
    assert_eq!(decode(block, bytes, &mut out), Some(true), "{block}");
    out
}

#[test]
fn random_blocks_decode_to_the_same_bits_as_by_candle() {
    let types = [
        ("Q4_0", GgmlDType::Q4_0),
        ("Q4_1", GgmlDType::Q4_1),
        ("Q5_0", GgmlDType::Q5_0),
        ("Q5_1", GgmlDType::Q5_1),
        ("Q8_0", GgmlDType::Q8_0),
        ("Q8_1", GgmlDType::Q8_1),
        ("Q2_K", GgmlDType::Q2K),
        ("Q3_K", GgmlDType::Q3K),
        ("Q4_K", GgmlDType::Q4K),
        ("Q5_K", GgmlDType::Q5K),
        ("Q6_K", GgmlDType::Q6K),
        ("Q8_K", GgmlDType::Q8K),
    ];
    for (name, theirs) in types {
        let block = Block::named(name).unwrap();
        assert_eq!((theirs.block_size() as u64, theirs.type_size() as u64), (block.values(), block.bytes()), "{name}");
        let bytes: Vec<u8> = (0..256).flat_map(|seed| random_bytes(block, seed)).collect();
        let ours = decoded(block, &bytes);
        let storage = QStorage::from_data(bytes.into(), &Device::Cpu, theirs).unwrap();
        let tensor = QTensor::new(storage, ours.len()).unwrap();
        let expected = tensor.dequantize(&Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        for (at, (a, b)) in ours.iter().zip(&expected).enumerate() {
            assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{name} {at}: {a} {b}");
        }
    }
}

/// One step of `f32` rounding at most: numpy rounds a product of three factors in another order.
#[test]
fn blocks_decode_as_by_the_decoders_of_llama_cpp() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/ggml-blocks.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
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
