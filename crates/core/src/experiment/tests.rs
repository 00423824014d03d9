use std::path::Path;

use expect_test::{Expect, expect};

use super::*;
use crate::run::SpecHash;

const FILE: &str = r#"
name = "tiny"
scenarios = ["duplication", "mine"]
batch_sizes = [8, 4]
seeds = [0, 1]

[data]
facts = "facts.json"
tokenizer = "/abs/tokenizer.json"
seq_len = 64

[data.corpus]
files = ["corpus.u16"]
format = "uint16"

[[checkpoint]]
name = "late"
run = "pre/scratch-none-b16-s0"
step = 500

[training]
steps = 30
learning_rate = { kind = "constant", peak = 5e-3, warmup_steps = 30 }

[injection]
every = 5
count = 2

[[scenario.mine.arm]]
name = "mine"
facts = "0..2"
text = "original"
steps = [3, 7]
"#;

fn parse(text: &str) -> Result<ExperimentSpec, Error> {
    ExperimentSpec::parse(text, Path::new("tiny.toml"), Path::new("/base"))
}

fn inputs() -> ResolvedInputs {
    let fact = |with: bool| Fact {
        subject: None,
        passage: "p".into(),
        paraphrases: vec!["q".into(); if with { 9 } else { 0 }],
        probes: Vec::new(),
    };
    ResolvedInputs {
        facts: vec![fact(true), fact(true), fact(false)],
        facts_sha256: "f".into(),
        tokenizer_sha256: "t".into(),
        tokenizer_vocab_size: 100,
        corpus_sha256: vec!["c".into()],
        checkpoints: vec![(
            CheckpointIdentity::Run {
                run: SpecHash("parent".into()),
                step: 500,
                optimizer: OptimizerStart::Load,
            },
            CheckpointSource::Run,
        )],
    }
}

#[test]
fn a_file_expands_into_its_matrix() {
    let spec = parse(FILE).unwrap();
    assert_eq!(spec.data.facts, Path::new("/base/facts.json"));
    assert_eq!(spec.data.tokenizer, Path::new("/abs/tokenizer.json"));
    let runs = spec.expand(&inputs()).unwrap();
    let labels: Vec<&str> = runs.iter().map(|r| r.label.as_str()).collect();
    assert_eq!(labels.len(), 8);
    assert_eq!(labels[0], "tiny/late-duplication-b8-s0");
    assert_eq!(labels[7], "tiny/late-mine-b4-s1");
    let hashes: BTreeSet<SpecHash> = runs.iter().map(|r| r.identity.hash()).collect();
    assert_eq!(hashes.len(), 8, "every cell is a run of its own");
}

#[test]
fn the_hash_ignores_what_changes_no_number() {
    let spec = parse(FILE).unwrap();
    let mut other = spec.clone();
    other.name = "renamed".into();
    other.data.facts = "/elsewhere/facts.json".into();
    other.saving.every = 7;
    other.resources.threads = 2;
    let hash = |s: &ExperimentSpec| s.expand(&inputs()).unwrap()[0].identity.hash();
    assert_eq!(hash(&spec), hash(&other));
    other.training.micro_batch_rows = Some(2);
    assert_ne!(hash(&spec), hash(&other));
}

#[track_caller]
#[expect(
    clippy::needless_pass_by_value,
    reason = "an expectation reads best where it stands"
)]
fn refuses(from: &str, to: &str, want: Expect) {
    assert!(FILE.contains(from), "the fixture has no `{from}`");
    want.assert_eq(&parse(&FILE.replacen(from, to, 1)).unwrap_err().to_string());
}

#[test]
fn unknown_keys_are_named_with_line_and_column() {
    refuses(
        "seq_len = 64",
        "seq_len = 64\nseqlen = 3",
        expect![[r#"
            tiny.toml: TOML parse error at line 11, column 1
               |
            11 | seqlen = 3
               | ^^^^^^
            unknown field `seqlen`, expected one of `facts`, `tokenizer`, `corpus`, `seq_len`, `eos`"#]],
    );
}

#[test]
fn impossible_values_name_their_field() {
    refuses(
        "step = 500",
        "",
        expect!["tiny.toml: `checkpoint.late`: `run` and `step` go together"],
    );
    refuses(
        "batch_sizes = [8, 4]",
        "batch_sizes = [8, 8]",
        expect!["tiny.toml: `batch_sizes`: the same value stands there twice"],
    );
    refuses(
        "steps = 30",
        "steps = 0",
        expect!["tiny.toml: `training.steps`: must be 1 at least"],
    );
    refuses(
        "name = \"tiny\"",
        "name = \"a/b\"",
        expect!["tiny.toml: `name`: use letters, digits, `-`, `_` and `.` only"],
    );
}

#[test]
fn an_unknown_scenario_is_named() {
    let spec = parse(&FILE.replace("\"mine\"]", "\"mnie\"]")).unwrap();
    let error = spec.expand(&inputs()).unwrap_err().to_string();
    assert!(
        error.contains("scenario `mnie` is neither built in"),
        "{error}"
    );
}
