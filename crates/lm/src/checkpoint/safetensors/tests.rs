use std::fs;

use tempfile::TempDir;

use super::*;

fn file(header: &str, n_data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; n_data]);
    bytes
}

fn header_of(bytes: &[u8]) -> Result<Header, String> {
    let dir = TempDir::new().expect("temporary directory");
    let path = dir.path().join("x.safetensors");
    fs::write(&path, bytes).expect("written");
    let file = StableFile::open(path).expect("opened");
    read_header(&file, 0).map_err(|err| err.to_string())
}

#[track_caller]
fn refuses(header: &str, n_data: usize, want: &str) {
    let reason = header_of(&file(header, n_data))
        .err()
        .expect("it is refused");
    assert!(
        reason.contains(want) && reason.contains("x.safetensors"),
        "{reason}"
    );
}

fn entry(shape: &str, from: u64, to: u64) -> String {
    format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

#[test]
fn reads_tensors_and_annotations() {
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},"b":{},"a":{}}}"#,
        entry("[2]", 8, 16),
        entry("[1,2]", 0, 8)
    );
    let header = header_of(&file(&header, 16)).expect("read");
    assert_eq!(header.metadata["format"], "pt");
    let shapes: Vec<_> = (header.tensors.iter())
        .map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()))
        .collect();
    assert_eq!(shapes, [("b", &[2][..]), ("a", &[1, 2][..])]);
    assert!(header_of(&file("{}", 0)).expect("read").tensors.is_empty());
}

#[test]
fn a_header_is_held_to_the_file() {
    let one = |entry: String| format!(r#"{{"a":{entry}}}"#);
    refuses(&one(entry("[2]", 0, 8)), 7, "is it still being written?");
    refuses(&one(entry("[2]", 0, 8)), 9, "its header calls for 8 bytes");
    refuses(
        &one(entry("[3]", 0, 8)),
        8,
        "tensor `a`: F32 of shape [3] do not fill bytes 0 to 8",
    );
    refuses(&one(entry("[2]", 8, 0)), 8, "do not fill");
    refuses(&one(entry("[2]", 4, 12)), 12, "overlap or leave a gap");
    refuses(
        &one(entry("[4611686018427387904,4]", 0, 0)),
        0,
        "do not fill",
    );
    refuses(
        &one(entry(
            "[2]",
            18_446_744_073_709_551_607,
            18_446_744_073_709_551_615,
        )),
        8,
        "overlap or leave a gap",
    );
    let two = format!(
        r#"{{"a":{},"b":{}}}"#,
        entry("[2]", 0, 8),
        entry("[2]", 4, 12)
    );
    refuses(&two, 12, "overlap");
    let twice = format!(
        r#"{{"a":{},"a":{}}}"#,
        entry("[2]", 0, 8),
        entry("[2]", 8, 16)
    );
    refuses(&twice, 16, "`a` is there twice");
    refuses(
        r#"{"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}"#,
        8,
        "the type `F31` is not known",
    );
    for damaged in ["", "[]", "{", r#"{"a":1}"#, r#"{"a":{"shape":[-1]}}"#] {
        refuses(damaged, 0, "its header:");
    }
}

#[test]
fn a_lying_length_sets_nothing_aside() {
    for (n, want) in [
        (u64::MAX, "more than the format allows"),
        (MAX_HEADER_BYTES + 1, "more than the format allows"),
        (MAX_HEADER_BYTES, "is it still being written?"),
        (3, "is it still being written?"),
    ] {
        let mut bytes = n.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        let reason = header_of(&bytes).err().expect("it is refused");
        assert!(reason.contains(want), "{n}: {reason}");
    }
    for n in 0..8 {
        let reason = header_of(&vec![0; n]).err().expect("it is refused");
        assert!(reason.contains("cut short"), "{reason}");
    }
}
