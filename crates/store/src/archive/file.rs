//! One table of an archive: a Parquet file, written and read in row groups of bounded size.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{
    BoolType, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};
use sha2::{Digest as _, Sha256};

use super::Column;
use super::rows::{ColumnRows, Kind, Problem, Scalar, Values};
use crate::Error;

/// Rows are written once they take so much memory: a step of 1,950 probes takes 47 kB of it.
const ROW_GROUP_BYTES: usize = 4 << 20;

/// What is known of a finished file.
pub(super) struct Written {
    pub(super) n_bytes: u64,
    pub(super) sha256: String,
}

pub(super) struct TableWriter<'a> {
    path: &'a Path,
    columns: Vec<ColumnRows>,
    writer: SerializedFileWriter<Hashing>,
}

impl<'a> TableWriter<'a> {
    pub(super) fn create(path: &'a Path, columns: &[Column]) -> Result<Self, Error> {
        let file = File::create_new(path).map_err(Error::file("create", path))?;
        let mut properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_compression(Compression::ZSTD(ZstdLevel::default()));
        for column in columns {
            // Noise compresses by its exponents only, and these lie side by side this way.
            if matches!(column.kind.scalar, Scalar::Float4 | Scalar::Float8) {
                let path = match column.kind.is_list {
                    true => vec![column.name.clone(), "list".into(), "element".into()],
                    false => vec![column.name.clone()],
                };
                properties = properties
                    .set_column_encoding(ColumnPath::new(path), Encoding::BYTE_STREAM_SPLIT);
            }
        }
        let hashing = Hashing {
            file: BufWriter::new(file),
            sha256: Sha256::new(),
            n_bytes: 0,
        };
        let writer =
            SerializedFileWriter::new(hashing, schema(columns)?, Arc::new(properties.build()))
                .map_err(|e| failed(path, &e))?;
        Ok(Self {
            path,
            columns: columns.iter().map(|c| ColumnRows::new(c.kind)).collect(),
            writer,
        })
    }

    /// Takes a row; the fields are those of the columns.
    pub(super) fn push(&mut self, row: &[Option<&[u8]>]) -> Result<(), Error> {
        if row.len() != self.columns.len() {
            let problem = format!("a row of {} fields", row.len());
            return Err(corrupt(self.path, problem));
        }
        for (column, field) in self.columns.iter_mut().zip(row) {
            column.push(*field).map_err(|e| corrupt(self.path, e))?;
        }
        if self.columns.iter().map(ColumnRows::n_bytes).sum::<usize>() >= ROW_GROUP_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.columns.iter().all(|c| c.definitions.is_empty()) {
            return Ok(());
        }
        let mut write = || -> Result<(), ParquetError> {
            let mut group = self.writer.next_row_group()?;
            for column in &mut self.columns {
                let column = std::mem::replace(column, ColumnRows::new(column.kind));
                let Some(mut out) = group.next_column()? else {
                    return Err(ParquetError::General("a column too many".to_owned()));
                };
                let definitions = Some(&column.definitions[..]);
                let repetitions = column.kind.is_list.then_some(&column.repetitions[..]);
                match &column.values {
                    Values::Bool(v) => {
                        out.typed::<BoolType>()
                            .write_batch(v, definitions, repetitions)?
                    }
                    Values::Int32(v) => {
                        out.typed::<Int32Type>()
                            .write_batch(v, definitions, repetitions)?
                    }
                    Values::Int64(v) => {
                        out.typed::<Int64Type>()
                            .write_batch(v, definitions, repetitions)?
                    }
                    Values::Float(v) => {
                        out.typed::<FloatType>()
                            .write_batch(v, definitions, repetitions)?
                    }
                    Values::Double(v) => {
                        out.typed::<DoubleType>()
                            .write_batch(v, definitions, repetitions)?
                    }
                    Values::Bytes(v) => {
                        out.typed::<ByteArrayType>()
                            .write_batch(v, definitions, repetitions)?
                    }
                };
                out.close()?;
            }
            group.close().map(drop)
        };
        write().map_err(|e| failed(self.path, &e))
    }

    /// Ends the file; when this returns it is on the disk.
    pub(super) fn finish(mut self) -> Result<Written, Error> {
        self.flush()?;
        let Hashing {
            file,
            sha256,
            n_bytes,
        } = self
            .writer
            .into_inner()
            .map_err(|e| failed(self.path, &e))?;
        file.into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(Error::file("write", self.path))?;
        Ok(Written {
            n_bytes,
            sha256: hex(&sha256.finalize()),
        })
    }
}

/// A file that is hashed as it is written.
struct Hashing {
    file: BufWriter<File>,
    sha256: Sha256,
    n_bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.sha256.update(&bytes[..n]);
        self.n_bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Hands the rows of a file over, a group at a time.
pub(super) struct TableReader<'a> {
    path: &'a Path,
    kinds: Vec<Kind>,
    reader: SerializedFileReader<File>,
    next_group: usize,
}

impl<'a> TableReader<'a> {
    /// A reader of a file that has these columns and no others.
    pub(super) fn open(path: &'a Path, columns: &[Column]) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        let reader = SerializedFileReader::new(file).map_err(|e| failed(path, &e))?;
        if *reader.metadata().file_metadata().schema() != *schema(columns)? {
            return Err(corrupt(path, "its columns are not those of the manifest"));
        }
        Ok(Self {
            path,
            kinds: columns.iter().map(|c| c.kind).collect(),
            reader,
            next_group: 0,
        })
    }

    /// The columns of the next row group and its number of rows.
    pub(super) fn next_group(&mut self) -> Result<Option<(Vec<ColumnRows>, usize)>, Error> {
        if self.next_group == self.reader.num_row_groups() {
            return Ok(None);
        }
        let read = || -> Result<_, ParquetError> {
            let group = self.reader.get_row_group(self.next_group)?;
            let n_rows = usize::try_from(group.metadata().num_rows())
                .map_err(|e| ParquetError::General(e.to_string()))?;
            let columns = self.kinds.iter().enumerate().map(|(i, &kind)| {
                let mut column = ColumnRows::new(kind);
                let definitions = &mut column.definitions;
                let repetitions = kind.is_list.then_some(&mut column.repetitions);
                match (group.get_column_reader(i)?, &mut column.values) {
                    (ColumnReader::BoolColumnReader(from), Values::Bool(values)) => {
                        read_column(from, n_rows, definitions, repetitions, values)?;
                    }
                    (ColumnReader::Int32ColumnReader(from), Values::Int32(values)) => {
                        read_column(from, n_rows, definitions, repetitions, values)?;
                    }
                    (ColumnReader::Int64ColumnReader(from), Values::Int64(values)) => {
                        read_column(from, n_rows, definitions, repetitions, values)?;
                    }
                    (ColumnReader::FloatColumnReader(from), Values::Float(values)) => {
                        read_column(from, n_rows, definitions, repetitions, values)?;
                    }
                    (ColumnReader::DoubleColumnReader(from), Values::Double(values)) => {
                        read_column(from, n_rows, definitions, repetitions, values)?;
                    }
                    (ColumnReader::ByteArrayColumnReader(from), Values::Bytes(values)) => {
                        read_column(from, n_rows, definitions, repetitions, values)?;
                    }
                    _ => return Err(ParquetError::General("a column of another type".to_owned())),
                }
                Ok(column)
            });
            Ok((columns.collect::<Result<Vec<_>, _>>()?, n_rows))
        };
        let group = read().map_err(|e| failed(self.path, &e))?;
        self.next_group += 1;
        Ok(Some(group))
    }
}

fn read_column<T: DataType>(
    mut from: ColumnReaderImpl<T>,
    n_rows: usize,
    definitions: &mut Vec<i16>,
    mut repetitions: Option<&mut Vec<i16>>,
    values: &mut Vec<T::T>,
) -> Result<(), ParquetError> {
    let mut n_read = 0;
    while n_read < n_rows {
        let (n, _, _) = from.read_records(
            n_rows - n_read,
            Some(definitions),
            repetitions.as_deref_mut(),
            values,
        )?;
        if n == 0 {
            return Err(ParquetError::General("a column ends too early".to_owned()));
        }
        n_read += n;
    }
    Ok(())
}

/// The size and hash of a file as it is on the disk.
pub(super) fn hash(path: &Path) -> Result<Written, Error> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let (mut sha256, mut n_bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(Error::file("read", path))? {
            0 => break,
            n => {
                sha256.update(&buffer[..n]);
                n_bytes += n as u64;
            }
        }
    }
    Ok(Written {
        n_bytes,
        sha256: hex(&sha256.finalize()),
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Makes what was done in a directory last.
pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    fs::File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(Error::file("sync the directory", dir))
}

pub(super) fn corrupt(path: &Path, problem: impl Into<Problem>) -> Error {
    Error::Corrupt {
        what: path.display().to_string(),
        problem: problem.into(),
    }
}

fn failed(path: &Path, error: &ParquetError) -> Error {
    corrupt(path, error.to_string())
}

fn schema(columns: &[Column]) -> Result<TypePtr, Error> {
    let mut message = "message rows {\n".to_owned();
    for Column { name, kind, .. } in columns {
        let (physical, logical) = match kind.scalar {
            Scalar::Bool => ("BOOLEAN", ""),
            Scalar::Int2 => ("INT32", " (INTEGER(16,true))"),
            Scalar::Int4 => ("INT32", ""),
            Scalar::Int8 => ("INT64", ""),
            Scalar::Float4 => ("FLOAT", ""),
            Scalar::Float8 => ("DOUBLE", ""),
            Scalar::Text => ("BYTE_ARRAY", " (STRING)"),
            Scalar::Json => ("BYTE_ARRAY", " (JSON)"),
            Scalar::Bytes => ("BYTE_ARRAY", ""),
            Scalar::Time => ("INT64", " (TIMESTAMP(MICROS,true))"),
        };
        message += &match kind.is_list {
            false => format!("  OPTIONAL {physical} {name}{logical};\n"),
            true => format!(
                "  OPTIONAL group {name} (LIST) {{ REPEATED group list {{ \
                 REQUIRED {physical} element{logical}; }} }}\n"
            ),
        };
    }
    message.push('}');
    let parsed = parse_message_type(&message).map_err(|e| Error::Corrupt {
        what: "the columns of a table".to_owned(),
        problem: e.to_string(),
    })?;
    Ok(Arc::new(parsed))
}
