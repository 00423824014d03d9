use std::fs;
use std::io::Write;

use expect_test::{Expect, expect};
use flate2::Compression as Level;
use flate2::write::GzEncoder;

use super::*;

const JSONL: TextFormat = TextFormat::Jsonl { key: "text" };

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 0).unwrap()
}

fn read(name: &str, bytes: &[u8], format: TextFormat) -> Result<Vec<String>, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    documents(&path, format, &ProgressBar::hidden())
        .and_then(Iterator::collect)
        .map_err(|err| {
            let directory = format!("{}/", directory.path().display());
            err.to_string().replace(&directory, "")
        })
}

#[track_caller]
fn refuses(name: &str, bytes: &[u8], format: TextFormat, want: &Expect) {
    want.assert_eq(&read(name, bytes, format).unwrap_err());
}

#[test]
fn a_line_is_a_document() {
    let text = read("c", "a b\n\n  \r\nc\r\n d ü".as_bytes(), TextFormat::Lines).unwrap();
    assert_eq!(text, ["a b", "c", " d ü"]);
    refuses(
        "c",
        b"a\nb\xff\nc",
        TextFormat::Lines,
        &expect!["c:2: it is not UTF-8"],
    );
}

#[test]
fn compressed_files_are_the_same() {
    let lines = b"a\nb\n".repeat(50_000);
    let plain = read("c", &lines, TextFormat::Lines).unwrap();
    assert_eq!(plain.len(), 100_000);
    let halves = lines.split_at(30_000);
    for bytes in [
        gzip(&lines),
        zst(&lines),
        // Several members, as parallel compressors write them.
        [gzip(halves.0), gzip(halves.1)].concat(),
        [zst(halves.0), zst(halves.1)].concat(),
    ] {
        assert!(read("c", &bytes, TextFormat::Lines).unwrap() == plain);
    }
    refuses(
        "c.gz",
        &gzip(&lines)[..200],
        TextFormat::Lines,
        &expect!["cannot decompress c.gz (gzip) after line 87980; is the file complete?"],
    );
    refuses(
        "c.zst",
        &zst(&lines)[..20],
        TextFormat::Lines,
        &expect!["cannot decompress c.zst (zstd) after line 0; is the file complete?"],
    );
    refuses(
        "c.gz",
        b"plain",
        TextFormat::Lines,
        &expect!["cannot decompress c.gz (gzip) after line 0; is the file complete?"],
    );
}

#[test]
fn the_text_of_each_json_object_is_a_document() {
    let lines = br#"{"id": 1, "text": "a\nb", "meta": {"text": "no", "deep": [[[1, {}]]]}}

{"text": null}
{"text": "  "}
{"text": "x", "text": "the last one counts, \u00fc"}
"#;
    assert_eq!(
        read("c", lines, JSONL).unwrap(),
        ["a\nb", "the last one counts, ü"]
    );
    let title = TextFormat::Jsonl { key: "title" };
    assert_eq!(read("c", br#"{"title": "t"}"#, title).unwrap(), ["t"]);
}

#[test]
fn bad_json_is_named_by_its_line() {
    refuses(
        "c",
        b"{\"text\": \"a\"}\n{\"text\": \"b\"\n",
        JSONL,
        &expect!["c:2: not the JSON object it should be at column 12: EOF while parsing an object"],
    );
    refuses(
        "c",
        b"{\"text\": 3}",
        JSONL,
        &expect![
            "c:1: not the JSON object it should be at column 10: invalid type: integer `3`, expected a string"
        ],
    );
    refuses(
        "c",
        b"{\"content\": \"a\"}",
        JSONL,
        &expect![
            "c:1: the object has no `text`; set `data.corpus.text_field` to the key that holds the text"
        ],
    );
    refuses(
        "c",
        b"{\"text\": \"a\"} x",
        JSONL,
        &expect!["c:1: not the JSON object it should be at column 15: trailing characters"],
    );
    refuses(
        "c",
        b"[\"text\"]",
        JSONL,
        &expect![
            "c:1: not the JSON object it should be: invalid type: sequence, expected an object with the key `text`"
        ],
    );
}

/// What is longer than a document may be is refused before all of it is in memory.
#[test]
fn endless_documents_are_refused() {
    let bomb = zst(&vec![b'a'; MAX_DOCUMENT_BYTES + 2]);
    refuses(
        "c.zst",
        &bomb,
        TextFormat::Lines,
        &expect!["c.zst:1: it is longer than 64 MiB, the most of one document"],
    );
}
