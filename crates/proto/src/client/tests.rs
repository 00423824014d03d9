use super::*;

fn with_token(url: &str) -> Target {
    let credentials = Credentials::default()
        .with_token(Some(&Secret::new("imprint_abc")))
        .unwrap();
    Target {
        url: url.to_owned(),
        credentials,
    }
}

#[test]
fn a_token_goes_in_the_clear_on_this_machine_only() {
    for url in [
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://localhost:1",
        "https://lab.example:1",
    ] {
        assert!(endpoint(&with_token(url)).is_ok(), "{url}");
    }
    for url in ["http://lab.example:1", "http://10.0.0.1:1"] {
        let error = endpoint(&with_token(url)).unwrap_err();
        assert!(matches!(error, Error::InTheClear { .. }), "{error}");
        assert!(endpoint(&url.into()).is_ok(), "{url} without a token");
    }
}

#[test]
fn a_renewed_token_is_shown_and_none_is_printed() {
    let target = with_token("http://127.0.0.1:1");
    let mut shown = target.credentials.token.clone();
    target
        .credentials
        .token
        .renew(&Secret::new("imprint_def"))
        .unwrap();
    let request = shown.call(Request::new(())).unwrap();
    let value = request.metadata().get("authorization").unwrap();
    assert_eq!(value, "Bearer imprint_def");
    let printed = format!("{target:?} {request:?}");
    assert!(!printed.contains("imprint_"), "{printed}");
    let unfit = Token::default().renew(&Secret::new("a\nb")).unwrap_err();
    assert!(!unfit.to_string().contains("a\nb"));
}
