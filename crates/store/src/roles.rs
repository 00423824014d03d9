//! Who may do what in the database: `imprint_writer` for services, `imprint_reader` for people.
//!
//! The migrations make both (`imprint.ensure_roles`); `docs/database.md` tells how to use them.

use crate::{Error, Store};

/// May change every row and nothing else.
pub const WRITER: &str = "imprint_writer";

/// May read every row and nothing else.
pub const READER: &str = "imprint_reader";

/// What the reader's own sessions have as defaults; `set role` does not bring them along.
const READ_ONLY_OPTIONS: &str = "-c default_transaction_read_only=on -c statement_timeout=5min \
                                 -c idle_in_transaction_session_timeout=10min";

/// Connection options (libpq's `options`) of a session that only reads.
///
/// With `has_reader` it is the reader's; else the session's own role promises it to itself.
pub fn read_only_options(has_reader: bool) -> String {
    if has_reader {
        format!("-c role={READER} {READ_ONLY_OPTIONS}")
    } else {
        READ_ONLY_OPTIONS.to_owned()
    }
}

/// Whether the role that is connected may take the reader's place.
pub async fn has_reader(store: &Store) -> Result<bool, Error> {
    sqlx::query_scalar(
        "select coalesce(bool_or(pg_has_role(oid, 'member')), false)
         from pg_roles where rolname = $1",
    )
    .bind(READER)
    .fetch_one(store.pool())
    .await
    .map_err(Error::doing("look the role imprint_reader up"))
}
