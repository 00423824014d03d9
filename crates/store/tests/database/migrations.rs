//! Databases of every earlier version, brought up to date with what they hold.

use std::collections::BTreeMap;
use std::path::Path;

use imprint_store::{Store, derived};
use imprint_testkit::TestDb;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, PgPool};

const VERSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/database/versions");
const MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");

/// Columns of each table that is not a partition: names, and all rows as text.
type Contents = BTreeMap<String, (Vec<String>, Vec<String>)>;

async fn columns(pool: &PgPool, table: &str) -> Vec<String> {
    sqlx::query_scalar(
        "select quote_ident(attname) from pg_attribute
         where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum",
    )
    .bind(table)
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn relations(pool: &PgPool, kinds: &str) -> Vec<String> {
    sqlx::query_scalar(
        "select oid::regclass::text from pg_class where relnamespace = 'imprint'::regnamespace
             and strpos($1, relkind::text) > 0 and not relispartition order by 1",
    )
    .bind(kinds)
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn rows(pool: &PgPool, table: &str, columns: &[String]) -> Vec<String> {
    let columns = columns.join(", ");
    let query = format!("select row({columns})::text from {table} order by 1");
    sqlx::query_scalar(AssertSqlSafe(query))
        .fetch_all(pool)
        .await
        .unwrap_or_else(|e| panic!("{table} ({columns}): {e}"))
}

async fn contents(pool: &PgPool) -> Contents {
    let mut contents = Contents::new();
    for table in relations(pool, "rp").await {
        let columns = columns(pool, &table).await;
        let rows = rows(pool, &table, &columns).await;
        contents.insert(table, (columns, rows));
    }
    contents
}

/// Fills a database as the program of a version would have; the fixtures build on each other.
async fn fill(pool: &PgPool, version: i64) {
    for n in 1..=version {
        let fixture = Path::new(VERSIONS).join(format!("{n:04}.sql"));
        if fixture.is_file() {
            let sql = std::fs::read_to_string(&fixture).unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(pool)
                .await
                .unwrap_or_else(|e| panic!("{}: {e}", fixture.display()));
        }
    }
}

#[tokio::test]
async fn every_version_comes_up_with_all_it_holds() {
    let db = TestDb::start().await;
    let all = Migrator::new(Path::new(MIGRATIONS)).await.unwrap();
    let versions: Vec<i64> = all.iter().map(|m| m.version).collect();
    assert!(versions.is_sorted() && versions.first() == Some(&1));
    for &version in &versions {
        let name = format!("version{version}");
        sqlx::query(AssertSqlSafe(format!("create database {name}")))
            .execute(db.store.pool())
            .await
            .unwrap();
        let url = db.url_of(&name);
        let store = Store::connect(&url).await.unwrap();
        let prefix = all.iter().filter(|m| m.version <= version).cloned();
        Migrator::with_migrations(prefix.collect())
            .run(store.pool())
            .await
            .unwrap();
        fill(store.pool(), version).await;
        let before = contents(store.pool()).await;
        let n_rows: usize = before.values().map(|(_, rows)| rows.len()).sum();
        assert!(n_rows > 400, "the fixtures fill the tables: {n_rows} rows");

        store.migrate().await.unwrap();
        for (table, (columns, was)) in &before {
            let is = rows(store.pool(), table, columns).await;
            assert_eq!(&is, was, "{table}, from version {version}");
        }
        for view in relations(store.pool(), "vm").await {
            let columns = columns(store.pool(), &view).await;
            let n = rows(store.pool(), &view, &columns).await.len();
            if ["imprint.reading", "imprint.run_summary"].contains(&view.as_str()) {
                assert!(n > 0, "{view}, from version {version}");
            }
        }
        for run_id in derived::runs(&store).await.unwrap() {
            let check = derived::check(&store, run_id).await.unwrap();
            assert!(check.is_equal(), "{:?}", check.differences);
        }
        // And what was not looked at goes on: the schema is the one that the program knows.
        store.migrate().await.unwrap();
        store.pool().close().await;
    }
}
