use half::{bf16, f16};
use serde_json::json;
use tempfile::TempDir;

use super::*;

const VALUES: [f32; 6] = [1.0, -2.5, 0.0, 3.140_625, -0.007_812_5, 65_504.0];

/// Writes one tensor `x` of two rows and three columns.
fn write_typed(path: &Path, dtype: Dtype, bytes: &[u8]) {
    let view = TensorView::new(dtype, vec![2, 3], bytes).expect("bytes fit the shape");
    ::safetensors::serialize_to_file([("x", view)], None, path).expect("written");
}

fn read_x(path: PathBuf) -> Result<Vec<f32>, Error> {
    let mut out = vec![0.0; 6];
    TensorFiles::open_file(path)?.read("x", &[2, 3], &mut out)?;
    Ok(out)
}

#[test]
fn reads_three_types_as_float32() {
    let dir = TempDir::new().expect("temporary directory");
    let float32: Vec<u8> = VALUES.iter().flat_map(|x| x.to_le_bytes()).collect();
    let float16: Vec<u8> = (VALUES.iter())
        .flat_map(|&x| f16::from_f32(x).to_le_bytes())
        .collect();
    let bfloat16: Vec<u8> = (VALUES.iter())
        .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
        .collect();
    for (dtype, bytes, exact) in [
        (Dtype::F32, &float32, true),
        (Dtype::F16, &float16, true),
        (Dtype::BF16, &bfloat16, false),
    ] {
        let path = dir.path().join("x.safetensors");
        write_typed(&path, dtype, bytes);
        let values = read_x(path).expect("read");
        for (read, written) in values.iter().zip(VALUES) {
            let expected = if exact {
                written
            } else {
                bf16::from_f32(written).to_f32()
            };
            assert_eq!(*read, expected, "{dtype:?}");
        }
    }
}

#[test]
fn refuses_a_type_that_it_does_not_read() {
    let dir = TempDir::new().expect("temporary directory");
    let path = dir.path().join("x.safetensors");
    write_typed(&path, Dtype::I32, &[0; 24]);
    let err = read_x(path).expect_err("integers are no weights");
    assert!(
        err.to_string().contains("`x`") && err.to_string().contains("I32"),
        "{err}"
    );
}

#[test]
fn names_tensor_and_file_where_they_do_not_fit() {
    let dir = TempDir::new().expect("temporary directory");
    let path = dir.path().join("x.safetensors");
    write_typed(&path, Dtype::F32, &[0; 24]);
    let files = TensorFiles::open_file(path.clone()).expect("opened");
    let shape = files
        .read("x", &[3, 2], &mut [0.0; 6])
        .expect_err("another shape");
    assert_eq!(
        shape.to_string(),
        format!(
            "tensor `x` in {} has shape [2, 3]; the configuration calls for [3, 2]",
            path.display()
        )
    );
    let missing = files
        .read("y", &[1], &mut [0.0])
        .expect_err("no such tensor");
    assert!(missing.to_string().contains("`y`"), "{missing}");
}

#[test]
fn refuses_a_file_that_is_cut_short() {
    let dir = TempDir::new().expect("temporary directory");
    let path = dir.path().join("x.safetensors");
    write_typed(&path, Dtype::F32, &[0; 24]);
    let whole = fs::read(&path).expect("read");
    for n in [0, 4, 30, whole.len() - 1] {
        fs::write(&path, &whole[..n]).expect("written");
        let err = match TensorFiles::open_file(path.clone()) {
            Ok(_) => panic!("{n} of {} bytes were taken", whole.len()),
            Err(err) => err.to_string(),
        };
        assert!(err.contains("x.safetensors"), "{err}");
    }
}

/// A directory with the tensors `a` and `b`, a shard each.
fn sharded() -> TempDir {
    let dir = TempDir::new().expect("temporary directory");
    for (name, value) in [("a", 1.0), ("b", 2.0)] {
        write_tensors(
            &dir.path().join(format!("{name}.safetensors")),
            &[NamedTensor {
                name: name.to_owned(),
                shape: vec![1, 1],
                values: vec![value].into(),
            }],
            HashMap::new(),
        )
        .expect("written");
    }
    let index = json!({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}});
    fs::write(dir.path().join(INDEX), index.to_string()).expect("written");
    dir
}

fn open_error(dir: &TempDir) -> String {
    match TensorFiles::open_dir(dir.path()) {
        Ok(_) => panic!("the directory was taken"),
        Err(err) => err.to_string(),
    }
}

#[test]
fn reads_shards() {
    let dir = sharded();
    let files = TensorFiles::open_dir(dir.path()).expect("opened");
    assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b"]);
    for (name, value) in [("a", 1.0), ("b", 2.0)] {
        let mut out = [0.0];
        files.read(name, &[1, 1], &mut out).expect("read");
        assert_eq!(out, [value]);
        assert!(files.path_of(name).ends_with(format!("{name}.safetensors")));
    }
}

#[test]
fn names_a_missing_shard() {
    let dir = sharded();
    fs::remove_file(dir.path().join("b.safetensors")).expect("removed");
    let err = open_error(&dir);
    assert!(
        err.contains("b.safetensors is missing") && err.contains(INDEX),
        "{err}"
    );
}

#[test]
fn names_a_tensor_that_only_the_index_knows() {
    let dir = sharded();
    let index = json!({"weight_map": {
        "a": "a.safetensors", "b": "b.safetensors", "c": "b.safetensors"
    }});
    fs::write(dir.path().join(INDEX), index.to_string()).expect("written");
    let err = open_error(&dir);
    assert!(
        err.contains("`c`") && err.contains("b.safetensors"),
        "{err}"
    );
}

#[test]
fn refuses_an_index_that_leads_elsewhere_or_is_none() {
    let dir = sharded();
    let path = dir.path().join(INDEX);
    let elsewhere = json!({"weight_map": {"a": "../a.safetensors"}});
    for text in [elsewhere.to_string(), "{}".to_owned(), "no json".to_owned()] {
        fs::write(&path, &text).expect("written");
        let err = open_error(&dir);
        assert!(err.contains("is not a shard index"), "{text}: {err}");
    }
}

#[test]
fn says_what_it_looked_for_in_an_empty_directory() {
    let dir = TempDir::new().expect("temporary directory");
    let err = open_error(&dir);
    assert!(
        err.contains("no weights in") && err.contains("model.safetensors"),
        "{err}"
    );
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let dir = TempDir::new().expect("temporary directory");
    let path = dir.path().join("text");
    write_text(&path, "old").expect("written");
    let refused = replace(&path, |partial| {
        fs::write(partial, "half of the n").map_err(io_error("write", partial))?;
        Err(Error::NoWeights {
            dir: PathBuf::new(),
        })
    });
    assert!(refused.is_err());
    assert_eq!(fs::read_to_string(&path).expect("read"), "old");
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
}

fn fixture(name: &str) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.join("tests/fixtures/formats").join(name)
}

#[test]
fn reads_every_type_and_place_that_torch_saves() {
    for file in ["torch/odd.pt", "torch/odd-protocol-5.pt"] {
        let files = TensorFiles::open_file(fixture(file)).expect("opened");
        let check = |name: &str, shape: &[usize], want: &[f32]| {
            let mut out = vec![f32::NAN; want.len()];
            files.read(name, shape, &mut out).expect("read");
            assert_eq!(out, want, "{name} in {file}");
        };
        let ramp: Vec<f32> = (0..12_u8).map(f32::from).collect();
        for name in ["float64", "float16", "bfloat16", "parameter"] {
            check(name, &[3, 4], &ramp);
        }
        check("whole", &[12], &ramp);
        check("shared", &[2, 2], &ramp[4..8]);
        let turned = [0.0, 3.0, 6.0, 9.0, 1.0, 4.0, 7.0, 10.0, 2.0, 5.0, 8.0, 11.0];
        check("turned", &[3, 4], &turned);
        check("skipping", &[6], &[1.0, 3.0, 5.0, 7.0, 9.0, 11.0]);
        check("scalar", &[], &[7.0]);
        check("empty", &[0, 4], &[]);
        for (name, dtype) in [("int64", "I64"), ("bool", "BOOL")] {
            let err = files.expect(name, &[12]).expect_err("it is no float");
            assert!(err.to_string().contains(dtype), "{err}");
        }
    }
}

#[test]
fn the_same_weights_in_every_format() {
    let read = |dir: &str| {
        let files = TensorFiles::open_dir(&fixture(dir)).expect("opened");
        let mut all = Vec::new();
        for (name, tensor) in &files.tensors {
            let mut values = vec![0.0; tensor.n_elements()];
            files.read(name, &tensor.shape, &mut values).expect("read");
            all.push((name.clone(), tensor.shape.clone(), values));
        }
        files.check_unchanged().expect("nobody writes to it");
        all
    };
    let expected = read("safetensors");
    assert_eq!(expected.len(), 16);
    assert_eq!(read("bin"), expected);
    assert_eq!(read("bin-sharded"), expected);
}

#[test]
fn an_unfinished_directory_is_told_from_an_empty_one() {
    let dir = TempDir::new().expect("temporary directory");
    fs::write(dir.path().join("model.safetensors.tmp"), "").expect("written");
    assert!(open_error(&dir).contains("is still being written: it holds model.safetensors.tmp"));
    let dir = sharded();
    fs::rename(
        dir.path().join("b.safetensors"),
        dir.path().join("b.safetensors.partial"),
    )
    .expect("renamed");
    assert!(open_error(&dir).contains("is still being written: it holds b.safetensors.partial"));
}

#[test]
fn a_file_that_changes_meanwhile_is_refused() {
    let dir = sharded();
    let path = dir.path().join("a.safetensors");
    let files = TensorFiles::open_dir(dir.path()).expect("opened");
    files.check_unchanged().expect("nothing happened");
    let whole = fs::read(&path).expect("read");
    let changed = |files: &TensorFiles| {
        let err = files.check_unchanged().expect_err("it has changed");
        assert!(
            err.to_string().contains("a.safetensors was written to"),
            "{err}"
        );
    };

    // Cut: what is read is not there any more.
    fs::write(&path, &whole[..whole.len() - 4]).expect("written");
    let err = files.read("a", &[1, 1], &mut [0.0]).expect_err("it is cut");
    assert!(err.to_string().contains("cut or replaced"), "{err}");
    changed(&files);

    // Replaced by its like.
    fs::write(&path, &whole).expect("written");
    let files = TensorFiles::open_dir(dir.path()).expect("opened");
    fs::write(dir.path().join("other"), &whole).expect("written");
    fs::rename(dir.path().join("other"), &path).expect("renamed");
    changed(&files);

    // Gone.
    let files = TensorFiles::open_dir(dir.path()).expect("opened");
    fs::remove_file(&path).expect("removed");
    changed(&files);
}

#[test]
fn a_directory_is_no_file() {
    let dir = TempDir::new().expect("temporary directory");
    fs::create_dir(dir.path().join(WEIGHTS)).expect("made");
    assert!(open_error(&dir).contains("is not a file"));
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let dir = sharded();
    fs::copy(
        dir.path().join("a.safetensors"),
        dir.path().join("b.safetensors"),
    )
    .expect("copied");
    assert!(open_error(&dir).contains("tensor `a` is in "));
}

#[test]
fn a_configuration_is_held_to_its_weights() {
    let dir = TempDir::new().expect("temporary directory");
    for name in [CONFIG, WEIGHTS] {
        fs::copy(fixture("safetensors").join(name), dir.path().join(name)).expect("copied");
    }
    let path = dir.path().join(CONFIG);
    let text = fs::read_to_string(&path).expect("read");
    let layers = r#""num_hidden_layers": 2"#;
    assert!(text.contains(layers));
    let many = text.replace(layers, r#""num_hidden_layers": 1000"#);
    fs::write(&path, many).expect("written");
    let err = open(dir.path()).err().expect("it is refused").to_string();
    assert!(
        err.contains("`num_hidden_layers`") && err.contains("holds 16 tensors"),
        "{err}"
    );
}

#[test]
fn what_looks_wrong_is_told_once_it_was_read() {
    let dir = TempDir::new().expect("temporary directory");
    let path = dir.path().join("x.safetensors");
    write_typed(&path, Dtype::F32, &[0; 24]);
    let files = TensorFiles::open_file(path).expect("opened");
    assert!(files.warnings().is_empty());
    files.read("x", &[2, 3], &mut [1.0; 6]).expect("read");
    let warnings = files.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("tensor `x`") && warnings[0].contains("is 0 throughout"));
}

mod fuzz;
