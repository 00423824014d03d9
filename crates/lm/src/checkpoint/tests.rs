use half::{bf16, f16};
use serde_json::json;
use tempfile::TempDir;

use super::*;

const VALUES: [f32; 6] = [1.0, -2.5, 0.0, 3.140_625, -0.007_812_5, 65_504.0];

/// Writes one tensor `x` of two rows and three columns.
fn write_typed(path: &Path, dtype: Dtype, bytes: &[u8]) {
    let view = TensorView::new(dtype, vec![2, 3], bytes).expect("bytes fit the shape");
    safetensors::serialize_to_file([("x", view)], None, path).expect("written");
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
        write_matrices(
            &dir.path().join(format!("{name}.safetensors")),
            &[NamedMatrix {
                name: name.to_owned(),
                rows: 1,
                values: &[value],
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
