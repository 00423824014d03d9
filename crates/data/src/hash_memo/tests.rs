use std::fs::File;
use std::time::SystemTime;

use super::*;

#[test]
fn a_hash_is_recalled_until_the_file_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large");
    let file = File::create(&path).unwrap();
    file.set_len(MIN_BYTES).unwrap();
    let version = || Version::of(&path, &fs::metadata(&path).unwrap()).unwrap();
    let memo = || Memo::of(Some(directory.path()), &version());
    assert_eq!(memo().unwrap().recall(), None);
    memo().unwrap().remember("abc");
    assert_eq!(memo().unwrap().recall().as_deref(), Some("abc"));

    // The same length and time of modification; the file system still knows.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    file.set_modified(modified).unwrap();
    assert_eq!(memo().unwrap().recall(), None);

    file.set_len(MIN_BYTES - 1).unwrap();
    assert!(memo().is_none(), "too small");
    file.set_len(MIN_BYTES).unwrap();
    assert!(Memo::of(None, &version()).is_none(), "no place");
}
