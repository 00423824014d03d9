//! What a pickle says, without doing what it says.
//!
//! A pickle is a program for a stack machine that may call anything by name.
//! This machine knows the opcodes that `torch.save` writes (protocols 2 to 5) and a fixed list of
//! names, each of which stands for a tensor, a container or a word; whatever else is named is an
//! error, and nothing is ever called.

use std::collections::HashMap;

use super::tensor::{Dtype, Extent, Tensor, whole};

/// Values on the stack, in containers and in the result together: a pickle can name one list a
/// thousand times in a thousand places.
const MAX_VALUES: usize = 1 << 22;
/// How deep containers may lie in containers.
const MAX_DEPTH: usize = 64;
const MAX_DIMENSIONS: usize = 8;

/// What a pickle holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Plain {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    /// A list, a tuple or a set.
    List(Vec<Plain>),
    /// In the order of the file; a later entry replaces an earlier one of the same key.
    Dict(Vec<(Plain, Plain)>),
    Tensor(Box<Tensor>),
    /// A word without a value here: a type, or what an inert name would have made.
    Opaque(String),
}

impl Plain {
    /// What an error calls it.
    pub(super) fn kind(&self) -> String {
        match self {
            Self::None => "None".to_owned(),
            Self::Bool(_) => "a bool".to_owned(),
            Self::Int(_) => "a whole number".to_owned(),
            Self::Float(_) => "a number".to_owned(),
            Self::Str(_) => "a string".to_owned(),
            Self::Bytes(_) => "bytes".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Dict(_) => "a dict".to_owned(),
            Self::Tensor(_) => "a tensor".to_owned(),
            Self::Opaque(name) => format!("`{name}`"),
        }
    }

    /// The value under a key of a dict.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dict(entries) = self else {
            return None;
        };
        let is_it = |found: &Self| matches!(found, Self::Str(found) if found == key);
        (entries.iter().rev()).find_map(|(found, value)| is_it(found).then_some(value))
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// A whole number that is not negative, also where it is held as a float.
    pub(super) fn as_count(&self) -> Option<u64> {
        match self {
            Self::Int(n) => u64::try_from(*n).ok(),
            Self::Float(x) => whole(*x).and_then(|n| u64::try_from(n).ok()),
            _ => None,
        }
    }
}

/// Finds the bytes of a storage by its key.
pub(super) type Storages<'a> = dyn Fn(&str) -> Option<Extent> + 'a;

/// What a pickle may name.
#[derive(Clone, Copy, Default)]
pub(super) struct Known<'a> {
    /// The storages of the archive that the pickle lies in; without them there are no tensors.
    pub(super) storages: Option<&'a Storages<'a>>,
    /// Whether paths and NumPy arrays may be there, as in a trainer's state; they are passed over.
    pub(super) inert: bool,
}

/// What a pickle holds.
///
/// # Errors
/// In words, when it is cut short, damaged, names what is not known or holds too much.
pub(super) fn read(bytes: &[u8], known: &Known<'_>) -> Result<Plain, String> {
    let mut machine = Machine {
        rest: bytes,
        known,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        nodes: Vec::new(),
        n_values: 0,
    };
    let item = machine.run()?;
    // What is shared is repeated, and a pickle of a few bytes can share as often as it likes.
    let mut budget = bytes
        .len()
        .saturating_mul(16)
        .saturating_add(4096)
        .min(MAX_VALUES);
    machine.plain(item, MAX_DEPTH, &mut budget)
}

/// A name that a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Global {
    /// `(storage, offset, size, stride, …)`
    RebuildTensor,
    /// `(storage, offset, size, stride, requires_grad, hooks, dtype, …)`
    RebuildTypedTensor,
    /// `(tensor, requires_grad, hooks)`
    RebuildParameter,
    OrderedDict,
    Size,
    /// Elements of a storage; `None` for bytes whose type the tensor says.
    StorageType(Option<Dtype>),
    Dtype(Dtype),
    Inert(&'static str),
}

/// What a trainer's state holds besides; nothing here needs its value.
const INERT: &[&str] = &[
    "_codecs.encode",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePath",
    "pathlib.PurePosixPath",
    "pathlib._local.Path",
    "pathlib._local.PosixPath",
    "torch.device",
];

impl Global {
    fn named(module: &str, name: &str, known: &Known<'_>) -> Result<Self, String> {
        if known.storages.is_some() {
            match (module, name) {
                ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
                    return Ok(Self::RebuildTensor);
                }
                ("torch._utils", "_rebuild_tensor_v3") => return Ok(Self::RebuildTypedTensor),
                ("torch._utils", "_rebuild_parameter") => return Ok(Self::RebuildParameter),
                ("torch.storage", "UntypedStorage") => return Ok(Self::StorageType(None)),
                ("torch", name) if storage_dtype(name).is_some() => {
                    return Ok(Self::StorageType(storage_dtype(name)));
                }
                ("torch", name) if torch_dtype(name).is_some() => {
                    return Ok(Self::Dtype(torch_dtype(name).expect("it was just found")));
                }
                ("torch", "Size") => return Ok(Self::Size),
                _ => {}
            }
        }
        if (module, name) == ("collections", "OrderedDict") {
            return Ok(Self::OrderedDict);
        }
        let full = format!("{module}.{name}");
        match INERT.iter().find(|inert| **inert == full) {
            Some(inert) if known.inert => Ok(Self::Inert(inert)),
            _ => Err(format!(
                "it names `{}`; only tensors and plain containers are read, and nothing was \
                 executed",
                printable(&full)
            )),
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Dtype(dtype) => dtype.name().to_owned(),
            Self::Inert(name) => name.to_owned(),
            other => format!("{other:?}"),
        }
    }
}

fn storage_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        _ => return None,
    })
}

fn torch_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float8_e4m3fn" => Dtype::F8E4M3,
        "float8_e5m2" => Dtype::F8E5M2,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        _ => return None,
    })
}

/// A name from a file, fit for one line of an error.
fn printable(name: &str) -> String {
    let shown = name.chars().take(80);
    shown
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A value on the stack; what does not fit it lies in a node.
#[derive(Clone, Copy, Debug)]
enum Item {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Global(Global),
    Node(usize),
}

#[derive(Debug)]
enum Node<'a> {
    Str(&'a str),
    Bytes(&'a [u8]),
    List(Vec<Item>),
    Tuple(Vec<Item>),
    Dict(Vec<(Item, Item)>),
    Storage(Option<Dtype>, Extent),
    Tensor(Box<Tensor>),
    Opaque(String),
}

struct Machine<'a, 'k> {
    rest: &'a [u8],
    known: &'k Known<'k>,
    stack: Vec<Item>,
    /// Heights of the stack to which an opcode cuts it back.
    marks: Vec<usize>,
    memo: HashMap<u32, Item>,
    nodes: Vec<Node<'a>>,
    n_values: usize,
}

type Outcome<T> = Result<T, String>;

fn damaged<T>(what: &str) -> Outcome<T> {
    Err(format!("its pickle is damaged: {what}"))
}

impl<'a> Machine<'a, '_> {
    fn run(&mut self) -> Outcome<Item> {
        loop {
            match self.byte()? {
                // PROTO
                0x80 => match self.byte()? {
                    2..=5 => {}
                    other => return Err(format!("its pickle has the unknown protocol {other}")),
                },
                // FRAME: how much to read ahead.
                0x95 => _ = self.take(8)?,
                b'.' => return self.pop(),
                b'(' => {
                    self.count()?;
                    self.marks.push(self.stack.len());
                }
                b'0' => _ = self.pop()?,
                b'1' => _ = self.pop_to_mark()?,
                b'2' => {
                    let top = self.top()?;
                    self.push(top)?;
                }
                b'N' => self.push(Item::None)?,
                0x88 => self.push(Item::Bool(true))?,
                0x89 => self.push(Item::Bool(false))?,
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Item::Int(value.into()))?;
                }
                b'K' => {
                    let value = self.byte()?;
                    self.push(Item::Int(value.into()))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.push(Item::Int(value.into()))?;
                }
                0x8a => {
                    let n = self.byte()?.into();
                    self.long(n)?;
                }
                0x8b => {
                    let n = self.length_32()?;
                    self.long(n)?;
                }
                b'G' => {
                    let value = f64::from_be_bytes(self.array()?);
                    self.push(Item::Float(value))?;
                }
                b'X' => {
                    let n = self.length_32()?;
                    self.string(n)?;
                }
                0x8c => {
                    let n = self.byte()?.into();
                    self.string(n)?;
                }
                0x8d => {
                    let n = self.length_64()?;
                    self.string(n)?;
                }
                // Bytes, and Python 2's strings.
                b'C' | b'U' => {
                    let n = self.byte()?.into();
                    self.bytes(n)?;
                }
                b'B' | b'T' => {
                    let n = self.length_32()?;
                    self.bytes(n)?;
                }
                0x8e | 0x96 => {
                    let n = self.length_64()?;
                    self.bytes(n)?;
                }
                b']' | 0x8f => self.push_node(Node::List(Vec::new()))?,
                b')' => self.push_node(Node::Tuple(Vec::new()))?,
                b'}' => self.push_node(Node::Dict(Vec::new()))?,
                b'l' | 0x91 => {
                    let items = self.pop_to_mark()?;
                    self.push_node(Node::List(items))?;
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push_node(Node::Tuple(items))?;
                }
                opcode @ 0x85..=0x87 => {
                    let from = self.stack.len().checked_sub(usize::from(opcode - 0x84));
                    let Some(from) = from.filter(|&from| from >= self.floor()) else {
                        return damaged("it takes a value from an empty stack");
                    };
                    let items = self.stack.split_off(from);
                    self.push_node(Node::Tuple(items))?;
                }
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.push_node(Node::Dict(Vec::new()))?;
                    self.set_items(&items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(&items)?;
                }
                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    let global = Global::named(module, name, self.known)?;
                    self.push(Item::Global(global))?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Some(module), Some(name)) = (self.text(module), self.text(name)) else {
                        return damaged("a name is not a string");
                    };
                    let global = Global::named(module, name, self.known)?;
                    self.push(Item::Global(global))?;
                }
                // REDUCE, NEWOBJ
                b'R' | 0x81 => {
                    let arguments = self.pop()?;
                    let callable = self.pop()?;
                    self.make(callable, arguments)?;
                }
                b'b' => self.build()?,
                b'q' => {
                    let key = self.byte()?.into();
                    self.memorise(key)?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.memorise(key)?;
                }
                0x94 => {
                    let key = self.memo.len() as u32;
                    self.memorise(key)?;
                }
                b'h' => {
                    let key = self.byte()?.into();
                    self.recall(key)?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.recall(key)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.storage(id)?;
                }
                other => {
                    return Err(format!(
                        "its pickle has the opcode {other:#04x}, which `torch.save` does not write"
                    ));
                }
            }
        }
    }

    fn take(&mut self, n: usize) -> Outcome<&'a [u8]> {
        match self.rest.split_at_checked(n) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => damaged("it is cut short"),
        }
    }

    fn byte(&mut self) -> Outcome<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many bytes as taken"))
    }

    fn length_32(&mut self) -> Outcome<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn length_64(&mut self) -> Outcome<usize> {
        let n = u64::from_le_bytes(self.array()?);
        usize::try_from(n).or_else(|_| damaged("it is cut short"))
    }

    fn line(&mut self) -> Outcome<&'a str> {
        let Some(n) = self.rest.iter().position(|&byte| byte == b'\n') else {
            return damaged("it is cut short");
        };
        let line = self.take(n)?;
        self.take(1)?;
        std::str::from_utf8(line).or_else(|_| damaged("a name is not text"))
    }

    fn count(&mut self) -> Outcome<()> {
        self.count_all(1)
    }

    fn count_all(&mut self, n: usize) -> Outcome<()> {
        self.n_values += n;
        match self.n_values <= MAX_VALUES {
            true => Ok(()),
            false => Err(format!("its pickle makes more than {MAX_VALUES} values")),
        }
    }

    fn push(&mut self, item: Item) -> Outcome<()> {
        self.count()?;
        self.stack.push(item);
        Ok(())
    }

    fn push_node(&mut self, node: Node<'a>) -> Outcome<()> {
        self.nodes.push(node);
        self.push(Item::Node(self.nodes.len() - 1))
    }

    fn long(&mut self, n: usize) -> Outcome<()> {
        let bytes = self.take(n)?;
        if n > 8 {
            // Nothing here counts that far; the seeds of a generator do.
            return self.push_node(Node::Opaque("int of more than 64 bits".to_owned()));
        }
        let is_negative = bytes.last().is_some_and(|&byte| byte & 0x80 != 0);
        let mut le = [if is_negative { 0xff } else { 0 }; 8];
        le[..n].copy_from_slice(bytes);
        self.push(Item::Int(i64::from_le_bytes(le)))
    }

    fn string(&mut self, n: usize) -> Outcome<()> {
        let bytes = self.take(n)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push_node(Node::Str(text)),
            Err(_) => damaged("a string is not UTF-8"),
        }
    }

    fn bytes(&mut self, n: usize) -> Outcome<()> {
        let bytes = self.take(n)?;
        self.push_node(Node::Bytes(bytes))
    }

    /// How far down the stack may be taken from.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Outcome<Item> {
        match self.stack.last() {
            Some(&item) if self.stack.len() > self.floor() => Ok(item),
            _ => damaged("it takes a value from an empty stack"),
        }
    }

    fn pop(&mut self) -> Outcome<Item> {
        let item = self.top()?;
        self.stack.pop();
        Ok(item)
    }

    fn pop_to_mark(&mut self) -> Outcome<Vec<Item>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => damaged("it goes back to a mark that it did not set"),
        }
    }

    fn memorise(&mut self, key: u32) -> Outcome<()> {
        let top = self.top()?;
        self.count()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Outcome<()> {
        match self.memo.get(&key) {
            Some(&item) => self.push(item),
            None => damaged("it recalls what it did not remember"),
        }
    }

    fn node(&self, item: Item) -> Option<&Node<'a>> {
        match item {
            Item::Node(node) => Some(&self.nodes[node]),
            _ => None,
        }
    }

    fn text(&self, item: Item) -> Option<&'a str> {
        match self.node(item) {
            Some(Node::Str(text)) => Some(text),
            _ => None,
        }
    }

    fn tuple(&self, item: Item) -> Option<&[Item]> {
        match self.node(item) {
            Some(Node::Tuple(items)) => Some(items),
            _ => None,
        }
    }

    fn append(&mut self, items: Vec<Item>) -> Outcome<()> {
        match self.top()? {
            Item::Node(node) => match &mut self.nodes[node] {
                Node::List(list) => {
                    list.extend(items);
                    Ok(())
                }
                _ => damaged("it appends to what is no list"),
            },
            _ => damaged("it appends to what is no list"),
        }
    }

    fn set_items(&mut self, items: &[Item]) -> Outcome<()> {
        let (pairs, []) = items.as_chunks::<2>() else {
            return damaged("a key has no value");
        };
        match self.top()? {
            Item::Node(node) => match &mut self.nodes[node] {
                Node::Dict(dict) => {
                    dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
                    Ok(())
                }
                _ => damaged("it sets an item of what is no dict"),
            },
            _ => damaged("it sets an item of what is no dict"),
        }
    }

    /// An object's own state: what PyTorch keeps there (a state dict's versions) changes no value.
    fn build(&mut self) -> Outcome<()> {
        self.pop()?;
        let built = self.top()?;
        match self.node(built) {
            Some(Node::Dict(_) | Node::Opaque(_)) => Ok(()),
            _ => damaged("it sets the state of what has none"),
        }
    }

    /// What a name makes of its arguments.
    fn make(&mut self, callable: Item, arguments: Item) -> Outcome<()> {
        let (Item::Global(global), Some(arguments)) = (callable, self.tuple(arguments)) else {
            return damaged("it calls what is no name");
        };
        // No name takes more; a long tuple is not to be copied again and again.
        let arguments: Vec<Item> = arguments.iter().copied().take(8).collect();
        let misused = || format!("its pickle is damaged: {} is misused", global.describe());
        match (global, arguments.as_slice()) {
            (Global::OrderedDict, []) => self.push_node(Node::Dict(Vec::new())),
            (Global::OrderedDict, &[pairs]) => {
                let Some(Node::List(pairs)) = self.node(pairs) else {
                    return Err(misused());
                };
                let pairs: Option<Vec<(Item, Item)>> = (pairs.iter())
                    .map(|&pair| match self.node(pair) {
                        Some(Node::List(pair) | Node::Tuple(pair)) => match pair.as_slice() {
                            &[key, value] => Some((key, value)),
                            _ => None,
                        },
                        _ => None,
                    })
                    .collect();
                let pairs = pairs.ok_or_else(misused)?;
                self.count_all(pairs.len())?;
                self.push_node(Node::Dict(pairs))
            }
            (Global::Size, &[size]) => match self.node(size) {
                Some(Node::Tuple(_)) => self.push(size),
                _ => Err(misused()),
            },
            (Global::RebuildParameter, &[tensor, ..]) => match self.node(tensor) {
                Some(Node::Tensor(_)) => self.push(tensor),
                _ => Err(misused()),
            },
            // PyTorch adds a seventh argument for views that are negated or conjugated when read.
            (Global::RebuildTensor, &[_, _, _, _, _, _, _, ..]) => Err(
                "it holds a tensor that is negated or conjugated only when it is read; resolve it \
                 (`resolve_neg`, `resolve_conj`) and save again"
                    .to_owned(),
            ),
            (Global::RebuildTensor, &[storage, offset, size, stride, ..]) => {
                let tensor = self.tensor(storage, offset, size, stride, None)?;
                self.push_node(tensor)
            }
            (
                Global::RebuildTypedTensor,
                &[
                    storage,
                    offset,
                    size,
                    stride,
                    _,
                    _,
                    Item::Global(Global::Dtype(dtype)),
                    ..,
                ],
            ) => {
                let tensor = self.tensor(storage, offset, size, stride, Some(dtype))?;
                self.push_node(tensor)
            }
            (Global::Inert(name), _) => self.push_node(Node::Opaque(name.to_owned())),
            _ => Err(misused()),
        }
    }

    fn tensor(
        &self,
        storage: Item,
        offset: Item,
        size: Item,
        stride: Item,
        dtype: Option<Dtype>,
    ) -> Outcome<Node<'a>> {
        let Some(&Node::Storage(stored, extent)) = self.node(storage) else {
            return damaged("a tensor has no storage");
        };
        let Some(dtype) = dtype.or(stored) else {
            return damaged("a tensor has no type");
        };
        let count = |item: Item| match item {
            Item::Int(n) => usize::try_from(n).ok(),
            _ => None,
        };
        let counts = |items: Item| -> Option<Vec<usize>> {
            let items = self
                .tuple(items)
                .filter(|items| items.len() <= MAX_DIMENSIONS)?;
            items.iter().map(|&item| count(item)).collect()
        };
        let (Some(offset), Some(size), Some(stride)) =
            (count(offset), counts(size), counts(stride))
        else {
            return damaged("a tensor's place is not given in whole numbers");
        };
        let tensor = Tensor::new(dtype, size, stride, offset, extent)
            .map_err(|reason| format!("its pickle is damaged: a tensor of {reason}"))?;
        Ok(Node::Tensor(Box::new(tensor)))
    }

    /// `('storage', type, key, device, number of elements)`
    fn storage(&mut self, id: Item) -> Outcome<()> {
        let (Some(storages), Some(id)) = (self.known.storages, self.tuple(id)) else {
            return damaged("it refers to what lies outside");
        };
        let &[
            word,
            Item::Global(Global::StorageType(dtype)),
            key,
            _,
            Item::Int(n),
        ] = id
        else {
            return damaged("it refers to what lies outside");
        };
        let (Some("storage"), Some(key)) = (self.text(word), self.text(key)) else {
            return damaged("it refers to what lies outside");
        };
        let Some(mut extent) = storages(key) else {
            return Err(format!("the storage `{}` is not in it", printable(key)));
        };
        let size = dtype.map_or(1, Dtype::n_bytes) as u64;
        let n_bytes = u64::try_from(n).ok().and_then(|n| n.checked_mul(size));
        match n_bytes {
            Some(n_bytes) if n_bytes <= extent.n_bytes => extent.n_bytes = n_bytes,
            _ => {
                return Err(format!(
                    "the storage `{}` should have {n} elements of {size} bytes, but has {} bytes",
                    printable(key),
                    extent.n_bytes
                ));
            }
        }
        self.push_node(Node::Storage(dtype, extent))
    }

    /// An item with all that is in it; what is shared is repeated, and what holds itself is too
    /// deep.
    fn plain(&self, item: Item, depth: usize, budget: &mut usize) -> Outcome<Plain> {
        let cost = match self.node(item) {
            Some(Node::Str(text)) => 1 + text.len() / 16,
            Some(Node::Bytes(bytes)) => 1 + bytes.len() / 16,
            Some(Node::Tensor(tensor)) => 1 + tensor.shape.len(),
            _ => 1,
        };
        let left = budget.checked_sub(cost);
        *budget = left.ok_or_else(|| "its pickle holds one value in too many places".to_owned())?;
        let Some(deeper) = depth.checked_sub(1) else {
            return Err(format!("its containers lie more than {MAX_DEPTH} deep"));
        };
        let mut all = |items: &[Item]| -> Outcome<Vec<Plain>> {
            (items.iter())
                .map(|&item| self.plain(item, deeper, budget))
                .collect()
        };
        Ok(match item {
            Item::None => Plain::None,
            Item::Bool(value) => Plain::Bool(value),
            Item::Int(value) => Plain::Int(value),
            Item::Float(value) => Plain::Float(value),
            Item::Global(global) => Plain::Opaque(global.describe()),
            Item::Node(node) => match &self.nodes[node] {
                Node::Str(text) => Plain::Str((*text).to_owned()),
                Node::Bytes(bytes) => Plain::Bytes(bytes.to_vec()),
                Node::List(items) | Node::Tuple(items) => Plain::List(all(items)?),
                Node::Dict(entries) => Plain::Dict(
                    (entries.iter())
                        .map(|&(key, value)| {
                            let key = self.plain(key, deeper, budget)?;
                            Ok((key, self.plain(value, deeper, budget)?))
                        })
                        .collect::<Outcome<_>>()?,
                ),
                Node::Storage(..) => Plain::Opaque("a storage without a tensor".to_owned()),
                Node::Tensor(tensor) => Plain::Tensor(tensor.clone()),
                Node::Opaque(name) => Plain::Opaque(name.clone()),
            },
        })
    }
}

#[cfg(test)]
mod tests;
