//! An executor at work: asked without waiting for it, and what it last said.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use imprint_store::runs::{Job, Leader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::executor::{Executor, Phase, Refused, Seen};
use crate::plan::Sight;
use crate::trainer::Trainer;

/// One executor in a task of its own: a slow one keeps nobody waiting.
pub(crate) struct Desk {
    orders: mpsc::UnboundedSender<Order>,
    listed: watch::Sender<Arc<List>>,
    view: watch::Receiver<Arc<View>>,
}

/// The open jobs, as whoever leads sees them.
#[derive(Default)]
struct List {
    /// `None` while another orchestrator leads: there is nothing to do then.
    leader: Option<Leader>,
    jobs: Vec<Job>,
}

enum Order {
    Job(JobOrder),
    ShutDown(Duration, oneshot::Sender<()>),
}

/// Carried out only under the lead that it was given under.
struct JobOrder {
    leader: Leader,
    job: Job,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Submit,
    Stop,
    Kill,
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
    pub(crate) fn external_id(&self, leader: Leader, job: &Job) -> Option<&str> {
        let seen = self.seen.get(&key(job));
        seen.filter(|_| self.leader == Some(leader))
            .map(String::as_str)
    }
}

fn key(job: &Job) -> Key {
    (job.run_id, job.job)
}

impl Desk {
    /// `changed` is called whenever there may be something new to see.
    pub(crate) fn new(
        executor: Box<dyn Executor>,
        trainer: Arc<Trainer>,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (orders, ordered) = mpsc::unbounded_channel();
        let (listed, list) = watch::channel(Arc::default());
        let (show, view) = watch::channel(Arc::default());
        let clerk = Clerk {
            executor,
            trainer,
            ordered,
            waiting: Waiting::default(),
            list,
            show,
            view: View::default(),
            submitted: BTreeMap::new(),
            unclear: BTreeMap::new(),
            next_look: Instant::now(),
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

    /// Another orchestrator leads: nothing is observed, and no order is carried out any more.
    pub(crate) fn rest(&self) {
        self.listed.send_if_modified(|list| {
            let leads = list.leader.is_some();
            *list = Arc::default();
            leads
        });
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Has a job started; asked again, that is one order.
    pub(crate) fn submit(&self, leader: Leader, job: Job) {
        self.order(leader, job, What::Submit);
    }

    pub(crate) fn stop(&self, leader: Leader, job: Job) {
        self.order(leader, job, What::Stop);
    }

    pub(crate) fn kill(&self, leader: Leader, job: Job) {
        self.order(leader, job, What::Kill);
    }

    /// Asks what would not outlive this process to save and end, before anything else that was
    /// ordered; the answer comes when it has.
    pub(crate) fn shut_down(&self, grace: Duration) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        self.send(Order::ShutDown(grace, done));
        is_done
    }

    fn order(&self, leader: Leader, job: Job, what: What) {
        self.send(Order::Job(JobOrder { leader, job, what }));
    }

    fn send(&self, order: Order) {
        // A clerk that is gone has panicked; its jobs stay unseen, and the log has said why.
        let _ = self.orders.send(order);
    }
}

/// The other side of a desk.
struct Clerk {
    executor: Box<dyn Executor>,
    trainer: Arc<Trainer>,
    ordered: mpsc::UnboundedReceiver<Order>,
    waiting: Waiting,
    list: watch::Receiver<Arc<List>>,
    show: watch::Sender<Arc<View>>,
    view: View,
    /// Jobs that were submitted here and may be on no list yet, and when.
    submitted: BTreeMap<Key, (Job, Instant)>,
    /// What was said when they were submitted last, of jobs that may not have come.
    unclear: BTreeMap<Key, String>,
    next_look: Instant,
    changed: Box<dyn Fn() + Send + Sync>,
}

/// What is still to be carried out: of each job one submission and one end at most.
#[derive(Default)]
struct Waiting {
    ends: VecDeque<JobOrder>,
    submissions: VecDeque<JobOrder>,
    shut_down: Option<(Duration, oneshot::Sender<()>)>,
}

impl Waiting {
    fn add(&mut self, order: Order) {
        let order = match order {
            Order::Job(order) => order,
            Order::ShutDown(grace, done) => {
                self.shut_down = Some((grace, done));
                return;
            }
        };
        let queue = match order.what {
            What::Submit => &mut self.submissions,
            What::Stop | What::Kill => &mut self.ends,
        };
        match queue.iter_mut().find(|o| key(&o.job) == key(&order.job)) {
            Some(known) => *known = order,
            None => queue.push_back(order),
        }
    }

    /// Ends are quick and free places: they go first.
    fn next(&mut self) -> Option<JobOrder> {
        (self.ends.pop_front()).or_else(|| self.submissions.pop_front())
    }

    fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.submissions.is_empty()
    }
}

/// A job that was submitted so long ago and is on no list has ended.
const LISTED_WITHIN: Duration = Duration::from_secs(60);

impl Clerk {
    async fn work(mut self) {
        loop {
            while let Ok(order) = self.ordered.try_recv() {
                self.waiting.add(order);
            }
            if let Some((grace, done)) = self.waiting.shut_down.take() {
                self.executor.shut_down(grace).await;
                // Nobody may be waiting any more.
                let _ = done.send(());
                return;
            }
            // However much is ordered, what is there is looked at in time.
            if self.next_look <= Instant::now() {
                self.look().await;
                self.next_look = Instant::now() + self.executor.poll_every();
                continue;
            }
            if let Some(order) = self.waiting.next() {
                self.carry_out(order).await;
                if self.waiting.is_empty() {
                    self.next_look = Instant::now();
                }
                continue;
            }
            tokio::select! {
                order = self.ordered.recv() => match order {
                    Some(order) => self.waiting.add(order),
                    None => return,
                },
                () = tokio::time::sleep_until(self.next_look) => {}
            }
        }
    }

    async fn carry_out(&mut self, order: JobOrder) {
        let JobOrder { leader, job, what } = order;
        if self.list.borrow().leader != Some(leader) {
            return;
        }
        match what {
            What::Submit => self.submit(leader, job).await,
            What::Stop => {
                let asked = self.executor.stop(&job).await;
                warn(&job, "stop", asked);
            }
            What::Kill => {
                let asked = self.executor.kill(&job).await;
                warn(&job, "kill", asked);
            }
        }
    }

    async fn submit(&mut self, leader: Leader, job: Job) {
        self.serve(Some(leader));
        let submitted = match self.trainer.command(&job).await {
            Ok(command) => self.executor.submit(&job, &command).await,
            Err(problem) => Err(Refused::Ended(format!("could not be started: {problem}"))),
        };
        self.unclear.remove(&key(&job));
        let sight = match submitted {
            Ok(external_id) => {
                self.view.seen.insert(key(&job), external_id);
                Sight::Unseen { problem: None }
            }
            Err(Refused::Ended(how)) => Sight::Ended { how },
            Err(Refused::Unclear(problem)) => {
                self.unclear.insert(key(&job), problem.clone());
                Sight::Unseen {
                    problem: Some(problem),
                }
            }
        };
        self.view.jobs.insert(key(&job), sight);
        self.submitted.insert(key(&job), (job, Instant::now()));
        self.tell();
    }

    /// Forgets what it knows from under another leader.
    fn serve(&mut self, leader: Option<Leader>) {
        if self.view.leader != leader {
            self.submitted.clear();
            self.unclear.clear();
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
        self.unclear
            .retain(|unclear, _| jobs.iter().any(|job| key(job) == *unclear));
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
                _ => Sight::Unknown {
                    problem: self.unclear.get(&key(job)).cloned(),
                },
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
