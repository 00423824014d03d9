use imprint_testkit::{SeedRun, TestDb, seed_run};

/// People read the schema with `\d+`.
#[tokio::test]
async fn everything_that_people_see_says_what_it_is() {
    let db = TestDb::start().await;
    let silent: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c
         where c.relnamespace = 'imprint'::regnamespace and c.relkind in ('r', 'p', 'v')
             and obj_description(c.oid, 'pg_class') is null
         union all
         select c.relname || '.' || a.attname from pg_class c
         join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         where c.relnamespace = 'imprint'::regnamespace and c.relkind in ('r', 'p', 'v')
             and not c.relispartition and col_description(c.oid, a.attnum) is null
         union all
         select oid::regprocedure::text from pg_proc
         where pronamespace = 'imprint'::regnamespace and obj_description(oid, 'pg_proc') is null",
    )
    .fetch_all(db.store.pool())
    .await
    .unwrap();
    assert_eq!(silent, Vec::<String>::new());
    // The unit is in the name, and in words beside it.
    let unitless: Vec<String> = sqlx::query_scalar(
        r"select c.relname || '.' || a.attname from pg_class c
         join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         where c.relnamespace = 'imprint'::regnamespace and c.relkind in ('r', 'p', 'v')
             and not c.relispartition and a.attname like '%\_nats'
             and col_description(c.oid, a.attnum) !~ '\mnats\M'",
    )
    .fetch_all(db.store.pool())
    .await
    .unwrap();
    assert_eq!(unitless, Vec::<String>::new());
}

#[tokio::test]
async fn partitions_are_made_once_while_others_write() {
    let db = TestDb::start().await;
    let id = seed_run(&db.store, &SeedRun::default()).await;
    let mut writing = db.store.pool().begin().await.unwrap();
    for statement in [
        "select imprint.ensure_partitions($1)",
        "insert into imprint.step_reading select $1, 0, 0, 1, '{}', '{}', '{}'",
    ] {
        sqlx::query(statement)
            .bind(id)
            .execute(&mut *writing)
            .await
            .unwrap();
    }
    writing.commit().await.unwrap();
    let mut writing = db.store.pool().begin().await.unwrap();
    sqlx::query("insert into imprint.step_reading select $1, 1, 1, 1, '{}', '{}', '{}'")
        .bind(id)
        .execute(&mut *writing)
        .await
        .unwrap();
    let make = |run_id: i32| {
        sqlx::query("select imprint.ensure_partitions($1)")
            .bind(run_id)
            .execute(db.store.pool())
    };
    let made = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        tokio::try_join!(make(1000), make(1001), make(1002), make(5000), make(1000))
    })
    .await
    .expect("a writer is not waited for");
    made.unwrap();
    writing.commit().await.unwrap();
    let n: i64 = sqlx::query_scalar(
        "select count(*) from pg_inherits where inhparent = 'imprint.step_reading'::regclass",
    )
    .fetch_one(db.store.pool())
    .await
    .unwrap();
    assert_eq!(n, 3);
    let stored: String = sqlx::query_scalar(
        "select string_agg(attstorage::text, '') from pg_attribute
         where attrelid = 'imprint.step_reading_0'::regclass and attname like '%_sum_nats'",
    )
    .fetch_one(db.store.pool())
    .await
    .unwrap();
    assert_eq!(stored, "eee", "arrays of noise are kept as they are");
    let analysed: i64 = sqlx::query_scalar(
        "select count(*) from pg_attribute a join pg_class c on c.oid = a.attrelid
         where c.relnamespace = 'imprint'::regnamespace and c.relkind in ('r', 'p')
             and a.attname ~ '_sum_nats$' and coalesce(a.attstattarget, -1) <> 0",
    )
    .fetch_one(db.store.pool())
    .await
    .unwrap();
    assert_eq!(analysed, 0, "arrays of noise have no statistics");
}

/// A service says that it cannot do its work unless all of this holds.
#[tokio::test]
async fn ready_is_a_database_of_this_version_that_can_be_written() {
    let db = TestDb::start().await;
    let run = async |statement: &'static str| {
        let done = sqlx::query(statement).execute(db.store.pool()).await;
        done.unwrap();
    };
    let problem = || async {
        let error = db.store.ready().await.unwrap_err();
        (error.is_unavailable(), error.to_string())
    };
    db.store.ready().await.unwrap();

    run("alter system set default_transaction_read_only = on").await;
    run("select pg_reload_conf()").await;
    let limit = std::time::Duration::from_secs(10);
    imprint_testkit::wait_until(limit, "the setting is read", || async {
        db.store.ready().await.is_err()
    })
    .await;
    let read_only = "the database takes no changes: it is read-only, as a standby is";
    assert_eq!(problem().await, (true, read_only.to_owned()));
    // What tries to write finds the same.
    let refused = sqlx::query("delete from imprint.run")
        .execute(db.store.pool())
        .await
        .map_err(imprint_store::Error::doing("write"));
    assert!(refused.unwrap_err().is_unavailable());
    run("alter system reset default_transaction_read_only").await;
    run("select pg_reload_conf()").await;
    imprint_testkit::wait_until(limit, "it can be written again", || async {
        db.store.ready().await.is_ok()
    })
    .await;

    run("insert into _sqlx_migrations values (9999, 'of the future', now(), true, '', 0)").await;
    db.store.ready().await.unwrap();
    db.store.migrate().await.unwrap();
    run(
        "create or replace function imprint.oldest_program() returns int8
         language sql immutable return 9999",
    )
    .await;
    let (_, newer) = problem().await;
    assert!(newer.contains("has migration 9999"), "{newer}");
    assert!(db.store.migrate().await.is_err());
    run("delete from _sqlx_migrations where version in (1, 9999)").await;
    let (_, older) = problem().await;
    assert!(older.contains("lacks migration 1;"), "{older}");
    run("drop table _sqlx_migrations").await;
    let (_, absent) = problem().await;
    assert!(absent.contains("lacks migration 1;"), "{absent}");
}
