//! CSV with a header; numbers in the fewest digits that mean them alone.

use std::io::{self, Write};

use super::TableFile;
use super::columns::{Cell, Column};

pub(super) struct CsvFile<W: Write> {
    csv: csv::Writer<W>,
}

impl<W: Write> CsvFile<W> {
    pub(super) fn new(file: W, columns: &[Column]) -> io::Result<Self> {
        let mut csv = csv::Writer::from_writer(file);
        csv.write_record(columns.iter().map(|c| c.name))?;
        Ok(Self { csv })
    }
}

impl<W: Write> TableFile for CsvFile<W> {
    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        for cell in cells {
            match cell {
                Cell::Null => self.csv.write_field(""),
                Cell::Bool(value) => self.csv.write_field(if *value { "true" } else { "false" }),
                Cell::Int(value) => self.csv.write_field(value.to_string()),
                Cell::Float(value) => self.csv.write_field(value.to_string()),
                Cell::Double(value) => self.csv.write_field(value.to_string()),
                Cell::Text(value) => self.csv.write_field(value),
            }?;
        }
        Ok(self.csv.write_record(None::<&[u8]>)?)
    }

    fn end_of_step(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.csv.flush()
    }
}
