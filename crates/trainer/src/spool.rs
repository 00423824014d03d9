//! The spool: every reading and update statistic of an attempt, in a file next to its saved states.
//!
//! Training appends and never waits for the network; delivery reads behind it.
//! A record is `length, CRC-32, protobuf`, so that a tail torn by a crash is recognised and cut.
//! An attempt that resumes begins its spool with what its predecessor measured and could not
//! deliver, so a spool alone holds everything that is not durable up to its end.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use imprint_proto::pb::{self, ingest_request::Message};
use prost::Message as _;
use tokio::sync::watch;

/// First bytes of a spool; the digit is the format's version.
const MAGIC: &[u8; 8] = b"imprint1";
/// The magic, then the first step that is delivered from the spool (little-endian u32).
const HEADER_BYTES: usize = MAGIC.len() + 4;
/// Longest record taken for one: what the metrics service would take.
const MAX_RECORD_BYTES: u32 = imprint_proto::MAX_MESSAGE_BYTES as u32;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{doing} the spool {path}: {source}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is not a spool of this version")]
    NotASpool { path: PathBuf },
}

/// How far a spool is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) n_bytes: u64,
    /// Nothing will be appended any more.
    pub(crate) closed: bool,
}

/// The only writer of an attempt's spool.
pub(crate) struct SpoolWriter {
    file: File,
    path: PathBuf,
    extent: watch::Sender<Extent>,
}

impl SpoolWriter {
    /// A new spool that will hold everything from step `first_step` on; an attempt writes its own
    /// file once.
    pub(crate) fn create(path: &Path, first_step: u32) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            doing: "create",
            path: path.to_owned(),
            source,
        };
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(failed)?;
        let header = [MAGIC.as_slice(), &first_step.to_le_bytes()].concat();
        file.write_all(&header).map_err(failed)?;
        let extent = Extent {
            n_bytes: HEADER_BYTES as u64,
            closed: false,
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            extent: watch::Sender::new(extent),
        })
    }

    /// Appends one record; it survives the process, and after [`Self::sync`] the machine.
    pub(crate) fn append(&mut self, message: Message) -> Result<(), Error> {
        let payload = pb::IngestRequest {
            message: Some(message),
        }
        .encode_to_vec();
        let mut record = Vec::with_capacity(payload.len() + 8);
        record.extend((payload.len() as u32).to_le_bytes());
        record.extend(crc32fast::hash(&payload).to_le_bytes());
        record.extend(&payload);
        // A partly written record is a torn tail: readers stop before it, and the attempt ends.
        self.file
            .write_all(&record)
            .map_err(|e| self.failed("append to", e))?;
        self.extent
            .send_modify(|x| x.n_bytes += record.len() as u64);
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|e| self.failed("sync", e))
    }

    /// Tells readers that nothing more will come.
    pub(crate) fn close(&self) {
        self.extent.send_modify(|x| x.closed = true);
    }

    pub(crate) fn extent(&self) -> watch::Receiver<Extent> {
        self.extent.subscribe()
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> Error {
        Error::Io {
            doing,
            path: self.path.clone(),
            source,
        }
    }
}

/// Reads a spool from its beginning.
pub(crate) struct SpoolReader {
    file: BufReader<File>,
    path: PathBuf,
    at: u64,
    first_step: u32,
}

impl SpoolReader {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            doing: "open",
            path: path.to_owned(),
            source,
        };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut header = [0; HEADER_BYTES];
        let first_step = match (file.read_exact(&mut header), header.split_first_chunk()) {
            (Ok(()), Some((magic, &[a, b, c, d]))) if magic == MAGIC => {
                u32::from_le_bytes([a, b, c, d])
            }
            _ => {
                return Err(Error::NotASpool {
                    path: path.to_owned(),
                });
            }
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            at: HEADER_BYTES as u64,
            first_step,
        })
    }

    /// The first step that is delivered from this spool: it holds everything from there on.
    pub(crate) fn first_step(&self) -> u32 {
        self.first_step
    }

    /// The next record below `end`; `None` where there is no whole and sound one.
    pub(crate) fn next(&mut self, end: u64) -> Result<Option<Message>, Error> {
        match self.read(end) {
            Ok(Some((message, n_bytes))) => {
                self.at += n_bytes;
                Ok(Some(message))
            }
            // What was read of a torn record is read again: the writer may still be at it.
            Ok(None) => self.file.seek(SeekFrom::Start(self.at)).map(|_| None),
            Err(e) => Err(e),
        }
        .map_err(|source| Error::Io {
            doing: "read",
            path: self.path.clone(),
            source,
        })
    }

    fn read(&mut self, end: u64) -> io::Result<Option<(Message, u64)>> {
        let mut head = [0; 8];
        if self.at + head.len() as u64 > end || !read_whole(&mut self.file, &mut head)? {
            return Ok(None);
        }
        let [a, b, c, d, e, f, g, h] = head;
        let (length, crc) = (
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
        );
        let n_bytes = head.len() as u64 + u64::from(length);
        if length > MAX_RECORD_BYTES || self.at + n_bytes > end {
            return Ok(None);
        }
        let mut payload = vec![0; length as usize];
        if !read_whole(&mut self.file, &mut payload)? || crc32fast::hash(&payload) != crc {
            return Ok(None);
        }
        let message = pb::IngestRequest::decode(payload.as_slice())
            .ok()
            .and_then(|r| r.message);
        Ok(message.map(|m| (m, n_bytes)))
    }
}

fn read_whole(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// A range of a run's stream: readings by index, updates by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursors {
    pub(crate) reading: u32,
    pub(crate) update: u32,
}

impl SpoolReader {
    /// The records from `from` up to `to`, or `None` if the spool lacks one of them.
    pub(crate) fn records_between(
        mut self,
        from: Cursors,
        to: Cursors,
    ) -> Result<Option<Vec<Message>>, Error> {
        let mut next = from;
        let mut records = Vec::new();
        while next.reading < to.reading || next.update < to.update {
            let Some(message) = self.next(u64::MAX)? else {
                return Ok(None);
            };
            match &message {
                Message::Reading(r) if r.index == next.reading && r.index < to.reading => {
                    next.reading += 1;
                }
                Message::Update(u) if u.step == next.update && u.step < to.update => {
                    next.update += 1;
                }
                _ => continue,
            }
            records.push(message);
        }
        Ok(Some(records))
    }
}

#[cfg(test)]
mod tests;
