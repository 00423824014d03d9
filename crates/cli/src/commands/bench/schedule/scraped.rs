//! The series of a process, as Prometheus would see them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::failure::Failure;

/// What `/metrics` says at one moment.
pub(super) struct Scraped(String);

/// What a histogram has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Durations {
    pub(super) n: u64,
    sum: Duration,
    /// How many took no longer than a bound, by bounds in seconds.
    buckets: Vec<(f64, u64)>,
}

impl Scraped {
    pub(super) async fn of(address: SocketAddr) -> Result<Self, Failure> {
        let scraped = get(address).await;
        scraped.map(Self).map_err(Failure::doing(format_args!(
            "read http://{address}/metrics"
        )))
    }

    /// A histogram of durations, of one of its parts.
    pub(super) fn durations(&self, name: &str, part: &str) -> Durations {
        let label = format!("part=\"{part}\"");
        let mut durations = Durations::default();
        let lines = self.0.lines().filter_map(|line| line.strip_prefix(name));
        for line in lines.filter(|line| line.contains(&label)) {
            let Some((labels, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let count = || value.parse().unwrap_or_default();
            if labels.starts_with("_sum") {
                let seconds = value.parse().unwrap_or(0.0);
                durations.sum = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            } else if labels.starts_with("_count") {
                durations.n = count();
            } else if let Some((_, bound)) = labels.split_once("le=\"") {
                let bound = bound.split('"').next().and_then(|b| b.parse().ok());
                durations
                    .buckets
                    .extend(bound.map(|bound: f64| (bound, count())));
            }
        }
        durations
    }
}

impl Durations {
    /// What was counted after `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let bucket = |&(bound, n): &(f64, u64)| {
            let before = earlier.buckets.iter().find(|(b, _)| *b == bound);
            (bound, n - before.map_or(0, |&(_, n)| n))
        };
        Self {
            n: self.n - earlier.n,
            sum: self.sum.saturating_sub(earlier.sum),
            buckets: self.buckets.iter().map(bucket).collect(),
        }
    }

    pub(super) fn mean(&self) -> Option<Duration> {
        (self.n > 0).then(|| self.sum.div_f64(self.n as f64))
    }

    /// The bound of the bucket that has the longest; `None` where nothing was counted, or one took
    /// longer than all bounds.
    pub(super) fn all_within(&self) -> Option<Duration> {
        let bounds = self.buckets.iter().filter(|&&(_, n)| n == self.n);
        let least = bounds.map(|&(bound, _)| bound).reduce(f64::min)?;
        (self.n > 0)
            .then(|| Duration::try_from_secs_f64(least).ok())
            .flatten()
    }
}

async fn get(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, answer)),
    }
}

#[cfg(test)]
mod tests;
