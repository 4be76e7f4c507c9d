use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::*;
use crate::event::tests::samples;
use crate::event::{Event, Origin};
use crate::platform::clock::Mono;
use crate::sim::disk::{FaultDisk, FaultModes};
use disk::Folder;
use proptest::prelude::*;

fn origin(run: u64) -> Origin {
    Origin::new("mast-7", &format!("{run:016x}"), Mono::from_nanos(run))
}

/// Sample `which` (an index into the samples) as event `seq`.
fn event(which: usize, seq: u64) -> Event {
    Event { seq, ..samples()[which].clone() }
}

const TRACK: usize = 2;
const CROSSING: usize = 4;
const STATS: usize = 5;
const LOST: usize = 6;

fn secs(seconds: u64) -> Mono {
    Mono::from_nanos(seconds * 1_000_000_000)
}

fn small() -> Params {
    let quota = Quota { bytes: 1 << 20, events: 1 << 40, age_max: None, headroom: 0 };
    Params {
        segment_bytes: 32 << 10,
        memory_bytes: 16 << 10,
        commit_bytes: 4 << 10,
        quota,
        ..Params::default()
    }
}

fn on_disk(folder: &std::path::Path, params: Params, run: u64) -> (Log, Recovered) {
    let mut log = Log::new(params, origin(run));
    let recovered = log.attach(Box::new(Folder::open(folder).unwrap())).unwrap();
    (log, recovered)
}

fn drain(log: &mut Log) -> Vec<(Origin, u64, Class)> {
    let (mut all, mut out) = (Vec::new(), Vec::new());
    while let Some(taken) = log.take(1000, &mut out) {
        all.extend(out.drain(..).map(|event| ((*taken.origin).clone(), event.seq, Class::of(&event.body))));
        log.done(Mono::ZERO);
    }
    all
}

#[test]
fn events_wait_for_the_interval_of_their_kind() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = on_disk(folder.path(), small(), 1);
    assert_eq!(log.due(), None);
    log.append(secs(10), &event(STATS, 0));
    assert_eq!(log.due(), Some(secs(310)), "statistics can wait");
    log.append(secs(20), &event(TRACK, 1));
    log.append(secs(22), &event(CROSSING, 2));
    assert_eq!(log.due(), Some(secs(25)));
    log.commit(secs(24), None, false);
    assert_eq!(log.tally().commits, 0);
    log.commit(secs(25), None, false);
    assert_eq!((log.tally().commits, log.due()), (1, Some(secs(27))), "tracks and statistics are one queue");
    log.commit(secs(27), None, false);
    assert_eq!((log.tally().commits, log.due(), log.waiting()), (2, None, 3));
}

#[test]
fn events_delivered_before_their_commit_are_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = on_disk(folder.path(), small(), 1);
    for seq in 0..50 {
        log.append(secs(seq), &event(if seq % 2 == 0 { STATS } else { CROSSING }, seq));
        assert_eq!(drain(&mut log).len(), 1);
        log.commit(secs(seq + 1), None, true);
    }
    assert_eq!((log.tally().written_bytes, log.tally().commits, log.due()), (0, 0, None));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "only the lock");
}

#[test]
fn events_of_earlier_runs_come_first_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for run in 1..=3 {
        let (mut log, recovered) = on_disk(folder.path(), small(), run);
        assert_eq!(recovered.events, (run - 1) * 9);
        for seq in 0..9 {
            log.append(Mono::ZERO, &event([TRACK, CROSSING, LOST][seq as usize % 3], seq));
        }
        log.commit(Mono::ZERO, None, true);
    }
    let (mut log, recovered) = on_disk(folder.path(), small(), 4);
    assert_eq!((recovered.events, recovered.unclosed, log.waiting()), (27, 3, 27));
    let all: Vec<(Origin, u64)> = drain(&mut log).into_iter().map(|(origin, seq, _)| (origin, seq)).collect();
    let expected: Vec<_> = (1..=3).flat_map(|run| (0..9).map(move |seq| (origin(run), seq))).collect();
    assert_eq!(all, expected);
    log.commit(Mono::ZERO, None, true);
    drop(log);
    let (mut log, recovered) = on_disk(folder.path(), small(), 5);
    assert_eq!((recovered.events, drain(&mut log).len()), (0, 0));
}

#[test]
fn alerts_come_first_when_there_is_more_than_a_batch() {
    let mut log = Log::new(small(), origin(1));
    for seq in 0..20 {
        log.append(Mono::ZERO, &event(if seq == 15 { LOST } else { CROSSING }, seq));
    }
    let mut out = Vec::new();
    log.take(5, &mut out).unwrap();
    assert_eq!(out.iter().map(|event| event.seq).collect::<Vec<_>>(), [15, 0, 1, 2, 3]);
    log.done(Mono::ZERO);
    out.clear();
    log.take(15, &mut out).unwrap();
    assert_eq!(
        out.iter().map(|event| event.seq).collect::<Vec<_>>(),
        [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19]
    );
}

#[test]
fn without_a_disk_the_oldest_of_a_class_are_dropped_and_counted() {
    let mut log = Log::new(small(), origin(1));
    for seq in 0..2000 {
        log.append(Mono::ZERO, &event(if seq % 10 == 0 { LOST } else { TRACK }, seq));
    }
    let tally = log.tally();
    let kept = drain(&mut log);
    assert_eq!(tally.dropped.iter().sum::<u64>() + kept.len() as u64, 2000);
    assert!(tally.dropped[Class::Details as usize] > 1000 && tally.dropped[Class::Counts as usize] == 0);
    for class in [Class::Alerts, Class::Details] {
        let seqs: Vec<u64> = kept.iter().filter(|kept| kept.2 == class).map(|kept| kept.1).collect();
        let all: Vec<u64> = (0..2000).filter(|seq| (seq % 10 == 0) == (class == Class::Alerts)).collect();
        assert_eq!(seqs, all[all.len() - seqs.len()..], "{class:?}: the newest ones, in order");
    }
}

#[test]
fn over_the_quota_crossings_outlive_tracks_and_every_drop_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = on_disk(folder.path(), small(), 1);
    for seq in 0..40_000 {
        log.append(Mono::ZERO, &event(if seq % 4 == 0 { CROSSING } else { TRACK }, seq));
    }
    log.commit(Mono::ZERO, None, true);
    assert!(log.disk_bytes() <= small().quota.bytes, "{}", log.disk_bytes());
    let tally = log.tally();
    assert_eq!((tally.dropped[Class::Counts as usize], tally.dropped[Class::Alerts as usize]), (0, 0));
    assert_eq!(log.last_drop(Class::Details), Some(retain::Reason::Bytes));
    let kept = drain(&mut log);
    assert_eq!(tally.dropped.iter().sum::<u64>() + kept.len() as u64, 40_000);
    assert_eq!(kept.iter().filter(|kept| kept.2 == Class::Counts).count(), 10_000);
}

#[test]
fn dead_letters_are_kept_and_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = on_disk(folder.path(), small(), 1);
    for seq in 0..1000 {
        let why = crate::event::fixed("400 Bad Request");
        let dead = record::Dead {
            origin: origin(1),
            clock: crate::platform::clock::ClockSyncSample::UNKNOWN,
            why,
            event: event(CROSSING, seq),
        };
        log.write_dead_letter(Mono::ZERO, dead);
    }
    log.commit(Mono::ZERO, None, true);
    assert_eq!((log.waiting(), drain(&mut log).len(), log.tally().dead), (0, 0, 1000));
    let files = std::fs::read_dir(folder.path()).unwrap();
    let dead = files
        .filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with("dead-"))
        .count();
    assert!((1..=4).contains(&dead), "{dead}");
}

#[derive(Debug, Clone)]
enum Op {
    Append(usize),
    Commit(bool),
    Take(usize),
    /// Of the events in flight, those whose bit is set, class by class.
    Acknowledge(u64),
    Done,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0usize..12).prop_map(Op::Append),
        1 => any::<bool>().prop_map(Op::Commit),
        2 => (1usize..40).prop_map(Op::Take),
        1 => prop_oneof![any::<u64>(), (0u32..40).prop_map(|most| (1u64 << most) - 1)].prop_map(Op::Acknowledge),
        1 => Just(Op::Done),
        1 => Just(Op::Reopen),
    ]
}

/// What the model of a queue holds.
#[derive(Debug)]
struct Waiting {
    run: u64,
    event: Event,
    is_done: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// After any sequence of calls: each event is read once per run, unchanged, in the order of its class; after a clean shutdown the next
    /// run has all events that were not done.
    #[test]
    fn behaves_like_a_queue_for_each_class(ops in proptest::collection::vec(op(), 1..300)) {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = on_disk(folder.path(), small(), 0);
        let (mut run, mut seq) = (0u64, 0u64);
        // Events that are not done, or follow one that is not, and how many of them are in flight, by class.
        let mut waiting: [VecDeque<Waiting>; 4] = Default::default();
        let mut in_flight = [0usize; 4];
        for op in ops {
            match op {
                Op::Append(which) => {
                    let event = event(which, seq);
                    log.append(secs(seq), &event);
                    waiting[Class::of(&event.body) as usize].push_back(Waiting { run, event, is_done: false });
                    seq += 1;
                }
                Op::Commit(everything) => log.commit(secs(seq), None, everything),
                Op::Take(most) => {
                    let mut out = Vec::new();
                    if let Some(taken) = log.take(most, &mut out) {
                        for event in out {
                            let class = Class::of(&event.body) as usize;
                            let expected = &waiting[class][in_flight[class]];
                            prop_assert_eq!((&*taken.origin, &event), (&origin(expected.run), &expected.event));
                            in_flight[class] += 1;
                        }
                    }
                }
                Op::Acknowledge(bits) => {
                    let mut events = Vec::new();
                    for (waiting, in_flight) in waiting.iter_mut().zip(&mut in_flight) {
                        for (bit, waiting) in waiting.iter_mut().take(*in_flight).enumerate() {
                            if bits >> (bit % 64) & 1 == 1 {
                                waiting.is_done = true;
                                events.push(waiting.event.clone());
                            }
                        }
                        let done = waiting.iter().take(*in_flight).take_while(|waiting| waiting.is_done).count();
                        waiting.drain(..done);
                        *in_flight -= done;
                    }
                    log.acknowledge(secs(seq), &events);
                }
                Op::Done => {
                    log.done(secs(seq));
                    for (waiting, in_flight) in waiting.iter_mut().zip(&mut in_flight) {
                        waiting.drain(..std::mem::take(in_flight));
                    }
                }
                Op::Reopen => {
                    log.commit(secs(seq), None, true);
                    drop(log);
                    (run, seq, in_flight) = (run + 1, 0, [0; 4]);
                    waiting.iter_mut().flatten().for_each(|waiting| waiting.is_done = false);
                    let recovered;
                    (log, recovered) = on_disk(folder.path(), small(), run);
                    prop_assert_eq!(recovered.events, waiting.iter().map(|queue| queue.len() as u64).sum::<u64>());
                    prop_assert_eq!((recovered.set_aside, recovered.damaged_bytes), (0, 0));
                }
            }
            let in_flight: usize = in_flight.iter().sum();
            let all: usize = waiting.iter().map(VecDeque::len).sum();
            prop_assert_eq!(log.waiting(), (all - in_flight) as u64);
        }
    }
}

#[test]
fn a_sleeping_link_is_woken_on_schedule_or_by_an_alert_and_stays_awake_until_empty() {
    let batching = Batching {
        events_max: 2,
        age_max: std::time::Duration::from_secs(10),
        interval: Some(std::time::Duration::from_secs(3600)),
    };
    let spool = Arc::new(Spool::new(Log::new(small(), origin(1)), batching));
    let mut seq = 0;
    let mut put = |at: u64, which: usize, count: usize| {
        let mut coming = (0..count)
            .map(|_| {
                seq += 1;
                event(which, seq - 1)
            })
            .collect::<Vec<_>>();
        spool.put(secs(at), |out| out.append(&mut coming));
    };
    let sends = |at: u64| {
        let mut sizes = Vec::new();
        while let TakeOutcome::Batch(mut batch) = spool.take(secs(at)) {
            sizes.push(batch.left());
            batch.acknowledge(secs(at), 0..batch.left());
        }
        sizes
    };
    put(0, CROSSING, 5);
    assert_eq!(sends(0), [2, 2, 1], "awake from the start, until nothing is left");
    put(5, CROSSING, 5);
    assert_eq!(sends(3599), [0; 0], "asleep, however much waits");
    assert!(matches!(spool.take(secs(3599)), TakeOutcome::Nothing { until } if until == Some(secs(3600))));
    assert_eq!(sends(3600), [2, 2, 1]);
    put(3700, CROSSING, 3);
    put(3700, LOST, 1);
    assert_eq!(sends(3700), [2, 2], "an alert wakes it, and all events are sent with it");
    put(3720, CROSSING, 1);
    assert_eq!(sends(3730), [0; 0]);
    spool.flush();
    assert_eq!(sends(3731), [1], "the shutdown wakes it");
}

/// The receiver is away and a batch is in flight when the card is finally inserted.
#[test]
fn a_disk_that_is_attached_late_does_not_wait_for_the_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let (mut before, _) = on_disk(folder.path(), small(), 1);
    (0..3).for_each(|seq| before.append(Mono::ZERO, &event(CROSSING, seq)));
    before.commit(Mono::ZERO, None, true);
    drop(before);
    let batching = Batching { events_max: 2, age_max: std::time::Duration::ZERO, interval: None };
    let spool = Arc::new(Spool::new(Log::new(small(), origin(2)), batching));
    let take = || match spool.take(secs(9)) {
        TakeOutcome::Batch(batch) => batch,
        TakeOutcome::Nothing { until } => panic!("nothing before {until:?}"),
    };
    let contents = |batch: &InFlight| {
        let seqs: Vec<u64> = batch.events().iter().map(|event| event.seq).collect();
        (batch.whose().origin.boot.to_string(), seqs)
    };
    let mut coming: Vec<Event> = (0..5).map(|seq| event(CROSSING, seq)).collect();
    spool.put(Mono::ZERO, |out| out.append(&mut coming));
    let mut second = take();
    assert_eq!(contents(&second).1, [0, 1]);
    assert!(!spool.state().was_confirmed && !second.is_called_back());
    let recovered = spool.attach(Box::new(Folder::open(folder.path()).unwrap())).unwrap();
    assert_eq!((recovered.events, spool.waiting()), (8, 8));
    // A holder of the old batch can do no harm with it.
    assert!(second.is_called_back());
    second.acknowledge(secs(9), 0..1);
    second.refill();
    assert_eq!((second.left(), spool.waiting()), (1, 8));
    let boot = contents(&second).0;
    let mut first = take();
    drop(second);
    let mut batches = Vec::new();
    loop {
        batches.push((contents(&first).0 == boot, contents(&first).1));
        first.acknowledge(secs(9), 0..first.left());
        drop(first);
        if spool.waiting() == 0 {
            break;
        }
        first = take();
    }
    let (first, this) = (false, true);
    assert_eq!(
        batches,
        [(first, vec![0, 1]), (first, vec![2]), (this, vec![0, 1]), (this, vec![2, 3]), (this, vec![4])]
    );
    spool.commit(secs(9), crate::platform::clock::ClockSyncSample::UNKNOWN, true);
    assert_eq!(spool.state().trouble, None);
    assert!(spool.state().was_confirmed);
}

/// A receiver takes a part of a batch, and then the program ends: only the rest is sent again.
#[test]
fn a_delivered_part_of_a_batch_is_not_sent_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let start = |run: u64| {
        let batching = Batching { events_max: 100, age_max: std::time::Duration::ZERO, interval: None };
        let spool = Arc::new(Spool::new(Log::new(small(), origin(run)), batching));
        spool.attach(Box::new(Folder::open(folder.path()).unwrap())).unwrap();
        spool
    };
    let take = |spool: &Arc<Spool>| match spool.take(secs(9)) {
        TakeOutcome::Batch(batch) => batch,
        TakeOutcome::Nothing { until } => panic!("nothing before {until:?}"),
    };
    let seqs = |batch: &InFlight| batch.events().iter().map(|event| event.seq).collect::<Vec<_>>();
    let commit =
        |spool: &Spool| spool.commit(secs(9), crate::platform::clock::ClockSyncSample::UNKNOWN, true);
    let put = |spool: &Spool, events: Range<u64>| {
        let mut coming: Vec<Event> =
            events.map(|seq| event(if seq % 3 == 0 { TRACK } else { CROSSING }, seq)).collect();
        spool.put(Mono::ZERO, |out| out.append(&mut coming));
    };
    for committed in [0, 7, 20] {
        let spool = start(1);
        put(&spool, 0..committed);
        commit(&spool);
        put(&spool, committed..20);
        let mut batch = take(&spool);
        assert_eq!(seqs(&batch), (0..20).collect::<Vec<_>>());
        batch.acknowledge(secs(9), 0..10);
        // Out of order: 12 and 13 are two crossings and a track that follow events still waiting.
        batch.acknowledge(secs(9), 13..14);
        assert_eq!((batch.left(), spool.waiting()), (9, 0), "{committed}");
        commit(&spool);
        // Uncommitted events are lost.
        drop((batch, spool));
        let spool = start(2);
        let mut batch = take(&spool);
        assert_eq!(seqs(&batch), (10..20).collect::<Vec<_>>(), "{committed}");
        batch.acknowledge(secs(9), 0..10);
        assert_eq!(batch.left(), 0);
        drop(batch);
        commit(&spool);
        assert_eq!((spool.waiting(), spool.state().tally.damaged_events), (0, 0));
    }
}

/// Events that are not acknowledged when a batch is dropped are taken again, in order.
#[test]
fn a_dropped_batch_is_requeued() {
    let batching = Batching { events_max: 10, age_max: std::time::Duration::ZERO, interval: None };
    let spool = Arc::new(Spool::new(Log::new(small(), origin(1)), batching));
    let mut coming: Vec<Event> = (0..12).map(|seq| event(CROSSING, seq)).collect();
    spool.put(Mono::ZERO, |out| out.append(&mut coming));
    let taken = |acknowledged: Range<usize>| {
        let TakeOutcome::Batch(mut batch) = spool.take(secs(9)) else { panic!("nothing waits") };
        batch.acknowledge(secs(9), acknowledged);
        (batch.events()[0].seq, batch.events().len(), batch.left())
    };
    assert_eq!(taken(0..3), (0, 10, 7));
    assert_eq!((spool.waiting(), taken(2..9)), (9, (3, 9, 2)), "a part in the middle");
    assert_eq!((spool.waiting(), taken(0..9)), (9, (3, 9, 0)));
    assert_eq!(spool.waiting(), 0);
}

fn take(spool: &Arc<Spool>) -> InFlight {
    match spool.take(secs(9)) {
        TakeOutcome::Batch(batch) => batch,
        TakeOutcome::Nothing { until } => panic!("nothing before {until:?}"),
    }
}

fn put(spool: &Spool, seqs: Range<u64>) {
    let mut coming: Vec<Event> = seqs.map(|seq| event(CROSSING, seq)).collect();
    spool.put(Mono::ZERO, |out| out.append(&mut coming));
}

fn eager(log: Log) -> Arc<Spool> {
    let batching = Batching { events_max: 10, age_max: std::time::Duration::ZERO, interval: None };
    Arc::new(Spool::new(log, batching))
}

/// The delivery keeps its back-off while a disk is tried again and again.
#[test]
fn an_attach_that_fails_calls_no_batch_back() {
    let spool = eager(Log::new(small(), origin(1)));
    put(&spool, 0..3);
    let batch = take(&spool);
    let disk = FaultDisk::new(7);
    let mut before = Log::new(small(), origin(2));
    before.attach(Box::new(disk.clone())).unwrap();
    before.append(secs(1), &event(CROSSING, 0));
    before.commit(secs(1), None, true);
    drop(before);
    disk.set_away(true);
    assert!(spool.attach(Box::new(disk.clone())).is_err());
    assert_eq!((batch.is_called_back(), batch.left()), (false, 3));
    disk.set_away(false);
    spool.attach(Box::new(disk)).unwrap();
    assert!(batch.is_called_back(), "the disk's event comes first");
}

/// A disk without events changes nothing for a batch in flight: it is sent once, wherever its events are.
#[test]
fn an_empty_disk_calls_no_batch_back() {
    let spool = eager(Log::new(small(), origin(1)));
    let disk = FaultDisk::new(1);
    put(&spool, 0..3);
    let mut batch = take(&spool);
    batch.acknowledge(secs(9), 1..2);
    spool.attach(Box::new(disk.clone())).unwrap();
    put(&spool, 3..5);
    assert_eq!((batch.is_called_back(), batch.left(), spool.waiting()), (false, 2, 2));
    spool.commit(secs(9), crate::platform::clock::ClockSyncSample::UNKNOWN, true);
    batch.acknowledge(secs(9), 0..1);
    drop(batch);
    let mut batch = take(&spool);
    let seqs: Vec<u64> = batch.events().iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [2, 3, 4], "what was not acknowledged, and what came later");
    batch.acknowledge(secs(9), 0..3);
    drop(batch);
    spool.commit(secs(9), crate::platform::clock::ClockSyncSample::UNKNOWN, true);
    assert_eq!((spool.waiting(), spool.state().tally.dropped_unsent()), (0, 0));
    drop(spool);
    let mut log = Log::new(small(), origin(2));
    log.attach(Box::new(disk)).unwrap();
    assert_eq!(log.waiting(), 0, "all of it is recorded as done");
}

/// A batch that was read from a folder which is gone now is in memory, and is delivered; nothing of a new folder joins it.
#[test]
fn a_batch_outlives_its_folder() {
    let parent = tempfile::tempdir().unwrap();
    let home = parent.path().join("spool");
    let open = || Box::new(Folder::open(&home).unwrap());
    for is_delivered in [true, false] {
        let spool = eager(Log::new(small(), origin(1)));
        spool.attach(open()).unwrap();
        put(&spool, 0..5);
        spool.commit(secs(9), crate::platform::clock::ClockSyncSample::UNKNOWN, true);
        let mut batch = take(&spool);
        std::fs::remove_dir_all(&home).unwrap();
        assert!(spool.check_disk().is_err());
        spool.attach(open()).unwrap();
        assert!(!batch.is_called_back());
        put(&spool, 5..7);
        batch.refill();
        assert_eq!((batch.left(), spool.waiting()), (5, 2));
        if is_delivered {
            batch.acknowledge(secs(9), 0..5);
        }
        drop(batch);
        let dropped = spool.state().tally.dropped_unsent();
        assert_eq!(dropped, if is_delivered { 0 } else { 5 }, "each event in exactly one count");
        let batch = take(&spool);
        assert_eq!((batch.events()[0].seq, batch.left()), (5, 2));
        drop(batch);
        std::fs::remove_dir_all(&home).unwrap();
    }
}

/// A folder that was only hidden comes back: its events in flight are read from it again, and sent once.
#[test]
fn a_batch_is_called_back_when_its_own_folder_returns() {
    let parent = tempfile::tempdir().unwrap();
    let (home, away) = (parent.path().join("spool"), parent.path().join("away"));
    let open = || Box::new(Folder::open(&home).unwrap());
    let spool = eager(Log::new(small(), origin(1)));
    spool.attach(open()).unwrap();
    put(&spool, 0..5);
    spool.commit(secs(9), crate::platform::clock::ClockSyncSample::UNKNOWN, true);
    let batch = take(&spool);
    std::fs::rename(&home, &away).unwrap();
    assert!(spool.check_disk().is_err());
    std::fs::rename(&away, &home).unwrap();
    spool.attach(open()).unwrap();
    assert!(batch.is_called_back());
    drop(batch);
    assert_eq!((spool.waiting(), spool.state().tally.dropped_unsent()), (5, 0));
    let mut batch = take(&spool);
    batch.acknowledge(secs(9), 0..5);
    drop(batch);
    assert_eq!(spool.waiting(), 0);
}

/// Deliveries are recorded after the interval for events that matter, whatever else waits for its commit.
#[test]
fn a_delivery_is_recorded_soon_although_statistics_may_wait() {
    let (mut log, mut out) = (Log::new(small(), origin(1)), Vec::new());
    log.attach(Box::new(FaultDisk::new(1))).unwrap();
    log.append(secs(1), &event(TRACK, 0));
    log.commit(secs(1), None, true);
    log.append(secs(2), &event(STATS, 1));
    assert_eq!(log.due(), Some(secs(2) + small().checkpoint_interval));
    log.take(1, &mut out);
    log.done(secs(3));
    assert_eq!(log.due(), Some(secs(3) + small().commit_interval));
}

/// A refused event is recorded as done only after its dead letter is on disk: a full disk that takes no new file must not lose it.
#[test]
fn a_refused_event_waits_until_its_dead_letter_is_on_disk() {
    let (disk, mut out) = (FaultDisk::new(3), Vec::new());
    let refuse = |log: &mut Log, out: &mut Vec<Event>| {
        out.clear();
        let taken = log.take(10, out).unwrap();
        let origin = (*taken.origin).clone();
        let (clock, why) = (crate::platform::clock::ClockSyncSample::UNKNOWN, crate::event::fixed("422"));
        log.write_dead_letter(secs(2), record::Dead { origin, clock, why, event: out[0].clone() });
        log.acknowledge(secs(2), out);
        log.commit(secs(3), None, true);
    };
    let mut log = Log::new(small(), origin(1));
    log.attach(Box::new(disk.clone())).unwrap();
    log.append(secs(1), &event(CROSSING, 0));
    log.commit(secs(1), None, true);
    disk.set_fault_modes(FaultModes { full: 1, ..FaultModes::default() });
    refuse(&mut log, &mut out);
    assert_eq!(log.waiting(), 0);
    drop(log);
    disk.reboot(false);
    disk.set_fault_modes(FaultModes::default());
    let mut log = Log::new(small(), origin(2));
    log.attach(Box::new(disk.clone())).unwrap();
    assert_eq!(log.waiting(), 1, "it is neither done nor a dead letter");
    // With space on the disk both are written.
    refuse(&mut log, &mut out);
    drop(log);
    disk.reboot(false);
    let mut log = Log::new(small(), origin(3));
    log.attach(Box::new(disk)).unwrap();
    assert_eq!((log.waiting(), log.waiting_of(Class::Dead)), (0, 1));
}

/// A card that loses contact now and then, and comes back each time, is not given up: only a lasting failure is.
#[test]
fn short_read_failures_do_not_add_up() {
    let (disk, mut taken) = (FaultDisk::new(5), 0);
    let take = |log: &mut Log| log.take(1, &mut Vec::new()).is_some();
    let mut log = Log::new(Params { segment_bytes: 1 << 20, ..small() }, origin(1));
    log.attach(Box::new(disk.clone())).unwrap();
    for round in 0..40 {
        let now = |second: u64| secs(60 * round + second);
        (0..2).for_each(|half| log.append(now(0), &event(CROSSING, 2 * round + half)));
        log.commit(now(0), None, true);
        disk.set_away(true);
        log.done(now(1));
        assert!(!take(&mut log), "{round}");
        disk.set_away(false);
        log.done(now(2));
        taken += u64::from(take(&mut log));
        log.done(now(2));
    }
    assert_eq!((taken, log.tally().damaged_events, log.waiting()), (40, 0, 40));
}

/// A disk whose sync blocks until it is released.
#[derive(Debug)]
struct Blocking {
    inside: crate::sim::disk::FaultDisk,
    gate: std::sync::Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>,
    entered: std::sync::mpsc::Sender<()>,
}

#[derive(Debug)]
struct BlockingFile(
    Box<dyn disk::DiskFile>,
    std::sync::Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>,
    std::sync::mpsc::Sender<()>,
);

impl disk::DiskFile for BlockingFile {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn sync(&mut self) -> std::io::Result<()> {
        self.2.send(()).unwrap();
        let open = self.1.1.wait_while(self.1.0.lock().unwrap(), |open| !*open).unwrap();
        drop(open);
        self.0.sync()
    }
    fn set_len(&mut self, bytes: u64) -> std::io::Result<()> {
        self.0.set_len(bytes)
    }
}

impl disk::Disk for Blocking {
    fn list(&mut self) -> std::io::Result<Vec<(String, u64)>> {
        self.inside.list()
    }
    fn create(&mut self, name: &str, bytes: u64) -> std::io::Result<Box<dyn disk::DiskFile>> {
        let file = self.inside.create(name, bytes)?;
        Ok(Box::new(BlockingFile(file, self.gate.clone(), self.entered.clone())))
    }
    fn open(&mut self, name: &str) -> std::io::Result<Box<dyn disk::DiskFile>> {
        self.inside.open(name)
    }
    fn rename(&mut self, from: &str, to: &str) -> std::io::Result<()> {
        self.inside.rename(from, to)
    }
    fn remove(&mut self, name: &str) -> std::io::Result<()> {
        self.inside.remove(name)
    }
    fn sync_names(&mut self) -> std::io::Result<()> {
        self.inside.sync_names()
    }
    fn free_bytes(&mut self) -> std::io::Result<u64> {
        self.inside.free_bytes()
    }
}

#[test]
fn the_state_is_available_while_a_sync_hangs() {
    let gate = std::sync::Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    let (entered, has_entered) = std::sync::mpsc::channel();
    let inside = crate::sim::disk::FaultDisk::new(1);
    let batching = Batching { events_max: 2, age_max: std::time::Duration::ZERO, interval: None };
    let spool = std::sync::Arc::new(Spool::new(Log::new(small(), origin(1)), batching));
    spool.attach(Box::new(Blocking { inside, gate: gate.clone(), entered })).unwrap();
    let mut coming: Vec<Event> = (0..5).map(|seq| event(CROSSING, seq)).collect();
    spool.put(Mono::ZERO, |out| out.append(&mut coming));
    let before = spool.state();
    assert_eq!((before.waiting, before.tally.appended, before.has_disk), (5, 5, true));
    let committing = std::thread::spawn({
        let spool = std::sync::Arc::clone(&spool);
        move || spool.commit(secs(9), crate::platform::clock::ClockSyncSample::UNKNOWN, true)
    });
    has_entered.recv().unwrap();
    // The lock is held now, and stays held: a reader that wanted it would never return.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn({
        let spool = std::sync::Arc::clone(&spool);
        move || {
            spool.flush();
            sender.send((spool.state(), spool.waiting(), spool.batch_events_max())).unwrap();
        }
    });
    let state =
        receiver.recv_timeout(std::time::Duration::from_secs(30)).expect("the reader waited for the disk");
    assert!(!committing.is_finished());
    assert_eq!(state, (before, 5, 2));
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    committing.join().unwrap();
    assert_eq!(spool.state().tally.commits, 1);
}

/// Any number of other programs' files: they stay, and do not interfere.
#[test]
fn files_of_others_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = on_disk(folder.path(), small(), 1);
    (0..9).for_each(|seq| log.append(Mono::ZERO, &event(CROSSING, seq)));
    log.commit(Mono::ZERO, None, true);
    drop(log);
    let foreign = [
        ("counts-3fffffffffffffff.seg", 100),
        ("counts-0000000000000007.seg", 32 << 10),
        ("alerts-000000ffffffffff.seg", 5000),
        ("free-0000000000000008.seg", 32 << 10),
        ("free-0000000000000009.seg", 10),
        ("notes.txt", 10),
    ];
    for (name, bytes) in foreign {
        std::fs::write(folder.path().join(name), vec![b'x'; bytes]).unwrap();
    }
    // More of them than a spool may have segments.
    for number in 0..disk::FILES_MAX + 100 {
        std::fs::write(folder.path().join(format!("photo-{number}.jpg")), b"").unwrap();
    }
    for run in 2..5 {
        let (mut log, recovered) = on_disk(folder.path(), small(), run);
        assert_eq!((recovered.events, recovered.foreign), (9, 5), "run {run}");
        // Segments are begun and finished although other files have their names.
        for seq in 0..2000 {
            log.append(Mono::ZERO, &event(CROSSING, seq));
            if seq % 100 == 99 {
                log.commit(Mono::ZERO, None, true);
            }
        }
        assert_eq!(log.trouble(), None);
        assert_eq!(drain(&mut log).len(), 2009, "run {run}");
        (0..9).for_each(|seq| log.append(Mono::ZERO, &event(CROSSING, seq)));
        log.commit(Mono::ZERO, None, true);
    }
    for (name, bytes) in foreign {
        let kept = std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(kept, vec![b'x'; bytes], "{name}");
    }
    let photos = std::fs::read_dir(folder.path()).unwrap();
    let photos = photos.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().ends_with(".jpg"));
    assert_eq!(photos.count(), disk::FILES_MAX + 100);
}

/// Another program takes a name while the spool is open.
#[test]
fn files_that_others_create_under_segment_names_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = on_disk(folder.path(), small(), 1);
    let taken: Vec<_> = (0..5).map(|id| folder.path().join(format!("counts-{id:016x}.seg"))).collect();
    taken.iter().for_each(|path| std::fs::write(path, b"theirs").unwrap());
    (0..9).for_each(|seq| log.append(Mono::ZERO, &event(CROSSING, seq)));
    log.commit(Mono::ZERO, None, true);
    assert_eq!((log.trouble(), log.tally().failures), (None, 0));
    assert!(taken.iter().all(|path| std::fs::read(path).unwrap() == b"theirs"));
    drop(log);
    let (mut log, recovered) = on_disk(folder.path(), small(), 2);
    assert_eq!((recovered.events, recovered.foreign, drain(&mut log).len()), (9, 5, 9));
}

/// The folder disappears while events wait in it, in memory, and in flight.
#[test]
fn a_lost_folder_is_noticed_and_its_events_are_counted() {
    let parent = tempfile::tempdir().unwrap();
    let (home, away) = (parent.path().join("spool"), parent.path().join("away"));
    for taken in [0, 3, 20, 25] {
        let _none = std::fs::remove_dir_all(&home);
        let _none = std::fs::remove_dir_all(&away);
        let (mut log, _) = on_disk(&home, small(), 1);
        (0..20).for_each(|seq| log.append(Mono::ZERO, &event(CROSSING, seq)));
        log.commit(Mono::ZERO, None, true);
        (20..30).for_each(|seq| log.append(Mono::ZERO, &event(CROSSING, seq)));
        let mut out = Vec::new();
        if taken > 0 {
            log.take(taken, &mut out);
        }
        log.check_disk().unwrap();
        std::fs::rename(&home, &away).unwrap();
        assert!(log.check_disk().is_err() && !log.has_disk(), "{taken}");
        let lost = 20u64.saturating_sub(taken as u64);
        let dropped = |log: &Log| log.tally().dropped[Class::Counts as usize];
        assert_eq!(
            (dropped(&log), log.tally().detached, log.waiting()),
            (lost, 1, 30 - taken as u64 - lost),
            "{taken}"
        );
        assert_eq!(log.why_detached(), Some("its folder is gone"));
        if taken == 25 {
            // The receiver does not respond: events in flight that were on the disk are lost too.
            log.requeue();
            assert_eq!((dropped(&log), log.waiting()), (20, 10));
        } else {
            log.done(secs(1));
        }
        log.attach(Box::new(Folder::open(&home).unwrap())).unwrap();
        log.append(secs(2), &event(CROSSING, 30));
        log.commit(secs(2), None, true);
        assert!(log.trouble().is_none() && log.disk_bytes() > 0);
        let from = if taken == 25 { 20 } else { taken.max(20) as u64 };
        let seqs: Vec<u64> = drain(&mut log).into_iter().map(|(_, seq, _)| seq).collect();
        assert_eq!(seqs, (from..31).collect::<Vec<_>>(), "{taken}");
        assert_eq!(dropped(&log), if taken == 25 { 20 } else { lost });
        drop(log);
        // Once the folder is back in its place, its events are sent after all.
        std::fs::remove_dir_all(&home).unwrap();
        std::fs::rename(&away, &home).unwrap();
        let (mut log, recovered) = on_disk(&home, small(), 2);
        assert_eq!((recovered.events, drain(&mut log).len()), (20, 20));
    }
}
