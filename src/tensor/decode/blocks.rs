//! Blocks of ggml's quantised types to `f32`, in the arithmetic of ggml's reference decoders.
//!
//! The decoders are those of the crate `anamnesis`, which is seen by this file alone; tests hold every type to another
//! implementation. A value is what the stored codes and scales say, not what was quantised.

use anamnesis::{F32Out, GgufType, OutputElement, dequantize_gguf_blocks};

use crate::tensor::block::Block;

/// Decodes whole blocks; `None`, with `out` in an unknown state, where the type is not read or the lengths do not fit.
pub(super) fn decode(block: Block, bytes: &[u8], out: &mut [f32]) -> Option<bool> {
    let kind = kind(block)?;
    let count = out.len();
    let mut at = 0;
    let sink = |encoded: &[u8]| {
        let values = encoded.as_chunks::<{ F32Out::BYTES }>().0;
        for (slot, value) in out[at..].iter_mut().zip(values) {
            *slot = f32::from_le_bytes(*value);
        }
        at = count.min(at + values.len());
        Ok(())
    };
    dequantize_gguf_blocks::<F32Out, _>(bytes, kind, count, sink).ok()?;
    (at == count).then_some(true)
}

fn kind(block: Block) -> Option<GgufType> {
    Some(match block {
        Block::Q4_0 => GgufType::Q4_0,
        Block::Q4_1 => GgufType::Q4_1,
        Block::Q5_0 => GgufType::Q5_0,
        Block::Q5_1 => GgufType::Q5_1,
        Block::Q8_0 => GgufType::Q8_0,
        Block::Q8_1 => GgufType::Q8_1,
        Block::Q2_K => GgufType::Q2_K,
        Block::Q3_K => GgufType::Q3_K,
        Block::Q4_K => GgufType::Q4_K,
        Block::Q5_K => GgufType::Q5_K,
        Block::Q6_K => GgufType::Q6_K,
        Block::Q8_K => GgufType::Q8_K,
        Block::IQ2_XXS => GgufType::IQ2_XXS,
        Block::IQ2_XS => GgufType::IQ2_XS,
        Block::IQ3_XXS => GgufType::IQ3_XXS,
        Block::IQ1_S => GgufType::IQ1_S,
        Block::IQ4_NL => GgufType::IQ4_NL,
        Block::IQ3_S => GgufType::IQ3_S,
        Block::IQ2_S => GgufType::IQ2_S,
        Block::IQ4_XS => GgufType::IQ4_XS,
        Block::IQ1_M => GgufType::IQ1_M,
        Block::TQ1_0 => GgufType::TQ1_0,
        Block::TQ2_0 => GgufType::TQ2_0,
        Block::MXFP4 => GgufType::MXFP4,
        Block::NVFP4 | Block::Q1_0 | Block::Q2_0 => return None,
    })
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
