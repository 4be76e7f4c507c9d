//! Bounded checks of an ONNX file's bytes, before anything else parses them (I8).
//!
//! A parser that trusts the file can be made to take any amount of memory: millions of empty messages of two bytes each, tensors whose
//! sides multiply to terabytes, numbers in other files. This walk takes no memory and refuses such files in one line. Files that pass have
//! few enough messages and numbers to be parsed, tensors whose sides match their data, and no part that a detector does not have: other
//! files, sub-graphs (`If`, `Loop`), sparse tensors, strings, values that are not tensors.
//!
//! It does not know what the operations do; see [`super::super::trial`] for that.

/// Maximum number of operations. YOLO11x has about 700, RT-DETR some thousands.
const NODES_MAX: usize = 20_000;
/// Maximum number of messages, strings and lists of numbers; a parser takes up to some hundreds of bytes for each. YOLO11x has about 25
/// 000.
const ENTRIES_MAX: usize = 500_000;
/// Maximum number of varints (sides, indices, integers that are stored one by one), of which the smallest takes a byte in the file and
/// eight in memory.
const VARINTS_MAX: usize = 16 << 20;
/// Longest text of the metadata, bytes: 1024 classes with long names.
const METADATA_BYTES_MAX: usize = 256 << 10;
/// Longest name or symbolic dimension, bytes: YOLO11n with free input sides has some of several kilobytes.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// Checks the bytes of a file.
///
/// # Errors
/// What is wrong, without the file's name.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    let mut checker = Checker::default();
    checker.message(Kind::Model, bytes)?;
    Ok(())
}

/// The messages of `onnx.proto` that the walk descends into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Metadata,
    Graph,
    Node,
    Attribute,
    Tensor,
    Value,
    Type,
    TensorType,
    Shape,
    Dimension,
    Annotation,
    Function,
    /// A message of texts and single numbers.
    Plain,
}

/// How a field of the file is treated.
enum Field {
    /// A message of that kind.
    Message(Kind),
    /// A name or another text that a parser may take apart.
    Text,
    /// Integers, packed or one by one.
    Integers,
    /// Bytes that a parser copies unchanged.
    Bytes,
    /// Not supported, because no detector has it.
    Refused(&'static str),
}

impl Kind {
    /// The field `number`, by the numbers of `onnx.proto` (ONNX 1.17).
    const fn field(self, number: u64) -> Field {
        match (self, number) {
            (Kind::Model, 7) => Field::Message(Kind::Graph),
            (Kind::Model, 14) => Field::Message(Kind::Metadata),
            (Kind::Model, 20) => Field::Refused("it can be trained; export it for inference"),
            (Kind::Model, 25) => Field::Message(Kind::Function),
            (Kind::Model, 8)
            | (Kind::Graph, 16)
            | (Kind::Annotation, 2)
            | (Kind::Node | Kind::Function, 9)
            | (Kind::Value, 4)
            | (Kind::Function, 14) => Field::Message(Kind::Plain),
            (Kind::Graph, 1) | (Kind::Function, 7) => Field::Message(Kind::Node),
            (Kind::Graph, 5) | (Kind::Attribute, 5 | 10) => Field::Message(Kind::Tensor),
            (Kind::Graph, 11..=13) | (Kind::Function, 12) => Field::Message(Kind::Value),
            (Kind::Graph, 14) => Field::Message(Kind::Annotation),
            (Kind::Graph, 15) | (Kind::Attribute, 22 | 23) => Field::Refused("it has sparse tensors"),
            (Kind::Node, 5) | (Kind::Function, 11) => Field::Message(Kind::Attribute),
            (Kind::Node, 1..=4 | 7) | (Kind::Dimension, 2) | (Kind::Value, 1) | (Kind::Tensor, 8) => {
                Field::Text
            }
            (Kind::Attribute, 6 | 11) => Field::Refused("it has sub-graphs (If, Loop, Scan)"),
            (Kind::Attribute, 14 | 15) | (Kind::Value, 2) => Field::Message(Kind::Type),
            (Kind::Attribute, 8) | (Kind::Tensor, 1 | 5 | 7 | 11) => Field::Integers,
            (Kind::Tensor, 3) => Field::Refused("it has tensors in pieces"),
            (Kind::Tensor, 6) => Field::Refused("it has tensors of strings"),
            (Kind::Tensor, 13) => Field::Refused("it keeps numbers in other files; export it as one file"),
            (Kind::Type, 1) => Field::Message(Kind::TensorType),
            (Kind::Type, 4 | 5 | 7 | 8 | 9) => Field::Refused("it has values that are not tensors"),
            (Kind::TensorType, 2) => Field::Message(Kind::Shape),
            (Kind::Shape, 1) => Field::Message(Kind::Dimension),
            _ => Field::Bytes,
        }
    }
}

/// A tensor's own description.
#[derive(Debug, Default)]
struct TensorFacts {
    /// The product of its sides; `None` if one is negative or the product overflows.
    elements: Option<u64>,
    kind: u64,
    raw_bytes: Option<u64>,
    /// Numbers that are stored one by one.
    stored: u64,
}

/// State of the walk.
#[derive(Debug, Default)]
struct Checker {
    nodes: usize,
    entries: usize,
    varints: usize,
}

impl Checker {
    /// Walks over the fields of a message. The message types are not recursive, so the depth is bounded.
    fn message(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), String> {
        let mut tensor =
            (kind == Kind::Tensor).then(|| TensorFacts { elements: Some(1), ..TensorFacts::default() });
        let mut wire = Wire(bytes);
        while !wire.0.is_empty() {
            let (number, value) = wire.field()?;
            let field = kind.field(number);
            if let Some(tensor) = &mut tensor {
                tensor.see(number, &value)?;
            }
            match (value, field) {
                (_, Field::Refused(why)) => return Err(why.into()),
                (Value::Bytes(inner), field) => self.entry(kind, &field, inner)?,
                (Value::Integer(_) | Value::Fixed, _) => self.count_varints(1)?,
            }
        }
        match tensor {
            Some(tensor) => tensor.check(),
            None => Ok(()),
        }
    }

    /// Checks a message, a text or a list of numbers.
    fn entry(&mut self, parent: Kind, field: &Field, bytes: &[u8]) -> Result<(), String> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(format!("it has more than {ENTRIES_MAX} parts"));
        }
        match *field {
            Field::Message(Kind::Node) => {
                self.nodes += 1;
                if self.nodes > NODES_MAX {
                    return Err(format!("it has more than {NODES_MAX} operations"));
                }
                self.message(Kind::Node, bytes)
            }
            Field::Message(kind) => self.message(kind, bytes),
            Field::Text if bytes.len() > TEXT_BYTES_MAX => Err("it has a name of more than 16 kB".into()),
            Field::Integers => self.count_varints(varints_in(bytes)),
            Field::Bytes if parent == Kind::Metadata && bytes.len() > METADATA_BYTES_MAX => {
                Err(format!("its metadata has a text of {} kB", bytes.len() >> 10))
            }
            Field::Text | Field::Bytes | Field::Refused(_) => Ok(()),
        }
    }

    fn count_varints(&mut self, more: usize) -> Result<(), String> {
        self.varints += more;
        if self.varints > VARINTS_MAX {
            return Err(format!("it has more than {VARINTS_MAX} integers"));
        }
        Ok(())
    }
}

/// Number of varints that end in `bytes`.
fn varints_in(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte < 0x80).count()
}

impl TensorFacts {
    /// Checks a field of the tensor.
    fn see(&mut self, number: u64, value: &Value<'_>) -> Result<(), String> {
        match (number, value) {
            (1, Value::Integer(side)) => self.side(*side),
            (1, Value::Bytes(packed)) => {
                let mut wire = Wire(packed);
                while !wire.0.is_empty() {
                    let side = wire.varint()?;
                    self.side(side);
                }
            }
            (2, Value::Integer(kind)) => self.kind = *kind,
            (9, Value::Bytes(raw)) => self.raw_bytes = Some(raw.len() as u64),
            (4, Value::Bytes(packed)) => self.stored += packed.len() as u64 / 4,
            (10, Value::Bytes(packed)) => self.stored += packed.len() as u64 / 8,
            (5 | 7 | 11, Value::Bytes(packed)) => self.stored += varints_in(packed) as u64,
            (4 | 5 | 7 | 10 | 11, Value::Integer(_) | Value::Fixed) => self.stored += 1,
            (14, Value::Integer(place)) if *place != 0 => {
                return Err("it keeps numbers in other files; export it as one file".into());
            }
            _ => {}
        }
        Ok(())
    }

    fn side(&mut self, side: u64) {
        let side = i64::try_from(side).ok().and_then(|side| u64::try_from(side).ok());
        self.elements = self.elements.zip(side).and_then(|(elements, side)| elements.checked_mul(side));
    }

    /// Checks that its data is as long as its sides imply.
    fn check(&self) -> Result<(), String> {
        let Some(elements) = self.elements else {
            return Err("it has a tensor with impossible sides".into());
        };
        // The numbers of `TensorProto.DataType`.
        let size = match self.kind {
            2 | 3 | 9 => 1,
            4 | 5 | 10 | 16 => 2,
            1 | 6 | 12 => 4,
            7 | 11 | 13 => 8,
            other => return Err(format!("it has a tensor of type {other}, which no detector has")),
        };
        let is_right = match self.raw_bytes {
            Some(bytes) => elements.checked_mul(size) == Some(bytes) && self.stored == 0,
            None => self.stored == elements,
        };
        if is_right { Ok(()) } else { Err("it has a tensor whose data does not match its sides".into()) }
    }
}

/// The value of a field.
enum Value<'a> {
    Integer(u64),
    /// Of 4 or 8 bytes.
    Fixed,
    Bytes(&'a [u8]),
}

/// The rest of a message in the wire format of Protocol Buffers.
struct Wire<'a>(&'a [u8]);

impl<'a> Wire<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at).min(63);
            if *byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(BROKEN.into())
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8], String> {
        let length = usize::try_from(length).map_err(|_| BROKEN)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(BROKEN)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// The next field: its number and value.
    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 {
            return Err(BROKEN.into());
        }
        let value = match key & 7 {
            0 => Value::Integer(self.varint()?),
            1 => {
                self.bytes(8)?;
                Value::Fixed
            }
            5 => {
                self.bytes(4)?;
                Value::Fixed
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.bytes(length)?)
            }
            _ => return Err(BROKEN.into()),
        };
        Ok((number, value))
    }
}

/// Not the wire format, or truncated.
const BROKEN: &str = "its bytes are damaged or cut short";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    /// A field of bytes.
    fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
    }

    fn integer(number: u64, value: u64) -> Vec<u8> {
        [varint(number << 3), varint(value)].concat()
    }

    /// A tensor of `f32` with these sides and as many bytes of data.
    fn tensor(sides: &[i64], bytes: usize) -> Vec<u8> {
        let sides: Vec<u8> = sides.iter().flat_map(|side| integer(1, side.cast_unsigned())).collect();
        [sides, integer(2, 1), field(9, &vec![0; bytes])].concat()
    }

    fn in_graph(number: u64, bytes: &[u8]) -> Vec<u8> {
        field(7, &field(number, bytes))
    }

    #[test]
    fn the_shipped_models_pass() {
        check(&crate::vision::detect::builtin::bytes()).unwrap();
        let squares = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/squares.onnx");
        check(&std::fs::read(squares).unwrap()).unwrap();
    }

    #[test]
    fn hostile_files_are_refused_with_the_reason() {
        let attribute = |bytes: &[u8]| in_graph(1, &field(5, bytes));
        check(&in_graph(5, &tensor(&[2, 3], 24))).unwrap();
        check(&in_graph(5, &[integer(1, 2), integer(2, 7), field(7, &[1, 0x80, 1])].concat())).unwrap();
        for (bytes, why) in [
            (in_graph(5, &tensor(&[2, 3], 23)), "does not match its sides"),
            (in_graph(5, &tensor(&[1 << 40, 1 << 40], 4)), "impossible"),
            (in_graph(5, &tensor(&[1 << 40], 4)), "does not match its sides"),
            (in_graph(5, &tensor(&[-1], 4)), "impossible"),
            (in_graph(5, &[integer(1, 1 << 40), integer(2, 1)].concat()), "does not match its sides"),
            (in_graph(5, &[integer(2, 99), field(9, &[0])].concat()), "type 99"),
            (in_graph(5, &[integer(2, 8), field(6, b"x")].concat()), "strings"),
            (in_graph(5, &[integer(2, 1), integer(14, 1)].concat()), "other files"),
            (in_graph(5, &field(13, b"")), "other files"),
            (attribute(&field(5, &tensor(&[9], 4))), "does not match its sides"),
            (attribute(&field(6, b"")), "sub-graphs"),
            (attribute(&field(23, b"")), "sparse"),
            (in_graph(1, &field(5, b"").repeat(ENTRIES_MAX)), "parts"),
            (field(7, &field(1, b"").repeat(NODES_MAX + 1)), "operations"),
            (in_graph(11, &field(2, &field(1, &field(2, &field(1, &field(2, &[b'('; 20_000])))))), "16 kB"),
            (in_graph(11, &field(2, &field(4, b""))), "not tensors"),
            (attribute(&field(8, &vec![1; VARINTS_MAX + 1])), "integers"),
            (field(14, &field(2, &vec![b'x'; METADATA_BYTES_MAX + 1])), "metadata"),
            (in_graph(5, &tensor(&[2, 3], 24))[..20].to_vec(), "damaged"),
            (vec![0; 100], "damaged"),
            (vec![0xff; 100], "damaged"),
            (b"\x80\x04\x95cos\nsystem".to_vec(), "damaged"),
        ] {
            let error = check(&bytes).unwrap_err();
            assert!(error.contains(why), "{error} instead of {why}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_over_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ignored = check(&bytes);
            let _ignored = check(&in_graph(5, &bytes));
            let _ignored = check(&in_graph(1, &field(5, &bytes)));
        }
    }
}
