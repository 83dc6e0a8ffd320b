//! Fingerprints of checkpoints that were read before, kept in the user's cache folder.
//!
//! An entry is found by a key over everything that a fingerprint depends on: the checkpoint's digest, which covers
//! every tensor as it will be read, the state of every weight file and the tokenizer; the roles and the architecture
//! that were made out; the settings; the device of products; and the format of what a pass gives ([`FORMAT`]). It holds
//! all neurons' descriptors, so a cached fingerprint leads to the same report, byte for byte. Someone who can write to
//! the user's cache folder can make it say anything: results that others are to rely on are computed without it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::anatomy::Anatomy;
use crate::assemble::Subject;
use crate::bytes::Numbers;
use crate::error::{Error, Result};
use crate::fingerprint::{FORMAT, Fingerprint, Settings};
use crate::tensor::digest::Canonical;
use crate::text::hex;

/// First bytes of an entry; the number is the version of its layout.
const MAGIC: &[u8; 24] = b"weightprint cache 1     ";

/// Ending of the names of entries.
const EXTENSION: &str = "weightprint-cache";

/// Magic, length of the fingerprint, digest of all that follows.
const HEAD: usize = 24 + 8 + 32;

/// Bytes of all entries together beyond which the oldest go.
pub const DEFAULT_LIMIT: u64 = 8 << 30;

/// A folder of cached fingerprints.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    limit: u64,
}

/// Where the fingerprint of one state of a checkpoint is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

/// What was found under a key.
#[derive(Debug)]
pub enum Lookup {
    /// The fingerprint.
    Hit(Box<Fingerprint>),
    /// Nothing.
    Miss,
    /// Something that is not the entry it should be: it is not used, and this says why.
    Ignored(String),
}

impl Cache {
    /// The folder used where none is named: `weightprint` in the user's cache folder, if the system has one.
    pub fn default_folder() -> Option<PathBuf> {
        dirs::cache_dir().map(|cache| cache.join("weightprint"))
    }

    /// A cache in `folder`, which need not exist, of at most `limit` bytes.
    pub fn new(folder: &Path, limit: u64) -> Self {
        Self { folder: folder.to_path_buf(), limit }
    }

    /// The folder, made if it is not there; `None` if it cannot be made.
    pub fn folder(&self) -> Option<&Path> {
        fs::create_dir_all(&self.folder).is_ok().then_some(&*self.folder)
    }

    /// The key of a checkpoint as it is now. Reads a few hundred kilobytes of each weight file.
    ///
    /// # Errors
    /// If a file cannot be examined or read.
    pub fn key(subject: &Subject, settings: &Settings<'_>) -> Result<Key> {
        let json = |error: serde_json::Error| Error::usage(format!("cannot make a cache key: {error}"));
        // What is left out is for reports, which no entry holds.
        let Anatomy {
            architecture,
            assignments,
            naming: _,
            renamed: _,
            by: _,
            block: _,
            components: _,
            leftovers: _,
            notes: _,
        } = subject.anatomy();
        // Memory and the folder of temporary files leave no trace in a fingerprint.
        let &Settings { lists, descriptors, memory: _, scratch: _ } = settings;
        let mut key = Canonical::default();
        key.bytes(MAGIC);
        key.number(FORMAT);
        key.bytes(env!("CARGO_PKG_VERSION").as_bytes());
        key.bytes(&subject.digest()?);
        key.bytes(&serde_json::to_vec(&(architecture, assignments)).map_err(json)?);
        key.bytes(&serde_json::to_vec(&(lists, descriptors)).map_err(json)?);
        // Descriptors are rounded differently on another device.
        key.bytes(crate::math::linalg::device().name().as_bytes());
        Ok(Key(hex(&key.finish())))
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(&key.0).with_extension(EXTENSION)
    }

    /// What is kept under a key. An entry that is found counts as used just now.
    pub fn get(&self, key: &Key) -> Lookup {
        let path = self.path(key);
        if !path.is_file() {
            return Lookup::Miss;
        }
        match read(&path) {
            Ok(fingerprint) => {
                // Only the order in which entries go depends on it.
                let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Lookup::Hit(Box::new(fingerprint))
            }
            Err(error) => Lookup::Ignored(error.to_string()),
        }
    }

    /// Keeps a fingerprint that was just taken, whole or not at all, and lets the oldest entries go where there are too
    /// many. One that is larger than the limit is not kept.
    ///
    /// # Errors
    /// If the folder cannot be made, or the entry not be written.
    pub fn put(&self, key: &Key, fingerprint: &Fingerprint) -> Result<()> {
        let failed = |source| Error::io(&self.folder, "write to the cache in", source);
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let record = fingerprint.to_bytes()?;
        let mut digest = Sha256::new();
        digest.update(&record);
        let mut bytes = (HEAD + record.len()) as u64;
        for numbers in fingerprint.descriptors() {
            digest.update(bytemuck::cast_slice::<i8, u8>(numbers));
            bytes += numbers.len() as u64;
        }
        if bytes > self.limit {
            return Ok(());
        }
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(failed)?;
        let write = || -> std::io::Result<()> {
            let mut out = std::io::BufWriter::new(file.as_file_mut());
            out.write_all(MAGIC)?;
            out.write_all(&(record.len() as u64).to_le_bytes())?;
            out.write_all(&digest.finalize())?;
            out.write_all(&record)?;
            for numbers in fingerprint.descriptors() {
                out.write_all(bytemuck::cast_slice(numbers))?;
            }
            out.flush()
        };
        write().map_err(failed)?;
        file.persist(self.path(key)).map_err(|error| failed(error.error))?;
        self.shrink();
        Ok(())
    }

    /// Removes the entries that were not used for longest until the rest is within the limit.
    fn shrink(&self) {
        let Ok(folder) = fs::read_dir(&self.folder) else { return };
        let entry = |entry: fs::DirEntry| {
            let meta = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            let ours = entry.path().extension().is_some_and(|extension| extension == EXTENSION);
            ours.then_some((meta.modified().ok()?, entry.path(), meta.len()))
        };
        let mut entries: Vec<(SystemTime, PathBuf, u64)> = folder.flatten().filter_map(entry).collect();
        entries.sort_unstable_by(|a, b| b.cmp(a));
        let mut kept = 0u64;
        for (_, path, bytes) in entries {
            kept = kept.saturating_add(bytes);
            if kept > self.limit {
                // Another process may have been quicker.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Reads an entry and checks that it is whole.
fn read(path: &Path) -> Result<Fingerprint> {
    let bad = |what: &str| Error::malformed(path, "cache entry", what);
    let failed = |source| Error::io(path, "read", source);
    let mut file = File::open(path).map_err(failed)?;
    let mut head = [0; HEAD];
    file.read_exact(&mut head).map_err(|_| bad("too short"))?;
    let (magic, rest) = head.split_at(MAGIC.len());
    let (len, stated) = rest.split_at(8);
    if magic != MAGIC {
        return Err(bad("not one of this version"));
    }
    let len = len.try_into().map_or(0, u64::from_le_bytes);
    let all = Numbers::map(path)?;
    let end = usize::try_from(len).ok().and_then(|len| len.checked_add(HEAD)).filter(|&end| end <= all.len());
    let end = end.ok_or_else(|| bad("shorter than it says"))?;
    let bytes: &[u8] = bytemuck::cast_slice(&all);
    if Sha256::digest(&bytes[HEAD..])[..] != *stated {
        return Err(bad("its digest is not that of its bytes"));
    }
    let fingerprint = Fingerprint::from_numbers(all.part(HEAD..end), path)?;
    fingerprint.with_descriptors(&all.part(end..all.len())).ok_or_else(|| bad("descriptors are missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, OpenOptions};

    fn zoo(name: &str) -> Subject {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo").join(name);
        Subject::of(&Checkpoint::open(&path, OpenOptions::default()).unwrap())
    }

    #[test]
    fn all_descriptors_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), DEFAULT_LIMIT);
        let subject = zoo("base-a");
        let key = Cache::key(&subject, &Settings::default()).unwrap();
        assert!(matches!(cache.get(&key), Lookup::Miss));
        let fingerprint = Fingerprint::take(&subject, &Settings::default(), &|_| ()).unwrap();
        assert!(
            fingerprint.approximate.units.iter().any(|unit| unit.labels.len() > crate::fingerprint::SAMPLED_NEURONS)
        );
        cache.put(&key, &fingerprint).unwrap();
        let Lookup::Hit(found) = cache.get(&key) else { panic!("{:?}", cache.get(&key)) };
        assert_eq!(found.to_bytes().unwrap(), fingerprint.to_bytes().unwrap());
        for (found, taken) in found.approximate.units.iter().zip(&fingerprint.approximate.units) {
            assert_eq!((&found.labels, &found.frames, &found.shapes), (&taken.labels, &taken.frames, &taken.shapes));
        }
        let other = Settings { descriptors: false, ..Settings::default() };
        assert_ne!(Cache::key(&subject, &other).unwrap(), key);
    }

    /// Products are rounded alike where the processor multiplies and adds in one step.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_fingerprint_of_other_bytes_has_another_format() {
        if !is_x86_feature_detected!("fma") {
            return;
        }
        let mut digest = Sha256::new();
        for name in ["base-a", "moe-scratch"] {
            let mut fingerprint = Fingerprint::take(&zoo(name), &Settings::default(), &|_| ()).unwrap();
            // The version is in the key for itself.
            fingerprint.exact.subject.tool_version.clear();
            digest.update(fingerprint.to_bytes().unwrap());
            fingerprint.descriptors().for_each(|numbers| digest.update(bytemuck::cast_slice::<i8, u8>(numbers)));
        }
        let known = (2, "b2b4b79cdc7419e0ef002a756d84139c337e494e1295071e8464adf9fea703bc");
        assert_eq!(
            (FORMAT, &hex(&digest.finalize())[..]),
            known,
            "a pass gives other bytes than before: raise `fingerprint::FORMAT`, or caches serve what older builds took; \
             then put the new pair here"
        );
    }

    #[test]
    fn the_entry_that_was_used_longest_ago_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let entry = |name: &str| folder.path().join(name).with_extension(EXTENSION);
        for (age, name) in [(30, "old"), (20, "middle"), (10, "new")] {
            fs::write(entry(name), [0; 100]).unwrap();
            let then = SystemTime::now() - std::time::Duration::from_secs(age);
            File::options().append(true).open(entry(name)).unwrap().set_modified(then).unwrap();
        }
        fs::write(folder.path().join("foreign.txt"), [0; 1000]).unwrap();
        Cache::new(folder.path(), 250).shrink();
        assert!(!entry("old").exists() && entry("middle").exists() && entry("new").exists());
        assert!(folder.path().join("foreign.txt").exists(), "what is not ours is left alone");
    }
}
