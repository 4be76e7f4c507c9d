//! Threads that are hard to get: a machine that has none left for a moment is asked again.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::retry::Backoff;

/// Tries before it is given up, with delays of at most a second in between: seconds, of which a watchdog has more.
const TRIES: u32 = 5;

/// Starts a thread. Where the system has none left (`EAGAIN`: TasksMax=, `ulimit -u`, memory) it tries again for some seconds.
///
/// # Errors
/// `Kind::System`: there was none.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    // A failed try would drop the body.
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
                    "cannot start the {name} thread: raise TasksMax= of the unit (ulimit -u), or is memory short?"
                );
                return Err(Error::fatal(Kind::System, text).caused_by(error));
            }
        }
    }
}

/// Shows that a thread can be started, for those who start one without a way to say that they could not.
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
