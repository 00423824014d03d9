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

pub(super) fn parse(text: &str) -> Result<ExperimentSpec, Error> {
    ExperimentSpec::parse(text, Path::new("tiny.toml"), Path::new("/base"))
}

pub(super) fn inputs() -> ResolvedInputs {
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
        order_sha256: None,
        checkpoints: vec![(
            CheckpointIdentity::Run {
                run: SpecHash("parent".into()),
                step: 500,
                tokens_seen: None,
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
            unknown field `seqlen`, expected one of `facts`, `facts_sha256`, `tokenizer`, `tokenizer_sha256`, `corpus`, `seq_len`, `eos`, `document_mask`"#]],
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
fn steps_to_keep_are_a_list_or_a_rule() {
    let keep = |value: &str| {
        let text = format!("{FILE}\n[saving]\nkeep = {value}");
        parse(&text).map(|spec| spec.saving.keep)
    };
    assert_eq!(keep("[20, 4]").unwrap(), [4, 20]);
    assert_eq!(
        keep("{ powers_of_two_up_to = 16, steps = [30] }").unwrap(),
        [1, 2, 4, 8, 16, 30]
    );
    assert_eq!(
        keep("{ log_spaced = { per_decade = 3, up_to = 30 } }").unwrap(),
        [1, 2, 5, 10, 22]
    );
    for (value, want) in [
        ("{ powers_of_2 = 3 }", "expected a list of steps"),
        ("[31]", "step 31 is after the last step 30"),
        ("[0]", "step 0 is the checkpoint itself"),
        (
            "{ log_spaced = { per_decade = 0, up_to = 3 } }",
            "`log_spaced.per_decade` must be 1 at least",
        ),
    ] {
        let error = keep(value).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn moments_are_loaded_or_reset_and_warmed_up_again() {
    let start = |value: &str| {
        let text = FILE.replacen("step = 500", &format!("step = 500\noptimizer = {value}"), 1);
        parse(&text).map(|spec| spec.checkpoint[0].optimizer.unwrap())
    };
    assert_eq!(start("'load'").unwrap(), OptimizerStart::Load);
    assert_eq!(start("'reset'").unwrap(), OptimizerStart::RESET);
    let rewarmed = start("{ reset = { warmup_steps = 10 } }").unwrap();
    let shares = [0, 5, 9, 10, 99].map(|step| rewarmed.share_of_rate(step));
    assert_eq!(shares, [0.0, 0.5, 0.9, 1.0, 1.0]);
    let from_half = start("{ reset = { warmup_steps = 10, from = 0.5 } }").unwrap();
    assert_eq!(from_half.share_of_rate(0), 0.5);
    assert_eq!(
        start("{ reset = { warmup_steps = 0 } }").unwrap(),
        OptimizerStart::RESET
    );
    for start in [OptimizerStart::Load, OptimizerStart::RESET, rewarmed] {
        let json = serde_json::to_string(&start).unwrap();
        assert_eq!(
            serde_json::from_str::<OptimizerStart>(&json).unwrap(),
            start
        );
    }
    for (value, want) in [
        ("'rest'", "expected \"load\", \"reset\" or"),
        (
            "{ reset = { warmup_steps = 10, from = 2.0 } }",
            "is a share of the schedule's rate",
        ),
    ] {
        let error = start(value).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn the_clip_is_wider_in_a_models_first_updates() {
    let file =
        format!("{FILE}\n[training.optimizer]\nclip_warmup = {{ factor = 10, steps = 1000 }}");
    let optimizer = parse(&file).unwrap().training.optimizer;
    assert_eq!(optimizer.clip_of_update(0, 0), 10.0);
    assert_eq!(optimizer.clip_of_update(0, 999), 10.0);
    assert_eq!(optimizer.clip_of_update(0, 1000), 1.0);
    assert_eq!(optimizer.clip_of_update(40_000, 0), 1.0);
}

#[test]
fn a_gpus_memory_is_given_where_the_micro_batch_is_not() {
    let cuda = format!("{FILE}\n[resources]\ndevice = 'cuda:0'");
    let error = parse(&cuda).unwrap_err().to_string();
    assert!(error.contains("resources.memory_gib"), "{error}");
    assert!(parse(&format!("{cuda}\nmemory_gib = 80")).is_ok());
    assert!(parse(&cuda.replacen("steps = 30", "steps = 30\nmicro_batch_rows = 4", 1)).is_ok());
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

/// The example that explains every key, and what it says in comments.
#[test]
fn the_explained_example_is_true() {
    let text = include_str!("../../../../experiments/paper.toml");
    let spec = parse(text).unwrap();
    assert_eq!(spec.checkpoint[0].optimizer, Some(OptimizerStart::RESET));
    let kinds = text.lines().filter_map(|line| {
        let at = line.find("{ kind = ")?;
        let is_schedule = line.contains("peak = ") || line.contains("points = ");
        (line.starts_with('#') && is_schedule).then(|| line[at..].replace('…', "900_000"))
    });
    let mut n = 0;
    for kind in kinds {
        let end = kind.find('}').unwrap();
        let rate = format!("learning_rate = {}", &kind[..=end]).replacen(
            "peak = 900_000",
            "peak = 1e-4",
            1,
        );
        let uncommented = text
            .lines()
            .map(|line| match line.starts_with("learning_rate") {
                true => rate.as_str(),
                false => line,
            });
        let text: Vec<&str> = uncommented.collect();
        parse(&text.join("\n")).unwrap_or_else(|e| panic!("{rate}: {e}"));
        n += 1;
    }
    assert_eq!(n, 5);
}

/// The corpus of the fixture with further lines.
fn corpus(lines: &str) -> Result<CorpusSpec, Error> {
    let from = "format = \"uint16\"";
    assert!(FILE.contains(from));
    parse(&FILE.replacen(from, lines, 1)).map(|spec| spec.data.corpus)
}

#[test]
fn an_order_is_a_word_or_a_table() {
    let order = |order: &str| {
        corpus(&format!("format = \"uint16\"\norder = {order}"))
            .unwrap()
            .order
    };
    assert_eq!(
        corpus("format = \"npy\"").unwrap().order,
        CorpusOrder::Shuffled
    );
    assert_eq!(order("\"sequential\""), CorpusOrder::Sequential);
    assert_eq!(order("{ kind = \"shuffled\" }"), CorpusOrder::Shuffled);
    let pcg64 = Pcg64Order {
        seed: 6198,
        epoch: 0,
        world_size: 1,
        n_instances: None,
    };
    assert_eq!(
        order("{ kind = \"pcg64\", seed = 6198 }"),
        CorpusOrder::Pcg64(pcg64)
    );
    let path = "/base/global_indices.npy".into();
    assert_eq!(
        order("{ kind = \"file\", path = \"global_indices.npy\" }"),
        CorpusOrder::File { path }
    );
}

#[test]
fn impossible_corpora_name_their_field() {
    let refuses = |lines: &str, words: &str| {
        let error = corpus(lines).unwrap_err().to_string();
        assert!(error.contains(words), "`{words}` is not in: {error}");
    };
    refuses("format = \"arrow\"", "unknown variant `arrow`");
    refuses("format = \"npy\"\norder = \"random\"", "`\"sequential\"`");
    refuses(
        "format = \"npy\"\norder = { kind = \"pcg64\", sede = 1 }",
        "unknown field `sede`",
    );
    refuses(
        "format = \"npy\"\norder = { kind = \"pcg64\", seed = 1, world_size = 0 }",
        "`data.corpus.order.world_size`: must be 1 at least",
    );
    refuses(
        "format = \"npy\"\nmax_epochs = 2\norder = { kind = \"file\", path = \"o\" }",
        "`data.corpus.max_epochs`: an order file holds one epoch",
    );
    refuses(
        "format = \"text\"\ntext_field = \"body\"",
        "`data.corpus.text_field`: goes with the formats \"jsonl\" and \"parquet\"",
    );
}

#[test]
fn the_order_is_part_of_what_a_run_is() {
    let hash = |lines: &str| {
        let from = "format = \"uint16\"";
        let spec = parse(&FILE.replacen(from, lines, 1)).unwrap();
        spec.expand(&inputs()).unwrap()[0].identity.hash()
    };
    let file = |path: &str| {
        hash(&format!(
            "format = \"uint16\"\norder = {{ kind = \"file\", path = \"{path}\" }}"
        ))
    };
    let lines = [
        "format = \"uint16\"",
        "format = \"uint32\"",
        "format = \"jsonl\"",
        "format = \"jsonl\"\ntext_field = \"body\"",
        "format = \"uint16\"\norder = { kind = \"pcg64\", seed = 6198 }",
        "format = \"uint16\"\norder = { kind = \"pcg64\", seed = 6198, epoch = 1 }",
    ];
    let mut hashes: BTreeSet<SpecHash> = lines.map(hash).into();
    hashes.insert(file("a"));
    assert_eq!(hashes.len(), 7);
    assert_eq!(file("a"), file("b"), "its content counts, not its path");
    assert_eq!(
        hash("format = \"jsonl\""),
        hash("format = \"jsonl\"\ntext_field = \"text\"")
    );
}

#[test]
fn constants_of_the_optimizer_are_in_their_range() {
    for (constant, field) in [
        ("beta2 = 1.5", "beta2"),
        ("eps = nan", "eps"),
        ("weight_decay = inf", "weight_decay"),
        ("clip_norm = 0.0", "clip_norm"),
    ] {
        let file = format!("{FILE}\n[training.optimizer]\n{constant}");
        let error = parse(&file).unwrap_err().to_string();
        assert!(
            error.contains(&format!("training.optimizer.{field}")),
            "{error}"
        );
    }
}
