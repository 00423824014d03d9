//! Parquet: typed columns, texts as dictionaries, zstd, groups of whole steps.
//!
//! What each column means and its unit is in the file's key-value metadata under `imprint.columns`,
//! for Parquet has no metadata of columns but in the schema of one library among its readers.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType, ZstdLevel};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type};

use super::TableFile;
use super::columns::{Cell, Column, Kind};

/// Rows after which a group ends with its step: readers skip groups by their range of steps.
const GROUP_ROWS: usize = 128 << 10;

pub(super) struct ParquetFile<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: Vec<Buffer>,
    n_rows: usize,
}

/// A column's values of the group that is being filled.
struct Buffer {
    values: Values,
    /// 1 where there is a value; for columns that may have none.
    levels: Option<Vec<i16>>,
}

enum Values {
    Bool(Vec<bool>),
    Int(Vec<i32>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Text(Vec<ByteArray>),
}

impl<W: Write + Send> ParquetFile<W> {
    pub(super) fn new(file: W, table: &str, columns: &[Column]) -> io::Result<Self> {
        let fields = columns
            .iter()
            .map(|c| field(c).map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(broken)?;
        let schema = Type::group_type_builder("imprint")
            .with_fields(fields)
            .build()
            .map_err(broken)?;
        let meanings: Vec<_> = columns
            .iter()
            .map(|c| serde_json::json!({"name": c.name, "unit": c.unit, "meaning": c.meaning}))
            .collect();
        let metadata = [
            ("imprint.table", table.to_owned()),
            ("imprint.version", env!("CARGO_PKG_VERSION").to_owned()),
            (
                "imprint.columns",
                serde_json::Value::from(meanings).to_string(),
            ),
        ];
        let metadata = metadata.map(|(key, value)| KeyValue::new(key.to_owned(), value));
        let zstd = ZstdLevel::try_new(3).map_err(broken)?;
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(zstd))
            .set_key_value_metadata(Some(metadata.to_vec()));
        for column in columns {
            if matches!(column.kind, Kind::Float | Kind::Double) {
                // Measured values hardly ever repeat: a dictionary would be made in vain.
                let path = ColumnPath::from(column.name);
                properties = properties.set_column_dictionary_enabled(path, false);
            }
        }
        let file = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build()))
            .map_err(broken)?;
        Ok(Self {
            file,
            columns: columns.iter().map(Buffer::new).collect(),
            n_rows: 0,
        })
    }

    fn write_group(&mut self) -> io::Result<()> {
        if self.n_rows == 0 {
            return Ok(());
        }
        self.n_rows = 0;
        let mut group = self.file.next_row_group().map_err(broken)?;
        for column in &mut self.columns {
            column.write(&mut group).map_err(broken)?;
        }
        group.close().map(drop).map_err(broken)
    }
}

impl<W: Write + Send> TableFile for ParquetFile<W> {
    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        self.n_rows += 1;
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.push(*cell)?;
        }
        Ok(())
    }

    fn end_of_step(&mut self) -> io::Result<()> {
        match self.n_rows >= GROUP_ROWS {
            true => self.write_group(),
            false => Ok(()),
        }
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.write_group()?;
        self.file.finish().map(drop).map_err(broken)
    }
}

fn field(column: &Column) -> Result<Type, ParquetError> {
    let (physical, logical) = match column.kind {
        Kind::Bool => (PhysicalType::BOOLEAN, None),
        Kind::Int => (PhysicalType::INT32, None),
        Kind::Float => (PhysicalType::FLOAT, None),
        Kind::Double => (PhysicalType::DOUBLE, None),
        Kind::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
    };
    let repetition = match column.nullable {
        true => Repetition::OPTIONAL,
        false => Repetition::REQUIRED,
    };
    Type::primitive_type_builder(column.name, physical)
        .with_repetition(repetition)
        .with_logical_type(logical)
        .build()
}

impl Buffer {
    fn new(column: &Column) -> Self {
        Self {
            values: match column.kind {
                Kind::Bool => Values::Bool(Vec::new()),
                Kind::Int => Values::Int(Vec::new()),
                Kind::Float => Values::Float(Vec::new()),
                Kind::Double => Values::Double(Vec::new()),
                Kind::Text => Values::Text(Vec::new()),
            },
            levels: column.nullable.then(Vec::new),
        }
    }

    fn push(&mut self, cell: Cell<'_>) -> io::Result<()> {
        if let Some(levels) = &mut self.levels {
            levels.push(i16::from(cell != Cell::Null));
        }
        match (&mut self.values, cell) {
            (_, Cell::Null) if self.levels.is_some() => {}
            (Values::Bool(values), Cell::Bool(value)) => values.push(value),
            (Values::Int(values), Cell::Int(value)) => values.push(value),
            (Values::Float(values), Cell::Float(value)) => values.push(value),
            (Values::Double(values), Cell::Double(value)) => values.push(value),
            (Values::Text(values), Cell::Text(value)) => {
                // A text mostly stands in the row before, too: share it.
                let again = values.last().filter(|last| last.data() == value.as_bytes());
                let value = match again {
                    Some(last) => last.clone(),
                    None => ByteArray::from(Bytes::copy_from_slice(value.as_bytes())),
                };
                values.push(value);
            }
            (_, cell) => return Err(io::Error::other(format!("{cell:?} is of another kind"))),
        }
        Ok(())
    }

    /// Writes the column and empties it.
    fn write<W: Write + Send>(
        &mut self,
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), ParquetError> {
        let levels = self.levels.as_ref();
        match &mut self.values {
            Values::Bool(values) => write_column::<BoolType, W>(group, values, levels)?,
            Values::Int(values) => write_column::<Int32Type, W>(group, values, levels)?,
            Values::Float(values) => write_column::<FloatType, W>(group, values, levels)?,
            Values::Double(values) => write_column::<DoubleType, W>(group, values, levels)?,
            Values::Text(values) => write_column::<ByteArrayType, W>(group, values, levels)?,
        }
        if let Some(levels) = &mut self.levels {
            levels.clear();
        }
        Ok(())
    }
}

fn write_column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &mut Vec<T::T>,
    levels: Option<&Vec<i16>>,
) -> Result<(), ParquetError> {
    let column = group.next_column()?;
    let mut column = column.ok_or_else(|| ParquetError::General("a column too many".into()))?;
    let levels = levels.map(Vec::as_slice);
    column.typed::<T>().write_batch(values, levels, None)?;
    values.clear();
    column.close()
}

fn broken(error: ParquetError) -> io::Error {
    io::Error::other(error)
}
