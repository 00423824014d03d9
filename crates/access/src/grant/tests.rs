use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn in_an_hour() -> SystemTime {
    SystemTime::now() + HOUR
}

fn signer() -> (tempfile::TempDir, GrantSigner) {
    let dir = tempfile::tempdir().unwrap();
    let signer = GrantSigner::of_file(&dir.path().join("key.pem")).unwrap();
    (dir, signer)
}

#[test]
fn a_signed_grant_is_read_back_until_it_ends() {
    let (_dir, signer) = signer();
    let grant = Grant::for_attempt(5, 2, in_an_hour());
    let token = signer.sign(&grant);
    let keys = signer.keys();
    let now = SystemTime::now();
    assert_eq!(keys.check(token.expose(), now), Ok(grant));
    // Clocks may differ by a minute.
    assert_eq!(keys.check(token.expose(), now + HOUR), Ok(grant));
    assert_eq!(
        keys.check(token.expose(), now + HOUR + 2 * LEEWAY),
        Err(Refusal::Expired)
    );
    let run = Grant::for_run(5, in_an_hour());
    assert_eq!(run.attempt, None);
    assert_eq!(keys.check(signer.sign(&run).expose(), now), Ok(run));
}

#[test]
fn only_the_orchestrators_key_signs() {
    let (_dir, signer) = signer();
    let (_other_dir, other) = self::signer();
    let now = SystemTime::now();
    let token = other.sign(&Grant::for_run(5, in_an_hour()));
    let check = |token: &str| signer.keys().check(token, now).unwrap_err();
    assert_eq!(check(token.expose()), Refusal::Unsigned);
    // A payload under another payload's signature.
    let (mine, more) = (
        signer.sign(&Grant::for_run(5, in_an_hour())),
        signer.sign(&Grant::for_run(6, in_an_hour())),
    );
    let (head, _) = more.expose().rsplit_once('.').unwrap();
    let (_, signature) = mine.expose().rsplit_once('.').unwrap();
    assert_eq!(check(&format!("{head}.{signature}")), Refusal::Unsigned);
    for text in ["imprint-run.", "imprint-run.a", "imprint-run.%.%", ""] {
        assert_eq!(check(text), Refusal::Malformed, "{text}");
    }
    // Signed, but not for this.
    let stranger = |signed: &[u8], payload: &[u8]| {
        format!(
            "{PREFIX}{}.{}",
            URL_SAFE_NO_PAD.encode(payload),
            URL_SAFE_NO_PAD.encode(signer.key.sign(signed))
        )
    };
    let payload = br#"{"run":5,"exp":99999999999}"#;
    assert_eq!(check(&stranger(payload, payload)), Refusal::Unsigned);
    let unread = br#"{"run":5,"exp":99999999999,"admin":true}"#;
    let signed = [PURPOSE, unread.as_slice()].concat();
    assert_eq!(check(&stranger(&signed, unread)), Refusal::Malformed);
}

#[test]
fn the_key_is_kept_and_its_public_half_published() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    let first = GrantSigner::of_file(&path).unwrap();
    let again = GrantSigner::of_file(&path).unwrap();
    let published = GrantKeys::of_file(&dir.path().join("key.pem.pub")).unwrap();
    assert_eq!(published, first.keys());
    assert_eq!(published, again.keys());

    // A new key: what the one before has signed is good until its public half is taken out.
    let old = first.sign(&Grant::for_run(1, in_an_hour()));
    std::fs::remove_file(&path).unwrap();
    let second = GrantSigner::of_file(&path).unwrap();
    let new = second.sign(&Grant::for_run(1, in_an_hour()));
    let keys = GrantKeys::of_file(&dir.path().join("key.pem.pub")).unwrap();
    assert_eq!(keys, second.keys());
    for token in [&old, &new] {
        assert!(keys.check(token.expose(), SystemTime::now()).is_ok());
    }
    let refused = first.keys().check(new.expose(), SystemTime::now());
    assert_eq!(refused, Err(Refusal::Unsigned));
}

#[test]
fn what_is_no_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    Secret::new("no key").create(&path).unwrap();
    let error = GrantSigner::of_file(&path).unwrap_err();
    assert!(matches!(error, KeyError::NoKey { .. }), "{error}");
    let error = GrantKeys::of_file(&path).unwrap_err();
    assert!(matches!(error, KeyError::NoKey { .. }), "{error}");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = GrantSigner::of_file(&path).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

proptest! {
    #[test]
    fn no_changed_token_passes(at in 0..200usize, to in "[A-Za-z0-9_.-]") {
        let (_dir, signer) = signer();
        let token = signer.sign(&Grant::for_attempt(5, 2, in_an_hour())).expose().to_owned();
        let at = at % token.len();
        let mut changed = token.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != token);
        prop_assert!(signer.keys().check(&changed, SystemTime::now()).is_err());
    }
}
