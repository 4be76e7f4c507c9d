//! `flytrap decode`: what a receiver of the forms "postcard" and "postcard2" has stored, as CloudEvents.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{Failed, print};
use crate::base::error::{Error, Kind};
use crate::delivery::uplink::Batch;
use crate::delivery::uplink::format::cloudevents;
use crate::delivery::uplink::format::packed::{self, Unpacked};

/// More than this is not read into memory at once: a day of a busy road has 5 MB.
const BYTES_MAX: u64 = 1 << 30;

/// Prints every event of every batch in `file`, or standard input. What comes before damage is printed.
pub(super) fn decode(file: Option<&Path>) -> Result<(), Failed> {
    let place = file.map_or_else(|| "standard input".to_owned(), |file| format!("'{}'", file.display()));
    let mut bytes = Vec::new();
    let read = match file {
        Some(file) => File::open(file).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes)),
        None => io::stdin().lock().take(BYTES_MAX).read_to_end(&mut bytes),
    };
    read.map_err(|error| Error::fatal(Kind::Config, format!("read {place}")).caused_by(error))?;
    let mut lines = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (batch, behind) = packed::read_batch(rest).map_err(|why| {
            let at = bytes.len() - rest.len();
            Error::fatal(Kind::Config, format!("{place}, byte {at}: {why}"))
        })?;
        let Unpacked { origin, calendar, events } = batch;
        cloudevents::write_lines(&Batch::new(&origin, calendar, &events), &mut lines);
        print(String::from_utf8_lossy(&lines).trim_end())?;
        rest = behind;
    }
    Ok(())
}
