use super::url_with;

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
