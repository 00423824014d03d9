use super::*;

fn directory(files: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in files {
        fs::write(directory.path().join(name), name).unwrap();
    }
    directory
}

#[test]
fn a_checkpoint_is_hashed_by_its_weights_and_configuration() {
    let directory = directory(&["config.json"]);
    let dir = directory.path();
    let write = |name: &str, content: &str| fs::write(dir.join(name), content).unwrap();
    assert!(checkpoint_sha256(dir, false).is_err(), "no weights");
    write("model.safetensors", "weights");
    let plain = checkpoint_sha256(dir, false).unwrap();
    write("README.md", "words");
    write("optimizer.safetensors", "moments");
    assert_eq!(checkpoint_sha256(dir, false).unwrap(), plain);
    let with_moments = checkpoint_sha256(dir, true).unwrap();
    assert_ne!(with_moments, plain);
    write("optimizer.safetensors", "other moments");
    assert_ne!(checkpoint_sha256(dir, true).unwrap(), with_moments);
    write("model.safetensors", "heights");
    assert_ne!(checkpoint_sha256(dir, false).unwrap(), plain);
    write("model.safetensors", "weights");
    assert_eq!(checkpoint_sha256(dir, false).unwrap(), plain);
    write("state.json", "a later step");
    assert_ne!(checkpoint_sha256(dir, false).unwrap(), plain);
}

#[test]
fn shards_are_those_that_the_index_names() {
    let directory = directory(&["config.json", "a.bin", "b.bin", "c.bin"]);
    let index = directory.path().join("pytorch_model.bin.index.json");
    fs::write(
        &index,
        r#"{"weight_map":{"x":"b.bin","y":"a.bin","z":"b.bin"}}"#,
    )
    .unwrap();
    let found = CheckpointFiles::find(directory.path()).unwrap();
    assert_eq!(found.index, Some(index.clone()));
    let expected = ["a.bin", "b.bin"].map(|name| directory.path().join(name));
    assert_eq!(found.weights, expected);
    fs::write(&index, r#"{"weight_map":{"x":"d.bin"}}"#).unwrap();
    let refused = CheckpointFiles::find(directory.path()).unwrap_err();
    assert!(refused.to_string().contains("d.bin, which is not there"));
}

#[test]
fn layouts_are_told_by_names() {
    let found = |files: &[&str]| {
        let directory = directory(files);
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        CheckpointFiles::find(directory.path())
            .map(|found| {
                let weights: Vec<String> = found.weights.into_iter().map(name).collect();
                let rest = [found.optimizer, found.trainer_state].map(|path| path.map(name));
                (name(found.config), weights.join(" "), rest)
            })
            .map_err(|e| e.to_string())
    };
    let some = |name: &str| Some(name.to_owned());
    let layout = |config: &str, weights: &str, rest: [Option<String>; 2]| {
        Ok((config.to_owned(), weights.to_owned(), rest))
    };
    assert_eq!(
        found(&["config.json", "pytorch_model.bin"]),
        layout("config.json", "pytorch_model.bin", [None, None])
    );
    assert_eq!(
        found(&["config.json", "pytorch_model.bin", "model.safetensors"]),
        layout("config.json", "model.safetensors", [None, None])
    );
    assert_eq!(
        found(&[
            "config.json",
            "model.safetensors",
            "optimizer.safetensors",
            "state.json"
        ]),
        layout(
            "config.json",
            "model.safetensors",
            [some("optimizer.safetensors"), some("state.json")]
        )
    );
    assert_eq!(
        found(&["config.yaml", "model.pt", "optim.pt", "train.pt"]),
        layout(
            "config.yaml",
            "model.pt",
            [some("optim.pt"), some("train.pt")]
        )
    );
    assert!(
        found(&["config.yaml"])
            .unwrap_err()
            .contains("neither model.safetensors nor model.pt")
    );
}

#[test]
fn the_vocabulary_of_either_configuration_is_found() {
    let directory = directory(&["model.pt"]);
    let yaml = "model:\n  d_model: 2048\n  vocab_size: 50280\n  embedding_size: 50304\n";
    fs::write(directory.path().join("config.yaml"), yaml).unwrap();
    let found = CheckpointFiles::find(directory.path()).unwrap();
    assert_eq!(found.vocab_size().unwrap(), Some(50304));
}
