//! The functions and classes that pickles of PyTorch checkpoints name, as far as they are known to build plain data.
//!
//! The list is closed. A name that is not on it is never looked up anywhere.

/// The type of a storage's or tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Element {
    /// As safetensors spells it.
    pub(crate) name: &'static str,
    /// Bytes of one.
    pub(crate) bytes: u64,
}

/// What a known function or class builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    /// A dictionary, empty or from a list of pairs.
    OrderedDict,
    /// A dictionary; its argument is a factory that is not called.
    DefaultDict,
    /// `torch._utils._rebuild_tensor`: storage, offset, size, stride.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v2`: the same and whether gradients are wanted, hooks, metadata.
    RebuildTensorV2,
    /// `torch._utils._rebuild_tensor_v3`: the same with an element type in front of the metadata.
    RebuildTensorV3,
    /// `torch._utils._rebuild_qtensor`: storage, offset, size, stride, and a tuple of scheme, scales and zero points.
    RebuildQuantised,
    /// A scheme of quantised tensors; whether it has scales along an axis.
    Scheme { along: bool },
    /// `torch._utils._rebuild_parameter`: the tensor that is its first argument.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`: function, class, arguments, state.
    RebuildFromType,
    /// A class of storages.
    Storage(Element),
    /// An element type, such as `torch.float8_e4m3fn`.
    Element(Element),
    /// The tuple that is its argument: `torch.Size`.
    Size,
    /// A set, kept as the list that is its argument.
    Set,
    /// A class whose objects hold settings, not weights: known to be harmless, and opaque.
    Inert,
}

const fn element(name: &'static str, bytes: u64) -> Element {
    Element { name, bytes }
}

/// Storages without a type of their own; sizes count bytes.
const UNTYPED: Element = element("U8", 1);

const STORAGES: [(&str, Element); 20] = [
    ("UntypedStorage", UNTYPED),
    ("DoubleStorage", element("F64", 8)),
    ("FloatStorage", element("F32", 4)),
    ("HalfStorage", element("F16", 2)),
    ("BFloat16Storage", element("BF16", 2)),
    ("LongStorage", element("I64", 8)),
    ("IntStorage", element("I32", 4)),
    ("ShortStorage", element("I16", 2)),
    ("CharStorage", element("I8", 1)),
    ("ByteStorage", element("U8", 1)),
    ("BoolStorage", element("BOOL", 1)),
    ("ComplexFloatStorage", element("C64", 8)),
    ("ComplexDoubleStorage", element("C128", 16)),
    ("QUInt8Storage", element("QUINT8", 1)),
    ("QInt8Storage", element("QINT8", 1)),
    ("QInt32Storage", element("QINT32", 4)),
    ("QUInt4x2Storage", element("QUINT4X2", 1)),
    ("QUInt2x4Storage", element("QUINT2X4", 1)),
    ("Float8_e4m3fnStorage", element("F8_E4M3", 1)),
    ("Float8_e5m2Storage", element("F8_E5M2", 1)),
];

const ELEMENTS: [(&str, Element); 22] = [
    ("float64", element("F64", 8)),
    ("float32", element("F32", 4)),
    ("float16", element("F16", 2)),
    ("half", element("F16", 2)),
    ("bfloat16", element("BF16", 2)),
    ("int64", element("I64", 8)),
    ("int32", element("I32", 4)),
    ("int16", element("I16", 2)),
    ("int8", element("I8", 1)),
    ("uint8", element("U8", 1)),
    ("uint16", element("U16", 2)),
    ("uint32", element("U32", 4)),
    ("uint64", element("U64", 8)),
    ("bool", element("BOOL", 1)),
    ("complex64", element("C64", 8)),
    ("complex128", element("C128", 16)),
    ("float8_e4m3fn", element("F8_E4M3", 1)),
    ("float8_e5m2", element("F8_E5M2", 1)),
    ("float8_e4m3fnuz", element("F8_E4M3FNUZ", 1)),
    ("float8_e5m2fnuz", element("F8_E5M2FNUZ", 1)),
    ("float8_e8m0fnu", element("F8_E8M0", 1)),
    ("float4_e2m1fn_x2", element("F4", 1)),
];

/// Classes and functions that turn up in honest checkpoints beside the weights and hold none.
const INERT: [(&str, &str); 18] = [
    ("torch", "device"),
    ("torch", "Generator"),
    ("torch.serialization", "_get_layout"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"),
    ("argparse", "Namespace"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
    ("_io", "BytesIO"),
    ("datetime", "datetime"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib", "PureWindowsPath"),
];

/// Functions of TorchScript that give their first argument back.
const SCRIPT: [&str; 5] =
    ["build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"];

impl Global {
    /// What `module.name` is, if it is listed.
    pub(crate) fn find(module: &str, name: &str) -> Option<Self> {
        let among = |list: &[(&str, Element)]| list.iter().find(|(known, _)| *known == name).map(|(_, found)| *found);
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("collections", "defaultdict") => Some(Self::DefaultDict),
            ("builtins" | "__builtin__", "dict") => Some(Self::OrderedDict),
            ("builtins" | "__builtin__", "set" | "frozenset") => Some(Self::Set),
            ("builtins" | "__builtin__", "bytearray" | "complex" | "int" | "float" | "list") => Some(Self::Inert),
            // What TorchScript puts around lists and dictionaries to keep their types.
            ("torch.jit._pickle", name) if SCRIPT.contains(&name) => Some(Self::Size),
            ("torch._utils", "_rebuild_tensor") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensorV2),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTensorV3),
            ("torch._utils", "_rebuild_qtensor") => Some(Self::RebuildQuantised),
            ("torch", "per_tensor_affine" | "per_tensor_symmetric") => Some(Self::Scheme { along: false }),
            ("torch", "per_channel_affine" | "per_channel_symmetric" | "per_channel_affine_float_qparams") => {
                Some(Self::Scheme { along: true })
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Some(Self::RebuildParameter),
            ("torch._tensor", "_rebuild_from_type_v2") => Some(Self::RebuildFromType),
            ("torch.nn.parameter", "Parameter" | "Buffer") | ("torch", "Tensor") => Some(Self::Inert),
            ("torch", "Size") => Some(Self::Size),
            ("torch" | "torch.storage" | "torch.cuda", _) if name.ends_with("Storage") => {
                among(&STORAGES).map(Self::Storage)
            }
            _ if INERT.contains(&(module, name)) => Some(Self::Inert),
            ("torch", _) => among(&ELEMENTS).map(Self::Element),
            _ => None,
        }
    }
}
