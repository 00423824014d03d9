use super::{url_with, without_password};

#[track_caller]
fn check(url: &str, want: &str) {
    assert_eq!(url_with(url, "-c role=imprint_reader"), want);
}

#[test]
fn options_are_added_to_a_url_behind_its_own() {
    check(
        "postgres://me@host/db",
        "postgres://me@host/db?options=-c%20role%3Dimprint_reader",
    );
    check(
        "postgres://me@host/db?sslmode=require",
        "postgres://me@host/db?sslmode=require&options=-c%20role%3Dimprint_reader",
    );
    check(
        "postgres://me@host/db?options=-c%20role%3Dimprint_writer&sslmode=require",
        "postgres://me@host/db?options=-c%20role%3Dimprint_writer%20-c%20role%3Dimprint_reader\
         &sslmode=require",
    );
}

#[test]
fn a_url_is_shown_without_its_password() {
    let of = without_password;
    assert_eq!(
        of("postgres://me:p@ss:word@host:5432/db"),
        "postgres://me@host:5432/db"
    );
    assert_eq!(of("postgres://me@host/db"), "postgres://me@host/db");
    assert_eq!(of("postgres://host/db"), "postgres://host/db");
    assert_eq!(
        of("postgres:///db?password=secret&host=/run/postgresql&user=me"),
        "postgres:///db?host=/run/postgresql&user=me"
    );
}
