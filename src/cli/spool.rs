//! `flytrap spool`: lists a spool's segments, prints its events, checks it for damage. Read-only, also while flytrap runs.

use std::path::Path;

use serde_json::json;

use super::{Failed, print};
use crate::base::error::{Error, Kind, Result};
use crate::delivery::spool::disk::Folder;
use crate::delivery::spool::inspect::{Inspected, acked, inspect};
use crate::delivery::spool::record::{Position, Record};
use crate::delivery::spool::segment::Named;
use crate::delivery::uplink::Batch;
use crate::delivery::uplink::format::cloudevents;
use crate::event::{Event, Origin, RecordError};
use crate::platform::clock::{ClockSyncSample, Rfc3339};

fn open(folder: &Path) -> Result<Folder> {
    Folder::inspect(folder).map_err(|error| failed(folder, error))
}

fn failed(folder: &Path, error: std::io::Error) -> Error {
    let text = format!("'{}' cannot be read: give the folder that spool.folder names", folder.display());
    Error::fatal(Kind::Config, text).caused_by(error)
}

/// One line per segment.
pub(super) fn ls(folder: &Path, json: bool) -> Result<(), Failed> {
    let all = inspect(&mut open(folder)?, |_, _, _, _| {}).map_err(|error| failed(folder, error))?;
    if all.is_empty() && !json {
        print("no segments: nothing waits")?;
    }
    for segment in &all {
        if json {
            print(&as_json(&all, segment).to_string())?;
        } else {
            print(&as_text(&all, segment))?;
        }
    }
    Ok(())
}

/// Events of a segment that are not delivered yet.
fn waiting(all: &[Inspected], segment: &Inspected) -> u32 {
    let events = segment.scan.sums.events;
    let Named::Segment(class, id) = segment.named else { return 0 };
    match acked(all, class) {
        Some(acked) if id < acked.position.segment => 0,
        Some(acked) if id == acked.position.segment => events.saturating_sub(acked.events),
        Some(_) | None => events,
    }
}

fn state(segment: &Inspected) -> &'static str {
    match (segment.named, segment.is_whole(), segment.closed) {
        (Named::Damaged(..), ..) => "set aside",
        (_, false, _) => "damaged",
        (_, true, true) => "sealed",
        (_, true, false) => "open",
    }
}

fn as_text(all: &[Inspected], segment: &Inspected) -> String {
    let whose = segment.header.as_ref().map_or("?", |header| header.origin.boot.as_str());
    let clock = segment.scan.sums.clock.filter(|clock| clock.wall.plausible());
    let written =
        clock.map_or_else(|| "no calendar".to_owned(), |clock| Rfc3339(clock.wall.unix_nanos).to_string());
    let (events, wait) = (segment.scan.sums.events, waiting(all, segment));
    format!(
        "{:<32} {:<10} {events:>8} events {wait:>8} waiting {:>9} bytes  run {whose}  {written}",
        segment.named.file(),
        state(segment),
        segment.bytes
    )
}

fn as_json(all: &[Inspected], segment: &Inspected) -> serde_json::Value {
    json!({
        "file": segment.named.file(),
        "state": state(segment),
        "events": segment.scan.sums.events,
        "waiting": waiting(all, segment),
        "bytes": segment.bytes,
        "used_bytes": segment.scan.sums.used,
        "damaged_bytes": segment.scan.damaged_bytes,
        "device": segment.header.as_ref().map(|header| header.origin.device.as_str()),
        "run": segment.header.as_ref().map(|header| header.origin.boot.as_str()),
    })
}

/// The first event that a newer version of the program wrote.
#[derive(Default)]
struct Newer(Option<Error>);

impl Newer {
    fn note(&mut self, folder: &Path, named: Named, position: Position, version: u8) {
        self.0.get_or_insert_with(|| {
            let path = folder.join(named.file());
            let why = RecordError::Version(version);
            Error::fatal(Kind::Config, format!("'{}', byte {}: {why}", path.display(), position.offset))
        });
    }
}

/// The events as NDJSON, class by class within a segment; with `dead` the dead letters instead.
pub(super) fn cat(folder: &Path, dead: bool) -> Result<(), Failed> {
    let mut disk = open(folder)?;
    let (mut trouble, mut newer) = (None, Newer::default());
    let mut line = Vec::new();
    let mut show = |origin: &Origin, clock: ClockSyncSample, event: &Event| {
        cloudevents::write_lines(&Batch::new(origin, clock, std::slice::from_ref(event)), &mut line);
        if trouble.is_none() {
            trouble = print(String::from_utf8_lossy(&line).trim_end()).err();
        }
    };
    // Two passes: one for the calendars, which come after the events that they apply to, one for the events.
    let all = inspect(&mut disk, |_, _, _, _| {}).map_err(|error| failed(folder, error))?;
    let calendar = |origin: &Origin| {
        let same =
            all.iter().filter(|segment| segment.header.as_ref().is_some_and(|h| h.origin.same_boot(origin)));
        let clocks = same.filter_map(|segment| segment.scan.sums.clock);
        clocks.max_by_key(|clock| (clock.wall.synchronised, clock.mono)).unwrap_or(ClockSyncSample::UNKNOWN)
    };
    inspect(&mut disk, |header, named, position, record| match (record, header) {
        (Record::Event(event), Some(header)) if !dead => {
            show(&header.origin, calendar(&header.origin), event);
        }
        (Record::Dead(letter), _) if dead => show(&letter.origin, letter.clock, &letter.event),
        (Record::Newer(version), _) => newer.note(folder, named, position, *version),
        _ => {}
    })
    .map_err(|error| failed(folder, error))?;
    trouble.map_or(Ok(()), Err)?;
    Ok(newer.0.map_or(Ok(()), Err)?)
}

/// Reads everything, and reports damage.
pub(super) fn check(folder: &Path) -> Result<(), Failed> {
    let mut newer = Newer::default();
    let all = inspect(&mut open(folder)?, |_, named, position, record| {
        if let Record::Newer(version) = record {
            newer.note(folder, named, position, *version);
        }
    })
    .map_err(|error| failed(folder, error))?;
    let mut bad = 0;
    for segment in all.iter().filter(|segment| !segment.is_whole()) {
        let Inspected { named, header, scan, promised, cut_bytes, .. } = segment;
        let missing = match promised {
            Some(promised) => promised.saturating_sub(scan.sums.events).to_string(),
            None if header.is_none() || *cut_bytes > 0 => "an unknown number".to_owned(),
            None => "0".to_owned(),
        };
        print(&format!(
            "{}: {}: {} events can be read, {missing} are missing, {} bytes are not records, {cut_bytes} bytes were cut off",
            named.file(),
            state(segment),
            scan.sums.events,
            scan.damaged_bytes
        ))?;
        bad += 1;
    }
    let events: u64 = all.iter().map(|segment| u64::from(segment.scan.sums.events)).sum();
    let waits: u64 = all.iter().map(|segment| u64::from(waiting(&all, segment))).sum();
    print(&format!("{} segments, {events} events, {waits} waiting, {bad} segments with damage", all.len()))?;
    if bad == 0 {
        return Ok(newer.0.map_or(Ok(()), Err)?);
    }
    let text =
        format!("'{}': {bad} segments with damage, see above: the others are delivered", folder.display());
    Err(Error::fatal(Kind::System, text).into())
}
