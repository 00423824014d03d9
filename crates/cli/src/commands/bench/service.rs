//! The metrics service that is measured, and its database.

use std::num::NonZeroU16;
use std::path::Path;

use imprint_store::Store;

use super::private::{Private, Served};
use crate::database::Database;
use crate::failure::Failure;
use crate::place::Place;

pub(super) struct Service {
    pub(super) store: Store,
    /// Once it serves.
    metrics_url: String,
    own: Option<Own>,
    /// The user's own, otherwise.
    database: Option<Database>,
}

/// What was started for this measurement.
struct Own {
    metrics: Option<Served>,
    private: Private,
}

impl Service {
    /// The service that the place names, or one of our own below `dir`.
    pub(super) async fn provide(place: &Place, dir: &Path) -> Result<Self, Failure> {
        if let Some(url) = place.named_metrics_url() {
            let database = Database::open(place).await?;
            return Ok(Self {
                store: database.store.clone(),
                metrics_url: url.to_owned(),
                own: None,
                database: Some(database),
            });
        }
        let (private, store) = Private::start(dir).await?;
        Ok(Self {
            store,
            metrics_url: String::new(),
            own: Some(Own {
                metrics: None,
                private,
            }),
            database: None,
        })
    }

    /// Serves anew with so many steps a commit, where the service is our own.
    pub(super) async fn serve(&mut self, steps_per_commit: NonZeroU16) -> Result<(), Failure> {
        let Some(own) = &mut self.own else {
            return Ok(());
        };
        own.stop_metrics().await;
        let arguments = [
            "--steps-per-commit".to_owned(),
            steps_per_commit.to_string(),
        ];
        let metrics = own.private.serve("metrics", &arguments).await?;
        metrics.url().clone_into(&mut self.metrics_url);
        own.metrics = Some(metrics);
        Ok(())
    }

    pub(super) fn metrics_url(&self) -> &str {
        &self.metrics_url
    }

    pub(super) fn metrics_pid(&self) -> Option<u32> {
        self.own.as_ref()?.metrics.as_ref()?.pid()
    }

    pub(super) fn postmaster_pid(&self) -> Option<u32> {
        self.own.as_ref()?.private.postmaster_pid()
    }

    /// Stops what was started; says how to reach what is kept.
    pub(super) async fn end(self, keep: bool) -> Result<Option<String>, Failure> {
        self.store.pool().close().await;
        if let Some(database) = self.database {
            database.close().await?;
        }
        let Some(mut own) = self.own else {
            return Ok(None);
        };
        own.stop_metrics().await;
        let kept = own.private.end(keep).await?;
        Ok(kept.map(|dir| format!("`imprint --data-dir {} sql`", dir.display())))
    }
}

impl Own {
    async fn stop_metrics(&mut self) {
        if let Some(metrics) = self.metrics.take() {
            metrics.stop().await;
        }
    }
}
