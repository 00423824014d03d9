use super::*;

#[test]
fn the_major_version_is_read_from_what_postgres_says() {
    for (line, want) in [
        (
            "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)",
            Some(15),
        ),
        ("postgres (PostgreSQL) 9.6.24", Some(9)),
        ("postgres (PostgreSQL) 19beta1", Some(19)),
        ("postgres (PostgreSQL) 18", Some(18)),
        ("something else", None),
    ] {
        assert_eq!(major_version(line), want, "{line}");
    }
}

#[test]
fn what_is_there_is_not_installed_again() {
    let there = Need {
        name: "nothing",
        packages: &["a-package-that-does-not-exist"],
        is_there: || true,
    };
    assert!(provide(&[there]).is_ok());
}
