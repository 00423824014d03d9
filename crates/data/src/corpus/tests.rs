use std::fs::{self, File};

use super::*;
use crate::fixture::{Fixture, VOCAB_SIZE};

struct Files {
    fixture: Fixture,
    tokenizer: Tokenizer,
    cache: TokenCache,
}

impl Files {
    fn new() -> Self {
        let fixture = Fixture::new(&[]);
        Self {
            tokenizer: Tokenizer::open(&fixture.path("tokenizer.json")).unwrap(),
            cache: TokenCache::at(&fixture.path("cache")),
            fixture,
        }
    }

    fn uint16(&self, name: &str, tokens: impl IntoIterator<Item = u16>) -> PathBuf {
        let bytes: Vec<u8> = tokens.into_iter().flat_map(u16::to_le_bytes).collect();
        self.bytes(name, &bytes)
    }

    fn bytes(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.fixture.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn open(&self, files: &[PathBuf], format: CorpusFormat, seq_len: u32) -> Result<Corpus> {
        let source = CorpusSource {
            files,
            format,
            text_field: "text",
            seq_len,
        };
        let tokens = Tokens {
            tokenizer: &self.tokenizer,
            eos_id: 0,
            cache: &self.cache,
        };
        Corpus::open(&source, &tokens)
    }
}

fn instances(corpus: &Corpus) -> Vec<Vec<u32>> {
    (0..corpus.n_instances())
        .map(|i| {
            let mut row = Vec::new();
            corpus.read_instance(i, &mut row).unwrap();
            row
        })
        .collect()
}

#[test]
fn each_file_is_cut_on_its_own_and_its_rest_dropped() {
    let files = Files::new();
    let paths = [
        files.uint16("short", 50..52),
        files.uint16("a", 0..7),
        files.uint16("empty", []),
        files.uint16("b", 10..16),
    ];
    let corpus = files.open(&paths, CorpusFormat::Uint16, 3).unwrap();
    assert_eq!(
        instances(&corpus),
        [[0, 1, 2], [3, 4, 5], [10, 11, 12], [13, 14, 15]]
    );
}

#[test]
fn uint32_tokens_are_read_little_endian() {
    let files = Files::new();
    let bytes = [7u32, 1000, 3, 9].map(u32::to_le_bytes).concat();
    let path = files.bytes("c", &bytes);
    let corpus = files.open(&[path], CorpusFormat::Uint32, 2).unwrap();
    assert_eq!(instances(&corpus), [[7, 1000], [3, 9]]);
}

#[test]
fn tokens_under_a_numpy_header_are_read() {
    let files = Files::new();
    let header = "{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }\n";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend([5i64, 6, -7].map(i64::to_le_bytes).concat());
    let path = files.bytes("c.npy", &bytes);
    let corpus = files.open(&[path], CorpusFormat::Npy, 1).unwrap();
    let mut row = Vec::new();
    corpus.read_instance(1, &mut row).unwrap();
    assert_eq!(row, [6]);
    let error = corpus.read_instance(2, &mut row).unwrap_err();
    assert!(matches!(
        error,
        Error::TokenOutsideVocabulary {
            position: 2,
            id: -7,
            ..
        }
    ));
}

#[test]
fn documents_of_a_text_are_closed_by_the_end_of_sequence() {
    let files = Files::new();
    let path = files.bytes("c", b"w0 w1\n\nw2\r\nw3 w4 w5");
    let corpus = files.open(&[path], CorpusFormat::Text, 3).unwrap();
    assert_eq!(instances(&corpus), [[1, 2, 0], [3, 0, 4], [5, 6, 0]]);
}

#[test]
fn json_lines_become_tokens() {
    let files = Files::new();
    let lines = b"{\"text\": \"w0 w1\"}\n{\"id\": 7, \"text\": \"w2 w3\"}";
    for path in [
        files.bytes("c.jsonl", lines),
        files.bytes("c.jsonl.zst", &zstd::encode_all(&lines[..], 0).unwrap()),
    ] {
        let corpus = files.open(&[path], CorpusFormat::Jsonl, 3).unwrap();
        assert_eq!(instances(&corpus), [[1, 2, 0], [3, 4, 0]]);
    }
}

#[test]
fn a_file_of_holes_is_read_where_it_is_needed() {
    let files = Files::new();
    let path = files.fixture.path("sparse");
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let corpus = files.open(&[path], CorpusFormat::Uint16, 1024).unwrap();
    assert_eq!(corpus.n_instances(), 1 << 29);
    let mut row = Vec::new();
    corpus.read_instance((1 << 29) - 1, &mut row).unwrap();
    assert_eq!(row, vec![0; 1024]);
    assert_eq!(corpus.sample().unwrap().len(), 1 << 17);
}

#[test]
fn a_token_outside_the_vocabulary_is_named_when_it_is_read() {
    let files = Files::new();
    let path = files.uint16("c", [1, 2, 3, 4, VOCAB_SIZE as u16, 6]);
    let corpus = files.open(&[path], CorpusFormat::Uint16, 3).unwrap();
    corpus.read_instance(0, &mut Vec::new()).unwrap();
    let error = corpus.read_instance(1, &mut Vec::new()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("token 4 is 1001, outside the tokenizer's vocabulary of 1001"),
        "{error}"
    );
}

#[test]
fn a_file_cut_short_while_it_is_used_is_an_error() {
    let files = Files::new();
    let path = files.uint16("c", 0..6);
    let corpus = files
        .open(std::slice::from_ref(&path), CorpusFormat::Uint16, 3)
        .unwrap();
    files.uint16("c", 0..4);
    let error = corpus.read_instance(1, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Read { path: p, .. } if p == path));
}

#[test]
fn files_that_are_no_corpus_are_refused() {
    let files = Files::new();
    let missing = [files.fixture.path("missing")];
    let odd = [files.bytes("odd", &[0; 5])];
    let short = [files.uint16("short", 0..2)];
    let latin = [files.bytes("latin", b"w0\nw1\n\xe9\n")];
    let open = |paths: &[PathBuf], format| files.open(paths, format, 3).unwrap_err();
    assert!(matches!(
        open(&missing, CorpusFormat::Uint16),
        Error::Read { .. }
    ));
    assert!(matches!(
        open(&missing, CorpusFormat::Text),
        Error::Read { .. }
    ));
    let directory = [files.fixture.directory.path().to_owned()];
    assert!(matches!(
        open(&directory, CorpusFormat::Uint16),
        Error::Read { .. }
    ));
    assert!(matches!(
        open(&odd, CorpusFormat::Uint16),
        Error::OddLength {
            n_bytes: 5,
            width: 2,
            ..
        }
    ));
    assert!(matches!(
        open(&short, CorpusFormat::Uint16),
        Error::EmptyCorpus { seq_len: 3 }
    ));
    assert!(matches!(
        open(&latin, CorpusFormat::Text),
        Error::Line { line: 3, .. }
    ));
    assert!(matches!(open(&short, CorpusFormat::Npy), Error::Npy { .. }));
}
