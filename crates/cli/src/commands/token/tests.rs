use super::*;

#[test]
fn lifetimes() {
    let seconds = |text| lifetime(text).map(|Lifetime(lasts)| lasts.map(|l| l.as_secs()));
    assert_eq!(seconds("90d"), Ok(Some(90 * 24 * 3600)));
    assert_eq!(seconds("12h"), Ok(Some(12 * 3600)));
    assert_eq!(seconds("never"), Ok(None));
    for wrong in [
        "",
        "d",
        "90",
        "-1d",
        "0d",
        "9é",
        "99999999999999999w",
        "1.5h",
    ] {
        assert!(seconds(wrong).is_err(), "{wrong}");
    }
}
