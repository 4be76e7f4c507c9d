//! Starts threads, and retries where the machine has none left for a moment.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::retry::Backoff;

/// Attempts before giving up, with delays of at most a second in between: some seconds, less than any watchdog's time-out.
const TRIES: u32 = 5;

/// Starts a thread. If the system has none left (`EAGAIN`: TasksMax=, `ulimit -u`, memory) it retries for some seconds.
///
/// # Errors
/// `Kind::System`: all attempts failed.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    // A failed attempt would drop the body.
    let body = Arc::new(Mutex::new(Some(body)));
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 0);
    loop {
        let slot = Arc::clone(&body);
        let run = move || {
            let body = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            body.expect("only the thread that could be started takes it")()
        };
        match std::thread::Builder::new().name(name.to_owned()).spawn(run) {
            Ok(thread) => return Ok(thread),
            Err(_) if backoff.failures() < TRIES => std::thread::park_timeout(backoff.next_delay()),
            Err(error) => {
                let text = format!(
                    "cannot start the {name} thread: raise TasksMax= of the unit (ulimit -u), or free some memory"
                );
                return Err(Error::fatal(Kind::System, text).caused_by(error));
            }
        }
    }
}

/// Checks that a thread can be started, for callers of code that cannot report such a failure.
///
/// # Errors
/// As [`spawn`].
pub fn probe() -> Result<()> {
    let _ended = spawn("probe", || ())?.join();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_names_and_results() {
        let name = || std::thread::current().name().map(str::to_owned);
        assert_eq!(spawn("camera", name).unwrap().join().unwrap().as_deref(), Some("camera"));
        probe().unwrap();
    }
}
