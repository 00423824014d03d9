use std::fs;

use expect_test::{Expect, expect};

use super::*;

fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn open(bytes: &[u8]) -> Result<IntegerArray> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.npy");
    fs::write(&path, bytes).unwrap();
    IntegerArray::open_npy(&path)
}

fn header(descr: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}          \n")
}

#[test]
fn every_integer_type_is_read() {
    let check = |descr: &str, data: &[u8], want: [i64; 2]| {
        let array = open(&npy(&header(descr, "(2,)"), data)).unwrap();
        assert_eq!(array.len(), 2);
        assert_eq!(array.read(0, 2).unwrap(), want);
        assert_eq!(array.read(1, 1).unwrap(), want[1..]);
    };
    check("<u2", &[1, 0, 0xff, 0xff], [1, 65535]);
    check("<u4", &[1, 0, 0, 0, 0, 0, 0, 0x80], [1, 1 << 31]);
    check("<i4", &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], [1, -1]);
    let data = [1_i64.to_le_bytes(), i64::MIN.to_le_bytes()].concat();
    check("<i8", &data, [1, i64::MIN]);
}

#[test]
fn longer_header_versions_are_read() {
    for version in [2, 3] {
        let header = header("<u2", "(1,)");
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        bytes.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend([7, 0]);
        assert_eq!(open(&bytes).unwrap().read(0, 1).unwrap(), [7]);
    }
}

#[test]
fn what_is_no_header_is_headerless() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.npy");
    fs::write(&path, [1, 0, 0, 0, 2, 0, 0, 0]).unwrap();
    let read = |path: &Path| {
        let array = IntegerArray::open_npy_or_headerless(path, IntegerType::Uint32).unwrap();
        array.read(0, array.len() as usize).unwrap()
    };
    assert_eq!(read(&path), [1, 2]);
    fs::write(&path, npy(&header("<i8", "(1,)"), &5_i64.to_le_bytes())).unwrap();
    assert_eq!(read(&path), [5]);
    let error = IntegerArray::open_headerless(&path, IntegerType::Uint16).unwrap_err();
    assert!(error.to_string().contains("format = \"npy\""), "{error}");
}

#[track_caller]
fn refuses(bytes: &[u8], want: &Expect) {
    let error = open(bytes).unwrap_err().to_string();
    want.assert_eq(error.split_once("a.npy: ").unwrap().1);
}

#[test]
fn lying_headers_are_refused() {
    let data = [0; 4];
    refuses(
        b"\x01\x00",
        &expect![[
            r#"it has no NumPy header; headerless token ids are `data.corpus.format = "uint16"` or "uint32""#
        ]],
    );
    refuses(MAGIC, &expect!["its NumPy header is cut short"]);
    refuses(
        b"\x93NUMPY\x09\x00\x00\x00",
        &expect!["its NumPy header has the unknown version 9"],
    );
    refuses(
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        &expect!["its NumPy header claims 4294967295 bytes, more than 10000"],
    );
    refuses(
        &npy(&header("<u2", "(2,)"), &data)[..40],
        &expect!["its NumPy header is cut short"],
    );
    refuses(
        &npy(&header("<u2", "(3,)"), &data),
        &expect![
            "its NumPy header promises 3 integers of 2 bytes after byte 78, but the file has 82 bytes"
        ],
    );
    refuses(
        &npy(&header("<u2", "(18446744073709551615,)"), &data),
        &expect![
            "its NumPy header promises 18446744073709551615 integers of 2 bytes after byte 97, but the file has 101 bytes"
        ],
    );
    refuses(
        &npy(&header("<u2", "(1, 2)"), &data),
        &expect!["its NumPy header says 2 dimensions; token ids are one"],
    );
    refuses(
        &npy(&header(">u2", "(2,)"), &data),
        &expect![[
            r#"its NumPy header says dtype ">u2"; token ids are uint16, uint32, int32 or int64, little-endian"#
        ]],
    );
    refuses(
        &npy(&header("<u2", "(2,)").replace("False", "True"), &data),
        &expect!["its NumPy header says Fortran order; write a plain array"],
    );
    refuses(
        &npy("{'descr': '<u2'}", &data),
        &expect![[r#"its NumPy header is not the dictionary it should be: "{'descr': '<u2'}""#]],
    );
}
