//! What the model card says of the model's origin, held against what was found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Class;
use crate::format::Claims;

/// How the declaration relates to the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Weights are shared with a model that the card names.
    Declared,
    /// Weights are shared with a model, and the card names no base model.
    Undeclared,
    /// The card names base models, and one that was tested is not where the weights come from.
    Contradicted,
    /// The card names base models that could not be tested.
    DeclaredUntested,
    /// Nothing was found that would need declaring, and nothing is declared.
    NotDeclaredNotNeeded,
}

impl Status {
    /// The status as reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Undeclared => "undeclared",
            Self::Contradicted => "contradicted",
            Self::DeclaredUntested => "declared-untested",
            Self::NotDeclaredNotNeeded => "not-declared-not-needed",
        }
    }
}

/// What was declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Declared {
    /// `base_model` of the card's front matter.
    pub base_models: Vec<String>,
    /// `base_model_relation`: `adapter`, `merge`, `quantized` or `finetune`, as the card spells it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relation: Option<String>,
    /// `license` of the card.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub license: Option<String>,
    /// How it relates to the evidence.
    pub status: Status,
    /// The same in words.
    pub says: String,
}

/// A reference that was tested, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tested<'a> {
    /// The reference's identifier.
    pub id: &'a str,
    /// What the evidence amounts to.
    pub class: Class,
}

/// Holds the card against the results.
///
/// `name` is the subject's own: a checkpoint that *is* the reference of that name owes no declaration.
pub fn declared(claims: &Claims, name: &str, tested: &[Tested<'_>]) -> Declared {
    let card = claims.card.as_ref();
    let base_models = card.map(|card| card.base_models.clone()).unwrap_or_default();
    let named = |id: &str| base_models.iter().any(|base| same_model(base, id));
    let is_itself = |reference: &Tested<'_>| reference.class == Class::Identical && reference.id == name;
    let mut found: Vec<&Tested<'_>> = tested
        .iter()
        .filter(|reference| reference.class > Class::SharedInitialisation && !is_itself(reference))
        .collect();
    found.sort_by_key(|reference| std::cmp::Reverse(reference.class));
    let says_bases = base_models.join(", ");
    let ruled_out = tested.iter().any(|reference| named(reference.id) && reference.class != Class::Inconclusive);
    let (status, says) = match (found.first(), base_models.is_empty()) {
        (None, true) => (Status::NotDeclaredNotNeeded, "declares no base model".to_owned()),
        (Some(first), true) => {
            (Status::Undeclared, format!("declares no base model, but shares weights with {}", first.id))
        }
        (Some(_), false) if found.iter().any(|reference| named(reference.id)) => {
            (Status::Declared, format!("declares {says_bases}"))
        }
        (Some(first), false) if ruled_out => {
            (Status::Contradicted, format!("declares {says_bases}, but shares weights with {} instead", first.id))
        }
        (Some(first), false) => {
            let what = format!("declares {says_bases}, which could not be tested; shares weights with {}", first.id);
            (Status::DeclaredUntested, what)
        }
        (None, false) if ruled_out => {
            (Status::Contradicted, format!("declares {says_bases}, but shows no evidence of its weights"))
        }
        (None, false) => (Status::DeclaredUntested, format!("declares {says_bases}, which could not be tested")),
    };
    let relation = card.and_then(|card| card.relation.clone());
    Declared { base_models, relation, license: card.and_then(|card| card.license.clone()), status, says }
}

/// Whether a declared base is the model with this identifier. Case does not matter, and a bare name stands for any
/// organisation's model of that name.
fn same_model(declared: &str, id: &str) -> bool {
    let bare = |name: &str| name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let both_full = declared.contains('/') && id.contains('/');
    if both_full { declared.eq_ignore_ascii_case(id) } else { bare(declared) == bare(id) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Card;

    fn status(bases: &[&str], tested: &[(&str, Class)]) -> Status {
        let base_models = bases.iter().map(|&base| base.to_owned()).collect();
        let card = Some(Card { base_models, relation: None, license: None });
        let tested: Vec<Tested<'_>> = tested.iter().map(|&(id, class)| Tested { id, class }).collect();
        declared(&Claims { card, ..Claims::default() }, "meta/base-o", &tested).status
    }

    #[test]
    fn a_card_is_held_against_what_was_found() {
        let found = [("meta/base-a", Class::Derived), ("meta/base-b", Class::SameArchitecture)];
        assert_eq!(status(&[], &found), Status::Undeclared);
        assert_eq!(status(&["meta/Base-A"], &found), Status::Declared);
        assert_eq!(status(&["base-a"], &found), Status::Declared);
        assert_eq!(status(&["meta/base-b"], &found), Status::Contradicted);
        assert_eq!(status(&["other/base-a"], &found), Status::DeclaredUntested, "other/base-a may itself be a copy");
        assert_eq!(status(&[], &[("meta/base-o", Class::Identical)]), Status::NotDeclaredNotNeeded, "the model itself");
        let nothing = [("meta/base-b", Class::SameArchitecture)];
        assert_eq!(status(&[], &nothing), Status::NotDeclaredNotNeeded);
        assert_eq!(status(&["meta/base-b"], &nothing), Status::Contradicted);
        assert_eq!(status(&["meta/base-z"], &nothing), Status::DeclaredUntested);
        assert_eq!(status(&["meta/base-b"], &[("meta/base-b", Class::Inconclusive)]), Status::DeclaredUntested);
    }
}
