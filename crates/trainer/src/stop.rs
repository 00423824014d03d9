//! The one signal that ends the step loop early.

use tokio::sync::watch;

/// Why the loop should end at the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// By whoever gave it its place and may start it again there: save, flush, end.
    Yield,
    /// By a person or the orchestrator: the same, and it is not to be started again.
    Asked,
    /// A later attempt has the run: end at once and touch nothing.
    Stale(String),
    /// The readings will never be taken: the run has failed.
    Failed(String),
}

impl Stop {
    /// Whether what was done so far is to be kept.
    pub(crate) fn is_request(&self) -> bool {
        self.rank() < 2
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Yield => 0,
            Self::Asked => 1,
            Self::Stale(_) | Self::Failed(_) => 2,
        }
    }
}

/// The first reason stands, except that a person's request outranks a batch system's, and a lost run
/// both.
#[derive(Clone, Debug)]
pub(crate) struct StopSignal(watch::Sender<Option<Stop>>);

impl StopSignal {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(crate) fn raise(&self, stop: Stop) {
        self.0.send_if_modified(|current| {
            let raised = (current.as_ref()).is_none_or(|first| first.rank() < stop.rank());
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
        self.wait_for(|_| true).await
    }

    /// Waits until the signal is raised with such a reason.
    pub(crate) async fn wait_for(&self, is_such: impl Fn(&Stop) -> bool) -> Stop {
        let mut receiver = self.0.subscribe();
        let raised = receiver.wait_for(|stop| stop.as_ref().is_some_and(&is_such));
        let raised = raised.await.ok().and_then(|stop| stop.clone());
        match raised {
            Some(stop) => stop,
            // Never: this signal is a sender itself.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
