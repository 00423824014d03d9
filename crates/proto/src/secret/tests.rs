use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_secret_is_written_for_its_owner_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let secret = Secret::new("imprint_abc");
    secret.create(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(Secret::read(&path).unwrap(), secret);
    let error = secret.create(&path).unwrap_err();
    assert!(matches!(error, SecretError::Write { .. }), "{error}");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Secret::read(&path).unwrap_err().to_string();
    let path_text = path.display();
    assert_eq!(
        error,
        format!(
            "others than its owner may read the secret {path_text} (its mode is 0644): run \
             `chmod 600 {path_text}`"
        )
    );
    // What replaces it does not inherit its mode.
    Secret::new("another").replace(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(Secret::read(&path).unwrap().expose(), "another");
}

#[test]
fn what_is_no_secret_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let check = |bytes: &[u8]| {
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = Secret::read(&path).unwrap_err();
        assert!(matches!(error, SecretError::NoText { .. }), "{error}");
    };
    check(b"");
    check(b" \n");
    check(&[0xff, 0xfe]);
    check(&vec![b'a'; MAX_BYTES as usize + 1]);
    let absent = Secret::read(&dir.path().join("absent")).unwrap_err();
    assert!(matches!(absent, SecretError::Open { .. }), "{absent}");
}

#[test]
fn a_secret_is_never_shown() {
    let secret = Secret::new("imprint_abc");
    assert_eq!(format!("{secret:?}"), "Secret(…)");
    assert!(!format!("{:#?}", Some((1, &secret))).contains("abc"));
}
