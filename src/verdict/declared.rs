//! What the model card says of the model's origin, held against what was found.

mod names;

use std::collections::{BTreeMap, BTreeSet};

use self::names::{ModelName, Same};
use super::thresholds::{MIN_EFFECT, MIN_PART_MATCHED};
use super::{Assessment, VerdictClass};
use crate::format::Claims;
use crate::model::{Architecture, Part, known};

/// The table of statuses. `$make` is the macro that makes an enum of it: here that of the verdict, in the report that of
/// its published codes.
macro_rules! statuses {
    ($make:ident) => {
        $make! {
            /// Weights are shared with a model that the card names.
            Declared = "declared",
                "Declaration. The card names the model that weights are shared with, or names it in another form, or names \
one that is known to be made from it.";
            /// Weights are shared with several models, and the card names some of them.
            PartlyDeclared = "partly-declared",
                "Declaration. Weights are shared with several models, and the card names only some. The others hold layers or \
parts that no declared model has.";
            /// Weights are shared with a model, and the card names no base model, or others.
            Undeclared = "undeclared",
                "Declaration. Weights are shared with a model that the card does not name as a base.";
            /// Weights are shared with a model that the text of the card speaks of, and `base_model` does not name it.
            Mentioned = "mentioned",
                "Declaration. Weights are shared with a model that the text of the card names where it speaks of an origin, but \
its base_model does not. Hubs and programs do not see that.";
            /// What the card declares is not so.
            Contradicted = "contradicted",
                "Declaration. The card names a base model of which no weights were found though it was tested, or whose \
shape rules it out while another model was found; or it calls a changed model quantized.";
            /// The card names base models that could not be tested.
            DeclaredUntested = "declared-untested",
                "Declaration. The card names base models of which no weights are known here. Nothing was found that contradicts it.";
            /// There is a card that could not be read.
            Unreadable = "unreadable",
                "Declaration. There is a model card, but its front matter could not be read, so nothing is known of what it declares.";
            /// Nothing was found that would need declaring, and nothing is declared.
            NotDeclaredNotNeeded = "not-declared-not-needed",
                "Declaration. No weights are shared with any model tested, or the subject is that model itself: nothing needs \
declaring, and nothing is declared.";
            /// Nothing was tested, or there was no card to look at.
            NotAssessed = "not-assessed",
                "Declaration. No reference was tested, or the subject is a fingerprint without the files beside the weights, so \
nothing can be said of what should be declared.";
        }
    };
}

macro_rules! declaration_statuses {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $explanation:literal;)*) => {
        /// How the declaration relates to the evidence.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum DeclarationStatus {
            $($(#[$doc])* $variant,)*
        }
    };
}

statuses!(declaration_statuses);
pub(crate) use statuses;

/// What was declared, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// `base_model` of the card's front matter.
    pub base_models: Vec<String>,
    /// `base_model_relation`: `adapter`, `merge`, `quantized` or `finetune`, as the card spells it.
    pub relation: Option<String>,
    /// `license` of the card.
    pub license: Option<String>,
    /// How it relates to the evidence.
    pub status: DeclarationStatus,
    /// The strongest reference that shares weights with the subject and is not the subject itself.
    pub shares_with: Option<String>,
    /// References that share weights which no declared model accounts for.
    pub undeclared: Vec<String>,
    /// Declared models that were not tested.
    pub untested: Vec<String>,
    /// What else has to be said to make the status plain.
    pub note: Option<Note>,
}

/// Why a status is what it is, where that is not plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The card names the model in another form.
    InAnotherForm(String),
    /// The card names a model that is known to be made from the one found.
    MadeFrom {
        /// The one that the card names.
        declared: String,
        /// The one found.
        found: String,
    },
    /// The shape of the declared model rules it out.
    Shape(String),
    /// Values were changed beyond rounding, and the card calls that quantized.
    Relation,
    /// There was no card to look at.
    NoCard,
}

/// A piece of a subject that a reference can account for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Piece {
    /// A layer of the subject.
    Layer(u32),
    /// A part that is in no layer.
    Part(Part),
}

/// A reference that was tested, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TestedReference<'a> {
    /// The reference's identifier.
    pub id: &'a str,
    /// What the evidence amounts to.
    pub class: VerdictClass,
    /// Pieces of the subject, and the share of each that it accounts for.
    pub pieces: BTreeMap<Piece, f64>,
}

impl<'a> From<&'a Assessment> for TestedReference<'a> {
    fn from(assessment: &'a Assessment) -> Self {
        let layers = assessment.layers.iter().map(|layer| (Piece::Layer(layer.suspect), layer.share));
        let embedding = assessment.parts.iter().filter(|part| part.part == Part::Embedding);
        let pieces = layers.chain(embedding.map(|part| (Piece::Part(part.part), part.matched)));
        Self { id: &assessment.id, class: assessment.judgement.class, pieces: pieces.collect() }
    }
}

impl TestedReference<'_> {
    /// Pieces of which it accounts for at least this share.
    fn covers(&self, least: f64) -> impl Iterator<Item = Piece> {
        self.pieces.iter().filter(move |(_, share)| **share >= least).map(|(piece, _)| *piece)
    }
}

/// A subject, as far as its declaration is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Declaring<'a> {
    /// What is claimed; absent where nothing beside the weights was looked at.
    pub claims: Option<&'a Claims>,
    /// The subject's own name: a checkpoint that *is* the reference of that name owes no declaration.
    pub name: &'a str,
    /// Its shapes.
    pub architecture: &'a Architecture,
    /// Whether its values are stored as plain floating-point numbers, which no rounding to codes changed.
    pub is_plain: bool,
}

/// Holds the card against the results.
pub fn declared(subject: Declaring<'_>, tested: &[TestedReference<'_>]) -> Declaration {
    let card = subject.claims.and_then(|claims| claims.card.as_ref());
    let base_models = card.map(|card| card.base_models.clone()).unwrap_or_default();
    let bases: Vec<Base> = base_models.iter().filter_map(|base| Base::parse(base)).collect();
    let own = ModelName::parse(subject.name);
    let is_itself = |reference: &TestedReference<'_>| {
        reference.class == VerdictClass::Identical
            && own
                .as_ref()
                .zip(ModelName::parse(reference.id))
                .is_some_and(|(own, id)| own.same(&id) == Some(Same::Exactly))
    };
    let mut found: Vec<&TestedReference<'_>> = tested
        .iter()
        .filter(|reference| reference.class > VerdictClass::SharedInitialisation && !is_itself(reference))
        .collect();
    found.sort_by_key(|reference| std::cmp::Reverse(reference.class));
    let untested = bases.iter().filter(|base| !tested.iter().any(|one| base.is_ruled_on(one)));
    let mut declaration = Declaration {
        relation: card.and_then(|card| card.relation.clone()),
        license: card.and_then(|card| card.license.clone()),
        status: DeclarationStatus::NotDeclaredNotNeeded,
        shares_with: found.first().map(|reference| reference.id.to_owned()),
        undeclared: Vec::new(),
        untested: untested.map(|base| base.text.clone()).collect(),
        note: None,
        base_models,
    };
    let nothing_tested = tested.iter().all(|one| one.class == VerdictClass::Inconclusive);
    match (subject.claims, bases.is_empty()) {
        (None, _) => (declaration.status, declaration.note) = (DeclarationStatus::NotAssessed, Some(Note::NoCard)),
        (Some(claims), true) => declaration.without_bases(claims, &found, nothing_tested),
        (Some(_), false) if found.is_empty() => {
            let ruled_out = bases.iter().any(|base| tested.iter().any(|one| base.is_ruled_on(one) && !is_itself(one)));
            declaration.status =
                if ruled_out { DeclarationStatus::Contradicted } else { DeclarationStatus::DeclaredUntested };
        }
        (Some(_), false) => declaration.with_both(&bases, &found, tested, subject),
    }
    declaration
}

/// A base that the card names.
struct Base {
    text: String,
    name: ModelName,
}

impl Base {
    fn parse(text: &str) -> Option<Self> {
        Some(Self { text: text.to_owned(), name: ModelName::parse(text)? })
    }

    fn names(&self, id: &str) -> Option<Same> {
        self.name.same(&ModelName::parse(id)?)
    }

    /// Whether it was tested, and something came of it.
    fn is_ruled_on(&self, tested: &TestedReference<'_>) -> bool {
        self.names(tested.id).is_some() && tested.class != VerdictClass::Inconclusive
    }

    /// What is known of the model that it names, where one is known by that very name.
    fn record(&self) -> Option<&'static known::Record> {
        let is_it = |record: &&known::Record| self.names(&record.hf_repo) == Some(Same::Exactly);
        known::records().find(is_it)
    }

    /// Whether it is known to be made from the model with this identifier.
    fn is_made_from(&self, id: &str) -> bool {
        /// Longer lines of descent are a circle in the data.
        const MOST: usize = 8;
        let named = |name: &str| known::records().find(|record| record.name == name);
        let parent = |record: &&'static known::Record| record.base_model.as_deref().and_then(named);
        let mut line = std::iter::successors(self.record(), parent).skip(1).take(MOST);
        let id = ModelName::parse(id);
        line.any(|record| id.as_ref().zip(ModelName::parse(&record.hf_repo)).is_some_and(|(a, b)| a.same(&b).is_some()))
    }
}

impl Declaration {
    /// The card names no base.
    fn without_bases(&mut self, claims: &Claims, found: &[&TestedReference<'_>], nothing_tested: bool) {
        let mentions: Vec<Base> = claims.mentions.iter().filter_map(|text| Base::parse(text)).collect();
        let is_mentioned =
            |reference: &&TestedReference<'_>| mentions.iter().any(|base| base.names(reference.id).is_some());
        self.status = match found.first() {
            _ if claims.card_unreadable => DeclarationStatus::Unreadable,
            None if nothing_tested => DeclarationStatus::NotAssessed,
            None => DeclarationStatus::NotDeclaredNotNeeded,
            Some(_) => match found.iter().find(|reference| is_mentioned(reference)) {
                Some(mentioned) => {
                    self.shares_with = Some(mentioned.id.to_owned());
                    DeclarationStatus::Mentioned
                }
                None => DeclarationStatus::Undeclared,
            },
        };
        if self.status == DeclarationStatus::Undeclared {
            self.undeclared = unaccounted(found, &[]);
        }
    }

    /// The card names bases, and weights are shared with references.
    fn with_both(
        &mut self,
        bases: &[Base],
        found: &[&TestedReference<'_>],
        tested: &[TestedReference<'_>],
        subject: Declaring<'_>,
    ) {
        let how = |reference: &TestedReference<'_>| bases.iter().filter_map(|base| base.names(reference.id)).min();
        let named: Vec<&TestedReference<'_>> = found.iter().copied().filter(|one| how(one).is_some()).collect();
        if let Some(first) = named.first() {
            self.undeclared = unaccounted(found, &named);
            let calls_it_quantized =
                self.relation.as_deref().is_some_and(|text| text.eq_ignore_ascii_case("quantized"));
            let is_changed = subject.is_plain && named.iter().all(|one| one.class == VerdictClass::Derived);
            (self.status, self.note) = match how(first) {
                _ if !self.undeclared.is_empty() => (DeclarationStatus::PartlyDeclared, None),
                _ if calls_it_quantized && is_changed => (DeclarationStatus::Contradicted, Some(Note::Relation)),
                Some(Same::InAnotherForm) => {
                    (DeclarationStatus::Declared, Some(Note::InAnotherForm(first.id.to_owned())))
                }
                _ => (DeclarationStatus::Declared, None),
            };
            return;
        }
        let pairs = bases.iter().flat_map(|base| found.iter().map(move |one| (base, one)));
        if let Some((base, one)) = pairs.into_iter().find(|(base, one)| base.is_made_from(one.id)) {
            let note = Note::MadeFrom { declared: base.text.clone(), found: one.id.to_owned() };
            (self.status, self.note) = (DeclarationStatus::Declared, Some(note));
            return;
        }
        self.undeclared = unaccounted(found, &[]);
        let is_tested = bases.iter().any(|base| tested.iter().any(|one| base.is_ruled_on(one)));
        let shape = bases.iter().find(|base| base.record().is_some_and(|one| is_other(one, subject.architecture)));
        (self.status, self.note) = match shape {
            _ if is_tested => (DeclarationStatus::Contradicted, None),
            Some(base) => (DeclarationStatus::Contradicted, Some(Note::Shape(base.text.clone()))),
            None => (DeclarationStatus::Undeclared, None),
        };
    }
}

/// Whether the width of a known model rules it out. Other sizes change where layers are dropped or vocabularies extended.
fn is_other(record: &known::Record, architecture: &Architecture) -> bool {
    let own = record.architecture().hidden_size;
    own != architecture.hidden_size && own > 0 && architecture.hidden_size > 0
}

/// References that hold most of a piece of the subject of which the `declared` ones hold nothing. Without any of those it
/// is the strongest, and what it leaves.
fn unaccounted(found: &[&TestedReference<'_>], declared: &[&TestedReference<'_>]) -> Vec<String> {
    let mut covered: BTreeSet<Piece> = declared.iter().flat_map(|one| one.covers(MIN_EFFECT)).collect();
    let mut others = Vec::new();
    for one in found {
        let is_first = declared.is_empty() && others.is_empty();
        let adds = !covered.is_empty() && one.covers(MIN_PART_MATCHED).any(|piece| !covered.contains(&piece));
        if is_first || adds {
            covered.extend(one.covers(MIN_EFFECT));
            others.push(one.id.to_owned());
        }
    }
    others
}

#[cfg(test)]
mod tests {
    use super::DeclarationStatus as Status;
    use super::VerdictClass::{Derived, Identical, Inconclusive, SameArchitecture};
    use super::*;
    use crate::format::Card;

    fn card(bases: &[&str], relation: Option<&str>) -> Claims {
        let base_models = bases.iter().map(|&base| base.to_owned()).collect();
        let card = Some(Card { base_models, relation: relation.map(str::to_owned), license: None });
        Claims { card, ..Claims::default() }
    }

    fn held(claims: Option<&Claims>, name: &str, tested: &[(&str, VerdictClass)]) -> Declaration {
        let architecture = Architecture { hidden_size: 4096, ..Architecture::default() };
        let tested: Vec<_> =
            tested.iter().map(|&(id, class)| TestedReference { id, class, pieces: BTreeMap::new() }).collect();
        declared(Declaring { claims, name, architecture: &architecture, is_plain: true }, &tested)
    }

    fn status(bases: &[&str], tested: &[(&str, VerdictClass)]) -> Status {
        held(Some(&card(bases, None)), "meta/base-o", tested).status
    }

    #[test]
    fn a_card_is_held_against_what_was_found() {
        let found = [("meta/base-a", Derived), ("meta/base-b", SameArchitecture)];
        for (bases, expected) in [
            (&[][..], Status::Undeclared),
            (&["meta/Base-A"], Status::Declared),
            (&["base-a"], Status::Declared),
            (&["https://huggingface.co/meta/base-a/tree/main"], Status::Declared),
            (&["meta/base-b", "meta/base-a"], Status::Declared),
            (&["unsloth/base-a-bnb-4bit"], Status::Declared),
            (&["meta/base-b"], Status::Contradicted),
            // It may be a copy itself; what was found is not what the card names.
            (&["other/base-a"], Status::Undeclared),
            (&["other/base-z"], Status::Undeclared),
            // A model of another width.
            (&["meta-llama/Llama-2-13b-hf"], Status::Contradicted),
            (&["meta-llama/Llama-2-7b-hf"], Status::Undeclared),
        ] {
            assert_eq!(status(bases, &found), expected, "{bases:?}");
        }
        let nothing = [("meta/base-b", SameArchitecture)];
        assert_eq!(status(&[], &nothing), Status::NotDeclaredNotNeeded);
        assert_eq!(status(&["meta/base-b"], &nothing), Status::Contradicted);
        assert_eq!(status(&["meta/base-z"], &nothing), Status::DeclaredUntested);
        assert_eq!(status(&["meta/base-b"], &[("meta/base-b", Inconclusive)]), Status::DeclaredUntested);
        assert_eq!(status(&[], &[]), Status::NotAssessed);
        assert_eq!(status(&[], &[("meta/base-b", Inconclusive)]), Status::NotAssessed);
        let untested = held(Some(&card(&["meta/base-z"], None)), "x", &found);
        assert_eq!((untested.untested, untested.undeclared), (vec!["meta/base-z".into()], vec!["meta/base-a".into()]));
    }

    #[test]
    fn a_model_that_is_the_reference_itself_owes_no_declaration() {
        let itself = [("meta/base-o", Identical)];
        for name in ["meta/base-o", "base-o", "/models/base-o"] {
            assert_eq!(held(Some(&card(&[], None)), name, &itself).status, Status::NotDeclaredNotNeeded, "{name}");
        }
        for name in ["other/base-o", "base-p"] {
            assert_eq!(held(Some(&card(&[], None)), name, &itself).status, Status::Undeclared, "{name}");
        }
    }

    #[test]
    fn a_card_that_cannot_be_read_is_not_one_that_says_nothing() {
        let found = [("meta/base-a", Derived)];
        let broken = Claims { card_unreadable: true, ..Claims::default() };
        assert_eq!(held(Some(&broken), "x", &found).status, Status::Unreadable);
        assert_eq!(held(None, "x", &found).status, Status::NotAssessed);
        let text = Claims { mentions: vec!["meta/base-a".to_owned()], ..Claims::default() };
        assert_eq!(held(Some(&text), "x", &found).status, Status::Mentioned);
        assert_eq!(held(Some(&text), "x", &[("meta/base-b", Derived)]).status, Status::Undeclared);
    }

    #[test]
    fn a_model_that_is_known_to_be_made_from_the_one_found_declares_it() {
        let declared =
            held(Some(&card(&["codellama/CodeLlama-7b-hf"], None)), "x", &[("meta-llama/Llama-2-7b-hf", Derived)]);
        assert_eq!(declared.status, Status::Declared);
        assert!(matches!(declared.note, Some(Note::MadeFrom { .. })));
    }

    #[test]
    fn changed_values_are_not_quantized() {
        let quantized = card(&["meta/base-a"], Some("quantized"));
        assert_eq!(held(Some(&quantized), "x", &[("meta/base-a", Derived)]).status, Status::Contradicted);
        assert_eq!(held(Some(&quantized), "x", &[("meta/base-a", VerdictClass::ReEncoded)]).status, Status::Declared);
    }

    #[test]
    fn parents_that_hold_layers_of_their_own_have_to_be_declared_each() {
        let claims = card(&["meta/a"], None);
        let architecture = Architecture::default();
        let subject = Declaring { claims: Some(&claims), name: "x", architecture: &architecture, is_plain: true };
        let one = |id, layers: &[(u32, f64)]| TestedReference {
            id,
            class: Derived,
            pieces: layers.iter().map(|(layer, share)| (Piece::Layer(*layer), *share)).collect(),
        };
        let stack = [one("meta/a", &[(0, 1.0), (1, 1.0)]), one("meta/b", &[(2, 0.9)])];
        let found = declared(subject, &stack);
        assert_eq!((found.status, found.undeclared), (Status::PartlyDeclared, vec!["meta/b".to_owned()]));
        // A forebear or a sibling of the declared one has the same layers.
        let line = [one("meta/a", &[(0, 0.9), (1, 0.1)]), one("meta/b", &[(0, 1.0), (1, 1.0), (2, 0.4)])];
        assert_eq!(declared(subject, &line).status, Status::Declared);
    }
}
