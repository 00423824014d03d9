//! `imprint import`: readings that were measured elsewhere, or earlier.

mod reference;
mod spool;

use std::path::PathBuf;

use clap::ValueEnum;

use crate::failure::Outcome;
use crate::place::Place;

/// Take in readings from files.
///
/// `spool`: what a trainer could not deliver. Its readings and updates, its saved states and how it
/// ended are told to the services as it would have told them; doing it again changes nothing.
///
/// `reference`: a JSON log of the reference study's code becomes a complete run of the experiment
/// `--name`, marked as imported. The log is checked as a whole before anything is stored, and read
/// record by record, so that its size does not matter. What it does not say is taken from the
/// options: how facts were shown, tokens per step, and with `--facts` and `--tokenizer` the texts
/// and token counts of the probes. An import that was interrupted goes on when it is called again.
///
/// Example: `imprint import data/runs/7/attempts/2`
/// or `imprint import log.json --format reference --name chang2024`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The files: for a spool its directory or that of its attempt, else the log.
    path: PathBuf,
    /// What kind of files.
    #[arg(long, value_enum, default_value_t = Format::Spool)]
    format: Format,
    #[command(flatten)]
    reference: reference::Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The spool of a trainer that has ended.
    Spool,
    /// The JSON log of the reference study's code.
    Reference,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    match arguments.format {
        Format::Spool => spool::run(place, &arguments.path).await,
        Format::Reference => reference::run(place, arguments.path, arguments.reference).await,
    }
}
