use std::path::Path;

use crate::experiment::tests::inputs;
use crate::{CheckpointIdentity, CheckpointSource, ExperimentSpec, OptimizerStart, RunSpec};
use crate::{CheckpointSpec, ModelSpec, ResolvedInputs, SpecHash};

const FILE: &str = r#"
name = "tiny"
scenarios = ["duplication", "paraphrase", "once", "none", "mine"]
batch_sizes = [8, 4]
seeds = [0, 18446744073709551615]

[data]
facts = "facts \"quoted\"\u007f.json"
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
stagger = { groups = 2, every = 1 }

[[scenario.mine.arm]]
name = "other"
facts = "2..3"
text = "original"
steps = { start = 1, every = 2, count = 2 }
"#;

fn parse(text: &str) -> ExperimentSpec {
    let parsed = ExperimentSpec::parse(text, Path::new("tiny.toml"), Path::new("/base"));
    parsed.unwrap_or_else(|err| panic!("{err}\n{text}"))
}

/// What the files of an experiment tell; each checkpoint is what it says it is.
fn found(spec: &ExperimentSpec) -> ResolvedInputs {
    let checkpoint = |c: &CheckpointSpec| match (&c.path, &c.init) {
        (Some(path), _) => {
            let identity = CheckpointIdentity::Directory {
                sha256: "weights".into(),
                trainer_state_sha256: c.tokens_seen.is_none().then(|| "state".into()),
                global_step: c.global_step,
                tokens_seen: c.tokens_seen,
                optimizer: c.optimizer.unwrap_or(OptimizerStart::Load),
            };
            (identity, CheckpointSource::Directory { path: path.clone() })
        }
        (None, Some(model)) => {
            let model = model.clone();
            (
                CheckpointIdentity::Scratch { model },
                CheckpointSource::Scratch,
            )
        }
        (None, None) => {
            let identity = CheckpointIdentity::Run {
                run: SpecHash("parent".into()),
                step: c.step.unwrap(),
                tokens_seen: c.tokens_seen,
                optimizer: c.optimizer.unwrap_or(OptimizerStart::Load),
            };
            (identity, CheckpointSource::Run)
        }
    };
    ResolvedInputs {
        order_sha256: spec.order_file().map(|_| "order".into()),
        checkpoints: spec.checkpoint.iter().map(checkpoint).collect(),
        ..inputs()
    }
}

fn runs(text: &str) -> Vec<RunSpec> {
    let spec = parse(text);
    let runs = spec.expand(&found(&spec));
    runs.unwrap_or_else(|err| panic!("{err}\n{text}"))
}

/// Every run of an experiment comes out of its own file again, and nothing else does.
#[track_caller]
fn comes_again(text: &str) {
    for run in runs(text) {
        let file = run.experiment_file("again");
        let again = runs(&file);
        assert_eq!(again.len(), 1, "{file}");
        assert_eq!(again[0].identity, run.identity, "{file}");
        assert_eq!(again[0].identity.hash(), run.identity.hash());
        assert_eq!(again[0].files, run.files);
        assert_eq!(again[0].saving, run.saving);
        assert_eq!(again[0].resources, run.resources);
        let at = run.identity.scenario_name.len();
        let (checkpoint, _) = run.label["tiny/".len()..].split_once('-').unwrap();
        assert!(
            again[0].label.starts_with(&format!("again/{checkpoint}-"))
                && again[0].label.len() > at,
            "{}",
            again[0].label
        );
        // A file made of this file's run is this file.
        assert_eq!(again[0].experiment_file("again"), file);
    }
}

#[test]
fn every_scenario_seed_and_batch_size_comes_again() {
    comes_again(FILE);
    comes_again(&FILE.replace("scenarios = [", "repeat = 3\nscenarios = ["));
    // A scenario of one's own may have a dot in its name, or that of a built-in one.
    comes_again(
        &FILE
            .replace("scenario.mine", "scenario.\"m.i\"")
            .replace("\"mine\"]", "\"m.i\"]"),
    );
    comes_again(
        &FILE
            .replace("scenario.mine", "scenario.once")
            .replace(", \"mine\"]", "]"),
    );
}

#[test]
fn every_kind_of_checkpoint_comes_again() {
    let parent = "run = \"pre/scratch-none-b16-s0\"\nstep = 500";
    for checkpoint in [
        "run = \"pre/scratch-none-b16-s0\"\nstep = 7\ntokens_seen = 9_000_000_000_000",
        "run = \"pre/scratch-none-b16-s0\"\nstep = 7\noptimizer = 'reset'",
        "path = 'ckpt'",
        "path = 'ckpt'\nglobal_step = 117850",
        "path = 'ckpt'\nglobal_step = 117850\ntokens_seen = 494_298_726_400\noptimizer = 'load'",
        "path = 'ckpt'\noptimizer = { reset = { warmup_steps = 100, from = 0.1 } }",
        "init = { hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, \
         num_attention_heads = 2 }",
        "init = { hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, \
         num_attention_heads = 2, tie_word_embeddings = true, vocab_size = 128, rope_theta = 5e5 }",
    ] {
        comes_again(&FILE.replace(parent, checkpoint));
    }
    let several = "path = 'a'\n[[checkpoint]]\nname = \"early\"\npath = 'b'\nglobal_step = 3";
    comes_again(&FILE.replace(parent, several));
}

#[test]
fn every_schedule_optimizer_and_precision_comes_again() {
    let constant = "{ kind = \"constant\", peak = 5e-3, warmup_steps = 30 }";
    for rate in [
        "{ kind = 'constant', peak = 1e-3, warmup_from = 0.3, warmup_steps = 2, zero_from_step = 9 }",
        "{ kind = 'linear', peak = 4e-4, max_steps = 739328, floor = 0.0 }",
        "{ kind = 'cosine', peak = 4e-4, warmup_steps = 2000, max_tokens = 3_000_000_000_000 }",
        "{ kind = 'wsd', peak = 0.1, warmup_steps = 5, max_steps = 100, decay_steps = 50, \
           decay = 'sqrt' }",
        "{ kind = 'table', points = [[0, 0.0], [2000, 4e-4]], interpolation = 'step' }",
        "{ kind = 'table', points = [[7, 0.30000000000000004]] }",
    ] {
        comes_again(&FILE.replace(constant, rate));
    }
    let training = |more: &str| FILE.replace("[injection]", &format!("{more}\n[injection]"));
    comes_again(&training("precision = 'bfloat16'\nmicro_batch_rows = 3"));
    comes_again(&training(
        "[training.optimizer]\nbeta1 = 0.8\nbeta2 = 0.1\neps = 1e-30\nweight_decay = 0\n\
         clip_norm = 2.5\nclip_warmup = { factor = 10, steps = 1000 }",
    ));
}

#[test]
fn every_corpus_probing_saving_and_resource_comes_again() {
    let format = "format = \"uint16\"";
    for corpus in [
        "format = 'npy'\norder = 'sequential'\nmax_epochs = 3\nstart_instance = 512",
        "format = 'uint32'\norder = { kind = 'pcg64', seed = 6198 }",
        "format = 'uint16'\norder = { kind = 'pcg64', seed = 1, epoch = 2, world_size = 8, \
           n_instances = 1000 }",
        "format = 'npy'\norder = { kind = 'file', path = 'global_indices.npy' }",
        "format = 'jsonl'",
        "format = 'parquet'\ntext_field = 'body'",
        "format = 'text'",
    ] {
        comes_again(&FILE.replace(format, corpus));
    }
    comes_again(&FILE.replace(
        "seq_len = 64",
        "seq_len = 64\neos = \"\\n<é>\\t\"\ndocument_mask = true",
    ));
    for tables in [
        "[probing]\nswap = true\nreading_steps = { dense_after_last_injection = 5, then_every = 3 }",
        "[probing]\nreading_steps = { then_every = 4 }",
        "[saving]\nevery = 7\nevery_minutes = 3\nkeep_last = 5\nkeep = { powers_of_two_up_to = 16 }",
        "[resources]\nexecutor = 'a100'\ndevice = 'cuda:0'\nmemory_gib = 79.5\n\
         recompute_layers = true",
    ] {
        comes_again(&format!("{FILE}\n{tables}"));
    }
}

#[test]
fn every_cell_of_a_matrix_comes_again() {
    comes_again(&format!(
        "{}\n[matrix.product]\n'training.learning_rate.peak' = [1e-4, 4e-4]\n\
         'injection.every' = [2, 3]\n'data.corpus.start_instance' = [0, 64]\n'repeat' = [0, 2]\n\
         [[matrix.zip]]\nbatch_size = [8, 4]\n'training.steps' = [30, 40]\n\
         'probing.swap' = [true, false]\n[[matrix.exclude]]\nbatch_size = 8\nseed = 0",
        FILE.replace("batch_sizes = [8, 4]", "")
    ));
}

#[test]
fn a_repeat_changes_hash_and_label_and_nothing_else() {
    let once = runs(FILE);
    let thrice = runs(&FILE.replace("[data]", "repeat = 2\n[data]"));
    for (run, repeated) in once.iter().zip(&thrice) {
        assert_eq!(repeated.label, format!("{}-repeat2", run.label));
        assert_ne!(repeated.identity.hash(), run.identity.hash());
        let mut identity = repeated.identity.clone();
        identity.repeat = 0;
        assert_eq!(identity, run.identity);
        let json = serde_json::to_string(&run.identity).unwrap();
        assert!(!json.contains("repeat"), "{json}");
    }
    // As an axis it renames no run that was there without it.
    let axis = runs(&format!("{FILE}\n[matrix.product]\nrepeat = [0, 1]"));
    let labels: Vec<&str> = axis.iter().map(|r| r.label.as_str()).collect();
    for run in &once {
        assert!(labels.contains(&run.label.as_str()), "{}", run.label);
        assert!(labels.contains(&format!("{}-repeat1", run.label).as_str()));
    }
}

#[test]
fn the_file_says_which_content_its_files_have() {
    let text = FILE.replace(
        "run = \"pre/scratch-none-b16-s0\"\nstep = 500",
        "path = 'ckpt'",
    );
    let text = text.replace(
        "\"uint16\"",
        "'npy'\norder = { kind = 'file', path = 'o.npy' }",
    );
    let file = runs(&text)[0].experiment_file("again");
    let spec = parse(&file);
    let refused = |change: &dyn Fn(&mut ResolvedInputs)| {
        let mut inputs = found(&spec);
        change(&mut inputs);
        spec.expand(&inputs).unwrap_err().to_string()
    };
    let facts = refused(&|inputs| inputs.facts_sha256 = "other".into());
    assert_eq!(
        facts,
        "`data.facts`: /base/facts \"quoted\"\u{7f}.json has the SHA-256 other, and this experiment \
         wants f: it is another file, or it has changed"
    );
    for (error, words) in [
        (
            refused(&|inputs| inputs.tokenizer_sha256 = "other".into()),
            "`data.tokenizer`: /abs/tokenizer.json has the SHA-256 other, and this experiment wants t",
        ),
        (
            refused(&|inputs| inputs.corpus_sha256 = vec!["other".into()]),
            "`data.corpus.files`: /base/corpus.u16 has the SHA-256 other, and this experiment wants c",
        ),
        (
            refused(&|inputs| inputs.order_sha256 = Some("other".into())),
            "`data.corpus.order`: /base/o.npy has the SHA-256 other, and this experiment wants order",
        ),
    ] {
        assert!(error.contains(words), "{error}");
    }
    let of_checkpoint = |weights: &str, state: Option<&str>| {
        refused(&|inputs| {
            let CheckpointIdentity::Directory {
                sha256,
                trainer_state_sha256,
                ..
            } = &mut inputs.checkpoints[0].0
            else {
                panic!("a directory");
            };
            *sha256 = weights.into();
            *trainer_state_sha256 = state.map(str::to_owned);
        })
    };
    let weights = of_checkpoint("other", Some("state"));
    assert!(
        weights.contains(
            "`checkpoint.late`: /base/ckpt has the SHA-256 other, and this experiment wants weights"
        ),
        "{weights}"
    );
    let state = of_checkpoint("weights", None);
    assert!(
        state.contains("`checkpoint.late.trainer_state`: /base/ckpt has the SHA-256 none"),
        "{state}"
    );
}

#[test]
fn a_model_from_scratch_has_the_sizes_it_was_given() {
    let init = "init = { hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, \
                num_attention_heads = 2 }";
    let parent = "run = \"pre/scratch-none-b16-s0\"\nstep = 500";
    let run = runs(&FILE.replace(parent, init)).remove(0);
    let file = parse(&run.experiment_file("again"));
    let model: &ModelSpec = file.checkpoint[0].init.as_ref().unwrap();
    assert_eq!(
        (model.vocab_size, model.max_position_embeddings),
        (Some(100), Some(64))
    );
}
