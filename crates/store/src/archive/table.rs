//! The tables that hold a run, by the catalog, and their rows.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;
use sqlx::PgConnection;

use super::rows::{CopyRows, Kind};
use super::{ColumnManifest, NUMBERS};
use crate::Error;

/// Made again from the readings; the head of the chunks first, under which they are made.
pub(super) const DERIVED: [&str; 3] = ["step_mean", "chunk_head", "probe_chunk"];

/// Of a run without a `run_id`: they may be shared with other runs.
pub(super) const SHARED: [&str; 3] = ["probe_set", "probe", "experiment"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) sql_type: String,
    pub(super) kind: Kind,
}

impl Column {
    /// To order by it: the same in every database, whatever its collation.
    fn in_order(&self) -> String {
        match self.sql_type.as_str() {
            "text" => format!("\"{}\" collate \"C\"", self.name),
            _ => format!("\"{}\"", self.name),
        }
    }

    /// Whether it is a number that a database gives out by itself.
    pub(super) fn is_number(&self) -> bool {
        NUMBERS.contains(&self.name.as_str())
    }
}

impl From<&Column> for ColumnManifest {
    fn from(column: &Column) -> Self {
        Self {
            name: column.name.clone(),
            sql_type: column.sql_type.clone(),
        }
    }
}

impl TryFrom<&ColumnManifest> for Column {
    type Error = Error;

    fn try_from(column: &ColumnManifest) -> Result<Self, Error> {
        let kind = Kind::of(&column.sql_type).ok_or_else(|| Error::Corrupt {
            what: format!("column {}", column.name),
            problem: format!("its type {} cannot be archived", column.sql_type),
        })?;
        Ok(Self {
            name: column.name.clone(),
            sql_type: column.sql_type.clone(),
            kind,
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// What orders its rows of one run, whichever numbers they have.
    order: Vec<String>,
}

impl Table {
    /// The condition on its rows that makes them a run's.
    pub(super) fn of_run(&self, run_id: i32) -> String {
        match self.name.as_str() {
            "probe_set" | "probe" => format!(
                "probe_set_id = (select probe_set_id from imprint.run where run_id = {run_id})"
            ),
            "experiment" => format!(
                "experiment_id in (select experiment_id from imprint.experiment_run
                                   where run_id = {run_id})"
            ),
            // A number in the text and not a parameter: only one partition is planned for.
            _ => format!("run_id = {run_id}"),
        }
    }

    /// Names of its columns, for a statement.
    pub(super) fn column_list(columns: &[Column]) -> String {
        let names: Vec<String> = columns.iter().map(|c| format!("\"{}\"", c.name)).collect();
        names.join(", ")
    }

    /// Hands every row of a run over, in order, as the fields that a binary COPY has.
    pub(super) async fn each_row(
        &self,
        db: &mut PgConnection,
        run_id: i32,
        mut row: impl FnMut(&[Option<&[u8]>]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let doing = || Error::doing(format!("read {} of run {run_id}", self.name));
        let statement = format!(
            "copy (select {} from imprint.{} where {} order by {}) to stdout (format binary)",
            Self::column_list(&self.columns),
            self.name,
            self.of_run(run_id),
            self.order.join(", "),
        );
        let unreadable = |problem| Error::Corrupt {
            what: format!("{} of run {run_id}", self.name),
            problem,
        };
        let mut pieces = db.copy_out_raw(&statement).await.map_err(doing())?;
        let mut rows = CopyRows::default();
        while let Some(piece) = pieces.try_next().await.map_err(doing())? {
            rows.push(&piece);
            while let Some(fields) = rows.next().map_err(unreadable)? {
                row(&fields)?;
            }
        }
        Ok(())
    }
}

/// Every table that holds something of a run, those that others refer to first.
///
/// # Errors
/// When one has a column of a type that cannot be archived.
pub(super) async fn of_runs(db: &mut PgConnection) -> Result<Vec<Table>, Error> {
    let doing = || Error::doing("look up which tables hold a run");
    let columns: Vec<(String, String, String, Option<i32>)> = sqlx::query_as(
        "select c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
             array_position(i.indkey::int2[], a.attnum)
         from pg_class c
         join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
             and a.attgenerated = ''
         left join pg_index i on i.indrelid = c.oid and i.indisprimary
         where c.relnamespace = 'imprint'::regnamespace and c.relkind in ('r', 'p')
             and not c.relispartition and c.relname <> all ($1)
             and (c.relname = any ($2) or exists (
                 select from pg_attribute r where r.attrelid = c.oid and r.attname = 'run_id'))
         order by c.relname, a.attnum",
    )
    .bind(&DERIVED[..])
    .bind(&SHARED[..])
    .fetch_all(&mut *db)
    .await
    .map_err(doing())?;
    let references: Vec<(String, String)> = sqlx::query_as(
        "select distinct a.relname::text, b.relname::text from pg_constraint f
         join pg_class a on a.oid = f.conrelid
         join pg_class b on b.oid = f.confrelid
         where f.contype = 'f' and a.relnamespace = 'imprint'::regnamespace and a.oid <> b.oid
         union
         -- Not every table that a run has something in says so by a foreign key.
         select c.relname::text, 'run' from pg_class c join pg_attribute r on r.attrelid = c.oid
         where c.relnamespace = 'imprint'::regnamespace and r.attname = 'run_id'
             and c.relname <> 'run'
         union
         select 'run_fact', 'run_arm'",
    )
    .fetch_all(&mut *db)
    .await
    .map_err(doing())?;

    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    let mut keys: BTreeMap<String, Vec<(i32, String)>> = BTreeMap::new();
    for (table, name, sql_type, key) in columns {
        let column = Column::try_from(&ColumnManifest { name, sql_type })?;
        if let Some(position) = key.filter(|_| !column.is_number()) {
            let key = keys.entry(table.clone()).or_default();
            key.push((position, column.in_order()));
        }
        tables
            .entry(table.clone())
            .or_insert_with(|| Table {
                name: table,
                columns: Vec::new(),
                order: Vec::new(),
            })
            .columns
            .push(column);
    }
    for table in tables.values_mut() {
        let mut key = keys.remove(&table.name).unwrap_or_default();
        key.sort();
        table.order = key.into_iter().map(|(_, column)| column).collect();
        if table.order.is_empty() {
            let others = table.columns.iter().filter(|c| !c.is_number());
            table.order = others.map(Column::in_order).collect();
        }
    }

    let mut ordered: Vec<Table> = Vec::with_capacity(tables.len());
    while !tables.is_empty() {
        let waiting: BTreeSet<&str> = (references.iter())
            .filter(|(from, to)| tables.contains_key(from) && tables.contains_key(to))
            .map(|(from, _)| from.as_str())
            .collect();
        let free: Vec<String> = (tables.keys())
            .filter(|name| !waiting.contains(name.as_str()))
            .cloned()
            .collect();
        if free.is_empty() {
            return Err(Error::Corrupt {
                what: "the schema".to_owned(),
                problem: "tables refer to each other in a circle".to_owned(),
            });
        }
        ordered.extend(free.iter().filter_map(|name| tables.remove(name)));
    }
    Ok(ordered)
}
