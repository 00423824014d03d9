//! A model of what starts processes: a machine that starts them at once, or a cluster with a queue.

use super::Chance;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    Queued,
    Running { pid: u32 },
    Ended { how: String },
}

/// A job as its engine has it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: u32,
    pub(super) run_id: i32,
    pub(super) request_id: String,
    pub(super) state: State,
    /// Asked to save and end.
    pub(super) stop: bool,
}

pub(super) struct Engine {
    pub(super) name: &'static str,
    /// Whether it has a queue, and ideas of its own.
    pub(super) is_cluster: bool,
    pub(super) entries: Vec<Entry>,
    /// Does not answer before this tick.
    pub(super) silent_until: u32,
    next_id: u32,
}

/// Processes of a cluster at once.
const NODES: usize = 3;

/// What became of a request to start something.
pub(super) enum Answer {
    Started(u32),
    Refused,
    /// Whether or not it was started.
    Lost,
}

impl Engine {
    pub(super) fn new(name: &'static str, is_cluster: bool) -> Self {
        Self {
            name,
            is_cluster,
            entries: Vec::new(),
            silent_until: 0,
            next_id: 1,
        }
    }

    pub(super) fn of_request(&self, request_id: &str) -> Option<&Entry> {
        let mut entries = self.entries.iter().rev();
        entries.find(|entry| entry.request_id == request_id)
    }

    /// `None` when it has lost track of the job.
    pub(super) fn entry_mut(&mut self, id: u32) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    /// Asked to start a job; `wrong` is how things go wrong.
    pub(super) fn submit(&mut self, run_id: i32, request_id: &str, wrong: Option<u64>) -> Answer {
        match (self.of_request(request_id).map(|entry| entry.id), wrong) {
            // Its memory lags, and it takes the same once more.
            (Some(_), Some(0)) if self.is_cluster => {}
            (Some(id), _) => return Answer::Started(id),
            (None, Some(1)) => return Answer::Refused,
            (None, Some(2)) if self.is_cluster => return Answer::Lost,
            (None, _) => {}
        }
        let id = self.next_id;
        self.next_id += 1;
        self.entries.push(Entry {
            id,
            run_id,
            request_id: request_id.to_owned(),
            state: State::Queued,
            stop: false,
        });
        match wrong {
            Some(3) if self.is_cluster => Answer::Lost,
            _ => Answer::Started(id),
        }
    }

    /// The entries whose processes start now.
    pub(super) fn start(&mut self, chance: &mut Chance, next_pid: &mut u32) -> Vec<Entry> {
        let mut started = Vec::new();
        for at in 0..self.entries.len() {
            let entry = &self.entries[at];
            let running = |e: &&Entry| matches!(e.state, State::Running { .. });
            let n_running = self.entries.iter().filter(running).count();
            // One job a name at a time.
            let mut same = self.entries.iter().filter(running);
            let is_held = self.is_cluster
                && (n_running >= NODES
                    || same.any(|e| e.run_id == entry.run_id)
                    || chance.one_in(3));
            if entry.state == State::Queued && !is_held {
                let pid = *next_pid;
                *next_pid += 1;
                self.entries[at].state = State::Running { pid };
                started.push(self.entries[at].clone());
            }
        }
        started
    }

    /// A process has ended: its job is over, or waits for another turn.
    pub(super) fn process_ended(&mut self, id: u32, how: &str, requeue: bool) {
        let Some(entry) = self.entry_mut(id) else {
            return;
        };
        entry.state = match requeue && !entry.stop {
            true => State::Queued,
            false => State::Ended {
                how: how.to_owned(),
            },
        };
    }

    /// Forgets what has ended; or everything, and processes live on that it does not know.
    pub(super) fn forget(&mut self, everything: bool) {
        self.entries
            .retain(|entry| !everything && !matches!(entry.state, State::Ended { .. }));
    }
}
