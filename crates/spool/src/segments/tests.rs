use proptest::prelude::*;

use imprint_proto::pb;

use super::*;

fn reading(index: u32) -> Record {
    Record::Reading(pb::Reading {
        index,
        step: index * 2,
        measured_by: 1,
        first_sum_nats: vec![1, 2, 3, 4].into(),
        ..Default::default()
    })
}

fn update(step: u32) -> Record {
    Record::Update(pb::Update {
        step,
        loss_nats: 2.5,
        ..Default::default()
    })
}

fn open() -> Open {
    Open {
        run_id: 7,
        attempt: 2,
        resume_step: 3,
        machine: "here".to_owned(),
    }
}

/// A spool in segments of about two records.
fn spool_of(records: &[Record]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut writer = SpoolWriter::create(&path, &open()).unwrap();
    writer.segment_bytes = 80;
    for r in records {
        writer.append(r.clone()).unwrap();
    }
    writer.sync().unwrap();
    (dir, path)
}

fn read_all(path: &Path) -> Result<Vec<Record>, Error> {
    let mut reader = SpoolReader::open(path)?;
    let extent = reader.abandoned_extent()?;
    std::iter::from_fn(|| reader.next(extent).transpose()).collect()
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let paths = (0..).map(|n| segment_path(path, n));
    paths.take_while(|p| p.exists()).collect()
}

fn written() -> Vec<Record> {
    (0..8).flat_map(|i| [reading(i), update(i)]).collect()
}

proptest! {
    /// Wherever a crash cuts the last segment, what is read is exactly the whole records before.
    #[test]
    fn a_torn_tail_is_cut(cut in 0_u64..120) {
        let (_dir, path) = spool_of(&written());
        let last = segments(&path).pop().unwrap();
        let file = File::options().write(true).open(&last).unwrap();
        let kept = file.metadata().unwrap().len().saturating_sub(cut);
        file.set_len(kept).unwrap();
        let got = read_all(&path).unwrap();
        prop_assert!(got.len() <= written().len());
        prop_assert_eq!(&got[..], &written()[..got.len()]);
        prop_assert!(cut > 0 || got == written());
    }

    /// Whatever byte a bad disk flips, what is read is a prefix of what was written, or an error.
    #[test]
    fn damage_never_yields_a_wrong_record(segment in 0_usize..4, at in 0_usize..200, bit in 0_u8..8) {
        let (_dir, path) = spool_of(&written());
        let segment = &segments(&path)[segment];
        let mut bytes = std::fs::read(segment).unwrap();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
        std::fs::write(segment, bytes).unwrap();
        if let Ok(got) = read_all(&path) {
            prop_assert_eq!(&got[..], &written()[..got.len()]);
        }
    }
}

#[test]
fn only_the_last_segment_may_be_torn() {
    let (_dir, path) = spool_of(&written());
    let paths = segments(&path);
    assert!(paths.len() > 3, "{paths:?}");
    let file = File::options().write(true).open(&paths[1]).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let error = read_all(&path).unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { path, .. } if *path == paths[1]),
        "{error}"
    );
}

#[test]
fn a_segment_that_was_being_begun_is_cut() {
    let (_dir, path) = spool_of(&written());
    let next = segment_path(&path, segments(&path).len() as u32);
    std::fs::write(next, &MAGIC[..5]).unwrap();
    assert_eq!(read_all(&path).unwrap(), written());
}

#[test]
fn segments_of_two_attempts_do_not_mix() {
    let (_dir, path) = spool_of(&written());
    let other = tempfile::tempdir().unwrap();
    let other = other.path().join("spool");
    drop(
        SpoolWriter::create(
            &other,
            &Open {
                attempt: 3,
                ..open()
            },
        )
        .unwrap(),
    );
    std::fs::copy(segment_path(&other, 0), segment_path(&path, 2)).unwrap();
    assert!(matches!(read_all(&path), Err(Error::Mixed { .. })));
}

#[test]
fn a_reader_follows_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut writer = SpoolWriter::create(&path, &open()).unwrap();
    let extent = writer.extent();
    let mut reader = SpoolReader::open(&path).unwrap();
    for i in 0..3 {
        assert_eq!(reader.next(*extent.borrow()).unwrap(), None);
        writer.append(reading(i)).unwrap();
        assert_eq!(reader.next(*extent.borrow()).unwrap(), Some(reading(i)));
    }
    writer.close();
    assert!(extent.borrow().closed);
}

#[test]
fn a_spool_is_never_written_twice() {
    let (_dir, path) = spool_of(&[reading(0)]);
    assert!(matches!(
        SpoolWriter::create(&path, &open()),
        Err(Error::Io {
            doing: "create",
            ..
        })
    ));
}

#[test]
fn undelivered_records_are_all_there_or_none() {
    let all: Vec<Record> = (3..6).flat_map(|i| [reading(i), update(i)]).collect();
    let (_dir, path) = spool_of(&all);
    let at = |reading, update| Cursors { reading, update };
    let between = |from, to| {
        let spool = SpoolReader::open(&path).unwrap();
        assert_eq!(*spool.header(), open());
        spool
            .between(from, to)
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
    };
    assert_eq!(
        between(at(4, 4), at(6, 5)).unwrap(),
        [reading(4), update(4), reading(5)]
    );
    let lacks = |from, to| between(from, to).unwrap_err().to_string();
    assert!(lacks(at(2, 3), at(6, 5)).ends_with("reading 2"));
    assert!(lacks(at(4, 4), at(7, 6)).ends_with("reading 6"));
    assert!(lacks(at(4, 4), at(6, 7)).ends_with("update 6"));
    // Everything is durable already.
    assert_eq!(between(at(9, 9), at(7, 7)).unwrap(), []);
    assert!(SpoolReader::open(Path::new("/nowhere/spool")).is_err());
}
