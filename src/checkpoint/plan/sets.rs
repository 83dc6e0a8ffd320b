//! Weight files that belong together by their names: numbered shards, Meta's parts.

use std::collections::BTreeMap;
use std::path::Path;

use crate::bytes::Store;
use crate::checkpoint::meta;
use crate::format::recognise::{GGUF_SUFFIX, PICKLE_SUFFIXES, SAFETENSORS_SUFFIX};
use crate::limits::MAX_SHARDS;
use crate::text::{listed, shown};
use crate::{Error, Result};

const FORMAT: &str = "sharded checkpoint";

/// A name like `model-00001-of-00003.safetensors`.
pub(super) struct Numbered<'a> {
    pub(super) prefix: &'a str,
    pub(super) number: usize,
    pub(super) total: usize,
    /// How many digits the number is written with.
    width: usize,
    /// The total as written.
    of: &'a str,
    /// The ending of the name.
    pub(super) suffix: &'static str,
}

impl<'a> Numbered<'a> {
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        let suffixes = [SAFETENSORS_SUFFIX, GGUF_SUFFIX].into_iter().chain(PICKLE_SUFFIXES);
        let (stem, suffix) = suffixes.into_iter().find_map(|suffix| Some((name.strip_suffix(suffix)?, suffix)))?;
        let (rest, of) = stem.rsplit_once("-of-")?;
        let (prefix, digits) = rest.rsplit_once('-')?;
        let is_number = |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(of) || !is_number(digits) {
            return None;
        }
        let (number, total) = (digits.parse().ok()?, of.parse().ok()?);
        (1..=total).contains(&number).then_some(Self { prefix, number, total, width: digits.len(), of, suffix })
    }

    /// What all shards of one set have in common.
    pub(super) fn set(&self) -> (&'a str, usize, &'static str) {
        (self.prefix, self.total, self.suffix)
    }
}

/// Weight files that belong together by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model {
    /// How the user would recognise it.
    pub(super) label: String,
    pub(super) files: Vec<String>,
}

impl Model {
    /// Weight files as models, numbered ones of the same prefix and total together.
    pub(super) fn sets(names: &[String]) -> Vec<Self> {
        let mut sets: BTreeMap<(&str, usize, &str), Vec<String>> = BTreeMap::new();
        let (mut models, mut parts) = (Vec::new(), Vec::new());
        for name in names {
            match Numbered::parse(name) {
                Some(numbered) => sets.entry(numbered.set()).or_default().push(name.clone()),
                None if meta::part(name).is_some() => parts.push(name.clone()),
                None => models.push(Self { label: name.clone(), files: vec![name.clone()] }),
            }
        }
        if !parts.is_empty() {
            models.push(Self { label: "consolidated.*.pth".to_owned(), files: parts });
        }
        models.extend(sets.into_iter().map(|((prefix, total, suffix), mut files)| {
            files.sort_by_key(|name| Numbered::parse(name).map(|numbered| numbered.number));
            Self { label: format!("{prefix}-*-of-{total}{suffix}"), files }
        }));
        models
    }

    /// Bytes of all its files.
    ///
    /// # Errors
    /// If one of them cannot be opened.
    pub(super) fn bytes(&self, store: &dyn Store) -> Result<u64> {
        self.files.iter().try_fold(0u64, |sum, name| Ok(sum.saturating_add(store.open(name)?.len())))
    }

    /// What its name begins with, in front of numbers and variants: `model` of `model.fp16.safetensors`.
    pub(super) fn stem(&self) -> &str {
        let first = self.files[0].as_str();
        match Numbered::parse(first) {
            Some(numbered) => numbered.prefix.split('.').next().unwrap_or_default(),
            None => first.split('.').next().unwrap_or_default(),
        }
    }

    /// Whether every number of the set is there once.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) naming those that are missing, or there twice;
    /// [`ErrorKind::Limit`](crate::ErrorKind::Limit) if there are to be too many.
    pub(super) fn check_complete(&self, root: &Path) -> Result<()> {
        let gap = |(at, name): (usize, &String)| (meta::part(name)? != at).then(|| format!("consolidated.{at:02}.pth"));
        if let Some(missing) = self.files.iter().enumerate().find_map(gap) {
            return Err(Error::malformed(root, FORMAT, format!("part {} of the model is missing", shown(&missing))));
        }
        let Some(Numbered { prefix, total, width, of, suffix, .. }) = Numbered::parse(&self.files[0]) else {
            return Ok(());
        };
        if total > MAX_SHARDS {
            let (path, found, limit) = (root.to_path_buf(), total as u64, MAX_SHARDS as u64);
            return Err(Error::limit(path, "number of shards", found, limit));
        }
        let mut count = vec![0u32; total];
        for numbered in self.files.iter().filter_map(|name| Numbered::parse(name)) {
            count[numbered.number - 1] += 1;
        }
        if let Some(twice) = count.iter().position(|count| *count > 1) {
            let what = format!("shard {} of {} is there more than once", twice + 1, self.label);
            return Err(Error::malformed(root, FORMAT, what));
        }
        let missing: Vec<String> = (1..=total)
            .filter(|number| count[number - 1] == 0)
            .map(|number| format!("{prefix}-{number:0width$}-of-{of}{suffix}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = format!("{} of {total} shards are missing: {}", missing.len(), listed(&missing));
        Err(Error::malformed(root, FORMAT, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_names_are_told_from_others() {
        let numbered = |name| Numbered::parse(name).map(|found| (found.prefix, found.number, found.total));
        assert_eq!(numbered("model-00002-of-00003.safetensors"), Some(("model", 2, 3)));
        assert_eq!(numbered("a-b-1-of-1.safetensors"), Some(("a-b", 1, 1)));
        assert_eq!(numbered("pytorch_model-00001-of-00002.bin"), Some(("pytorch_model", 1, 2)));
        for other in [
            "model.safetensors",
            "model-00000-of-00003.safetensors",
            "model-00004-of-00003.safetensors",
            "model-x-of-00003.safetensors",
            "model-1-of-99999999999999999999.safetensors",
            "one-of-many.safetensors",
            "model-00001-of-00003.json",
        ] {
            assert_eq!(numbered(other), None, "{other}");
        }
    }
}
