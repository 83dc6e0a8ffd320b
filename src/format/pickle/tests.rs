use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// What `pickle.dumps({"a": [1, -2, 3.5, None, True, "ä"], "b": (70000, 2**40, 2**70), 7: b"x"}, protocol)` of
/// CPython 3.11 gives.
const PROTOCOLS: [&[u8]; 6] = [
    b"(dp0\nVa\np1\n(lp2\nI1\naI-2\naF3.5\naNaI01\naV\xe4\np3\nasVb\np4\n(I70000\nL1099511627776L\nL1180591620717411303424L\ntp5\nsI7\nc_codecs\nencode\np6\n(Vx\np7\nVlatin1\np8\ntp9\nRp10\ns.",
    b"}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\x00\x00\x00\x00NI01\nX\x02\x00\x00\x00\xc3\xa4q\x03eX\x01\x00\x00\x00bq\x04(Jp\x11\x01\x00L1099511627776L\nL1180591620717411303424L\ntq\x05K\x07c_codecs\nencode\nq\x06(X\x01\x00\x00\x00xq\x07X\x06\x00\x00\x00latin1q\x08tq\tRq\nu.",
    b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\x00\x00\x00\x00N\x88X\x02\x00\x00\x00\xc3\xa4q\x03eX\x01\x00\x00\x00bq\x04Jp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@\x87q\x05K\x07c_codecs\nencode\nq\x06X\x01\x00\x00\x00xq\x07X\x06\x00\x00\x00latin1q\x08\x86q\tRq\nu.",
    b"\x80\x03}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\x00\x00\x00\x00N\x88X\x02\x00\x00\x00\xc3\xa4q\x03eX\x01\x00\x00\x00bq\x04Jp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@\x87q\x05K\x07C\x01xq\x06u.",
    b"\x80\x04\x95H\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\x00\x00\x00\x00N\x88\x8c\x02\xc3\xa4\x94e\x8c\x01b\x94Jp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@\x87\x94K\x07C\x01x\x94u.",
    b"\x80\x05\x95H\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\x00\x00\x00\x00N\x88\x8c\x02\xc3\xa4\x94e\x8c\x01b\x94Jp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@\x87\x94K\x07C\x01x\x94u.",
];

fn entry(pickle: &Pickle<'_>, name: &str) -> Value {
    let entries = pickle.dict(pickle.root).expect("a dictionary");
    entries.iter().find(|(key, _)| pickle.key(*key).is_some_and(|key| key == name)).expect("the key").1
}

fn broken(bytes: &[u8]) -> String {
    match load(bytes).unwrap_err().why {
        Why::Broken(what) => what,
        other => panic!("{other:?}"),
    }
}

/// The limit that is hit, in less than a second.
fn over(bytes: &[u8]) -> &'static str {
    let begin = Instant::now();
    let fault = load(bytes).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    match fault.why {
        Why::Over { what, .. } => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_protocol_gives_the_same_values() {
    for (protocol, bytes) in PROTOCOLS.into_iter().enumerate() {
        let pickle = load(bytes).unwrap_or_else(|fault| panic!("protocol {protocol}: {fault:?}"));
        assert_eq!(pickle.len, bytes.len());
        assert!(pickle.refused.is_empty(), "protocol {protocol}");
        let [one, two, fraction, none, yes, Value::Text(text)] = *pickle.items(entry(&pickle, "a")).unwrap() else {
            panic!("protocol {protocol}");
        };
        assert_eq!((one, two, fraction), (Value::Int(1), Value::Int(-2), Value::Float(3.5)));
        assert_eq!((none, yes, pickle.text(text)), (Value::None, Value::Bool(true), "ä"));
        let [small, large, wide] = *pickle.items(entry(&pickle, "b")).unwrap() else { panic!("protocol {protocol}") };
        assert_eq!((small, large), (Value::Int(70_000), Value::Int(1 << 40)));
        assert!(matches!(pickle.node(wide), Some(Node::Wide(bytes)) if i128::from_le_bytes(*bytes) == 1 << 70));
        assert_eq!(entry(&pickle, "7"), Value::Opaque, "bytes under a key that is a number");
    }
}

#[test]
fn a_pickle_cut_off_anywhere_says_so() {
    for bytes in PROTOCOLS {
        for len in 0..bytes.len() {
            let fault = load(&bytes[..len]).unwrap_err();
            // A frame that reaches beyond the end and a text opcode without its line are both noticed.
            assert_eq!(fault.why, Why::CutOff, "{len}");
        }
    }
}

#[test]
fn calls_are_refused_whatever_opcode_makes_them() {
    let calls: [(&str, &[u8]); 6] = [
        ("REDUCE", b"cos\nsystem\n(S'id'\ntR."),
        ("REDUCE of STACK_GLOBAL", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R."),
        ("INST", b"(S'id'\nios\nsystem\n."),
        ("OBJ", b"(cos\nsystem\nS'id'\no."),
        ("a name out of the memo", b"cos\nsystem\np0\n0g0\n(S'id'\ntR."),
        ("called twice over", b"cos\nsystem\n(tR(tR."),
    ];
    for (what, bytes) in calls {
        let pickle = load(bytes).unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
        assert_eq!(pickle.root, Value::Refused(0), "{what}");
        assert_eq!(pickle.refused.len(), 1, "{what}");
        assert_eq!((pickle.refused[0].name.as_str(), pickle.refused[0].called), ("os.system", true), "{what}");
    }
    // What a refused call would have given may be filled as Python would fill it; it stays refused.
    let pickle = load(b"cx\ny\n)R(K\x01K\x02u}bK\x03aK\x01K\x02s.").unwrap();
    assert_eq!(pickle.root, Value::Refused(0));
    let pickle = load(b"\x80\x02\x82\x07)R.").unwrap();
    assert_eq!(pickle.refused[0].name, "extension 7");
    // A name that is listed in another module is another name.
    let pickle = load(b"cevil\n_rebuild_tensor_v2\n)R.").unwrap();
    assert_eq!(pickle.refused[0].name, "evil._rebuild_tensor_v2");
}

#[test]
fn objects_of_unknown_classes_are_their_attributes_and_nothing_else() {
    let pickles: [(&str, &[u8]); 4] = [
        ("NEWOBJ", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85\x81}K\x01K\x02sb."),
        ("NEWOBJ_EX", b"\x80\x04cos\nsystem\n\x8c\x02id\x85}\x92}K\x01K\x02sb."),
        ("with slots", b"\x80\x02cos\nsystem\n)\x81}K\x01K\x02s}\x86b."),
        ("filled like a container", b"\x80\x02cos\nsystem\n)\x81K\x03aK\x03K\x04s}K\x01K\x02sb."),
    ];
    for (what, bytes) in pickles {
        let pickle = load(bytes).unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
        assert_eq!(pickle.attributes(pickle.root), Some(&[(Value::Int(1), Value::Int(2))][..]), "{what}");
        let refusal = &pickle.refused[0];
        assert_eq!((refusal.name.as_str(), refusal.called, refusal.built), ("os.system", false, true), "{what}");
    }
    // Attributes of what is listed are not kept, and an object of a refused result is refused.
    assert_eq!(load(b"\x80\x02ctorch\ndevice\n)\x81}b.").unwrap().root, Value::Opaque);
    let pickle = load(b"\x80\x02cx\ny\n)R)\x81.").unwrap();
    assert!(pickle.refused[0].called && pickle.attributes(pickle.root).is_none());
}

#[test]
fn names_that_are_only_named_are_told_apart_from_calls() {
    let pickle = load(b"\x80\x02]cos\nsystem\na.").unwrap();
    assert!(!pickle.refused[0].called);
}

#[test]
fn doubling_through_the_memo_costs_nothing() {
    // 60 levels of a list that holds the one before twice: 2^60 values for whoever copies them.
    let mut bytes = b"\x80\x02]q\x00".to_vec();
    for level in 1..60u8 {
        bytes.extend([b']', b'q', level, b'(', b'h', level - 1, b'h', level - 1, b'e']);
    }
    bytes.push(b'.');
    let begin = Instant::now();
    let pickle = load(&bytes).unwrap();
    assert!(begin.elapsed() < Duration::from_millis(100));
    assert_eq!(pickle.items(pickle.root).unwrap().len(), 2);
}

#[test]
fn the_memo_has_places_near_and_far() {
    // Kept at 9, 0, 1, …, 9 again; then what is at 9, 1 and 10.
    let fill: Vec<u8> = (0..10).flat_map(|at| [b'K', 100 + at, b'q', at, b'0']).collect();
    let bytes = [&b"K\x07q\x090"[..], &fill, b"K\x08q\x010K\x63\x940h\x09h\x01h\x0a\x87."].concat();
    let pickle = load(&bytes).unwrap();
    let numbers = [Value::Int(109), Value::Int(8), Value::Int(99)];
    assert_eq!(pickle.items(pickle.root), Some(&numbers[..]));
    assert!(broken(b"K\x07q\x09h\x00.").contains("nothing is kept"));
}

#[test]
fn a_list_may_hold_itself() {
    let pickle = load(b"]q\x00h\x00a.").unwrap();
    assert_eq!(pickle.items(pickle.root), Some(&[pickle.root][..]));
}

#[test]
fn a_million_nested_tuples_are_flat_to_us() {
    let mut bytes = b")".to_vec();
    bytes.resize(1_000_001, 0x85);
    bytes.push(b'.');
    let begin = Instant::now();
    drop(load(&bytes).unwrap());
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(over(&[b"(".repeat(1_000_000), b"t".repeat(1_000_000)].concat()), "number of marks on a pickle's stack");
}

#[test]
fn ceilings_hold_for_what_short_opcodes_pile_up() {
    assert_eq!(over(&b"N".repeat(2_000_000)), "height of a pickle's stack");
    assert_eq!(over(&b"]0".repeat(5_000_000)), "number of values in a pickle");
    assert_eq!(over(&b"]\x940".repeat(5_000_000)), "number of values in a pickle");
    let names = [&b"]"[..], &b"X\x01\x00\x00\x00aa".repeat(5_000_000)].concat();
    assert_eq!(over(&names), "number of values in a pickle");
    // One list of 100,000 items, made into a dictionary again and again.
    let pairs = [&b"]("[..], &b"N".repeat(100_000), b"e\x85\x940ccollections\nOrderedDict\n\x940"].concat();
    assert_eq!(over(&[&pairs[..], &b"h\x01h\x00R0".repeat(1_000_000)].concat()), "number of values in a pickle");
    // One long text, named as a function a million times.
    let long = [&b"X\x40\x42\x0f\x00"[..], &vec![b'a'; 1_000_000], b"\x94"].concat();
    assert_eq!(over(&[&long[..], &b"h\x00\x93".repeat(1_000_000)].concat()), "length of a function's name in bytes");
}

#[test]
fn lengths_are_held_against_the_bytes_that_are_there() {
    let lengths: [&[u8]; 10] = [
        b"X\xff\xff\xff\xffa.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
        b"\x8d\x00\x00\x00\x00\x00\x00\x00\x80a.",
        b"B\xff\xff\xff\xffa.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\xffa.",
        b"\x8b\xff\xff\xff\x7fa.",
        b"\x8a\xffa.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"U\xffa.",
    ];
    for bytes in lengths {
        assert_eq!(load(bytes).unwrap_err().why, Why::CutOff, "{bytes:?}");
    }
    assert_eq!(broken(b"\x8b\xff\xff\xff\xffa."), "a length of -1");
    assert_eq!(broken(b"T\x00\x00\x00\x80a."), "a length of -2147483648");
}

#[test]
fn what_breaks_the_format_is_refused() {
    for (bytes, part) in [
        (&b"."[..], "the stack is empty"),
        (b"t.", "no mark"),
        (b"(R.", "the stack is empty"),
        (b"NN(.", "the stack is empty"),
        (b"h\x00.", "nothing is kept"),
        (b"}NNNe.", "no mark"),
        (b"}(Nu.", "a key without a value"),
        (b"]NNs.", "no dictionary"),
        (b"}Na.", "no list"),
        (b"\x80\x06.", "protocol 6"),
        (b"\xff.", "0xff is no opcode"),
        (b"(o.", "an object without a class"),
        (b"NN\x93.", "not text"),
        (b"I1x\n.", "a number that is none"),
        (b"S'a\n.", "without quotes"),
        (b"gx\n.", "no number"),
    ] {
        assert!(broken(bytes).contains(part), "{bytes:?}: {}", broken(bytes));
    }
}

/// A rebuilt tensor from a storage of 12 floats, with these bytes for offset, size and stride.
fn tensor(arguments: &[u8]) -> Vec<u8> {
    let storage = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x0ctQ";
    [&b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"[..], storage, arguments, b"\x89NtR."].concat()
}

#[test]
fn tensors_are_windows_on_storages() {
    let bytes = tensor(b"K\x02K\x03K\x02\x86K\x02K\x01\x86");
    let pickle = load(&bytes).unwrap();
    let Some(Node::Tensor(found)) = pickle.node(pickle.root) else { panic!("{:?}", pickle.root) };
    assert_eq!((found.offset, &found.size[..], &found.stride[..]), (2, &[3, 2][..], &[2, 1][..]));
    assert_eq!((found.element.name, found.storage.count, pickle.text(found.storage.key)), ("F32", 12, "0"));
    for (arguments, part) in [
        (&b"J\xff\xff\xff\xffK\x03\x85K\x01\x85"[..], "offset -1"),
        (b"K\x00J\xff\xff\xff\xff\x85K\x01\x85", "whole numbers from 0 on"),
        (b"K\x00K\x03\x85K\x01K\x01\x86", "1 dimensions with 2 strides"),
        (b"K\x00NK\x01\x85", "size is no tuple"),
        (b"K\x00(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t)", "9 dimensions"),
        (b"NK\x03\x85K\x01\x85", "offset is no number"),
    ] {
        assert!(broken(&tensor(arguments)).contains(part), "{part}: {}", broken(&tensor(arguments)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = load(&bytes);
    }

    #[test]
    fn no_opcodes_make_it_panic(
        opcodes in prop::collection::vec(prop::sample::select(OPCODES.to_vec()), 0..60),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes: Vec<u8> = opcodes.concat();
        for (at, byte) in damage {
            if !bytes.is_empty() {
                *at.get_mut(&mut bytes) = byte;
            }
        }
        bytes.push(b'.');
        let _ = load(&bytes);
    }
}

/// Opcodes with plausible arguments.
const OPCODES: [&[u8]; 48] = [
    b"(",
    b"0",
    b"1",
    b"2",
    b"N",
    b"\x88",
    b"I7\n",
    b"L7L\n",
    b"K\x01",
    b"M\x01\x00",
    b"J\x01\x00\x00\x00",
    b"\x8a\x01\x07",
    b"F1.5\n",
    b"G\0\0\0\0\0\0\0\0",
    b"S'a'\n",
    b"Vb\n",
    b"U\x01c",
    b"X\x01\x00\x00\x00d",
    b"C\x01e",
    b")",
    b"\x85",
    b"\x86",
    b"\x87",
    b"t",
    b"]",
    b"l",
    b"}",
    b"d",
    b"a",
    b"e",
    b"s",
    b"u",
    b"\x8f",
    b"\x90",
    b"\x91",
    b"h\x00",
    b"q\x00",
    b"\x94",
    b"cos\nsystem\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"R",
    b"b",
    b"Q",
    b"X\x07\x00\x00\x00storage",
    b"o",
];
