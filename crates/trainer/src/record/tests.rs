use super::*;

#[test]
fn a_record_says_what_runs_and_where() {
    let record = serde_json::to_value(Record::here()).unwrap();
    let text = |pointer: &str| {
        let value = record.pointer(pointer).and_then(|v| v.as_str());
        value
            .unwrap_or_else(|| panic!("{pointer} in {record}"))
            .to_owned()
    };
    assert_eq!(text("/program"), "imprint-trainer");
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(text("/binary_sha256"), format!("{:x}", Sha256::digest(own)));
    assert!(!text("/revision").is_empty());
    assert!(text("/build/rustc").starts_with("rustc "));
    assert!(text("/build/target").contains(std::env::consts::ARCH));
    assert!(text("/libraries/burn").starts_with(|c: char| c.is_ascii_digit()));
    assert!(text("/libraries/gemm").contains('.'));
    assert!(!text("/kernel").is_empty());
    assert!(record["n_cores"].as_u64().unwrap() > 0);
}

#[test]
fn the_drivers_version_is_found() {
    for (text, version) in [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n\
             GCC version:  gcc version 12.3.0",
            Some("580.95.05"),
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021",
            Some("470.57.02"),
        ),
        ("", None),
        ("NVRM version: none\nGCC version: 12.3.0", None),
    ] {
        assert_eq!(driver_version(text).as_deref(), version);
    }
}
