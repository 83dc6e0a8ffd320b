//! PyTorch checkpoints that are broken, cut off or crafted: nothing in them is executed, none makes the program panic,
//! hang or take memory by the size that it states, and none passes for a clean one.

#![cfg(unix)]

use std::fs;
use std::path::Path;

use crate::support::torch::{LEGACY_HEAD, Pickler, archive, legacy, state_pickle, zip, zipped};
use crate::support::{ErrorClass, error_class};
use crate::support::{Raw, load, open_in_time, weightprint, zoo};
use proptest::prelude::*;
use safetensors::tensor::Dtype;
use weightprint::Error;
use weightprint::internals::checkpoint::Checkpoint;
use weightprint::internals::finding::{Code, Level};

/// Opens a file of these bytes under that name, in less than a second and a half, and reads what it holds.
fn open_as(name: &str, bytes: &[u8]) -> Result<Checkpoint, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    open_in_time(&path)
}

fn open(bytes: &[u8]) -> Result<Checkpoint, Error> {
    open_as("model.bin", bytes)
}

fn refuse(bytes: &[u8], parts: &[&str]) {
    let error = open(bytes).unwrap_err();
    let text = error.to_string();
    for part in [&["model.bin"], parts].concat() {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert_eq!(error_class(&error), ErrorClass::Malformed, "{text}");
    assert!(text.len() < 2000, "{} bytes of message", text.len());
}

fn small() -> Vec<Raw> {
    let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
    vec![Raw::from_f32("a.weight", &[3, 4], &values), Raw::from_f32("b.weight", &[12], &values)]
}

/// A dictionary of one entry under `key`, whose value `value` writes.
fn one(key: &str, value: impl FnOnce(&mut Pickler)) -> Vec<u8> {
    let mut pickler = Pickler::begin();
    pickler.op(b"}");
    pickler.put();
    pickler.text(key);
    value(&mut pickler);
    pickler.op(b"s.");
    pickler.bytes
}

const FLOATS: &[u8] = &[0; 48];

/// An archive with one tensor that is a window on a storage which states `count` floats and has 12.
fn window(count: u64, offset: u64, size: &[u64], stride: &[u64]) -> Vec<u8> {
    zipped(&one("t", |pickler| pickler.window("0", Dtype::F32, count, offset, size, stride)), &[("0", FLOATS)])
}

#[test]
fn calls_of_the_system_are_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("executed");
    let command = format!("touch {}", marker.display());
    let (os, posix) = (format!("cos\nsystem\n(S'{command}'\ntR."), format!("(S'{command}'\niposix\nsystem\n."));
    let stack_global = [
        &b"\x80\x04\x8c\x02os\x8c\x06system\x93X"[..],
        &(command.len() as u32).to_le_bytes(),
        command.as_bytes(),
        b"\x85R.",
    ]
    .concat();
    for (pickle, name) in [
        (os.as_bytes(), "os.system"),
        (posix.as_bytes(), "posix.system"),
        (&stack_global[..], "os.system"),
        (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "builtins.eval"),
        (b"\x80\x02cbuiltins\ngetattr\ncos\npath\nX\x04\x00\x00\x00join\x86R)R.", "builtins.getattr"),
    ] {
        for bytes in [pickle.to_vec(), zipped(pickle, &[]), [LEGACY_HEAD, pickle, b"\x80\x02]."].concat()] {
            refuse(&bytes, &[&format!("`{name}`"), "refused"]);
        }
    }
    let path = folder.path().join("model.pt");
    fs::write(&path, os.as_bytes()).unwrap();
    let run = weightprint([Path::new("scan"), &path]);
    assert_eq!(run.code, 3, "{}", run.stdout);
    assert!(run.stderr.contains("asks to call `os.system`, which was refused"), "{}", run.stderr);
    assert!(!marker.exists());
}

#[test]
fn a_call_beside_the_weights_is_a_finding_and_the_scan_goes_on() {
    let base = load("base-a");
    let mut pickle = state_pickle(&base);
    pickle.truncate(pickle.len() - 2);
    pickle.extend(b"X\x04\x00\x00\x00evilcos\nsystem\nX\x02\x00\x00\x00id\x85Ru.");
    let keys: Vec<String> = (0..base.len()).map(|key| key.to_string()).collect();
    let storages: Vec<(&str, &[u8])> = keys.iter().map(String::as_str).zip(base.iter().map(|t| &t.bytes[..])).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    fs::write(&path, zipped(&pickle, &storages)).unwrap();
    let run = weightprint([Path::new("compare"), &path, &zoo("base-a"), Path::new("--format"), Path::new("json")]);
    let report = run.json();
    assert_eq!(report["verdict"]["class"], "identical");
    let findings = report["findings"].as_array().unwrap();
    let refused: Vec<_> = findings.iter().filter(|finding| finding["code"] == "pickle-refused").collect();
    assert_eq!(refused.len(), 2, "{findings:?}");
    assert!(refused[0]["message"].as_str().unwrap().contains("asks to call `os.system`"));
    assert!(refused[1]["message"].as_str().unwrap().contains("`evil`"));
}

/// A pickle without its end: a module, kept at place 1000, as an object of `class` whose attributes `fill` writes.
fn module(class: &str, fill: impl FnOnce(&mut Pickler)) -> Vec<u8> {
    let name = class.replace(' ', "\n");
    let mut pickler = Pickler::after([&b"\x80\x02c"[..], name.as_bytes(), b"\n)\x81r\xe8\x03\0\0"].concat());
    pickler.op(b"}(");
    fill(&mut pickler);
    pickler.op(b"ub");
    pickler.bytes
}

#[test]
fn an_object_of_any_class_is_its_attributes_and_nothing_runs() {
    let fill = |pickler: &mut Pickler| {
        pickler.text("_parameters");
        pickler.op(b"}");
        pickler.text("weight");
        pickler.tensor("0", Dtype::F32, &[3, 4]);
        pickler.op(b"s");
        pickler.text("_modules");
        // Itself among its modules, and something that a call was to give.
        pickler.op(b"}(X\x04\x00\x00\x00selfj\xe8\x03\0\0X\x01\x00\x00\x00xcevil\ncall\n)Ru");
    };
    let pickle = [module("os system", fill), b".".to_vec()].concat();
    let checkpoint = open(&zipped(&pickle, &[("0", FLOATS)])).unwrap();
    let names: Vec<&str> = checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["weight"]);
    let messages: Vec<&str> = checkpoint.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert!(messages.iter().any(|message| message.contains("`os.system`")), "{messages:?}");
    assert!(messages.iter().any(|message| message.contains("asks to call `evil.call`")), "{messages:?}");
    assert!(checkpoint.findings.iter().all(|finding| finding.level == Level::Warning));
}

#[test]
fn weights_that_a_module_would_not_save_lower_the_coverage() {
    let base = load("base-a");
    let fill = |pickler: &mut Pickler| {
        pickler.text("_modules");
        pickler.op(b"}");
        for (group, matrices) in [("_parameters", false), ("hidden", true)] {
            pickler.text(group);
            pickler.op(b"}(");
            for (key, tensor) in base.iter().enumerate().filter(|(_, tensor)| (tensor.shape.len() > 1) == matrices) {
                pickler.text(&tensor.name);
                pickler.tensor(&key.to_string(), tensor.dtype, &tensor.shape);
            }
            pickler.op(b"u");
        }
    };
    let pickle = [module("a Model", fill), b".".to_vec()].concat();
    let keys: Vec<String> = (0..base.len()).map(|key| key.to_string()).collect();
    let storages: Vec<(&str, &[u8])> = keys.iter().map(String::as_str).zip(base.iter().map(|t| &t.bytes[..])).collect();
    let checkpoint = open(&zipped(&pickle, &storages)).unwrap();
    assert!(checkpoint.findings.iter().any(|finding| finding.code == Code::ValuesNotRead));
    let unread = checkpoint.tensors.iter().find(|tensor| !tensor.dtype.is_decoded()).unwrap();
    assert!(unread.elements() > 1 << 20, "{unread:?}");
}

#[test]
fn modules_inside_modules_end_at_a_limit() {
    // Each the only module of the one before.
    let mut pickle = b"\x80\x02".to_vec();
    const LEVELS: usize = 900;
    for _ in 0..LEVELS {
        pickle.extend(b"ca\nb\n)\x81}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00m");
    }
    pickle.extend(b"N");
    pickle.extend(b"sub".repeat(LEVELS));
    pickle.extend(b".");
    refuse(&zipped(&pickle, &[]), &["no dictionary of tensors"]);
}

#[test]
fn a_tensor_whose_storage_was_refused_is_not_read_and_told() {
    let pickle =
        one("t", |pickler| pickler.op(b"ctorch._utils\n_rebuild_tensor_v2\n(cevil\nstorage\n)RK\x00))\x89NtR"));
    let both = [&pickle[..pickle.len() - 1], b"X\x01\x00\x00\x00a"].concat();
    let mut pickler = Pickler::after(both);
    pickler.tensor("0", Dtype::F32, &[12]);
    pickler.op(b"s.");
    let checkpoint = open(&zipped(&pickler.bytes, &[("0", FLOATS)])).unwrap();
    assert_eq!(checkpoint.tensors.len(), 1);
    let told: Vec<_> = checkpoint.findings.iter().map(|finding| (finding.code, finding.level)).collect();
    assert_eq!(told, [(Code::PickleRefused, Level::Warning); 2]);
    refuse(&zipped(&pickle, &[]), &["`evil.storage`", "refused"]);
}

#[test]
fn weights_behind_a_refused_call_lower_the_coverage() {
    // Every matrix goes through a function of the attacker's; only the norms are plain tensors.
    let base = load("base-b");
    let mut pickler = Pickler::begin();
    pickler.op(b"}(");
    for (key, tensor) in base.iter().enumerate() {
        pickler.text(&tensor.name);
        let hidden = tensor.shape.len() > 1;
        if hidden {
            pickler.op(b"cevil\nwrap\n");
        }
        pickler.tensor(&key.to_string(), tensor.dtype, &tensor.shape);
        if hidden {
            pickler.op(b"\x85R");
        }
    }
    pickler.op(b"u.");
    let keys: Vec<String> = (0..base.len()).map(|key| key.to_string()).collect();
    let storages: Vec<(&str, &[u8])> = keys.iter().map(String::as_str).zip(base.iter().map(|t| &t.bytes[..])).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    for raw in [false, true] {
        let mut pickle = pickler.bytes.clone();
        if raw {
            // The same as bytes objects.
            let norms: Vec<Raw> = base.iter().filter(|tensor| tensor.shape.len() == 1).cloned().collect();
            pickle = state_pickle(&norms);
            pickle.truncate(pickle.len() - 2);
            pickle.extend(b"X\x01\x00\x00\x00wB\x00\x00\x20\x00");
            pickle.extend(vec![7; 1 << 21]);
            pickle.extend(b"u.");
        }
        fs::write(&path, zipped(&pickle, &storages)).unwrap();
        let run = weightprint([Path::new("compare"), &path, &zoo("base-a"), Path::new("--format"), Path::new("json")]);
        assert_eq!(run.code, 5, "{}{}", run.stdout, run.stderr);
        assert!(run.json()["subject"]["coverage"].as_f64().unwrap() < 0.1);
    }
}

#[test]
fn files_cut_off_anywhere_are_refused() {
    for whole in [zip(&small()), legacy(&small())] {
        let full = open(&whole).unwrap();
        assert_eq!((full.tensors.len(), full.findings.len()), (2, 0));
        for len in 0..whole.len() {
            let error = open(&whole[..len]).unwrap_err();
            assert_eq!(error_class(&error), ErrorClass::Malformed, "{len}: {error}");
        }
    }
}

/// What `torch.load` and another reader could understand differently: it takes the last end record whatever its comment,
/// finds names in any case, and looks below the folder of the first member alone.
#[test]
fn archives_with_two_readings_are_refused() {
    let good = zip(&small());
    let end = good.len() - 22;
    let pickle = state_pickle(&small());
    // A second directory at the end, whose end record lies about its comment, and the first one's comment up to there.
    let mut two = [&good[..], &good[end..]].concat();
    let last = two.len() - 22;
    two[end + 20] = 22;
    refuse(&two, &["two end records", &format!("byte {end}")]);
    two[last + 20] = 9;
    refuse(&two, &["its comment is not as long as it says", &format!("byte {last}")]);
    two[end + 20] = 0;
    refuse(&two, &["its comment is not as long as it says"]);
    refuse(&[&good[..], b"PK\x05\x06"].concat(), &["last end record is cut off"]);
    // A comment is no second reading.
    let mut commented = [&good[..], b"made by hand"].concat();
    commented[end + 20] = 12;
    assert_eq!(open(&commented).unwrap().tensors.len(), 2);
    for (members, says) in [
        (&["a/DATA.PKL", "a/other/data.pkl"][..], "more than one `data.pkl`"),
        (&["a/Data.pkl"], "is called `a/Data.pkl`"),
        (&["a/data.pkl", "a/data/k0", "a/data/K0"], "differ in case alone"),
        (&["a/data.pkl", "A/data.pkl"], "differ in case alone"),
        (&["b/version", "a/data.pkl"], "`b/version` is not in the archive's one folder"),
        (&["a/data.pkl", "abc"], "`abc` is not in the archive's one folder"),
        (&["a/b/data.pkl"], "not in the archive's one folder"),
    ] {
        let members: Vec<(&str, &[u8])> = members.iter().map(|name| (*name, &pickle[..])).collect();
        refuse(&archive(&members), &[says, "byte "]);
    }
}

#[test]
fn archives_that_torch_does_not_write_are_refused() {
    let good = zip(&small());
    let directory = good.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    let end = good.len() - 22;
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let both = |place: usize, local: usize, bytes: &[u8]| {
        let mut changed = with(place, bytes);
        changed[local..local + bytes.len()].copy_from_slice(bytes);
        changed
    };
    refuse(&both(directory + 10, 8, &[8, 0]), &["`model/data.pkl`", "compressed"]);
    refuse(&both(directory + 24, 22, &[0xff]), &["another length than its own"]);
    refuse(&both(directory + 8, 6, &[1, 8]), &["encrypted"]);
    refuse(&with(directory + 42, &[0xff; 3]), &["beyond the end"]);
    refuse(&with(directory + 42, &[1]), &["no header where the directory says"]);
    refuse(&with(directory + 20, &[0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f]), &["beyond the end"]);
    refuse(&with(directory, b"XX"), &["directory is cut off or broken"]);
    refuse(&with(end + 8, &[0xff, 0xff, 0xff, 0xff]), &["64-bit end record"]);
    refuse(&with(end + 8, &[200, 0, 200, 0]), &["directory is cut off or broken"]);
    refuse(&with(end + 10, &[200, 0]), &["other disks"]);
    refuse(&with(end + 12, &[0xff, 0xff, 0xff, 0x7f]), &["directory reaches beyond the end"]);
    refuse(&with(end, b"XX"), &["cut off"]);
    let pickle = state_pickle(&small());
    refuse(&archive(&[("a/data.pkl", &pickle), ("b/data.pkl", &pickle)]), &["more than one"]);
    refuse(&archive(&[("a/data.pkl", &pickle), ("a/data.pkl", &pickle)]), &["states a member twice"]);
    refuse(&archive(&[("a/data.pkl", &pickle), ("a/byteorder", b"big")]), &["big-endian"]);
    refuse(&archive(&[("a/data.pkl", &pickle), ("a/byteorder", b"middle")]), &["neither"]);
    refuse(
        &archive(&[("a/data.pkl", &pickle), ("a/data/9", FLOATS)]),
        &["`a.weight`", "storage `0` is not in the file"],
    );
    let other = open(&archive(&[("word/document.xml", b"<x/>")])).unwrap_err();
    assert_eq!(error_class(&other), ErrorClass::Nothing);
    // The 64-bit end record of large files, with the 32-bit one saying nothing.
    let start = u64::from(u32::from_le_bytes(good[end + 16..end + 20].try_into().unwrap()));
    let size = end as u64 - start;
    let wide = |count: u64, size: u64, start: u64| {
        let record = [&b"PK\x06\x06"[..], &44u64.to_le_bytes(), &[0; 12], &[count; 2].map(u64::to_le_bytes).concat()];
        let record = [&record.concat()[..], &size.to_le_bytes(), &start.to_le_bytes()].concat();
        let locator = [&b"PK\x06\x07\0\0\0\0"[..], &(end as u64).to_le_bytes(), &[1, 0, 0, 0]].concat();
        let last = [&b"PK\x05\x06\0\0\0\0"[..], &[0xff; 12], &[0, 0]].concat();
        [&good[..end], &record, &locator, &last].concat()
    };
    let count = u64::from(good[end + 10]);
    assert_eq!(open(&wide(count, size, start)).unwrap().tensors.len(), 2);
    refuse(&wide(u64::MAX, size, start), &["number of members", "over the limit"]);
    refuse(&wide(count, u64::MAX, start), &["beyond the end"]);
    refuse(&wide(count, size, u64::MAX), &["beyond the end"]);
    refuse(&wide(count + 1, size, start), &["cut off or broken"]);
}

#[test]
fn windows_that_leave_their_storage_are_refused() {
    assert!(open(&window(12, 0, &[3, 4], &[4, 1])).is_ok());
    for (count, offset, size, stride, part) in [
        (12, 1, &[3, 4][..], &[4, 1][..], "reaches byte 52"),
        (12, 0, &[3, 4], &[5, 1], "reaches byte 56"),
        (13, 0, &[12], &[1], "52 bytes is 48 bytes long"),
        (1 << 30, 0, &[1 << 30], &[1], "is 48 bytes long"),
        (12, 0, &[1 << 30, 1 << 30, 1 << 30], &[0, 0, 0], "overflows"),
        (12, 1 << 30, &[1], &[1], "reaches byte"),
        (12, 0, &[2, 2], &[1 << 30, 1 << 30], "reaches byte"),
    ] {
        refuse(&window(count, offset, size, stride), &["`t`", part]);
    }
    // One value a million times over is not more than one value to read.
    let expanded = open(&window(12, 0, &[1 << 20, 1 << 20], &[0, 0])).unwrap_err().to_string();
    assert!(expanded.contains("share bytes"), "{expanded}");
}

#[test]
fn many_tensors_on_the_same_bytes_are_refused() {
    let mut pickler = Pickler::begin();
    pickler.op(b"}(");
    for index in 0..10_000u64 {
        pickler.text(&format!("t{index}"));
        pickler.window("0", Dtype::F32, 1 << 20, index, &[(1 << 20) - 10_000], &[1]);
    }
    pickler.op(b"u.");
    refuse(&zipped(&pickler.bytes, &[("0", &vec![0; 4 << 20])]), &["share bytes"]);
}

#[test]
fn dictionaries_inside_dictionaries_are_followed_within_bounds() {
    // Eight levels, each with the one below under a hundred keys: 10^16 names for whoever follows them all.
    let mut pickler = Pickler::begin();
    pickler.op(b"}X\x01\x00\x00\x00t");
    pickler.tensor("0", Dtype::F32, &[12]);
    pickler.op(b"sr\0\0\0\0");
    for level in 0..8u8 {
        pickler.op(b"}(");
        for key in 0..100 {
            pickler.text(&format!("k{key}"));
            pickler.op(&[b"j", &(u32::from(level) * 1000).to_le_bytes()[..]].concat());
        }
        pickler.op(b"u");
        pickler.op(&[b"r", &((u32::from(level) + 1) * 1000).to_le_bytes()[..]].concat());
    }
    pickler.op(b".");
    let checkpoint = open(&zipped(&pickler.bytes, &[("0", FLOATS)])).unwrap();
    assert_eq!(checkpoint.tensors.len(), 1);
    assert_eq!(checkpoint.tensors[0].name, "k0.k0.k0.k0.k0.k0.k0.k0.t");
    assert!(checkpoint.findings.iter().any(|finding| finding.code == Code::FileLeftOut));
    // A dictionary in itself.
    assert_eq!(open(&zipped(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", &[])).unwrap().tensors.len(), 0);
    // A long prefix in front of many short keys.
    let mut pickler = Pickler::begin();
    pickler.op(b"}");
    pickler.text(&"p".repeat(1000));
    pickler.op(b"}(");
    (0..200_000).for_each(|key| {
        pickler.number(key);
        pickler.op(b"N");
    });
    pickler.op(b"us.");
    refuse(&zipped(&pickler.bytes, &[]), &["length of all tensors' names"]);
}

#[test]
fn legacy_files_that_torch_does_not_write_are_refused() {
    let good = legacy(&small());
    let at = |needle: &[u8]| good.windows(needle.len()).position(|window| window == needle).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    refuse(&with(5, b"x"), &["magic number"]);
    refuse(&with(18, &[0, 0]), &["version is not 1001"]);
    refuse(&with(at(b"little_endianq\x02\x88") + 15, b"\x89"), &["big-endian"]);
    let keys = good.len() - 2 * (8 + 48);
    refuse(&with(keys, &13u64.to_le_bytes()), &["storage `0` of 12 elements"]);
    refuse(&with(keys, &u64::MAX.to_le_bytes()), &["storage `0` of 12 elements"]);
    refuse(b"\x80\x02}.", &["magic number"]);
    refuse(b"not a pickle\n", &["broken pickle"]);
}

#[test]
fn pickles_that_hold_no_tensors_are_nothing_to_scan() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    fs::write(&path, zipped(b"\x80\x02}.", &[])).unwrap();
    let run = weightprint([Path::new("scan"), &path]);
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    refuse(&zipped(b"\x80\x02]K\x01a.", &[]), &["no dictionary of tensors"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_makes_it_panic(
        zipped in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = if zipped { zip(&small()) } else { legacy(&small()) };
        for (at, byte) in damage {
            *at.get_mut(&mut bytes) = byte;
        }
        let _ = open(&bytes);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = open(&bytes);
    }
}

#[test]
fn values_that_share_bytes_are_told_once_and_their_type_is_not_called_unknown() {
    let checkpoint = open(&window(12, 0, &[3, 3], &[1, 1])).unwrap();
    let told: Vec<(&str, &str)> =
        checkpoint.findings.iter().map(|finding| (finding.code.as_str(), finding.message.as_str())).collect();
    assert!(matches!(told[..], [("values-not-read", message)] if message.contains("`t`")), "{told:?}");
}
