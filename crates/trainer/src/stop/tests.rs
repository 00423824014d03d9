use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

fn poll<T>(wait: impl Future<Output = T>) -> Option<T> {
    match pin!(wait).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(got) => Some(got),
        Poll::Pending => None,
    }
}

#[test]
fn a_lost_run_outranks_a_request_and_is_waited_for_alone() {
    let stop = StopSignal::new();
    let is_stale = |stop: &Stop| matches!(stop, Stop::Stale(_));
    assert_eq!(poll(stop.wait()), None);
    stop.raise(Stop::Yield);
    assert_eq!(poll(stop.wait()), Some(Stop::Yield));
    stop.raise(Stop::Asked);
    stop.raise(Stop::Yield);
    assert_eq!(poll(stop.wait()), Some(Stop::Asked));
    assert_eq!(poll(stop.wait_for(is_stale)), None);
    let stale = Stop::Stale("attempt 2".to_owned());
    stop.raise(stale.clone());
    stop.raise(Stop::Asked);
    stop.raise(Stop::Failed("a disk".to_owned()));
    assert_eq!(poll(stop.wait_for(is_stale)), Some(stale.clone()));
    assert_eq!(stop.raised(), Some(stale));
}
