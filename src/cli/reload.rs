//! `flytrap reload`: has a running program read its configuration again, and says what became of it.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::running::{Running, object};
use super::{Failed, print, print_json, say};
use crate::base::error::{Class, Error, Kind, Result};
use crate::base::text::printable;
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
    run: u64,
}

/// What became of the last reload.
#[derive(Deserialize, Serialize)]
struct Outcome {
    number: u64,
    run: u64,
    applied: bool,
    text: String,
    pending: Vec<String>,
}

/// Asks for a reload, and waits for its result.
pub(super) fn reload(args: &ReloadArgs, json: bool) -> Result<(), Failed> {
    let client = args.running.connect()?;
    let Requested { number, run } = object(&client, &client.post("/reload")?)?;
    let deadline = SystemClock.mono() + PATIENCE;
    let outcome = loop {
        let answer = client.get("/reload").and_then(|reply| object::<Outcome>(&client, &reply));
        let is_late = SystemClock.mono() > deadline;
        match answer {
            Ok(outcome) if outcome.number > 0 && outcome.run != run => {
                let text = "the program was restarted meanwhile, with the configuration as it is now";
                return Err(Error::fatal(Kind::System, text).into());
            }
            Ok(outcome) if outcome.number >= number => break outcome,
            // A busy device may not answer every time.
            Err(error) if is_late || error.class() != Class::Retry => return Err(error.into()),
            Ok(_) if is_late => {
                let text =
                    "the program has not read its configuration within 60 s: its log says what it does";
                return Err(Error::fatal(Kind::System, text).into());
            }
            Ok(_) | Err(_) => {}
        }
        std::thread::park_timeout(PAUSE);
    };
    if json && outcome.applied {
        return print_json(&outcome);
    }
    let Outcome { applied, text, pending, .. } = outcome;
    let text = printable(&text);
    if !applied {
        return Err(Error::fatal(Kind::Config, text).into());
    }
    print(&text)?;
    if !pending.is_empty() {
        let pending = printable(&pending.join(", "));
        say("reload", &format!("these settings take effect at the next start: {pending}"));
    }
    Ok(())
}
