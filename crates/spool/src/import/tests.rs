use super::*;
use crate::SpoolWriter;

/// What importing a spool of four updates ends with when one of its bytes, counted from its end, has
/// flipped; no service answers.
async fn import_flipped(from_end: usize) -> ImportError {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("spool");
    let mut spool = SpoolWriter::create(&dir, &pb::Open::default()).unwrap();
    for step in 0..4 {
        let update = pb::Update {
            step,
            ..Default::default()
        };
        spool.append(Record::Update(update)).unwrap();
    }
    drop(spool);
    let segment = dir.join("000000.spool");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.len() - from_end;
    bytes[at] ^= 1;
    std::fs::write(segment, bytes).unwrap();
    let nowhere = || Target::from("http://127.0.0.1:1");
    import(&dir, nowhere(), nowhere()).await.unwrap_err()
}

#[tokio::test]
async fn a_damaged_spool_is_not_imported() {
    // The last update has a head of eight bytes and two or more behind it.
    let error = import_flipped(14).await;
    assert!(
        matches!(error, ImportError::Spool(crate::Error::Damaged { .. })),
        "{error}"
    );
    // The last record may be torn; what is before it would be imported.
    let error = import_flipped(1).await;
    assert!(matches!(error, ImportError::Connect(_)), "{error}");
}
