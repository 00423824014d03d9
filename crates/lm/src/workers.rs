//! Threads that compute independent pieces, each as it would be computed alone.

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::Error;

/// A fixed number of threads.
pub(crate) struct Workers {
    /// All threads, for one piece at a time: large matrix products split among them.
    together: ThreadPool,
    /// One thread each, for several pieces at a time.
    ///
    /// Pieces that share a pool would steal work of each other in the middle of a product.
    apart: Vec<ThreadPool>,
}

impl Workers {
    pub(crate) fn new(threads: usize) -> Result<Self, Error> {
        let pool = |n: usize| {
            ThreadPoolBuilder::new()
                .num_threads(n)
                .thread_name(|i| format!("lm-{i}"))
                .build()
                .map_err(|err| Error::Threads { threads, err })
        };
        let threads = threads.max(1);
        Ok(Self {
            together: pool(threads)?,
            apart: match threads {
                1 => Vec::new(),
                _ => (0..threads).map(|_| pool(1)).collect::<Result<_, _>>()?,
            },
        })
    }

    /// How many pieces are computed at a time.
    pub(crate) fn n_at_a_time(&self) -> usize {
        self.apart.len().max(1)
    }

    /// Runs one piece on all threads.
    pub(crate) fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.together.install(f)
    }

    /// `f(0), …, f(n − 1)`, in this order.
    pub(crate) fn map<R: Send>(&self, n: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
        if n <= 1 || self.apart.is_empty() {
            return self.run(|| (0..n).map(&f).collect());
        }
        let stride = self.apart.len();
        let f = &f;
        let mut shares: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (self.apart.iter().enumerate())
                .map(|(from, pool)| {
                    scope.spawn(move || {
                        pool.install(|| (from..n).step_by(stride).map(f).collect::<Vec<_>>())
                    })
                })
                .collect();
            (threads.into_iter())
                .map(|thread| match thread.join() {
                    Ok(share) => share.into_iter(),
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect()
        });
        (0..n)
            .map(|i| shares[i % stride].next().expect("shares hold every piece"))
            .collect()
    }
}

#[cfg(test)]
mod tests;
