//! Connections as they come: so many at a time, and none that says nothing.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::door::Limits;

/// What every client of ours says first (RFC 9113 §3.4); whoever has not said as much is a stranger.
const PREFACE_BYTES: u64 = 24;

/// How long nothing is accepted after the system could not give a connection, such as for want of
/// file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections of a listening socket.
pub struct Incoming(ReceiverStream<io::Result<Connection>>);

impl Incoming {
    pub(crate) fn new(listener: TcpListener, limits: Limits) -> Self {
        let places = Arc::new(Semaphore::new(limits.max_connections));
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = accept(&listener, &places, &limits) => accepted,
                    () = sender.closed() => return,
                };
                if sender.send(Ok(accepted)).await.is_err() {
                    return;
                }
            }
        });
        Self(ReceiverStream::new(receiver))
    }
}

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>, limits: &Limits) -> Connection {
    let place = match places.clone().try_acquire_owned() {
        Ok(place) => place,
        Err(_) => {
            tracing::warn!(
                "{} connections are open: others wait until one ends",
                limits.max_connections
            );
            let place = places.clone().acquire_owned().await;
            place.expect("the semaphore is never closed")
        }
    };
    loop {
        match listener.accept().await {
            Ok((io, _)) => {
                // Without it small messages wait for acknowledgements; it costs nothing to try.
                let _ = io.set_nodelay(true);
                return Connection::new(io, place, limits);
            }
            // One that has gone again.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                tracing::warn!("cannot accept connections: {e}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Connection>>> {
        Pin::new(&mut self.0).poll_next(context)
    }
}

/// A connection that ends when nothing comes from the other side for too long.
///
/// A client that is there answers pings, so silence means that nobody is.
pub struct Connection {
    io: TcpStream,
    silence: Duration,
    n_read: u64,
    last_read: Instant,
    due: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(io: TcpStream, place: OwnedSemaphorePermit, limits: &Limits) -> Self {
        Self {
            io,
            silence: limits.silence,
            n_read: 0,
            last_read: Instant::now(),
            due: Box::pin(tokio::time::sleep(limits.handshake)),
            _place: place,
        }
    }

    /// Fails when the other side has been silent for too long.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.due.as_mut().poll(context));
            let silent_until = self.last_read + self.silence;
            if self.n_read < PREFACE_BYTES || silent_until <= Instant::now() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.due.as_mut().reset(silent_until);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.io).poll_read(context, buffer) {
            Poll::Ready(done) => {
                self.n_read += (buffer.filled().len() - before) as u64;
                self.last_read = Instant::now();
                Poll::Ready(done)
            }
            Poll::Pending => self.poll_silence(context).map(Err),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.io.connect_info()
    }
}
