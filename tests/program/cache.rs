//! Fingerprints of unchanged checkpoints come from the user's cache folder, and never change a report.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::zoo;
use assert_cmd::Command;

/// A copy of a model of the zoo, a reference catalog and an empty cache.
struct Place {
    folder: tempfile::TempDir,
}

/// What one scan printed, and its exit code.
#[derive(Debug, PartialEq)]
struct Seen {
    code: Option<i32>,
    report: String,
    notes: String,
}

const HIT: &str = "fingerprint taken from the cache";

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("model")).unwrap();
        for entry in fs::read_dir(zoo("a-sft")).unwrap().flatten() {
            fs::copy(entry.path(), folder.path().join("model").join(entry.file_name())).unwrap();
        }
        let place = Self { folder };
        let base = zoo("base-a");
        let added = place.run(&["catalog", "add", base.to_str().unwrap(), "--id", "zoo/base-a", "--no-cache"]);
        assert_eq!(added.code, Some(0), "{}", added.notes);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Seen {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weightprint"));
        let command = command.args(args).env("XDG_DATA_HOME", self.path("data")).env_remove("WEIGHTPRINT_CATALOG");
        let command = command.env("WEIGHTPRINT_CACHE", self.path("cache")).env_remove("WEIGHTPRINT_NO_CACHE");
        let output = command.output().unwrap();
        Seen {
            code: output.status.code(),
            report: String::from_utf8(output.stdout).unwrap(),
            notes: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn scan(&self, extra: &[&str]) -> Seen {
        let model = self.path("model");
        let args = ["scan", model.to_str().unwrap(), "--format", "json"];
        self.run(&[&args[..], extra].concat())
    }

    fn entries(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path("cache")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn weights(folder: &Path) -> PathBuf {
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|extension| extension == "safetensors")).unwrap()
}

#[test]
fn a_second_scan_takes_the_fingerprint_from_the_cache_and_says_the_same() {
    let place = Place::new();
    let plain = place.scan(&["--no-cache"]);
    assert!(place.entries().is_empty(), "--no-cache writes nothing");
    assert!(plain.report.contains("\"derived\""));
    let first = place.scan(&[]);
    assert!(!first.notes.contains(HIT), "{}", first.notes);
    assert_eq!(place.entries().len(), 1);
    let second = place.scan(&[]);
    assert!(second.notes.contains(HIT), "{}", second.notes);
    assert_eq!((first.code, &first.report), (second.code, &second.report));
    assert_eq!((plain.code, &plain.report), (second.code, &second.report));
    assert_eq!(place.scan(&["--quiet"]).notes, "");
    assert!(!place.scan(&["--no-cache"]).notes.contains(HIT), "--no-cache reads nothing");
}

#[test]
fn a_changed_file_is_read_again() {
    let place = Place::new();
    place.scan(&[]);
    let file = weights(&place.path("model"));
    let mut bytes = fs::read(&file).unwrap();
    let (last, modified) = (bytes.len() - 1, fs::metadata(&file).unwrap().modified().unwrap());
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    // The time is put back, as an unpacking tool would.
    fs::File::options().append(true).open(&file).unwrap().set_modified(modified).unwrap();
    let changed = place.scan(&[]);
    assert!(!changed.notes.contains(HIT));
    assert_eq!(changed.report, place.scan(&["--no-cache"]).report);
    assert_eq!(place.entries().len(), 2);
}

#[test]
fn other_anchors_are_another_fingerprint() {
    let place = Place::new();
    place.scan(&[]);
    let other = zoo("base-b");
    let added = place.run(&["catalog", "add", other.to_str().unwrap(), "--id", "zoo/base-b", "--no-cache"]);
    assert_eq!(added.code, Some(0), "{}", added.notes);
    assert_eq!(place.scan(&[]).report, place.scan(&["--no-cache"]).report);
}

#[test]
fn a_damaged_entry_is_ignored_with_a_warning() {
    let place = Place::new();
    let good = place.scan(&[]);
    let entry = place.entries().remove(0);
    let whole = fs::read(&entry).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x40;
    let damages: [(&str, &[u8]); 6] = [
        ("a flipped bit", &flipped),
        ("cut short", &whole[..whole.len() - 100]),
        ("only a head", &whole[..40]),
        ("nothing", &[]),
        ("foreign", b"PK\x03\x04 this is no cache entry, and long enough to be taken for the head of one, is it not?"),
        ("too long", &[&whole[..], &[0; 100]].concat()),
    ];
    for (what, bytes) in damages {
        fs::write(&entry, bytes).unwrap();
        let seen = place.scan(&[]);
        assert!(seen.notes.contains("warning") && seen.notes.contains("cache entry"), "{what}: {}", seen.notes);
        assert_eq!((seen.code, &seen.report), (good.code, &good.report), "{what}");
        assert!(place.scan(&[]).notes.contains(HIT), "{what}: a good entry has taken its place");
    }
}

#[test]
fn a_folder_that_cannot_be_written_does_not_fail_a_scan() {
    let place = Place::new();
    fs::write(place.path("cache"), "a file where the folder should be").unwrap();
    let seen = place.scan(&[]);
    assert!(seen.notes.contains("warning"), "{}", seen.notes);
    assert_eq!(seen.report, place.scan(&["--no-cache"]).report);
}
