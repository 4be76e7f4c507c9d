//! The results, and whether the guarantees held.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::SECOND;
use super::device::{Death, Device, Failing, Posted, Remains, Sizes};
use super::server::Server;
use crate::event::{Direction, Stats};
use crate::metrics::table::Kind;

/// Longest time that an event may be uncommitted when a run ends: `spool.commit_interval_s` plus the polling interval, nanoseconds.
const COMMIT: u64 = 7 * SECOND;
/// The same for events that can wait: `spool.checkpoint_interval_s`.
const CHECKPOINT: u64 = 305 * SECOND;

/// The key under which a crossing is counted, in the truth and at the receiver.
pub(super) fn counted_as(line: &str, direction: Direction, class: &str) -> String {
    let way = if direction == Direction::Forward { "forward" } else { "backward" };
    format!("{line} {way} {class}")
}

/// A counter of the device that has its own row in the report.
struct Counted {
    /// Label in the text table.
    label: &'static str,
    /// Key in JSON.
    key: &'static str,
    value: fn(&Stats) -> u64,
}

/// Outcomes of frames.
const FRAMES: &[Counted] = &[
    Counted { label: "frames", key: "frames", value: |stats| stats.frames_captured },
    Counted {
        label: "  not wanted at the target rate",
        key: "frames_skipped",
        value: |stats| stats.frames_skipped,
    },
    Counted { label: "  nothing moved", key: "still", value: |stats| stats.frames_still },
    Counted { label: "  looked at", key: "inferences", value: |stats| stats.inferences },
    Counted { label: "  replaced in the ring", key: "ring_drops", value: |stats| stats.frames_ring_dropped },
    Counted { label: "  corrupt", key: "corrupt", value: |stats| stats.frames_corrupt },
];

/// Detections and tracks in them.
const FOUND: &[Counted] = &[
    Counted { label: "detections", key: "detections", value: |stats| stats.detections },
    Counted { label: "tracks", key: "tracks", value: |stats| stats.tracks },
];

/// The rows of [`FRAMES`] and [`FOUND`] and `acknowledged`, and below `device` every counter that the device has.
fn serialize_counters<S: Serializer>(stats: &Stats, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for Counted { key, value, .. } in FRAMES.iter().chain(FOUND) {
        map.serialize_entry(key, &value(stats))?;
    }
    map.serialize_entry("acknowledged", &stats.events_delivered)?;
    let counters = stats.entries().filter(|(metric, _)| metric.kind == Kind::Counter);
    let device: BTreeMap<&str, Option<u64>> = counters.map(|(metric, value)| (metric.name, value)).collect();
    map.serialize_entry("device", &device)?;
    map.end()
}

/// The table at the end of a simulation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The duration.
    pub hours: f64,
    /// Faults and their numbers.
    pub faults: BTreeMap<&'static str, u64>,
    /// Starts of the program.
    pub boots: u64,
    /// How often the battery was flat.
    pub flat_battery: u64,
    /// The device's own counters, summed over its runs. In JSON those with their own row keep their names, and all of them are below
    /// `device`.
    #[serde(flatten, serialize_with = "serialize_counters")]
    pub counters: Stats,
    /// Frames that the camera lost before it could announce them.
    pub camera_drops: u64,
    /// Crossings by line, direction and class in the simulated world.
    pub truth: BTreeMap<String, u64>,
    /// The same as received.
    pub counted: BTreeMap<String, u64>,
    /// Of the truth: while the device was off or had no camera.
    pub unwatched: u64,
    /// Not in the truth: crossings by road users that are too small or hidden.
    pub unseen: u64,
    /// Events that were posted.
    pub made: u64,
    /// Events that reached a spool, in memory or on disk.
    pub spooled: u64,
    /// Events that the receiver confirmed, by its own count. Must equal [`Stats::events_delivered`].
    pub confirmed: u64,
    /// Events that the receiver has, each identity once.
    pub received: u64,
    /// Repeats of an identity, which it recognises.
    pub repeats: u64,
    /// Events that arrived under the identity of another event, or under an unknown one: repeats that could not be recognised. Must be 0.
    pub unseen_repeats: u64,
    /// Events that the receiver refused permanently and does not have: they are dead letters.
    pub refused: u64,
    /// Dropped for lack of space, and counted.
    pub dropped: u64,
    /// Lost to damage on the disk, and counted.
    pub damaged: u64,
    /// Events that were reported dropped or damaged and were also cut off, or arrived anyway. This many losses could be hidden among them.
    pub losses_overreported: u64,
    /// Reads, writes and syncs that the disk refused.
    pub disk_errors: u64,
    /// Not yet on disk when the power was cut or the program crashed.
    pub cut: u64,
    /// None of the above. Must be 0.
    pub lost: u64,
    /// Wrong stamps that were marked synchronised. Must be 0.
    pub stamped_wrong: u64,
    /// Requests to the receiver.
    pub requests: u64,
    /// Bytes that the disk wrote, in whole pages.
    pub written_bytes: u64,
    /// Largest number of events and frames waiting in memory.
    pub waiting_max: u64,
    /// Largest size of the spool, bytes.
    pub disk_max_bytes: u64,
    /// Energy used by the board, Wh.
    pub energy_wh: f64,
    /// Hottest CPU, °C.
    pub hottest_c: f32,
    /// Seconds of thermal throttling.
    pub throttled_s: u64,
    #[serde(skip)]
    pub(super) last_death: Option<Death>,
    #[serde(skip)]
    runs: Vec<Run>,
    /// Dead letters that the device has counted.
    #[serde(skip)]
    reported_refused: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Run {
    name: String,
    posted: Vec<Posted>,
    ended: u64,
    failing_since: Failing,
    how: Death,
}

impl Run {
    /// Whether an event may still have been uncommitted when the run ended.
    fn may_have_cut(&self, posted: &Posted) -> bool {
        let safe = posted.at + if posted.can_wait { CHECKPOINT } else { COMMIT };
        let fails = self.failing_since[posted.class as usize].is_some_and(|since| safe >= since);
        self.how != Death::Orderly && (fails || safe >= self.ended)
    }
}

impl Report {
    pub(super) fn new(seed: u64, hours: f64) -> Self {
        Report {
            seed,
            hours,
            faults: BTreeMap::new(),
            boots: 0,
            flat_battery: 0,
            counters: Stats::default(),
            camera_drops: 0,
            truth: BTreeMap::new(),
            counted: BTreeMap::new(),
            unwatched: 0,
            unseen: 0,
            made: 0,
            spooled: 0,
            confirmed: 0,
            received: 0,
            repeats: 0,
            unseen_repeats: 0,
            refused: 0,
            dropped: 0,
            damaged: 0,
            losses_overreported: 0,
            disk_errors: 0,
            cut: 0,
            lost: 0,
            stamped_wrong: 0,
            requests: 0,
            written_bytes: 0,
            waiting_max: 0,
            disk_max_bytes: 0,
            energy_wh: 0.0,
            hottest_c: 0.0,
            throttled_s: 0,
            last_death: None,
            runs: Vec::new(),
            reported_refused: 0,
        }
    }

    /// Adds the current resource usage.
    pub(super) fn note_device(&mut self, device: &Device) {
        let Sizes { waiting_max, disk_bytes } = device.sizes();
        self.waiting_max = self.waiting_max.max(waiting_max as u64);
        self.disk_max_bytes = self.disk_max_bytes.max(disk_bytes);
    }

    pub(super) fn note_death(&mut self, remains: Remains, how: Death) {
        let Remains { run, posted, ended, failing_since, stats, .. } = remains;
        self.last_death = Some(how);
        self.counters.add_run(&stats);
        self.made += posted.len() as u64;
        self.spooled += remains.spooled;
        self.dropped += remains.dropped;
        self.reported_refused += remains.refused;
        self.damaged += remains.damaged;
        self.written_bytes += remains.written_bytes;
        self.runs.push(Run { name: run, posted, ended, failing_since, how });
    }

    /// Determines what happened to every event that the receiver does not have, and whether it has any that were never posted.
    pub(super) fn settle(&mut self, server: &Server) {
        let mut missing = 0;
        let (mut came, refused) = (server.came(), server.refused());
        for run in std::mem::take(&mut self.runs) {
            let mut came = came.remove(&run.name).unwrap_or_default();
            let was_refused = |seq| refused.get(&run.name).is_some_and(|numbers| numbers.contains(&seq));
            for (seq, posted) in run.posted.iter().enumerate() {
                match came.remove(&(seq as u64)) {
                    Some((_, print)) => self.unseen_repeats += u64::from(print != posted.print),
                    None if run.may_have_cut(posted) => self.cut += 1,
                    None if was_refused(seq as u64) => self.refused += 1,
                    None => missing += 1,
                }
            }
            self.unseen_repeats += came.len() as u64;
        }
        self.unseen_repeats += came.values().map(|run| run.len() as u64).sum::<u64>();
        // Only the number of dropped or damaged events is known, not which ones. Some of them were cut off too, or arrived after all.
        let reported = self.dropped + self.damaged;
        self.lost =
            u64::saturating_sub(missing, reported) + self.refused.saturating_sub(self.reported_refused);
        self.losses_overreported = u64::saturating_sub(reported, missing);
    }

    /// Checks the guarantees: nothing lost, no undetected duplicates, no wrong stamp that was trusted.
    ///
    /// # Errors
    /// The violations, as text.
    pub fn verdict(&self) -> Result<(), String> {
        let mut wrong = Vec::new();
        let apart = self.counters.events_delivered.abs_diff(self.confirmed);
        for (count, what) in [
            (apart, "events more or less were acknowledged than the receiver confirmed"),
            (self.lost, "events were lost"),
            (self.unseen_repeats, "events came under an identity that is not theirs"),
            (self.stamped_wrong, "events have a wrong time that was trusted"),
        ] {
            if count > 0 {
                wrong.push(format!("{count} {what}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("seed {}: {}", self.seed, wrong.join(", "))) }
    }

    /// The text table.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _fits = writeln!(out, "{name:<44} {value:>12}");
        };
        row("seed", self.seed.to_string());
        row("hours", format!("{}", self.hours));
        for (name, count) in &self.faults {
            row(&format!("fault: {name}"), count.to_string());
        }
        for (name, value) in [("program starts", self.boots), ("flat battery", self.flat_battery)] {
            row(name, value.to_string());
        }
        for Counted { label, value, .. } in FRAMES {
            row(label, value(&self.counters).to_string());
        }
        row("frames dropped by the camera", self.camera_drops.to_string());
        for Counted { label, value, .. } in FOUND {
            row(label, value(&self.counters).to_string());
        }
        let names: std::collections::BTreeSet<&String> =
            self.truth.keys().chain(self.counted.keys()).collect();
        for name in names {
            let of = |counts: &BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
            row(
                &format!("crossings: {name}, counted / true"),
                format!("{} / {}", of(&self.counted), of(&self.truth)),
            );
        }
        let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
        row("crossings, counted / true", format!("{} / {}", sum(&self.counted), sum(&self.truth)));
        for (name, value) in [
            ("  true crossings while nothing watched", self.unwatched),
            ("  not in the truth: too small or hidden", self.unseen),
            ("events posted", self.made),
            ("  spooled", self.spooled),
            ("  acknowledged", self.counters.events_delivered),
            ("  received", self.received),
            ("  not yet on disk at a power cut or crash", self.cut),
            ("  refused permanently, counted", self.refused),
            ("  dropped, counted", self.dropped),
            ("  damaged, counted", self.damaged),
            ("  of these cut off too, or received anyway", self.losses_overreported),
            ("  LOST", self.lost),
            ("  repeats detected by the receiver", self.repeats),
            ("  UNDETECTED REPEATS", self.unseen_repeats),
            ("  WRONG TIMES MARKED SYNCHRONISED", self.stamped_wrong),
            ("requests", self.requests),
            ("disk errors", self.disk_errors),
            ("bytes written", self.written_bytes),
            ("most events and frames waiting in memory", self.waiting_max),
            ("largest spool, bytes", self.disk_max_bytes),
        ] {
            row(name, value.to_string());
        }
        row("energy, Wh", format!("{:.1}", self.energy_wh));
        row("hottest CPU, °C", format!("{:.1}", self.hottest_c));
        row("thermal throttling, s", self.throttled_s.to_string());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_counters_keep_their_names_in_json_and_new_ones_appear_automatically() {
        let mut report = Report::new(1, 2.0);
        for _run in 0..2 {
            report.counters.add_run(&Stats {
                frames_captured: 1,
                frames_skipped: 2,
                frames_still: 3,
                inferences: 4,
                frames_ring_dropped: 5,
                frames_corrupt: 6,
                detections: 7,
                tracks: 8,
                events_delivered: 9,
                detections_duplicate: 10,
                uptime_ms: 11,
                ..Stats::default()
            });
        }
        let json = serde_json::to_value(&report).unwrap();
        for (key, value) in [
            ("frames", 2),
            ("frames_skipped", 4),
            ("still", 6),
            ("inferences", 8),
            ("ring_drops", 10),
            ("corrupt", 12),
            ("detections", 14),
            ("tracks", 16),
            ("acknowledged", 18),
            ("camera_drops", 0),
        ] {
            assert_eq!(json[key], value, "{key}");
        }
        assert_eq!(json["device"]["detections_duplicate"], 20);
        assert_eq!(json["device"].get("uptime_ms"), None, "gauges of several runs have no sum");
    }
}
