//! `flytrap top`: what a running program does, live in a terminal, or once as text.

mod page;
mod terminal;
mod view;

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use clap::Args;

use self::page::Page;
use self::terminal::Screen;
use self::view::Size;
use super::running::Running;
use super::{Failed, print};
use crate::base::error::{Error, Kind, Result};
use crate::platform::clock::{Clock as _, SystemClock};
use crate::platform::threads::spawn;
use crate::status::client::Client;

/// The screen counts seconds while there is no answer.
const TICK: Duration = Duration::from_secs(1);
/// An answer that is late by more than this counts as missing.
const LATE: Duration = Duration::from_secs(3);

/// Options of `flytrap top`.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    running: Running,
    /// Print the figures once, as plain text. Without a terminal this is what happens anyway.
    #[arg(long)]
    once: bool,
    /// Time between two looks, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// What happens while the screen is shown.
enum Event {
    /// The device answered.
    Answer(Box<Page>),
    /// It did not; why.
    Failure(String),
    /// The terminal has another size, or something else was shown on it.
    Disturbed,
    /// The user wants to end it, or the terminal is gone.
    End,
}

/// Shows a running program until a key ends it, or once.
pub(super) fn top(args: &TopArgs, json: bool) -> Result<(), Failed> {
    let client = args.running.connect()?;
    let body = fetch(&client)?;
    if json {
        let text = String::from_utf8_lossy(&body);
        return Ok(print(text.trim_end())?);
    }
    let page = parse(&client, &body)?;
    let screen = if args.once { None } else { Screen::open()? };
    match screen {
        Some(screen) => Ok(live(screen, client, page, Duration::from_secs(args.interval))?),
        None => {
            let size = Size { width: terminal::columns(), height: None };
            let lines = view::lines(&page, None, size);
            let lines: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
            Ok(print(&lines.join("\n"))?)
        }
    }
}

fn fetch(client: &Client) -> Result<Vec<u8>> {
    let reply = client.get("/status.json")?;
    if reply.status == 200 {
        Ok(reply.body)
    } else {
        Err(no_page(client, &format!("answers {}", reply.status)))
    }
}

fn parse(client: &Client, body: &[u8]) -> Result<Page> {
    Page::parse(body).ok_or_else(|| no_page(client, "answers with something else"))
}

fn no_page(client: &Client, what: &str) -> Error {
    let address = &client.address;
    let text = format!("{address} {what} instead of a page of flytrap: check the address");
    Error::fatal(Kind::System, text)
}

fn live(mut screen: Screen, client: Client, mut page: Page, interval: Duration) -> Result<()> {
    let (sender, events) = mpsc::channel();
    screen.listen(&sender)?;
    let _ends_with_the_process = spawn("top", move || look(&client, interval, &sender))?;
    let mut answered = SystemClock.mono();
    let mut failure: Option<String> = None;
    let mut is_disturbed = true;
    loop {
        let quiet = SystemClock.mono().since(answered);
        let silence = silence(quiet, quiet > interval + LATE, failure.as_deref());
        let (width, height) = screen.size();
        let lines = view::lines(&page, silence.as_deref(), Size { width, height: Some(height) });
        screen.draw(&lines, is_disturbed)?;
        is_disturbed = false;
        match events.recv_timeout(TICK) {
            Ok(Event::Answer(new)) => {
                page = *new;
                (answered, failure) = (SystemClock.mono(), None);
            }
            Ok(Event::Failure(why)) => failure = Some(why),
            Ok(Event::Disturbed) => is_disturbed = true,
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// What the head says while there is no answer.
fn silence(quiet: Duration, is_late: bool, failure: Option<&str>) -> Option<String> {
    let text = format!("no answer for {} s: retrying", quiet.as_secs());
    match failure {
        Some(why) => Some(format!("{text} ({why})")),
        None => is_late.then_some(text),
    }
}

/// Asks again and again, in a thread of its own, so that keys work while the device does not answer.
fn look(client: &Client, interval: Duration, events: &Sender<Event>) {
    loop {
        std::thread::park_timeout(interval);
        let answer = fetch(client).and_then(|body| parse(client, &body));
        let event = match answer {
            Ok(page) => Event::Answer(Box::new(page)),
            Err(error) => Event::Failure(error.to_string()),
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_says_for_how_long_there_was_no_answer_and_why() {
        let quiet = Duration::from_millis(12_900);
        assert_eq!(silence(quiet, false, None), None);
        assert_eq!(silence(quiet, true, None).unwrap(), "no answer for 12 s: retrying");
        let why = Some("nothing listens at x");
        assert_eq!(
            silence(quiet, false, why).unwrap(),
            "no answer for 12 s: retrying (nothing listens at x)"
        );
    }
}
