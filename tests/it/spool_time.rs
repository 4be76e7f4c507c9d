//! A board whose calendar is wrong, missing, set late, stepped by years, and lost again, over many boots: time stamps are within a second
//! of the truth or have bounds that contain it, and are never before the year of the build.
//!
//! `FLYTRAP_SEED=…` begins with that seed, else one is drawn.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use flytrap::delivery::spool::{Log, Params};
use flytrap::event::{Body, Event, Origin, Stats, fixed};
use flytrap::platform::calendar::{Bounds, Stamp, Timekeeper};
use flytrap::platform::clock::{BUILD_UNIX_NANOS, Clock, Mono, Wall};
use flytrap::sim::disk::FaultDisk;
use flytrap::sim::random::Random;

use crate::common::{repeat, seed};

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;
const YEAR: i64 = 365 * DAY;

/// 2026-11-24.
const TODAY: i64 = 1_795_478_400 * SECOND;

/// The clocks of a board, and the truth.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    truth: i64,
    mono: i64,
    /// The calendar reads `mono` plus this.
    offset: i64,
    synchronised: bool,
    /// Drift of the boot clock, parts per million too fast.
    drift: i64,
}

impl Clocks {
    fn pass(&mut self, nanos: i64) {
        self.truth += nanos;
        self.mono += nanos + nanos / 1_000_000 * self.drift;
    }
}

struct Board(Mutex<Clocks>);

impl Clock for Board {
    fn mono(&self) -> Mono {
        Mono::from_nanos(self.0.lock().unwrap().mono as u64)
    }
    fn wall(&self) -> Wall {
        let clocks = self.0.lock().unwrap();
        Wall { unix_nanos: clocks.mono + clocks.offset, synchronised: clocks.synchronised }
    }
}

#[derive(Debug, Default)]
struct Totals {
    stamps: u64,
    trusted: u64,
    bounded: u64,
    /// Stamps that were trusted and had no bounds.
    worst: i64,
    boots: u64,
}

struct World {
    random: Random,
    disk: FaultDisk,
    board: Arc<Board>,
    time: Arc<Timekeeper>,
    log: Log,
    run: u64,
    boot: u64,
    seq: u64,
    /// True time of each event.
    truth: BTreeMap<(String, u64), i64>,
    totals: Totals,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let disk = FaultDisk::new(random.bits());
        let clocks = Clocks { truth: TODAY, mono: 0, offset: 0, synchronised: false, drift: 0 };
        let board = Arc::new(Board(Mutex::new(clocks)));
        let time = Arc::new(Timekeeper::new(Arc::clone(&board) as Arc<dyn Clock>));
        let log = Log::new(Params::default(), Origin::new("x", "0", Mono::ZERO));
        let (truth, totals) = (BTreeMap::new(), Totals::default());
        let mut world = World { random, disk, board, time, log, run: 0, boot: 0, seq: 0, truth, totals };
        world.boot();
        world
    }

    fn clocks<T>(&self, change: impl FnOnce(&mut Clocks) -> T) -> T {
        change(&mut self.board.0.lock().unwrap())
    }

    fn nanos(&mut self, below: i64) -> i64 {
        self.random.whole(below as u64) as i64
    }

    /// The machine starts after some time without power.
    fn boot(&mut self) {
        self.boot += 1;
        self.totals.boots += 1;
        let off = if self.random.one_in(2) { self.nanos(60 * SECOND) } else { self.nanos(30 * DAY) };
        let (guess, drift) = (self.nanos(8 * YEAR), self.nanos(101) - 50);
        let kind = self.random.whole(3);
        self.clocks(|clocks| {
            let before = clocks.mono + clocks.offset;
            clocks.truth += off;
            clocks.mono = 0;
            clocks.offset = match kind {
                0 => 0,                        // 1970
                1 => before,                   // the time of the last shutdown, from a file
                _ => TODAY - 4 * YEAR + guess, // a clock chip without a battery
            };
            (clocks.synchronised, clocks.drift) = (false, drift);
        });
        self.start();
    }

    /// The program starts.
    fn start(&mut self) {
        self.run += 1;
        self.seq = 0;
        let nanos = 2 * SECOND + self.nanos(10 * SECOND);
        self.clocks(|clocks| clocks.pass(nanos));
        let origin = Origin::new("mast-7", &format!("{:016x}", self.boot), self.board.mono());
        self.time = Arc::new(Timekeeper::new(Arc::clone(&self.board) as Arc<dyn Clock>));
        let params = Params { memory_bytes: 8 << 10, segment_bytes: 16 << 10, ..Params::default() };
        self.log = Log::new(params, origin);
        let recovered = self.log.attach(Box::new(self.disk.clone())).unwrap();
        if let Some(clock) = recovered.clock {
            self.time.learn(clock);
        }
    }

    fn event(&mut self, run: &Origin) {
        let body = Body::Stats(Stats { uptime_ms: self.random.bits(), ..Stats::default() });
        let event = Event { seq: self.seq, at: self.board.mono(), camera: fixed("n"), body };
        self.log.append(event.at, &event);
        self.truth.insert((run.boot.to_string(), self.seq), self.clocks(|clocks| clocks.truth));
        self.seq += 1;
    }

    /// The work of the spool's thread.
    fn commit(&mut self) {
        let map = self.time.sample();
        self.log.commit(self.board.mono(), Some(map).filter(|map| map.wall.plausible()), false);
    }

    fn deliver(&mut self) {
        let mut events = Vec::new();
        let Some(taken) = self.log.take(20, &mut events) else { return };
        let calendar = self.time.calendar(taken.clock, taken.bounds);
        for event in &events {
            let truth = self.truth[&(taken.origin.boot.to_string(), event.seq)];
            let clocks = self.clocks(|clocks| *clocks);
            let stamp = calendar.stamp(event.at);
            let stated = || format!("{stamp:?}, truth {truth}, {clocks:?}, {calendar:?}, {event:?}");
            self.totals.judge(stamp, truth, clocks.truth).unwrap_or_else(|why| panic!("{why}: {}", stated()));
        }
        self.log.done(self.board.mono());
    }

    fn step(&mut self) {
        let origin = Origin::clone(self.log.origin());
        match self.random.whole(40) {
            0..=15 => self.event(&origin),
            16..=23 => {
                let nanos = self.nanos(600 * SECOND);
                self.clocks(|clocks| clocks.pass(nanos));
            }
            24 => {
                let nanos = self.nanos(12 * DAY);
                self.clocks(|clocks| clocks.pass(nanos));
            }
            25 | 26 => self.clocks(|clocks| {
                clocks.offset = clocks.truth - clocks.mono;
                (clocks.synchronised, clocks.drift) = (true, 0);
            }),
            27 => {
                let drift = self.nanos(41) - 20;
                self.clocks(|clocks| (clocks.synchronised, clocks.drift) = (false, drift));
            }
            28 => {
                let years = self.nanos(60 * YEAR) - 30 * YEAR;
                self.clocks(|clocks| {
                    clocks.offset += years;
                    clocks.synchronised = false; // The kernel reports this after every clock_settime.
                });
            }
            29 => self.start(),
            30 if self.random.one_in(2) => {
                self.disk.reboot(false);
                self.boot();
            }
            31 => {
                self.log.commit(self.board.mono(), None, true);
                self.disk.reboot(true);
                self.boot();
            }
            _ => self.deliver(),
        }
        self.commit();
    }
}

impl Totals {
    fn judge(&mut self, stamp: Stamp, truth: i64, now: i64) -> Result<(), &'static str> {
        self.stamps += 1;
        let Stamp { time, synchronised, not_before, not_after } = stamp;
        let stated = [time, not_before, not_after];
        if stated.iter().flatten().any(|time| *time < BUILD_UNIX_NANOS) {
            return Err("before the build");
        }
        if not_before.is_some_and(|bound| truth < bound) || not_after.is_some_and(|bound| truth > bound) {
            return Err("outside its bounds");
        }
        self.bounded += u64::from(not_after.is_some());
        if !synchronised {
            return Ok(());
        }
        self.trusted += 1;
        let time = time.ok_or("trusted and absent")?;
        if time > now + DAY {
            return Err("in the future");
        }
        if not_after.is_none() {
            self.worst = self.worst.max((time - truth).abs());
            if self.worst > SECOND {
                return Err("more than a second from the truth");
            }
        }
        Ok(())
    }
}

#[test]
fn stamps_are_true_or_bounded_whatever_the_calendar_does() {
    let first = seed("stamps_are_true_or_bounded");
    let mut all = Totals::default();
    for seed in first..first + 60 {
        let mut world = World::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..3000).for_each(|_| world.step());
        }));
        assert!(outcome.is_ok(), "{}", repeat("stamps_are_true_or_bounded", seed));
        let Totals { stamps, trusted, bounded, worst, boots } = world.totals;
        all.stamps += stamps;
        all.trusted += trusted;
        all.bounded += bounded;
        all.boots += boots;
        all.worst = all.worst.max(worst);
    }
    println!("MEASURED calendar: {all:?}");
    assert!(all.trusted > all.stamps / 3 && all.bounded > all.stamps / 20, "{all:?}");
}

/// The simple case: a board that boots in 1970.
#[test]
fn events_from_before_the_calendar_was_set_are_stamped_correctly() {
    let mut world = World::new(7);
    world.clocks(|clocks| (clocks.offset, clocks.drift) = (0, 50));
    let origin = Origin::clone(world.log.origin());
    for _ in 0..50 {
        world.event(&origin);
        world.clocks(|clocks| clocks.pass(60 * SECOND));
        world.commit();
    }
    let unset = world.time.calendar(None, Bounds::default()).stamp(world.board.mono());
    assert_eq!((unset.time, unset.synchronised), (None, false), "1970 is never sent");
    world.clocks(|clocks| (clocks.offset, clocks.synchronised) = (clocks.truth - clocks.mono, true));
    world.commit();
    // Someone sets it wrong by hand: the synchronised reading is kept.
    world.clocks(|clocks| (clocks.offset, clocks.synchronised) = (clocks.offset - 20 * YEAR, false));
    (0..5).for_each(|_| world.deliver());
    assert_eq!((world.totals.stamps, world.totals.trusted, world.totals.bounded), (50, 50, 0));
    println!("MEASURED worst stamp of a boot in 1970: {} ms", world.totals.worst / 1_000_000);
    // The check can fail.
    let stamp = Stamp { time: Some(TODAY), synchronised: true, not_before: None, not_after: None };
    assert!(world.totals.judge(stamp, TODAY + 2 * SECOND, TODAY).is_err());
    assert!(world.totals.judge(Stamp { time: Some(0), ..stamp }, 0, TODAY).is_err());
}
