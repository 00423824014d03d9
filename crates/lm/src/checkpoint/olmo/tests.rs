use std::fs;

use tempfile::TempDir;

use super::*;
use crate::checkpoint::{EXP_AVG, EXP_AVG_SQ};

fn fixture(name: &str) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.join("tests/fixtures/formats").join(name)
}

/// A copy of the directory with some of its files replaced by others.
fn with_files(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().expect("temporary directory");
    let copy = |from: PathBuf, name: &str| {
        fs::copy(from, dir.path().join(name)).expect("copied");
    };
    for name in ["config.yaml", "model.pt", "optim.pt", "train.pt"] {
        copy(fixture("olmo-pt").join(name), name);
    }
    for (name, from) in files {
        match *from {
            "" => fs::remove_file(dir.path().join(name)).expect("removed"),
            from => copy(fixture(from), name),
        }
    }
    dir
}

fn open(dir: &Path) -> OlmoNative {
    OlmoNative::open(dir).expect("configuration is taken")
}

/// Every tensor's name, shape and values.
fn all(files: &TensorFiles) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    (files.tensors.iter())
        .map(|(name, tensor)| {
            let mut values = vec![0.0; tensor.n_elements()];
            files.read(name, &tensor.shape, &mut values).expect("read");
            (name.clone(), tensor.shape.clone(), values)
        })
        .collect()
}

#[test]
fn weights_are_those_of_hugging_face() {
    let expected = all(&TensorFiles::open_dir(&fixture("safetensors")).expect("opened"));
    for layout in ["olmo-pt", "olmo-safetensors"] {
        let weights = open(&fixture(layout)).weights().expect("opened");
        assert_eq!(all(&weights), expected, "{layout}");
        assert_eq!(weights.warnings(), Vec::<String>::new());
    }
    let wrapped = with_files(&[("model.pt", "older/model-wrapped.pt")]);
    assert_eq!(
        all(&open(wrapped.path()).weights().expect("opened")),
        expected
    );
}

#[test]
fn every_layout_of_the_optimizer_is_the_same() {
    let named = open(&fixture("olmo-pt")).optimizer().expect("opened");
    let named = named.expect("it is there");
    assert_eq!(named.n_updates, 3);
    let expected = all(&named.moments);
    let weights = all(&TensorFiles::open_dir(&fixture("safetensors")).expect("opened"));
    for suffix in [EXP_AVG, EXP_AVG_SQ] {
        for (name, shape, _) in &weights {
            let found = named.moments.tensors.get(&format!("{name}{suffix}"));
            assert_eq!(found.map(|tensor| &tensor.shape), Some(shape), "{name}");
        }
    }
    assert_eq!(expected.len(), 2 * weights.len());
    let numbered = with_files(&[("optim.pt", "older/optim-numbered.pt")]);
    let unnamed = with_files(&[("optim.pt", "older/optim-unnamed.pt")]);
    let flat = fixture("olmo-safetensors");
    for dir in [numbered.path(), unnamed.path(), &flat] {
        let optimizer = open(dir).optimizer().expect("opened").expect("it is there");
        assert_eq!(optimizer.n_updates, 3, "{}", dir.display());
        assert!(all(&optimizer.moments) == expected, "{}", dir.display());
    }
}

#[test]
fn the_trainers_state_in_new_and_old_words() {
    let info = CheckpointInfo::read(&fixture("olmo-pt")).expect("read");
    let expected = CheckpointInfo {
        format: CheckpointFormat::Olmo,
        global_step: Some(3),
        tokens_seen: Some(3 * 2048 * 16),
        has_optimizer: true,
    };
    assert_eq!(info, expected);
    // Two batches of 2048 rows of 16 tokens.
    let older = with_files(&[("train.pt", ""), ("other.pt", "older/other.pt")]);
    assert_eq!(
        CheckpointInfo::read(older.path()).expect("read"),
        CheckpointInfo {
            tokens_seen: Some(2 * 2048 * 16),
            ..expected
        }
    );
    let bare = with_files(&[("train.pt", ""), ("optim.pt", "")]);
    assert_eq!(
        CheckpointInfo::read(bare.path()).expect("read"),
        CheckpointInfo {
            format: CheckpointFormat::Olmo,
            global_step: None,
            tokens_seen: None,
            has_optimizer: false,
        }
    );
    assert_eq!(
        CheckpointInfo::read(&fixture("bin")).expect("read"),
        CheckpointInfo {
            format: CheckpointFormat::HuggingFace,
            global_step: None,
            tokens_seen: None,
            has_optimizer: false,
        }
    );
}

#[track_caller]
fn weights_refused(dir: &Path, want: &str) {
    let err = open(dir).weights().err().expect("it is refused");
    assert!(err.to_string().contains(want), "{err}");
}

#[test]
fn a_fused_matrix_has_the_rows_of_the_configuration() {
    let dir = with_files(&[]);
    let path = dir.path().join("config.yaml");
    let text = fs::read_to_string(&path).expect("read");
    let text = text.replace("query_attention: false", "query_attention: true");
    fs::write(&path, text).expect("written");
    weights_refused(dir.path(), "att_proj.weight` in ");
    weights_refused(
        dir.path(),
        "has shape [24, 8]; the configuration calls for [16, 8]",
    );
}

#[test]
fn says_what_is_missing_or_unfinished() {
    let none = with_files(&[("model.pt", "")]);
    weights_refused(none.path(), "no weights in");
    fs::write(none.path().join("model.pt.partial"), "").expect("written");
    weights_refused(
        none.path(),
        "is still being written: it holds model.pt.partial",
    );
    let sharded = with_files(&[("model.pt", "")]);
    fs::create_dir(sharded.path().join("model_and_optim")).expect("made");
    weights_refused(sharded.path(), "scripts/unshard.py");
    let swapped = with_files(&[("model.pt", "older/optim-numbered.pt")]);
    weights_refused(swapped.path(), "holds a dict under `state`");
    let swapped = with_files(&[("optim.pt", "olmo-pt/model.pt")]);
    let err = open(swapped.path())
        .optimizer()
        .err()
        .expect("it is refused");
    assert!(err.to_string().contains("has no `state`"), "{err}");
    let swapped = with_files(&[("train.pt", "olmo-pt/model.pt")]);
    let err = CheckpointInfo::read(swapped.path()).expect_err("it is refused");
    assert!(err.to_string().contains("has no `global_step`"), "{err}");
}

#[test]
fn blocks_are_counted_through_their_groups() {
    let names = [
        "module.transformer.block_groups.0.0.attn_out.weight",
        "transformer.block_groups.0._fsdp_wrapped_module.1.attn_out.weight",
        "transformer.block_groups.1.0.attn_out.weight",
    ];
    let group_size = block_group_size(names.into_iter());
    assert_eq!(group_size, 2);
    let plain = names.map(|name| plain_name(name, group_size));
    assert_eq!(
        plain,
        [0, 1, 2].map(|block| format!("transformer.blocks.{block}.attn_out.weight"))
    );
}
