//! `imprint analyze`: fits for SQL.

use std::process::ExitCode;

use super::results::Reading;
use super::tell;
use crate::analyst;
use crate::database::Database;
use crate::failure::Outcome;
use crate::place::Place;
use crate::readings;

/// Fit decay curves and keep them in the database, where SQL finds them.
///
/// `imprint.decay_fit` and `imprint.learnability_threshold` show what was kept, while the run's
/// readings are those it was computed from. `imprint up` does this by itself when a run is
/// complete, with the default span and window and both presets; this command is for others, and
/// for runs that were not made under `up`.
///
/// Example: `imprint analyze mine --span first`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// An experiment, or one of its runs (`experiment/cell`).
    name: String,
    #[command(flatten)]
    reading: Reading,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let database = Database::open(place).await?;
    let store = &database.store;
    let (span, settings) = (arguments.reading.span, arguments.reading.settings());
    let analysed = async {
        for record in readings::complete(store, &arguments.name).await? {
            let n_fits = analyst::analyse_run(store, &record, span, &settings).await?;
            tell(format_args!("{}: {n_fits} fits", record.label))?;
        }
        Ok(ExitCode::SUCCESS)
    };
    let analysed = analysed.await;
    database.close().await?;
    analysed
}
