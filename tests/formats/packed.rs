//! Packed codes with scales in other tensors: the zoo in every packing keeps its kinship, values are those of other
//! decoders, and parts that contradict each other stay apart.

mod floats;
mod hostile;
mod integers;
mod kinship;
mod siblings;
mod vectors;

use crate::support::Raw;

/// Ins that share a scale.
const GROUP: usize = 32;

/// What a tool makes of one matrix.
type Pack = fn(&Raw) -> Vec<Raw>;

fn stem(raw: &Raw) -> &str {
    raw.name.strip_suffix(".weight").unwrap()
}

/// The projections of the layers packed, the rest as it is.
fn packed(tensors: &[Raw], pack: Pack) -> Vec<Raw> {
    let part = |raw: &Raw| if raw.name.contains("_proj") { pack(raw) } else { vec![raw.clone()] };
    tensors.iter().flat_map(part).collect()
}
