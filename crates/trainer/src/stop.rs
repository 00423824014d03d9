//! The one signal that ends the step loop early.

use tokio::sync::watch;

/// Why the loop should end at the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// By a signal or a cancellation: save, flush, end.
    Asked,
    /// A later attempt has the run: end at once and touch nothing.
    Stale(String),
    /// The readings will never be taken: the run has failed.
    Failed(String),
}

/// Raised once; the first reason stands, except that a lost run outranks a request.
#[derive(Clone, Debug)]
pub(crate) struct StopSignal(watch::Sender<Option<Stop>>);

impl StopSignal {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(crate) fn raise(&self, stop: Stop) {
        self.0.send_if_modified(|current| {
            let raised =
                matches!(current, None | Some(Stop::Asked)) && *current != Some(stop.clone());
            if raised {
                *current = Some(stop);
            }
            raised
        });
    }

    pub(crate) fn raised(&self) -> Option<Stop> {
        self.0.borrow().clone()
    }

    /// Waits until the signal is raised.
    pub(crate) async fn wait(&self) -> Stop {
        let mut receiver = self.0.subscribe();
        loop {
            if let Some(stop) = receiver.borrow_and_update().clone() {
                return stop;
            }
            if receiver.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
