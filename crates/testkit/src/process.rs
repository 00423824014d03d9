//! Processes under test, and waiting for them.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long a loopback HTTP port may take to answer.
const HTTP_LIMIT: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(5);

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|l| l.local_addr())
        .expect("find a free port")
        .port()
}

/// Returns when `holds` does; panics with `what` when it does not within `limit`.
pub async fn wait_until<F: Future<Output = bool>>(
    limit: Duration,
    what: &str,
    mut holds: impl FnMut() -> F,
) {
    let deadline = Instant::now() + limit;
    while !holds().await {
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The status and the body with which a loopback HTTP port answers `GET path`.
///
/// # Errors
/// When nothing answers there, or not in HTTP, or not in time.
pub async fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    tokio::time::timeout(HTTP_LIMIT, get(address, path)).await?
}

async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    match (status, answer.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, answer)),
    }
}

/// What a program says and how it ends, without any input.
///
/// # Panics
/// When it takes longer than `limit`, with what it had said; it is killed.
#[track_caller]
pub fn output(command: &mut Command, limit: Duration) -> Output {
    // Files: what it starts may keep them open, and nobody waits for it.
    let mut said = [(); 2].map(|()| tempfile::tempfile().expect("make a file"));
    let [stdout, stderr] = said
        .each_ref()
        .map(|file| file.try_clone().expect("share a file"));
    let mut child = ChildGuard::spawn(command.stdin(Stdio::null()).stdout(stdout).stderr(stderr));
    let status = child.wait(limit);
    drop(child);
    let [stdout, stderr] = said.each_mut().map(whole);
    let Some(status) = status else {
        panic!(
            "{command:?} does not end within {limit:?}:\n{}\n{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        );
    };
    Output {
        status,
        stdout,
        stderr,
    }
}

fn whole(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .expect("read a file");
    bytes
}

/// A process that ends, by its number, when the test does.
#[derive(Debug)]
pub struct ChildGuard {
    child: Child,
    patience: Duration,
}

impl ChildGuard {
    /// A process that is killed at once.
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_patiently(command, Duration::ZERO)
    }

    /// A process that is asked to stop, and killed when it has not within `patience`: for a program
    /// that ends what it has started.
    pub fn spawn_patiently(command: &mut Command, patience: Duration) -> Self {
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("start {}: {e}", command.get_program().display()));
        Self { child, patience }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal, such as `Signal::SIGKILL`.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("send a signal");
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended; `None` when it has not within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.child.try_wait().expect("look at a process");
            if ended.is_some() || Instant::now() >= deadline {
                return ended;
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        // Once it was waited for, its number may be another's.
        if !self.patience.is_zero() && matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
            self.wait(self.patience);
        }
        self.kill();
    }
}

/// A program of this workspace, beside the test that asks for it.
///
/// # Panics
/// When it has not been built.
pub fn bin(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("find this test's own program");
    // target/<profile>/deps/<test> → target/<profile>/<name>
    let built = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    built.unwrap_or_else(|| {
        panic!(
            "`{name}` is not built beside {}: run `cargo build --bins`",
            test.display()
        )
    })
}

#[cfg(test)]
mod tests;
