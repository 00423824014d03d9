use imprint_core::{Depth, FactId, ProbeControl, ProbeId};

use super::*;
use crate::fixture::{Fixture, VOCAB_SIZE};

fn probe(prompt: &str, target: &str) -> Probe {
    Probe {
        id: ProbeId(0),
        fact: FactId(3),
        depth: Depth::HardGen,
        ordinal: 1,
        control: ProbeControl::Own,
        prompt: prompt.to_owned(),
        target: target.to_owned(),
    }
}

fn words() -> Tokenizer {
    Tokenizer::open(&Fixture::new(&[]).path("tokenizer.json")).unwrap()
}

/// Byte-level pairs with one merge, which joins the first letters of a target to a prompt's last.
fn pairs() -> Tokenizer {
    let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
        "normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
        "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
        "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
        "vocab":{"a":0,"b":1," ":2,"a ":3},"merges":["a  "]}}"#;
    let json = json.replace(r#""merges":["a  "]"#, r#""merges":[["a"," "]]"#);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.json");
    std::fs::write(&path, json).unwrap();
    Tokenizer::open(&path).unwrap()
}

#[test]
fn the_vocabulary_ends_after_its_highest_id() {
    let tokenizer = words();
    assert_eq!(tokenizer.vocab_size(), VOCAB_SIZE);
    assert_eq!(tokenizer.token_id("w999"), Some(1000));
    assert_eq!(tokenizer.eos_id("<|eos|>").unwrap(), 0);
    let error = tokenizer.eos_id("</s>").unwrap_err().to_string();
    assert!(error.starts_with("`</s>` is not a token of"), "{error}");
}

#[test]
fn truncation_in_the_file_does_not_truncate() {
    assert_eq!(words().encode("w0 w1 w2 w3").unwrap(), [1, 2, 3, 4]);
}

#[test]
fn a_probe_ends_with_the_tokens_of_its_target() {
    let tokenized = words().encode_probe(&probe("w5 w6 w7", "w8 w9")).unwrap();
    assert_eq!(tokenized.tokens, [6, 7, 8, 9, 10]);
    assert_eq!(tokenized.n_target_tokens, 2);
    assert_eq!(tokenized.target_start(), 3);
    assert_eq!(tokenized.n_full_tokens(), 4);
}

#[track_caller]
fn refuses(tokenizer: &Tokenizer, probe: &Probe, want: &str) {
    let error = tokenizer.encode_probe(probe).unwrap_err().to_string();
    assert!(error.contains(want), "{error}");
}

#[test]
fn targets_without_tokens_of_their_own_are_refused() {
    assert_eq!(
        pairs().encode_probe(&probe("b", "ab")).unwrap().tokens,
        [1, 2, 0, 1]
    );
    refuses(
        &pairs(),
        &probe("ba", "b"),
        "fact 3, hard_gen probe 1: the boundary of prompt and target is not a boundary of tokens: \
         \" b\" alone is [2, 1], but the whole text ends with [3, 1]",
    );
    refuses(&words(), &probe("w1", ""), "the target has no token");
    refuses(&words(), &probe("", "w1"), "the prompt has no token");
}

#[test]
fn unknown_words_and_files_are_refused() {
    let error = words().encode("w0 who").unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json cannot tokenise \"w0 who\""),
        "{error}"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.json");
    assert!(matches!(Tokenizer::open(&path), Err(Error::Read { .. })));
    std::fs::write(&path, "{}").unwrap();
    assert!(matches!(
        Tokenizer::open(&path),
        Err(Error::Tokenizer { .. })
    ));
}
