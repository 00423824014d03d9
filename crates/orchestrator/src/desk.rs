//! An executor at work: asked without waiting for it, and what it last said.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use imprint_store::runs::{Job, Leader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::executor::{Executor, Phase, Refused, Seen};
use crate::plan::Sight;
use crate::trainer::TrainerCommand;

/// One executor in a task of its own: a slow one keeps nobody waiting.
pub(crate) struct Desk {
    orders: mpsc::UnboundedSender<Order>,
    listed: watch::Sender<Arc<List>>,
    view: watch::Receiver<Arc<View>>,
}

/// The open jobs, as whoever led then saw them.
#[derive(Default)]
struct List {
    leader: Option<Leader>,
    jobs: Vec<Job>,
}

enum Order {
    Submit(Leader, Job, TrainerCommand),
    Stop(Job),
    Kill(Job),
    ShutDown(Duration, oneshot::Sender<()>),
}

/// A job of a run.
type Key = (i32, u32);

/// What an executor last said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    /// Under whom it was seen: what is remembered from an earlier lead is worth nothing.
    leader: Option<Leader>,
    /// Why it does not answer.
    problem: Option<String>,
    jobs: BTreeMap<Key, Sight>,
    seen: BTreeMap<Key, String>,
}

impl View {
    /// What is known of a job.
    pub(crate) fn sight(&self, leader: Leader, job: &Job) -> Sight {
        if self.leader != Some(leader) {
            return Sight::Unseen { problem: None };
        }
        let problem = || self.problem.clone();
        match self.jobs.get(&key(job)) {
            Some(Sight::Unseen { problem: None }) | None => Sight::Unseen { problem: problem() },
            Some(sight) => sight.clone(),
        }
    }

    /// What the executor calls a job, once that is known.
    pub(crate) fn external_id(&self, job: &Job) -> Option<&str> {
        self.seen.get(&key(job)).map(String::as_str)
    }
}

fn key(job: &Job) -> Key {
    (job.run_id, job.job)
}

impl Desk {
    /// `changed` is called whenever there may be something new to see.
    pub(crate) fn new(
        executor: Box<dyn Executor>,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (orders, ordered) = mpsc::unbounded_channel();
        let (listed, list) = watch::channel(Arc::default());
        let (show, view) = watch::channel(Arc::default());
        let clerk = Clerk {
            executor,
            ordered,
            list,
            show,
            view: View::default(),
            submitted: BTreeMap::new(),
            changed: Box::new(changed),
        };
        tokio::spawn(clerk.work());
        Self {
            orders,
            listed,
            view,
        }
    }

    /// Says which jobs are to be observed: all that are open, but for those just submitted.
    pub(crate) fn list(&self, leader: Leader, jobs: Vec<Job>) {
        let leader = Some(leader);
        self.listed.send_replace(Arc::new(List { leader, jobs }));
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    pub(crate) fn submit(&self, leader: Leader, job: Job, command: TrainerCommand) {
        self.order(Order::Submit(leader, job, command));
    }

    pub(crate) fn stop(&self, job: Job) {
        self.order(Order::Stop(job));
    }

    pub(crate) fn kill(&self, job: Job) {
        self.order(Order::Kill(job));
    }

    /// Asks what would not outlive this process to save and end, and waits for it.
    pub(crate) async fn shut_down(&self, grace: Duration) {
        let (done, is_done) = oneshot::channel();
        self.order(Order::ShutDown(grace, done));
        // Gone: there is nothing left to wait for.
        let _ = is_done.await;
    }

    fn order(&self, order: Order) {
        // A clerk that is gone has panicked; its jobs stay unseen, and the log has said why.
        let _ = self.orders.send(order);
    }
}

/// The other side of a desk.
struct Clerk {
    executor: Box<dyn Executor>,
    ordered: mpsc::UnboundedReceiver<Order>,
    list: watch::Receiver<Arc<List>>,
    show: watch::Sender<Arc<View>>,
    view: View,
    /// Jobs that were submitted here and may be on no list yet, and when.
    submitted: BTreeMap<Key, (Job, Instant)>,
    changed: Box<dyn Fn() + Send + Sync>,
}

/// A job that was submitted so long ago and is on no list has ended.
const LISTED_WITHIN: Duration = Duration::from_secs(60);

impl Clerk {
    async fn work(mut self) {
        let mut next_look = Instant::now();
        loop {
            tokio::select! {
                biased;
                order = self.ordered.recv() => match order {
                    Some(Order::Submit(leader, job, command)) => {
                        self.submit(leader, job, &command).await;
                        next_look = Instant::now();
                    }
                    Some(Order::Stop(job)) => {
                        let asked = self.executor.stop(&job).await;
                        warn(&job, "stop", asked);
                        next_look = Instant::now();
                    }
                    Some(Order::Kill(job)) => {
                        let asked = self.executor.kill(&job).await;
                        warn(&job, "kill", asked);
                        next_look = Instant::now();
                    }
                    Some(Order::ShutDown(grace, done)) => {
                        self.executor.shut_down(grace).await;
                        // Nobody may be waiting any more.
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(next_look) => {
                    self.look().await;
                    next_look = Instant::now() + self.executor.poll_every();
                }
            }
        }
    }

    async fn submit(&mut self, leader: Leader, job: Job, command: &TrainerCommand) {
        self.serve(Some(leader));
        let sight = match self.executor.submit(&job, command).await {
            Ok(external_id) => {
                self.view.seen.insert(key(&job), external_id);
                Sight::Unseen { problem: None }
            }
            Err(Refused::Ended(how)) => Sight::Ended { how },
            Err(Refused::Unclear(problem)) => Sight::Unseen {
                problem: Some(problem),
            },
        };
        self.view.jobs.insert(key(&job), sight);
        self.submitted.insert(key(&job), (job, Instant::now()));
        self.tell();
    }

    /// Forgets what it knows from under another leader.
    fn serve(&mut self, leader: Option<Leader>) {
        if self.view.leader != leader {
            self.submitted.clear();
            self.view = View {
                leader,
                ..View::default()
            };
        }
    }

    async fn look(&mut self) {
        let list = self.list.borrow_and_update().clone();
        let listed = &list.jobs;
        self.serve(list.leader);
        self.submitted.retain(|submitted, (_, at)| {
            // One that ended before it was ever listed is older than the one that is.
            let is_listed = |job: &Job| job.run_id == submitted.0 && job.job >= submitted.1;
            at.elapsed() < LISTED_WITHIN && !listed.iter().any(is_listed)
        });
        // A run has one open job: of two, the list has the one that has ended meanwhile.
        let mut jobs: BTreeMap<i32, Job> = (listed.iter())
            .map(|job| (job.run_id, job.clone()))
            .collect();
        jobs.extend((self.submitted.values()).map(|(job, _)| (job.run_id, job.clone())));
        let jobs: Vec<Job> = jobs.into_values().collect();
        let mut view = View {
            leader: list.leader,
            ..View::default()
        };
        if !jobs.is_empty() {
            match self.executor.observe(&jobs).await {
                Ok(seen) => {
                    for job in &jobs {
                        self.see(&mut view, job, seen.get(&job.run_id));
                    }
                }
                Err(problem) => {
                    view = self.view.clone();
                    view.jobs
                        .retain(|_, sight| matches!(sight, Sight::Ended { .. }));
                    view.problem = Some(problem);
                }
            }
        }
        if view != self.view {
            self.view = view;
            self.tell();
        }
    }

    fn see(&self, view: &mut View, job: &Job, seen: Option<&Seen>) {
        let sight = match seen {
            Some(seen) => {
                view.seen.insert(key(job), seen.external_id.clone());
                sight(seen)
            }
            // What was refused was never there.
            None => match self.view.jobs.get(&key(job)) {
                Some(ended @ Sight::Ended { .. }) => ended.clone(),
                _ => Sight::Unknown,
            },
        };
        view.jobs.insert(key(job), sight);
    }

    fn tell(&self) {
        self.show.send_replace(Arc::new(self.view.clone()));
        (self.changed)();
    }
}

fn sight(seen: &Seen) -> Sight {
    match seen.phase.clone() {
        Phase::Waiting { reason } => Sight::Waiting { reason },
        Phase::Alive => Sight::Alive,
        Phase::Ended { how } => Sight::Ended { how },
    }
}

fn warn(job: &Job, what: &str, done: Result<(), String>) {
    if let Err(problem) = done {
        tracing::warn!(
            run_id = job.run_id,
            job = job.job,
            "cannot {what} a job: {problem}"
        );
    }
}
