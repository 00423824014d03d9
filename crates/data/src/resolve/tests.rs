use std::fs;
use std::path::Path;

use expect_test::{Expect, expect};
use imprint_core::CorpusFormat;

use super::*;
use crate::CheckpointFiles;
use crate::fixture::{Fixture, VOCAB_SIZE, fact};

fn fixture(checkpoint: &str) -> Fixture {
    let mut fixture = Fixture::new(&[fact(0, 3, 1), fact(1, 3, 0)]);
    fixture.checkpoint = checkpoint.to_owned();
    fixture
}

/// A checkpoint directory `ckpt` with two shards.
fn sharded(vocab_size: u32) -> Fixture {
    let fixture = fixture(r#"path = "ckpt""#);
    let write = |name: &str, content: String| fs::write(fixture.path(name), content).unwrap();
    fs::create_dir(fixture.path("ckpt")).unwrap();
    write(
        "ckpt/config.json",
        format!(r#"{{"vocab_size":{vocab_size}}}"#),
    );
    write("ckpt/model-1.safetensors", "1".to_owned());
    write("ckpt/model-2.safetensors", "2".to_owned());
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    write("ckpt/model.safetensors.index.json", index.to_owned());
    fixture
}

fn resolved(fixture: &Fixture) -> Result<ResolvedInputs> {
    resolve(&fixture.experiment(), |label| {
        (label == "pre/scratch-none-b16-s0").then(|| SpecHash("parent".to_owned()))
    })
}

#[test]
fn files_become_hashes() {
    let fixture = sharded(VOCAB_SIZE);
    let inputs = resolved(&fixture).unwrap();
    assert_eq!(inputs.facts.len(), 2);
    assert_eq!(inputs.tokenizer_vocab_size, VOCAB_SIZE);
    assert_eq!(
        inputs.facts_sha256,
        file_sha256(&fixture.path("facts.json")).unwrap()
    );
    assert_eq!(
        inputs.corpus_sha256,
        [corpus_file_sha256(&fixture.path("corpus"), CorpusFormat::Uint16).unwrap()]
    );
    let path = fixture.path("ckpt");
    let identity = CheckpointIdentity::Directory {
        sha256: hash(&path),
        trainer_state_sha256: None,
        global_step: Some(0),
        tokens_seen: None,
        optimizer: OptimizerStart::RESET,
    };
    assert_eq!(
        inputs.checkpoints,
        [(identity, CheckpointSource::Directory { path })]
    );
}

fn hash(checkpoint: &Path) -> String {
    let files = CheckpointFiles::find(checkpoint).unwrap();
    files.sha256(false).unwrap()
}

#[test]
fn a_directory_stands_where_it_is_said_to() {
    let identity = |files: &[(&str, &str)], given: &str| {
        let fixture = fixture(&format!("path = \"ckpt\"\n{given}"));
        fs::create_dir(fixture.path("ckpt")).unwrap();
        for (name, content) in files {
            fs::write(fixture.path("ckpt").join(name), content).unwrap();
        }
        let (identity, _) = resolved(&fixture).unwrap().checkpoints.swap_remove(0);
        identity
    };
    let standing = |files: &[(&str, &str)], given: &str| match identity(files, given) {
        CheckpointIdentity::Directory {
            trainer_state_sha256,
            global_step,
            tokens_seen,
            ..
        } => (trainer_state_sha256.is_some(), global_step, tokens_seen),
        other => panic!("{other:?}"),
    };
    let saved = |attempt: u32| {
        let state = format!(r#"{{"global_step":7,"tokens_seen":448,"attempt":{attempt}}}"#);
        state.leak() as &str
    };
    let config = ("config.json", r#"{"vocab_size":1001}"#);
    let weights = ("model.safetensors", "weights");
    let plain = [config, weights];
    let state = [config, weights, ("state.json", saved(1))];
    let retried = [config, weights, ("state.json", saved(2))];
    let native = [
        ("config.yaml", ""),
        ("model.pt", "weights"),
        ("train.pt", "state"),
    ];
    assert_eq!(standing(&plain, ""), (false, Some(0), None));
    assert_eq!(standing(&state, ""), (false, Some(7), Some(448)));
    assert_eq!(
        standing(&state, "tokens_seen = 9"),
        (false, Some(7), Some(9))
    );
    assert_eq!(standing(&native, ""), (true, None, None));
    assert_eq!(standing(&native, "global_step = 7"), (true, Some(7), None));
    let given = "global_step = 7\ntokens_seen = 448";
    assert_eq!(standing(&native, given), (false, Some(7), Some(448)));

    // The same weights that stand at the same place are the same start, whoever says so.
    assert_eq!(identity(&state, ""), identity(&retried, ""));
    assert_eq!(identity(&state, ""), identity(&plain, given));
    assert_ne!(identity(&state, ""), identity(&plain, ""));
}

/// Whatever a checkpoint's own files say of where it stands, the file made of the run says the same.
#[test]
fn a_run_from_a_directory_comes_again_from_its_own_file() {
    let config = ("config.json", r#"{"vocab_size":1001}"#);
    let weights = ("model.safetensors", "weights");
    let state = ("state.json", r#"{"global_step":7,"tokens_seen":448}"#);
    let tokenless = ("state.json", r#"{"global_step":7,"tokens_seen":null}"#);
    let native = [
        ("config.yaml", ""),
        ("model.pt", "weights"),
        ("train.pt", "state"),
    ];
    let layouts: [&[(&str, &str)]; 4] = [
        &[config, weights],
        &[config, weights, state],
        &[config, weights, tokenless],
        &native,
    ];
    for files in layouts {
        for given in [
            "",
            "global_step = 3",
            "tokens_seen = 9",
            "global_step = 3\ntokens_seen = 9",
            "optimizer = { reset = { warmup_steps = 4 } }",
        ] {
            let fixture = fixture(&format!("path = \"ckpt\"\n{given}"));
            fs::create_dir(fixture.path("ckpt")).unwrap();
            for (name, content) in files {
                fs::write(fixture.path("ckpt").join(name), content).unwrap();
            }
            let run = fixture.run();
            let file = run.experiment_file("again");
            let spec = ExperimentSpec::parse(&file, Path::new("again.toml"), Path::new("/"));
            let spec = spec.unwrap();
            let again = spec.expand(&resolve(&spec, |_| None).unwrap()).unwrap();
            assert_eq!(again.len(), 1, "{file}");
            assert_eq!(again[0].identity, run.identity, "{file}");

            fs::write(fixture.path("ckpt").join(files[1].0), "others").unwrap();
            let changed = spec.expand(&resolve(&spec, |_| None).unwrap()).unwrap_err();
            let words = changed.to_string();
            assert!(words.starts_with("`checkpoint.start`: "), "{words}");
        }
    }
}

#[test]
fn a_parent_run_is_known_by_its_label() {
    let fixture = fixture("run = \"pre/scratch-none-b16-s0\"\nstep = 500");
    let identity = CheckpointIdentity::Run {
        run: SpecHash("parent".to_owned()),
        step: 500,
        tokens_seen: None,
        optimizer: OptimizerStart::Load,
    };
    let inputs = resolved(&fixture).unwrap();
    assert_eq!(inputs.checkpoints, [(identity, CheckpointSource::Run)]);
}

#[track_caller]
fn refuses(fixture: &Fixture, want: &Expect) {
    let text = resolved(fixture).unwrap_err().to_string();
    let directory = fixture.directory.path().display().to_string();
    want.assert_eq(&text.replace(&directory, "DIR"));
}

#[test]
fn incomplete_checkpoints_are_refused() {
    let missing_shard = sharded(VOCAB_SIZE);
    fs::remove_file(missing_shard.path("ckpt/model-2.safetensors")).unwrap();
    refuses(
        &missing_shard,
        &expect![
            "DIR/ckpt/model.safetensors.index.json: names the shard model-2.safetensors, which is not there"
        ],
    );

    let small = sharded(VOCAB_SIZE - 1);
    refuses(
        &small,
        &expect![
            "checkpoint `start`: the tokenizer's vocabulary (1001) exceeds the model's (1000)"
        ],
    );

    let no_size = sharded(VOCAB_SIZE);
    fs::write(no_size.path("ckpt/config.json"), "{}").unwrap();
    refuses(
        &no_size,
        &expect!["DIR/ckpt/config.json: `vocab_size` is missing or no number"],
    );

    refuses(
        &fixture(r#"path = "elsewhere""#),
        &expect![
            "DIR/elsewhere: holds no weights: no model.safetensors, no pytorch_model.bin and no index of shards"
        ],
    );

    let no_weights = fixture(r#"path = ".""#);
    fs::write(no_weights.path("config.json"), r#"{"vocab_size":2000}"#).unwrap();
    refuses(
        &no_weights,
        &expect![
            "DIR/.: holds no weights: no model.safetensors, no pytorch_model.bin and no index of shards"
        ],
    );

    refuses(
        &fixture("run = \"pre/other-none-b16-s0\"\nstep = 500"),
        &expect![
            "checkpoint `start`: there is no run `pre/other-none-b16-s0`; submit the experiment that makes it first"
        ],
    );

    let small_init = "init = { vocab_size = 9, hidden_size = 8, intermediate_size = 8, \
                      num_hidden_layers = 1, num_attention_heads = 1 }";
    refuses(
        &fixture(small_init),
        &expect!["checkpoint `start`: the tokenizer's vocabulary (1001) exceeds the model's (9)"],
    );
}
