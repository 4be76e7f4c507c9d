//! Signals: SIGINT, SIGTERM and a closed terminal request shutdown; a second request exits immediately.

use std::time::Duration;

use async_signal::{Signal, Signals};
use futures_lite::StreamExt;

use crate::base::error::{Error, Kind, Result};
use crate::platform::clock::{Clock, Mono};
use crate::platform::process::Hangup;

/// Service managers send a signal to the process and to its group: signals within this time are one request.
const REPEATED: Duration = Duration::from_secs(1);

/// The signals that this process handles.
pub(super) struct EndSignals {
    signals: Signals,
    hangup: Hangup,
    /// From when on a further signal counts as a second request.
    again_from: Option<Mono>,
}

impl EndSignals {
    /// Installs the handlers: from here on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// `Kind::System`: the system has no descriptors left.
    pub(super) fn listen() -> Result<Self> {
        let hangup = Hangup::of_process();
        let mut wanted = vec![Signal::Int, Signal::Term];
        if hangup != Hangup::Ignored {
            wanted.push(Signal::Hup);
        }
        let signals = Signals::new(wanted)
            .map_err(|error| Error::fatal(Kind::System, "cannot listen for signals").caused_by(error))?;
        Ok(EndSignals { signals, hangup, again_from: None })
    }

    /// Returns when shutdown is requested, with the name of the signal.
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
        self.again_from = Some(clock.mono() + REPEATED);
        if signal == Signal::Hup {
            "its terminal was closed"
        } else if signal == Signal::Int {
            "interrupted"
        } else {
            "terminated"
        }
    }

    /// Returns when shutdown is requested again, or twice if it began without a request. A closed terminal is not a second request: it
    /// often follows the first.
    pub(super) async fn second_request(&mut self, clock: &dyn Clock) {
        if self.again_from.is_none() {
            let name = self.request(clock).await;
            tracing::info!("{name}: already shutting down; repeat it to exit immediately");
        }
        loop {
            let signal = self.next().await;
            if signal != Signal::Hup && self.again_from.is_some_and(|from| clock.mono() >= from) {
                return;
            }
        }
    }

    async fn next(&mut self) -> Signal {
        loop {
            match self.signals.next().await {
                Some(Ok(signal)) => return signal,
                Some(Err(error)) => tracing::warn!(%error, "a signal could not be read"),
                // Never happens: the stream has no end. Waiting for ever is correct anyway.
                None => futures_lite::future::pending::<()>().await,
            }
        }
    }
}
