use proptest::prelude::*;

use super::*;

fn reading(index: u32) -> Message {
    Message::Reading(pb::Reading {
        index,
        step: index * 2,
        measured_by: 1,
        first_sum_nats: vec![1, 2, 3, 4].into(),
        ..Default::default()
    })
}

fn update(step: u32) -> Message {
    Message::Update(pb::Update {
        step,
        loss_nats: 2.5,
        ..Default::default()
    })
}

fn spool_of(messages: &[Message]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut writer = SpoolWriter::create(&path, 3).unwrap();
    for m in messages {
        writer.append(m.clone()).unwrap();
    }
    writer.sync().unwrap();
    (dir, path)
}

fn read_all(path: &Path) -> Vec<Message> {
    let mut reader = SpoolReader::open(path).unwrap();
    std::iter::from_fn(|| reader.next(u64::MAX).unwrap()).collect()
}

proptest! {
    /// Whatever byte a crash or a bad disk cuts or flips, what is read is a prefix of what was
    /// written.
    #[test]
    fn damage_never_yields_a_wrong_record(cut in 0_usize..400, flip in 0_usize..400, bit in 0_u8..8) {
        let written: Vec<Message> = (0..4).flat_map(|i| [reading(i), update(i)]).collect();
        let (_dir, path) = spool_of(&written);
        let whole = std::fs::read(&path).unwrap();
        let header = HEADER_BYTES;
        let mut damaged = whole[..header + cut.min(whole.len() - header)].to_vec();
        if let Some(byte) = damaged.get_mut(header + flip) {
            *byte ^= 1 << bit;
        }
        std::fs::write(&path, damaged).unwrap();
        let got = read_all(&path);
        prop_assert!(got.len() <= written.len());
        prop_assert_eq!(&got[..], &written[..got.len()]);
    }
}

#[test]
fn a_reader_follows_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut writer = SpoolWriter::create(&path, 3).unwrap();
    let extent = writer.extent();
    let mut reader = SpoolReader::open(&path).unwrap();
    for i in 0..3 {
        assert_eq!(reader.next(extent.borrow().n_bytes).unwrap(), None);
        writer.append(reading(i)).unwrap();
        assert_eq!(
            reader.next(extent.borrow().n_bytes).unwrap(),
            Some(reading(i))
        );
    }
    writer.close();
    assert!(extent.borrow().closed);
}

#[test]
fn a_spool_is_never_written_twice() {
    let (_dir, path) = spool_of(&[reading(0)]);
    assert!(matches!(
        SpoolWriter::create(&path, 3),
        Err(Error::Io {
            doing: "create",
            ..
        })
    ));
}

#[test]
fn undelivered_records_are_all_there_or_none() {
    let all: Vec<Message> = (3..6).flat_map(|i| [reading(i), update(i)]).collect();
    let (_dir, path) = spool_of(&all);
    let at = |reading, update| Cursors { reading, update };
    let between = |from, to| {
        let spool = SpoolReader::open(&path).unwrap();
        assert_eq!(spool.first_step(), 3);
        spool.records_between(from, to).unwrap()
    };
    assert_eq!(
        between(at(4, 4), at(6, 5)),
        Some(vec![reading(4), update(4), reading(5)])
    );
    assert_eq!(
        between(at(2, 3), at(6, 5)),
        None,
        "reading 2 was never spooled here"
    );
    assert_eq!(
        between(at(4, 4), at(7, 6)),
        None,
        "reading 6 was not spooled before the end"
    );
    assert_eq!(
        between(at(9, 9), at(7, 7)),
        Some(vec![]),
        "everything is durable already"
    );
    assert!(SpoolReader::open(Path::new("/nowhere/spool")).is_err());
}
