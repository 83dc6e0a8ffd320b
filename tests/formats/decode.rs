//! Stored bytes become the same values here as in candle, for every type that both read.

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType as Candle, Device, Tensor};
use weightprint::internals::tensor::decode::decode;
use weightprint::internals::tensor::{Block, DType};

/// Values of the type, and candle's, bit for bit; a NaN is a NaN.
fn assert_same(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (at, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{what} {at}: {a} {b}");
    }
}

fn decoded(dtype: &DType, bytes: &[u8], values: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; values];
    assert_eq!(decode(dtype, bytes, &mut out), Some(true), "{dtype}");
    out
}

#[test]
fn small_floats_have_candles_values_for_every_code() {
    let bytes: Vec<u8> = (0..=255).collect();
    let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for (ours, theirs, codes, count) in [
        (DType::F8E4M3, Candle::F8E4M3, &bytes, 256),
        (DType::F16, Candle::F16, &halves, 65_536),
        (DType::BF16, Candle::BF16, &halves, 65_536),
    ] {
        let tensor = Tensor::from_raw_buffer(codes, theirs, &[count], &Device::Cpu).unwrap();
        let expected = tensor.to_dtype(Candle::F32).unwrap().to_vec1::<f32>().unwrap();
        assert_same(&decoded(&ours, codes, count), &expected, &ours.to_string());
    }
}

/// So many random bytes.
fn random_bytes(count: usize, seed: u64) -> Vec<u8> {
    let word = |index: usize| xxhash_rust::xxh3::xxh3_64_with_seed(&index.to_le_bytes(), seed);
    (0..count.div_ceil(8)).flat_map(|index| word(index).to_le_bytes()).take(count).collect()
}

#[test]
fn random_blocks_have_candles_values() {
    const BLOCKS: usize = 256;
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
    for (seed, (name, theirs)) in types.into_iter().enumerate() {
        let block = Block::named(name).unwrap();
        assert_eq!((theirs.block_size() as u64, theirs.type_size() as u64), (block.values(), block.bytes()), "{name}");
        let bytes = random_bytes(BLOCKS * theirs.type_size(), seed as u64);
        let ours = decoded(&DType::Block(block), &bytes, BLOCKS * theirs.block_size());
        let storage = QStorage::from_data(bytes.into(), &Device::Cpu, theirs).unwrap();
        let tensor = QTensor::new(storage, ours.len()).unwrap();
        let expected = tensor.dequantize(&Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        assert_same(&ours, &expected, name);
    }
}
