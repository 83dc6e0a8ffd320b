//! Models in several files, each of which states which one it is.

use std::path::Path;

use super::FORMAT;
use super::metadata::{Metadata, Value};
use crate::{Error, Result};

/// Which file of a split model a file says it is; nothing, if it says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Split {
    number: Option<Value>,
    count: Option<Value>,
    tensors: Option<Value>,
}

impl Split {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let stated = |key: &str| metadata.get(key).cloned();
        Self { number: stated("split.no"), count: stated("split.count"), tensors: stated("split.tensors.count") }
    }

    /// The number of the file, from 0, and that of all files.
    pub(crate) fn place(&self) -> Option<(u64, u64)> {
        Some((self.number.as_ref()?.as_u64()?, self.count.as_ref()?.as_u64()?))
    }

    /// Checks that the files of a model, in order, are what each says it is. `tensors` is their number in all files.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) if a file says that it is another one, that there are more
    /// or fewer files, or tensors.
    pub(crate) fn check(root: &Path, files: &[Self], tensors: usize) -> Result<()> {
        let all = files.len();
        for (index, Self { number, count, tensors: stated }) in files.iter().enumerate() {
            // A model in one file may still carry the counts, and a count of zero stands for one that is not split.
            let (number, stated) = if all > 1 { (number.as_ref(), stated.as_ref()) } else { (None, None) };
            let count = count.as_ref().filter(|count| all > 1 || count.as_u64() != Some(0));
            for (key, stated, found) in
                [("split.no", number, index), ("split.count", count, all), ("split.tensors.count", stated, tensors)]
            {
                if let Some(stated) = stated.filter(|stated| stated.as_u64() != Some(found as u64)) {
                    let what = format!("file {} of {all} states {key} {stated}, found {found}", index + 1);
                    return Err(Error::malformed(root, FORMAT, what));
                }
            }
        }
        Ok(())
    }
}
