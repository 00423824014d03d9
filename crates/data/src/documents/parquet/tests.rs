use std::path::{Path, PathBuf};

use expect_test::{Expect, expect};

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(format!("{name}.parquet"))).unwrap()
}

impl ReadAt for Vec<u8> {
    fn n_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset as usize + buffer.len();
        let bytes = self.get(offset as usize..end);
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn read_texts(bytes: Vec<u8>, column: &str) -> Result<Vec<String>, String> {
    Texts::open(bytes, column, ProgressBar::hidden())?.collect()
}

#[test]
fn the_same_texts_are_read_from_every_form() {
    let json = std::fs::read(fixtures().join("texts.json")).unwrap();
    let want: Vec<String> = serde_json::from_slice(&json).unwrap();
    assert!(want.len() > 70);
    for name in [
        "snappy",
        "zstd-plain",
        "gzip-v2",
        "none-pages",
        "checksum",
        "delta-length",
        "delta-prefix",
        "required",
        "large-string",
    ] {
        assert_eq!(
            read_texts(fixture(name), "text").as_ref(),
            Ok(&want),
            "{name}"
        );
    }
    assert_eq!(read_texts(fixture("nested"), "document.text"), Ok(want));
}

#[track_caller]
fn refuses(bytes: Vec<u8>, column: &str, want: &Expect) {
    want.assert_eq(&read_texts(bytes, column).unwrap_err());
}

#[test]
fn other_columns_and_codecs_are_refused_by_name() {
    refuses(
        fixture("snappy"),
        "content",
        &expect![
            "it has no column `content`, but `id`, `tags.list.element`, `text`; set `data.corpus.text_field` to the column that holds the text"
        ],
    );
    refuses(
        fixture("snappy"),
        "id",
        &expect!["its column `id` holds no texts"],
    );
    refuses(
        fixture("snappy"),
        "tags.list.element",
        &expect!["its column `tags.list.element` holds lists; a document is one text"],
    );
    refuses(
        fixture("refused-brotli"),
        "text",
        &expect!["near row 0: it is compressed with Brotli; write it with zstd, snappy or gzip"],
    );
    refuses(
        fixture("refused-lz4"),
        "text",
        &expect!["near row 0: it is compressed with LZ4; write it with zstd, snappy or gzip"],
    );
}

#[test]
fn damaged_files_are_refused() {
    let no_parquet = expect!["it is not a Parquet file, or was cut short"];
    refuses(Vec::new(), "text", &no_parquet);
    refuses(b"{\"text\": \"a\"}".to_vec(), "text", &no_parquet);
    let good = fixture("checksum");
    for n_bytes in [good.len() - 1, good.len() / 2, 100] {
        refuses(good[..n_bytes].to_vec(), "text", &no_parquet);
    }
    let mut flipped = good.clone();
    let text = read_at_of(&good, "text");
    flipped[text + 60] ^= 1;
    refuses(
        flipped,
        "text",
        &expect!["near row 0: a page's checksum is wrong"],
    );
}

/// Where a column's first page begins.
fn read_at_of(bytes: &[u8], column: &str) -> usize {
    let end = bytes.len() - 8;
    let length = little_endian(&bytes[end..end + 4]) as usize;
    columns(&bytes[end - length..end], column).unwrap().1[0].offset as usize
}
