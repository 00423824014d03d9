use imprint_core::{LearningRate, ModelSpec};
use imprint_data::CheckpointFiles;
use imprint_lm::{LearnerOptions, ModelConfig};

use super::*;

pub(crate) fn learner() -> Learner {
    let model = ModelSpec {
        vocab_size: Some(16),
        hidden_size: 8,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        tie_word_embeddings: true,
        max_position_embeddings: Some(8),
        rope_theta: 1e4,
    };
    let config = ModelConfig::from_spec(&model).unwrap();
    Learner::initialise(config, 0, &LearnerOptions::default()).unwrap()
}

pub(crate) fn writer(run_dir: &Path, attempt: u32, tokens_seen: Option<u64>) -> StateWriter {
    let schedule = LearningRate::constant(1e-3).settle(0, None, 1).unwrap();
    StateWriter {
        dir: AttemptDir::of(run_dir, attempt),
        run: SpecHash("run".to_owned()),
        settled: Settled {
            first_global_step: 1000,
            tokens_seen,
            learning_rate: schedule,
            micro_batch_rows: 4,
        },
        machine: Machine::here("cpu", 1),
    }
}

pub(crate) fn position(step: u32) -> Position {
    Position {
        step,
        next_instance: u64::from(step) * 4,
        n_tokens: u64::from(step) * 32,
    }
}

#[test]
fn a_state_says_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let mut learner = learner();
    learner.update(&[3; 16], 8, 1e-3).unwrap();
    let writer = writer(dir.path(), 2, Some(500));
    let saved = writer.save(&learner, &position(7)).unwrap();
    assert_eq!((saved.step, saved.attempt, saved.global_step), (7, 2, 1007));

    let manifest = open(&saved).unwrap();
    let standing = Standing {
        global_step: 1007,
        tokens_seen: Some(500 + 7 * 32),
    };
    assert_eq!(manifest.standing(), standing);
    assert_eq!(manifest.settled, writer.settled);
    let names: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["config.json", "model.safetensors", "optimizer.safetensors"]
    );
    assert_eq!(find(Path::new(&saved.path)).unwrap(), Some(manifest));
    assert_eq!(find(dir.path()).unwrap(), None);
    let states = writer.dir.path().join("states");
    assert_eq!(
        fs::read_dir(states).unwrap().count(),
        1,
        "nothing half-written"
    );
}

#[test]
fn whose_attempt_it_was_does_not_make_another_checkpoint_of_a_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut learner = learner();
    let mut hash = |attempt, updates| {
        for _ in 0..updates {
            learner.update(&[3; 16], 8, 1e-3).unwrap();
        }
        let writer = writer(dir.path(), attempt, None);
        let saved = writer.save(&learner, &position(7)).unwrap();
        let files = CheckpointFiles::find(Path::new(&saved.path)).unwrap();
        [false, true].map(|with_moments| files.sha256(with_moments).unwrap())
    };
    let first = hash(1, 1);
    // Often enough that annotations in no order of their own would come in several.
    for attempt in 2..8 {
        assert_eq!(hash(attempt, 0), first);
    }
    let later = hash(9, 1);
    assert!(later[0] != first[0] && later[1] != first[1]);
}

#[test]
fn damage_is_found_and_the_next_state_taken() {
    let dir = tempfile::tempdir().unwrap();
    let learner = learner();
    let save = |attempt| {
        writer(dir.path(), attempt, None)
            .save(&learner, &position(4))
            .unwrap()
    };
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("model.safetensors", |path| {
            let mut bytes = fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("optimizer.safetensors", |path| {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(9)
                .unwrap();
        }),
        ("config.json", |path| fs::remove_file(path).unwrap()),
        ("state.json", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replace("\"step\": 4", "\"step\": 5")).unwrap();
        }),
    ];
    let mut states = vec![save(1)];
    for (attempt, (name, damage)) in (2..).zip(damages) {
        let state = save(attempt);
        damage(&Path::new(&state.path).join(name));
        let error = format!("{:#}", open(&state).unwrap_err());
        assert!(error.contains(name), "{error}");
        states.insert(0, state);
    }
    let (sound, _) = newest_sound(&states).unwrap();
    assert_eq!(sound.attempt, 1);
    states.pop();
    let error = format!("{:#}", newest_sound(&states).unwrap_err());
    assert!(error.contains("model.safetensors"), "{error}");
    assert!(newest_sound(&[]).is_err());
}

#[test]
fn what_could_not_be_recorded_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let learner = learner();
    let save = |attempt, step| {
        writer(dir.path(), attempt, None)
            .save(&learner, &position(step))
            .unwrap()
    };
    let (kept, lost, own) = (save(1, 10), save(1, 20), save(3, 20));
    let unfinished = AttemptDir::of(dir.path(), 2)
        .state(30)
        .with_extension(UNFINISHED);
    fs::create_dir_all(&unfinished).unwrap();
    sweep(
        dir.path(),
        &SpecHash("run".to_owned()),
        3,
        std::slice::from_ref(&kept),
    );
    for (path, is_there) in [
        (Path::new(&kept.path), true),
        (Path::new(&lost.path), false),
        (unfinished.as_path(), false),
        (Path::new(&own.path), true),
    ] {
        assert_eq!(path.exists(), is_there, "{}", path.display());
    }
}
