//! `flytrap kpi`: whether a running device reaches its targets.

use clap::Args;

use super::running::{Running, object};
use super::{Failed, print, print_json, say};
use crate::base::error::{Error, Kind};
use crate::base::text::printable;
use crate::metrics::kpi::{FRAME_RATE, Row, Verdict, passed, table};

/// Arguments of `flytrap kpi`.
#[derive(Debug, Args)]
pub(super) struct KpiArgs {
    #[command(flatten)]
    running: Running,
}

/// Asks a running program for its table, and shows it.
pub(super) fn kpi(args: &KpiArgs, json: bool) -> Result<(), Failed> {
    let client = args.running.connect()?;
    let mut rows: Vec<Row> = object(&client, &client.get("/kpi.json")?)?;
    // What comes back may be from anybody (I8).
    rows.truncate(ROWS_MAX);
    rows.iter_mut().for_each(clean);
    show(&rows, json)?;
    if is_starting(&rows) {
        let text = "the program is still starting, no frame rate is measured yet: try again in some seconds";
        return Err(Error::retry(Kind::System, text).into());
    }
    if passed(&rows) { Ok(()) } else { Err(Failed::Targets) }
}

/// Most rows that are shown: more than twice those of a device with eight cameras.
const ROWS_MAX: usize = 50;
/// Longest text of a row, characters.
const TEXT_MAX: usize = 200;

/// Leaves nothing in the texts of a row that a terminal acts on, and little that fills it.
fn clean(row: &mut Row) {
    let Row { kpi, camera, unit, note, limit: _, measured: _, result: _ } = row;
    for text in [Some(kpi), camera.as_mut(), Some(unit), note.as_mut()].into_iter().flatten() {
        *text = printable(text).chars().take(TEXT_MAX).collect();
    }
}

fn is_starting(rows: &[Row]) -> bool {
    let mut rates = rows.iter().filter(|row| row.kpi == FRAME_RATE);
    rates.all(|row| row.result == Verdict::NotMeasured)
}

/// Shows a table as the result of a command.
fn show(rows: &[Row], json: bool) -> Result<(), Failed> {
    if json { print_json(&rows) } else { Ok(print(table(rows).trim_end())?) }
}

/// Shows the table of a run that is over: on stderr, because stdout may have its events.
pub(super) fn say_at_the_end(rows: &[Row], json: bool) {
    if json {
        // It is made of texts and numbers.
        let line = serde_json::json!({ "kpi": rows }).to_string();
        super::write_log(&format!("{line}\n"));
    } else {
        for line in table(rows).lines() {
            say("run", &line);
        }
    }
}
