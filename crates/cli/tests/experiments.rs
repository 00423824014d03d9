//! Every experiment file that we hand out is one.

use std::fs;
use std::path::Path;

use imprint_core::ExperimentSpec;

#[test]
fn every_experiment_file_is_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
    let mut n_files = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        if let Err(error) = ExperimentSpec::parse(&text, &path, &dir) {
            panic!("{error}");
        }
        n_files += 1;
    }
    assert!(n_files >= 4, "{n_files} files in {}", dir.display());
}
