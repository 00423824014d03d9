//! A bad network between two ends: a TCP proxy that cuts, holds back, delays and refuses.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes that go through at a time: less than a message, so that a cut finds the middle of one.
const CHUNK_BYTES: usize = 1500;

/// How the network is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Nobody gets a connection.
    pub refuse: bool,
    /// Nothing goes from the client to the server; it is not lost either.
    pub hold_requests: bool,
    /// Nothing goes from the server to the client; it is not lost either.
    pub hold_answers: bool,
    /// How long everything takes longer.
    pub delay: Duration,
}

/// Listens on a loopback port and passes everything on to a server; dropping it cuts everything.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    /// Counts the cuts.
    cuts: watch::Sender<u64>,
    /// Bytes that clients may still send before all connections are cut; negative for no such plan.
    fuse_bytes: Arc<AtomicI64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("listen on a free port");
        let port = listener.local_addr().expect("know the port").port();
        let (weather, cuts) = (watch::Sender::default(), watch::Sender::new(0));
        let fuse_bytes = Arc::new(AtomicI64::new(-1));
        let link = Link {
            weather: weather.subscribe(),
            cuts: cuts.clone(),
            fuse_bytes: fuse_bytes.clone(),
        };
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !link.weather.borrow().refuse {
                    tokio::spawn(link.clone().connect(client, to));
                }
            }
        });
        Self {
            port,
            weather,
            cuts,
            fuse_bytes,
            accepting,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes how the network is from now on, for old connections too.
    pub fn weather(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }

    /// Cuts every connection; new ones may be made.
    pub fn cut(&self) {
        self.cuts.send_modify(|n| *n += 1);
    }

    /// Cuts every connection once clients have sent so many bytes more, wherever that is.
    pub fn cut_after(&self, n_bytes: u32) {
        self.fuse_bytes.store(n_bytes.into(), Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

#[derive(Clone)]
struct Link {
    weather: watch::Receiver<Weather>,
    cuts: watch::Sender<u64>,
    fuse_bytes: Arc<AtomicI64>,
}

impl Link {
    async fn connect(self, client: TcpStream, to: SocketAddr) {
        let mut cuts = self.cuts.subscribe();
        let Ok(server) = TcpStream::connect(to).await else {
            return;
        };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let (up, down) = (self.clone(), self);
        // Whatever ends first, both ends lose the connection.
        tokio::select! {
            _ = cuts.changed() => {}
            _ = up.pass(from_client, to_server, |w| w.hold_requests, true) => {}
            _ = down.pass(from_server, to_client, |w| w.hold_answers, false) => {}
        }
    }

    async fn pass(
        mut self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        is_held: impl Fn(&Weather) -> bool,
        burns_fuse: bool,
    ) -> std::io::Result<()> {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            let n = from.read(&mut chunk).await?;
            if n == 0 {
                return Ok(());
            }
            let delay = self.weather.borrow().delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if self.weather.wait_for(|w| !is_held(w)).await.is_err() {
                return Ok(());
            }
            let left = match burns_fuse {
                true => self.burn(n),
                false => None,
            };
            to.write_all(&chunk[..left.unwrap_or(n)]).await?;
            if left.is_some() {
                self.cuts.send_modify(|n| *n += 1);
                return Ok(());
            }
        }
    }

    /// How many of `n` bytes still go through, if the fuse ends within them.
    fn burn(&self, n: usize) -> Option<usize> {
        let before = self
            .fuse_bytes
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                (left >= 0).then(|| if left < n as i64 { -1 } else { left - n as i64 })
            });
        before.ok().and_then(|left| {
            let left = left as usize;
            (left < n).then_some(left)
        })
    }
}
