//! The uplink against misbehaving receivers, over real sockets: no event is lost or stored twice, every drop and refusal is counted, and no
//! receiver blocks it for longer than its deadlines.

pub(crate) mod nats;
pub(crate) mod programs;
pub(crate) mod proxy;
pub(crate) mod server;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::receivers::server::{BOUND, Behaviour, Request, Server};
use flytrap::base::geometry::PointPx;
use flytrap::base::stop::Stop;
use flytrap::delivery::spool::{Batching, Log, Spool};
use flytrap::delivery::uplink::http::{Deadlines, HttpParams, HttpSink};
use flytrap::delivery::uplink::session::Failure;
use flytrap::delivery::uplink::{Batch, Outbox, Posted, Report, Sink, Uplink, UplinkParams};
use flytrap::event::{Body, Crossing, Direction, Event, Origin, fixed};
use flytrap::platform::calendar::Timekeeper;
use flytrap::platform::clock::{Clock, Mono, SystemClock};

const SHORT: Duration = Duration::from_millis(250);
const HOUR: Duration = Duration::from_secs(3600);

/// An uplink on its own thread.
struct Rig {
    outbox: Arc<Outbox>,
    stop: Stop,
    thread: JoinHandle<Report>,
}

#[derive(Clone, Copy)]
struct Setup {
    queue_events: usize,
    batch_events_max: usize,
    age_max: Duration,
    backoff_first: Duration,
    drain: Duration,
}

/// Space for everything, quick retries, a long drain time.
const PATIENT: Setup = Setup {
    queue_events: 1000,
    batch_events_max: 7,
    age_max: HOUR,
    backoff_first: Duration::from_millis(2),
    drain: Duration::from_secs(60),
};

impl Rig {
    fn start(http: HttpParams, setup: Setup) -> Self {
        let sink = HttpSink::new(http, Arc::new(Timekeeper::new(Arc::new(SystemClock)))).unwrap();
        Rig::start_with(Box::new(sink), setup)
    }

    fn start_with(sink: Box<dyn Sink>, setup: Setup) -> Self {
        let Setup { queue_events, batch_events_max, age_max, backoff_first, drain } = setup;
        let outbox = Arc::new(Outbox::new(queue_events).unwrap());
        let origin = Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", Mono::ZERO);
        let log = Log::new(flytrap::delivery::spool::Params::default(), origin);
        let spool =
            Arc::new(Spool::new(log, Batching { events_max: batch_events_max, age_max, interval: None }));
        let params = UplinkParams {
            backoff_first,
            backoff_cap: backoff_first.max(Duration::from_millis(10)),
            retry_after_cap: Duration::from_secs(1),
            drain,
            seed: 1,
            ..UplinkParams::default()
        };
        let stop = Stop::new();
        let uplink = Uplink::new(
            Arc::clone(&outbox),
            spool,
            sink,
            Arc::new(Timekeeper::new(Arc::new(SystemClock))),
            stop.clone(),
            params,
        );
        Rig { outbox, stop, thread: std::thread::spawn(move || uplink.run(|_| {})) }
    }

    fn post(&self, events: std::ops::Range<u64>) {
        events.for_each(|track| {
            post(&self.outbox, track, "car");
        });
    }

    fn end(self) -> Report {
        self.outbox.close(SystemClock.mono());
        self.thread.join().unwrap()
    }
}

fn post(outbox: &Outbox, track: u64, class: &str) -> Posted {
    let crossing = Crossing {
        track,
        class: fixed(class),
        line: fixed("middle"),
        direction: Direction::Forward,
        direction_name: fixed("in"),
        point: PointPx { x: 1.0, y: 2.0 },
        score: 0.5,
    };
    outbox.post(SystemClock.mono(), &fixed("north"), Body::Crossing(crossing))
}

fn http(url: &str) -> HttpParams {
    HttpParams { url: url.to_owned(), ..HttpParams::default() }
}

/// For receivers that hang or send slowly: short time-outs. On a busy test machine these may cause time-outs that the script did not
/// intend, so only those tests use it.
fn hasty(url: &str) -> HttpParams {
    let deadlines = Deadlines { response: SHORT, ..Deadlines::default() };
    HttpParams { deadlines, ..http(url) }
}

fn tracks(server: &Server) -> Vec<u64> {
    server.stored().iter().map(|event| event["data"]["track"].as_u64().unwrap()).collect()
}

fn range(events: std::ops::Range<u64>) -> Vec<u64> {
    events.collect()
}

const fn all_delivered(delivered: u64) -> Report {
    Report { delivered, undelivered: 0, refused: 0, dropped: 0 }
}

/// After every temporary failure the next request carries the same key and the same ids.
fn assert_retries_repeat(requests: &[Request]) {
    for pair in requests.windows(2) {
        let healed = match pair[0].behaviour {
            Behaviour::Accept(_)
            | Behaviour::CutInReply
            | Behaviour::Picky
            | Behaviour::AtMost(_)
            | Behaviour::OneByOne
            | Behaviour::EmptyHtml(_) => {
                continue;
            }
            Behaviour::Talkative(status) if status < 300 => continue,
            Behaviour::Says { stores, .. } if stores => continue,
            Behaviour::NeedsToken(_) => continue,
            Behaviour::Status(_)
            | Behaviour::Busy(_)
            | Behaviour::Hang
            | Behaviour::CutBeforeBody
            | Behaviour::CutAfterBody => true,
            Behaviour::CutInHead
            | Behaviour::Drip
            | Behaviour::Garbage
            | Behaviour::Talkative(_)
            | Behaviour::Redirect => true,
            Behaviour::CutJson
            | Behaviour::CutJsonHarmless
            | Behaviour::WebPage
            | Behaviour::Reset
            | Behaviour::Says { .. } => true,
        };
        assert!(healed && pair[0].key() == pair[1].key(), "{pair:#?}");
        if let (Some(first), Some(again)) = (&pair[0].ids, &pair[1].ids) {
            assert_eq!(first, again);
        }
    }
}

#[test]
fn a_request_has_the_headers_that_describe_it() {
    let server = Server::start([], Behaviour::Accept(202));
    let rig = Rig::start(http(&format!("{}?tenant=a%20b", server.url())), PATIENT);
    rig.post(0..3);
    assert_eq!(rig.end(), all_delivered(3));
    let requests = server.requests();
    let first = &requests[0];
    assert_eq!(first.path, "/events?tenant=a%20b");
    assert_eq!(first.header("content-type"), Some("application/cloudevents-batch+json"));
    assert_eq!(first.header("user-agent"), Some(concat!("flytrap/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(first.header("authorization"), None);
    let ids = first.ids.as_ref().unwrap();
    assert_eq!(ids[0], "mast-7/3f2a91c07d414c5e-0/0");
    assert_eq!(first.key(), format!("mast-7/3f2a91c07d414c5e-0/0-{}", ids.len() - 1));
    assert_eq!(server.stored()[0]["source"], "/flytrap/mast-7/north");
}

/// Every temporary failure, each in its own run: the first request meets it, a later one is accepted.
#[test]
fn every_temporary_failure_is_overcome() {
    let behaviours = [
        Behaviour::Status(500),
        Behaviour::Status(502),
        Behaviour::Status(408),
        Behaviour::Status(425),
        Behaviour::Status(429),
        Behaviour::Status(401),
        Behaviour::Status(403),
        Behaviour::Status(404),
        Behaviour::Status(407),
        Behaviour::Hang,
        Behaviour::CutBeforeBody,
        Behaviour::CutAfterBody,
        Behaviour::CutInHead,
        Behaviour::Drip,
        Behaviour::Garbage,
        Behaviour::Talkative(500),
        Behaviour::Status(409),
        Behaviour::CutJson,
        Behaviour::WebPage,
        Behaviour::Reset,
    ];
    std::thread::scope(|scope| {
        for behaviour in behaviours {
            scope.spawn(move || {
                let server = Server::start([behaviour, behaviour], Behaviour::Accept(204));
                let slow = matches!(behaviour, Behaviour::Hang | Behaviour::Drip);
                let params = if slow { hasty(&server.url()) } else { http(&server.url()) };
                let rig = Rig::start(params, PATIENT);
                rig.post(0..7);
                server.wait_for_requests(3);
                let failures = rig.outbox.counters().failures();
                assert_eq!((failures, rig.end()), (2, all_delivered(7)), "{behaviour:?}");
                assert_eq!(tracks(&server), range(0..7), "{behaviour:?}");
                let requests = server.requests();
                assert_eq!(requests.len(), 3, "{behaviour:?}");
                assert_retries_repeat(&requests);
            });
        }
    });
}

#[test]
fn a_confirmation_counts_even_if_its_body_is_lost() {
    for behaviour in [
        Behaviour::Accept(200),
        Behaviour::Accept(204),
        Behaviour::CutInReply,
        Behaviour::Talkative(200),
        Behaviour::EmptyHtml(200),
        Behaviour::EmptyHtml(204),
    ] {
        let server = Server::start([], behaviour);
        let rig = Rig::start(http(&server.url()), PATIENT);
        rig.post(0..21);
        assert_eq!(rig.end(), all_delivered(21), "{behaviour:?}");
        assert_eq!((tracks(&server), server.deliveries()), (range(0..21), 21), "{behaviour:?}");
    }
}

/// The receiver stored the batch and responded with 200 and an unusual body. Each batch is sent once.
#[test]
fn a_confirmation_counts_whatever_its_body_contains() {
    const OK: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n\xef\xbb\xbf{}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"load\":NaN}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"a\":1}{\"b\":2}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"error\":\"0\"}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"accepted\":7",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
        // A header folded into three lines.
        b"HTTP/1.1 200 OK\r\nX-Served-By: one,\r\n two,\r\n\tthree\r\nContent-Length: 2\r\n\r\nok",
    ];
    for answer in OK {
        let server = Server::start([], Behaviour::Says { stores: true, answer });
        let rig = Rig::start(http(&server.url()), PATIENT);
        rig.post(0..14);
        let shown = String::from_utf8_lossy(answer);
        assert_eq!(rig.end(), all_delivered(14), "{shown}");
        assert_eq!((tracks(&server), server.deliveries()), (range(0..14), 14), "{shown}");
    }
}

/// A 2xx from something other than a receiver of events confirms nothing: all events wait.
#[test]
fn a_server_that_is_not_a_receiver_confirms_nothing() {
    const NO: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n<!doctype html>Log in",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\n<html>Log in",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/xhtml+xml\r\n\r\n<?xml version=\"1.0\"?><html>",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n\xef\xbb\xbf<html>Log in",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"success\":false}",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n{\"status\":\"error\"}",
        b"HTTP/1.1 511 Network Authentication Required\r\nContent-Length: 0\r\n\r\n",
    ];
    for answer in NO {
        let behaviour = Behaviour::Says { stores: false, answer };
        let server = Server::start([behaviour, behaviour], Behaviour::Accept(200));
        let rig = Rig::start(http(&server.url()), PATIENT);
        rig.post(0..7);
        server.wait_for_requests(3);
        let shown = String::from_utf8_lossy(answer);
        assert_eq!((rig.outbox.counters().failures(), rig.end()), (2, all_delivered(7)), "{shown}");
        assert_eq!((tracks(&server), server.deliveries()), (range(0..7), 7), "{shown}");
        assert_retries_repeat(&server.requests());
    }
}

/// A server whose responses are always truncated (a wrong `Content-Length`) does not get the same batch for ever.
#[test]
fn responses_that_are_always_truncated_end_in_a_confirmation() {
    let server = Server::start([], Behaviour::CutJsonHarmless);
    let rig = Rig::start(http(&server.url()), PATIENT);
    rig.post(0..14);
    assert_eq!(rig.end(), all_delivered(14));
    assert_eq!((tracks(&server), server.deliveries()), (range(0..14), 3 * 14));
}

/// A status that is not about the events gives none of them up, even from a receiver that has confirmed before.
#[test]
fn only_a_refusal_of_the_events_gives_them_up() {
    let statuses =
        [402, 405, 406, 410, 411, 412, 414, 415, 416, 417, 418, 421, 423, 424, 426, 428, 431, 444, 451, 499];
    std::thread::scope(|scope| {
        for status in statuses {
            scope.spawn(move || {
                let script = [Behaviour::Accept(200), Behaviour::Status(status), Behaviour::Status(status)];
                let server = Server::start(script, Behaviour::Accept(200));
                let rig = Rig::start(http(&server.url()), PATIENT);
                rig.post(0..14);
                assert_eq!(rig.end(), all_delivered(14), "{status}");
                assert_eq!((tracks(&server), server.deliveries()), (range(0..14), 14), "{status}");
                assert_retries_repeat(&server.requests()[1..]);
            });
        }
    });
}

/// 413 with `Retry-After` is temporary; a date counts from the response's own date.
#[test]
fn retry_after_is_a_date_too_and_goes_with_a_413() {
    const BUSY: &[&[u8]] = &[
        b"HTTP/1.1 413 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nDate: Sun, 06 Nov 1994 08:49:36 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n",
    ];
    for answer in BUSY {
        let server = Server::start([Behaviour::Says { stores: false, answer }], Behaviour::Accept(200));
        let rig = Rig::start(http(&server.url()), PATIENT);
        rig.post(0..7);
        server.wait_for_requests(2);
        let requests = server.requests();
        let waited = requests[1].at.since(requests[0].at);
        assert!(waited >= Duration::from_secs(1), "{waited:?}");
        assert_eq!(requests[1].ids.as_ref().map(Vec::len), Some(7), "not halved");
        assert_eq!(rig.end(), all_delivered(7));
    }
}

/// A send in progress at the start of the shutdown is interrupted when the drain time is over, wherever it waits.
#[test]
fn the_shutdown_interrupts_a_send_in_progress() {
    let hanging = Server::start([], Behaviour::Hang);
    let silent = not_tls(b"", Duration::from_millis(1));
    let urls = [hanging.url(), format!("https://127.0.0.1:{silent}/events")];
    std::thread::scope(|scope| {
        for url in &urls {
            scope.spawn(move || {
                let rig = Rig::start(http(url), Setup { drain: Duration::from_secs(2), ..PATIENT });
                rig.post(0..7);
                Stop::new().wait(Duration::from_millis(500)); // The send is in progress now.
                let begun = SystemClock.mono();
                let report = rig.end();
                assert_eq!(report, Report { delivered: 0, undelivered: 7, refused: 0, dropped: 0 }, "{url}");
                let took = SystemClock.mono().since(begun);
                assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&took), "{url}: {took:?}");
            });
        }
    });
}

/// Without free file descriptors a send fails, the cause is reported, and it is retried. In a process of its own, because the limit applies
/// to the whole process.
#[test]
fn without_descriptors_a_send_is_retried() {
    const ALONE: &str = "FLYTRAP_TEST_DESCRIPTORS";
    let Ok(host) = std::env::var(ALONE) else {
        // A process for each case: an earlier server that closes late would free a descriptor.
        for host in ["127.0.0.1", "localhost"] {
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            again
                .args(["--exact", "receivers::without_descriptors_a_send_is_retried", "--nocapture"])
                .env(ALONE, host);
            let output = again.output().unwrap();
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && stdout.contains("1 passed"), "{host}: {output:?}");
        }
        return;
    };
    let server = Server::start([], Behaviour::Accept(200));
    let url = server.url().replace("127.0.0.1", &host);
    let mut sink = HttpSink::new(http(&url), Arc::new(Timekeeper::new(Arc::new(SystemClock)))).unwrap();
    let origin = Origin::new("mast-7", "3f2a", Mono::ZERO);
    let body = Body::Stopping { reason: fixed("test") };
    let events = [Event { seq: 0, at: SystemClock.mono(), camera: fixed(""), body }];
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit { current: Some(64), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    let mut held = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
    }
    let error = sink.send(&Batch::new(&origin, SystemClock.sample(), &events)).unwrap_err();
    assert!(matches!(error.failure, Failure::Retry { .. }) && error.kept_here, "{error:?}");
    // The error of the C library's resolver varies; the message names the step that failed.
    let words = if url.contains("localhost") { "look the host up" } else { "LimitNOFILE" };
    assert!(error.text.contains(words), "{error}");
    drop(held);
    sink.send(&Batch::new(&origin, SystemClock.sample(), &events)).unwrap();
}

/// A tunnelling proxy: all traffic goes through it, none past it.
#[test]
fn a_proxy_carries_everything_if_one_is_configured() {
    let server = Server::start([], Behaviour::Accept(200));
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    std::thread::spawn({
        let asked = Arc::clone(&asked);
        move || {
            for stream in listener.incoming() {
                let _carried = carry(stream.unwrap(), &asked);
            }
        }
    });
    let rig = Rig::start(HttpParams { proxy: Some(proxy), ..http(&server.url()) }, PATIENT);
    rig.post(0..21);
    assert_eq!(rig.end(), all_delivered(21));
    assert_eq!(tracks(&server), range(0..21));
    let host = server.url().replace("http://", "").replace("/events", "");
    assert_eq!(asked.lock().unwrap().first(), Some(&format!("CONNECT {host} HTTP/1.1")));
    for other in ["socks5://127.0.0.1:1", "https://127.0.0.1:1", "127.0.0.1:1", "http://"] {
        let params = HttpParams { proxy: Some(other.to_owned()), ..http(&server.url()) };
        let error = HttpSink::new(params, Arc::new(Timekeeper::new(Arc::new(SystemClock)))).err();
        assert!(error.is_some_and(|error| error.to_string().contains("http://host:port")), "{other}");
    }
}

/// Reads the headers of a `CONNECT`, then copies in both directions.
fn carry(mut client: std::net::TcpStream, asked: &std::sync::Mutex<Vec<String>>) -> std::io::Result<()> {
    use std::io::{Read as _, Write as _};
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let host = line.split(' ').nth(1).unwrap_or_default().to_owned();
    asked.lock().unwrap().push(line);
    let server = std::net::TcpStream::connect(host)?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut there, mut back) = (server.try_clone()?, server);
    let (mut from, mut to) = (client.try_clone()?, client);
    std::thread::spawn(move || {
        std::io::copy(&mut from, &mut there).map(|_| there.shutdown(std::net::Shutdown::Write))
    });
    std::thread::spawn(move || {
        std::io::copy(&mut back, &mut to).map(|_| to.shutdown(std::net::Shutdown::Write))
    });
    Ok(())
}

/// The first receiver is away, and a program that refuses everything responds at the second: no event is given up.
#[test]
fn a_fall_back_that_refuses_everything_empties_nothing() {
    use flytrap::delivery::uplink::Target;
    let first = Server::start([Behaviour::Accept(200), Behaviour::Status(503)], Behaviour::Status(503));
    let second = Server::start([], Behaviour::Status(400));
    let time = Arc::new(Timekeeper::new(Arc::new(SystemClock)));
    let target = Target { first: first.url(), others: vec![second.url()] };
    let sink = flytrap::delivery::uplink::open(&target, &HttpParams::default(), &time).unwrap();
    let rig = Rig::start_with(sink, PATIENT);
    rig.post(0..100);
    second.wait_for_requests(1);
    Stop::new().wait(Duration::from_millis(200)); // Enough time for many more requests.
    first.turn(Behaviour::Accept(200));
    second.turn(Behaviour::Accept(200));
    let report = rig.end();
    assert_eq!((report.delivered, report.refused, report.undelivered), (100, 0, 0), "{report:?}");
    let mut both = [tracks(&first), tracks(&second)].concat();
    both.sort_unstable();
    both.dedup();
    assert_eq!(both, range(0..100));
}

struct Random(u64);

impl Random {
    /// SplitMix64.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn behaviour(&mut self) -> Behaviour {
        match self.below(16) {
            0 => Behaviour::Status(500),
            1 => Behaviour::Status(401),
            2 => Behaviour::Status(429),
            3 => Behaviour::Busy(0),
            4 => Behaviour::Hang,
            5 => Behaviour::CutBeforeBody,
            6 => Behaviour::CutAfterBody,
            7 => Behaviour::CutInHead,
            8 => Behaviour::CutInReply,
            9 => Behaviour::Drip,
            10 => Behaviour::Garbage,
            11 => Behaviour::AtMost(1 + self.below(4) as usize),
            12 => Behaviour::Talkative(200),
            13 => Behaviour::Talkative(503),
            14 => Behaviour::Picky,
            _ => Behaviour::Accept(200),
        }
    }
}

/// Any sequence of behaviours: every event except the bad ones is stored once, in order.
#[test]
fn every_event_is_stored_once_whatever_the_receiver_does() {
    std::thread::scope(|scope| {
        for seed in 0..12u64 {
            scope.spawn(move || {
                let mut random = Random(seed);
                let script: Vec<Behaviour> = (0..30).map(|_| random.behaviour()).collect();
                let shown = format!("seed {seed}: {script:?}");
                let server = Server::start(script, Behaviour::Picky);
                let rig = Rig::start(hasty(&server.url()), PATIENT);
                let events = 40 + random.below(60);
                rig.post(0..events);
                assert_eq!(rig.end(), all_delivered(events), "{shown}");
                assert_eq!(tracks(&server), range(0..events), "{shown}");
                assert!(server.deliveries() as u64 >= events, "{shown}");
                assert_retries_repeat(&server.requests());
            });
        }
    });
}

#[test]
fn only_the_bad_events_are_dropped_and_they_are_counted() {
    let server = Server::start([], Behaviour::Picky);
    let rig = Rig::start(http(&server.url()), PATIENT);
    let bad = [3, 17, 18, 40];
    for track in 0..50 {
        post(&rig.outbox, track, if bad.contains(&track) { "bad" } else { "car" });
    }
    let report = rig.end();
    assert_eq!(report, Report { delivered: 46, undelivered: 0, refused: 4, dropped: 0 });
    assert_eq!(tracks(&server), (0..50).filter(|t| !bad.contains(t)).collect::<Vec<_>>());
    assert_eq!(server.deliveries(), 46);
}

#[test]
fn too_large_a_batch_is_halved_until_it_fits() {
    let server = Server::start([], Behaviour::AtMost(2));
    let rig = Rig::start(http(&server.url()), Setup { batch_events_max: 100, ..PATIENT });
    rig.post(0..100);
    assert_eq!(rig.end(), all_delivered(100));
    assert_eq!((tracks(&server), server.deliveries()), (range(0..100), 100));
}

#[test]
fn redirects_are_not_followed_and_cost_nothing() {
    let server = Server::start([Behaviour::Redirect; 2], Behaviour::Accept(200));
    let rig = Rig::start(http(&server.url()), PATIENT);
    rig.post(0..7);
    server.wait_for_requests(3);
    assert_eq!(rig.end(), all_delivered(7));
    assert!(server.requests().iter().all(|request| request.path == "/events"));
    assert_eq!(tracks(&server), range(0..7));
}

/// Another program responds there and accepts nothing: everything waits until this is fixed.
#[test]
fn a_receiver_that_refuses_everything_empties_nothing() {
    let server = Server::start([], Behaviour::Status(400));
    let setup = Setup { batch_events_max: 50, ..PATIENT };
    let rig = Rig::start(http(&server.url()), setup);
    rig.post(0..120);
    server.wait_for_requests(150);
    assert_eq!((rig.outbox.counters().refused(), rig.outbox.counters().dropped()), (0, 0));
    server.turn(Behaviour::Accept(200));
    assert_eq!(rig.end(), all_delivered(120));
    // Events that were set aside before the fix come after others of their batch.
    let mut stored = tracks(&server);
    stored.sort_unstable();
    assert_eq!((stored, server.deliveries()), (range(0..120), 120));
}

/// The very first event is a bad one: it does not block the others.
#[test]
fn a_bad_event_at_the_head_does_not_block() {
    let server = Server::start([], Behaviour::Picky);
    let rig = Rig::start(http(&server.url()), PATIENT);
    post(&rig.outbox, 0, "bad");
    rig.post(1..14);
    assert_eq!(rig.end(), Report { delivered: 13, undelivered: 0, refused: 1, dropped: 0 });
    assert_eq!(tracks(&server), range(1..14));
}

/// A receiver that accepts only some kinds refuses long series of events: those behind them arrive anyway.
#[test]
fn a_long_series_of_bad_events_does_not_block() {
    let server = Server::start([], Behaviour::Picky);
    let rig = Rig::start(http(&server.url()), Setup { batch_events_max: 50, ..PATIENT });
    (0..40).for_each(|track| {
        post(&rig.outbox, track, "bad");
    });
    rig.post(40..200);
    assert_eq!(rig.end(), Report { delivered: 160, undelivered: 0, refused: 40, dropped: 0 });
    assert_eq!(tracks(&server), range(40..200));
}

/// A bad event that does not fill a batch, before any confirmation: later events join its batch.
#[test]
fn a_single_bad_event_at_the_start_does_not_block() {
    let server = Server::start([], Behaviour::Picky);
    let rig = Rig::start(http(&server.url()), Setup { age_max: Duration::ZERO, ..PATIENT });
    post(&rig.outbox, 0, "bad");
    server.wait_for_requests(3);
    assert_eq!(rig.outbox.counters().refused(), 0, "nothing was confirmed");
    rig.post(1..14);
    assert_eq!(rig.end(), Report { delivered: 13, undelivered: 0, refused: 1, dropped: 0 });
    let mut stored = tracks(&server);
    stored.sort_unstable();
    assert_eq!(stored, range(1..14));
}

#[test]
fn a_renewed_token_is_read_after_a_401() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "old\n").unwrap();
    let server = Server::start([], Behaviour::NeedsToken("Bearer new"));
    let params = HttpParams { token_file: Some(path.clone()), ..http(&server.url()) };
    let rig = Rig::start(params, PATIENT);
    rig.post(0..7);
    server.wait_for_requests(1);
    assert_eq!(server.requests()[0].header("authorization"), Some("Bearer old"));
    let renewed = dir.path().join("renewed");
    std::fs::write(&renewed, "new\n").unwrap();
    std::fs::rename(&renewed, &path).unwrap();
    assert_eq!(rig.end(), all_delivered(7));
    assert_eq!(tracks(&server), range(0..7));
}

#[test]
fn retry_after_is_waited_for() {
    let server = Server::start([Behaviour::Busy(1)], Behaviour::Accept(200));
    let rig = Rig::start(http(&server.url()), PATIENT);
    rig.post(0..7);
    server.wait_for_requests(2);
    let requests = server.requests();
    assert!(requests[1].at.since(requests[0].at) >= Duration::from_secs(1));
    assert_eq!(rig.end(), all_delivered(7));
}

#[test]
fn exactly_the_events_dropped_by_a_full_queue_are_missing() {
    let server = Server::start([], Behaviour::Status(500));
    let rig = Rig::start(http(&server.url()), Setup { queue_events: 8, batch_events_max: 4, ..PATIENT });
    rig.post(0..4);
    server.wait_for_requests(2); // The first four are in flight, the queue is empty.
    rig.post(4..100);
    assert_eq!((rig.outbox.counters().dropped(), rig.outbox.counters().posted()), (88, 100));
    server.turn(Behaviour::Accept(200));
    assert_eq!(rig.end(), Report { delivered: 12, undelivered: 0, refused: 0, dropped: 88 });
    assert_eq!(tracks(&server), [range(0..4), range(92..100)].concat());
}

#[test]
fn a_single_event_is_sent_when_it_is_old_enough() {
    let server = Server::start([], Behaviour::Accept(200));
    let age_max = Duration::from_millis(30);
    let rig = Rig::start(http(&server.url()), Setup { age_max, ..PATIENT });
    let posted = SystemClock.mono();
    rig.post(0..1);
    server.wait_for_requests(1);
    assert!(server.requests()[0].at.since(posted) >= age_max);
    assert_eq!(rig.end(), all_delivered(1));
}

/// A port where nobody listens any more, on an address of its own, so that no receiver of another test gets it.
fn dead_url() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.2", 0)).unwrap();
    format!("http://{}/events", listener.local_addr().unwrap())
}

#[test]
fn a_dead_receiver_leaves_a_complete_report() {
    let setup = Setup { queue_events: 8, batch_events_max: 4, drain: Duration::from_millis(100), ..PATIENT };
    let rig = Rig::start(http(&dead_url()), setup);
    rig.post(0..4);
    let patience = Stop::new();
    let begun = SystemClock.mono();
    while rig.outbox.counters().failures() == 0 {
        assert!(SystemClock.mono().since(begun) < BOUND);
        patience.wait(Duration::from_millis(1));
    }
    rig.post(4..24);
    assert_eq!(rig.end(), Report { delivered: 0, undelivered: 12, refused: 0, dropped: 12 });
}

#[test]
fn the_shutdown_interrupts_a_back_off_for_one_more_attempt() {
    for (last, report) in [
        (Behaviour::Accept(200), all_delivered(7)),
        (Behaviour::Status(500), Report { delivered: 0, undelivered: 7, refused: 0, dropped: 0 }),
        (Behaviour::Hang, Report { delivered: 0, undelivered: 7, refused: 0, dropped: 0 }),
    ] {
        let server = Server::start([Behaviour::Status(500)], last);
        let setup = Setup { backoff_first: HOUR, drain: Duration::ZERO, ..PATIENT };
        let params = if last == Behaviour::Hang { hasty(&server.url()) } else { http(&server.url()) };
        let rig = Rig::start(params, setup);
        rig.post(0..7);
        server.wait_for_requests(1);
        let begun = SystemClock.mono();
        assert_eq!(rig.end(), report, "{last:?}");
        assert!(SystemClock.mono().since(begun) < Duration::from_secs(5));
        let requests = server.requests();
        assert_eq!(requests.len(), 2, "{last:?}");
        assert_retries_repeat(&requests);
    }
}

#[test]
fn a_stop_makes_everything_due_and_the_close_ends_the_uplink() {
    let server = Server::start([], Behaviour::Accept(200));
    let rig = Rig::start(http(&server.url()), Setup { drain: SHORT, ..PATIENT });
    rig.post(0..3);
    rig.stop.request();
    server.wait_for_requests(1);
    // Stages that end later than the drain time after the stop can still post.
    Stop::new().wait(2 * SHORT);
    rig.post(3..5);
    assert_eq!(post(&rig.outbox, 5, "car"), Posted::Kept);
    let outbox = Arc::clone(&rig.outbox);
    assert_eq!(rig.end(), all_delivered(6));
    assert_eq!(post(&outbox, 6, "car"), Posted::DroppedClosed);
    assert_eq!((outbox.counters().posted(), outbox.counters().dropped()), (7, 1));
    assert!(outbox.counters().last_delivery().is_some());
}

/// A listener that is not a TLS server: each connection gets `answer`, byte by byte, `pace` apart, then silence; without a pace, the
/// connection is closed. The request is read before closing: closing with unread bytes causes a reset, which would discard the response.
fn not_tls(answer: &'static [u8], pace: Duration) -> u16 {
    use std::io::Write as _;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().filter_map(Result::ok) {
            std::thread::spawn(move || {
                let stop = Stop::new();
                for byte in answer {
                    if stream.write_all(&[*byte]).is_err() {
                        return;
                    }
                    stop.wait(pace);
                }
                if !pace.is_zero() {
                    stop.wait(BOUND);
                } else if !answer.is_empty() {
                    let _gone = stream.shutdown(std::net::Shutdown::Write);
                    let _read = std::io::copy(&mut stream, &mut std::io::sink());
                }
            });
        }
    });
    port
}

/// The handshake has one deadline, however active the other side is; a server without TLS is reported; nothing is lost.
#[test]
fn broken_tls_servers_do_not_block_the_uplink() {
    // A TLS 1.2 record that announces 16 kB of handshake; an alert "handshake failure"; an HTTP response; nothing.
    const SLOW: &[u8] =
        b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03 and so on, and so on, and so on, and so on, and so on";
    for (answer, pace, words) in [
        (SLOW, Duration::from_millis(40), "timeout"),
        (b"\x15\x03\x03\x00\x02\x02\x28", Duration::ZERO, "TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Duration::ZERO, "TLS"),
        (b"", Duration::ZERO, "link"),
        (b"", Duration::from_millis(1), "timeout"),
    ] {
        let port = not_tls(answer, pace);
        let deadlines = Deadlines { connect: Duration::from_millis(500), ..Deadlines::default() };
        let params = HttpParams { deadlines, ..http(&format!("https://localhost:{port}/events")) };
        let mut sink = HttpSink::new(params, Arc::new(Timekeeper::new(Arc::new(SystemClock)))).unwrap();
        let origin = Origin::new("mast-7", "3f2a", Mono::ZERO);
        let body = Body::Stopping { reason: fixed("test") };
        let event = Event { seq: 0, at: SystemClock.mono(), camera: fixed(""), body };
        let begun = SystemClock.mono();
        let error = sink.send(&Batch::new(&origin, SystemClock.sample(), &[event])).unwrap_err();
        assert!(SystemClock.mono().since(begun) < BOUND / 2, "{error}");
        assert!(matches!(error.failure, Failure::Retry { .. }), "{error:?}");
        assert!(error.text.contains(words), "{words}: {error}");
    }
}
