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

/// Segments of about two records.
const SMALL_BYTES: u64 = 80;

/// A spool in small segments.
fn spool_of(records: &[Record]) -> (tempfile::TempDir, PathBuf) {
    let (dir, path, _) = spool_and_ends(records, SMALL_BYTES);
    (dir, path)
}

/// A spool, and the segment and byte at which each record ends.
fn spool_and_ends(
    records: &[Record],
    segment_bytes: u64,
) -> (tempfile::TempDir, PathBuf, Vec<(u32, usize)>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut writer = SpoolWriter::create(&path, &open()).unwrap();
    writer.segment_bytes = segment_bytes;
    let append = |r: &Record| {
        writer.append(r.clone()).unwrap();
        let extent = *writer.extent().borrow();
        (extent.segment, extent.n_bytes as usize)
    };
    let ends = records.iter().map(append).collect();
    writer.sync().unwrap();
    (dir, path, ends)
}

/// Where the records of a segment begin.
fn header_bytes() -> usize {
    MAGIC.len() + encode(Record::Open(open())).len()
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
    /// Whatever a crash leaves behind the last record, if it is none, is cut.
    #[test]
    fn a_tail_that_is_no_record_is_cut(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let (_dir, path) = spool_of(&written());
        let last = segments(&path).pop().unwrap();
        let bytes = [std::fs::read(&last).unwrap(), tail].concat();
        std::fs::write(last, bytes).unwrap();
        prop_assert_eq!(read_all(&path).unwrap(), written());
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

/// Wherever a crash cuts the last segment, and whether zeros follow, what is read is exactly the
/// whole records before.
#[test]
fn a_torn_tail_is_cut() {
    for segment_bytes in [SMALL_BYTES, SEGMENT_BYTES] {
        let (_dir, path, ends) = spool_and_ends(&written(), segment_bytes);
        let last = segments(&path).len() as u32 - 1;
        let file = segment_path(&path, last);
        let whole = std::fs::read(&file).unwrap();
        let lengths = 0..=whole.len();
        let tails = |cut| [0, whole.len() - cut, whole.len() - cut + 4096];
        for (cut, n_zeros) in lengths.flat_map(|cut| tails(cut).map(|n| (cut, n))) {
            std::fs::write(&file, [&whole[..cut], &vec![0; n_zeros]].concat()).unwrap();
            let n_whole = ends.iter().filter(|&&end| end <= (last, cut)).count();
            match read_all(&path) {
                Ok(got) => assert_eq!(got, written()[..n_whole], "{cut} and {n_zeros} zeros"),
                Err(Error::NotASpool { .. }) => assert!(last == 0 && cut < header_bytes()),
                Err(e) => panic!("{cut} and {n_zeros} zeros: {e}"),
            }
        }
    }
}

#[test]
fn a_flipped_bit_before_a_sound_record_is_damage() {
    for segment_bytes in [SMALL_BYTES, SEGMENT_BYTES] {
        let (_dir, path, ends) = spool_and_ends(&written(), segment_bytes);
        let last = segments(&path).len() as u32 - 1;
        let file = segment_path(&path, last);
        let whole = std::fs::read(&file).unwrap();
        let of_last = ends.iter().filter(|(segment, _)| *segment == last);
        let of_last = of_last.map(|&(_, end)| end);
        let mut begins: Vec<usize> = [0, MAGIC.len(), header_bytes()]
            .into_iter()
            .chain(of_last)
            .collect();
        begins.pop();
        let last_record = begins.pop().unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&file, bytes).unwrap();
            let begin = begins.iter().rfind(|&&b| b <= at).copied().unwrap_or(0);
            match read_all(&path) {
                Ok(got) if at >= last_record => {
                    assert_eq!(got, written()[..written().len() - 1]);
                }
                Err(Error::NotASpool { path }) => assert!(path == file && last == 0 && begin == 0),
                Err(Error::Damaged { path, at: found }) => {
                    assert_eq!((path, found), (file.clone(), begin as u64), "{at}");
                }
                other => panic!("byte {at}: {other:?}"),
            }
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
        spool.between(from, to).collect::<Result<Vec<_>, _>>()
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
