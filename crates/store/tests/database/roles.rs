use imprint_store::ingest::Writer;
use imprint_store::{Store, derived, roles};
use imprint_testkit::{SeedRun, TestDb, begin_attempt, seed_run};

use crate::{measure_all, readings};

/// The same database as another role.
async fn connect_as(db: &TestDb, role: &str) -> Store {
    Store::connect(&format!("{}?options=-c%20role%3D{role}", db.url))
        .await
        .unwrap()
}

async fn denied(store: &Store, statement: &str) {
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(store.pool())
        .await;
    let Err(sqlx::Error::Database(error)) = done else {
        panic!("`{statement}` should be denied: {done:?}");
    };
    assert_eq!(
        error.code().as_deref(),
        Some("42501"),
        "{statement}: {error}"
    );
}

async fn relations(store: &Store, kinds: &str) -> Vec<String> {
    sqlx::query_scalar(
        "select oid::regclass::text from pg_class
         where relnamespace = 'imprint'::regnamespace and strpos($1, relkind::text) > 0 order by 1",
    )
    .bind(kinds)
    .fetch_all(store.pool())
    .await
    .unwrap()
}

/// A service may be given no more than this.
#[tokio::test]
async fn the_writer_suffices_for_ingest_and_makes_no_tables() {
    let db = TestDb::start().await;
    let writer = connect_as(&db, roles::WRITER).await;
    writer
        .migrate()
        .await
        .expect("an up-to-date schema needs no owner");
    let run = SeedRun::default();
    let run_id = seed_run(&writer, &run).await;
    measure_all(&writer, run_id, &run).await;
    // A later attempt supersedes; a rebuild and a check are a service's work too.
    let attempt = begin_attempt(&writer, run_id).await;
    let (mut stream, at) = Writer::open(&writer, run_id, attempt, 3, "m")
        .await
        .unwrap();
    assert_eq!(at.next_reading, 3);
    stream.append(&readings(&run, 3..9, attempt)).await.unwrap();
    assert_eq!(derived::rebuild(&writer, run_id).await.unwrap(), 9);
    assert!(derived::check(&writer, run_id).await.unwrap().is_equal());
    // Its partitions belong to the owner, so a reader of today reads them.
    let reader = connect_as(&db, roles::READER).await;
    let n: i64 = sqlx::query_scalar("select count(*) from imprint.step_reading_0")
        .fetch_one(reader.pool())
        .await
        .unwrap();
    assert_eq!(n, 9);
    for statement in [
        "create table imprint.mine ()",
        "alter table imprint.run add column mine int4",
        "drop table imprint.step_reading_0",
        "truncate imprint.step_reading",
        "select imprint.ensure_roles()",
    ] {
        denied(&writer, statement).await;
    }
}

#[tokio::test]
async fn the_reader_reads_everything_and_changes_nothing() {
    let db = TestDb::start().await;
    let run = SeedRun::default();
    let run_id = seed_run(&db.store, &run).await;
    measure_all(&db.store, run_id, &run).await;
    let reader = connect_as(&db, roles::READER).await;
    assert!(roles::has_reader(&db.store).await.unwrap());
    assert!(derived::check(&reader, run_id).await.unwrap().is_equal());

    // Its promise not to write is only a default; what it may not do, it may not do without it.
    let (read_only, timeout): (String, String) = sqlx::query_as(
        "select (select option_value from pg_options_to_table(rolconfig)
                 where option_name = 'default_transaction_read_only'),
                (select option_value from pg_options_to_table(rolconfig)
                 where option_name = 'statement_timeout')
         from pg_roles where rolname = 'imprint_reader'",
    )
    .fetch_one(reader.pool())
    .await
    .unwrap();
    assert_eq!((read_only.as_str(), timeout.as_str()), ("on", "5min"));
    for table in &relations(&reader, "rpv").await {
        let read = format!("select count(*) from (select * from {table} limit 1) t");
        if table == "imprint.token" {
            // Who may do what is nobody's business who only reads.
            denied(&reader, &read).await;
            continue;
        }
        sqlx::query(sqlx::AssertSqlSafe(read))
            .execute(reader.pool())
            .await
            .unwrap_or_else(|e| panic!("{table}: {e}"));
    }
    let partitions_too = relations(&reader, "rp").await;
    assert!(partitions_too.len() > 20);
    for table in &partitions_too {
        denied(&reader, &format!("delete from {table}")).await;
        denied(&reader, &format!("truncate {table}")).await;
        let column: String = sqlx::query_scalar(
            "select attname::text from pg_attribute where attrelid = $1::regclass and attnum = 1",
        )
        .bind(table)
        .fetch_one(reader.pool())
        .await
        .unwrap();
        denied(&reader, &format!("insert into {table} default values")).await;
        denied(&reader, &format!("update {table} set {column} = default")).await;
    }
    for statement in [
        "create table imprint.mine ()",
        "create function imprint.mine() returns int4 language sql as 'select 1'",
        "drop view imprint.reading",
        "select nextval('imprint.run_run_id_seq')",
        "select setval('imprint.run_run_id_seq', 1)",
        "select imprint.ensure_partitions(5000)",
        "select imprint.ensure_roles()",
        "create schema mine",
    ] {
        denied(&reader, statement).await;
    }
    // Nor by a function that acts with its owner's rights.
    let open: Vec<String> = sqlx::query_scalar(
        "select oid::regprocedure::text from pg_proc
         where pronamespace = 'imprint'::regnamespace and prosecdef
             and has_function_privilege('imprint_reader', oid, 'execute')",
    )
    .fetch_all(reader.pool())
    .await
    .unwrap();
    assert_eq!(open, Vec::<String>::new());
}

/// Roles are the cluster's: the databases of one cluster find them or make them, all at once.
#[tokio::test]
async fn databases_of_one_cluster_share_the_roles() {
    let db = TestDb::start().await;
    sqlx::raw_sql(
        "drop owned by imprint_writer, imprint_reader; drop role imprint_writer, imprint_reader",
    )
    .execute(db.store.pool())
    .await
    .unwrap();
    let mut migrating = Vec::new();
    for n in 0..4 {
        sqlx::query(sqlx::AssertSqlSafe(format!("create database db{n}")))
            .execute(db.store.pool())
            .await
            .unwrap();
        let url = db.url_of(&format!("db{n}"));
        migrating.push(async move {
            let store = Store::connect(&url).await.unwrap();
            store.migrate().await.unwrap();
            assert!(roles::has_reader(&store).await.unwrap());
            let role = format!("{url}?options=-c%20role%3D{}", roles::READER);
            let reader = Store::connect(&role).await.unwrap();
            let n: i64 = sqlx::query_scalar("select count(*) from imprint.run")
                .fetch_one(reader.pool())
                .await
                .unwrap();
            assert_eq!(n, 0);
        });
    }
    futures::future::join_all(migrating).await;
}

/// Managed databases may give an owner who makes no roles: it owns the schema all the same.
#[tokio::test]
async fn an_owner_who_may_not_make_roles_goes_on_without() {
    let db = TestDb::start().await;
    sqlx::raw_sql(
        "drop owned by imprint_writer, imprint_reader;
         drop role imprint_writer, imprint_reader;
         create role plain login password 'plain'",
    )
    .execute(db.store.pool())
    .await
    .unwrap();
    sqlx::query("create database plain owner plain")
        .execute(db.store.pool())
        .await
        .unwrap();
    let (_, address) = db.url.split_once('@').unwrap();
    let (address, _) = address.split_once('/').unwrap();
    let plain = Store::connect(&format!("postgres://plain:plain@{address}/plain"))
        .await
        .unwrap();
    plain.migrate().await.unwrap();
    assert!(!roles::has_reader(&plain).await.unwrap());
    let run = SeedRun::default();
    let run_id = seed_run(&plain, &run).await;
    measure_all(&plain, run_id, &run).await;

    // Somebody makes them later.
    sqlx::raw_sql(
        "create role imprint_writer; create role imprint_reader;
         grant imprint_writer, imprint_reader to plain",
    )
    .execute(db.store.pool())
    .await
    .unwrap();
    sqlx::query("select imprint.ensure_roles()")
        .execute(plain.pool())
        .await
        .unwrap();
    assert!(roles::has_reader(&plain).await.unwrap());
    let reader = Store::connect(&format!(
        "postgres://plain:plain@{address}/plain?options=-c%20role%3Dimprint_reader"
    ))
    .await
    .unwrap();
    assert!(derived::check(&reader, run_id).await.unwrap().is_equal());
    denied(&reader, "delete from imprint.run").await;
    denied(&reader, "select sha256 from imprint.token").await;
}
