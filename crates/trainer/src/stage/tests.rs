use std::env;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::mpsc;

use tempfile::TempDir;

use super::*;

/// How long another thread or process may take to get somewhere.
const LIMIT: Duration = Duration::from_secs(60);

/// Files far away, and a directory for copies.
struct Node(TempDir);

impl Node {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A file that was last changed an hour ago.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("far").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        age(&path, Duration::from_secs(3600));
        path
    }

    fn config(&self, max_bytes: u64) -> StageConfig {
        StageConfig {
            dir: self.0.path().join("near"),
            max_bytes,
        }
    }

    fn stage(&self, max_bytes: u64) -> Stage {
        Stage::new(Some(self.config(max_bytes)), || false)
    }

    /// The copies that are there, and those that are not whole.
    fn found(&self) -> (usize, usize) {
        let names = fs::read_dir(self.0.path().join("near")).unwrap();
        let dirs: Vec<PathBuf> = names
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .collect();
        let n_partial = (dirs.iter())
            .filter(|path| path.extension().is_some())
            .count();
        (dirs.len() - n_partial, n_partial)
    }

    fn is_copy(&self, staged: &Staged) -> bool {
        staged.path().starts_with(self.0.path().join("near"))
    }
}

fn age(path: &Path, age: Duration) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

fn of_file(path: &Path) -> Source {
    Source::of(path.parent().unwrap(), vec![path.to_owned()]).unwrap()
}

fn place<'a>(config: &'a StageConfig, is_stopped: &'a dyn Fn() -> bool) -> Place<'a> {
    Place {
        config,
        wait_within: LIMIT,
        is_stopped,
    }
}

#[test]
fn a_file_is_copied_once_for_all_trainers() {
    let node = Node::new();
    let bytes: Vec<u8> = (0..PIECE_BYTES + 3).map(|i| i as u8).collect();
    let path = node.file("part-0.npy", &bytes);
    let config = node.config(1 << 30);
    let n_copied = thread::scope(|scope| {
        let trainers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let (_in_use, is_own) =
                        place(&config, &|| false).fetch(&of_file(&path)).unwrap();
                    usize::from(is_own)
                })
            })
            .collect();
        trainers
            .into_iter()
            .map(|t| t.join().unwrap())
            .sum::<usize>()
    });
    assert_eq!(n_copied, 1);
    let staged = node.stage(1 << 30).file(&path);
    assert!(node.is_copy(&staged), "{staged:?}");
    assert_eq!(staged.path().file_name(), path.file_name());
    assert_eq!(fs::read(staged.path()).unwrap(), bytes);
    assert_eq!(node.found(), (1, 0));
}

#[test]
fn a_directory_keeps_its_names_and_what_is_not_asked_for_stays_away() {
    let node = Node::new();
    let wanted = [
        node.file("checkpoint/config.json", b"{}"),
        node.file("checkpoint/shards/a.safetensors", b"weights"),
    ];
    node.file("checkpoint/pytorch_model.bin", b"the same weights");
    let dir = node.0.path().join("far/checkpoint");
    let staged = node.stage(1 << 20).directory(&dir, || Ok(wanted.to_vec()));
    assert!(node.is_copy(&staged), "{staged:?}");
    let shard = staged.path().join("shards/a.safetensors");
    assert_eq!(fs::read(shard).unwrap(), b"weights");
    assert!(staged.path().join("config.json").exists());
    assert!(!staged.path().join("pytorch_model.bin").exists());
    // What lies elsewhere has no name in the copy.
    let elsewhere = node.file("elsewhere", b"");
    let staged = node
        .stage(1 << 20)
        .directory(&dir, || Ok(vec![elsewhere.clone()]));
    assert_eq!(staged.path(), dir);
}

#[test]
fn a_file_that_changes_is_never_served_as_it_was() {
    let node = Node::new();
    let path = node.file("tokens", b"before");
    let stage = node.stage(1 << 20);
    let read = || fs::read(stage.file(&path).path()).unwrap();
    assert_eq!(read(), b"before");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    // In place, as long, and with the time of change set back.
    fs::write(&path, b"behind").unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    assert_eq!(read(), b"behind");
    // Another file of the same name.
    let other = node.file("other", b"beyond");
    File::options()
        .write(true)
        .open(&other)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(read(), b"beyond");
    assert_eq!(node.found(), (3, 0));
    // One that may yet be changed within the clock's resolution.
    fs::write(&path, b"just so").unwrap();
    assert_eq!(stage.file(&path).path(), path);
    assert_eq!(node.found(), (3, 0));
}

#[test]
fn one_that_changes_while_it_is_copied_is_no_copy() {
    let node = Node::new();
    let path = node.file("tokens", b"before");
    let config = node.config(1 << 20);
    let (source, change) = (of_file(&path), path.clone());
    let changes = move || {
        fs::write(&change, b"after, and longer").unwrap();
        false
    };
    let error = place(&config, &changes).fetch(&source).unwrap_err();
    assert!(
        error.to_string().contains("changed while it was copied"),
        "{error:#}"
    );
    assert_eq!(node.found(), (0, 0));
}

#[test]
fn one_copies_while_others_wait() {
    let node = Node::new();
    let path = node.file("tokens", b"tokens");
    let config = node.config(1 << 20);
    let (copying, is_copying) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    thread::scope(|scope| {
        let copier = scope.spawn(|| {
            let (copying, may_go_on) = (copying, may_go_on);
            let has_waited = Cell::new(false);
            let waits = || {
                if !has_waited.replace(true) {
                    copying.send(()).unwrap();
                    may_go_on.recv_timeout(LIMIT).unwrap();
                }
                false
            };
            place(&config, &waits).fetch(&of_file(&path)).unwrap().1
        });
        is_copying.recv_timeout(LIMIT).unwrap();
        // One that has waited long enough reads the original.
        let mut hasty = node.stage(1 << 20);
        hasty.wait_within = Duration::from_millis(1);
        assert_eq!(hasty.file(&path).path(), path);
        assert!(hasty.has_warned.get());
        // One that is asked to stop waits no longer, and has nothing to say.
        let stopped = Stage::new(Some(config.clone()), || true);
        assert_eq!(stopped.file(&path).path(), path);
        assert!(!stopped.has_warned.get());
        // One that waits gets the copy.
        let (waiting, waits) = mpsc::channel();
        let waiter = scope.spawn(|| {
            let waiting = waiting;
            let tells = move || {
                let _ = waiting.send(());
                false
            };
            place(&config, &tells).fetch(&of_file(&path)).unwrap().1
        });
        waits.recv_timeout(LIMIT).unwrap();
        go_on.send(()).unwrap();
        assert!(copier.join().unwrap());
        assert!(!waiter.join().unwrap());
    });
    assert_eq!(node.found(), (1, 0));
}

#[test]
fn one_that_is_asked_to_stop_leaves_no_copy() {
    let node = Node::new();
    let path = node.file("tokens", b"tokens");
    let stage = Stage::new(Some(node.config(1 << 20)), || true);
    assert_eq!(stage.file(&path).path(), path);
    assert_eq!(node.found(), (0, 0));
}

/// Where `a_killed_copier_leaves_no_copy` works, for the process of it that is killed.
const DIR: &str = "IMPRINT_TEST_STAGE";

fn copy_half_and_hang(dir: &Path) {
    let config = StageConfig {
        dir: dir.join("near"),
        max_bytes: 1 << 30,
    };
    let n_pieces = Cell::new(0);
    let hangs = || {
        n_pieces.set(n_pieces.get() + 1);
        if n_pieces.get() == 2 {
            fs::write(dir.join("hangs"), "").unwrap();
            thread::sleep(LIMIT);
        }
        false
    };
    place(&config, &hangs)
        .fetch(&of_file(&dir.join("far/tokens")))
        .unwrap();
    panic!("it was to be killed");
}

#[test]
fn a_killed_copier_leaves_no_copy() {
    if let Some(dir) = env::var_os(DIR) {
        return copy_half_and_hang(Path::new(&dir));
    }
    let node = Node::new();
    let bytes = vec![7; PIECE_BYTES + 1];
    let path = node.file("tokens", &bytes);
    let mut copier = Command::new(env::current_exe().unwrap())
        .args(["--exact", "stage::tests::a_killed_copier_leaves_no_copy"])
        .env(DIR, node.0.path())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    while !node.0.path().join("hangs").exists() {
        assert!(Instant::now() < deadline, "the other process copies");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(node.found(), (0, 1));
    let config = node.config(1 << 30);
    let mut hasty = place(&config, &|| false);
    hasty.wait_within = Duration::ZERO;
    let error = hasty.fetch(&of_file(&path)).unwrap_err();
    assert!(error.to_string().contains("another trainer"), "{error:#}");
    copier.kill().unwrap();
    copier.wait().unwrap();

    let (_in_use, is_own) = place(&config, &|| false).fetch(&of_file(&path)).unwrap();
    assert!(is_own);
    let staged = node.stage(1 << 30).file(&path);
    assert_eq!(fs::read(staged.path()).unwrap(), bytes);
    assert_eq!(node.found(), (1, 0));
}

#[test]
fn unused_copies_make_room_the_least_recently_used_first() {
    let node = Node::new();
    let files: Vec<PathBuf> = (0..4)
        .map(|i| node.file(&format!("{i}"), &[i; 400]))
        .collect();
    let stage = node.stage(1000);
    let near = |staged: &Staged| node.is_copy(staged) && staged.path().exists();
    let used = |i: usize, ago: u64| {
        let staged = stage.file(&files[i]);
        assert!(near(&staged), "{i}");
        let lock = staged.path().parent().unwrap().with_extension(LOCK);
        age(&lock, Duration::from_secs(ago));
        staged
    };
    let (first, second) = (used(0, 20), used(1, 30));
    let paths = [&first, &second].map(|staged| staged.path().to_owned());
    // Both are in use, and there is no room for a third.
    assert_eq!(stage.file(&files[2]).path(), files[2]);
    assert!(stage.has_warned.get());
    drop((first, second));
    // The second was used longer ago.
    let third = used(2, 0);
    assert!(paths[0].exists() && !paths[1].exists());
    // Now the first is the only one that nobody uses.
    let fourth = used(3, 0);
    assert!(!paths[0].exists());
    assert!(near(&third) && near(&fourth));
    assert_eq!(node.found(), (2, 0));
    // What is larger than all room drives nothing out.
    drop((third, fourth));
    let large = node.file("large", &[9; 1001]);
    assert_eq!(stage.file(&large).path(), large);
    assert_eq!(node.found(), (2, 0));
}

#[test]
fn what_a_killed_copier_has_left_makes_room_before_copies_do() {
    let node = Node::new();
    let files: Vec<PathBuf> = (0..2)
        .map(|i| node.file(&format!("{i}"), &[i; 400]))
        .collect();
    let kept = node.stage(1000).file(&files[0]).path().to_owned();
    let near = node.0.path().join("near");
    fs::write(near.join("dead.lock"), "500").unwrap();
    fs::create_dir(near.join("dead.partial")).unwrap();
    let staged = node.stage(1000).file(&files[1]);
    assert!(node.is_copy(&staged));
    assert!(kept.exists());
    assert_eq!(node.found(), (2, 0));
}

#[test]
fn without_a_place_for_copies_originals_are_read() {
    let node = Node::new();
    let files = [node.file("a", b"a"), node.file("b", b"b")];
    // A file is where the directory would be.
    fs::write(node.0.path().join("near"), "").unwrap();
    let stage = node.stage(1 << 20);
    for file in &files {
        assert_eq!(stage.file(file).path(), file);
    }
    assert!(stage.has_warned.get());
    let off = Stage::new(None, || false);
    assert_eq!(off.file(&files[0]).path(), files[0]);
    assert!(!off.has_warned.get());
    // What is not there is for its reader to refuse.
    let missing = node.0.path().join("far/missing");
    assert_eq!(node.stage(1 << 20).file(&missing).path(), missing);
}

#[test]
fn a_directory_that_others_may_write_is_not_used() {
    let node = Node::new();
    let path = node.file("tokens", b"tokens");
    let near = node.0.path().join("near");
    fs::create_dir(&near).unwrap();
    let mode = |mode| fs::set_permissions(&near, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    assert_eq!(node.stage(1 << 20).file(&path).path(), path);
    mode(0o755);
    assert!(node.is_copy(&node.stage(1 << 20).file(&path)));
}
