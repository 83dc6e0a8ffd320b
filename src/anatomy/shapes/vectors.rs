//! Norms and biases from the counts of vectors of each length.
//!
//! Lengths that only one thing has (rows of the key projection, hidden units) decide at once. Vectors of the stream's
//! width are norm gains, norm biases and biases of matrices that write to it; their number per layer, and the few that
//! are outside the layers, leave one usual arrangement.

use super::Census;
use crate::model::{Architecture, QkNorm};

/// Fills in norms and biases; returns the length of a vector of rotary frequencies, if there seems to be one.
pub(super) fn read(a: &mut Architecture, census: &Census) -> Option<u64> {
    if a.layers == 0 {
        return None;
    }
    let layers = a.layers;
    let count = |size: u64| census.vectors.get(&size).map_or(0, |&n| n as u64);
    // Rounded up from three quarters: a damaged checkpoint may lack a few.
    let per_layer = |size: Option<u64>| size.map_or(0, |size| (count(size) + layers / 4) / layers);
    let has = |size: Option<u64>| size.is_some_and(|size| census.vectors.contains_key(&size));
    a.output_bias = a.vocab_size.map(|_| has(a.vocab_size));
    mlp_bias(a, census);
    if let Some(experts) = a.experts {
        a.router_bias = Some(has(Some(experts)));
    }
    a.attention_sinks = Some(false);
    if a.latent.is_some() {
        (a.attention_bias, a.qk_norm) = (Some(false), Some(QkNorm::None));
    } else {
        wide_attention(a, &per_layer);
        per_head(a, census);
    }
    stream(a, census);
    small(a, census)
}

fn mlp_bias(a: &mut Architecture, census: &Census) {
    let rows = a.q_size.zip(a.kv_size).map(|(q, kv)| q.saturating_add(kv.saturating_mul(2))).filter(|_| a.fused_qkv);
    let taken = |size: u64| [Some(a.hidden_size), a.q_size, a.kv_size, rows].contains(&Some(size));
    let layers = a.dense_layers();
    if a.stacked_experts {
        // Biases of stacked experts are matrices with one row per expert.
        let rows = a.experts.zip(a.expert_size).map(|(experts, size)| (experts, size.saturating_mul(2)));
        a.mlp_bias = Some(rows.is_some_and(|shape| census.matrices.contains_key(&shape)));
    } else if let Some(size) = a.intermediate_size.filter(|&size| layers > 0 && !taken(size)) {
        let size = if a.fused_gate_up { size.saturating_mul(2) } else { size };
        a.mlp_bias = Some(census.vectors.get(&size).is_some_and(|&n| n as u64 * 10 >= layers * 9));
    } else if a.experts.is_some() {
        a.mlp_bias = Some(false);
    }
}

/// Biases and norms of attention whose length differs from the stream's.
fn wide_attention(a: &mut Architecture, per_layer: &dyn Fn(Option<u64>) -> u64) {
    let (Some(q), Some(kv), d) = (a.q_size, a.kv_size, a.hidden_size) else { return };
    if a.fused_qkv {
        let rows = q.saturating_add(kv.saturating_mul(2));
        if rows != d {
            a.attention_bias = Some(per_layer(Some(rows)) >= 1);
        }
        a.qk_norm = Some(QkNorm::None);
        return;
    }
    let (queries, keys) = (per_layer(Some(q)), per_layer(Some(kv)));
    let found = match (q == kv, q == d, kv == d) {
        (true, true, _) => return,
        (true, false, _) => match keys {
            0 | 1 => (false, QkNorm::None),
            2 => (false, QkNorm::Full),
            _ => (true, QkNorm::None),
        },
        (false, _, true) => match queries {
            0 => (false, QkNorm::None),
            _ => return,
        },
        (false, _, false) => match keys {
            0 => (false, QkNorm::None),
            1 => (false, QkNorm::Full),
            // One head's norms have the length of the keys where there is a single key head: then no query bias.
            2 if q != d && queries == 0 => (false, QkNorm::PerHead),
            _ => (true, QkNorm::None),
        },
    };
    (a.attention_bias, a.qk_norm) = (Some(found.0), Some(found.1));
    if found.1 == QkNorm::PerHead {
        a.head_dim = Some(kv);
    }
}

/// Two short vectors per layer whose length divides the projections are norms of one head.
fn per_head(a: &mut Architecture, census: &Census) {
    let (Some(q), Some(kv)) = (a.q_size, a.kv_size) else { return };
    let wide = [Some(a.hidden_size), a.intermediate_size, a.expert_size, Some(q), Some(kv)];
    let fits = |(&size, &n): (&u64, &usize)| {
        size >= 8 && q % size == 0 && kv % size == 0 && is_about(n as u64, 2 * a.layers) && !wide.contains(&Some(size))
    };
    if let Some((&size, _)) = census.vectors.iter().find(|entry| fits(*entry)) {
        a.qk_norm = Some(QkNorm::PerHead);
        a.attention_bias = a.attention_bias.or(Some(false));
        a.head_dim = Some(size);
        if a.experts == Some(size) {
            // As many experts as a head has coordinates: a router's bias would make it three per layer.
            a.router_bias = Some(false);
        }
    }
}

/// Whether `n` is `all` or at most a tenth less.
fn is_about(n: u64, all: u64) -> bool {
    n <= all && n >= all - all / 10
}

/// Vectors of the stream's width.
fn stream(a: &mut Architecture, census: &Census) {
    let n = census.vectors.get(&a.hidden_size).map_or(0, |&n| n as u64);
    let (mut each, mut outside) = (n / a.layers, n % a.layers);
    if outside == 0 && each > 0 {
        // A decoder with norms has one in front of its head: in a very shallow one it hides as one more per layer.
        if a.layers <= 4 {
            (each, outside) = (each - 1, a.layers);
        }
    } else if outside > 6 && outside >= a.layers - a.layers / 4 {
        // Some are missing: without them it would be a whole number per layer and the final norm.
        (each, outside) = (each + 1, 1);
    } else if a.layers <= 2 && outside == 1 && each % 2 == 1 && each > 2 {
        (each, outside) = (each - 1, outside + a.layers);
    }
    let bert = a.token_types.is_some() && !a.gated_mlp;
    let rest = each.saturating_sub(known_biases(a));
    // No known gated MLP goes with a single biased norm: there a second vector outside the layers is something else.
    let usual = !a.gated_mlp || matches!(rest, 4 | 7 | 8);
    let bias = bert || (usual && outside >= 2 && outside % 2 == 0);
    a.embedding_norm = Some(bert || (bias && outside >= 4));
    a.final_norm = Some(!bert && outside > 0);
    arrange(a, rest, bias);
    a.norm_bias = Some(bias && a.norms_per_layer != Some(0));
}

/// Vectors of the stream's width in each layer that are already accounted for.
fn known_biases(a: &Architecture) -> u64 {
    let d = Some(a.hidden_size);
    let down = u64::from(a.mlp_bias == Some(true) && !a.stacked_experts);
    if a.fused_qkv || a.latent.is_some() {
        return down;
    }
    let (queries, keys) = (u64::from(a.q_size == d), u64::from(a.kv_size == d));
    let attention = match (a.attention_bias, a.qk_norm) {
        (Some(true), _) => queries + 2 * keys,
        (_, Some(QkNorm::Full)) => queries + keys,
        _ => 0,
    };
    down + attention
}

/// Splits `rest` vectors per layer into norms, their biases, and biases of attention that have the stream's width.
fn arrange(a: &mut Architecture, rest: u64, norm_bias: bool) {
    let open = !a.fused_qkv && a.latent.is_none() && a.attention_bias.is_none();
    let keys = a.kv_size == Some(a.hidden_size);
    let none = QkNorm::None;
    // (norms, bias of q, k and v, bias of o, norms of q and k)
    let (norms, qkv, output, qk) = match (norm_bias, open, rest) {
        (false, true, 4) => (2, false, false, QkNorm::Full),
        (false, true, 5) if keys => (2, true, false, none),
        (false, true, 6) => (2, true, true, none),
        (false, true, 7) => (4, true, false, none),
        (false, _, 3) => (2, false, true, none),
        (false, _, 5) => (4, false, true, none),
        (false, _, n) => (n, false, false, none),
        (true, true, 5) => (1, true, false, none),
        (true, true, 6) => (1, true, true, none),
        (true, true, 7) => (2, true, false, none),
        (true, true, 8) => (2, true, true, none),
        (true, _, 3) => (1, false, true, none),
        (true, _, 5) => (2, false, true, none),
        (true, _, n) => (n / 2, false, false, none),
    };
    a.norms_per_layer = u32::try_from(norms).ok();
    a.attention_output_bias = Some(output);
    if open {
        a.attention_bias = Some(qkv);
        a.qk_norm = a.qk_norm.or(Some(qk));
    }
    a.qk_norm = a.qk_norm.or(Some(none));
    a.mlp_bias = a.mlp_bias.or(Some(false));
}

/// Short vectors, one for the model or one per layer: rotary frequencies, or attention sinks in a gpt-oss.
fn small(a: &mut Architecture, census: &Census) -> Option<u64> {
    let (q, kv) = (a.q_size?, a.kv_size?);
    let taken = [Some(a.hidden_size), Some(q), Some(kv), a.head_dim, a.experts, a.intermediate_size];
    let fits = |(&size, &n): (&u64, &usize)| {
        let n = n as u64;
        (4..=512).contains(&size)
            && (n == 1 || n == a.layers)
            && !taken.contains(&Some(size))
            && q % size == 0
            && a.latent.is_none()
    };
    let (&size, &n) = census.vectors.iter().find(|entry| fits(*entry))?;
    if a.stacked_experts && a.router_bias == Some(true) && n as u64 == a.layers {
        a.attention_sinks = Some(true);
        a.heads = Some(size);
        a.head_dim = Some(q / size);
        return None;
    }
    (q % (2 * size) == 0 && kv % (2 * size) == 0).then_some(size)
}
