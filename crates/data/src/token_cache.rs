//! Text corpora as token files: tokenised once, kept in a cache directory, shared by all trainers.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::array::IntegerType;
use crate::digest::{check_hash, file_sha256};
use crate::documents::{TextFormat, documents};
use crate::{Error, Result, Tokenizer};

/// Changes when the same text would give other tokens, or the files another form.
const VERSION: u32 = 1;
/// Text that is tokenised in one go by all threads.
const BATCH_BYTES: usize = 8 << 20;
/// How often a log that is no terminal hears of progress.
const TELL_EVERY: Duration = Duration::from_secs(15);

/// The directory where the tokens of text corpora are kept.
///
/// Every file of text becomes one headerless file of token ids, `<key>.u16` or `<key>.u32`, and
/// `<key>.json`, which says what it is of, how long it is, and its checksum.
/// The second is written last, so tokens without it are not there.
/// A key is the hash of all that the tokens follow from, so nothing in the directory is ever wrong
/// or out of date, and all of it may be deleted at any time.
#[derive(Clone, Debug)]
pub(crate) struct TokenCache {
    /// Absent where the environment names none.
    directory: Option<PathBuf>,
}

/// A file of text, and how it becomes tokens.
pub(crate) struct Text<'a> {
    pub path: &'a Path,
    pub format: TextFormat<'a>,
    pub tokenizer: &'a Tokenizer,
    /// Closes every document.
    pub eos_id: u32,
}

/// What `<key>.json` says.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// Where the text was.
    text: PathBuf,
    text_sha256: String,
    tokenizer_sha256: String,
    n_documents: u64,
    n_tokens: u64,
    /// Of the token file.
    crc32: u32,
}

impl TokenCache {
    /// The cache of the user that the process runs as.
    pub(crate) fn of_user() -> Self {
        Self {
            directory: cache_directory(),
        }
    }

    #[cfg(test)]
    pub(crate) fn at(directory: &Path) -> Self {
        Self {
            directory: Some(directory.to_owned()),
        }
    }

    /// The headerless token file of a text, which is made if it is not there or damaged.
    ///
    /// One process makes it while others wait.
    ///
    /// # Errors
    /// When the text cannot be read or is not of its format, or the cache cannot be written.
    pub(crate) fn tokens(&self, text: &Text) -> Result<(PathBuf, IntegerType)> {
        let directory = self
            .directory
            .as_ref()
            .ok_or(Error::NoCache)?
            .join("tokens");
        let entry = Entry::new(&directory, text)?;
        if entry.is_sound()? {
            return Ok(entry.found());
        }
        fs::create_dir_all(&directory).map_err(write_error(&directory))?;
        let _lock = entry.lock()?;
        if !entry.is_sound()? {
            entry.make(text)?;
        }
        Ok(entry.found())
    }
}

/// `IMPRINT_CACHE_DIR`, else `imprint` in `XDG_CACHE_HOME`, else in the home directory's `.cache`.
pub(crate) fn cache_directory() -> Option<PathBuf> {
    let variable = |name| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    variable("IMPRINT_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|d| d.join("imprint")))
        .or_else(|| variable("HOME").map(|d| d.join(".cache/imprint")))
}

/// One text's place in the cache.
struct Entry {
    tokens: PathBuf,
    record: PathBuf,
    lock: PathBuf,
    integer: IntegerType,
    text_sha256: String,
    tokenizer_sha256: String,
}

impl Entry {
    fn new(directory: &Path, text: &Text) -> Result<Self> {
        let text_sha256 = file_sha256(text.path)?;
        let tokenizer_sha256 = file_sha256(text.tokenizer.path())?;
        let format = match text.format {
            TextFormat::Lines => ("text", ""),
            TextFormat::Jsonl { key } => ("jsonl", key),
            TextFormat::Parquet { column } => ("parquet", column),
        };
        let all = (
            VERSION,
            &text_sha256,
            format,
            &tokenizer_sha256,
            text.eos_id,
        );
        let json = serde_json::to_vec(&all).expect("numbers and strings are JSON");
        let key = format!("{:x}", Sha256::digest(json));
        let (integer, ending) = match u16::try_from(text.tokenizer.vocab_size() - 1) {
            Ok(_) => (IntegerType::Uint16, "u16"),
            Err(_) => (IntegerType::Uint32, "u32"),
        };
        Ok(Self {
            tokens: directory.join(format!("{key}.{ending}")),
            record: directory.join(format!("{key}.json")),
            lock: directory.join(format!("{key}.lock")),
            integer,
            text_sha256,
            tokenizer_sha256,
        })
    }

    fn found(&self) -> (PathBuf, IntegerType) {
        (self.tokens.clone(), self.integer)
    }

    /// Whether record and tokens are there and agree.
    fn is_sound(&self) -> Result<bool> {
        let json = match fs::read(&self.record) {
            Ok(json) => json,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(err) => return Err(read_error(&self.record)(err)),
        };
        let sound = match serde_json::from_slice::<Record>(&json) {
            Ok(record) => checksum(&self.tokens).is_ok_and(|found| {
                found == (record.n_tokens * self.integer.n_bytes(), record.crc32)
            }),
            Err(_) => false,
        };
        if !sound {
            tracing::warn!("{} is damaged and is made again", self.tokens.display());
        }
        Ok(sound)
    }

    /// Waits until no other process makes this entry; the lock ends with the file's handle.
    fn lock(&self) -> Result<File> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)
            .map_err(write_error(&self.lock))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                tracing::info!("another process makes {}; waiting", self.tokens.display());
            }
            Err(TryLockError::Error(err)) => return Err(write_error(&self.lock)(err)),
        }
        file.lock().map_err(write_error(&self.lock))?;
        Ok(file)
    }

    /// Makes the entry, or leaves nothing of it.
    fn make(&self, text: &Text) -> Result<()> {
        match fs::remove_file(&self.record) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                return Err(write_error(&self.record)(err));
            }
            Ok(()) | Err(_) => (),
        }
        let partial = self.tokens.with_extension("partial");
        let made = self.tokenise(text, &partial).and_then(|record| {
            // What was tokenised is what was hashed, or this entry would be another text's.
            check_hash(text.path, file_sha256(text.path)?, &self.text_sha256)?;
            let tokenizer = text.tokenizer.path();
            check_hash(tokenizer, file_sha256(tokenizer)?, &self.tokenizer_sha256)?;
            fs::rename(&partial, &self.tokens).map_err(write_error(&self.tokens))?;
            self.write_record(&record)
        });
        if made.is_err() {
            // What went wrong is told; what is left lies in nobody's way.
            let _ = fs::remove_file(&partial);
        }
        made
    }

    fn tokenise(&self, text: &Text, partial: &Path) -> Result<Record> {
        let file = File::create(partial).map_err(write_error(partial))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let mut crc32 = crc32fast::Hasher::new();
        let mut record = Record {
            text: text.path.to_owned(),
            text_sha256: self.text_sha256.clone(),
            tokenizer_sha256: self.tokenizer_sha256.clone(),
            n_documents: 0,
            n_tokens: 0,
            crc32: 0,
        };
        let progress = Progress::of(text.path)?;
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(thread::available_parallelism().map_or(1, usize::from))
            .build()
            .map_err(|err| Error::Threads {
                err: io::Error::other(err),
            })?;
        let mut documents = documents(text.path, text.format, &progress.bar)?;
        loop {
            let batch = next_batch(&mut documents)?;
            if batch.is_empty() {
                break;
            }
            let encode = |document: &String| text.tokenizer.encode(document);
            let tokens: Vec<Vec<u32>> =
                threads.install(|| batch.par_iter().map(encode).collect::<Result<_>>())?;
            for document in tokens {
                let ids = document.iter().chain([&text.eos_id]);
                let bytes: Vec<u8> = match self.integer {
                    IntegerType::Uint16 => ids.flat_map(|&id| (id as u16).to_le_bytes()).collect(),
                    _ => ids.flat_map(|id| id.to_le_bytes()).collect(),
                };
                out.write_all(&bytes).map_err(write_error(partial))?;
                crc32.update(&bytes);
                record.n_documents += 1;
                record.n_tokens += document.len() as u64 + 1;
            }
            progress.tell(&record);
        }
        let file = out
            .into_inner()
            .map_err(|err| write_error(partial)(err.into_error()))?;
        file.sync_all().map_err(write_error(partial))?;
        record.crc32 = crc32.finalize();
        progress.end(&record);
        Ok(record)
    }

    fn write_record(&self, record: &Record) -> Result<()> {
        let partial = self.record.with_extension("json.partial");
        let json = serde_json::to_vec_pretty(record).expect("a record is plain data");
        File::create(&partial)
            .and_then(|mut file| {
                file.write_all(&json)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&partial, &self.record))
            .map_err(write_error(&self.record))
    }
}

/// As many documents as are tokenised in one go.
fn next_batch(documents: &mut impl Iterator<Item = Result<String>>) -> Result<Vec<String>> {
    let mut n_bytes = 0;
    let mut batch = Vec::new();
    while n_bytes < BATCH_BYTES
        && let Some(document) = documents.next()
    {
        let document = document?;
        n_bytes += document.len();
        batch.push(document);
    }
    Ok(batch)
}

/// Length and CRC-32 of a file.
fn checksum(path: &Path) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let mut crc32 = crc32fast::Hasher::new();
    let mut n_bytes = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((n_bytes, crc32.finalize())),
            n => {
                crc32.update(&buffer[..n]);
                n_bytes += n as u64;
            }
        }
    }
}

/// A bar on a terminal, lines elsewhere.
struct Progress {
    path: PathBuf,
    bar: ProgressBar,
    told: std::cell::Cell<Instant>,
}

impl Progress {
    fn of(path: &Path) -> Result<Self> {
        let n_bytes = fs::metadata(path).map_err(read_error(path))?.len();
        let bar =
            ProgressBar::with_draw_target(Some(n_bytes), ProgressDrawTarget::stderr_with_hz(5));
        let style = "tokenising {msg} {wide_bar} {bytes}/{total_bytes} {eta}";
        bar.set_style(ProgressStyle::with_template(style).expect("a template that is constant"));
        bar.set_message(path.file_name().unwrap_or_default().display().to_string());
        if bar.is_hidden() {
            tracing::info!("tokenising {}", path.display());
        }
        Ok(Self {
            path: path.to_owned(),
            bar,
            told: Instant::now().into(),
        })
    }

    fn tell(&self, record: &Record) {
        if self.bar.is_hidden() && self.told.get().elapsed() >= TELL_EVERY {
            self.told.set(Instant::now());
            let n_bytes = self.bar.length().unwrap_or(0).max(1);
            tracing::info!(
                "tokenising {}: {} %, {} tokens",
                self.path.display(),
                100 * self.bar.position() / n_bytes,
                record.n_tokens
            );
        }
    }

    fn end(&self, record: &Record) {
        self.bar.finish_and_clear();
        tracing::info!(
            "tokenised {}: {} documents, {} tokens",
            self.path.display(),
            record.n_documents,
            record.n_tokens
        );
    }
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |err| Error::Read {
        path: path.clone(),
        err,
    }
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |err| Error::Write {
        path: path.clone(),
        err,
    }
}

#[cfg(test)]
mod tests;
