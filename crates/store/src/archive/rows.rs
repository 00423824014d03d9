//! Rows between Postgres' binary COPY and columns, with nothing lost on the way.

use parquet::data_type::ByteArray;

/// Opens a binary COPY: signature, flags, length of the extension.
pub(super) const COPY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Ends one.
pub(super) const COPY_TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// Postgres counts microseconds from 2000-01-01, everybody else from 1970-01-01.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// The version of `jsonb` that is sent before its text.
const JSONB_VERSION: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Text,
    Json,
    Bytes,
    Time,
}

impl Scalar {
    /// Its number in the catalog of every Postgres, which arrays carry.
    fn oid(self) -> i32 {
        match self {
            Self::Bool => 16,
            Self::Bytes => 17,
            Self::Int8 => 20,
            Self::Int2 => 21,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Float4 => 700,
            Self::Float8 => 701,
            Self::Time => 1184,
            Self::Json => 3802,
        }
    }
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) scalar: Scalar,
    pub(super) is_list: bool,
}

impl Kind {
    /// The kind of a type as Postgres writes it, if it is one that can be kept.
    pub(super) fn of(sql_type: &str) -> Option<Self> {
        let (name, is_list) = match sql_type.strip_suffix("[]") {
            Some(element) => (element, true),
            None => (sql_type, false),
        };
        let scalar = match name {
            "boolean" => Scalar::Bool,
            "smallint" => Scalar::Int2,
            "integer" => Scalar::Int4,
            "bigint" => Scalar::Int8,
            "real" => Scalar::Float4,
            "double precision" => Scalar::Float8,
            "text" => Scalar::Text,
            "jsonb" => Scalar::Json,
            "bytea" => Scalar::Bytes,
            "timestamp with time zone" => Scalar::Time,
            _ => return None,
        };
        Some(Self { scalar, is_list })
    }
}

#[derive(Debug)]
pub(super) enum Values {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
}

/// Some rows of one column, as Parquet has them.
#[derive(Debug)]
pub(super) struct ColumnRows {
    pub(super) kind: Kind,
    /// 0 null; 1 there, or an empty list; 2 an element of a list.
    pub(super) definitions: Vec<i16>,
    /// 0 begins a row, 1 goes on with its list; only for lists.
    pub(super) repetitions: Vec<i16>,
    pub(super) values: Values,
}

/// Where reading a column's rows stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    level: usize,
    value: usize,
}

/// Why a value cannot be kept, or an archive's column not be read.
pub(super) type Problem = String;

impl ColumnRows {
    pub(super) fn new(kind: Kind) -> Self {
        let values = match kind.scalar {
            Scalar::Bool => Values::Bool(Vec::new()),
            Scalar::Int2 | Scalar::Int4 => Values::Int32(Vec::new()),
            Scalar::Int8 | Scalar::Time => Values::Int64(Vec::new()),
            Scalar::Float4 => Values::Float(Vec::new()),
            Scalar::Float8 => Values::Double(Vec::new()),
            Scalar::Text | Scalar::Json | Scalar::Bytes => Values::Bytes(Vec::new()),
        };
        Self {
            kind,
            definitions: Vec::new(),
            repetitions: Vec::new(),
            values,
        }
    }

    /// Takes a field of a row as COPY sends it.
    pub(super) fn push(&mut self, field: Option<&[u8]>) -> Result<(), Problem> {
        let Some(field) = field else {
            self.push_level(0, 0);
            return Ok(());
        };
        if !self.kind.is_list {
            self.push_level(1, 0);
            return self.push_value(field);
        }
        let mut rest = field;
        let (n_dimensions, has_nulls, oid) = (
            take_i32(&mut rest)?,
            take_i32(&mut rest)?,
            take_i32(&mut rest)?,
        );
        if n_dimensions == 0 {
            self.push_level(1, 0);
            return Ok(());
        }
        let (n, lower_bound) = (take_i32(&mut rest)?, take_i32(&mut rest)?);
        if (n_dimensions, has_nulls, lower_bound) != (1, 0, 1) || oid != self.kind.scalar.oid() {
            return Err("an array that is not a plain list of its type without nulls".to_owned());
        }
        for i in 0..n {
            let length = take_i32(&mut rest)?;
            let element = take(&mut rest, length)?;
            self.push_level(2, (i > 0).into());
            self.push_value(element)?;
        }
        Ok(())
    }

    fn push_level(&mut self, definition: i16, repetition: i16) {
        self.definitions.push(definition);
        if self.kind.is_list {
            self.repetitions.push(repetition);
        }
    }

    fn push_value(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Problem> {
            bytes
                .try_into()
                .map_err(|_| format!("a value of {} bytes where {N} are right", bytes.len()))
        }
        match (&mut self.values, self.kind.scalar) {
            (Values::Bool(v), _) => v.push(fixed::<1>(bytes)? != [0]),
            (Values::Int32(v), Scalar::Int2) => v.push(i16::from_be_bytes(fixed(bytes)?).into()),
            (Values::Int32(v), _) => v.push(i32::from_be_bytes(fixed(bytes)?)),
            // The infinities, too, come back as they were.
            (Values::Int64(v), Scalar::Time) => {
                v.push(i64::from_be_bytes(fixed(bytes)?).wrapping_add(POSTGRES_EPOCH_US));
            }
            (Values::Int64(v), _) => v.push(i64::from_be_bytes(fixed(bytes)?)),
            (Values::Float(v), _) => v.push(f32::from_be_bytes(fixed(bytes)?)),
            (Values::Double(v), _) => v.push(f64::from_be_bytes(fixed(bytes)?)),
            (Values::Bytes(v), Scalar::Json) => match bytes.split_first() {
                Some((&JSONB_VERSION, text)) => v.push(text.to_vec().into()),
                _ => return Err("jsonb of an unknown version".to_owned()),
            },
            (Values::Bytes(v), _) => v.push(bytes.to_vec().into()),
        }
        Ok(())
    }

    /// Bytes that the rows take in memory, about.
    pub(super) fn n_bytes(&self) -> usize {
        let levels = 2 * (self.definitions.len() + self.repetitions.len());
        levels
            + match &self.values {
                Values::Bool(v) => v.len(),
                Values::Int32(v) => 4 * v.len(),
                Values::Float(v) => 4 * v.len(),
                Values::Int64(v) => 8 * v.len(),
                Values::Double(v) => 8 * v.len(),
                Values::Bytes(v) => v.iter().map(|b| b.len() + size_of::<ByteArray>()).sum(),
            }
    }

    /// Writes the next row's field with its length before it, as COPY takes it.
    pub(super) fn put(&self, at: &mut Cursor, out: &mut Vec<u8>) -> Result<(), Problem> {
        let Some(&definition) = self.definitions.get(at.level) else {
            return Err("it has fewer rows than other columns".to_owned());
        };
        let level = at.level;
        at.level += 1;
        if definition == 0 {
            out.extend_from_slice(&(-1_i32).to_be_bytes());
            return Ok(());
        }
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        if !self.kind.is_list {
            self.put_value(at, out)?;
        } else if definition == 1 {
            for word in [0, 0, self.kind.scalar.oid()] {
                out.extend_from_slice(&word.to_be_bytes());
            }
        } else {
            while self.repetitions.get(at.level) == Some(&1) {
                at.level += 1;
            }
            let n = i32::try_from(at.level - level).map_err(|_| "a list is too long")?;
            for word in [1, 0, self.kind.scalar.oid(), n, 1] {
                out.extend_from_slice(&word.to_be_bytes());
            }
            for _ in 0..n {
                let element = out.len();
                out.extend_from_slice(&[0; 4]);
                self.put_value(at, out)?;
                put_length(out, element)?;
            }
        }
        put_length(out, start)
    }

    fn put_value(&self, at: &mut Cursor, out: &mut Vec<u8>) -> Result<(), Problem> {
        fn get<T>(values: &[T], at: usize) -> Result<&T, Problem> {
            values
                .get(at)
                .ok_or_else(|| "it has fewer values than rows".to_owned())
        }
        let i = at.value;
        at.value += 1;
        match (&self.values, self.kind.scalar) {
            (Values::Bool(v), _) => out.push((*get(v, i)?).into()),
            (Values::Int32(v), Scalar::Int2) => {
                let value = i16::try_from(*get(v, i)?).map_err(|e| e.to_string())?;
                out.extend_from_slice(&value.to_be_bytes());
            }
            (Values::Int32(v), _) => out.extend_from_slice(&get(v, i)?.to_be_bytes()),
            (Values::Int64(v), Scalar::Time) => {
                let value = get(v, i)?.wrapping_sub(POSTGRES_EPOCH_US);
                out.extend_from_slice(&value.to_be_bytes());
            }
            (Values::Int64(v), _) => out.extend_from_slice(&get(v, i)?.to_be_bytes()),
            (Values::Float(v), _) => out.extend_from_slice(&get(v, i)?.to_be_bytes()),
            (Values::Double(v), _) => out.extend_from_slice(&get(v, i)?.to_be_bytes()),
            (Values::Bytes(v), scalar) => {
                if scalar == Scalar::Json {
                    out.push(JSONB_VERSION);
                }
                out.extend_from_slice(get(v, i)?.data());
            }
        }
        Ok(())
    }
}

/// Fills in the length of what was written behind four bytes at `start`.
fn put_length(out: &mut [u8], start: usize) -> Result<(), Problem> {
    let length = i32::try_from(out.len() - start - 4).map_err(|_| "a value is too long")?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Rows of a binary COPY that arrives in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct CopyRows {
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that are used up.
    used: usize,
    begun: bool,
}

impl CopyRows {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The fields of the next row, if it is there as a whole.
    pub(super) fn next(&mut self) -> Result<Option<Vec<Option<&[u8]>>>, Problem> {
        if !self.begun {
            let Some(rest) = self.buffer.get(COPY_HEADER.len()..) else {
                return Ok(None);
            };
            if !self.buffer.starts_with(COPY_HEADER) {
                return Err("not a binary COPY".to_owned());
            }
            self.used = self.buffer.len() - rest.len();
            self.begun = true;
        }
        let mut rest = &self.buffer[self.used..];
        let Some((n_fields, after)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        rest = after;
        let n_fields = i16::from_be_bytes(*n_fields);
        if n_fields < 0 {
            return Ok(None);
        }
        let mut fields = Vec::with_capacity(n_fields as usize);
        for _ in 0..n_fields {
            let Some((length, after)) = rest.split_first_chunk() else {
                return Ok(None);
            };
            rest = after;
            let length = i32::from_be_bytes(*length);
            let Ok(length) = usize::try_from(length) else {
                fields.push(None);
                continue;
            };
            let Some((field, after)) = rest.split_at_checked(length) else {
                return Ok(None);
            };
            rest = after;
            fields.push(Some(field));
        }
        self.used = self.buffer.len() - rest.len();
        Ok(Some(fields))
    }
}

fn take<'a>(rest: &mut &'a [u8], length: i32) -> Result<&'a [u8], Problem> {
    let field = usize::try_from(length)
        .ok()
        .and_then(|n| rest.split_at_checked(n));
    let Some((field, after)) = field else {
        return Err("an array that is cut short".to_owned());
    };
    *rest = after;
    Ok(field)
}

fn take_i32(rest: &mut &[u8]) -> Result<i32, Problem> {
    let bytes = take(rest, 4)?;
    Ok(i32::from_be_bytes(bytes.try_into().expect("four bytes")))
}

#[cfg(test)]
mod tests;
