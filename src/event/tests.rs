//! Sample events, which the tests of all formats share, and the tests of identities and texts.

use super::*;
use crate::base::geometry::PointPx;
use crate::base::limits::NAME_BYTES_MAX;
use crate::platform::clock::Mono;
use proptest::prelude::*;

/// One event of every kind, as version 1 of the record had them: younger fields at their default.
pub(crate) fn samples() -> Vec<Event> {
    let stats = Stats {
        uptime_ms: 60_000,
        frames_captured: 1800,
        rss_bytes: 48 << 20,
        last_delivery_age_ms: u64::MAX,
        ..Stats::default()
    };
    let bodies = [
        Body::Started(Started { version: fixed("0.1.0"), model: fixed("71283f2cb4b8") }),
        Body::Stopping { reason: fixed("end of the recording") },
        Body::TrackBegin(TrackBegin {
            track: 7,
            class: fixed("car"),
            score: 0.75,
            bbox: [10.0, 20.5, 110.0, 90.0],
        }),
        Body::TrackEnd(TrackEnd {
            track: 7,
            class: fixed("car"),
            frames: 31,
            seen_ms: 5000,
            from: PointPx { x: 60.0, y: 90.0 },
            to: PointPx { x: 600.0, y: 95.5 },
            reason: EndReason::Lost,
        }),
        Body::Crossing(Crossing {
            track: 7,
            class: fixed("car"),
            line: fixed("middle"),
            direction: Direction::Backward,
            direction_name: fixed("left-to-right"),
            point: PointPx { x: 322.25, y: 92.0 },
            score: 0.625,
        }),
        Body::Stats(stats),
        Body::CameraLost { reason: fixed("no frame for 5 s") },
        Body::CameraBack { absent_ms: 7250, width: 1280, height: 720 },
        Body::Restarted(Restarted {
            starts: 300,
            failures: 2,
            clean: false,
            reason: fixed("the pipeline hangs"),
        }),
        Body::Degraded { reason: fixed("gpio: pin 17 cannot be used") },
        Body::Dropped(Dropped {
            class: fixed("details"),
            reason: fixed("quota"),
            events: 12_000,
            total: 24_000,
        }),
        Body::Storage(Storage { waiting: 3, disk_bytes: 3 << 20, written_bytes: 700, ..Storage::default() }),
    ];
    let made = bodies.into_iter().enumerate().map(|(i, body)| Event {
        seq: i as u64,
        at: Mono::from_nanos(12_345_678_901 + i as u64),
        camera: fixed("north"),
        body,
    });
    made.collect()
}

/// The same events with the fields that version 2 added.
pub(crate) fn samples_v2() -> Vec<Event> {
    let mut events = samples();
    for event in &mut events {
        if let Body::Stats(stats) = &mut event.body {
            stats.detections_invalid = 5;
            stats.detections_over_limit = 300;
            stats.detections_duplicate = 70_000;
            stats.frames_repaired = 9;
            stats.log_lines_dropped = 300;
            stats.processing_sum_us = 12_345_678_901;
        } else if let Body::Storage(storage) = &mut event.body {
            storage.newer = 4;
        }
    }
    assert_ne!(events, samples());
    events
}

/// The text of a golden file of tests/data. It is never overwritten; `FLYTRAP_RECORD=1` writes one that is not there yet.
pub(crate) fn golden(name: &str, ours: &str) -> String {
    let place = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("FLYTRAP_RECORD").is_some() && !std::path::Path::new(&place).exists() {
        std::fs::write(&place, ours).unwrap();
    }
    std::fs::read_to_string(&place).unwrap()
}

/// The same events, and one of each kind that version 3 added.
pub(crate) fn samples_v3() -> Vec<Event> {
    let mut events = samples_v2();
    let bodies = [
        Body::CameraStats(CameraStats {
            frames_captured: 1800,
            crossings: 12,
            last_frame_age_ms: u64::MAX,
            lost: 1,
            rate_wanted_millihertz: 6000,
            rate_captured_millihertz: 29_970,
            latency_p99_us: 123_456,
            ..CameraStats::default()
        }),
        Body::Machine(Machine {
            cpu_permille: 423,
            rss_bytes: 48 << 20,
            temperature_millicelsius: 61_500,
            clock_khz: 1_500_000,
            throttle_flags: u64::MAX,
            cameras: 2,
            ..Machine::default()
        }),
        Body::Alert(Alert {
            rule: fixed("no frame"),
            active: true,
            metric: fixed("last_frame_age_ms"),
            value: Some(61_000),
            limit: Some(60_000),
            text: fixed("camera north: no frame for 61 s"),
        }),
    ];
    for body in bodies {
        let seq = events.len() as u64;
        events.push(Event { seq, at: Mono::from_nanos(12_345_678_901 + seq), camera: fixed("north"), body });
    }
    events
}

proptest! {
    #[test]
    fn fixed_cuts_at_a_character(text in "\\PC{0,60}") {
        let cut: heapless::String<NAME_BYTES_MAX> = fixed(&text);
        prop_assert!(text.starts_with(cut.as_str()));
        prop_assert!(cut.len() == text.len() || cut.len() + 4 > NAME_BYTES_MAX);
    }
}

#[test]
fn identities_distinguish_restarts() {
    let boot = "3f2a91c0-7d41-4c5e-9a3b-0123456789ab\n";
    let first = Origin::new("mast-7", boot, Mono::from_nanos(12_345_678_901));
    let second = Origin::new("mast-7", boot, Mono::from_nanos(99_000_000_000));
    assert_eq!(first.id(3).to_string(), "mast-7/3f2a91c07d414c5e-12345/3");
    assert_ne!(first.id(3).to_string(), second.id(3).to_string());
}
