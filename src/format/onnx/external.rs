//! Files beside an ONNX file that hold values of its tensors: only those inside its folder.

use std::collections::HashMap;
use std::path::{Component, Path};

use super::wire::{Reader, Span};
use crate::Result;
use crate::bytes::Object;
use crate::format::Opener;
use crate::limits::MAX_SHARDS;
use crate::text::shown;

/// The files that were found so far, in the order in which tensors name them.
pub(crate) struct External<'a> {
    opener: Opener<'a>,
    /// Folder of the ONNX file, relative to the root.
    folder: &'a Path,
    files: Vec<(String, Box<dyn Object>)>,
    /// Shards by location as tensors spell it.
    known: HashMap<String, usize>,
}

impl<'a> External<'a> {
    /// For the ONNX file called `name`, the folder of whose model `opener` opens.
    pub(crate) fn new(opener: Opener<'a>, name: &'a str) -> Self {
        Self {
            opener,
            folder: Path::new(name).parent().unwrap_or(Path::new("")),
            files: Vec::new(),
            known: HashMap::new(),
        }
    }

    pub(crate) fn into_files(self) -> Vec<(String, Box<dyn Object>)> {
        self.files
    }

    /// The files with their names: shards from 1 on.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &dyn Object)> {
        self.files.iter().map(|(name, object)| (name.as_str(), &**object))
    }

    /// The shard and the bytes that `keys` of the tensor at byte `at` name, which have to be `len` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) if the file lies outside the folder, is not there, or ends
    /// before the values do; whatever the opener refuses.
    pub(crate) fn find(
        &mut self,
        reader: &Reader<'_>,
        at: u64,
        keys: &[(String, String)],
        len: Option<u64>,
    ) -> Result<(usize, Span)> {
        let value = |key: &str| keys.iter().rev().find(|(found, _)| found == key).map(|(_, value)| value.as_str());
        let number = |key: &str| match value(key) {
            None => Ok(None),
            Some(text) => {
                let what = || reader.refuse(at, format!("the {key} of its values is {}", shown(text)));
                text.trim().parse::<u64>().map(Some).map_err(|_| what())
            }
        };
        let location = value("location").unwrap_or_default();
        let shard = match self.known.get(location) {
            Some(shard) => *shard,
            None => {
                let shard = self.open(reader, at, location)?;
                self.known.insert(location.to_owned(), shard);
                shard
            }
        };
        let end = self.files[shard - 1].1.len();
        let begin = number("offset")?.unwrap_or(0);
        let stated = number("length")?;
        if let (Some(len), Some(stated)) = (len, stated)
            && len != stated
        {
            return Err(reader.refuse(at, format!("it takes {len} bytes and states {stated}")));
        }
        let wanted = len.or(stated).unwrap_or(end.saturating_sub(begin));
        match begin.checked_add(wanted).filter(|to| *to <= end) {
            Some(to) => Ok((shard, Span { at: begin, end: to })),
            None => {
                let what = format!("its {wanted} bytes at byte {begin} reach beyond {}", shown(location));
                Err(reader.refuse(at, format!("{what}, which ends at byte {end}")))
            }
        }
    }

    /// The number of the shard at `location`.
    fn open(&mut self, reader: &Reader<'_>, at: u64, location: &str) -> Result<usize> {
        let path = Path::new(location);
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        // Paths of Windows are names elsewhere, and would be read as paths there.
        if location.is_empty() || !is_plain || location.contains(['\\', ':', '\0']) {
            let what = format!("its values lie in {}, which is no path inside the folder", shown(location));
            return Err(reader.refuse(at, what));
        }
        let below: std::path::PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
        let relative = self.folder.join(below);
        let name = relative.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
        if let Some(known) = self.files.iter().position(|(known, _)| *known == name) {
            return Ok(known + 1);
        }
        if self.files.len() == MAX_SHARDS {
            return Err(reader.over("number of files with values", MAX_SHARDS as u64 + 1, MAX_SHARDS as u64));
        }
        let Some(object) = (self.opener)(&name)? else {
            return Err(reader.refuse(at, format!("its values lie in {}, which is not there", shown(&name))));
        };
        if object.location() == reader.object.location() {
            return Err(reader.refuse(at, "its values lie outside the message, in the file itself"));
        }
        self.files.push((name, object));
        Ok(self.files.len())
    }
}
