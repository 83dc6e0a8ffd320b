//! Every sentence of a report: the one place where facts become words.

use crate::evidence::changes::{Change, Sizes};
use crate::evidence::coverage::WhyUntested;
use crate::evidence::facts::{Directions, Side};
use crate::evidence::published::FileMatch;
use crate::evidence::{Facts, WhyNot};
use crate::fingerprint::RUN;
use crate::model::Part;
use crate::model::known::Nearest;
use crate::unread::UnreadKind;
use crate::verdict::declared::{Declaration, DeclarationStatus, Note};
use crate::verdict::pair::Extent;
use crate::verdict::{Assessment, Conclusion, Obstacle, Reason, VerdictClass};

/// What a test found.
pub(super) fn says(facts: &Facts) -> String {
    match facts {
        Facts::Bits { tensors, equal, re_encoded, row_share } => bits(*tensors, *equal, *re_encoded, *row_share),
        Facts::Content { of_suspect, of_reference } => format!(
            "of its runs of {RUN} values {:.1} % are the reference's, and {:.1} % of the reference's are there, in \
             whatever tensors",
            100.0 * of_suspect,
            100.0 * of_reference
        ),
        Facts::ChannelLabels { channels, correlation: r, pairs } => {
            let profiles =
                format!("strengths of {channels} residual channels correlate with r = {r:.3} at equal labels");
            let pairs = pairs.map(|pairs| {
                let (matched, channels, equal) = (pairs.matched, pairs.channels, pairs.equal);
                format!("; by sampled values {matched} of {channels} channels pair up, {equal} at equal labels")
            });
            profiles + &pairs.unwrap_or_default()
        }
        Facts::NeuronLabels { along, sampled, matched, equal } => format!(
            "{} frame: {matched} of {sampled} sampled neurons find their nearest neighbour, {equal} at the same label",
            frame(*along)
        ),
        Facts::NeuronOrder { along, matched, correlation: r } => {
            format!("{} frame: labels of {matched} matched pairs correlate with r = {r:.3}", frame(*along))
        }
        Facts::NeuronAgreement { sampled, agreeing } => format!(
            "token frame: matched by gate, by up and by down apart, {agreeing} of {sampled} sampled neurons get the same \
             partner from two of them"
        ),
        Facts::AlignedWeights { along, pairs, explained, standard_error } => format!(
            "{} frame: along {pairs} neurons matched by one matrix alone, the others share R2 = {explained:.3} (standard \
             error {standard_error:.3}) of their variance",
            frame(*along)
        ),
        Facts::NeuronShape { looked_at, agreeing } => format!(
            "without any frame, {agreeing} of the {looked_at} strongest neurons get the same partner from two matrices"
        ),
        Facts::HeadLabels { heads, equal_heads, groups, equal_groups, agreeing } => format!(
            "{equal_heads} of {heads} attention heads find their nearest neighbour at the same label, {equal_groups} of \
             {groups} key-value groups; matched by query-key and by value-output form apart, {agreeing} of {heads} get \
             the same partner from both"
        ),
        Facts::PublishedNorms { model, tensor, on_ratio, usable, ratio, span } => format!(
            "{on_ratio} of {usable} rare-token rows of `{tensor}` have {model}'s published norms times {ratio:.4}, over a \
             span of {span:.1}"
        ),
        Facts::PublishedDigests(found) => file_match(found),
        Facts::Architecture { fields, equal, differs } => match differs.as_slice() {
            [] => format!("all {fields} fields of the architecture record equal"),
            differs => format!("{equal} of {fields} fields equal; differs in {}", differs.join(", ")),
        },
    }
}

fn bits(tensors: u64, equal: u64, re_encoded: u64, row_share: f64) -> String {
    let mut text = format!("{equal} of {tensors} tensors equal bit for bit");
    if re_encoded > 0 {
        text += &format!(", {re_encoded} equal within the grid of a coarser type");
    }
    if row_share > 0.0 {
        text += &format!("; rows equal to a row of the reference hold {:.1} % of parameters", 100.0 * row_share);
    }
    text
}

fn frame(along: Directions) -> &'static str {
    match along {
        Directions::Raw => "raw",
        Directions::Tokens => "token",
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Suspect => "suspect",
        Side::Reference => "reference",
    }
}

/// What of a published model the files are.
fn file_match(found: &FileMatch) -> String {
    let ours = match (found.ours, found.files) {
        (1, 1) => "its one weight file has the SHA-256 of a file".to_owned(),
        (ours, files) if ours == files => format!("its {files} weight files have the SHA-256 of files"),
        (ours, files) => format!("{ours} of its {files} weight files have the SHA-256 of files"),
    };
    let whole = match found.form_files {
        Some(1) => "the only one in that form".to_owned(),
        Some(files) => format!("{} of the {files} in that form", found.found),
        None => format!("{} of them; how many there are in that form is not known", found.found),
    };
    let kind = if found.is_model { "" } else { ", which is an adapter and not the model" };
    let FileMatch { model, source, .. } = found;
    format!("{ours} published for {model}, {whole}{kind} ({source})")
}

/// Why a test does not apply.
pub(super) fn why_not(why: WhyNot) -> String {
    match why {
        WhyNot::NotSearched => "not looked for: other references match or come nearer".to_owned(),
        WhyNot::NoTensors => "the suspect has no tensors".to_owned(),
        WhyNot::NothingInformative => "no tensor of the suspect has values that could say anything".to_owned(),
        WhyNot::NoRunsKept => "a fingerprint was taken before runs of values were kept".to_owned(),
        WhyNot::FewRuns => "too few runs of values of one model can be compared".to_owned(),
        WhyNot::NoResidualStream(whose) => format!("no residual stream was found in the {}'s values", side(whose)),
        WhyNot::UnequalChannels { suspect, reference } => {
            format!("the residual streams have {suspect} and {reference} channels")
        }
        WhyNot::OrderedChannels => "the channels of both models are ordered by strength".to_owned(),
        WhyNot::NoMlp(whose) => format!("no MLP was made out in the {}", side(whose)),
        WhyNot::NoCommonFrame => "no frame is common to both models".to_owned(),
        WhyNot::NoCommonTokens => "no token frame is common to both models".to_owned(),
        WhyNot::NoGatedMlp => "no gated MLP with enough neurons in both models".to_owned(),
        WhyNot::NoAttention(whose) => {
            format!("no attention with four separate matrices was made out in the {}", side(whose))
        }
        WhyNot::NoCommonHeads => "no token frame and size of head is common to both models".to_owned(),
    }
}

/// One thing that was done to the reference.
pub(super) fn change(change: &Change) -> String {
    let list = |layers: &[u32]| layers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    match change {
        Change::Channels(Sizes { suspect, reference }) => {
            format!("the residual stream has {suspect} channels, not {reference}")
        }
        Change::Vocabulary(Sizes { suspect, reference }) => {
            format!("the vocabulary has {suspect} tokens, not {reference}")
        }
        Change::Neurons(Sizes { suspect, reference }) => format!("MLPs have {suspect} neurons, not {reference}"),
        Change::Upcycled { experts } => format!("each MLP became {experts} experts"),
        Change::ChannelsPermuted { paired, channels, cosine } => format!(
            "channels of the residual stream are permuted ({paired} of {channels} paired, mean cosine {cosine:.2})"
        ),
        Change::BasisRotated => "the basis of the residual stream is rotated".to_owned(),
        Change::NeuronsDropped => "neurons were dropped or inserted, the others kept in order".to_owned(),
        Change::NeuronsPermuted => "neurons are permuted in all layers that were matched".to_owned(),
        Change::GainsFolded => "norm gains are folded into the matrices behind them".to_owned(),
        Change::LayersDropped(layers) => format!("layers dropped: {}", list(layers)),
        Change::LayersRepeated(layers) => format!("layers repeated: {}", list(layers)),
    }
}

/// Why a class was given to one reference.
pub(super) fn because(reason: &Reason) -> String {
    match reason {
        Reason::Test(facts) => says(facts),
        Reason::LabelsAlone { labels, profiles } => {
            format!("{}, but channel profiles share only {:.1} % of their variance", says(labels), 100.0 * profiles)
        }
        Reason::Extent { found, extent } => format!("{}; {}", says(found), corresponding(extent)),
        Reason::FewRows(facts) => format!("{}; too few rows for a verdict by themselves", says(facts)),
        Reason::Coverage(share) => format!("tests that apply take in only {} of its weights", percent(*share)),
        Reason::Screened => "only a first look was taken, at equal labels and a few neurons".to_owned(),
        Reason::NoLabels => "blocks have the same shapes, but no test of labels applies".to_owned(),
        Reason::NoLabelsInFamily => {
            "no tensor is equal, and no test of labels applies to these two models of one family".to_owned()
        }
    }
}

/// How much of a subject corresponds.
fn corresponding(extent: &Extent) -> String {
    match extent {
        Extent::Tensors { share, correlation } => format!(
            "{:.0} % of its parameters have a counterpart there, with a mean correlation of {correlation:.2} at equal \
             labels",
            100.0 * share
        ),
        Extent::Neurons { share } => format!(
            "no tensor has a counterpart at equal labels, as after a change of basis or of order, but {:.0} % of sampled \
             neurons have",
            100.0 * share
        ),
        Extent::Parts(parts) => {
            let names: Vec<&str> = parts.iter().map(|part| part.as_str()).collect();
            format!("a counterpart was found only for: {}", names.join(", "))
        }
    }
}

/// The verdict in one or two sentences. The tests are symmetric, and the sentence claims no direction.
pub(super) fn summary(name: &str, conclusion: &Conclusion, best: Option<&Assessment>, nearest: &[Nearest]) -> String {
    let Conclusion { class, obstacles, .. } = conclusion;
    let Some(best) = best else { return untested_summary(name, nearest) };
    let (id, judgement) = (&best.id, &best.judgement);
    let because = because(&judgement.reason);
    let chance = judgement.log10_p.map(|p| format!(" Independent training gives this with {}.", probability(p)));
    let chance = chance.unwrap_or_default();
    match *class {
        VerdictClass::Identical => {
            format!("{name} is {id}, once names, order, sharding and lossless changes of type are undone: {because}.")
        }
        VerdictClass::ReEncoded => format!("{name} is {id} in another encoding: {because}."),
        VerdictClass::Derived => format!(
            "{name} and {id} have weights of common descent: {because}.{chance} \
             The tests are symmetric: they do not tell which came first."
        ),
        VerdictClass::Merged => format!("{name} is explained by several references together: {because}.{chance}"),
        VerdictClass::SharesComponents => {
            let parts: Vec<&str> = judgement.components.iter().map(|part| part_name(*part)).collect();
            format!("{name} shares {} with {id}: {because}.{chance}", joined(&parts))
        }
        VerdictClass::SharedInitialisation => {
            format!("{name} and {id} seem to have started from the same initialisation: {because}.{chance}")
        }
        VerdictClass::SameArchitecture => format!(
            "{name} has the block structure of {id}, and nothing speaks for shared weights: {because}{}.",
            judgement.log10_p.map(|p| format!(", {}", probability(p))).unwrap_or_default()
        ),
        VerdictClass::NoEvidence => format!(
            "No evidence that {name} shares weights with any reference tested; the structure of each differs. \
             Strongest: {id}, {because}."
        ),
        VerdictClass::Inconclusive if !obstacles.is_empty() => {
            let obstacles: Vec<String> = obstacles.iter().map(obstacle).collect();
            let compared = match judgement.class {
                VerdictClass::Inconclusive | VerdictClass::Screened => String::new(),
                _ => format!(" Where it was compared, nothing speaks for shared weights (nearest: {id})."),
            };
            format!("No verdict on the weights of {name}: {}.{compared}", obstacles.join("; "))
        }
        VerdictClass::Inconclusive | VerdictClass::Screened => {
            format!("Too little of {name} could be tested for a verdict: {because} (against {id}).")
        }
    }
}

/// What stands in the way of a clean bill.
pub(super) fn obstacle(obstacle: &Obstacle) -> String {
    match obstacle {
        Obstacle::Coverage(0.0) => "nothing of it was compared with any reference".to_owned(),
        Obstacle::Coverage(share) => {
            format!("only {} of the weights that lie there was compared with any reference", percent(*share))
        }
        Obstacle::Unread(share) => format!(
            "bytes that may be weights were not read, {} as many as were",
            if *share > 10.0 { format!("{share:.0} times") } else { percent(*share) }
        ),
        Obstacle::Damaged(code) => format!("the checkpoint was not looked at whole ({})", code.as_str()),
        Obstacle::KnownModel(id) => format!("it was not compared with {id}, which has its shapes"),
    }
}

/// A share in per cent: never rounded up to all, nor down to nothing.
pub(super) fn percent(share: f64) -> String {
    match 100.0 * share {
        little if 0.0 < little && little < 1.0 => "less than 1 %".to_owned(),
        most if (99.0..100.0).contains(&most) => "99 %".to_owned(),
        per_cent => format!("{per_cent:.0} %"),
    }
}

/// Why something was not compared.
pub(super) fn why_untested(why: WhyUntested) -> &'static str {
    match why {
        WhyUntested::Unread(kind) => match kind {
            UnreadKind::WeightFile => "another weight file, no part of the model that was read",
            UnreadKind::ForeignWeights => "weights in a format that is not read",
            UnreadKind::UnknownFile => "a file whose content was not made out",
            UnreadKind::TrainingState => "training state",
            UnreadKind::LeftOut => "tensors beside the model that was read",
            UnreadKind::Gap => "bytes that belong to no tensor",
            UnreadKind::Media => "pictures, sounds or documents, large enough to carry weights",
            UnreadKind::Texts => "texts, large enough to carry weights",
            UnreadKind::EmbeddedData => "data in place of text",
            UnreadKind::UnlistedFolder => "a folder that could not be looked at",
            UnreadKind::OutsideLink => "a link out of the folder, which was not followed",
            UnreadKind::RemoteCode => "code",
        },
        WhyUntested::UnknownType => "its type is not decoded",
        WhyUntested::Codes => "integers, which may stand for weights",
        WhyUntested::NonFinite => "too many values are not finite",
        WhyUntested::NoRole => "its part in the model was not made out",
        WhyUntested::NoTest => "no test that applies takes it in",
        WhyUntested::NoReference => "there is no reference to hold it against",
        WhyUntested::Adapter => "it changes a model that is not here",
    }
}

/// The sentence where no reference with weights was there to compare with.
fn untested_summary(name: &str, nearest: &[Nearest]) -> String {
    let structure = match nearest.first() {
        Some(nearest) if nearest.equal => {
            format!(" Its architecture is that of {}, which says nothing of weights.", nearest.id)
        }
        _ => String::new(),
    };
    format!("The weights of {name} were not tested: no catalog holds a reference to compare them with.{structure}")
}

fn part_name(part: Part) -> &'static str {
    match part {
        Part::Embedding => "its embedding",
        Part::Attention => "its attention",
        Part::Mlp => "its MLPs",
        Part::Other => "other tensors",
        Part::Unknown => "tensors without a known role",
    }
}

fn joined(names: &[&str]) -> String {
    match names {
        [] => "some tensors".to_owned(),
        [one] => (*one).to_owned(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

/// A probability: a power of ten where it is small.
fn probability(log10_p: f64) -> String {
    if log10_p <= -4.0 { format!("p < 10^{}", log10_p.ceil()) } else { format!("p = {:.2}", 10f64.powf(log10_p)) }
}

/// What the model card declares, and how that fits what was found.
pub(super) fn declared(declaration: &Declaration) -> String {
    let bases = declaration.base_models.join(", ");
    let found = declaration.shares_with.as_deref();
    let others = declaration.undeclared.join(", ");
    let says = match (declaration.status, found) {
        (DeclarationStatus::NotDeclaredNotNeeded, _) | (DeclarationStatus::Undeclared, None) => {
            "declares no base model".to_owned()
        }
        (DeclarationStatus::Undeclared, Some(id)) if bases.is_empty() => {
            format!("declares no base model, but shares weights with {id}")
        }
        (DeclarationStatus::Undeclared, Some(id)) => {
            format!("declares {bases}, but shares weights with {id}, which it does not declare")
        }
        (DeclarationStatus::Declared | DeclarationStatus::DeclaredUntested, _) => format!("declares {bases}"),
        (DeclarationStatus::PartlyDeclared, _) => {
            format!("declares {bases}, but shares weights with {others} too, which it does not declare")
        }
        (DeclarationStatus::Mentioned, _) => {
            let id = found.unwrap_or_default();
            format!("names {id} in the text of the card, not in its base_model, and shares weights with it")
        }
        (DeclarationStatus::Contradicted, _) if declaration.note == Some(Note::Relation) => {
            format!("declares {bases}")
        }
        (DeclarationStatus::Contradicted, Some(id)) => {
            format!("declares {bases}, but shares weights with {id} instead")
        }
        (DeclarationStatus::Contradicted, None) => format!("declares {bases}, but shows no evidence of its weights"),
        (DeclarationStatus::Unreadable, Some(id)) => {
            format!("has a card that could not be read, and shares weights with {id}")
        }
        (DeclarationStatus::Unreadable, None) => "has a card that could not be read".to_owned(),
        (DeclarationStatus::NotAssessed, _) if declaration.note.is_some() => "has no card here to look at".to_owned(),
        (DeclarationStatus::NotAssessed, _) => "declares no base model; no reference was tested".to_owned(),
    };
    format!("{says}{}{}", noted(declaration.note.as_ref()), not_tested(&declaration.untested))
}

/// What makes the status plain.
fn noted(note: Option<&Note>) -> String {
    match note {
        Some(Note::InAnotherForm(id)) => format!(", which is {id} in another form"),
        Some(Note::MadeFrom { declared, found }) => format!("; {declared} is known to be made from {found}"),
        Some(Note::Shape(base)) => format!("; {base} has another width"),
        Some(Note::Relation) => ", quantized, but more than rounding was changed".to_owned(),
        Some(Note::NoCard) | None => String::new(),
    }
}

fn not_tested(untested: &[String]) -> String {
    match untested {
        [] => String::new(),
        several => format!("; not tested: {}", several.join(", ")),
    }
}

/// That an architecture's match cannot be tested for weights, nor so many others of its shapes.
pub(crate) fn untested(id: &str, others: usize) -> String {
    let others = match others {
        0 => String::new(),
        n => format!(" (nor do {n} others of the same shapes)"),
    };
    format!("weights not tested against {id}: it has no weight fingerprint in the catalog{others}")
}

/// That labels of channels are not arbitrary.
pub(crate) fn ordered_channels() -> String {
    "residual channels are ordered by strength, so tests of their labels mean less".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_never_rounded_to_all_or_nothing() {
        assert_eq!([0.0, 0.004, 0.5, 0.996, 1.0].map(percent), ["0 %", "less than 1 %", "50 %", "99 %", "100 %"]);
    }

    #[test]
    fn probabilities_never_claim_more_than_they_are() {
        assert_eq!(probability(-123.4), "p < 10^-123");
        assert_eq!(probability(-0.3), "p = 0.50");
    }
}
