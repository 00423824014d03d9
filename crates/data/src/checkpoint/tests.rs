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
    let hash = |with_optimizer| CheckpointFiles::find(dir)?.sha256(with_optimizer);
    assert!(hash(false).is_err(), "no weights");
    write("model.safetensors", "weights");
    let plain = hash(false).unwrap();
    write("README.md", "words");
    write("optimizer.safetensors", "moments");
    assert_eq!(hash(false).unwrap(), plain);
    let with_moments = hash(true).unwrap();
    assert_ne!(with_moments, plain);
    write("optimizer.safetensors", "other moments");
    assert_ne!(hash(true).unwrap(), with_moments);
    write("model.safetensors", "heights");
    assert_ne!(hash(false).unwrap(), plain);
    write("model.safetensors", "weights");
    assert_eq!(hash(false).unwrap(), plain);
    write("state.json", "another attempt");
    assert_eq!(hash(false).unwrap(), plain);
}

#[test]
fn a_saved_state_says_where_it_stands() {
    let directory = directory(&["config.json", "model.safetensors"]);
    let standing = |manifest: &str| {
        fs::write(directory.path().join("state.json"), manifest).unwrap();
        let found = CheckpointFiles::find(directory.path()).unwrap();
        found.saved_standing().map_err(|e| e.to_string())
    };
    let at = |global_step, tokens_seen| {
        Ok(Some(Standing {
            global_step,
            tokens_seen,
        }))
    };
    assert_eq!(
        standing(r#"{"global_step":7,"tokens_seen":448,"attempt":2}"#),
        at(7, Some(448))
    );
    assert_eq!(
        standing(r#"{"global_step":7,"tokens_seen":null}"#),
        at(7, None)
    );
    for (manifest, key) in [
        ("{}", "global_step"),
        (r#"{"global_step":18446744073709551615}"#, "global_step"),
        (r#"{"global_step":7,"tokens_seen":-1}"#, "tokens_seen"),
    ] {
        let refused = standing(manifest).unwrap_err();
        let want = format!("is no saved state's: `{key}` is missing or no count");
        assert!(refused.ends_with(&want), "{refused}");
    }
    fs::remove_file(directory.path().join("state.json")).unwrap();
    let found = CheckpointFiles::find(directory.path()).unwrap();
    assert_eq!(found.saved_standing().unwrap(), None);
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
    let expected = ["a.bin", "b.bin"].map(|name| directory.path().join(name));
    assert_eq!(found.weights, expected);
    let rewritten = r#"{ "metadata": {}, "weight_map": {"y":"a.bin", "x":"b.bin"} }"#;
    let hash = found.sha256(false).unwrap();
    fs::write(&index, rewritten).unwrap();
    assert_eq!(
        hash,
        found.sha256(false).unwrap(),
        "it names the same shards"
    );
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
                let says = found.manifest.or(found.trainer_state);
                let rest = [found.optimizer, says].map(|path| path.map(name));
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

    let sharded = directory(&["config.yaml"]);
    fs::create_dir(sharded.path().join("model_and_optim")).unwrap();
    let refused = CheckpointFiles::find(sharded.path()).unwrap_err();
    assert!(refused.to_string().contains("scripts/unshard.py"));
}

#[test]
fn the_vocabulary_of_either_configuration_is_found() {
    let directory = directory(&["model.pt"]);
    let yaml = "model:\n  d_model: 2048\n  vocab_size: 50280\n  embedding_size: 50304\n";
    fs::write(directory.path().join("config.yaml"), yaml).unwrap();
    let found = CheckpointFiles::find(directory.path()).unwrap();
    assert_eq!(found.vocab_size().unwrap(), Some(50304));
}
