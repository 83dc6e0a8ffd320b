//! The study behind the `published-norms` test: every pair of the models with published norms, simulated pairs that are
//! independent by construction, and embeddings built around published rows. `docs/published-norms.md` holds the figures;
//! `WEIGHTPRINT_BLESS=1` rewrites them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use weightprint::internals::evidence::norms::{NormsEvidence, NotApplicable, SuspectEmbedding, published_norms};
use weightprint::internals::math::tails::{clopper_pearson, log10_corrected};
use weightprint::internals::published::norms::{PublishedNorms, known_kin, published};

/// The kin pairs that published norms show; the other twelve went through long further training, or too few of their
/// rows were printed.
const VISIBLE_KIN: [[&str; 2]; 12] = [
    ["HuggingFaceH4/zephyr-7b-beta", "Nexusflow/Starling-LM-7B-beta"],
    ["HuggingFaceH4/zephyr-7b-beta", "microsoft/WizardLM-2-7B"],
    ["HuggingFaceH4/zephyr-7b-beta", "mistralai/Mistral-7B-v0.1"],
    ["HuggingFaceH4/zephyr-7b-beta", "upstage/SOLAR-10.7B-v1.0"],
    ["Nexusflow/Starling-LM-7B-beta", "microsoft/WizardLM-2-7B"],
    ["Nexusflow/Starling-LM-7B-beta", "mistralai/Mistral-7B-v0.1"],
    ["Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"],
    ["allenai/Llama-3.1-Tulu-3-8B", "meta-llama/Meta-Llama-3.1-8B"],
    ["meta-llama/Meta-Llama-3.1-70B", "meta-llama/Meta-Llama-3-70B"],
    ["microsoft/Phi-3-medium-128k-instruct", "upstage/solar-pro-preview-instruct"],
    ["microsoft/WizardLM-2-7B", "mistralai/Mistral-7B-v0.1"],
    ["mistralai/Mistral-7B-v0.1", "upstage/SOLAR-10.7B-v1.0"],
];

/// Token ids and norms.
type Rows = Vec<(u32, f64)>;

/// One pair of published models with enough usable rows.
struct Pair {
    suspect: &'static PublishedNorms,
    reference: &'static PublishedNorms,
    kin: bool,
    evidence: NormsEvidence,
}

fn are_kin(one: &str, other: &str) -> bool {
    known_kin().iter().any(|(a, b)| (a == one && b == other) || (a == other && b == one))
}

/// Every pair, kin first, each sort with the strongest first.
fn study() -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (index, suspect) in published().iter().enumerate() {
        let rows = SuspectEmbedding::listed(&suspect.rows).unwrap();
        for reference in &published()[index + 1..] {
            if let Ok(evidence) = published_norms(&rows, &reference.rows) {
                pairs.push(Pair { suspect, reference, kin: are_kin(&suspect.model, &reference.model), evidence });
            }
        }
    }
    pairs.sort_by(|one, other| {
        let by_p = one.evidence.log10_p.total_cmp(&other.evidence.log10_p);
        let by_name = (&one.suspect.model, &one.reference.model).cmp(&(&other.suspect.model, &other.reference.model));
        other.kin.cmp(&one.kin).then(by_p).then(other.evidence.on_ratio.cmp(&one.evidence.on_ratio)).then(by_name)
    });
    pairs
}

fn model(name: &str) -> &'static PublishedNorms {
    published().iter().find(|record| record.model == name).unwrap()
}

fn compare(suspect: &[(u32, f64)], reference: &[(u32, f64)]) -> Result<NormsEvidence, NotApplicable> {
    published_norms(&SuspectEmbedding::listed(suspect)?, reference)
}

/// Groups of models joined by known kinship, directly or through others.
fn clans() -> Vec<BTreeSet<&'static str>> {
    let mut clans: Vec<BTreeSet<&str>> = Vec::new();
    for (one, other) in known_kin() {
        let mut joined = BTreeSet::from([one.as_str(), other.as_str()]);
        clans.retain(|clan| {
            let apart = clan.is_disjoint(&joined);
            if !apart {
                joined.extend(clan);
            }
            apart
        });
        clans.push(joined);
    }
    clans
}

fn joined_through_others(pair: &Pair) -> bool {
    let (one, other) = (pair.suspect.model.as_str(), pair.reference.model.as_str());
    !pair.kin && clans().iter().any(|clan| clan.contains(one) && clan.contains(other))
}

/// Pairs no two of which share a model, taken greedily in order.
fn disjoint<'a>(pairs: &[&'a Pair]) -> Vec<&'a Pair> {
    let mut used = BTreeSet::new();
    let mut free = |pair: &&Pair| {
        let names = [&pair.suspect.model, &pair.reference.model];
        let free = names.iter().all(|name| !used.contains(*name));
        if free {
            used.extend(names);
        }
        free
    };
    pairs.iter().copied().filter(|pair| free(pair)).collect()
}

/// Splitmix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform above 0 and up to 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Standard normal, by Box and Muller.
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Laplace with a standard deviation of one.
    fn laplace(&mut self) -> f64 {
        let size = -self.unit().ln() * std::f64::consts::FRAC_1_SQRT_2;
        if self.next() & 1 == 0 { size } else { -size }
    }

    fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }
}

#[test]
fn exactly_the_twelve_visible_kin_pairs_are_accepted() {
    let pairs = study();
    assert_eq!((pairs.iter().filter(|pair| pair.kin).count(), pairs.iter().filter(|pair| !pair.kin).count()), (24, 88));
    let accepted: BTreeSet<[&str; 2]> = pairs
        .iter()
        .filter(|pair| pair.evidence.accepted)
        .map(|pair| [pair.suspect.model.as_str(), pair.reference.model.as_str()])
        .collect();
    let expected: BTreeSet<[&str; 2]> = VISIBLE_KIN.into_iter().collect();
    assert!(expected.iter().all(|[one, other]| are_kin(one, other)));
    assert_eq!(accepted, expected);
}

#[test]
fn the_strongest_pair_without_known_kinship_stays_far_from_acceptance() {
    let pairs = study();
    let others: Vec<&Pair> = pairs.iter().filter(|pair| !pair.kin).collect();
    assert!(others.iter().all(|pair| pair.evidence.distinct_on_ratio <= 6));
    assert!(others.iter().all(|pair| pair.evidence.log10_p > 0.05_f64.log10()), "a p-value of .05 or less");
}

#[test]
fn suspect_and_reference_may_change_places() {
    for pair in study() {
        let turned = compare(&pair.reference.rows, &pair.suspect.rows).unwrap();
        assert_eq!(turned.accepted, pair.evidence.accepted, "{} {}", pair.suspect.model, pair.reference.model);
        assert_eq!(turned.distinct_on_ratio, pair.evidence.distinct_on_ratio);
    }
}

/// Rows in the densest window of ±0.5 % when no row is left out.
fn densest_without_rules(one: &[(u32, f64)], other: &[(u32, f64)]) -> usize {
    let other: BTreeMap<u32, f64> = other.iter().copied().collect();
    let live = one.iter().filter_map(|(id, norm)| other.get(id).map(|own| (*norm, *own))).filter(|(a, b)| a * b > 0.0);
    let ratios: Vec<f64> = live.map(|(a, b)| (b / a).ln()).collect();
    let within = |start: f64| ratios.iter().filter(|ratio| (start..=start + 0.009_975).contains(*ratio)).count();
    ratios.iter().map(|start| within(*start)).max().unwrap_or(0)
}

#[test]
fn dead_and_degenerate_rows_would_match_models_that_are_not_kin() {
    // Never-seen tokens: both sit near 2e-21.
    let (three, next) = (model("meta-llama/Meta-Llama-3-8B"), model("meta-llama/Meta-Llama-3.1-8B"));
    assert_eq!(densest_without_rules(&three.rows, &next.rows), 15);
    let found = compare(&three.rows, &next.rows).unwrap();
    assert_eq!((found.on_ratio, found.dropped_dead), (2, 22));
    assert!(!found.accepted);
    // Groups of tokens at one level: not dead, but not independent either.
    let (small, large) = (model("meta-llama/Llama-2-7b-hf"), model("meta-llama/Llama-2-13b-hf"));
    assert_eq!(densest_without_rules(&small.rows, &large.rows), 9);
    let found = compare(&small.rows, &large.rows).unwrap();
    assert!(found.on_ratio <= 6 && found.dropped_degenerate > 0 && !found.accepted);
}

#[test]
fn never_seen_tokens_at_one_level_are_no_kinship() {
    let mut random = Random(1);
    for level in [1e-21, 1e-6, 1e-3] {
        let mut list = |factor: f64| -> Vec<(u32, f64)> {
            let unseen = (0..40).map(|id| (id, factor * level * (1.0 + f64::from(id) * 1e-5)));
            let mut rows: Vec<_> = unseen.collect();
            rows.extend((40..52).map(|id| (id, 0.05 * (0.5 * random.normal()).exp())));
            rows
        };
        let (one, other) = (list(1.0), list(3.0));
        assert!(densest_without_rules(&one, &other) >= 40);
        let found = compare(&one, &other).unwrap();
        assert_eq!(found.dropped_dead + found.dropped_degenerate, 40, "level {level:e}");
        assert!(!found.accepted && found.log10_p > -1.0, "{found:?}");
    }
}

/// One way to make a pair that is independent by construction.
struct Scenario {
    what: &'static str,
    /// Whether the p-value is claimed to hold here.
    claimed: bool,
    make: fn(&mut Random, usize) -> (Rows, Rows),
}

/// Rows from 15 to 100 with norms spread evenly over e³ on the log scale, and ratios that `log_ratio` draws.
fn spread(random: &mut Random, log_ratio: impl Fn(&mut Random) -> f64) -> (Rows, Rows) {
    let rows = 15 + random.below(86) as u32;
    let reference: Vec<(u32, f64)> = (0..rows).map(|id| (id, 0.01 * (3.0 * random.unit()).exp())).collect();
    let suspect = reference.iter().map(|&(id, norm)| (id, norm * log_ratio(random).exp())).collect();
    (suspect, reference)
}

/// The norms of a pair without known kinship, dealt anew to their common rows.
fn permuted(random: &mut Random, turn: usize) -> (Rows, Rows) {
    static PAIRS: std::sync::LazyLock<Vec<Pair>> =
        std::sync::LazyLock::new(|| study().into_iter().filter(|pair| !pair.kin).collect());
    let pair = &PAIRS[turn % PAIRS.len()];
    let ids: BTreeSet<u32> = pair.reference.rows.iter().map(|row| row.0).collect();
    let (ids, mut norms): (Vec<u32>, Vec<f64>) =
        pair.suspect.rows.iter().filter(|row| ids.contains(&row.0)).copied().unzip();
    random.shuffle(&mut norms);
    (ids.into_iter().zip(norms).collect(), pair.reference.rows.clone())
}

/// One model's rows with norms drawn from another's, each blurred by 5 %.
fn bootstrapped(random: &mut Random, _: usize) -> (Rows, Rows) {
    let (reference, donor) = (&published()[random.below(64)].rows, &published()[random.below(64)].rows);
    let draw = |random: &mut Random| donor[random.below(donor.len())].1 * (0.05 * random.normal()).exp();
    (reference.iter().map(|row| (row.0, draw(random))).collect(), reference.clone())
}

/// Two models of 4,096 channels half of whose listed tokens were never seen: norms there differ by the noise of the
/// initialisation alone, 1/√(2·4096).
fn half_unseen(random: &mut Random, _: usize) -> (Rows, Rows) {
    let rows = 15 + random.below(86) as u32;
    let noise = 1.0 / 8192_f64.sqrt();
    let mut pair = (Vec::new(), Vec::new());
    for id in 0..rows {
        let (level, spread) = if id % 2 == 0 { (0.02, 0.0) } else { (0.02 * (3.0 * random.unit()).exp(), 0.3) };
        pair.0.push((id, 1.7 * level * (noise * random.normal() + spread * random.normal()).exp()));
        pair.1.push((id, level * (noise * random.normal()).exp()));
    }
    pair
}

/// Rows in groups of three that were trained together: one log-ratio a group, to within 0.2 %.
fn grouped(random: &mut Random, _: usize) -> (Rows, Rows) {
    let (mut suspect, reference) = spread(random, |_| 0.0);
    let mut shared = 0.0;
    for (index, row) in suspect.iter_mut().enumerate() {
        if index % 3 == 0 {
            shared = 0.3 * random.normal();
        }
        row.1 *= (shared + 0.002 * random.normal()).exp();
    }
    (suspect, reference)
}

const SCENARIOS: [Scenario; 11] = [
    Scenario { what: "pairs without known kinship, norms permuted over their rows", claimed: true, make: permuted },
    Scenario { what: "one model's rows, norms drawn from another's", claimed: true, make: bootstrapped },
    Scenario { what: "half of the rows never seen, 4,096 channels", claimed: true, make: half_unseen },
    Scenario { what: "log-ratios normal, s.d. .3", claimed: true, make: |r, _| spread(r, |r| 0.3 * r.normal()) },
    Scenario { what: "log-ratios normal, s.d. .1", claimed: true, make: |r, _| spread(r, |r| 0.1 * r.normal()) },
    Scenario { what: "log-ratios normal, s.d. .05", claimed: true, make: |r, _| spread(r, |r| 0.05 * r.normal()) },
    Scenario { what: "log-ratios normal, s.d. .03", claimed: true, make: |r, _| spread(r, |r| 0.03 * r.normal()) },
    Scenario { what: "log-ratios Laplace, s.d. .05", claimed: true, make: |r, _| spread(r, |r| 0.05 * r.laplace()) },
    Scenario { what: "log-ratios normal, s.d. .3, alike in groups of three", claimed: false, make: grouped },
    Scenario { what: "log-ratios normal, s.d. .02", claimed: false, make: |r, _| spread(r, |r| 0.02 * r.normal()) },
    Scenario { what: "log-ratios normal, s.d. .015", claimed: false, make: |r, _| spread(r, |r| 0.015 * r.normal()) },
];

const LEVELS: [f64; 4] = [0.1, 0.05, 0.01, 0.001];
const SIMULATED: usize = 10_000;

/// How many of [`SIMULATED`] pairs came out at or below each of [`LEVELS`], how many were accepted, and the smallest
/// log10 p among them.
struct Simulated {
    at_most: [usize; 4],
    accepted: usize,
    smallest: f64,
}

fn simulate(scenario: &Scenario) -> Simulated {
    let mut random = Random(scenario.what.len() as u64 ^ 0x5EED);
    let mut found = Simulated { at_most: [0; 4], accepted: 0, smallest: 0.0 };
    let (mut done, mut turn) = (0, 0);
    while done < SIMULATED {
        let (suspect, reference) = (scenario.make)(&mut random, turn);
        turn += 1;
        let Ok(evidence) = compare(&suspect, &reference) else { continue };
        done += 1;
        for (count, level) in found.at_most.iter_mut().zip(LEVELS) {
            *count += usize::from(evidence.log10_p <= level.log10());
        }
        found.accepted += usize::from(evidence.accepted);
        found.smallest = found.smallest.min(evidence.log10_p);
    }
    found
}

#[test]
fn p_values_of_independent_pairs_are_valid_and_none_convicts() {
    for scenario in &SCENARIOS {
        let found = simulate(scenario);
        assert!(found.smallest > -10.0, "{}: {}", scenario.what, found.smallest);
        if !scenario.claimed {
            continue;
        }
        for (count, level) in found.at_most.into_iter().zip(LEVELS) {
            assert!(count as f64 <= level * SIMULATED as f64, "{}: {count} at {level}", scenario.what);
        }
    }
}

/// A whole embedding of `rows` rows with the bulk of Llama-2-7b (mean 1.08, deviation .109, a thin lower tail), in which
/// `listed` have the norms they are listed with.
fn embedding(rows: usize, listed: &[(u32, f64)], random: &mut Random) -> Vec<f32> {
    let tail = |random: &mut Random| if random.unit() < 0.01 { 0.3 + 0.7 * random.unit() } else { 1.0 };
    let mut norms: Vec<f32> = (0..rows).map(|_| (tail(random) * 1.08 * (0.1 * random.normal()).exp()) as f32).collect();
    for &(id, norm) in listed {
        if let Some(own) = norms.get_mut(id as usize) {
            *own = norm as f32;
        }
    }
    norms
}

/// The models among the published ones that a suspect's embedding is evidence for.
fn accepted_by(norms: &[f32]) -> Vec<&'static str> {
    let suspect = SuspectEmbedding::embedding(norms).unwrap();
    let accepted = |record: &&PublishedNorms| published_norms(&suspect, &record.rows).is_ok_and(|found| found.accepted);
    published().iter().filter(accepted).map(|record| record.model.as_str()).collect()
}

#[test]
fn an_embedding_with_llama_2_7b_rows_is_found_among_all_64() {
    let llama = model("meta-llama/Llama-2-7b-hf");
    let mut random = Random(7);
    let plain = embedding(32_000, &llama.rows, &mut random);
    let found = published_norms(&SuspectEmbedding::embedding(&plain).unwrap(), &llama.rows).unwrap();
    let printed = compare(&llama.rows, &llama.rows).unwrap();
    assert_eq!((found.usable, found.on_ratio), (printed.usable, printed.usable), "{found:?}");
    assert!(found.log10_p < -20.0 && found.span > 10.0 && (found.ratio - 1.0).abs() < 1e-6, "{found:?}");
    assert_eq!(accepted_by(&plain), ["meta-llama/Llama-2-7b-hf"]);
    assert!(accepted_by(&embedding(32_000, &[], &mut random)).is_empty(), "the bulk alone");
}

#[test]
fn an_embedding_is_found_after_a_common_factor_noise_and_loss_of_rows() {
    let llama = model("meta-llama/Llama-2-7b-hf");
    let mut random = Random(8);
    let plain = embedding(32_000, &llama.rows, &mut random);
    let shrunk: Vec<f32> = plain.iter().map(|norm| norm * 0.968).collect();
    let noisy: Vec<f32> = plain.iter().map(|norm| norm * (1.0 + 0.004 * (random.unit() as f32 - 0.5))).collect();
    let half: Vec<_> = llama.rows.iter().step_by(2).copied().collect();
    let half = embedding(32_000, &half, &mut random);
    let mut extended = plain.clone();
    extended.extend([0.9_f32; 768]);
    for (what, norms) in [
        ("a common factor", &shrunk),
        ("noise of 0.2 %", &noisy),
        ("half of the rows", &half),
        ("an extended vocabulary", &extended),
        ("a cut vocabulary", &plain[..30_000].to_vec()),
    ] {
        assert_eq!(accepted_by(norms), ["meta-llama/Llama-2-7b-hf"], "{what}");
    }
    let found = published_norms(&SuspectEmbedding::embedding(&shrunk).unwrap(), &llama.rows).unwrap();
    assert!((found.ratio / 0.968 - 1.0).abs() < 1e-3);
}

#[test]
fn every_published_model_finds_itself_or_has_too_few_usable_rows() {
    for record in published() {
        let norms = embedding(record.vocab_size_as_printed as usize + 1024, &record.rows, &mut Random(9));
        let scale = (record.mean / 1.08) as f32;
        let listed: BTreeSet<u32> = record.rows.iter().map(|row| row.0).collect();
        let norms: Vec<f32> =
            (0_u32..).zip(&norms).map(|(id, norm)| if listed.contains(&id) { *norm } else { norm * scale }).collect();
        let suspect = SuspectEmbedding::embedding(&norms).unwrap();
        match published_norms(&suspect, &record.rows) {
            Ok(found) => assert_eq!(found.on_ratio, found.usable, "{}", record.model),
            Err(NotApplicable::TooFewRows { .. }) => {}
            Err(other) => panic!("{}: {other:?}", record.model),
        }
    }
}

/// A row of normal values with a given norm.
fn row(random: &mut Random, width: usize, norm: f64) -> Vec<f32> {
    let values: Vec<f64> = (0..width).map(|_| random.normal()).collect();
    let length = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    values.iter().map(|v| (v / length * norm) as f32).collect()
}

fn norm_of(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

/// Rounds to `levels` steps either side of zero in blocks, each with its own scale.
fn quantised(values: &[f32], block: usize, levels: f32) -> Vec<f32> {
    let rounded = |block: &[f32]| {
        let step = block.iter().fold(0.0_f32, |largest, v| largest.max(v.abs())) / levels;
        block.iter().map(|v| (v / step).round() * step).collect::<Vec<f32>>()
    };
    values.chunks(block).flat_map(rounded).collect()
}

#[test]
fn rounding_to_other_types_keeps_rows_on_the_ratio() {
    let llama = model("meta-llama/Llama-2-7b-hf");
    let mut random = Random(10);
    let mut lists = [const { Vec::new() }; 4];
    for &(id, norm) in &llama.rows {
        let values = row(&mut random, 1024, norm);
        lists[0].push((id, norm_of(values.iter().map(|v| half::bf16::from_f32(*v).to_f32()))));
        lists[1].push((id, norm_of(values.iter().map(|v| half::f16::from_f32(*v).to_f32()))));
        lists[2].push((id, norm_of(quantised(&values, 1024, 127.0).into_iter())));
        lists[3].push((id, norm_of(quantised(&values, 32, 7.0).into_iter())));
    }
    for (list, what) in lists.iter().zip(["bf16", "f16", "int8 per row", "int4 per block of 32"]) {
        let found = compare(list, &llama.rows).unwrap();
        // Blocks of four bits add noise of their own to each row; the other types must lose none.
        let lost = if what.starts_with("int4") { found.usable / 10 } else { 0 };
        // A row at the edge of a level may fall to either side of the rule of 1 %.
        assert!(found.on_ratio + lost >= found.usable && found.usable >= 60 && found.accepted, "{what}: {found:?}");
    }
}

/// The embedding norms of one of the trained fixtures.
fn zoo(name: &str) -> Vec<f64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo").join(name).join("model.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let embedding = tensors.tensors().into_iter().find(|(name, _)| name.ends_with("embed_tokens.weight")).unwrap().1;
    let value = |pair: &[u8]| half::bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
    embedding.data().chunks(2 * embedding.shape()[1]).map(|row| norm_of(row.chunks(2).map(value))).collect()
}

/// What the test sees between base-a's 100 shortest rows, as if they were published, and another fixture.
fn against_base_a(name: &str) -> NormsEvidence {
    let mut rows: Vec<(u32, f64)> = (0_u32..).zip(zoo("base-a")).collect();
    rows.sort_by(|one, other| one.1.total_cmp(&other.1));
    rows.truncate(100);
    published_norms(&SuspectEmbedding::embedding(&zoo(name)).unwrap(), &rows).unwrap()
}

const ZOO_KIN: [&str; 8] = [
    "a-sft",
    "a-sft2",
    "a-lora-merged",
    "a-depth-pruned",
    "a-depth-upscaled",
    "a-vocab-extended",
    "a-moe-upcycled",
    "a-cpt",
];
const ZOO_APART: [&str; 5] = ["base-b", "base-c", "moe-scratch", "a-distilled", "a-embeddings-retrained"];

#[test]
fn models_trained_here_behave_as_their_history_says() {
    for name in ZOO_KIN {
        assert!(against_base_a(name).log10_p < -5.0, "{name}: {:?}", against_base_a(name));
    }
    for name in ZOO_APART {
        assert!(against_base_a(name).log10_p > 0.05_f64.log10(), "{name}: {:?}", against_base_a(name));
    }
    // Rows that neither trained keep the initialisation: a common ratio over a narrow span. The span must refuse it.
    let same = against_base_a("a-same-init");
    assert!(same.log10_p < -2.0 && !same.accepted, "{same:?}");
}

/// The figures of the document, by the name between its markers.
fn figures() -> BTreeMap<&'static str, String> {
    let pairs = study();
    let (kin, others): (Vec<&Pair>, Vec<&Pair>) = pairs.iter().partition(|pair| pair.kin);
    BTreeMap::from([
        ("rates", rates(&kin, &others)),
        ("kin", table(&kin)),
        ("others", table(&others)),
        ("simulated", simulated()),
        ("trained", trained()),
    ])
}

fn rates(kin: &[&Pair], others: &[&Pair]) -> String {
    let accepted = |pairs: &[&Pair]| pairs.iter().filter(|pair| pair.evidence.accepted).count() as u64;
    let apart: Vec<&Pair> = others.iter().copied().filter(|pair| !joined_through_others(pair)).collect();
    let mut text = String::from("| pairs | number | accepted | rate, 95 % interval |\n|---|---|---|---|\n");
    let mut line = |what: &str, pairs: &[&Pair]| {
        let (number, accepted) = (pairs.len(), accepted(pairs));
        let (low, high) = clopper_pearson(accepted, number as u64, 0.95);
        let rate = accepted as f64 / number as f64;
        writeln!(text, "| {what} | {number} | {accepted} | {rate:.3}, {low:.3} to {high:.3} |").unwrap();
    };
    line("not listed as kin", others);
    line("– of these, not joined through a third model either", &apart);
    line("– of these, no two with a model in common", &disjoint(&apart));
    line("listed as kin", kin);
    let below = |level: f64| others.iter().filter(|pair| pair.evidence.log10_p <= level.log10()).count();
    let smallest = others.iter().map(|pair| pair.evidence.log10_p).fold(0.0, f64::min);
    let narrowest = others.iter().min_by(|one, other| one.evidence.spread.total_cmp(&other.evidence.spread)).unwrap();
    let ones = others.iter().filter(|pair| pair.evidence.log10_p == 0.0).count();
    writeln!(
        text,
        "\nP-values of the {} pairs not listed as kin: {} at or below .05, {} at or below .1, {ones} are 1; the smallest \
         is {:.2}. The narrowest log-ratios have a standard deviation of {:.3} ({} and {}).",
        others.len(),
        below(0.05),
        below(0.1),
        10_f64.powf(smallest),
        narrowest.evidence.spread,
        narrowest.suspect.model,
        narrowest.reference.model
    )
    .unwrap();
    let copies: Vec<NormsEvidence> =
        published().iter().filter_map(|record| compare(&record.rows, &record.rows).ok()).collect();
    let enough = |found: &&NormsEvidence| found.accepted && log10_corrected(found.log10_p, 64) <= -10.0;
    writeln!(
        text,
        "\nA plain copy of a model's listed norms has enough usable rows for {} of the {} models, is accepted for {}, and \
         reaches log10 p ≤ -10 after correction for 64 references for {}.",
        copies.len(),
        published().len(),
        copies.iter().filter(|found| found.accepted).count(),
        copies.iter().filter(enough).count()
    )
    .unwrap();
    text
}

fn table(pairs: &[&Pair]) -> String {
    let mut text = String::from(
        "| suspect | reference | usable | on ratio | distinct | ratio | span | spread | log10 p | accepted |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for pair in pairs {
        let found = &pair.evidence;
        let joined = if joined_through_others(pair) { " *" } else { "" };
        let span = if found.span < 1000.0 { format!("{:.2}", found.span) } else { format!("{:.0}", found.span) };
        writeln!(
            text,
            "| {} | {}{joined} | {} | {} | {} of {} | {:.4} | {span} | {:.3} | {:.2} | {} |",
            pair.suspect.model,
            pair.reference.model,
            found.usable,
            found.on_ratio,
            found.distinct_on_ratio,
            found.distinct,
            found.ratio,
            found.spread,
            found.log10_p,
            if found.accepted { "yes" } else { "no" }
        )
        .unwrap();
    }
    text
}

fn simulated() -> String {
    let mut text = String::from(
        "| independent pairs | p claimed valid | ≤ .1 | ≤ .05 | ≤ .01 | ≤ .001 | accepted | smallest log10 p |\n",
    );
    text += "|---|---|---|---|---|---|---|---|\n";
    for scenario in &SCENARIOS {
        let Simulated { at_most: [a, b, c, d], accepted, smallest } = simulate(scenario);
        let claimed = if scenario.claimed { "yes" } else { "no" };
        writeln!(text, "| {} | {claimed} | {a} | {b} | {c} | {d} | {accepted} | {smallest:.2} |", scenario.what)
            .unwrap();
    }
    text
}

fn trained() -> String {
    let mut text =
        String::from("| model | kin of base-a | usable | on ratio | distinct | span | log10 p | accepted |\n");
    text += "|---|---|---|---|---|---|---|---|\n";
    let kin = ZOO_KIN.iter().chain(&["a-cpt-long"]).map(|name| (*name, "yes"));
    let shared = std::iter::once(("a-same-init", "initialisation"));
    for (name, kin) in kin.chain(shared).chain(ZOO_APART.iter().map(|name| (*name, "no"))) {
        // It is base-a's trunk with an embedding of its own, and the embedding is what is tested.
        let kin = if name == "a-embeddings-retrained" { "trunk only" } else { kin };
        let found = against_base_a(name);
        writeln!(
            text,
            "| {name} | {kin} | {} | {} | {} of {} | {:.2} | {:.2} | {} |",
            found.usable,
            found.on_ratio,
            found.distinct_on_ratio,
            found.distinct,
            found.span,
            found.log10_p,
            if found.accepted { "yes" } else { "no" }
        )
        .unwrap();
    }
    text
}

/// The document with the figures between its markers replaced.
fn filled_in(document: &str, figures: &BTreeMap<&str, String>) -> String {
    let mut text = document.to_owned();
    for (name, figure) in figures {
        let marker = format!("<!-- computed: {name} -->\n");
        let start = text.find(&marker).unwrap_or_else(|| panic!("no marker for {name}")) + marker.len();
        let end = start + text[start..].find("<!-- end -->").unwrap();
        text.replace_range(start..end, &format!("\n{figure}\n"));
    }
    text
}

#[test]
fn the_document_says_what_the_code_computes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/published-norms.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let computed = filled_in(&document, &figures());
    if std::env::var_os("WEIGHTPRINT_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, computed).unwrap();
        return;
    }
    let differs = document.lines().zip(computed.lines()).find(|(written, computed)| written != computed);
    assert_eq!(differs, None, "run again with WEIGHTPRINT_BLESS=1 and read the difference");
    assert_eq!(document.lines().count(), computed.lines().count());
}
