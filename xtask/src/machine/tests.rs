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
        services: &[],
        is_there: || true,
    };
    assert!(provide(&[there]).is_ok());
}

#[test]
fn daemons_are_found_without_being_on_the_path() {
    assert!(is_installed("sh"));
    assert!(!is_installed("a-program-that-does-not-exist"));
    let has_sbin = Path::new("/usr/sbin/ldconfig").is_file();
    assert!(!has_sbin || is_installed("ldconfig"));
}

#[test]
fn while_packages_are_installed_they_may_start_nothing() {
    let policy = env::temp_dir().join(format!("imprint-policy-{}", std::process::id()));
    let run = |script: &str| {
        let step = Step::new("sh").args(["-c", WITHOUT_STARTING]).arg(&policy);
        let step = step.args(["sh", "-c", script]).arg(&policy);
        step.arg("a b").output()
    };
    let asked = run("\"$0\"; echo $? \"$1\"");
    assert_eq!(asked.as_deref(), Some("101 a b"));
    assert!(!policy.exists());
    // It fails as what it runs does.
    assert_eq!(run("exit 3"), None);
    assert!(!policy.exists());

    fs::write(&policy, "somebody's own").unwrap();
    assert_eq!(run("cat \"$0\"").as_deref(), Some("somebody's own"));
    assert!(policy.exists());
    fs::remove_file(&policy).unwrap();
}
