use std::fs;

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

#[test]
fn settled_files_are_read_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "a", b"abc");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let settle = |content: &[u8], time| {
        fs::write(&path, content).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
        file_sha256(&path).unwrap()
    };
    let first = settle(b"abc", long_ago);
    assert_eq!(
        settle(b"xyz", long_ago),
        first,
        "path, size and time are the same"
    );
    assert_ne!(settle(b"xyz", long_ago + Duration::from_secs(1)), first);
    assert_ne!(settle(b"abcd", long_ago), first);
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
