//! `imprint import`: readings that were measured elsewhere, or earlier.

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
/// Example: `imprint import data/runs/7/attempts/2`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The files: for a spool its directory or that of its attempt.
    path: PathBuf,
    /// What kind of files.
    #[arg(long, value_enum, default_value_t = Format::Spool)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The spool of a trainer that has ended.
    Spool,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    match arguments.format {
        Format::Spool => spool::run(place, &arguments.path).await,
    }
}
