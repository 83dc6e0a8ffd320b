//! Layers that predict further tokens, told by counts: they are whole layers, so that they count among the others, but
//! each has a matrix in front that reads two streams and writes one, and norms for both.

use super::{Architecture, Census, expected};

/// Layers of this kind that a model has at most; DeepSeek-V3 has one, MiMo three.
const MOST: u64 = 4;

/// Takes the layers that predict further tokens off the architecture and off the counts of vectors, and says how many
/// they are.
pub(super) fn take_off(a: &mut Architecture, census: &mut Census) -> u64 {
    let (d, all) = (a.hidden_size, a.layers);
    let joins = (d, d.saturating_mul(2));
    let found = census.matrices.get(&joins).map_or(0, |&n| n as u64);
    let further = found.saturating_sub(expected(a).get(&joins).copied().unwrap_or(0));
    let gains = census.vectors.get(&d).map_or(0, |&n| n as u64);
    if further == 0 || further > MOST || further.saturating_mul(2) > all {
        return 0;
    }
    // Two norms in front of the joining matrix, up to three behind the layer, and the model's last one.
    let outside = (further * 2 + 1)..=(further * 5 + 1);
    if !outside.contains(&(gains % all)) {
        return 0;
    }
    a.layers = all - further;
    a.expert_layers = a.expert_layers.map(|mixtures| mixtures.saturating_sub(further));
    for (&size, n) in &mut census.vectors {
        let each = *n as u64 / all;
        let outside = if size == d { 1 } else { *n as u64 % all };
        *n = usize::try_from(each * a.layers + outside).unwrap_or(*n);
    }
    further
}
