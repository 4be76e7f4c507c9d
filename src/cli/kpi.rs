//! `flytrap kpi`: whether a running device reaches its targets.

use clap::Args;

use super::running::{Running, object};
use super::{Failed, print, print_json, say};
use crate::metrics::kpi::{Row, passed, table};

/// Arguments of `flytrap kpi`.
#[derive(Debug, Args)]
pub(super) struct KpiArgs {
    #[command(flatten)]
    running: Running,
}

/// Asks a running program for its table, and shows it.
pub(super) fn kpi(args: &KpiArgs, json: bool) -> Result<(), Failed> {
    let client = args.running.connect()?;
    let rows: Vec<Row> = object(&client, &client.get("/kpi.json")?)?;
    show(&rows, json)?;
    if passed(&rows) { Ok(()) } else { Err(Failed::Targets) }
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
