//! A checkpoint is read through its store alone: from memory it gives what it gives from disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weightprint::internals::bytes::{Object, Origin, Store};
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::fingerprint::Settings;
use weightprint::internals::scanner::Prepared;
use weightprint::{Error, Result};

/// The files of a folder that need not be there any more.
#[derive(Debug)]
struct Memory {
    root: PathBuf,
    origin: Option<Origin>,
    files: BTreeMap<String, Arc<[u8]>>,
}

#[derive(Debug)]
struct Held {
    path: PathBuf,
    bytes: Arc<[u8]>,
}

impl Memory {
    fn of(folder: &Path) -> Self {
        let file = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap().into())
        };
        let files = fs::read_dir(folder).unwrap().map(|entry| file(entry.unwrap())).collect();
        Self { root: folder.to_path_buf(), origin: None, files }
    }
}

impl Store for Memory {
    fn root(&self) -> &Path {
        &self.root
    }

    fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    fn contains(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    fn open(&self, name: &str) -> Result<Box<dyn Object>> {
        let absent = || Error::io(self.path(name), "open", std::io::ErrorKind::NotFound.into());
        let bytes = Arc::clone(self.files.get(name).ok_or_else(absent)?);
        Ok(Box::new(Held { path: self.path(name), bytes }))
    }
}

impl Object for Held {
    fn name(&self) -> &Path {
        &self.path
    }

    fn location(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read<'a>(&'a self, offset: u64, len: usize, _: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let taken = self.bytes.get(offset as usize..).and_then(|rest| rest.get(..len));
        taken.ok_or_else(|| Error::changed(&self.path))
    }

    fn identity(&self) -> Vec<u8> {
        self.path.as_os_str().as_encoded_bytes().to_vec()
    }

    fn is_unchanged(&self) -> Result<bool> {
        Ok(true)
    }

    fn for_values(self: Box<Self>) -> Box<dyn Object> {
        self
    }
}

/// A model of the zoo with a card, in a folder of its own.
fn model(into: &Path) -> PathBuf {
    let folder = into.join("model");
    fs::create_dir(&folder).unwrap();
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo/a-sft");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(zoo.join(name), folder.join(name)).unwrap();
    }
    fs::write(folder.join("README.md"), "---\nbase_model: org/base-a\nlicense: mit\n---\n").unwrap();
    folder
}

fn fingerprint(checkpoint: &Checkpoint) -> Vec<u8> {
    let (input, _) = Prepared::take(checkpoint, "model".to_owned(), &Settings::default(), None, &|_| ()).unwrap();
    input.fingerprint().to_bytes().unwrap()
}

#[test]
fn a_model_in_memory_is_the_model_on_disk() {
    let place = tempfile::tempdir().unwrap();
    let folder = model(place.path());
    let disk = Checkpoint::open(&folder, OpenOptions::default()).unwrap();
    let store = Memory::of(&folder);
    let expected = fingerprint(&disk);
    drop(place);
    assert!(!folder.exists());
    let memory = Checkpoint::open_in(&store, None).unwrap();
    assert_eq!((memory.format.as_str(), &memory.tensors), ("safetensors", &disk.tensors));
    assert_eq!((&memory.claims, &memory.findings), (&disk.claims, &disk.findings));
    assert_eq!(memory.claims.card.as_ref().unwrap().base_models, ["org/base-a"]);
    assert_eq!(memory.claims.config.as_ref().unwrap()["model_type"], "llama");
    assert_eq!(fingerprint(&memory), expected);
}

#[test]
fn a_store_says_which_repository_it_is() {
    let place = tempfile::tempdir().unwrap();
    let folder = model(place.path());
    let origin = Origin { repository: "org/name".to_owned(), revision: "abc".to_owned() };
    let store = Memory { origin: Some(origin), ..Memory::of(&folder) };
    let named = Checkpoint::open_in(&store, Some("model.safetensors")).unwrap();
    assert_eq!((named.repository.as_deref(), named.revision.as_deref()), (Some("org/name"), Some("abc")));
}

#[test]
fn what_a_store_lacks_is_missed_under_its_own_name() {
    let place = tempfile::tempdir().unwrap();
    let folder = model(place.path());
    let mut store = Memory::of(&folder);
    store.files.remove("model.safetensors");
    let why = Checkpoint::open_in(&store, None).unwrap_err().to_string();
    assert!(why.contains("no weight files") && why.contains("model"), "{why}");
    let why = Checkpoint::open_in(&store, Some("other.safetensors")).unwrap_err().to_string();
    assert!(why.contains("other.safetensors"), "{why}");
}
