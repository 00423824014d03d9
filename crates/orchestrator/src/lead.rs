//! Who schedules: of several orchestrators on one database, one leads.

use std::sync::Arc;
use std::time::Duration;

use imprint_store::Store;
use imprint_store::runs::Leader;
use imprint_telemetry::one_line;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

/// The lead, kept or waited for in a task of its own: however long something takes, it is renewed in
/// time.
pub(crate) struct Lead {
    held: watch::Receiver<Option<Leader>>,
    /// Dropped to give the lead back.
    resign: oneshot::Sender<()>,
    keeper: JoinHandle<()>,
}

impl Lead {
    /// `holder` is for other orchestrators to say who leads; `wake` is told when the lead comes.
    pub(crate) fn keep(store: Store, holder: String, lasts: Duration, wake: Arc<Notify>) -> Self {
        let (show, held) = watch::channel(None);
        let (resign, resigned) = oneshot::channel();
        let keeper = Keeper {
            store,
            holder,
            lasts,
            wake,
            show,
            follows: None,
        };
        Self {
            held,
            resign,
            keeper: tokio::spawn(keeper.work(resigned)),
        }
    }

    /// The lead, while this orchestrator has it: what is changed under it is refused when it was lost
    /// meanwhile.
    pub(crate) fn held(&self) -> Option<Leader> {
        *self.held.borrow()
    }

    /// Gives the lead back, so that another need not wait for its end.
    pub(crate) async fn resign(self) {
        drop(self.resign);
        if let Err(e) = self.keeper.await {
            tracing::warn!("the lead ends by itself: {}", one_line(&e));
        }
    }
}

struct Keeper {
    store: Store,
    holder: String,
    lasts: Duration,
    wake: Arc<Notify>,
    show: watch::Sender<Option<Leader>>,
    /// Who leads instead.
    follows: Option<String>,
}

impl Keeper {
    async fn work(mut self, mut resigned: oneshot::Receiver<()>) {
        let mut is_down = false;
        loop {
            let renewed = tokio::select! {
                renewed = tokio::time::timeout(self.lasts, self.renew()) => renewed,
                _ = &mut resigned => break,
            };
            let problem = match renewed {
                Ok(Ok(())) => None,
                Ok(Err(e)) => Some(one_line(&e)),
                Err(_) => Some("the database does not answer".to_owned()),
            };
            // Said once; what is done under a lead that has ended meanwhile is refused.
            if let Some(problem) = &problem
                && !is_down
            {
                tracing::warn!("the lead cannot be renewed: {problem}");
            }
            is_down = problem.is_some();
            tokio::select! {
                () = tokio::time::sleep(self.lasts / 3) => {}
                _ = &mut resigned => break,
            }
        }
        let held = *self.show.borrow();
        if let Some(leader) = held {
            match tokio::time::timeout(self.lasts, self.store.resign(leader)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::warn!("the lead ends by itself: {}", one_line(&e)),
                Err(_) => tracing::warn!("the lead ends by itself: the database does not answer"),
            }
        }
    }

    async fn renew(&mut self) -> Result<(), imprint_store::Error> {
        let held = *self.show.borrow();
        match self.store.take_lead(&self.holder, held, self.lasts).await? {
            Ok(leader) if held != Some(leader) => {
                if self.follows.take().is_some() {
                    tracing::info!("leads from now on");
                }
                self.show.send_replace(Some(leader));
                self.wake.notify_one();
            }
            Ok(_) => {}
            Err(holder) => {
                self.show.send_replace(None);
                if self.follows.as_ref() != Some(&holder) {
                    tracing::info!("{holder} leads; this orchestrator takes over when it is gone");
                    self.follows = Some(holder);
                }
            }
        }
        Ok(())
    }
}
