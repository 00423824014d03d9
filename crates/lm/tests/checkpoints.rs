//! Training goes on from a checkpoint of any format as it does in PyTorch from the same files, by
//! fixtures that `python/oracle/make_checkpoint_fixtures.py` made.

use std::fs;
use std::path::{Path, PathBuf};

use imprint_core::OptimizerSpec;
use imprint_lm::{CheckpointInfo, Learner, LearnerOptions};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tempfile::TempDir;

#[derive(Deserialize)]
struct Oracle {
    optimizer: OptimizerSpec,
    learning_rate: f64,
    n_updates_before: u64,
    global_step: u64,
    tokens_seen: u64,
    losses_nats: Vec<f64>,
}

fn fixture(name: &str) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.join("tests/fixtures/formats").join(name)
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("it is there")
}

fn oracle() -> (Oracle, LearnerOptions) {
    let oracle: Oracle =
        serde_json::from_slice(&read(&fixture("oracle.json"))).expect("fixture is well formed");
    let options = LearnerOptions {
        optimizer: oracle.optimizer,
        ..LearnerOptions::default()
    };
    (oracle, options)
}

#[track_caller]
fn goes_on_like_pytorch(dir: &Path) {
    let (oracle, options) = oracle();
    let bytes = read(&fixture("oracle.safetensors"));
    let tensors = SafeTensors::deserialize(&bytes).expect("fixture is well formed");

    let info = CheckpointInfo::read(dir).expect("it says what it is");
    assert!(info.has_optimizer);
    assert_eq!(info.global_step, Some(oracle.global_step));
    assert_eq!(info.tokens_seen, Some(oracle.tokens_seen));

    let mut learner = Learner::load_state(dir, &options).expect("it loads");
    assert_eq!(learner.n_updates(), oracle.n_updates_before);
    let batches = tensors.tensor("batches").expect("fixture is complete");
    let [n_updates, rows, seq_len] = *batches.shape() else {
        panic!("batches have three dimensions");
    };
    assert_eq!(n_updates, oracle.losses_nats.len());
    let ids: Vec<u32> = (batches.data().as_chunks().0.iter())
        .map(|&le| i32::from_le_bytes(le) as u32)
        .collect();
    for (batch, loss) in ids.chunks_exact(rows * seq_len).zip(&oracle.losses_nats) {
        let report = learner
            .update(batch, seq_len, oracle.learning_rate)
            .expect("the batch fits");
        let far = (report.loss_nats - loss).abs() / loss;
        assert!(far < 1e-5, "{} against {loss}", report.loss_nats);
        assert!(
            report.grad_norm > oracle.optimizer.clip_norm,
            "the clip is active"
        );
    }

    let saved = TempDir::new().expect("temporary directory");
    learner.save_hugging_face(saved.path()).expect("saved");
    let bytes = read(&saved.path().join("model.safetensors"));
    let found = SafeTensors::deserialize(&bytes).expect("well formed");
    let names: Vec<&str> = (tensors.names().into_iter())
        .filter_map(|name| name.strip_prefix("after."))
        .collect();
    assert_eq!(found.len(), names.len());
    for name in names {
        let expected = tensors.tensor(&format!("after.{name}"));
        let expected = expected.expect("it is there");
        assert_eq!(expected.dtype(), Dtype::F64);
        let expected: Vec<f64> = (expected.data().as_chunks().0.iter())
            .map(|&le| f64::from_le_bytes(le))
            .collect();
        let found = found.tensor(name).expect("it was saved");
        let found = found.data().as_chunks().0.iter();
        let largest = expected.iter().fold(0.0_f64, |max, x| max.max(x.abs()));
        for (found, expected) in found
            .map(|&le| f64::from(f32::from_le_bytes(le)))
            .zip(&expected)
        {
            let far = (found - expected).abs();
            assert!(far < 1e-5 * largest, "{name}: {found} against {expected}");
        }
    }
}

#[test]
fn olmos_own_layout() {
    goes_on_like_pytorch(&fixture("olmo-pt"));
}

#[test]
fn olmos_own_layout_as_safetensors() {
    goes_on_like_pytorch(&fixture("olmo-safetensors"));
}

#[test]
fn olmos_older_layouts() {
    for optimizer in ["optim-numbered.pt", "optim-unnamed.pt"] {
        let dir = TempDir::new().expect("temporary directory");
        for (from, to) in [
            ("olmo-pt/config.yaml", "config.yaml"),
            ("older/model-wrapped.pt", "model.pt"),
            (&format!("older/{optimizer}"), "optim.pt"),
            ("olmo-pt/train.pt", "other.pt"),
        ] {
            fs::copy(fixture(from), dir.path().join(to)).expect("copied");
        }
        goes_on_like_pytorch(dir.path());
    }
}

#[test]
fn weights_alone_load_from_every_format() {
    let (oracle, options) = oracle();
    let bytes = read(&fixture("oracle.safetensors"));
    let tensors = SafeTensors::deserialize(&bytes).expect("fixture is well formed");
    let batches = tensors.tensor("batches").expect("fixture is complete");
    let seq_len = batches.shape()[2];
    let ids: Vec<u32> = (batches.data().as_chunks().0.iter())
        .map(|&le| i32::from_le_bytes(le) as u32)
        .take(batches.shape()[1] * seq_len)
        .collect();
    for dir in [
        "safetensors",
        "bin",
        "bin-sharded",
        "olmo-pt",
        "olmo-safetensors",
    ] {
        let mut learner = Learner::load_checkpoint(&fixture(dir), &options).expect("it loads");
        assert_eq!(learner.n_updates(), 0, "{dir}");
        let report = learner.update(&ids, seq_len, 0.0).expect("the batch fits");
        let loss = oracle.losses_nats[0];
        let far = (report.loss_nats - loss).abs() / loss;
        assert!(far < 1e-5, "{dir}: {} against {loss}", report.loss_nats);
    }
}

#[test]
fn moments_that_are_not_there_are_asked_for_in_vain() {
    let (_, options) = oracle();
    let err = Learner::load_state(&fixture("bin"), &options).err();
    let err = err.expect("there are none").to_string();
    assert!(err.contains("has no optimizer moments to load"), "{err}");
}

#[test]
fn a_configuration_that_asks_for_too_much_sets_nothing_aside() {
    let (_, options) = oracle();
    let dir = TempDir::new().expect("temporary directory");
    fs::copy(
        fixture("safetensors/model.safetensors"),
        dir.path().join("model.safetensors"),
    )
    .expect("copied");
    let config: serde_json::Value =
        serde_json::from_slice(&read(&fixture("safetensors/config.json"))).expect("well formed");
    // Each would be some terabytes, or as many matrices.
    for (key, value, want) in [
        (
            "vocab_size",
            1 << 24,
            "the configuration calls for [16777216, 8]",
        ),
        ("intermediate_size", 1 << 24, "[16777216, 8]"),
        ("hidden_size", 1 << 22, "calls for [48, 4194304]"),
        ("num_hidden_layers", 1 << 24, "holds 16 tensors"),
    ] {
        let mut lying = config.clone();
        lying[key] = value.into();
        fs::write(dir.path().join("config.json"), lying.to_string()).expect("written");
        let err = Learner::load_checkpoint(dir.path(), &options).err();
        let err = err.expect("it is refused").to_string();
        assert!(err.contains(want), "{key}: {err}");
    }
}
