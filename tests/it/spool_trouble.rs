//! Disk errors, temporary or permanent: unreadable parts are tried again, a failure in one queue does not affect the others, nothing hangs,
//! and losses are counted.

use std::time::Duration;

use flytrap::base::geometry::PointPx;
use flytrap::delivery::spool::disk::Disk;
use flytrap::delivery::spool::inspect;
use flytrap::delivery::spool::log::ATTACH_TRIES;
use flytrap::delivery::spool::{Class, Log, Params, Quota};
use flytrap::event::{Body, Crossing, Direction, Event, Origin, TrackBegin, fixed};
use flytrap::platform::clock::{ClockSyncSample, Mono, Wall};
use flytrap::sim::disk::{FaultDisk, FaultModes};
use flytrap::sim::random::Random;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Mono {
    Mono::from_nanos(seconds * 1_000_000_000)
}

fn params() -> Params {
    let quota = Quota { bytes: 1 << 30, events: 1 << 40, age_max: None, headroom: 0 };
    Params {
        segment_bytes: 16 << 10,
        memory_bytes: 8 << 10,
        commit_bytes: 1 << 10,
        quota,
        ..Params::default()
    }
}

fn event(class: Class, seq: u64) -> Event {
    let body = match class {
        Class::Alerts => Body::Degraded { reason: fixed("a reason") },
        Class::Counts => Body::Crossing(Crossing {
            track: seq,
            class: fixed("car"),
            line: fixed("middle"),
            direction: Direction::Forward,
            direction_name: fixed("right"),
            point: PointPx { x: seq as f32, y: 1.0 },
            score: 0.25,
        }),
        Class::Details | Class::Dead => {
            Body::TrackBegin(TrackBegin { track: seq, class: fixed("car"), score: 0.5, bbox: [0.0; 4] })
        }
    };
    Event { seq, at: at(seq), camera: fixed("north"), body }
}

fn open(disk: &FaultDisk, run: u64, params: Params) -> Log {
    let origin = Origin::new("mast-7", &format!("{run:016x}"), Mono::from_nanos(run));
    let mut log = Log::new(params, origin);
    log.attach(Box::new(disk.clone())).unwrap();
    log
}

const SENT: [Class; 3] = [Class::Alerts, Class::Counts, Class::Details];

/// A disk with this many events of an earlier run, in many segments.
fn backlog(events: u64) -> FaultDisk {
    let disk = FaultDisk::new(1);
    let mut log = open(&disk, 1, params());
    for seq in 0..events {
        log.append(at(seq), &event(SENT[seq as usize % 3], seq));
    }
    log.commit(at(events), None, true);
    assert!(log.trouble().is_none());
    drop(log);
    disk.reboot(true);
    disk
}

fn take(log: &mut Log) -> Vec<u64> {
    let mut out = Vec::new();
    log.take(50, &mut out);
    out.iter().map(|event| event.seq).collect()
}

/// Checks that events 0 to `count` are all present once, each class in its order.
fn is_each_once(seen: &[u64], count: u64) -> bool {
    let of = |class: u64| seen.iter().copied().filter(move |seq| seq % 3 == class);
    (0..3).all(|class| of(class).eq((0..count).filter(|seq| seq % 3 == class)))
}

#[test]
fn temporarily_unreadable_segments_are_read_later() {
    let disk = backlog(2000);
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let copy = FaultDisk::new(seed);
        for name in disk.names() {
            let mut bytes = vec![0; 16 << 10];
            let mut file = disk.clone().open(&name).unwrap();
            let filled = file.read_at(&mut bytes, 0).unwrap();
            bytes.truncate(filled);
            copy.plant(&name, bytes);
        }
        let (mut log, mut seen, mut now) = (open(&copy, 2, params()), Vec::new(), 5000);
        while seen.len() < 2000 {
            assert!(now < 1_000_000, "seed {seed}: it hangs at {}", seen.len());
            copy.set_away(random.one_in(2));
            now += 1 + random.whole(250);
            log.commit(at(now), None, false);
            seen.extend(take(&mut log));
            if random.one_in(2) {
                log.done(at(now));
            }
        }
        assert!(is_each_once(&seen, 2000), "seed {seed}");
        let tally = log.tally();
        assert_eq!((tally.damaged_events, tally.set_aside, log.waiting()), (0, 0, 0), "seed {seed}");
    }
}

#[test]
fn a_newly_attached_disk_does_not_have_the_waiting_events_yet() {
    let disk = FaultDisk::new(1);
    let mut log = Log::new(params(), Origin::new("mast-7", "1", Mono::from_nanos(1)));
    log.append(at(1), &event(Class::Counts, 0));
    assert!(Class::ALL.iter().all(|class| log.fails(*class)), "there is no disk");
    log.attach(Box::new(disk.clone())).unwrap();
    assert!(
        log.fails(Class::Counts) && !log.fails(Class::Alerts),
        "one class has waiting events, the others have none"
    );
    disk.set_away(true);
    log.commit(at(100), None, true);
    assert!(log.fails(Class::Counts));
    disk.set_away(false);
    log.commit(at(1000), None, true);
    assert!(!log.fails(Class::Counts), "{:?}", log.trouble());
}

#[test]
fn permanently_unreadable_segments_are_given_up_late_and_reported() {
    let disk = backlog(600);
    let mut log = open(&disk, 2, params());
    disk.set_away(true);
    log.append(at(1000), &event(Class::Counts, 0));
    let mut now = 1000;
    for _ in 0..9 {
        now += 60;
        log.commit(at(now), None, false);
        assert_eq!(
            (take(&mut log), log.tally().damaged_events),
            (vec![], 0),
            "nine minutes are not long enough"
        );
    }
    let mut seen = Vec::new();
    while seen.is_empty() {
        assert!(now < 1_000_000, "new events are delivered");
        now += 60;
        log.commit(at(now), None, false);
        seen = take(&mut log);
    }
    assert_eq!(seen, [0], "only the new one");
    assert_eq!((log.tally().damaged_events, log.waiting()), (600, 0));
    assert!(now > 1000 + 600, "{now}");
    log.done(at(now));
    assert_eq!(log.tally().set_aside, 0, "the disk cannot rename either");
    disk.set_away(false);
    log.done(at(now));
    assert!(log.tally().set_aside > 0, "it is set aside later");
}

#[test]
fn a_start_that_cannot_read_tries_again_before_it_sets_anything_aside() {
    let disk = backlog(300);
    let origin = Origin::new("mast-7", "2", Mono::from_nanos(2));
    let mut log = Log::new(params(), origin.clone());
    // The folder can be listed, but the files cannot be read.
    let unreadable = Unreadable(disk.clone());
    for _ in 1..ATTACH_TRIES {
        assert!(log.attach(Box::new(unreadable.clone())).is_err() && !log.has_disk());
    }
    let mut patient = Log::new(params(), origin);
    assert!(patient.attach(Box::new(unreadable.clone())).is_err());
    assert_eq!(
        patient.attach(Box::new(disk.clone())).unwrap().events,
        300,
        "it could be read at the second attempt"
    );
    assert!(is_each_once(&(0..6).flat_map(|_| take(&mut patient)).collect::<Vec<_>>(), 300));
    let recovered = log.attach(Box::new(unreadable)).unwrap();
    assert_eq!(recovered.events, 0);
    assert!(recovered.set_aside > 0 && log.tally().set_aside == recovered.set_aside);
    assert!(
        disk.names().iter().any(|name| name.starts_with("damaged-")),
        "they are kept: {:?}",
        disk.names()
    );
    log.append(at(1), &event(Class::Alerts, 0));
    log.commit(at(1), None, true);
    assert!(log.trouble().is_none() && take(&mut log) == [0]);
}

/// A disk whose files cannot be opened.
#[derive(Debug, Clone)]
struct Unreadable(FaultDisk);

impl Disk for Unreadable {
    fn list(&mut self) -> std::io::Result<Vec<(String, u64)>> {
        self.0.list()
    }
    fn create(
        &mut self,
        name: &str,
        bytes: u64,
    ) -> std::io::Result<Box<dyn flytrap::delivery::spool::disk::DiskFile>> {
        self.0.create(name, bytes)
    }
    fn open(&mut self, _: &str) -> std::io::Result<Box<dyn flytrap::delivery::spool::disk::DiskFile>> {
        Err(std::io::Error::other("EIO"))
    }
    fn rename(&mut self, from: &str, to: &str) -> std::io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&mut self, name: &str) -> std::io::Result<()> {
        self.0.remove(name)
    }
    fn sync_names(&mut self) -> std::io::Result<()> {
        self.0.sync_names()
    }
    fn free_bytes(&mut self) -> std::io::Result<u64> {
        self.0.free_bytes()
    }
}

/// There is no space for a new segment, but the segment for crossings has space: crossings are still committed.
#[test]
fn a_queue_without_space_does_not_stop_the_others() {
    let disk = FaultDisk::new(3);
    let mut log = open(&disk, 1, params());
    log.append(at(0), &event(Class::Counts, 0));
    log.commit(at(0), None, true);
    disk.set_fault_modes(FaultModes { full: 1, ..FaultModes::default() });
    let (mut now, mut seq) = (0, 1);
    for _ in 0..40 {
        now += 5;
        log.append(at(now), &event(Class::Alerts, seq));
        log.append(at(now), &event(Class::Counts, seq + 1));
        seq += 2;
        log.commit(at(now), None, true);
    }
    assert!(log.tally().failures > 2 && log.trouble().is_some());
    drop(log);
    disk.set_fault_modes(FaultModes::default());
    disk.reboot(false);
    let mut log = open(&disk, 2, params());
    assert_eq!(log.waiting(), 41, "all crossings, no alert");
    assert_eq!(take(&mut log).len(), 41);
}

/// A disk that accepts no writes, for any length of time: appends continue, and the oldest events of each class are dropped.
#[test]
fn a_full_segment_on_a_dead_disk_ends_in_memory() {
    for (seed, prelude) in (0..60).map(|prelude| (prelude, prelude * 7)) {
        let disk = FaultDisk::new(seed);
        let mut log = open(&disk, 1, params());
        for seq in 0..prelude {
            log.append(at(0), &event(SENT[seq as usize % 3], seq));
        }
        log.commit(at(0), None, true);
        disk.set_away(true);
        for seq in prelude..prelude + 1500 {
            log.append(at(seq), &event(SENT[seq as usize % 3], seq));
        }
        assert!(log.tally().dropped.iter().sum::<u64>() > 0 && log.trouble().is_some());
        disk.set_away(false);
        let (mut seen, mut now) = (Vec::new(), 10_000);
        loop {
            now += 400;
            log.commit(at(now), None, true);
            let taken = take(&mut log);
            if taken.is_empty() {
                break;
            }
            seen.extend(taken);
            log.done(at(now));
        }
        assert!(log.trouble().is_none(), "{:?}", log.trouble());
        let dropped: u64 = log.tally().dropped.iter().sum();
        assert_eq!(
            seen.len() as u64 + dropped,
            prelude + 1500,
            "prelude {prelude}: each event once, or counted"
        );
        seen.sort_unstable();
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(log.tally().damaged_events, 0);
    }
}

/// An outage longer than the maximum age of events: old ones are dropped, new ones stay, even in the same segment.
#[test]
fn age_is_that_of_the_newest_event_of_a_segment() {
    let quota = Quota { age_max: Some(Duration::from_secs(86_400)), ..params().quota };
    let params = Params { segment_bytes: 64 << 10, quota, ..params() };
    let disk = FaultDisk::new(5);
    let mut log = open(&disk, 1, params);
    let clock = |seconds: u64| {
        let unix_nanos = 1_795_392_000_000_000_000 + seconds as i64 * 1_000_000_000;
        Some(ClockSyncSample { mono: at(seconds), wall: Wall { unix_nanos, synchronised: true } })
    };
    let hours = 24 * 20;
    for hour in 0..hours {
        for minute in 0..10 {
            let now = hour * 3600 + minute * 360;
            log.append(at(now), &event(Class::Counts, hour * 10 + minute));
            log.commit(at(now) + SECOND, clock(now), true);
        }
        log.retain(clock(hour * 3600 + 3599), 0);
    }
    let mut seen = Vec::new();
    loop {
        let taken = take(&mut log);
        if taken.is_empty() {
            break;
        }
        seen.extend(taken);
    }
    let first = seen[0];
    assert_eq!(seen, (first..hours * 10).collect::<Vec<_>>());
    assert!(first > 0 && first <= (hours - 24) * 10, "the last day is all there: from {first}");
    assert_eq!(log.tally().dropped[Class::Counts as usize], first);
}

/// A delivered record is damaged: the records behind it are not mistaken for it.
#[test]
fn damage_to_delivered_records_costs_nothing() {
    let disk = FaultDisk::new(6);
    let mut log = open(&disk, 1, params());
    for seq in 0..100 {
        log.append(at(seq), &event(Class::Counts, seq));
    }
    log.commit(at(100), None, true);
    let mut out = Vec::new();
    log.take(90, &mut out);
    log.done(at(101));
    log.commit(at(101), None, true);
    drop(log);
    disk.reboot(false);
    let name = disk.names().into_iter().find(|name| name.starts_with("counts-")).unwrap();
    let mut file = disk.clone().open(&name).unwrap();
    for record in 0..5 {
        file.write_at(&[0xff], 4096 + 20 + record * 300).unwrap();
    }
    file.sync().unwrap();
    let mut log = open(&disk, 2, params());
    assert_eq!(take(&mut log), (90..100).collect::<Vec<_>>());
    log.done(at(102));
    assert_eq!((take(&mut log), log.waiting()), (vec![], 0));
}

/// A file that lost its end, for example through a file system check or an interrupted copy.
fn cut(disk: &FaultDisk, name: &str, bytes: u64) {
    let mut file = disk.clone().open(name).unwrap();
    file.set_len(bytes).unwrap();
    file.sync().unwrap();
}

/// Takes all events and marks them as delivered.
fn deliver(log: &mut Log) -> Vec<u64> {
    let mut seen = Vec::new();
    loop {
        let taken = take(log);
        if taken.is_empty() {
            return seen;
        }
        seen.extend(taken);
        log.done(at(1_000_000));
    }
}

#[test]
fn events_of_a_truncated_segment_are_counted() {
    for (delivered, kept_bytes) in
        [(0, 8192), (0, 4096), (0, 1500), (30, 8192), (60, 6000), (119, 8192), (120, 8192)]
    {
        // The run has ended and its segment has a footer; another run wrote the next segment.
        let disk = FaultDisk::new(1);
        let mut log = open(&disk, 1, Params { segment_bytes: 64 << 10, ..params() });
        (0..120).for_each(|seq| {
            log.append(at(seq), &event(Class::Counts, seq));
            log.commit(at(seq), None, true);
        });
        drop(log);
        let mut log = open(&disk, 2, params());
        log.take(delivered, &mut Vec::new());
        log.done(at(200));
        log.append(at(200), &event(Class::Counts, 1000));
        log.commit(at(200), None, true);
        drop(log);
        disk.reboot(true);
        let name = disk.names().into_iter().find(|name| name.starts_with("counts-"));
        let name = name.expect("the segment with undelivered events");
        if delivered < 120 {
            cut(&disk, &name, kept_bytes);
        }
        let segments = inspect::inspect(&mut disk.clone(), |_, _, _, _| {}).unwrap();
        let damaged = segments.iter().filter(|segment| !segment.is_whole()).count();
        let mut log = open(&disk, 3, params());
        let tally = log.tally();
        let seen = deliver(&mut log);
        let case = format!("{delivered} delivered, cut to {kept_bytes}: {seen:?} {tally:?}");
        assert_eq!(seen.last(), Some(&1000), "later events are delivered: {case}");
        let found = seen.len() as u64 - 1;
        if delivered == 120 {
            assert_eq!((found, damaged, tally.damaged_events, tally.set_aside), (0, 0, 0, 0), "{case}");
            continue;
        }
        assert!(found < 120 - delivered as u64, "{case}");
        assert_eq!(damaged, 1, "{case}");
        let counted = if kept_bytes < 4096 { 0 } else { 120 - delivered as u64 - found };
        // Without its first blocks nobody knows how many events a segment had.
        let lost_segments = u64::from(kept_bytes < 4096);
        assert_eq!((tally.damaged_events, tally.lost_segments), (counted, lost_segments), "{case}");
        assert_eq!(log.tally().set_aside, 1, "it is kept for inspection: {case}");
        assert_eq!((log.tally().damaged_events, log.waiting()), (counted, 0), "counted once: {case}");
    }
}

/// Only the next segment records where an abandoned segment ends. After a cut the first one reappears, the second one does not.
#[test]
fn an_abandoned_segment_that_reappears_is_not_read_beyond_its_end() {
    let (mut came_back, mut twice) = (0, 0);
    for seed in 0..4000 {
        let disk = FaultDisk::new(seed);
        disk.set_fault_modes(FaultModes { no_journal: true, ..FaultModes::default() });
        let mut log = open(&disk, 1, params());
        let (mut now, mut seq, mut random) = (0, 0, Random::new(seed));
        let mut append = |log: &mut Log, now: u64, count: u64| {
            for _ in 0..count {
                log.append(at(now), &event(Class::Counts, seq));
                seq += 1;
            }
        };
        append(&mut log, now, 5);
        log.commit(at(now), None, true);
        // Two writes fail, and each may leave records behind; their events are in the third segment.
        append(&mut log, now, 5);
        for _ in 0..2 {
            disk.set_fault_modes(FaultModes { no_journal: true, error: 2, ..FaultModes::default() });
            now += 400;
            log.commit(at(now), None, true);
        }
        disk.set_fault_modes(FaultModes { no_journal: true, ..FaultModes::default() });
        now += 400;
        log.commit(at(now), None, true);
        // The first events are delivered, so the segments before the third one are removed.
        let most = 1 + random.whole(10) as usize;
        log.take(most, &mut Vec::new());
        log.done(at(now));
        let before = disk.names().into_iter().filter(|name| name.starts_with("counts-")).count();
        drop(log);
        disk.reboot(false);
        let after = disk.names().into_iter().filter(|name| name.starts_with("counts-")).count();
        came_back += u64::from(after > before);
        let mut log = open(&disk, 2, params());
        let mut seen = deliver(&mut log);
        seen.sort_unstable();
        twice += u64::from(seen.windows(2).any(|pair| pair[0] == pair[1]));
    }
    assert!(came_back > 100, "{came_back}: too few to prove anything");
    assert_eq!(twice, 0, "of {came_back}: events that were delivered twice in one run");
}
