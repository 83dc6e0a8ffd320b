//! What the model card says of the model's origin, held against what was found.

use super::VerdictClass;
use crate::format::Claims;

/// How the declaration relates to the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeclarationStatus {
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
}

/// A reference that was tested, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TestedReference<'a> {
    /// The reference's identifier.
    pub id: &'a str,
    /// What the evidence amounts to.
    pub class: VerdictClass,
}

/// Holds the card against the results.
///
/// `name` is the subject's own: a checkpoint that *is* the reference of that name owes no declaration.
pub fn declared(claims: &Claims, name: &str, tested: &[TestedReference<'_>]) -> Declaration {
    let card = claims.card.as_ref();
    let base_models = card.map(|card| card.base_models.clone()).unwrap_or_default();
    let named = |id: &str| base_models.iter().any(|base| same_model(base, id));
    let is_itself =
        |reference: &TestedReference<'_>| reference.class == VerdictClass::Identical && reference.id == name;
    let mut found: Vec<&TestedReference<'_>> = tested
        .iter()
        .filter(|reference| reference.class > VerdictClass::SharedInitialisation && !is_itself(reference))
        .collect();
    found.sort_by_key(|reference| std::cmp::Reverse(reference.class));
    let ruled_out = tested.iter().any(|reference| named(reference.id) && reference.class != VerdictClass::Inconclusive);
    let status = match (found.is_empty(), base_models.is_empty()) {
        (true, true) => DeclarationStatus::NotDeclaredNotNeeded,
        (false, true) => DeclarationStatus::Undeclared,
        (false, false) if found.iter().any(|reference| named(reference.id)) => DeclarationStatus::Declared,
        (_, false) if ruled_out => DeclarationStatus::Contradicted,
        (_, false) => DeclarationStatus::DeclaredUntested,
    };
    Declaration {
        relation: card.and_then(|card| card.relation.clone()),
        license: card.and_then(|card| card.license.clone()),
        status,
        shares_with: found.first().map(|reference| reference.id.to_owned()),
        base_models,
    }
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

    fn status(bases: &[&str], tested: &[(&str, VerdictClass)]) -> DeclarationStatus {
        let base_models = bases.iter().map(|&base| base.to_owned()).collect();
        let card = Some(Card { base_models, relation: None, license: None });
        let tested: Vec<_> = tested.iter().map(|&(id, class)| TestedReference { id, class }).collect();
        declared(&Claims { card, ..Claims::default() }, "meta/base-o", &tested).status
    }

    #[test]
    fn a_card_is_held_against_what_was_found() {
        let found = [("meta/base-a", VerdictClass::Derived), ("meta/base-b", VerdictClass::SameArchitecture)];
        assert_eq!(status(&[], &found), DeclarationStatus::Undeclared);
        assert_eq!(status(&["meta/Base-A"], &found), DeclarationStatus::Declared);
        assert_eq!(status(&["base-a"], &found), DeclarationStatus::Declared);
        assert_eq!(status(&["meta/base-b"], &found), DeclarationStatus::Contradicted);
        assert_eq!(
            status(&["other/base-a"], &found),
            DeclarationStatus::DeclaredUntested,
            "other/base-a may itself be a copy"
        );
        assert_eq!(
            status(&[], &[("meta/base-o", VerdictClass::Identical)]),
            DeclarationStatus::NotDeclaredNotNeeded,
            "the model itself"
        );
        let nothing = [("meta/base-b", VerdictClass::SameArchitecture)];
        assert_eq!(status(&[], &nothing), DeclarationStatus::NotDeclaredNotNeeded);
        assert_eq!(status(&["meta/base-b"], &nothing), DeclarationStatus::Contradicted);
        assert_eq!(status(&["meta/base-z"], &nothing), DeclarationStatus::DeclaredUntested);
        assert_eq!(
            status(&["meta/base-b"], &[("meta/base-b", VerdictClass::Inconclusive)]),
            DeclarationStatus::DeclaredUntested
        );
    }
}
