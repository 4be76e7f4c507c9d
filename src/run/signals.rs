//! Signals: SIGINT, SIGTERM and a closed terminal ask for the end; once more, and it comes at once.

use std::time::Duration;

use async_signal::{Signal, Signals};
use futures_lite::StreamExt;

use crate::base::error::{Error, Kind, Result};
use crate::platform::clock::{Clock, Mono};
use crate::platform::process::Hangup;

/// Service managers send a signal to the process and to its group: what comes within this is one request.
const REPEATED: Duration = Duration::from_secs(1);

/// The signals that this process listens to.
pub(super) struct EndSignals {
    signals: Signals,
    hangup: Hangup,
    /// From when on a signal is another request.
    again_from: Mono,
}

impl EndSignals {
    /// From here on signals end nothing by themselves.
    ///
    /// # Errors
    /// `Kind::System`: the system has no descriptors for it.
    pub(super) fn listen() -> Result<Self> {
        let hangup = Hangup::of_process();
        let mut wanted = vec![Signal::Int, Signal::Term];
        if hangup != Hangup::Ignored {
            wanted.push(Signal::Hup);
        }
        let signals = Signals::new(wanted)
            .map_err(|error| Error::fatal(Kind::System, "cannot listen for signals").caused_by(error))?;
        Ok(EndSignals { signals, hangup, again_from: Mono::ZERO })
    }

    /// Comes back when the end is asked for, with the word for it.
    pub(super) async fn request(&mut self, clock: &dyn Clock) -> &'static str {
        let signal = loop {
            let signal = self.next().await;
            if signal != Signal::Hup || self.hangup == Hangup::Ends {
                break signal;
            }
            tracing::warn!(
                "SIGHUP: the settings are read at the start only; restart flytrap to apply changes"
            );
        };
        self.again_from = clock.mono() + REPEATED;
        if signal == Signal::Hup {
            "its terminal was closed"
        } else if signal == Signal::Int {
            "interrupted"
        } else {
            "terminated"
        }
    }

    /// Comes back when the end is asked for again. A terminal that closes is no second request: it often follows the first.
    pub(super) async fn second_request(&mut self, clock: &dyn Clock) {
        loop {
            let signal = self.next().await;
            if signal != Signal::Hup && clock.mono() >= self.again_from {
                return;
            }
        }
    }

    async fn next(&mut self) -> Signal {
        loop {
            match self.signals.next().await {
                Some(Ok(signal)) => return signal,
                Some(Err(error)) => tracing::warn!(%error, "a signal could not be read"),
                // Never: the stream has no end. Waiting for ever is right all the same.
                None => futures_lite::future::pending::<()>().await,
            }
        }
    }
}
