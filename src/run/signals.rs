//! Signals: SIGINT, SIGTERM and a closed terminal request shutdown; a second request exits immediately. SIGHUP without a terminal asks for
//! the configuration to be read again.

use std::time::Duration;

use async_signal::{Signal, Signals};
use futures_lite::StreamExt;

use crate::base::error::{Error, Kind, Result};
use crate::platform::clock::{Clock, Mono};
use crate::platform::process::Hangup;

/// Service managers send a signal to the process and to its group: signals within this time are one request.
const REPEATED: Duration = Duration::from_secs(1);

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// To shut down, by a signal of this name.
    End(&'static str),
    /// To read the configuration again.
    Reload,
}

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

    /// Returns when something is requested.
    pub(super) async fn request(&mut self, clock: &dyn Clock) -> Asked {
        let signal = self.next().await;
        let name = if signal == Signal::Hup {
            if self.hangup != Hangup::Ends {
                return Asked::Reload;
            }
            "its terminal was closed"
        } else if signal == Signal::Int {
            "interrupted"
        } else {
            "terminated"
        };
        self.again_from = Some(clock.mono() + REPEATED);
        Asked::End(name)
    }

    /// Returns when shutdown is requested again, or twice if it began without a request. A closed terminal is not a second request: it
    /// often follows the first.
    pub(super) async fn second_request(&mut self, clock: &dyn Clock) {
        if self.again_from.is_none() {
            let name = loop {
                match self.request(clock).await {
                    Asked::End(name) => break name,
                    Asked::Reload => tracing::warn!("SIGHUP: already shutting down; nothing is read again"),
                }
            };
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
