//! Seven days without a link at one event a second; then the link returns: everything up to the quota arrives, in order, with constant
//! memory, and little more was written than the events themselves.

use std::time::Duration;

use flytrap::base::geometry::PointPx;
use flytrap::delivery::spool::disk::Folder;
use flytrap::delivery::spool::{Log, Params};
use flytrap::event::{Body, Crossing, Direction, Event, Origin, RECORD_BYTES_MAX, Stats, TrackBegin, fixed};
use flytrap::platform::clock::{Clock, ClockSyncSample, Mono, SystemClock, Wall};

const DAYS: u64 = 7;
const SECONDS: u64 = DAYS * 86_400;

fn event(seq: u64) -> Event {
    let class = fixed("car");
    let body = match seq {
        _ if seq % 60 == 59 => Body::Stats(Stats { uptime_ms: seq * 1000, events: seq, ..Stats::default() }),
        _ if seq.is_multiple_of(2) => {
            Body::TrackBegin(TrackBegin { track: seq, class, score: 0.7, bbox: [1.5, 2.5, 100.25, 200.0] })
        }
        _ => Body::Crossing(Crossing {
            track: seq,
            class,
            line: fixed("middle"),
            direction: Direction::Forward,
            direction_name: fixed("left-to-right"),
            point: PointPx { x: 320.0, y: 240.5 },
            score: 0.75,
        }),
    };
    Event { seq, at: Mono::from_nanos(seq * 1_000_000_000), camera: fixed("north"), body }
}

fn resident_kb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn seven_days_offline_then_back() {
    let folder = tempfile::tempdir().unwrap();
    let params = Params::default();
    let mut log = Log::new(params, Origin::new("mast-7", "0123456789abcdef", Mono::ZERO));
    log.attach(Box::new(Folder::open(folder.path()).unwrap())).unwrap();
    let before = resident_kb();
    let (mut payload, mut buffer, mut peak) = (0, [0; RECORD_BYTES_MAX], before);
    for seq in 0..SECONDS {
        let now = Mono::from_nanos(seq * 1_000_000_000);
        let event = event(seq);
        payload += event.encode(&mut buffer).len() as u64;
        log.append(now, &event);
        if log.due().is_some_and(|due| due <= now) {
            let wall =
                Wall { unix_nanos: 1_795_392_000_000_000_000 + now.as_nanos() as i64, synchronised: true };
            log.commit(now, Some(ClockSyncSample { mono: now, wall }), false);
            assert_eq!(log.trouble(), None);
        }
        if seq % 10_000 == 0 {
            peak = peak.max(resident_kb());
        }
    }
    let tally = log.tally();
    assert_eq!((log.waiting(), tally.dropped), (SECONDS, [0; 4]));
    let (begun, mut next, mut out) = (SystemClock.mono(), 0, Vec::with_capacity(1000));
    let now = Mono::from_nanos(SECONDS * 1_000_000_000);
    while log.take(1000, &mut out).is_some() {
        for event in out.drain(..) {
            assert_eq!(event.seq, next, "order kept");
            next += 1;
        }
        log.done(now);
        if next % 10_000 == 0 {
            log.commit(now + Duration::from_secs(5), None, false);
        }
        peak = peak.max(resident_kb());
    }
    assert_eq!(next, SECONDS, "all events");
    let took = SystemClock.mono().since(begun).as_secs_f64();
    let share = tally.written_bytes as f64 / payload as f64;
    let grown = peak - before;
    println!(
        "MEASURED seven days offline: {SECONDS} events, {} commits, {:.3} bytes written a byte of events ({:.1} MB a day), memory grew \
         {grown} kB, drained at {:.0} events/s",
        tally.commits,
        share,
        tally.written_bytes as f64 / 1e6 / DAYS as f64,
        next as f64 / took
    );
    assert!(share <= 1.3 && grown <= 4096, "{share} {grown}");
}
