//! Every query against a real Postgres.

mod embedded;
