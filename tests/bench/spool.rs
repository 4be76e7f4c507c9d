//! The spool against SQLite (WAL, synchronous=FULL, one table as a queue): the same events, the same groups, one run.
//!
//! `cargo bench --manifest-path tests/bench/Cargo.toml`. Each measurement is a process of its own, so that its peak memory and its writes are its own;
//! "open" is after a kill, with 1 000 000 events waiting. Both queues have been filled and emptied once before, as on a device
//! that is not new. Figures that matter are the ratios.
//!
//! Bytes are those of /proc/self/io, which counts pages and, with newer kernels, groups of pages that were touched. With
//! `FLYTRAP_BENCH_FOLDER` on a file system of its own and `FLYTRAP_BENCH_BLOCK=/sys/block/loop0/stat` they are what reached the
//! block device, journal included.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a benchmark")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use flytrap::base::geometry::PointPx;
use flytrap::delivery::spool::disk::Folder;
use flytrap::delivery::spool::{Log, Params, Quota};
use flytrap::event::{Body, Crossing, Direction, Event, Origin, RECORD_BYTES_MAX, fixed};
use flytrap::platform::clock::Mono;

const EVENTS: u64 = 1_000_000;

/// How often it is opened.
const OPENS: usize = 21;

fn event(seq: u64) -> Event {
    let crossing = Crossing {
        track: seq / 3,
        class: fixed("car"),
        line: fixed("middle"),
        direction: Direction::Forward,
        direction_name: fixed("left-to-right"),
        point: PointPx { x: seq as f32, y: 240.5 },
        score: 0.75,
    };
    Event {
        seq,
        at: Mono::from_nanos(seq * 1_000_000_000),
        camera: fixed("north"),
        body: Body::Crossing(crossing),
    }
}

/// A queue on disk.
trait Queue {
    fn put(&mut self, events: std::ops::Range<u64>);
    /// The oldest, which stay.
    fn look(&mut self, most: usize) -> usize;
    /// The oldest, which go.
    fn take(&mut self, most: usize) -> usize;
    /// Takes as many as are put: what a queue is for. One commit.
    fn through(&mut self, events: std::ops::Range<u64>) -> usize;
}

struct Ours(Log, Vec<Event>);

impl Ours {
    fn open(folder: &Path) -> Self {
        let params = Params {
            memory_bytes: 512 << 10,
            commit_bytes: 512 << 10,
            quota: Quota { bytes: 4 << 30, events: 1 << 40, age_max: None, headroom: 0 },
            ..Params::default()
        };
        let started = std::process::id();
        let mut log =
            Log::new(params, Origin::new("bench", "0123456789abcdef", Mono::from_nanos(started.into())));
        log.attach(Box::new(Folder::open(folder).unwrap())).unwrap();
        Ours(log, Vec::with_capacity(1000))
    }
}

impl Queue for Ours {
    fn put(&mut self, events: std::ops::Range<u64>) {
        for seq in events {
            self.0.append(Mono::ZERO, &event(seq));
        }
        self.0.commit(Mono::ZERO, None, true);
        assert!(self.0.trouble().is_none(), "{:?}", self.0.trouble());
    }

    fn look(&mut self, most: usize) -> usize {
        self.1.clear();
        self.0.take(most, &mut self.1);
        self.1.len()
    }

    fn take(&mut self, most: usize) -> usize {
        self.look(most);
        self.0.done(Mono::ZERO);
        self.0.commit(Mono::ZERO, None, true);
        self.1.len()
    }

    fn through(&mut self, events: std::ops::Range<u64>) -> usize {
        let taken = self.look((events.end - events.start) as usize);
        self.0.done(Mono::ZERO);
        self.put(events);
        taken
    }
}

struct Sqlite(rusqlite::Connection);

impl Sqlite {
    fn open(folder: &Path) -> Self {
        let db = rusqlite::Connection::open(folder.join("queue.db")).unwrap();
        db.pragma_update(None, "journal_mode", "WAL").unwrap();
        db.pragma_update(None, "synchronous", "FULL").unwrap();
        db.execute("CREATE TABLE IF NOT EXISTS queue (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)", ())
            .unwrap();
        Sqlite(db)
    }
}

/// Ids up to the last, and how many.
fn select(db: &rusqlite::Connection, most: usize) -> (i64, usize) {
    let mut select = db.prepare_cached("SELECT id, payload FROM queue ORDER BY id LIMIT ?1").unwrap();
    let (mut last, mut count) = (0i64, 0);
    let mut rows = select.query([most as i64]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        last = row.get(0).unwrap();
        Event::decode(row.get_ref(1).unwrap().as_blob().unwrap()).unwrap();
        count += 1;
    }
    (last, count)
}

fn insert(db: &rusqlite::Connection, events: std::ops::Range<u64>) {
    let mut insert = db.prepare_cached("INSERT INTO queue (payload) VALUES (?1)").unwrap();
    let mut buffer = [0; RECORD_BYTES_MAX];
    for seq in events {
        insert.execute([event(seq).encode(&mut buffer)]).unwrap();
    }
}

fn delete(db: &rusqlite::Connection, last: i64) {
    db.prepare_cached("DELETE FROM queue WHERE id <= ?1").unwrap().execute([last]).unwrap();
}

impl Queue for Sqlite {
    fn put(&mut self, events: std::ops::Range<u64>) {
        let transaction = self.0.transaction().unwrap();
        insert(&transaction, events);
        transaction.commit().unwrap();
    }

    fn look(&mut self, most: usize) -> usize {
        select(&self.0, most).1
    }

    fn take(&mut self, most: usize) -> usize {
        let (last, count) = select(&self.0, most);
        delete(&self.0, last);
        count
    }

    fn through(&mut self, events: std::ops::Range<u64>) -> usize {
        let transaction = self.0.transaction().unwrap();
        let (last, count) = select(&transaction, (events.end - events.start) as usize);
        delete(&transaction, last);
        insert(&transaction, events);
        transaction.commit().unwrap();
        count
    }
}

fn proc(file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn now() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "a benchmark")]
    Instant::now()
}

/// In a process of its own: prints its figures, then is killed.
fn child(who: &str, what: &str, folder: &Path) {
    let base = proc("/proc/self/status", "VmHWM:");
    let io = proc("/proc/self/io", "write_bytes:");
    let begun = now();
    let mut queue: Box<dyn Queue> = match who {
        "spool" => Box::new(Ours::open(folder)),
        _ => Box::new(Sqlite::open(folder)),
    };
    let (what, group) = what.split_once(':').unwrap();
    let group: u64 = group.parse().unwrap();
    let done = match what {
        "put" => {
            for from in (0..EVENTS).step_by(group as usize) {
                queue.put(from..from + group);
            }
            EVENTS
        }
        "through" => {
            for from in (0..EVENTS).step_by(group as usize) {
                queue.through(from..from + group);
            }
            EVENTS
        }
        "open" => queue.look(1) as u64,
        _ => {
            let mut done = 0;
            loop {
                match queue.take(group as usize) {
                    0 => break done,
                    count => done += count as u64,
                }
            }
        }
    };
    let took = begun.elapsed();
    let wrote = proc("/proc/self/io", "write_bytes:") - io;
    let memory = proc("/proc/self/status", "VmHWM:") - base;
    println!("{} {done} {wrote} {memory}", took.as_nanos());
    // The cut: nothing is closed.
    std::process::abort();
}

#[derive(Clone, Copy)]
struct Figures {
    took: Duration,
    done: u64,
    wrote: u64,
    memory_kb: u64,
}

/// Bytes that the block device was given so far, if it is known which one.
fn block_bytes() -> Option<u64> {
    let path = std::env::var_os("FLYTRAP_BENCH_BLOCK")?;
    rustix::fs::sync();
    let text = std::fs::read_to_string(path).unwrap();
    Some(512 * text.split_whitespace().nth(6).unwrap().parse::<u64>().unwrap())
}

fn measure(who: &str, what: &str, folder: &Path) -> Figures {
    let before = block_bytes();
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--child", who, what])
        .arg(folder)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let numbers: Vec<u64> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let [nanos, done, wrote, memory_kb] = numbers[..] else {
        panic!("{who} {what}: {}", String::from_utf8_lossy(&out.stderr))
    };
    let wrote = before.zip(block_bytes()).map_or(wrote, |(before, after)| after - before);
    Figures { took: Duration::from_nanos(nanos), done, wrote, memory_kb }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "--child") {
        return child(&args[2], &args[3], Path::new(&args[4]));
    }
    let place = std::env::var_os("FLYTRAP_BENCH_FOLDER").map_or_else(std::env::temp_dir, Into::into);
    println!("{EVENTS} crossings; below {}", place.display());
    println!("{:<12} {:<7} {:>12} {:>14} {:>12} {:>12}", "", "", "events/s", "bytes/event", "peak kB", "ms");
    for group in [100, 1000] {
        let mut rows = Vec::new();
        for who in ["sqlite", "spool"] {
            let folder = tempfile::tempdir_in(&place).unwrap();
            for what in ["put", "drain"] {
                measure(who, &format!("{what}:{group}"), folder.path());
            }
            let mut figures = Vec::new();
            for what in ["put", "open", "drain", "through"] {
                // Opening writes nothing that lasts, so each is the same: the median of many, as one alone is mostly noise.
                let times = if what == "open" { OPENS } else { 1 };
                let mut all: Vec<Figures> =
                    (0..times).map(|_| measure(who, &format!("{what}:{group}"), folder.path())).collect();
                all.sort_by_key(|f| f.took);
                let f = all[times / 2];
                let rate = f.done as f64 / f.took.as_secs_f64();
                let (wrote, ms) = (f.wrote as f64 / f.done as f64, f.took.as_secs_f64() * 1e3);
                println!(
                    "{:<12} {who:<7} {rate:>12.0} {wrote:>14.1} {:>12} {ms:>12.2}",
                    format!("{what} {group}"),
                    f.memory_kb
                );
                figures.push(f);
            }
            rows.push(figures);
        }
        let ratio = |of: fn(&Figures) -> f64, step: usize| of(&rows[1][step]) / of(&rows[0][step]);
        let rate = |f: &Figures| f.done as f64 / f.took.as_secs_f64();
        println!(
            "spool / sqlite, groups of {group}: put {:.2} x events/s, {:.2} x bytes, {:.2} x memory; drain {:.2} x events/s, {:.2} x \
             bytes, {:.2} x memory; through {:.2} x events/s, {:.2} x bytes, {:.2} x memory; reopen {:.2} x time",
            ratio(rate, 0),
            ratio(|f| f.wrote as f64, 0),
            ratio(|f| f.memory_kb as f64, 0),
            ratio(rate, 2),
            ratio(|f| f.wrote as f64, 2),
            ratio(|f| f.memory_kb as f64, 2),
            ratio(rate, 3),
            ratio(|f| f.wrote as f64, 3),
            ratio(|f| f.memory_kb as f64, 3),
            ratio(|f| f.took.as_secs_f64(), 1),
        );
    }
}
