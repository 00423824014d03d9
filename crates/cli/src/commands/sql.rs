//! `imprint sql`: the database in psql.

use std::process::{Command, ExitCode};

use imprint_store::roles;

use super::machine::on_path;
use super::tell;
use crate::database::{self, Database};
use crate::failure::{Failure, Outcome};
use crate::place::Place;

/// Open the database in psql, or answer one query.
///
/// Start with the views and functions, which are made for people: `imprint.run_summary` (a row a
/// run), `imprint.mean_curve` (means over probes), `imprint.curve(run, probe)` (one probe over
/// time), `imprint.effectivity`, `imprint.retainability`, `imprint.decay_fit` and
/// `imprint.learnability_threshold`. docs/sql.md has an example of each; `\d+ imprint.effectivity`
/// explains the columns.
///
/// The session is the role imprint_reader's: it reads everything, changes nothing, and gives a
/// query up after five minutes (`set statement_timeout = 0` if it may take longer). `--write` lets
/// it do all that the database's own role may.
///
/// Example: `imprint sql -c "select step, target_mean_nats
/// from imprint.curve('mine/late-once-b32-s0', 3)"`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Answer this query and exit.
    #[arg(short, long, value_name = "QUERY", conflicts_with = "print")]
    command: Option<String>,
    /// Print the shell line that opens the database, and do nothing.
    ///
    /// The line works while `imprint up` runs.
    #[arg(long)]
    print: bool,
    /// Not as imprint_reader: changes are possible.
    #[arg(long)]
    write: bool,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    if arguments.print {
        let line = match (arguments.write, place.database_url()) {
            (false, _) => database::psql_line_with(place, &roles::read_only_options(true))?,
            (true, Some(url)) => database::psql_line(url),
            (true, None) => imprint_store::embedded::psql_line_of(&database::directory(place))?,
        };
        tell(line)?;
        return Ok(ExitCode::SUCCESS);
    }
    if on_path("psql").is_none() {
        return Err(Failure::failed(
            "psql is not on PATH (Debian: package postgresql-client); `imprint sql --print` prints \
             where the database is",
        ));
    }
    let database = Database::open(place).await?;
    let line = if arguments.write {
        database.psql_line.clone()
    } else {
        let has_reader = roles::has_reader(&database.store).await?;
        if !has_reader {
            eprintln!(
                "imprint: there is no role imprint_reader for this session (docs/database.md); \
                 it is read-only by default all the same"
            );
        }
        database::psql_line_with(place, &roles::read_only_options(has_reader))?
    };
    let mut shell = Command::new("sh");
    // The line is a shell command; what follows it reaches psql as it was typed.
    shell.args(["-c", &format!("{line} \"$@\""), "psql"]);
    if let Some(query) = &arguments.command {
        shell.args(["-v", "ON_ERROR_STOP=1", "-c", query]);
    }
    let mut psql = shell.spawn().map_err(Failure::doing("start psql"))?;
    // Ctrl-C is psql's: it ends a query there, not this process.
    let ended = tokio::task::spawn_blocking(move || psql.wait());
    let ended = ended.await.map_err(Failure::doing("wait for psql"))?;
    let status = ended.map_err(Failure::doing("wait for psql"))?;
    database.close().await?;
    match status.code() {
        Some(0) => Ok(ExitCode::SUCCESS),
        // psql has said why.
        Some(2) => Ok(ExitCode::from(3)),
        _ => Ok(ExitCode::FAILURE),
    }
}
