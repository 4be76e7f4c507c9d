//! Old records stay readable for ever, and new records lose nothing.

use super::v1::tests::{any_event, record};
use super::*;
use crate::base::limits::{EVENT_TEXT_BYTES_MAX, NAME_BYTES_MAX};
use crate::event::tests::{golden, samples, samples_v2, samples_v3};
use crate::event::{CameraStats, Machine, Stats, Storage, fixed};
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(line: &str) -> Vec<u8> {
    (0..line.len() / 2).map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn encoded(events: &[Event], newest: u8) -> Vec<String> {
    events.iter().map(|event| hex(event.encode_up_to(newest, &mut [0; RECORD_BYTES_MAX]))).collect()
}

fn decoded(golden: &str) -> Vec<Event> {
    golden.lines().map(|line| Event::decode(&unhex(line)).unwrap()).collect()
}

/// The records of version 1, as each kind was first released. Never edit a line.
#[test]
fn version_1_golden_bytes_stay_readable() {
    let golden = include_str!("../../../tests/data/events-v1.hex");
    assert_eq!(decoded(golden), samples());
    assert_eq!(golden.lines().collect::<Vec<_>>(), encoded(&samples(), 1), "version 1 is frozen");
    assert_eq!(golden.lines().collect::<Vec<_>>(), encoded(&samples_v2(), 1), "younger fields are left out");
}

/// The records of version 2: as version 1, except for the kinds that have new fields. Never edit a line.
#[test]
fn version_2_golden_bytes_stay_readable() {
    let golden = include_str!("../../../tests/data/events-v2.hex");
    assert_eq!(decoded(golden), samples_v2());
    assert_eq!(golden.lines().collect::<Vec<_>>(), encoded(&samples_v2(), 2), "version 2 is frozen");
}

/// The records of version 3: as the older versions, and the new kinds. Never edit a line.
#[test]
fn version_3_golden_bytes_stay_readable() {
    let golden = golden("events-v3.hex", &(encoded(&samples_v3(), 3).join("\n") + "\n"));
    assert_eq!(decoded(&golden), samples_v3());
    assert_eq!(golden.lines().collect::<Vec<_>>(), encoded(&samples_v3(), 3), "version 3 is frozen");
    // The new kinds are records of version 3 only, and no other version may contain them.
    for (line, event) in golden.lines().zip(samples_v3()) {
        let is_new = event.record_version() == 3;
        assert_eq!(line.starts_with("03"), is_new);
        if is_new {
            let bytes = unhex(&format!("02{}", &line[2..]));
            assert_eq!(Event::decode(&bytes), Err(RecordError::Malformed), "{}", event.body.kind());
        }
    }
}

/// Older readers get an alert as what they know, and no statistics of kinds that they do not know.
#[test]
fn older_readers_get_alerts_as_degraded() {
    let [camera, machine, alert] = &samples_v3()[12..] else { panic!() };
    for newest in [1, 2] {
        assert!(!camera.holds_in(newest) && !machine.holds_in(newest) && alert.holds_in(newest));
        let old = Event::decode(alert.encode_up_to(newest, &mut [0; RECORD_BYTES_MAX])).unwrap();
        assert_eq!((old.seq, old.at, &old.camera), (alert.seq, alert.at, &alert.camera));
        assert_eq!(old.body, Body::Degraded { reason: fixed("camera north: no frame for 61 s") });
    }
}

#[test]
fn events_without_new_fields_are_written_in_version_1() {
    for (old, new) in encoded(&samples(), 1).iter().zip(encoded(&samples_v2(), 2)) {
        let body = Event::decode(&unhex(&new)).unwrap().body;
        let changed = matches!(body, Body::Stats(_) | Body::Storage(_));
        assert_eq!(*old != new, changed, "{}", body.kind());
        assert_eq!(&new[..2], if changed { "02" } else { "01" });
    }
}

#[test]
fn a_version_from_the_future_is_not_damage_and_names_the_remedy() {
    let mut buffer = [0; RECORD_BYTES_MAX];
    let bytes = samples()[4].encode(&mut buffer).to_vec();
    for version in [RECORD_VERSION + 1, RECORD_VERSION_LAST] {
        let mut bytes = bytes.clone();
        bytes[0] = version;
        let error = Event::decode(&bytes).unwrap_err();
        assert_eq!(error, RecordError::Version(version));
        let text = error.to_string();
        assert!(text.contains(&format!("version {version}")) && text.contains("newer"), "{text}");
    }
    for nonsense in [0, RECORD_VERSION_LAST + 1, b'A', 255] {
        let mut bytes = bytes.clone();
        bytes[0] = nonsense;
        assert_eq!(Event::decode(&bytes), Err(RecordError::Malformed));
    }
    assert_eq!(Event::decode(&[]), Err(RecordError::Malformed));
}

#[test]
fn the_largest_event_fits_its_record() {
    // Version, seq and at, camera, kind, then at most 10 bytes a number.
    const HEAD: usize = 1 + 10 + 10 + (1 + NAME_BYTES_MAX) + 1;
    const {
        assert!(HEAD + Stats::METRICS.len() * 10 <= RECORD_BYTES_MAX);
        assert!(HEAD + Storage::METRICS.len() * 10 <= RECORD_BYTES_MAX);
        assert!(HEAD + CameraStats::METRICS.len() * 10 <= RECORD_BYTES_MAX);
        assert!(HEAD + Machine::METRICS.len() * 10 <= RECORD_BYTES_MAX);
        assert!(HEAD + (1 + NAME_BYTES_MAX) * 2 + 1 + 2 * 11 + 2 + EVENT_TEXT_BYTES_MAX <= RECORD_BYTES_MAX);
        assert!(HEAD + 2 + EVENT_TEXT_BYTES_MAX + 2 * 10 + 2 <= RECORD_BYTES_MAX);
        assert!(HEAD + (1 + NAME_BYTES_MAX) * 3 + 10 + 1 + 12 <= RECORD_BYTES_MAX);
    }
}

/// What a record of version 1 decodes to must not change any field that version 1 has.
fn same_in_version_1(old: &Event, bytes: &[u8]) -> bool {
    old.encode_up_to(1, &mut [0; RECORD_BYTES_MAX]) == bytes
}

proptest! {
    /// The fields that version 1 has keep their values, the younger ones get their default, for any event.
    #[test]
    fn any_event_of_version_1_decodes_to_the_same_event_with_defaults(old in any_event()) {
        let bytes = record(&old);
        let event = Event::decode(&bytes).unwrap();
        prop_assert_eq!(&event, &Event::from(old));
        prop_assert!(same_in_version_1(&event, &bytes));
        if let Body::Stats(stats) = event.body {
            let young = Stats::METRICS.iter().zip(stats.values()).filter(|(metric, _)| metric.since > 1);
            prop_assert!(young.map(|(_, value)| value).eq([0; 6]));
        } else if let Body::Storage(storage) = event.body {
            prop_assert_eq!(storage.newer, 0);
        }
    }

    /// Encoding and decoding loses nothing: whatever version the record has, it holds all of the event.
    #[test]
    fn any_event_survives_its_record(old in any_event(), young: [u64; 7]) {
        let mut event = Event::from(old);
        if let Body::Stats(stats) = &mut event.body {
            [stats.detections_invalid, stats.detections_over_limit, stats.detections_duplicate] =
                [young[0], young[1], young[2]];
            stats.processing_sum_us = young[3];
            (stats.frames_repaired, stats.log_lines_dropped) = (young[4], young[5]);
        } else if let Body::Storage(storage) = &mut event.body {
            storage.newer = young[6];
        }
        prop_assert_eq!(Event::decode(event.encode(&mut [0; RECORD_BYTES_MAX])), Ok(event));
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _outcome = Event::decode(&bytes);
        for version in 0..=RECORD_VERSION + 1 {
            let outcome = Event::decode(&[&[version], &bytes[..]].concat());
            if version > RECORD_VERSION {
                prop_assert_eq!(outcome, Err(RecordError::Version(version)));
            }
        }
    }

    #[test]
    fn a_truncated_record_is_refused(which in 0usize..15, newest in 1..=RECORD_VERSION, kept in 0.0f64..1.0) {
        let mut buffer = [0; RECORD_BYTES_MAX];
        let event = &samples_v3()[which];
        prop_assume!(event.holds_in(newest));
        let bytes = event.encode_up_to(newest, &mut buffer).to_vec();
        prop_assert!(Event::decode(&bytes[..(bytes.len() as f64 * kept) as usize]).is_err());
    }
}
