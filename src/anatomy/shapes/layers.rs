//! Reads attention and MLP off the counts of equal matrices.
//!
//! A layer's output projection has as many columns as its query projection has rows, its down projection as many as its
//! gate and up have rows; keys and values come in pairs. So the counts of a handful of shapes decide how many layers
//! there are and what is in each.

use std::collections::BTreeMap;

use super::Census;
use super::census::elements;
use crate::model::Latent;

/// Distinct shapes of one kind that take part in a reading; real models have fewer than ten.
const MOST_GROUPS: usize = 12;

/// Readings whose explained parameters differ by less than one in so many are told apart by what else they explain:
/// routers are that small.
const ALIKE: i128 = 50;

/// Matrices that a model does not use are less than a third of its bytes, a quarter of the whole: a reading that is right
/// explains all but one part in so many of what any other explains.
const IDLE: i128 = 4;

/// Distinct shapes that take part for their number, however small: a mixture's router is one matrix in each layer.
const FREQUENT_GROUPS: usize = 4;

/// What a layer without an MLP, or an MLP too many, costs a reading: more than the matrices of an attention explain, so
/// that idle matrices are not read as layers of attention alone.
const UNEVEN_LAYER: i128 = 7;

/// The deepest stack that is believed: DeepNet (Wang et al. 2022) trained 1,000 layers, and what there are more of are
/// experts.
const MOST_LAYERS: u64 = 1_024;

/// Numbers of layers that are tried.
const MOST_CANDIDATES: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attention {
    pub(super) q: u64,
    pub(super) kv: u64,
    pub(super) fused: bool,
    pub(super) latent: Option<Latent>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dense {
    pub(super) size: u64,
    pub(super) layers: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mixture {
    pub(super) experts: u64,
    pub(super) size: u64,
    pub(super) layers: u64,
    pub(super) shared: Option<u64>,
    pub(super) stacked: bool,
    pub(super) transposed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Mlp {
    pub(super) gated: bool,
    pub(super) fused: bool,
    pub(super) dense: Vec<Dense>,
    pub(super) mixture: Option<Mixture>,
}

impl Mlp {
    /// MLPs in all layers together.
    fn units(&self) -> u64 {
        let dense: u64 = self.dense.iter().map(|dense| dense.layers).sum();
        dense + self.mixture.as_ref().map_or(0, |mixture| mixture.layers)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) transposed: bool,
    pub(super) layers: u64,
    pub(super) attention: Attention,
    pub(super) mlp: Mlp,
}

/// Groups of equal matrices: those that read the stream, those that write to it, squares, and those that do neither.
#[derive(Debug, Clone)]
struct Pool {
    d: u64,
    reads: Vec<(u64, u64)>,
    writes: Vec<(u64, u64)>,
    square: u64,
    others: Vec<((u64, u64), u64)>,
    /// Matrices that a reading counts on and that are not there.
    missing: u64,
}

/// The groups that count: those with most parameters, `each` for one matrix, and a few with most matrices.
fn largest<T: Ord + Copy>(mut groups: Vec<(T, u64)>, each: impl Fn(T) -> u128) -> Vec<(T, u64)> {
    fn first<T, K: Ord>(groups: &mut Vec<T>, n: usize, key: impl Fn(&T) -> K) {
        if n < groups.len() {
            groups.select_nth_unstable_by_key(n, |group| std::cmp::Reverse(key(group)));
            groups.truncate(n);
        }
        groups.sort_unstable_by_key(|group| std::cmp::Reverse(key(group)));
    }
    let mut frequent = groups.clone();
    first(&mut frequent, FREQUENT_GROUPS, |&(shape, n)| (n, shape));
    first(&mut groups, MOST_GROUPS, |&(shape, n)| (each(shape).saturating_mul(u128::from(n)), shape));
    frequent.retain(|group| !groups.contains(group));
    groups.extend(frequent);
    groups
}

impl Pool {
    fn new(census: &Census, d: u64) -> Self {
        let (mut reads, mut writes, mut others, mut square) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (&(rows, columns), &n) in &census.matrices {
            let n = n as u64;
            match (rows == d, columns == d) {
                (true, true) => square = n,
                (false, true) => reads.push((rows, n)),
                (true, false) => writes.push((columns, n)),
                (false, false) => others.push(((rows, columns), n)),
            }
        }
        Self {
            d,
            reads: largest(reads, u128::from),
            writes: largest(writes, u128::from),
            square,
            others: largest(others, |(rows, columns)| elements(rows, columns)),
            missing: 0,
        }
    }

    /// The pool of the same matrices, stored the other way round.
    fn turned(self) -> Self {
        Self { reads: self.writes, writes: self.reads, ..self }
    }

    /// Shapes of which nothing is left over.
    fn exhausted(&self) -> usize {
        let others = self.others.iter().filter(|(_, n)| *n == 0).count();
        let touching = self.reads.iter().chain(&self.writes).filter(|(_, n)| *n == 0).count();
        others + touching + usize::from(self.square == 0)
    }

    fn readers(&self, width: u64) -> u64 {
        if width == self.d { self.square } else { count(&self.reads, width) }
    }

    fn take_readers(&mut self, width: u64, n: u64) -> bool {
        let group = if width == self.d { Some(&mut self.square) } else { find(&mut self.reads, width) };
        take(group, n, &mut self.missing)
    }

    fn take_writers(&mut self, width: u64, n: u64) -> bool {
        let group = if width == self.d { Some(&mut self.square) } else { find(&mut self.writes, width) };
        take(group, n, &mut self.missing)
    }

    fn take_others(&mut self, shape: (u64, u64), n: u64) -> bool {
        take(find(&mut self.others, shape), n, &mut self.missing)
    }

    fn total(&self) -> u64 {
        let others: u64 = self.others.iter().map(|(_, n)| n).sum();
        self.square + others + self.reads.iter().chain(&self.writes).map(|(_, n)| n).sum::<u64>()
    }

    fn parameters(&self) -> u128 {
        let d = u128::from(self.d);
        let of = |each: u128, n: u64| each.saturating_mul(u128::from(n));
        let touching = self.reads.iter().chain(&self.writes).map(|&(width, n)| of(d.saturating_mul(width.into()), n));
        let others = self.others.iter().map(|&((rows, columns), n)| of(elements(rows, columns), n));
        touching.chain(others).fold(of(elements(self.d, self.d), self.square), u128::saturating_add)
    }

    /// Shapes that read or write the stream, that each of `layers` layers has some of, and of which nothing was taken.
    fn untouched(&self, all: &Self, layers: u64) -> usize {
        let whole = |left: u64, n: u64| n > 0 && left == n && n.is_multiple_of(layers);
        let groups = self.reads.iter().zip(&all.reads).chain(self.writes.iter().zip(&all.writes));
        groups.filter(|((_, left), (_, n))| whole(*left, *n)).count() + usize::from(whole(self.square, all.square))
    }

    fn layer_counts(&self, census: &Census) -> Vec<u64> {
        let (d, square) = (u128::from(self.d), (self.square, elements(self.d, self.d)));
        let touching =
            self.reads.iter().chain(&self.writes).map(|&(width, n)| (n, u128::from(width).saturating_mul(d)));
        let others = self.others.iter().map(|&((rows, columns), n)| (n, elements(rows, columns)));
        let stacks =
            census.stacks.iter().take(MOST_GROUPS).map(|(&(depth, rows, columns), &n)| {
                (n as u64, elements(rows, columns).saturating_mul(u128::from(depth)))
            });
        // A number of layers is the likelier the more parameters lie in groups that it divides.
        let mut support: BTreeMap<u64, u128> = BTreeMap::new();
        for (n, each) in touching.chain(others).chain([square]).chain(stacks) {
            let all = each.saturating_mul(u128::from(n));
            for layers in
                (1..=8).filter(|k| n % k <= 2).map(|k| n / k).filter(|layers| (1..=MOST_LAYERS).contains(layers))
            {
                let sum = support.entry(layers).or_default();
                *sum = sum.saturating_add(all);
            }
        }
        let mut candidates: Vec<(u128, u64)> = support.into_iter().map(|(layers, sum)| (sum, layers)).collect();
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        candidates.truncate(MOST_CANDIDATES);
        candidates.into_iter().map(|(_, layers)| layers).collect()
    }
}

fn count<T: PartialEq + Copy>(groups: &[(T, u64)], key: T) -> u64 {
    groups.iter().find(|(width, _)| *width == key).map_or(0, |(_, n)| *n)
}

fn find<T: PartialEq + Copy>(groups: &mut [(T, u64)], key: T) -> Option<&mut u64> {
    groups.iter_mut().find(|(width, _)| *width == key).map(|(_, left)| left)
}

/// How many of `n` matrices must be there for a reading to stand: a damaged checkpoint may lack a tenth.
fn least(n: u64) -> u64 {
    n - n / 10
}

fn take(from: Option<&mut u64>, n: u64, missing: &mut u64) -> bool {
    let Some(from) = from.filter(|from| **from >= least(n)) else { return false };
    let taken = n.min(*from);
    *from -= taken;
    *missing += n - taken;
    true
}

/// The reading that explains most matrices with as many MLPs as attentions; among equals the one that leaves fewest
/// shapes with a remainder, then the usual arrangement: queries as wide as the stream, separate projections, (out, in)
/// storage, more layers, narrower attention.
///
/// Parameters decide first, so that many small matrices beside the model do not.
pub(super) fn read(census: &Census, d: u64) -> Option<Reading> {
    let mut found = Vec::new();
    let pool = Pool::new(census, d);
    for (transposed, pool) in [(false, pool.clone()), (true, pool.turned())] {
        for layers in pool.layer_counts(census) {
            for (attention, with_mlp) in attentions(&pool, layers) {
                let mut rest = with_mlp.clone();
                let mlp = mlp(&mut rest, layers, census);
                if mlp.units() == 0 || is_twice_the_same(&attention, &mlp) {
                    continue;
                }
                let reading = Reading { transposed, layers, attention, mlp };
                let (value, rank) = (value(&pool, &with_mlp, &rest, &reading), rank(&pool, &rest, &reading));
                found.push(Candidate { value, rank, untouched: rest.untouched(&pool, layers), reading });
            }
        }
    }
    // How many layers there are is settled before what each of them has.
    let Reading { layers, transposed, .. } = best(&found)?.reading;
    found.retain(|other| other.reading.layers == layers && other.reading.transposed == transposed);
    let most = found.iter().map(|other| other.value).max()?;
    found.retain(|other| other.value >= most - most / IDLE);
    let fewest = found.iter().map(|other| other.untouched).min()?;
    found.retain(|other| other.untouched == fewest);
    best(&found).map(|best| best.reading.clone())
}

/// A reading, and what speaks for it.
struct Candidate<R> {
    value: i128,
    rank: R,
    /// Shapes that each layer has some of and that the reading has no place for.
    untouched: usize,
    reading: Reading,
}

/// The best by rank of those that explain about as much as any.
fn best<R: Ord>(found: &[Candidate<R>]) -> Option<&Candidate<R>> {
    let most = found.iter().map(|other| other.value).max()?;
    let alike = found.iter().filter(|other| most - other.value <= most.abs() / ALIKE);
    alike.reduce(|best, other| if other.rank > best.rank { other } else { best })
}

/// Parameters that a reading explains, less what speaks against it: layers with no MLP or with more than one, each twice
/// the attention's matrices of a layer, and matrices that are not there.
fn value(pool: &Pool, with_mlp: &Pool, rest: &Pool, reading: &Reading) -> i128 {
    let signed = |parameters: u128| i128::try_from(parameters).unwrap_or(i128::MAX / 16).min(i128::MAX / 16);
    let stacked = reading.mlp.mixture.as_ref().filter(|mixture| mixture.stacked).map_or(0, |mixture| {
        let each = elements(mixture.size, pool.d).saturating_mul(if reading.mlp.gated { 3 } else { 2 });
        each.saturating_mul(u128::from(mixture.experts)).saturating_mul(u128::from(mixture.layers))
    });
    let explained = signed((pool.parameters() - rest.parameters()).saturating_add(stacked));
    let matrices = i128::from(pool.total() - rest.total()).max(1);
    let attention = signed(pool.parameters() - with_mlp.parameters()) / i128::from(reading.layers).max(1);
    let uneven = i128::from(reading.mlp.units().abs_diff(reading.layers));
    let missing = (explained / matrices).saturating_mul(i128::from(rest.missing));
    let against = attention.saturating_mul(uneven).saturating_add(missing).saturating_mul(2);
    usual(explained, reading).saturating_sub(against)
}

/// GPT-2 and few others store matrices (in, out): a reading that needs it has to explain a fifth more than another.
fn usual(explained: i128, reading: &Reading) -> i128 {
    if reading.transposed { explained - explained / 5 } else { explained }
}

/// What decides between readings that explain about as many parameters; the greater the better.
fn rank(pool: &Pool, rest: &Pool, reading: &Reading) -> impl Ord + use<> {
    let Reading { transposed, layers, attention, mlp } = reading;
    let explained = usual(i128::from(pool.total() - rest.total()), reading);
    let uneven = i128::from(mlp.units().abs_diff(*layers));
    let score = explained - UNEVEN_LAYER * uneven - 2 * i128::from(rest.missing);
    let (plain, width) = (!attention.fused, std::cmp::Reverse(attention.q));
    (score, rest.exhausted(), attention.q == pool.d, plain, !transposed, *layers, width)
}

/// Whether attention and MLP have the same shapes, so that both are the same unit met twice: a layer that expands to two
/// halves and projects one back, as a state-space model's does, is neither.
fn is_twice_the_same(attention: &Attention, mlp: &Mlp) -> bool {
    let rows = attention.q.saturating_add(attention.kv.saturating_mul(2));
    let same = |dense: &Dense| dense.size == attention.q && dense.size.saturating_mul(2) == rows;
    attention.fused && mlp.fused && mlp.mixture.is_none() && mlp.dense.iter().all(same)
}

fn attentions(pool: &Pool, layers: u64) -> Vec<(Attention, Pool)> {
    let mut found = Vec::new();
    let outputs: Vec<u64> =
        pool.writes.iter().filter(|(_, n)| *n >= least(layers)).map(|(width, _)| *width).chain([pool.d]).collect();
    for q in outputs {
        let mut with_output = pool.clone();
        if !with_output.take_writers(q, layers) {
            continue;
        }
        let inputs: Vec<u64> = with_output
            .reads
            .iter()
            .filter(|(_, n)| *n >= least(layers))
            .map(|(width, _)| *width)
            .chain([pool.d])
            .collect();
        for &rows in &inputs {
            let mut rest = with_output.clone();
            if rows <= q && rest.take_readers(q, layers) && rest.take_readers(rows, 2 * layers) {
                found.push((Attention { q, kv: rows, fused: false, latent: None }, rest));
            }
            let mut rest = with_output.clone();
            let both = rows.saturating_sub(q);
            if both > 0 && both % 2 == 0 && both / 2 <= q && rest.take_readers(rows, layers) {
                found.push((Attention { q, kv: both / 2, fused: true, latent: None }, rest));
            }
        }
        latent(&with_output, layers, q, &inputs, &mut found);
    }
    found
}

/// Latent attention: keys and values come from a matrix that does not touch the stream, queries may too.
fn latent(pool: &Pool, layers: u64, value_size: u64, inputs: &[u64], found: &mut Vec<(Attention, Pool)>) {
    /// The widest rotary key that all heads share; DeepSeek's has 64.
    const WIDEST_ROPE: u64 = 256;
    for &((kv, kv_rank), n) in &pool.others {
        let rope = |rows: &&u64| **rows > kv_rank && **rows - kv_rank <= WIDEST_ROPE;
        let Some(&down) = inputs.iter().find(rope) else { continue };
        let mut with_keys = pool.clone();
        if n < least(layers)
            || kv <= value_size
            || !with_keys.take_others((kv, kv_rank), layers)
            || !with_keys.take_readers(down, layers)
        {
            continue;
        }
        let rope_size = down - kv_rank;
        for &rank in inputs {
            let mut rest = with_keys.clone();
            if !rest.take_readers(rank, layers) {
                continue;
            }
            let up =
                rest.others.iter().find(|((_, columns), n)| *columns == rank && *n >= least(layers)).map(|(s, _)| *s);
            let (q, q_rank) = up.map_or((rank, None), |(rows, _)| (rows, Some(rank)));
            if let Some(up) = up {
                rest.take_others(up, layers);
            }
            let latent = Some(Latent { q_rank, kv_rank, rope_size, value_size });
            if latent.and_then(|latent| latent.heads(q, kv)).is_none() {
                continue;
            }
            found.push((Attention { q, kv, fused: false, latent }, rest));
        }
    }
}

fn mlp(pool: &mut Pool, layers: u64, census: &Census) -> Mlp {
    let mut mlp = Mlp::default();
    stacked(pool, layers, census, &mut mlp);
    if mlp.mixture.is_none() {
        experts(pool, layers, &mut mlp);
    }
    for (size, n) in pool.writes.clone() {
        // A layer has one MLP, and a mixture another one for all tokens: what is beyond that is none.
        let units: u64 = mlp.dense.iter().map(|dense| dense.layers).sum();
        let own = mlp.mixture.as_ref().filter(|mixture| mixture.shared.is_some()).map_or(0, |mixture| mixture.layers);
        let room = layers.saturating_sub(units).saturating_sub(own);
        if n > 0 && room > 0 {
            dense(pool, size, n.min(room), &mut mlp);
        }
    }
    shared(layers, &mut mlp);
    if mlp.mixture.is_none() && mlp.dense.is_empty() && pool.square >= 2 * layers {
        // Hidden units as many as channels: the MLP is made of squares too.
        let d = pool.d;
        dense(pool, d, layers, &mut mlp);
    }
    mlp
}

fn dense(pool: &mut Pool, size: u64, layers: u64, mlp: &mut Mlp) {
    let squares = if size == pool.d { layers } else { 0 };
    let (gated, fused) = if pool.readers(size) >= least(2 * layers) + squares {
        pool.take_readers(size, 2 * layers);
        (true, false)
    } else if pool.readers(size.saturating_mul(2)) >= least(layers) {
        pool.take_readers(size.saturating_mul(2), layers);
        (true, true)
    } else if pool.readers(size) >= least(layers) + squares {
        pool.take_readers(size, layers);
        (false, false)
    } else {
        return;
    };
    pool.take_writers(size, layers);
    let most = mlp.dense.iter().map(|dense| dense.layers).max().unwrap_or(0);
    if mlp.mixture.is_none() && layers > most {
        (mlp.gated, mlp.fused) = (gated, fused);
    }
    mlp.dense.push(Dense { size, layers });
}

/// Experts with matrices of their own: a router (E, d) in m layers goes with m times E equal down projections, or one
/// more per layer where a shared expert has their size. A tenth may lack where no router fits exactly.
fn experts(pool: &mut Pool, layers: u64, mlp: &mut Mlp) {
    for (size, n) in pool.writes.clone() {
        let lack = |experts: u64, m: u64| {
            let each = experts.saturating_mul(m);
            n.abs_diff(each).min(n.abs_diff(each.saturating_add(m)))
        };
        let routers = pool.reads.iter().filter(|(experts, m)| {
            *experts >= 2 && *m > 0 && *m <= layers && *experts != size && lack(*experts, *m) <= n / 10
        });
        let nearest = routers.min_by_key(|(experts, m)| lack(*experts, *m)).copied();
        let Some((experts, m)) = nearest else { continue };
        let fused = if pool.readers(size) >= least(2 * n) {
            pool.take_readers(size, 2 * n);
            false
        } else if pool.readers(size.saturating_mul(2)) >= least(n) {
            pool.take_readers(size.saturating_mul(2), n);
            true
        } else {
            continue;
        };
        pool.take_writers(size, n);
        pool.take_readers(experts, m);
        (mlp.gated, mlp.fused) = (true, fused);
        let each = experts.saturating_mul(m);
        let shared = (n.abs_diff(each.saturating_add(m)) < n.abs_diff(each)).then_some(size);
        mlp.mixture = Some(Mixture { experts, size, layers: m, shared, stacked: false, transposed: false });
        return;
    }
}

/// Experts stacked into tensors of rank three.
fn stacked(pool: &mut Pool, layers: u64, census: &Census, mlp: &mut Mlp) {
    let d = pool.d;
    let Some(experts) = census.stacks.iter().max_by_key(|(_, n)| **n).map(|((depth, ..), _)| *depth) else { return };
    let with = |rows: u64, columns: u64| census.stacks.get(&(experts, rows, columns)).map_or(0, |&n| n as u64);
    let sizes: Vec<u64> = census
        .stacks
        .keys()
        .filter(|(depth, ..)| *depth == experts)
        .flat_map(|&(_, rows, columns)| [(rows == d).then_some(columns), (columns == d).then_some(rows)])
        .flatten()
        .take(MOST_GROUPS)
        .collect();
    for size in sizes {
        let twice = size.saturating_mul(2);
        let forms = [
            (with(d, size), with(twice, d), true, false),
            (with(size, d), with(d, twice), true, true),
            (with(d, size), with(size, d) / 2, false, false),
            (with(size, d), with(d, size) / 2, false, true),
        ];
        let alike = |down: u64, up: u64| down.max(up) > 0 && down.min(up) >= least(down.max(up));
        let fits = |&(down, up, ..): &(u64, u64, bool, bool)| alike(down, up) && down.max(up) <= layers;
        let Some((n, _, fused, transposed)) = forms.into_iter().find(fits) else { continue };
        // A bias on the down projections has the router's shape.
        let biased = pool.readers(experts) >= least(2 * n);
        if !pool.take_readers(experts, if biased { 2 * n } else { n }) {
            continue;
        }
        (mlp.gated, mlp.fused) = (true, fused);
        mlp.mixture = Some(Mixture { experts, size, layers: n, shared: None, stacked: true, transposed });
        return;
    }
}

/// A dense MLP beside the experts in as many layers as they are in is the shared expert.
fn shared(layers: u64, mlp: &mut Mlp) {
    let Some(mixture) = &mut mlp.mixture else { return };
    let units: u64 = mlp.dense.iter().map(|dense| dense.layers).sum::<u64>() + mixture.layers;
    if mixture.shared.is_none() && units > layers {
        // In Llama 4 dense and mixture layers can be equally many: the shared expert has the experts' size there.
        // A damaged checkpoint may lack a few of its tensors.
        let each = least(mixture.layers)..=mixture.layers;
        let same = |size: bool, dense: &Dense| each.contains(&dense.layers) && (!size || dense.size == mixture.size);
        let at = mlp.dense.iter().position(|dense| same(true, dense));
        if let Some(at) = at.or_else(|| mlp.dense.iter().position(|dense| same(false, dense))) {
            mixture.shared = Some(mlp.dense.remove(at).size);
        }
    }
}
