//! The one stop request: a flag that wakes every waiting thread, so that no sleep delays a shutdown.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A stop request shared by all threads. Clones refer to the same request.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// A request that has not been made yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests the stop. May be called any number of times.
    pub fn request(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Whether a stop was requested.
    pub fn requested(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `duration`, or less if a stop is requested. True if it was.
    pub fn wait(&self, duration: Duration) -> bool {
        let guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = self
            .0
            .1
            .wait_timeout_while(guard, duration, |stop| !*stop)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_a_wait_of_an_hour() {
        let stop = Stop::new();
        let waiter = {
            let stop = stop.clone();
            std::thread::spawn(move || stop.wait(Duration::from_secs(3600)))
        };
        stop.request();
        assert!(waiter.join().unwrap());
        assert!(stop.requested());
    }

    #[test]
    fn without_a_request_the_wait_ends_by_itself() {
        assert!(!Stop::new().wait(Duration::from_millis(1)));
    }
}
