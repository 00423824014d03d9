use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn write(directory: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn a_file_is_hashed_by_its_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "a", b"abc");
    // The test vector of FIPS 180-2.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(file_sha256(&path).unwrap(), abc);
    fs::write(&path, b"abd").unwrap();
    assert_ne!(
        file_sha256(&path).unwrap(),
        abc,
        "a file just changed is read again"
    );
    assert!(matches!(
        file_sha256(&directory.path().join("b")),
        Err(Error::Read { .. })
    ));
}

/// When a file that was changed just now has been as it is for long.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

fn is_known(path: &Path) -> bool {
    let version = Version::of(path, &fs::metadata(path).unwrap()).unwrap();
    KNOWN.lock().unwrap().contains_key(&version)
}

#[test]
fn settled_files_are_read_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "a", b"abc");
    let fresh = hash_file(&path, SystemTime::now()).unwrap();
    assert!(!is_known(&path), "it may change again at the same time");
    assert_eq!(hash_file(&path, later()).unwrap(), fresh);
    assert!(is_known(&path));
}

#[test]
fn a_file_of_the_same_name_size_and_time_is_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let set_time = |path: &Path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(long_ago).unwrap();
    };
    fs::write(&path, b"abc").unwrap();
    set_time(&path);
    let first = hash_file(&path, later()).unwrap();
    assert!(is_known(&path));

    let other = write(directory.path(), "b", b"xyz");
    set_time(&other);
    fs::rename(&other, &path).unwrap();
    let replaced = hash_file(&path, later()).unwrap();
    assert_ne!(replaced, first, "replaced");

    fs::write(&path, b"uvw").unwrap();
    set_time(&path);
    let rewritten = hash_file(&path, later()).unwrap();
    assert!(rewritten != replaced && rewritten != first, "written over");
}

#[test]
fn a_corpus_is_hashed_by_its_length_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let n = 3 << 20;
    let hash = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = vec![7; n];
        change(&mut bytes);
        let path = write(directory.path(), "c", &bytes);
        corpus_file_sha256(&path, CorpusFormat::Uint16).unwrap()
    };
    let plain = hash(&|_| ());
    assert_eq!(
        plain,
        hash(&|b| b[n / 2] = 0),
        "the middle is not looked at"
    );
    assert_ne!(plain, hash(&|b| b[(1 << 20) - 1] = 0));
    assert_ne!(plain, hash(&|b| b[2 << 20] = 0));
    assert_ne!(plain, hash(&|b| b.truncate(n - 1)));
    assert_ne!(hash(&|b| b.truncate(0)), hash(&|b| b.truncate(1)));
}
