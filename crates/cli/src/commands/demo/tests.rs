use super::*;

#[test]
fn the_files_name_the_experiments() {
    for (text, name) in [(PRETRAIN, PRETRAIN_NAME), (MATRIX, MATRIX_NAME)] {
        let spec =
            imprint_core::ExperimentSpec::parse(text, Path::new("demo"), Path::new("/d")).unwrap();
        assert_eq!(spec.name, name);
        for path in [
            &spec.data.facts,
            &spec.data.tokenizer,
            &spec.data.corpus.files[0],
        ] {
            assert!(path.starts_with("/d/world"), "{}", path.display());
        }
    }
}

#[test]
fn the_matrix_goes_on_from_what_pretraining_keeps() {
    let parse = |text| {
        imprint_core::ExperimentSpec::parse(text, Path::new("demo"), Path::new("/d")).unwrap()
    };
    let (pretrain, matrix) = (parse(PRETRAIN), parse(MATRIX));
    let labels: Vec<String> = pretrain.matrix().into_iter().map(|c| c.label).collect();
    for checkpoint in &matrix.checkpoint {
        assert!(
            labels.contains(checkpoint.run.as_ref().unwrap()),
            "{labels:?}"
        );
        assert!(pretrain.saving.keep.contains(&checkpoint.step.unwrap()));
    }
    assert_eq!(matrix.matrix().len(), 12);
}

#[tokio::test]
async fn a_directory_of_the_users_own_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mine = dir.path().join("notes.txt");
    fs::write(&mine, "mine").unwrap();
    let failure = make_anew(dir.path(), &dir.path().join("data"))
        .await
        .unwrap_err();
    assert!(failure.to_string().contains("--dir"), "{failure}");
    assert!(mine.exists());

    fs::write(dir.path().join(MARKER), "").unwrap();
    make_anew(dir.path(), &dir.path().join("data"))
        .await
        .unwrap();
    assert!(!mine.exists(), "an earlier demo's directory is made anew");
}
