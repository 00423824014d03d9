use std::time::Duration;

use imprint_store::Store;
use imprint_store::embedded::{self, Durability, Embedded, Error};
use imprint_testkit::{TestDb, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("make a temporary directory")
}

#[tokio::test]
async fn a_running_server_is_adopted_and_keeps_its_address() {
    let dir = directory();
    let first = Embedded::start(dir.path(), Durability::TestOnly)
        .await
        .unwrap();
    let (pid, url) = (first.postmaster_pid(), first.database_url());
    assert_eq!(embedded::database_url(dir.path()).unwrap(), url);
    drop(first);

    let second = Embedded::start(dir.path(), Durability::TestOnly)
        .await
        .unwrap();
    assert_eq!(
        (second.postmaster_pid(), second.database_url()),
        (pid, url.clone())
    );
    second.stop().await.unwrap();

    let third = Embedded::start(dir.path(), Durability::TestOnly)
        .await
        .unwrap();
    assert_ne!(third.postmaster_pid(), pid);
    assert_eq!(third.database_url(), url, "the port is kept");
    third.stop().await.unwrap();
}

#[tokio::test]
async fn one_process_looks_after_a_directory() {
    let dir = directory();
    let first = Embedded::start(dir.path(), Durability::TestOnly)
        .await
        .unwrap();
    let second = Embedded::start(dir.path(), Durability::TestOnly).await;
    assert!(matches!(second, Err(Error::InUse { .. })), "{second:?}");
    first.stop().await.unwrap();
}

#[tokio::test]
async fn a_port_that_was_taken_meanwhile_is_chosen_again() {
    let dir = directory();
    let first = Embedded::start(dir.path(), Durability::TestOnly)
        .await
        .unwrap();
    let url = first.database_url();
    first.stop().await.unwrap();
    let port: u16 = std::fs::read_to_string(dir.path().join("port"))
        .unwrap()
        .parse()
        .unwrap();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();

    let second = Embedded::start(dir.path(), Durability::TestOnly)
        .await
        .unwrap();
    assert_ne!(second.database_url(), url);
    Store::connect(&second.database_url()).await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_long_directory_gets_a_socket_elsewhere() {
    let dir = directory();
    let long = dir.path().join("d".repeat(120));
    let cluster = Embedded::start(&long, Durability::TestOnly).await.unwrap();
    let socket_dir = std::fs::read_to_string(long.join("socket_dir")).unwrap();
    let sockets = std::fs::read_dir(socket_dir.trim()).unwrap().count();
    assert!(sockets > 0);
    cluster.stop().await.unwrap();
    std::fs::remove_dir_all(socket_dir.trim()).unwrap();
}

#[tokio::test]
async fn a_killed_server_is_started_again_and_connections_recover() {
    let dir = directory();
    let cluster = Embedded::start(dir.path(), Durability::Durable)
        .await
        .unwrap();
    let store = Store::connect(&cluster.database_url()).await.unwrap();
    sqlx::query("create table kept (x int4)")
        .execute(store.pool())
        .await
        .unwrap();
    sqlx::query("insert into kept values (7)")
        .execute(store.pool())
        .await
        .unwrap();

    let supervised = async {
        let killed = cluster.postmaster_pid().unwrap();
        kill(Pid::from_raw(killed), Signal::SIGKILL).unwrap();
        wait_until(
            Duration::from_secs(30),
            "the database answers again",
            || async {
                cluster.postmaster_pid().is_some_and(|pid| pid != killed)
                    && sqlx::query("select 1").execute(store.pool()).await.is_ok()
            },
        )
        .await;
        let kept: i32 = sqlx::query_scalar("select x from kept")
            .fetch_one(store.pool())
            .await
            .unwrap();
        assert_eq!(kept, 7);
    };
    tokio::select! {
        () = cluster.supervise() => unreachable!("it never returns"),
        () = supervised => {}
    }
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn the_psql_line_opens_the_database() {
    let dir = directory();
    let cluster = Embedded::start(dir.path(), Durability::TestOnly)
        .await
        .unwrap();
    let line = embedded::psql_line_of(dir.path()).unwrap();
    assert_eq!(line, cluster.psql_line());
    assert!(
        !line.contains(&cluster.database_url()[20..60]),
        "no password in it"
    );
    let mut psql = std::process::Command::new("sh");
    psql.args(["-c", &format!("{line} -Atc 'select 40 + 2'")]);
    let output = imprint_testkit::output(&mut psql, Duration::from_secs(60));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "42",
        "{output:?}"
    );
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn secrets_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let db = TestDb::start().await;
    for name in ["password", "pgpass"] {
        let mode = std::fs::metadata(db.dir().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let wrong = db.url.replace("imprint:", "imprint:x");
    let refused = Store::connect(&wrong).await.unwrap_err();
    assert!(
        refused.to_string().starts_with("Postgres at 127.0.0.1"),
        "{refused}"
    );
    assert!(!refused.is_unavailable());
}

#[tokio::test]
async fn where_nothing_is_the_errors_say_so() {
    let dir = directory();
    let none = embedded::database_url(dir.path()).unwrap_err();
    assert!(
        none.to_string().contains("`imprint up` makes one"),
        "{none}"
    );

    let url = format!(
        "postgres://imprint:secret@127.0.0.1:{}/x",
        imprint_testkit::free_port()
    );
    let connected = timeout(Duration::from_secs(60), Store::connect(&url)).await;
    let down = connected.expect("it is not waited for").unwrap_err();
    assert!(down.is_unavailable());
    assert!(
        down.to_string()
            .starts_with("Postgres is down at 127.0.0.1:"),
        "{down}"
    );
    assert!(!down.to_string().contains("secret"));
}

#[tokio::test]
async fn several_services_may_migrate_at_once() {
    let db = TestDb::start().await;
    sqlx::query("create database fresh")
        .execute(db.store.pool())
        .await
        .unwrap();
    let url = format!("{}/fresh", db.url.strip_suffix("/imprint").unwrap());
    let migrate = || async {
        let store = Store::connect(&url).await.unwrap();
        store.migrate().await
    };
    let (a, b, c) = tokio::join!(migrate(), migrate(), migrate());
    a.and(b).and(c).unwrap();
}
