//! `flytrap reload`: has a running program read its configuration again, and says what became of it.

use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::running::{Running, object};
use super::{Failed, print, say};
use crate::base::error::{Error, Kind, Result};
use crate::platform::clock::{Clock, SystemClock};

/// Arguments of `flytrap reload`.
#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    running: Running,
}

/// How long a program may take to read its configuration.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// The reply to the request.
#[derive(Deserialize)]
struct Requested {
    number: u64,
}

/// What became of the last reload.
#[derive(Deserialize)]
struct Outcome {
    number: u64,
    applied: bool,
    text: String,
    pending: Vec<String>,
}

/// Asks for a reload, and waits for its result.
pub(super) fn reload(args: &ReloadArgs) -> Result<(), Failed> {
    let client = args.running.connect()?;
    let Requested { number } = object(&client, &client.post("/reload")?)?;
    let deadline = SystemClock.mono() + PATIENCE;
    let outcome = loop {
        let outcome: Outcome = object(&client, &client.get("/reload")?)?;
        if outcome.number >= number {
            break outcome;
        }
        if SystemClock.mono() > deadline {
            let text = "the program has not read its configuration within 60 s: its log says what it does";
            return Err(Error::fatal(Kind::System, text).into());
        }
        std::thread::sleep(PAUSE);
    };
    let Outcome { applied, text, pending, .. } = outcome;
    if !applied {
        return Err(Error::fatal(Kind::Config, text).into());
    }
    print(&text)?;
    if !pending.is_empty() {
        say("reload", &format!("these settings take effect at the next start: {}", pending.join(", ")));
    }
    Ok(())
}
