//! Sampled values, in half the memory where every one of them is a `bf16`, as those of most checkpoints are.

use std::borrow::Cow;

/// Sampled values of one tensor. They compare as what they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample(Store);

#[derive(Debug, Clone, PartialEq)]
enum Store {
    Wide(Vec<f32>),
    /// Upper halves of the bits; the lower ones are zero.
    Halves(Vec<u16>),
}

impl Sample {
    /// Upper halves of the bits of values that are all `bf16`.
    pub(super) fn of_halves(halves: Vec<u16>) -> Self {
        Self(Store::Halves(halves))
    }

    /// The upper halves of the bits, where the lower ones are zero in all values.
    pub(super) fn halves(&self) -> Option<&[u16]> {
        match &self.0 {
            Store::Wide(_) => None,
            Store::Halves(halves) => Some(halves),
        }
    }

    /// The values.
    pub fn values(&self) -> Cow<'_, [f32]> {
        match &self.0 {
            Store::Wide(values) => values.into(),
            Store::Halves(halves) => {
                halves.iter().map(|&half| f32::from_bits(u32::from(half) << 16)).collect::<Vec<f32>>().into()
            }
        }
    }
}

impl From<Vec<f32>> for Sample {
    fn from(values: Vec<f32>) -> Self {
        if values.iter().any(|value| value.to_bits() & 0xffff != 0) {
            return Self(Store::Wide(values));
        }
        Self(Store::Halves(values.iter().map(|value| (value.to_bits() >> 16) as u16).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_in_either_form() {
        for values in [vec![1.0f32, -0.5, f32::INFINITY], vec![0.1, 1.0], vec![]] {
            let sample = Sample::from(values.clone());
            assert_eq!(sample.values(), values);
            assert_eq!(sample.halves().is_some(), !values.contains(&0.1));
        }
    }
}
