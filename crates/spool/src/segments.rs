//! Segments on the disk: one writer, any number of readers that follow it or come later.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use imprint_proto::pb::{Open, SpoolRecord, spool_record::Record};
use prost::Message as _;
use tokio::sync::watch;

use crate::Cursors;

/// First bytes of a segment; the digit is the format's version.
const MAGIC: &[u8; 8] = b"imprint2";
/// A record's length and checksum.
const HEAD_BYTES: u64 = 8;
/// Longest record taken for one: what the metrics service would take.
const MAX_RECORD_BYTES: u32 = imprint_proto::MAX_MESSAGE_BYTES as u32;
/// A segment that has grown to this is closed.
const SEGMENT_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} the spool {path}: {source}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is not a spool of this version")]
    NotASpool { path: PathBuf },
    /// Not a torn tail: something was there and is not any more.
    #[error(
        "{path} is damaged at byte {at}: what follows cannot be read; bring back a sound copy, or \
         cut the file there and delete the segments after it to do without"
    )]
    Damaged { path: PathBuf, at: u64 },
    #[error("{path} belongs to another attempt than {first}")]
    Mixed { path: PathBuf, first: PathBuf },
    #[error("the spool {path} lacks what was to be read from it: {what}")]
    Lacks { path: PathBuf, what: String },
}

/// How far a spool is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    segment: u32,
    /// Of the last segment.
    n_bytes: u64,
    /// Nothing will be appended any more.
    pub closed: bool,
}

/// The only writer of an attempt's spool.
#[derive(Debug)]
pub struct SpoolWriter {
    dir: PathBuf,
    open: Open,
    /// Its first segment, locked while there is a writer.
    _first: File,
    file: File,
    extent: watch::Sender<Extent>,
    segment_bytes: u64,
}

impl SpoolWriter {
    /// A new spool in the new directory `dir`; an attempt writes its own once.
    ///
    /// # Errors
    /// When the directory is there already or cannot be written.
    pub fn create(dir: &Path, open: &Open) -> Result<Self, Error> {
        std::fs::create_dir(dir).map_err(|e| failed("create", dir, e))?;
        let (file, n_bytes) = create_segment(dir, open, 0)?;
        let first = file.try_clone().map_err(|e| failed("create", dir, e))?;
        // Where a file system has no locks, whoever imports has to know.
        let _ = first.try_lock();
        let extent = Extent {
            segment: 0,
            n_bytes,
            closed: false,
        };
        Ok(Self {
            dir: dir.to_owned(),
            open: open.clone(),
            _first: first,
            file,
            extent: watch::Sender::new(extent),
            segment_bytes: SEGMENT_BYTES,
        })
    }

    /// Appends one record; it survives the process, and after [`Self::sync`] the machine.
    ///
    /// # Errors
    /// When the disk is full, say; then the spool ends before the record.
    pub fn append(&mut self, record: Record) -> Result<(), Error> {
        let mut extent = *self.extent.borrow();
        if extent.n_bytes >= self.segment_bytes {
            self.sync()?;
            extent.segment += 1;
            (self.file, extent.n_bytes) = create_segment(&self.dir, &self.open, extent.segment)?;
        }
        let bytes = encode(record);
        self.file.write_all(&bytes).map_err(|e| {
            // What is appended next, such as the last words, comes right behind the record before.
            let at = SeekFrom::Start(extent.n_bytes);
            let cut = self.file.set_len(extent.n_bytes);
            let _ = cut.and_then(|()| (&self.file).seek(at));
            self.failed("append to", extent.segment, e)
        })?;
        extent.n_bytes += bytes.len() as u64;
        self.extent.send_replace(extent);
        Ok(())
    }

    /// Makes sure that what was appended survives the machine.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn sync(&self) -> Result<(), Error> {
        let segment = self.extent.borrow().segment;
        self.file
            .sync_data()
            .map_err(|e| self.failed("sync", segment, e))
    }

    /// Tells readers that nothing more will come.
    pub fn close(&self) {
        self.extent.send_modify(|x| x.closed = true);
    }

    /// How far the spool is written, for those who read behind.
    pub fn extent(&self) -> watch::Receiver<Extent> {
        self.extent.subscribe()
    }

    fn failed(&self, doing: &'static str, segment: u32, source: io::Error) -> Error {
        failed(doing, &segment_path(&self.dir, segment), source)
    }
}

fn create_segment(dir: &Path, open: &Open, segment: u32) -> Result<(File, u64), Error> {
    let path = segment_path(dir, segment);
    let begin = || -> io::Result<(File, u64)> {
        let mut file = File::options().write(true).create_new(true).open(&path)?;
        let bytes = [MAGIC.to_vec(), encode(Record::Open(open.clone()))].concat();
        file.write_all(&bytes)?;
        // Its name, too, survives the machine.
        File::open(dir)?.sync_all()?;
        Ok((file, bytes.len() as u64))
    };
    begin().map_err(|e| failed("create", &path, e))
}

fn segment_path(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("{segment:06}.spool"))
}

fn encode(record: Record) -> Vec<u8> {
    let payload = SpoolRecord {
        record: Some(record),
    }
    .encode_to_vec();
    let mut bytes = Vec::with_capacity(payload.len() + HEAD_BYTES as usize);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(&payload).to_le_bytes());
    bytes.extend(payload);
    bytes
}

fn length_and_crc([a, b, c, d, e, f, g, h]: [u8; HEAD_BYTES as usize]) -> (u32, u32) {
    let (length, crc) = ([a, b, c, d], [e, f, g, h]);
    (u32::from_le_bytes(length), u32::from_le_bytes(crc))
}

/// What [`encode`] was given, if this is its payload.
fn decode(payload: &[u8], crc: u32) -> Option<Record> {
    if crc32fast::hash(payload) != crc {
        return None;
    }
    SpoolRecord::decode(payload).ok()?.record
}

fn begins_with_record(bytes: &[u8]) -> bool {
    let Some((&head, rest)) = bytes.split_first_chunk() else {
        return false;
    };
    let (length, crc) = length_and_crc(head);
    let Some(payload) = rest.get(..length as usize) else {
        return false;
    };
    // One field fills it; seeing that first spares the checksum at almost every byte of a reading.
    let mut field = payload.get(1..).unwrap_or_default();
    let is_filled = prost::decode_length_delimiter(&mut field).is_ok_and(|n| n == field.len());
    is_filled && decode(payload, crc).is_some()
}

/// Reads a spool from its beginning.
#[derive(Debug)]
pub struct SpoolReader {
    dir: PathBuf,
    open: Open,
    segment: Segment,
}

impl SpoolReader {
    /// # Errors
    /// When there is no spool, or it is of another version.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (segment, open) = Segment::open(dir, 0)?;
        Ok(Self {
            dir: dir.to_owned(),
            open,
            segment,
        })
    }

    /// The run and attempt that the spool belongs to, and the first step that it delivers: it holds
    /// everything from there on.
    pub fn header(&self) -> &Open {
        &self.open
    }

    /// Whether the trainer that writes the spool lives, as far as the file system can tell.
    ///
    /// # Errors
    /// When the spool cannot be opened.
    pub fn is_being_written(&self) -> Result<bool, Error> {
        let first = segment_path(&self.dir, 0);
        let file = File::open(&first).map_err(|e| failed("open", &first, e))?;
        Ok(matches!(
            file.try_lock_shared(),
            Err(std::fs::TryLockError::WouldBlock)
        ))
    }

    /// How far a spool that nobody writes any more can be read.
    ///
    /// # Errors
    /// When it is damaged; a torn tail is none, and is cut.
    pub fn abandoned_extent(&self) -> Result<Extent, Error> {
        let mut reader = Self::open(&self.dir)?;
        while reader.next_abandoned()?.is_some() {}
        Ok(Extent {
            segment: reader.segment.number,
            n_bytes: reader.segment.at,
            closed: true,
        })
    }

    /// The next record of a spool that nobody writes any more; `None` at its end.
    ///
    /// A bad record of the last segment is a tail that a crash tore, and is cut, unless a sound
    /// record lies anywhere behind it: then it is damage.
    fn next_abandoned(&mut self) -> Result<Option<Record>, Error> {
        loop {
            if let Some(record) = self.segment.next(u64::MAX)? {
                return Ok(Some(record));
            }
            let exists = |after| segment_path(&self.dir, self.segment.number + after).exists();
            let (has_next, has_second_next) = (exists(1), exists(2));
            if !has_next {
                self.segment.check_tail()?;
                return Ok(None);
            }
            self.segment.check_end()?;
            match self.next_segment() {
                // The crash came while it was begun.
                Err(Error::NotASpool { .. }) if !has_second_next => return Ok(None),
                begun => begun?,
            }
        }
    }

    /// The next record below `extent`; `None` where there is none yet.
    ///
    /// # Errors
    /// When what was written cannot be read back.
    pub fn next(&mut self, extent: Extent) -> Result<Option<Record>, Error> {
        loop {
            let is_last = self.segment.number == extent.segment;
            let end = if is_last { extent.n_bytes } else { u64::MAX };
            match self.segment.next(end)? {
                Some(record) => return Ok(Some(record)),
                None if is_last && self.segment.at >= extent.n_bytes => return Ok(None),
                None if is_last => return Err(self.segment.damaged()),
                None => {
                    self.segment.check_end()?;
                    self.next_segment()?;
                }
            }
        }
    }

    fn next_segment(&mut self) -> Result<(), Error> {
        let (segment, open) = Segment::open(&self.dir, self.segment.number + 1)?;
        if open != self.open {
            return Err(Error::Mixed {
                path: segment.path,
                first: segment_path(&self.dir, 0),
            });
        }
        self.segment = segment;
        Ok(())
    }

    /// The readings and updates from `from` up to `to`, of a spool that nobody writes any more.
    ///
    /// Damage behind them does no harm.
    /// Where one is missing, the iterator ends with [`Error::Lacks`].
    pub fn between(self, from: Cursors, to: Cursors) -> Between {
        Between {
            reader: self,
            next: from,
            to,
        }
    }
}

/// See [`SpoolReader::between`].
#[derive(Debug)]
pub struct Between {
    reader: SpoolReader,
    next: Cursors,
    to: Cursors,
}

impl Iterator for Between {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.next.reach(self.to) {
            match self.reader.next_abandoned() {
                Ok(Some(record)) => match &record {
                    Record::Reading(r)
                        if r.index == self.next.reading && r.index < self.to.reading =>
                    {
                        self.next.reading += 1;
                        return Some(Ok(record));
                    }
                    Record::Update(u) if u.step == self.next.update && u.step < self.to.update => {
                        self.next.update += 1;
                        return Some(Ok(record));
                    }
                    _ => {}
                },
                Ok(None) => {
                    let missing = self.next;
                    self.next = self.to;
                    let what = match missing.reading < self.to.reading {
                        true => format!("reading {}", missing.reading),
                        false => format!("update {}", missing.update),
                    };
                    let path = self.reader.dir.clone();
                    return Some(Err(Error::Lacks { path, what }));
                }
                Err(e) => {
                    self.next = self.to;
                    return Some(Err(e));
                }
            }
        }
        None
    }
}

/// One file of a spool, read from its beginning.
#[derive(Debug)]
struct Segment {
    number: u32,
    path: PathBuf,
    file: BufReader<File>,
    /// Where the next record begins.
    at: u64,
}

impl Segment {
    fn open(dir: &Path, number: u32) -> Result<(Self, Open), Error> {
        let path = segment_path(dir, number);
        let file = File::open(&path).map_err(|e| failed("open", &path, e))?;
        let mut segment = Self {
            number,
            path,
            file: BufReader::new(file),
            at: 0,
        };
        let mut magic = [0; MAGIC.len()];
        let is_whole = read_whole(&mut segment.file, &mut magic)
            .map_err(|e| failed("read", &segment.path, e))?;
        let is_ours = is_whole && magic == *MAGIC;
        if is_ours {
            segment.at = MAGIC.len() as u64;
            if let Some(Record::Open(open)) = segment.next(u64::MAX)? {
                return Ok((segment, open));
            }
        }
        // A whole spool may be of another version, what follows a segment of ours is not.
        if is_ours || number > 0 {
            segment.check_tail()?;
        }
        Err(Error::NotASpool { path: segment.path })
    }

    /// The next record below `end`; `None` where there is no whole and sound one.
    fn next(&mut self, end: u64) -> Result<Option<Record>, Error> {
        match self.read(end) {
            Ok(Some((record, n_bytes))) => {
                self.at += n_bytes;
                Ok(Some(record))
            }
            // What was read of a torn record is read again: the writer may still be at it.
            Ok(None) => self.file.seek(SeekFrom::Start(self.at)).map(|_| None),
            Err(e) => Err(e),
        }
        .map_err(|e| failed("read", &self.path, e))
    }

    fn read(&mut self, end: u64) -> io::Result<Option<(Record, u64)>> {
        let mut head = [0; HEAD_BYTES as usize];
        if self.at.saturating_add(HEAD_BYTES) > end || !read_whole(&mut self.file, &mut head)? {
            return Ok(None);
        }
        let (length, crc) = length_and_crc(head);
        let n_bytes = HEAD_BYTES + u64::from(length);
        if length > MAX_RECORD_BYTES || self.at.saturating_add(n_bytes) > end {
            return Ok(None);
        }
        let mut payload = vec![0; length as usize];
        if !read_whole(&mut self.file, &mut payload)? {
            return Ok(None);
        }
        Ok(decode(&payload, crc).map(|r| (r, n_bytes)))
    }

    /// A segment that another one follows was whole when that one began.
    fn check_end(&self) -> Result<(), Error> {
        let n_bytes = self.file.get_ref().metadata();
        let n_bytes = n_bytes.map_err(|e| failed("read", &self.path, e))?.len();
        if self.at == n_bytes {
            return Ok(());
        }
        Err(self.damaged())
    }

    /// What a crash tore was the last that was written: no sound record follows.
    fn check_tail(&mut self) -> Result<(), Error> {
        let mut tail = Vec::new();
        let read = self.file.seek(SeekFrom::Start(self.at));
        read.and_then(|_| self.file.read_to_end(&mut tail))
            .map_err(|e| failed("read", &self.path, e))?;
        if (0..tail.len()).any(|at| begins_with_record(&tail[at..])) {
            return Err(self.damaged());
        }
        Ok(())
    }

    fn damaged(&self) -> Error {
        Error::Damaged {
            path: self.path.clone(),
            at: self.at,
        }
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

fn read_whole(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
