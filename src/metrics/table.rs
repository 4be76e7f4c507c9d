//! The table of metrics: every counter and gauge once, with its name, kind, unit and meaning.
//!
//! The bodies of the events `stats` and `storage` ([`Stats`], [`Storage`]), their CloudEvents and Influx forms, the atomics that add up the
//! stages' outcomes ([`super::Metrics`]) and the simulator's report are generated from these rows. Pure: numbers and texts, no atomics, no
//! clock.
//!
//! # A new metric
//! Append a row to the end of its group; never reorder, rename or remove one: the order is the binary form of the events. `since`
//! is the version of the event record that carries the row first, so a new row usually needs a new version: see
//! [`crate::event::wire`]. Formats, sums and the snapshot then have it without another line of code. A `counted` row gets an atomic
//! in [`super::Metrics`]; the value of a `given` row is filled in by whoever makes the event.

use serde::{Deserialize, Serialize};

/// How a metric behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the program runs; starts at 0.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A gauge that does not exist yet while it is `u64::MAX`: the age of something that has not happened.
    Age,
    /// A gauge that does not exist while it is `u64::MAX`: the reading of a sensor that this device does not have.
    Reading,
    /// The count of values in each of a row's buckets, and the sum of all values. Not in an event.
    Histogram,
}

/// What a metric is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things: frames, events, failures.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Thousandths of a whole.
    Permille,
    /// Thousandths of one in a second: 6000 are 6 a second.
    Millihertz,
    /// Thousands in a second, of a clock.
    Kilohertz,
    /// Thousandths of a degree Celsius.
    Millicelsius,
}

impl Unit {
    /// The suffix of metric names with this unit; empty for things that are counted.
    pub const fn suffix(self) -> &'static str {
        match self {
            Unit::Count => "",
            Unit::Bytes => "_bytes",
            Unit::Milliseconds => "_ms",
            Unit::Microseconds => "_us",
            Unit::Permille => "_permille",
            Unit::Millihertz => "_millihertz",
            Unit::Kilohertz => "_khz",
            Unit::Millicelsius => "_millicelsius",
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, the same in every format. Ends with the unit ([`Unit::suffix`]).
    pub name: &'static str,
    /// Counter, gauge or age.
    pub kind: Kind,
    /// Unit.
    pub unit: Unit,
    /// The event that carries it, by its type without `flytrap.`; `None` for a metric that is only read on the device.
    pub event: Option<&'static str>,
    /// The first version of the event record that has it.
    pub since: u8,
    /// Meaning, in one sentence.
    pub help: &'static str,
}

impl Metric {
    /// `value` as receivers get it: `None` for an age or a reading of `u64::MAX`, which does not exist.
    pub const fn shown(&self, value: u64) -> Option<u64> {
        match self.kind {
            Kind::Age | Kind::Reading if value == u64::MAX => None,
            Kind::Age | Kind::Reading | Kind::Counter | Kind::Gauge | Kind::Histogram => Some(value),
        }
    }
}

/// Hands the rows of the `stats` event to the macro `$then`: since, source, name, kind, unit, help.
macro_rules! stats_rows {
    ($then:ident $(, $more:ident)?) => {
        $then! { $($more)?
            /// Counters since the start of the program, and gauges. All drops of all limits are here (I4).
            Stats = "stats";
            1 given uptime_ms: Gauge Milliseconds "Time since the start of the program.";
            1 counted frames_captured: Counter Count "Frames that the sources announced.";
            1 counted frames_camera_dropped: Counter Count "Frames that the camera itself dropped (gaps in its numbering).";
            1 counted frames_skipped: Counter Count "Frames not wanted at the target rate.";
            1 counted frames_ring_dropped: Counter Count "Frames that a newer one replaced before they were processed.";
            1 counted frames_corrupt: Counter Count "Frames with bytes that were not a picture.";
            1 counted frames_gated: Counter Count "Frames that the motion gate judged.";
            1 counted frames_still: Counter Count "Frames in which nothing moved and no inference was made.";
            1 counted inferences: Counter Count "Frames that the network ran on.";
            1 counted detections: Counter Count "Detections of the wanted classes.";
            1 counted candidates_dropped: Counter Count "Candidates that did not fit the decoder.";
            1 counted detections_dropped: Counter Count "Detections that did not fit a frame's list.";
            1 counted tracks: Counter Count "Tracks confirmed.";
            1 counted tracks_evicted: Counter Count "Tracks given up because the tracker was full, and detections that found no free track.";
            1 counted crossings: Counter Count "Crossings of counting lines.";
            1 counted camera_losses: Counter Count "Times that a camera was lost.";
            1 given events: Counter Count "Events made.";
            1 given events_dropped: Counter Count "Events dropped because a queue or the spool was full.";
            1 given events_delivered: Counter Count "Events that the receiver confirmed, as of this event.";
            1 given send_failures: Counter Count "Sends that failed and were tried again.";
            1 given events_refused: Counter Count "Events that the receiver refused for good.";
            1 given last_frame_age_ms: Age Milliseconds "Age of the last good frame (I7).";
            1 given last_delivery_age_ms: Age Milliseconds "Age of the last delivered batch (I7).";
            1 given rss_bytes: Gauge Bytes "Resident memory.";
            1 given processing_us: Gauge Microseconds "Mean time from ring to events of an inferred frame, since the statistics before.";
            2 counted detections_invalid: Counter Count "Detections that were no box or no score: not finite, inside out, below a pixel, far outside.";
            2 counted detections_over_limit: Counter Count "Detections beyond the most that the tracker takes from a frame.";
            2 counted detections_duplicate: Counter Count "Second boxes of one object, which did not become a track.";
            2 given processing_sum_us: Counter Microseconds "Time from ring to events of all inferred frames.";
            2 counted frames_repaired: Counter Count "JPEG frames with stray bytes that were decoded without them.";
            2 given log_lines_dropped: Counter Count "Log lines dropped because the log's reader was too slow.";
        }
    };
}
pub(crate) use stats_rows;

/// The same for the rows of the `storage` event.
macro_rules! storage_rows {
    ($then:ident) => {
        $then! {
            /// The state of the spool, and counters since the start of the program.
            Storage = "storage";
            1 given waiting: Gauge Count "Events that wait to be sent.";
            1 given disk_bytes: Gauge Bytes "Size of the spool's files.";
            1 given written_bytes: Counter Bytes "Bytes written to files.";
            1 given written_day_bytes: Gauge Bytes "Bytes written in the last 24 hours, in whole pages.";
            1 given commits: Counter Count "Commits that wrote something.";
            1 given failures: Counter Count "Commits that failed.";
            1 given dropped: Counter Count "Events dropped for lack of space.";
            1 given damaged: Counter Count "Events lost to damage on disk.";
            1 given dead: Counter Count "Dead letters: events that the receiver refused for good.";
            2 given newer: Counter Count "Events that a newer version of the program wrote to disk and this one cannot read.";
        }
    };
}

/// The same for the rows of the `camera.stats` event: what is counted, for one camera, and what only a camera has.
macro_rules! camera_rows {
    ($then:ident) => {
        stats_rows! { camera_rows, $then }
    };
    (@rows $then:ident [$($rows:tt)*]) => {
        $then! {
            /// What one camera counted since the start of the program, and its gauges.
            CameraStats = "camera.stats";
            $($rows)*
            3 given last_frame_age_ms: Age Milliseconds "Age of the last good frame (I7).";
            3 given lost: Gauge Count "1 while the camera is lost.";
            3 given rate_wanted_millihertz: Gauge Millihertz "Target frame rate in force: the configured one, lowered while the network is overloaded.";
            3 given rate_captured_millihertz: Gauge Millihertz "Frames that the source announced, since the statistics before.";
            3 given rate_processed_millihertz: Gauge Millihertz "Frames that were looked at, by the gate or the network, since the statistics before.";
            3 given rate_permille: Gauge Permille "The same as a part of the configured target rate.";
            3 given motion_permille: Gauge Permille "Share of these frames in which the gate saw motion or was held open by it; all of them without a gate.";
            3 given latency_p50_us: Gauge Microseconds "From capture to events, of frames with inference since the statistics before: the median.";
            3 given latency_p95_us: Gauge Microseconds "The same: 95 % are faster.";
            3 given latency_p99_us: Gauge Microseconds "The same: 99 % are faster.";
        }
    };
    (@rows $then:ident $made:tt $since:literal given $name:ident: $kind:ident $unit:ident $help:literal; $($rest:tt)*) => {
        camera_rows! { @rows $then $made $($rest)* }
    };
    (@rows $then:ident [$($made:tt)*] $since:literal counted $name:ident: $kind:ident $unit:ident $help:literal; $($rest:tt)*) => {
        camera_rows! { @rows $then [$($made)* 3 counted $name: $kind $unit $help;] $($rest)* }
    };
    ($then:ident $(#[$doc:meta])* $body:ident = $event:literal; $($rows:tt)*) => {
        camera_rows! { @rows $then [] $($rows)* }
    };
}

/// The same for the rows of the `machine` event.
macro_rules! machine_rows {
    ($then:ident) => {
        $then! {
            /// The load of the machine and its sensors.
            Machine = "machine";
            3 given cpu_permille: Reading Permille "CPU time of all programs, of all cores, since the statistics before.";
            3 given cpu_process_permille: Reading Permille "CPU time of this program since the statistics before, of one core: 2000 keeps two cores busy.";
            3 given rss_bytes: Gauge Bytes "Resident memory of this program.";
            3 given rss_growth_per_hour_bytes: Reading Bytes "By how much the resident memory grows in an hour, over the last hours; 0 if it shrinks.";
            3 given temperature_millicelsius: Reading Millicelsius "Temperature of the CPU.";
            3 given clock_khz: Reading Kilohertz "Clock of the CPU.";
            3 given throttle_flags: Reading Count "Flags of a Raspberry Pi, as vcgencmd get_throttled prints them.";
            3 given throttled: Reading Count "1 while the board's firmware throttles the CPU.";
            3 given under_voltage: Reading Count "1 while the board's supply voltage is too low.";
            3 given clock_synchronised: Gauge Count "1 while the calendar is synchronised or was set by a person.";
            3 given load_permille: Gauge Permille "Part of its time for which the network is busy.";
            3 given rate_factor_permille: Gauge Permille "What the load leaves of the target frame rates.";
            3 given cameras: Gauge Count "Cameras in the configuration.";
            3 given cameras_lost: Gauge Count "Cameras that are lost.";
        }
    };
}

/// An event's body and its part of the table.
macro_rules! body {
    (
        $(#[$doc:meta])*
        $body:ident = $event:literal;
        $($since:literal $source:ident $name:ident: $kind:ident $unit:ident $help:literal;)*
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub struct $body {
            $(#[doc = $help] pub $name: u64,)*
        }

        impl $body {
            /// Its rows of the table, in the order of its fields.
            pub const METRICS: &'static [Metric] = &[$(Metric {
                name: stringify!($name),
                kind: Kind::$kind,
                unit: Unit::$unit,
                event: Some($event),
                since: $since,
                help: $help,
            },)*];

            /// The values, in the order of [`Self::METRICS`].
            pub const fn values(&self) -> [u64; Self::METRICS.len()] {
                [$(self.$name,)*]
            }

            /// Every metric with its value; `None` for an age that does not exist yet.
            pub fn entries(&self) -> impl Iterator<Item = (&'static Metric, Option<u64>)> + Clone {
                Self::METRICS.iter().zip(self.values()).map(|(metric, value)| (metric, metric.shown(value)))
            }

            /// Adds the counters of `later`, another run of the program; gauges and ages become those of `later`.
            pub fn add_run(&mut self, later: &Self) {
                $(self.$name = match Kind::$kind {
                    Kind::Counter => self.$name.saturating_add(later.$name),
                    Kind::Gauge | Kind::Age | Kind::Reading | Kind::Histogram => later.$name,
                };)*
            }
        }
    };
}

stats_rows!(body);
storage_rows!(body);
camera_rows!(body);
machine_rows!(body);

/// A part of the time that a frame takes: a histogram of each camera, which only a reader on the device sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// From the ring through the gate.
    Gate,
    /// From the gate until its turn at the network.
    Wait,
    /// Decoding a JPEG, scaling.
    Prepare,
    /// The network.
    Network,
    /// Boxes, tracks, crossings.
    Track,
    /// From the ring to the events.
    Processing,
    /// From capture to the events.
    Latency,
    /// From one frame that was looked at, by the gate or the network, to the next.
    Interval,
}

impl Time {
    /// All of them, in the order of the frame's path.
    pub const ALL: [Time; 8] = [
        Time::Gate,
        Time::Wait,
        Time::Prepare,
        Time::Network,
        Time::Track,
        Time::Processing,
        Time::Latency,
        Time::Interval,
    ];

    /// Its row of the table.
    pub const fn metric(self) -> &'static Metric {
        &HISTOGRAMS[self as usize]
    }
}

/// The histograms, in the order of [`Time::ALL`]. The sum and the mean of the processing times are in [`Stats`] too.
pub const HISTOGRAMS: [Metric; Time::ALL.len()] = [
    histogram("gate_time_us", "Time of a frame in the motion gate."),
    histogram("wait_time_us", "Time from the gate until a frame's turn at the network."),
    histogram("prepare_time_us", "Time to decode and scale a frame for the network."),
    histogram("network_time_us", "Time of the network on a frame."),
    histogram("track_time_us", "Time from the network's output to the events of a frame."),
    histogram("processing_time_us", "Time from ring to events of an inferred frame."),
    histogram("latency_us", "Time from capture to events of an inferred frame."),
    histogram(
        "frame_interval_us",
        "Time between two frames that were looked at, by the gate or the network.",
    ),
];

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, unit: Unit::Microseconds, event: None, since: 2, help }
}

/// The whole table.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    let events =
        Stats::METRICS.iter().chain(Storage::METRICS).chain(CameraStats::METRICS).chain(Machine::METRICS);
    events.chain(&HISTOGRAMS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_say_their_unit() {
        let mut names = BTreeSet::new();
        for metric in all() {
            let Metric { name, unit, kind, event, help, .. } = metric;
            assert!(names.insert((event, name)), "{name} is there twice");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert!(name.ends_with(unit.suffix()), "{name} does not end with {}", unit.suffix());
            let units = ["_bytes", "_ms", "_us", "_permille", "_millihertz", "_khz", "_millicelsius"];
            let other = units.iter().find(|suffix| name.ends_with(**suffix));
            assert_eq!(other.copied().unwrap_or(""), unit.suffix(), "{name}");
            assert_eq!(*kind == Kind::Age, name.contains("_age_"), "{name}");
            assert_eq!(*kind == Kind::Histogram, event.is_none(), "{name}");
            assert!(help.ends_with('.') && help.len() > 8, "{name}: {help}");
        }
        assert_eq!(names.len(), all().count());
        // What a camera counts is what all of them count together.
        let counted = CameraStats::METRICS.iter().filter(|metric| metric.kind == Kind::Counter);
        for metric in counted {
            assert!(
                Stats::METRICS.iter().any(|row| (row.name, row.help) == (metric.name, metric.help)),
                "{}",
                metric.name
            );
        }
    }

    #[test]
    fn rows_are_appended_with_the_version_that_brings_them() {
        for rows in [Stats::METRICS, Storage::METRICS, CameraStats::METRICS, Machine::METRICS] {
            assert!(rows.is_sorted_by_key(|metric| metric.since), "a row was put between older ones");
            assert!(rows.iter().all(|metric| (1..=crate::event::RECORD_VERSION).contains(&metric.since)));
        }
    }

    #[test]
    fn runs_add_their_counters_and_keep_the_newest_gauges() {
        let mut sum = Stats { crossings: 3, uptime_ms: 9, last_frame_age_ms: 4, ..Stats::default() };
        sum.add_run(&Stats {
            crossings: 2,
            tracks: 1,
            uptime_ms: 5,
            last_frame_age_ms: u64::MAX,
            ..Stats::default()
        });
        let expected =
            Stats { crossings: 5, tracks: 1, uptime_ms: 5, last_frame_age_ms: u64::MAX, ..Stats::default() };
        assert_eq!(sum, expected);
    }

    #[test]
    fn only_ages_can_be_absent() {
        let stats = Stats { last_frame_age_ms: u64::MAX, uptime_ms: u64::MAX, ..Stats::default() };
        let absent: Vec<_> =
            stats.entries().filter(|(_, value)| value.is_none()).map(|(m, _)| m.name).collect();
        assert_eq!(absent, ["last_frame_age_ms"]);
        assert_eq!(stats.entries().count(), Stats::METRICS.len());
    }
}
