//! Copies on this node of files that trainers read again and again over a network.
//!
//! What lies below the directory:
//!
//! ```text
//! room              held while somebody makes room
//! <key>.lock        held while the copy is made or removed, shared while it is read; its text is the
//!                   number of bytes that the copy takes, its time of change that of the last use
//! <key>/            a copy, whole: it gets this name when the last byte is there
//! <key>.partial/    one that is being made or removed, or was when its maker was killed
//! ```
//!
//! A key is the hash of where files are and of what the file system says of them, so a file that
//! changes gets another. Everything may be deleted while no trainer runs.

use std::cell::Cell;
use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};

/// How long a trainer waits for another that copies; then it reads the original.
const WAIT_WITHIN: Duration = Duration::from_secs(3600);
const POLL: Duration = Duration::from_millis(200);

/// Bytes that are copied in one go, between two looks at whether to stop.
const PIECE_BYTES: usize = 8 << 20;

/// A file changed twice within the clock's resolution has the same time of change: one that was
/// changed this recently is not copied.
const SETTLED: Duration = Duration::from_secs(2);

const ROOM: &str = "room";
const LOCK: &str = "lock";
const PARTIAL: &str = "partial";

/// Where copies are, and how much they may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StageConfig {
    pub(crate) dir: PathBuf,
    pub(crate) max_bytes: u64,
}

/// Says where to read: a copy on this node where there is one or can be, else the original.
pub(crate) struct Stage {
    /// `None`: everything is read where it is.
    config: Option<StageConfig>,
    wait_within: Duration,
    is_stopped: Box<dyn Fn() -> bool>,
    has_warned: Cell<bool>,
}

/// Where to read a file or a directory. A copy stays at least as long as this.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    _in_use: Option<File>,
}

impl Staged {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn original(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _in_use: None,
        }
    }
}

impl Stage {
    /// Nothing goes on being copied or waited for once `is_stopped`.
    pub(crate) fn new(
        config: Option<StageConfig>,
        is_stopped: impl Fn() -> bool + 'static,
    ) -> Self {
        Self {
            config,
            wait_within: WAIT_WITHIN,
            is_stopped: Box::new(is_stopped),
            has_warned: Cell::new(false),
        }
    }

    /// Where to read a file.
    pub(crate) fn file(&self, path: &Path) -> Staged {
        let base = path.parent().unwrap_or(Path::new(""));
        match self.fetch(path, || Source::of(base, vec![path.to_owned()])) {
            Some((copy, in_use)) => Staged {
                path: copy.join(path.file_name().unwrap_or_default()),
                _in_use: Some(in_use),
            },
            None => Staged::original(path),
        }
    }

    /// Where to read a directory, of which only the files that `list` gives are needed.
    pub(crate) fn directory(
        &self,
        dir: &Path,
        list: impl FnOnce() -> anyhow::Result<Vec<PathBuf>>,
    ) -> Staged {
        match self.fetch(dir, || Source::of(dir, list()?)) {
            Some((path, in_use)) => Staged {
                path,
                _in_use: Some(in_use),
            },
            None => Staged::original(dir),
        }
    }

    /// The copy of what is at a path, and its lock; `None` where that is to be read itself.
    fn fetch(
        &self,
        path: &Path,
        source: impl FnOnce() -> anyhow::Result<Source>,
    ) -> Option<(PathBuf, File)> {
        let config = self.config.as_ref()?;
        let place = Place {
            config,
            wait_within: self.wait_within,
            is_stopped: &*self.is_stopped,
        };
        let fetched = source().and_then(|source| {
            let (in_use, _) = place.fetch(&source)?;
            Ok((place.entry(&source.key).copy, in_use))
        });
        match fetched {
            Ok((copy, in_use)) => {
                tracing::info!("{} is read from {}", path.display(), copy.display());
                Some((copy, in_use))
            }
            // Whoever asked it to stop does not want to know.
            Err(_) if (self.is_stopped)() => None,
            Err(e) if self.has_warned.replace(true) => {
                tracing::debug!("{} is read where it is: {e:#}", path.display());
                None
            }
            Err(e) => {
                tracing::warn!(
                    "{} is read where it is, like all that cannot be copied to {}: {e:#}",
                    path.display(),
                    config.dir.display()
                );
                None
            }
        }
    }
}

/// Files as they are now.
struct Source {
    /// Each with its name below the directory that they are in.
    files: Vec<(PathBuf, Version)>,
    key: String,
}

/// What a file system says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    /// Behind all links.
    path: PathBuf,
    device: u64,
    inode: u64,
    n_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let read = || -> io::Result<(PathBuf, Metadata)> {
            let real = fs::canonicalize(path)?;
            let metadata = fs::metadata(&real)?;
            Ok((real, metadata))
        };
        let (path, is) = read().with_context(|| format!("look at {}", path.display()))?;
        ensure!(is.is_file(), "{} is no file", path.display());
        Ok(Self {
            path,
            device: is.dev(),
            inode: is.ino(),
            n_bytes: is.len(),
            modified: (is.mtime(), is.mtime_nsec()),
            changed: (is.ctime(), is.ctime_nsec()),
        })
    }

    fn is_settled(&self) -> bool {
        let since_epoch = u64::try_from(self.modified.0).map(Duration::from_secs);
        let modified = SystemTime::UNIX_EPOCH + since_epoch.unwrap_or_default();
        modified.elapsed().is_ok_and(|age| age > SETTLED)
    }
}

impl Source {
    fn of(base: &Path, paths: Vec<PathBuf>) -> anyhow::Result<Self> {
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let version = Version::of(&path)?;
            ensure!(
                version.is_settled(),
                "{} was changed just now",
                path.display()
            );
            let name = path.strip_prefix(base).unwrap_or(&path);
            let is_plain = |c| matches!(c, Component::Normal(_));
            ensure!(
                name.components().all(is_plain),
                "{} is not in {}",
                path.display(),
                base.display()
            );
            files.push((name.to_owned(), version));
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        let mut digest = Sha256::new();
        for (name, v) in &files {
            for path in [name, &v.path] {
                digest.update(path.as_os_str().as_encoded_bytes());
                digest.update(b"\0");
            }
            for n in [v.device, v.inode, v.n_bytes] {
                digest.update(n.to_le_bytes());
            }
            for n in [v.modified.0, v.modified.1, v.changed.0, v.changed.1] {
                digest.update(n.to_le_bytes());
            }
        }
        let key = format!("{:x}", digest.finalize());
        Ok(Self { files, key })
    }

    fn n_bytes(&self) -> u64 {
        self.files.iter().map(|(_, v)| v.n_bytes).sum()
    }

    fn what(&self) -> String {
        match &self.files[..] {
            [(_, version)] => version.path.display().to_string(),
            files => {
                let dir = files.first().and_then(|(_, v)| v.path.parent());
                format!(
                    "{} files of {}",
                    files.len(),
                    dir.unwrap_or(Path::new("")).display()
                )
            }
        }
    }

    /// Copies all files below a directory.
    ///
    /// # Errors
    /// When one cannot be copied, or is not what it was any more.
    fn copy_to(&self, dir: &Path, is_stopped: &dyn Fn() -> bool) -> anyhow::Result<()> {
        for (name, version) in &self.files {
            let to = dir.join(name);
            let n_bytes = copy(&version.path, &to, is_stopped)
                .with_context(|| format!("copy {} to {}", version.path.display(), dir.display()))?;
            ensure!(
                n_bytes == version.n_bytes && Version::of(&version.path)? == *version,
                "{} changed while it was copied",
                version.path.display()
            );
        }
        Ok(())
    }
}

/// Copies a file; its length.
fn copy(from: &Path, to: &Path, is_stopped: &dyn Fn() -> bool) -> io::Result<u64> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let (mut from, mut out) = (File::open(from)?, File::create_new(to)?);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        if is_stopped() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "asked to stop"));
        }
        let n = from.read(&mut piece)?;
        if n == 0 {
            return Ok(out.metadata()?.len());
        }
        out.write_all(&piece[..n])?;
    }
}

/// The directory with all copies.
struct Place<'a> {
    config: &'a StageConfig,
    wait_within: Duration,
    is_stopped: &'a dyn Fn() -> bool,
}

/// One copy's names.
struct Entry {
    copy: PathBuf,
    partial: PathBuf,
    lock: PathBuf,
}

impl Entry {
    fn is_whole(&self) -> bool {
        self.copy.is_dir()
    }

    /// Its lock file, which is never removed: who waits for it must not wait for another.
    fn open_lock(&self) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(&self.lock)
    }

    /// Removes the copy, or what a maker has left of one; the caller holds its lock alone.
    fn remove(&self) -> io::Result<()> {
        if self.partial.exists() {
            fs::remove_dir_all(&self.partial)?;
        }
        if self.copy.exists() {
            // One that is half removed is no copy any more.
            fs::rename(&self.copy, &self.partial)?;
            fs::remove_dir_all(&self.partial)?;
        }
        Ok(())
    }
}

impl Place<'_> {
    fn entry(&self, key: &str) -> Entry {
        let copy = self.config.dir.join(key);
        Entry {
            partial: copy.with_extension(PARTIAL),
            lock: copy.with_extension(LOCK),
            copy,
        }
    }

    /// The lock under which a copy may be read, and whether this made the copy.
    ///
    /// # Errors
    /// When there is none and none can be made, or not in time.
    fn fetch(&self, source: &Source) -> anyhow::Result<(File, bool)> {
        self.make_dir()?;
        let entry = self.entry(&source.key);
        let lock = (entry.open_lock()).with_context(|| format!("open {}", entry.lock.display()))?;
        let deadline = Instant::now() + self.wait_within;
        let (mut is_own, mut has_told) = (false, false);
        loop {
            let locked = match entry.is_whole() {
                true => lock.try_lock_shared(),
                false => lock.try_lock(),
            };
            match locked {
                // Meanwhile it may have been removed, or made.
                Ok(()) if entry.is_whole() => {
                    if lock.try_lock_shared().is_ok() && entry.is_whole() {
                        lock.set_modified(SystemTime::now())?;
                        return Ok((lock, is_own));
                    }
                    lock.unlock()?;
                }
                Ok(()) => {
                    ensure!(!is_own, "its copy was removed at once");
                    // Somebody has removed it since, and holds nothing.
                    if lock.try_lock().is_ok() && !entry.is_whole() {
                        self.make(source, &entry, &lock)?;
                        is_own = true;
                        continue;
                    }
                    lock.unlock()?;
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => {
                    return Err(e).with_context(|| format!("lock {}", entry.lock.display()));
                }
            }
            ensure!(!(self.is_stopped)(), "asked to stop");
            ensure!(
                Instant::now() < deadline,
                "another trainer has been copying it for {} s",
                self.wait_within.as_secs()
            );
            if !std::mem::replace(&mut has_told, true) {
                tracing::info!(
                    "waits for another trainer to copy {} to {}, {} min at most",
                    source.what(),
                    entry.copy.display(),
                    self.wait_within.as_secs().div_ceil(60)
                );
            }
            thread::sleep(POLL);
        }
    }

    fn make_dir(&self) -> anyhow::Result<()> {
        let dir = &self.config.dir;
        let mut builder = DirBuilder::new();
        // What is copied may be for its owner only.
        let made = builder.recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("make the directory {}", dir.display()))?;
        let is = fs::metadata(dir).with_context(|| format!("look at {}", dir.display()))?;
        let user = nix::unistd::geteuid().as_raw();
        ensure!(
            is.uid() == user && is.mode() & 0o022 == 0,
            "{} must be this user's, and no one else's to write",
            dir.display()
        );
        Ok(())
    }

    /// Makes a copy; the caller holds its lock alone.
    fn make(&self, source: &Source, entry: &Entry, lock: &File) -> anyhow::Result<()> {
        let began = Instant::now();
        self.reserve(source.n_bytes(), entry, lock)?;
        let made = source
            .copy_to(&entry.partial, self.is_stopped)
            .and_then(|()| Ok(fs::rename(&entry.partial, &entry.copy)?));
        if made.is_err() {
            // What went wrong is told; what is left lies in nobody's way.
            let _ = fs::remove_dir_all(&entry.partial);
        }
        made?;
        tracing::info!(
            "copied {} ({} bytes) to {} in {:.1} s",
            source.what(),
            source.n_bytes(),
            entry.copy.display(),
            began.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Makes an entry's partial copy, once there is room for so many bytes: copies that nobody uses
    /// go, the least recently used first.
    fn reserve(&self, n_bytes: u64, entry: &Entry, lock: &File) -> anyhow::Result<()> {
        let max_bytes = self.config.max_bytes;
        ensure!(
            n_bytes <= max_bytes,
            "it has {n_bytes} bytes, and all copies may have {max_bytes}"
        );
        let room = self.config.dir.join(ROOM);
        let room = File::create(&room)
            .and_then(|file| file.lock().map(|()| file))
            .with_context(|| format!("lock {}", room.display()))?;
        entry.remove().context("remove what is left of a copy")?;
        let mut others = self.others(entry).context("look for copies")?;
        others.sort_by_key(|other| other.used);
        let mut taken: u64 = others.iter().map(|other| other.n_bytes).sum();
        let mut unused = Vec::new();
        for other in &others {
            if taken + n_bytes <= max_bytes {
                break;
            }
            let lock = other.entry.open_lock()?;
            if lock.try_lock().is_ok() {
                taken -= other.n_bytes;
                unused.push((&other.entry, lock));
            }
        }
        ensure!(
            taken + n_bytes <= max_bytes,
            "it has {n_bytes} bytes, and of the {max_bytes} that all copies may have {taken} are in \
             use"
        );
        for (entry, _lock) in unused {
            entry.remove().context("remove a copy")?;
            tracing::info!("removed {}, which nobody used", entry.copy.display());
        }
        let disk = nix::sys::statvfs::statvfs(&self.config.dir).context("ask for free space")?;
        let free = disk.blocks_available() * disk.fragment_size();
        ensure!(
            n_bytes <= free,
            "it has {n_bytes} bytes, and {free} are free"
        );
        // From now on it counts for others.
        lock.set_len(0)?;
        lock.write_all_at(n_bytes.to_string().as_bytes(), 0)?;
        fs::create_dir(&entry.partial)?;
        drop(room);
        Ok(())
    }

    /// What takes room beside an entry.
    fn others(&self, own: &Entry) -> io::Result<Vec<Other>> {
        let mut others = Vec::new();
        for found in fs::read_dir(&self.config.dir)? {
            let lock = found?.path();
            let Some(key) = lock.file_stem().and_then(|key| key.to_str()) else {
                continue;
            };
            let entry = self.entry(key);
            if entry.lock != lock || lock == own.lock {
                continue;
            }
            let is_whole = entry.is_whole();
            if !is_whole && !entry.partial.exists() {
                continue;
            }
            let n_bytes = fs::read_to_string(&lock)?.trim().parse().unwrap_or(0);
            others.push(Other {
                n_bytes,
                // What a killed maker has left goes first.
                used: (is_whole, fs::metadata(&lock)?.modified()?),
                entry,
            });
        }
        Ok(others)
    }
}

/// An entry that takes room.
struct Other {
    entry: Entry,
    n_bytes: u64,
    /// Whether it is of use, and when it last was.
    used: (bool, SystemTime),
}

#[cfg(test)]
mod tests;
