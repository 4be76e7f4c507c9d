//! Bytes that nobody would write, into everything that reads bytes from outside: records, whole segments, packed batches,
//! answers of servers. Valid ones are bent in many ways, and their checksums made right again, so that the inside is reached.
//! Nothing panics, everything ends, and what comes out keeps its promises.
//!
//! `FLYTRAP_FUZZ=…` sets how many executions of each (20 000 by default, some hundred for answers), `FLYTRAP_SEED=…` the seed (else it is drawn):
//! `FLYTRAP_FUZZ=10000000 cargo test --release --test it fuzz:: -- --nocapture`

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flytrap::delivery::spool::disk::Disk;
use flytrap::delivery::spool::record::{self, Acked, Position, Record};
use flytrap::delivery::spool::segment::{self, Footer, Header, Named, Sums, VERSION};
use flytrap::delivery::spool::{Class, Log, Params, Quota};
use flytrap::delivery::uplink::format::{cloudevents, influx, packed};
use flytrap::delivery::uplink::http::{Deadlines, HttpParams, HttpSink};
use flytrap::delivery::uplink::{Batch, Sink};
use flytrap::event::{Body, Event, Origin, RECORD_VERSION, Stats, fixed};
use flytrap::platform::calendar::Timekeeper;
use flytrap::platform::clock::{ClockSyncSample, Mono, SystemClock, Wall};
use flytrap::sim::disk::FaultDisk;
use flytrap::sim::random::Random;

use crate::common::{repeat, seed};

fn executions(by_default: u64) -> u64 {
    std::env::var("FLYTRAP_FUZZ").map_or(by_default, |count| count.parse().unwrap())
}

/// Runs `one` as often as wanted, each with a seed that repeats it.
fn fuzz(test: &str, by_default: u64, mut one: impl FnMut(&mut Random)) {
    let first = seed(&format!("fuzz::{test}"));
    let count = executions(by_default);
    for seed in first..first + count {
        let mut random = Random::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let outcome = catch_unwind(AssertUnwindSafe(|| one(&mut random)));
        assert!(outcome.is_ok(), "FLYTRAP_FUZZ=1 {}", repeat(&format!("fuzz::{test}"), seed));
    }
    println!("MEASURED fuzz {test}: {count} executions from seed {first}, no panic");
}

/// Bends bytes: flips, overwrites with numbers at the edge of their ranges, cuts, repeats, inserts.
fn bend(random: &mut Random, bytes: &mut Vec<u8>) {
    const EDGES: [u64; 10] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
    for _ in 0..1 + random.whole(6) {
        if bytes.is_empty() {
            bytes.push(random.bits() as u8);
        }
        let at = random.whole(bytes.len() as u64) as usize;
        let end = (at + 1 + random.whole(40) as usize).min(bytes.len());
        match random.whole(8) {
            0 | 1 => bytes[at] ^= 1 << random.whole(8),
            2 => bytes[at] = random.bits() as u8,
            3 => {
                let edge = EDGES[random.whole(10) as usize].to_le_bytes();
                let width = [1, 2, 4, 8][random.whole(4) as usize].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&edge[..width]);
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let piece = bytes[at..end].to_vec();
                let to = random.whole(bytes.len() as u64 + 1) as usize;
                bytes.splice(to..to, piece);
            }
            _ => bytes.insert(at, random.bits() as u8),
        }
    }
}

fn event(random: &mut Random, seq: u64) -> Event {
    let at = Mono::from_nanos(random.bits() >> random.whole(64));
    let body = match random.whole(4) {
        0 => Body::Degraded { reason: fixed(&"why ".repeat(random.whole(30) as usize)) },
        1 => {
            let (uptime_ms, processing_sum_us) = (random.bits(), random.bits() >> random.whole(64));
            Body::Stats(Stats { uptime_ms, processing_sum_us, ..Stats::default() })
        }
        2 => Body::CameraBack { absent_ms: random.bits(), width: 1, height: u32::MAX },
        _ => Body::Stopping { reason: fixed("é\u{1}\"\\") },
    };
    Event { seq, at, camera: fixed("north"), body }
}

fn origin() -> Origin {
    Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", Mono::from_nanos(5_000_000_000))
}

#[test]
fn any_record_bytes_never_panic() {
    fuzz("any_record_bytes_never_panic", 20_000, |random| {
        let position = Position { segment: random.bits() >> 2, offset: random.bits() as u32 >> 8 };
        let (seq, mut payload) = (random.bits(), Vec::new());
        let newest = 1 + random.whole(u64::from(RECORD_VERSION)) as u8;
        record::write(&mut payload, position, event(random, seq).encode_up_to(newest, &mut [0; 512]));
        let head = record::HEAD_BYTES;
        let mut payload = payload.split_off(head);
        bend(random, &mut payload);
        let _outcome = Record::decode(&payload);
        let _outcome = Event::decode(&payload);
        let mut frame = Vec::new();
        if (1..=record::PAYLOAD_BYTES_MAX).contains(&payload.len()) {
            record::write(&mut frame, position, &payload);
            assert_eq!(record::read(&frame, position), Some(&payload[..]));
            let whole = frame.clone();
            bend(random, &mut frame);
            if let Some(read) = record::read(&frame, position) {
                assert!(read == payload, "another record with the same checksum: {whole:?} {frame:?}");
            }
        }
    });
}

/// Gives a segment a footer with a valid checksum and numbers that are not so.
fn forge(random: &mut Random, disk: &FaultDisk, name: &str) {
    let Some(id) = Named::parse(name).map(Named::id) else { return };
    let number = |random: &mut Random| (random.bits() as u32) >> random.whole(32);
    let position = |random: &mut Random| Position {
        segment: id.wrapping_add(random.whole(5)).wrapping_sub(2) >> (random.whole(2) * random.whole(64)),
        offset: number(random),
    };
    let class = Class::ALL[random.whole(4) as usize];
    let follows = random.one_in(2).then(|| position(random));
    let run = if random.one_in(2) { random.whole(4) } else { random.bits() >> random.whole(64) };
    let header = Header { version: VERSION, class, run, origin: origin(), follows };
    let acked = random.one_in(2).then(|| Acked { position: position(random), events: number(random) });
    let wall = Wall { unix_nanos: random.bits() as i64, synchronised: random.one_in(2) };
    let clock = random.one_in(2).then(|| ClockSyncSample { mono: Mono::from_nanos(random.bits()), wall });
    let sums = Sums { used: number(random), events: number(random), acked, clock };
    let mut file = disk.clone().open(name).unwrap();
    if random.one_in(2) {
        file.write_at(&segment::header_blocks(id, &header), 0).unwrap();
    }
    segment::write_footer(file.as_mut(), id, &Footer { header, last: random.one_in(2), sums }).unwrap();
}

#[test]
fn any_segment_bytes_never_panic() {
    let quota = Quota { bytes: 1 << 30, events: 1 << 40, age_max: None, headroom: 0 };
    let params = Params {
        segment_bytes: 12 << 10,
        memory_bytes: 6 << 10,
        commit_bytes: 1 << 10,
        quota,
        ..Params::default()
    };
    // A spool as a run leaves it: some segments, acknowledgements, a calendar.
    let images = |random: &mut Random| {
        let disk = FaultDisk::new(random.bits());
        let mut log = Log::new(params, origin());
        log.attach(Box::new(disk.clone())).unwrap();
        let wall = Wall { unix_nanos: 1_795_392_000_000_000_000, synchronised: true };
        for seq in 0..60 {
            log.append(Mono::ZERO, &event(random, seq));
            if seq % 7 == 0 {
                log.commit(Mono::ZERO, Some(ClockSyncSample { mono: Mono::ZERO, wall }), true);
            }
            if seq == 20 {
                log.take(9, &mut Vec::new());
                log.done(Mono::ZERO);
            }
        }
        log.commit(Mono::ZERO, None, true);
        let read = |name: String| {
            let mut bytes = vec![0; 12 << 10];
            let filled = disk.clone().open(&name).unwrap().read_at(&mut bytes, 0).unwrap();
            bytes.truncate(filled);
            (name, bytes)
        };
        disk.names().into_iter().map(read).collect::<Vec<_>>()
    };
    let images = images(&mut Random::new(7));
    assert!(images.len() >= 2, "{}", images.len());
    fuzz("any_segment_bytes_never_panic", 2_000, |random| {
        let disk = FaultDisk::new(random.bits());
        let mut is_forged = false;
        for (name, bytes) in &images {
            let mut bytes = bytes.clone();
            if random.one_in(2) {
                bend(random, &mut bytes);
            }
            if random.one_in(3) {
                // The first page decides how the rest is read.
                let mut page = bytes[..bytes.len().min(1536)].to_vec();
                bend(random, &mut page);
                page.resize(bytes.len().min(1536), 0);
                bytes[..page.len()].copy_from_slice(&page);
            }
            let mut name = name.clone();
            if random.one_in(20) {
                let mut other = name.into_bytes();
                bend(random, &mut other);
                name = String::from_utf8_lossy(&other).replace('/', "_");
            }
            disk.plant(&name, bytes);
            if random.one_in(3) {
                forge(random, &disk, &name);
                is_forged = true;
            }
        }
        let mut log = Log::new(params, origin());
        let recovered = log.attach(Box::new(disk)).unwrap();
        assert!(is_forged || recovered.events <= 10_000, "{recovered:?}");
        let (mut out, mut taken) = (Vec::new(), 0);
        while log.take(20, &mut out).is_some() {
            taken += out.len();
            out.clear();
            log.done(Mono::ZERO);
            assert!(taken <= 10_000, "it has no end");
        }
        assert_eq!(log.waiting(), 0, "{recovered:?}");
        log.append(Mono::ZERO, &event(random, 99));
        log.commit(Mono::ZERO, None, true);
        assert!(log.trouble().is_none(), "{:?}", log.trouble());
        assert!(log.take(5, &mut out).is_some(), "{} wait", log.waiting());
    });
}

#[test]
fn any_packed_batch_bytes_never_panic() {
    fuzz("any_packed_batch_bytes_never_panic", 20_000, |random| {
        let events: Vec<Event> = (0..1 + random.whole(4)).map(|seq| event(random, seq)).collect();
        let wall = Wall { unix_nanos: random.bits() as i64, synchronised: random.one_in(2) };
        let clock = ClockSyncSample { mono: Mono::from_nanos(random.bits()), wall };
        let mut bytes = Vec::new();
        let version = if random.one_in(2) { packed::Version::V1 } else { packed::Version::V2 };
        packed::write_batch(&Batch::new(&origin(), clock, &events), version, &mut bytes);
        let mut body = bytes.split_off(12);
        bend(random, &mut body);
        bytes[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend(body);
        if random.one_in(4) {
            bend(random, &mut bytes);
        }
        // What can be read can be written in every form.
        if let Ok((batch, _)) = packed::read_batch(&bytes) {
            let batch = Batch::new(&batch.origin, batch.calendar, &batch.events);
            let mut out = Vec::new();
            cloudevents::write_lines(&batch, &mut out);
            for line in out.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
                serde_json::from_slice::<serde_json::Value>(line).unwrap();
            }
            influx::write_batch(&batch, &mut out);
            assert!(std::str::from_utf8(&out).is_ok_and(|text| text.lines().count() >= batch.events.len()));
        }
    });
}

const ANSWERS: [&str; 7] = [
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"errors\":[1]}",
    "HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n",
    "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n<p>no",
    "HTTP/1.1 301 Moved\r\nLocation: https://a:b@elsewhere/?x\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Slow\r\nRetry-After: 4294967296\r\n\r\n",
    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Encoding: gzip\r\n\r\n\x1f\x08",
];

#[test]
fn any_response_bytes_never_panic() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let next: Arc<Mutex<Vec<u8>>> = Arc::default();
    std::thread::spawn({
        let next = Arc::clone(&next);
        move || {
            let mut buffer = [0; 4096];
            for mut stream in listener.incoming().filter_map(Result::ok) {
                // The whole request, then the whole answer, then the end.
                let mut read = 0;
                while !buffer[..read].ends_with(b"]") {
                    match stream.read(&mut buffer[read..]) {
                        Ok(count) if count > 0 => read += count,
                        _ => break,
                    }
                }
                let _sent = stream.write_all(&next.lock().unwrap());
                let _closed = stream.shutdown(Shutdown::Write);
            }
        }
    });
    let deadlines =
        Deadlines { response: Duration::from_secs(2), whole: Duration::from_secs(4), ..Deadlines::default() };
    let params = HttpParams { url, deadlines, ..HttpParams::default() };
    let mut sink = HttpSink::new(params, Arc::new(Timekeeper::new(Arc::new(SystemClock)))).unwrap();
    let (origin, events) = (origin(), [event(&mut Random::new(1), 0)]);
    let batch = Batch::new(&origin, ClockSyncSample::UNKNOWN, &events);
    let mut confirmed = 0u64;
    let runs = executions(400);
    fuzz("any_response_bytes_never_panic", 400, |random| {
        let mut answer = ANSWERS[random.whole(ANSWERS.len() as u64) as usize].as_bytes().to_vec();
        if !random.one_in(8) {
            bend(random, &mut answer);
        }
        // A confirmation needs the code of one.
        let says_yes =
            answer.windows(3).any(|code| code[0] == b'2' && code[1..].iter().all(u8::is_ascii_digit));
        next.lock().unwrap().clone_from(&answer);
        match sink.send(&batch) {
            Ok(()) => {
                assert!(says_yes, "{}", String::from_utf8_lossy(&answer));
                confirmed += 1;
            }
            Err(error) => {
                assert!(error.text.len() < 2000 && !error.text.contains(['\n', '\r', '\x1b']), "{error:?}");
                let position = error.text.split_once("it points to").map_or("", |(_, position)| position);
                assert!(!position.contains("a:b@"), "{error:?}");
            }
        }
    });
    assert!(
        runs < 100 || (confirmed > runs / 100 && confirmed < runs / 2),
        "{confirmed} of {runs} confirmed"
    );
}
