//! Simulated independent pairs: the weights of trained models, the labels drawn at random.
//!
//! That is the null hypothesis of the label tests word for word, and the sharpest case of it: pairs that are alike in
//! everything but their labels, down to a model and itself.

use std::collections::BTreeMap;

use rayon::prelude::*;
use weightprint::internals::anatomy::Residual;
use weightprint::internals::evidence::channels::{self, Scores};
use weightprint::internals::evidence::{self, Depth, Evidence, Suspect, TestKind, heads};
use weightprint::internals::fingerprint::{FORM_NUMBERS, Fingerprint, SAMPLE_GRID, TensorFingerprint, Unit, labels};
use weightprint::report::TestCode;

use super::levels::Levels;
use super::support::pairs::open;
use super::support::{Random, Raw, load, zoo};
use super::{Block, markdown};

/// A model whose labels can be drawn anew.
struct Subject {
    /// With the tensors alone whose columns are channels: what `channel-labels` reads.
    by_channel: Fingerprint,
    /// For each of them the sampled rows with all columns.
    rows: Vec<Vec<f32>>,
    /// Labels of the columns that a fingerprint samples.
    kept: Vec<u32>,
    /// Without tensors: what the tests of neurons read.
    by_neuron: Fingerprint,
}

impl Subject {
    /// A model of the zoo, from its weights.
    fn of_zoo(name: &str, reference: Option<&str>) -> Self {
        let reference = reference.map(|name| open(&zoo(name), None));
        let print = open(&zoo(name), reference.as_ref()).into_fingerprint();
        let raws: BTreeMap<String, Raw> = load(name).into_iter().map(|raw| (raw.name.clone(), raw)).collect();
        Self::new(&print, |tensor| {
            let (values, width) = (raws[&tensor.name].values(), tensor.shape[1] as usize);
            let row = |&row: &u32| values[row as usize * width..][..width].to_vec();
            tensor.sample_labels().0.iter().flat_map(row).collect()
        })
    }

    /// A model whose fingerprint samples every channel.
    fn of_print(print: &Fingerprint) -> Self {
        assert!(print.exact.channels.profile.len() <= SAMPLE_GRID.1);
        Self::new(print, |tensor| tensor.values.as_ref().unwrap().sample.values().into_owned())
    }

    fn new(print: &Fingerprint, whole_rows: impl Fn(&TensorFingerprint) -> Vec<f32>) -> Self {
        let channels = print.exact.channels.profile.len();
        let columns = |tensor: &TensorFingerprint| {
            let by_column = matches!(tensor.assignment.residual, Residual::Reads(1) | Residual::Embeds(1));
            by_column && tensor.shape.len() == 2 && tensor.shape[1] == channels as u64 && tensor.values.is_some()
        };
        let (mut by_channel, mut by_neuron) = (print.clone(), print.clone());
        by_channel.exact.tensors.retain(columns);
        by_channel.approximate.units.clear();
        by_neuron.exact.tensors.clear();
        // Shapes take time, and have no labels.
        by_neuron.approximate.units.iter_mut().for_each(|unit| unit.shapes = Default::default());
        let rows = by_channel.exact.tensors.iter().map(whole_rows).collect();
        let kept = labels::chosen(channels as u64, SAMPLE_GRID.1);
        let subject = Self { by_channel, rows, kept, by_neuron };
        let unchanged = subject.with_channels(&(0..channels).collect::<Vec<_>>());
        assert!(unchanged == subject.by_channel, "relabelling reads other values than the fingerprint");
        subject
    }

    /// The model with its channels in another order.
    fn with_channels(&self, order: &[usize]) -> Fingerprint {
        let mut print = self.by_channel.clone();
        print.exact.channels.profile =
            order.iter().map(|&channel| self.by_channel.exact.channels.profile[channel]).collect();
        for (tensor, rows) in print.exact.tensors.iter_mut().zip(&self.rows) {
            let sampled = |row: &[f32]| self.kept.iter().map(|&label| row[order[label as usize]]).collect::<Vec<f32>>();
            tensor.values.as_mut().unwrap().sample =
                rows.chunks_exact(order.len()).flat_map(sampled).collect::<Vec<f32>>().into();
        }
        print
    }

    /// The model with the key-value groups of each attention in another order, and the heads within each group.
    fn with_heads(&self, random: &mut Random) -> Fingerprint {
        let mut print = self.by_neuron.clone();
        for attention in &mut print.approximate.attentions {
            let per_group = (attention.heads / attention.groups) as usize;
            let mut groups: Vec<usize> = (0..attention.groups as usize).collect();
            random.shuffle(&mut groups);
            let mut order = Vec::new();
            for group in groups {
                let mut heads: Vec<usize> = (group * per_group..(group + 1) * per_group).collect();
                random.shuffle(&mut heads);
                order.extend(heads);
            }
            for forms in &mut attention.forms {
                let head = |&head: &usize| forms[head * 2 * FORM_NUMBERS..][..2 * FORM_NUMBERS].to_vec();
                *forms = order.iter().flat_map(head).collect();
            }
        }
        print
    }

    /// The model with the neurons of each unit in another order; units of equal key share theirs.
    fn with_neurons(&self, random: &mut Random, key: Key) -> Fingerprint {
        let mut print = self.by_neuron.clone();
        let mut drawn: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (index, unit) in print.approximate.units.iter_mut().enumerate() {
            let labels = drawn.entry(key(index, unit)).or_insert_with(|| {
                let mut labels = unit.labels.clone();
                random.shuffle(&mut labels);
                labels
            });
            unit.labels.clone_from(labels);
        }
        print
    }
}

/// Which units share an order of their neurons, because they are copies of one.
type Key = fn(usize, &Unit) -> usize;

const EACH_ITS_OWN: Key = |index, _| index;
const EXPERTS_OF_A_LAYER: Key = |_, unit| unit.layer.unwrap_or_default() as usize;
/// a-depth-upscaled holds base-a's layers 0 to 2, then 1 to 3.
const COPIES_OF_A_LAYER: Key = |_, unit| [0, 1, 2, 1, 2, 3][unit.layer.unwrap_or_default() as usize];

/// log10 p by test.
type Outcome = Vec<(TestKind, f64)>;

fn channels_of(suspect: &Subject, reference: &Subject, random: &mut Random) -> Outcome {
    let mut order: Vec<usize> = (0..suspect.by_channel.exact.channels.profile.len()).collect();
    random.shuffle(&mut order);
    let suspect = suspect.with_channels(&order);
    let test = channels::test(&suspect, &Scores::of(&suspect), &reference.by_channel);
    p_of(&test).into_iter().collect()
}

fn p_of(evidence: &Evidence) -> Option<(TestKind, f64)> {
    Some((evidence.test, evidence.measure()?.log10_p?))
}

fn neurons_of(suspect: &Subject, reference: &Subject, key: Key, random: &mut Random) -> Outcome {
    let comparison =
        evidence::compare(&Suspect::new(&suspect.with_neurons(random, key)), &reference.by_neuron, Depth::Full);
    let labels = |test: &&Evidence| [TestKind::NeuronLabels, TestKind::NeuronOrder].contains(&test.test);
    comparison.evidence.iter().filter(labels).filter_map(p_of).collect()
}

fn heads_of(suspect: &Subject, reference: &Subject, random: &mut Random) -> Outcome {
    let test = heads::test(&suspect.with_heads(random), &reference.by_neuron);
    p_of(&test).into_iter().collect()
}

/// A line of the table for each test.
struct Study<'a> {
    what: &'a str,
    pairs: usize,
    one: Box<dyn Fn(&mut Random) -> Outcome + Sync + 'a>,
}

impl Study<'_> {
    fn lines(&self, seed: u64) -> Vec<[String; 9]> {
        let outcomes: Vec<Outcome> = (0..self.pairs as u64)
            .into_par_iter()
            // Hashed once, so that the streams of neighbouring pairs do not overlap.
            .map(|pair| (self.one)(&mut Random(Random((seed << 32) + pair).next())))
            .collect();
        let line = |code: TestKind| {
            let levels = Levels::of(outcomes.iter().flatten().filter(|test| test.0 == code).map(|test| test.1));
            let [pairs, a, b, c, d, smallest, holds] = levels.cells();
            (levels.pairs > 0).then(|| {
                [self.what.to_owned(), TestCode::from(code).as_str().to_owned(), pairs, a, b, c, d, smallest, holds]
            })
        };
        let codes = [TestKind::ChannelLabels, TestKind::NeuronLabels, TestKind::NeuronOrder, TestKind::HeadLabels];
        codes.into_iter().filter_map(line).collect()
    }
}

/// Pairs of each sort; `divisor` divides their number.
pub(crate) fn study(prints: &[Fingerprint], divisor: usize) -> Vec<Block> {
    let twins: Vec<Subject> = prints.iter().map(Subject::of_print).collect();
    let names = ["base-a", "base-b", "a-sft", "a-cpt", "a-moe-upcycled", "a-depth-upscaled"];
    let zoo: BTreeMap<&str, Subject> =
        names.into_iter().map(|name| (name, Subject::of_zoo(name, (name != "base-a").then_some("base-a")))).collect();
    let mut studies = same_recipe(&twins);
    studies.extend(of_the_zoo(&zoo));
    let mut lines: Vec<[String; 9]> = Vec::new();
    for (study, seed) in studies.iter_mut().zip(1..) {
        study.pairs = study.pairs.div_ceil(divisor);
        let found = study.lines(seed);
        found.iter().for_each(|line| eprintln!("{}", line.join("  ")));
        lines.extend(found);
    }
    let head = [
        "pairs of",
        "test",
        "pairs",
        "≤ .1",
        "≤ .01",
        "≤ .001",
        "≤ .0001",
        "smallest log10 p",
        "p ≤ α at most as often as α",
    ];
    vec![("simulated", markdown(head, lines))]
}

fn same_recipe(twins: &[Subject]) -> Vec<Study<'_>> {
    if twins.len() < 2 {
        return Vec::new();
    }
    let both = |a: &Subject, b: &Subject, random: &mut Random| {
        let mut outcome = channels_of(a, b, random);
        outcome.extend(neurons_of(a, b, EACH_ITS_OWN, random));
        outcome.extend(heads_of(a, b, random));
        outcome
    };
    let two = move |random: &mut Random| {
        let first = random.below(twins.len());
        let second = (first + 1 + random.below(twins.len() - 1)) % twins.len();
        both(&twins[first], &twins[second], random)
    };
    let itself = move |random: &mut Random| {
        let model = &twins[random.below(twins.len())];
        both(model, model, random)
    };
    vec![
        Study { what: "two same-recipe models", pairs: 10_000, one: Box::new(two) },
        Study { what: "a same-recipe model and itself", pairs: 10_000, one: Box::new(itself) },
    ]
}

fn of_the_zoo<'a>(zoo: &'a BTreeMap<&str, Subject>) -> Vec<Study<'a>> {
    let channels = |what: &'a str, suspect: &str, reference: &str, pairs: usize| {
        let (suspect, reference) = (&zoo[suspect], &zoo[reference]);
        let one = move |random: &mut Random| channels_of(suspect, reference, random);
        Study { what, pairs, one: Box::new(one) }
    };
    let heads = |what: &'a str, suspect: &str, reference: &str, pairs: usize| {
        let (suspect, reference) = (&zoo[suspect], &zoo[reference]);
        let one = move |random: &mut Random| heads_of(suspect, reference, random);
        Study { what, pairs, one: Box::new(one) }
    };
    let neurons = |what: &'a str, suspect: &str, reference: &str, key: Key, pairs: usize| {
        let (suspect, reference) = (&zoo[suspect], &zoo[reference]);
        let one = move |random: &mut Random| neurons_of(suspect, reference, key, random);
        Study { what, pairs, one: Box::new(one) }
    };
    vec![
        channels("a-sft and base-a", "a-sft", "base-a", 4000),
        channels("a-cpt and base-a", "a-cpt", "base-a", 4000),
        heads("a-sft and base-a", "a-sft", "base-a", 10_000),
        heads("base-b and base-a", "base-b", "base-a", 10_000),
        neurons("a-sft and base-a", "a-sft", "base-a", EACH_ITS_OWN, 1000),
        neurons("a-cpt and base-a", "a-cpt", "base-a", EACH_ITS_OWN, 1000),
        neurons(
            "a-moe-upcycled and base-b, experts relabelled together",
            "a-moe-upcycled",
            "base-b",
            EXPERTS_OF_A_LAYER,
            400,
        ),
        neurons(
            "a-moe-upcycled and base-a, experts relabelled together",
            "a-moe-upcycled",
            "base-a",
            EXPERTS_OF_A_LAYER,
            400,
        ),
        neurons(
            "a-depth-upscaled and base-b, copied layers together",
            "a-depth-upscaled",
            "base-b",
            COPIES_OF_A_LAYER,
            400,
        ),
        neurons(
            "a-depth-upscaled and base-a, copied layers together",
            "a-depth-upscaled",
            "base-a",
            COPIES_OF_A_LAYER,
            400,
        ),
    ]
}
