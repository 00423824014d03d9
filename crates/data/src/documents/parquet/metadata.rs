//! A Parquet file's footer and page headers, as far as one column of texts needs them.

use super::thrift::{Thrift, Wire};

const TYPE_BYTE_ARRAY: i64 = 6;
const REQUIRED: i64 = 0;
const OPTIONAL: i64 = 1;
/// Names of columns that an error quotes.
const N_QUOTED: usize = 12;

/// The column that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// How many of the names on its path may be absent; a value that is there has this level.
    pub max_level: u32,
}

/// The column's part of one row group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Byte of its first page.
    pub offset: u64,
    pub n_bytes: u64,
    /// Values, `null` among them.
    pub n_values: u64,
    pub codec: i64,
}

/// The column of a (dotted) name and its chunks, from a file's footer.
///
/// # Errors
/// When the footer is damaged, or there is no such column of texts.
pub(super) fn columns(footer: &[u8], name: &str) -> Result<(Column, Vec<Chunk>), String> {
    let damaged = |problem: String| format!("its footer is damaged: {problem}");
    let mut schema = Vec::new();
    let mut chunks = Vec::new();
    Thrift::new(footer)
        .structure(|thrift, field, wire| {
            match field {
                2 => thrift.list(wire, |thrift, wire| {
                    schema.push(SchemaElement::parse(thrift, wire)?);
                    Ok(())
                })?,
                4 => thrift.list(wire, |thrift, wire| {
                    chunks.extend(row_group(thrift, wire, name)?);
                    Ok(())
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        })
        .map_err(damaged)?;
    let column = find(&schema, name)?;
    Ok((column, chunks))
}

#[derive(Debug, Default)]
struct SchemaElement<'a> {
    name: &'a str,
    physical_type: Option<i64>,
    repetition: i64,
    n_children: u64,
}

impl<'a> SchemaElement<'a> {
    fn parse(thrift: &mut Thrift<'a>, wire: Wire) -> Result<Self, String> {
        let mut element = Self::default();
        read_struct(thrift, wire, |thrift, field, wire| {
            match field {
                1 => element.physical_type = Some(thrift.int(wire)?),
                3 => element.repetition = thrift.int(wire)?,
                4 => element.name = thrift.text(wire)?,
                5 => element.n_children = thrift.count(wire)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(element)
    }
}

/// Walks the schema, which lies depth first with the root at its head.
fn find(schema: &[SchemaElement], name: &str) -> Result<Column, String> {
    let Some((root, elements)) = schema.split_first() else {
        return Err("its footer has no schema".to_owned());
    };
    let mut names = Vec::new();
    // Of every open group: its children to come, its path, and its levels.
    let mut groups = vec![(root.n_children, String::new(), Some(0))];
    for element in elements {
        while groups.last().is_some_and(|(n_left, ..)| *n_left == 0) {
            groups.pop();
        }
        let Some((n_left, path, level)) = groups.last_mut() else {
            return Err("its footer's schema has more columns than it says".to_owned());
        };
        *n_left -= 1;
        let path = match path.as_str() {
            "" => element.name.to_owned(),
            above => format!("{above}.{}", element.name),
        };
        let level = match element.repetition {
            REQUIRED => *level,
            OPTIONAL => level.map(|l| l + 1),
            _ => None,
        };
        if path.len() > MAX_PATH_BYTES {
            return Err("its footer's schema nests names without end".to_owned());
        }
        if element.n_children > 0 {
            groups.push((element.n_children, path, level));
            continue;
        }
        if path != name {
            if names.len() < N_QUOTED {
                names.push(path);
            }
            continue;
        }
        if element.physical_type != Some(TYPE_BYTE_ARRAY) {
            return Err(format!("its column `{name}` holds no texts"));
        }
        return match level {
            Some(max_level) => Ok(Column { max_level }),
            None => Err(format!(
                "its column `{name}` holds lists; a document is one text"
            )),
        };
    }
    Err(format!(
        "it has no column `{name}`, but {}; set `data.corpus.text_field` to the column that holds \
         the text",
        match names.is_empty() {
            true => "no column at all".to_owned(),
            false => format!("`{}`", names.join("`, `")),
        }
    ))
}

const MAX_PATH_BYTES: usize = 1 << 12;

/// The chunk of the named column in a row group, if it is there.
fn row_group(thrift: &mut Thrift, wire: Wire, name: &str) -> Result<Option<Chunk>, String> {
    let mut found = None;
    read_struct(thrift, wire, |thrift, field, wire| {
        if field != 1 {
            return Ok(false);
        }
        thrift.list(wire, |thrift, wire| {
            read_struct(thrift, wire, |thrift, field, wire| {
                if field != 3 {
                    return Ok(false);
                }
                if let Some(chunk) = column_chunk(thrift, wire, name)? {
                    found = Some(chunk);
                }
                Ok(true)
            })
        })?;
        Ok(true)
    })?;
    Ok(found)
}

fn column_chunk(thrift: &mut Thrift, wire: Wire, name: &str) -> Result<Option<Chunk>, String> {
    let mut chunk = Chunk {
        offset: 0,
        n_bytes: 0,
        n_values: 0,
        codec: 0,
    };
    let mut dictionary_offset = None;
    let mut path: Vec<&str> = Vec::new();
    read_struct(thrift, wire, |thrift, field, wire| {
        match field {
            3 => thrift.list(wire, |thrift, wire| {
                path.push(thrift.text(wire)?);
                Ok(())
            })?,
            4 => chunk.codec = thrift.int(wire)?,
            5 => chunk.n_values = thrift.count(wire)?,
            7 => chunk.n_bytes = thrift.count(wire)?,
            9 => chunk.offset = thrift.count(wire)?,
            11 => dictionary_offset = Some(thrift.count(wire)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    // Some writers say 0 where there is no dictionary.
    if let Some(offset) = dictionary_offset.filter(|&o| o > 0) {
        chunk.offset = chunk.offset.min(offset);
    }
    let is_it = path.iter().copied().eq(name.split('.')) || path == [name];
    Ok(is_it.then_some(chunk))
}

/// What stands before a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub kind: PageKind,
    pub uncompressed_bytes: u64,
    pub compressed_bytes: u64,
    pub n_values: u64,
    pub crc: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageKind {
    Index,
    Dictionary {
        encoding: i64,
    },
    DataV1 {
        encoding: i64,
        level_encoding: i64,
    },
    DataV2 {
        encoding: i64,
        /// Of both kinds of levels, which lie uncompressed before the values.
        level_bytes: u64,
        is_compressed: bool,
    },
}

impl PageHeader {
    /// The header at the beginning of `bytes`, and its length.
    pub(super) fn parse(bytes: &[u8]) -> Result<(Self, u64), String> {
        let mut thrift = Thrift::new(bytes);
        let mut kind = None;
        let mut header = Self {
            kind: PageKind::Index,
            uncompressed_bytes: 0,
            compressed_bytes: 0,
            n_values: 0,
            crc: None,
        };
        let mut numbers = PageNumbers::default();
        thrift.structure(|thrift, field, wire| {
            match field {
                1 => kind = Some(thrift.int(wire)?),
                2 => header.uncompressed_bytes = thrift.count(wire)?,
                3 => header.compressed_bytes = thrift.count(wire)?,
                4 => header.crc = Some(thrift.int(wire)? as u32),
                5 | 7 | 8 => numbers.parse(thrift, wire, field)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        header.n_values = numbers.n_values;
        header.kind = match kind {
            Some(0) => PageKind::DataV1 {
                encoding: numbers.encoding,
                level_encoding: numbers.level_encoding,
            },
            Some(1) => PageKind::Index,
            Some(2) => PageKind::Dictionary {
                encoding: numbers.encoding,
            },
            Some(3) => PageKind::DataV2 {
                encoding: numbers.encoding,
                level_bytes: numbers
                    .level_bytes
                    .checked_add(numbers.repetition_level_bytes)
                    .ok_or("its levels have no end")?,
                is_compressed: numbers.is_compressed,
            },
            _ => return Err("it names no kind of page".to_owned()),
        };
        if numbers.repetition_level_bytes > 0 {
            return Err("it has repetition levels, but its column no lists".to_owned());
        }
        Ok((header, (bytes.len() - thrift.n_left()) as u64))
    }
}

/// What the three kinds of pages say, each in a struct of its own.
#[derive(Debug)]
struct PageNumbers {
    n_values: u64,
    encoding: i64,
    level_encoding: i64,
    level_bytes: u64,
    repetition_level_bytes: u64,
    is_compressed: bool,
}

impl Default for PageNumbers {
    fn default() -> Self {
        Self {
            n_values: 0,
            encoding: -1,
            level_encoding: -1,
            level_bytes: 0,
            repetition_level_bytes: 0,
            is_compressed: true,
        }
    }
}

impl PageNumbers {
    fn parse(&mut self, thrift: &mut Thrift, wire: Wire, page: i16) -> Result<(), String> {
        read_struct(thrift, wire, |thrift, field, wire| {
            match (page, field) {
                (_, 1) => self.n_values = thrift.count(wire)?,
                (5 | 7, 2) | (8, 4) => self.encoding = thrift.int(wire)?,
                (5, 3) => self.level_encoding = thrift.int(wire)?,
                (8, 5) => self.level_bytes = thrift.count(wire)?,
                (8, 6) => self.repetition_level_bytes = thrift.count(wire)?,
                (8, 7) => self.is_compressed = wire != Wire::False,
                _ => return Ok(false),
            }
            Ok(true)
        })
    }
}

fn read_struct<'a>(
    thrift: &mut Thrift<'a>,
    wire: Wire,
    field: impl FnMut(&mut Thrift<'a>, i16, Wire) -> Result<bool, String>,
) -> Result<(), String> {
    match wire {
        Wire::Struct => thrift.structure(field),
        other => Err(format!("{other:?} where a struct should be")),
    }
}
