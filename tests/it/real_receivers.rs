//! The uplink against real receivers, over a link with faults, with the receiver killed in mid-stream: afterwards each holds every event
//! once. The receivers are Debian packages (`tests/it/receivers/get`); if they are not available, the test prints it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use flytrap::base::geometry::PointPx;
use flytrap::base::stop::Stop;
use flytrap::delivery::spool::{Batching, Log, Params, Spool};
use flytrap::delivery::uplink::format::Format;
use flytrap::delivery::uplink::http::tls::{KeyPin, Roots, TlsParams};
use flytrap::delivery::uplink::http::{Deadlines, HttpParams, HttpSink, InfluxTarget};
use flytrap::delivery::uplink::{Outbox, Report, Uplink, UplinkParams};
use flytrap::event::{Body, Crossing, Direction, Origin, fixed};
use flytrap::platform::calendar::Timekeeper;
use flytrap::platform::clock::{Clock, Mono, SystemClock};
use serde_json::Value;

use crate::receivers::nats;
use crate::receivers::programs;
use crate::receivers::programs::{Program, free_port, pause};
use crate::receivers::proxy::Proxy;
use crate::receivers::server::{Behaviour, Server};

/// Events in one stream: some seconds of them.
const EVENTS: u64 = 3000;

/// The folder of the receivers; prints why if there is none.
pub(crate) fn receivers(test: &str) -> Option<PathBuf> {
    let packages = ["influxdb", "victoria-metrics", "nats-server", "nginx"];
    programs::unpacked(&packages).map_err(|why| println!("SKIPPED {test}: {why}")).ok()
}

/// The uplink as in the program, with a spool in memory.
struct Sender {
    outbox: Arc<Outbox>,
    thread: JoinHandle<Report>,
}

impl Sender {
    fn start(http: HttpParams) -> Self {
        let time = || Arc::new(Timekeeper::new(Arc::new(SystemClock)));
        let outbox = Arc::new(Outbox::new(8192).unwrap());
        let deadlines = Deadlines {
            connect: Duration::from_secs(2),
            response: Duration::from_secs(1),
            whole: Duration::from_secs(4),
            ..Deadlines::default()
        };
        let sink = Box::new(HttpSink::new(HttpParams { deadlines, ..http }, time()).unwrap());
        let origin = Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", SystemClock.mono());
        let log = Log::new(Params::default(), origin);
        let batching = Batching { events_max: 50, age_max: Duration::from_millis(50), interval: None };
        let params = UplinkParams {
            backoff_first: Duration::from_millis(5),
            backoff_cap: Duration::from_millis(200),
            drain: Duration::from_secs(120),
            ..UplinkParams::default()
        };
        let spool = Arc::new(Spool::new(log, batching));
        let uplink = Uplink::new(Arc::clone(&outbox), spool, sink, time(), Stop::new(), params);
        Sender { outbox, thread: std::thread::spawn(move || uplink.run(|_| {})) }
    }

    /// Crossings of tracks `from..to`, four of them per frame.
    fn post(&self, tracks: std::ops::Range<u64>) {
        let mut at = Mono::ZERO;
        for track in tracks {
            if track % 4 == 0 {
                pause(Duration::from_millis(17));
                at = SystemClock.mono();
            }
            let crossing = Crossing {
                track,
                class: fixed("car"),
                line: fixed("middle"),
                direction: Direction::Forward,
                direction_name: fixed("in"),
                point: PointPx { x: 1.0, y: 2.0 },
                score: 0.5,
            };
            self.outbox.post(at, &fixed("north"), Body::Crossing(crossing));
        }
    }

    fn end(self) -> Report {
        self.outbox.close(SystemClock.mono());
        self.thread.join().unwrap()
    }
}

/// Checks how often each track is stored, and prints it as a row of the table.
fn account(
    receiver: &str,
    report: Report,
    (faults, failures): (u64, u64),
    stored: impl IntoIterator<Item = u64>,
) -> (u64, u64) {
    let mut tracks: BTreeMap<u64, u64> = BTreeMap::new();
    for track in stored {
        *tracks.entry(track).or_default() += 1;
    }
    assert!(tracks.keys().all(|track| *track < EVENTS), "{receiver}: events that were never sent");
    let twice: u64 = tracks.values().map(|times| times - 1).sum();
    let lost = EVENTS - tracks.len() as u64;
    println!(
        "MEASURED {receiver}: sent {EVENTS}, faults {faults}, sends that failed {failures}, stored {}, duplicates by id {twice}, lost {lost}",
        tracks.len()
    );
    if lost > 0 {
        let missing: Vec<u64> = (0..EVENTS).filter(|track| !tracks.contains_key(track)).collect();
        println!("missing: {missing:?}");
    }
    assert_eq!(report, Report { delivered: EVENTS, undelivered: 0, refused: 0, dropped: 0 });
    assert!(
        faults > 5 && failures > 5,
        "{receiver}: {faults} faults, {failures} failures are too few for a test"
    );
    (twice, lost)
}

/// A stream of events while things happen to the receiver. Returns the sender's report, and the number of failed sends.
fn stream(http: HttpParams, mut outage: impl FnMut()) -> (Report, u64) {
    let sender = Sender::start(http);
    for third in 0..3 {
        sender.post(EVENTS * third / 3..EVENTS * (third + 1) / 3);
        if third < 2 {
            outage();
        }
    }
    let outbox = Arc::clone(&sender.outbox);
    (sender.end(), outbox.counters().failures())
}

/// A minimal HTTP request, like curl's: returns the body of the response.
fn get(url: &str) -> String {
    ureq::get(url)
        .call()
        .unwrap_or_else(|error| panic!("{url}: {error}"))
        .body_mut()
        .read_to_string()
        .unwrap()
}

fn influx(port: u16, database: &str) -> HttpParams {
    HttpParams {
        url: format!("http://127.0.0.1:{port}/"),
        format: Format::Influx1,
        influx: InfluxTarget { database: database.to_owned(), ..InfluxTarget::default() },
        ..HttpParams::default()
    }
}

/// InfluxDB with the database `road`; its files are in `folder`.
pub(crate) fn influxdb(root: &Path, folder: &Path, port: u16) -> Program {
    let (config, rpc, place) = (folder.join("influxdb.conf"), free_port(), folder.display());
    std::fs::write(
        &config,
        format!(
            "reporting-disabled = true\nbind-address = \"127.0.0.1:{rpc}\"\n[meta]\ndir = \"{place}/meta\"\n[data]\n\
             dir = \"{place}/data\"\nwal-dir = \"{place}/wal\"\n[http]\nbind-address = \"127.0.0.1:{port}\"\nlog-enabled = false\n"
        ),
    )
    .unwrap();
    let args = ["run", "-config", config.to_str().unwrap()];
    let influxd = Program::start(root.join("usr/bin/influxd"), &args, folder, port);
    ureq::post(format!("http://127.0.0.1:{port}/query?q=CREATE%20DATABASE%20road")).send_empty().unwrap();
    influxd
}

#[test]
fn influxdb_holds_every_event_once() {
    let Some(root) = receivers("influxdb") else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut influxd = influxdb(&root, folder.path(), port);
    let create = format!("http://127.0.0.1:{port}/query?q=CREATE%20DATABASE%20road");
    let proxy = Proxy::start(port, 1, 600);
    let mut kills = 0;
    let (report, failures) = stream(HttpParams { gzip: true, ..influx(proxy.port(), "road") }, || {
        influxd.kill();
        pause(Duration::from_millis(500));
        influxd.start_again();
        kills += 1;
    });
    let query = "SELECT%20track_id,id%20FROM%20direction";
    let answer = get(&format!("http://127.0.0.1:{port}/query?db=road&q={query}"));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let rows = answer["results"][0]["series"][0]["values"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let tracks = rows.iter().map(|row| row[1].as_u64().unwrap());
    let outcome = account("InfluxDB 1.6.7, SIGKILL", report, (proxy.faults() + kills, failures), tracks);
    assert_eq!(outcome, (0, 0));
    let ids: BTreeSet<_> = rows.iter().map(|row| row[2].to_string()).collect();
    assert_eq!(ids.len() as u64, EVENTS, "every event has its own id");
    // A missing database needs human action, and costs no events.
    let sender = Sender::start(influx(port, "nowhere"));
    sender.post(0..10);
    pause(Duration::from_millis(300));
    assert_eq!((sender.outbox.counters().refused(), sender.outbox.counters().delivered()), (0, 0));
    ureq::post(&create.replace("road", "nowhere")).send_empty().unwrap();
    assert_eq!(sender.end().delivered, 10);
}

#[test]
fn victoriametrics_holds_every_event_once() {
    let Some(root) = receivers("VictoriaMetrics") else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let data = format!("-storageDataPath={}", folder.path().join("data").display());
    let listen = format!("-httpListenAddr=127.0.0.1:{port}");
    let plain = [data.as_str(), listen.as_str(), "-memory.allowedBytes=200MB"];
    let binary = root.join("usr/bin/victoria-metrics");
    let mut vm = Program::start(binary.clone(), &plain, folder.path(), port);
    let proxy = Proxy::start(port, 2, 600);
    let mut ends = 0;
    let (report, failures) = stream(influx(proxy.port(), "road"), || {
        // It does not guarantee events across a kill: confirmed ones are only in memory for some seconds. It also listens before it handles
        // SIGTERM, which would then be a kill.
        pause(Duration::from_secs(1));
        vm.end();
        pause(Duration::from_millis(300));
        vm.start_again();
        ends += 1;
    });
    let export = || {
        get(&format!("http://127.0.0.1:{port}/internal/force_flush"));
        let series = get(&format!("http://127.0.0.1:{port}/api/v1/export?match[]=direction_track_id"));
        let values = series.lines().flat_map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as u64).collect::<Vec<_>>()
        });
        values.collect::<Vec<_>>()
    };
    // Queries do not show rows that its own flusher is processing, and a requested flush does not wait for them.
    let stored = || {
        let mut tracks = export();
        for _ in 0..100 {
            if tracks.iter().collect::<BTreeSet<_>>().len() as u64 == EVENTS {
                break;
            }
            pause(Duration::from_millis(200));
            tracks = export();
        }
        tracks
    };
    let faults = (proxy.faults() + ends, failures);
    let (twice, lost) = account("VictoriaMetrics 1.79.5, SIGTERM", report, faults, stored());
    assert!(
        twice > 0 && lost == 0,
        "it keeps repeats unless configured otherwise; the check below must see some"
    );
    vm.end();
    let dedup = [&plain[..], &["-dedup.minScrapeInterval=1ms"]].concat();
    let _vm = Program::start(binary, &dedup, folder.path(), port);
    let outcome = account("the same with -dedup.minScrapeInterval=1ms", report, faults, stored());
    assert_eq!(outcome, (0, 0));
}

#[test]
fn nats_jetstream_holds_every_event_once() {
    let Some(root) = receivers("NATS") else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let (port_text, store) = (port.to_string(), folder.path().display().to_string());
    let args = ["-a", "127.0.0.1", "-p", &port_text, "-js", "-sd", &store];
    let mut nats = Program::start(root.join("usr/sbin/nats-server"), &args, folder.path(), port);
    nats::create_stream(port);
    let bridge = nats::Bridge::start(port);
    let proxy = Proxy::start(bridge.port, 3, 200);
    let mut kills = 0;
    let http =
        HttpParams { url: format!("http://127.0.0.1:{}/events", proxy.port()), ..HttpParams::default() };
    let (report, failures) = stream(http, || {
        nats.kill();
        pause(Duration::from_millis(300));
        nats.start_again();
        kills += 1;
    });
    let stored = nats::stored(port);
    let tracks = stored.iter().map(|event| event["data"]["track"].as_u64().unwrap());
    let outcome =
        account("NATS 2.9.10 JetStream, SIGKILL", report, (proxy.faults() + kills, failures), tracks);
    assert_eq!(outcome, (0, 0));
}

/// A private certificate authority with certificates for a server and for devices.
struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        for authority in ["ours", "other"] {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("{authority} root"));
            let key = KeyPair::generate().unwrap();
            let root = params.self_signed(&key).unwrap();
            put(&format!("{authority}-ca.pem"), &root.pem());
            let issuer = Issuer::new(params, key);
            for (name, expired) in
                [("server", false), ("client", false), ("old-server", true), ("old-client", true)]
            {
                let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
                params.distinguished_name.push(rcgen::DnType::CommonName, name);
                (params.not_before, params.not_after) =
                    (date_time_ymd(2024, 1, 1), date_time_ymd(2124, 1, 1));
                if expired {
                    params.not_after = date_time_ymd(2025, 1, 1);
                }
                let key = KeyPair::generate().unwrap();
                put(&format!("{authority}-{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
                put(&format!("{authority}-{name}.key"), &key.serialize_pem());
                put(&format!("{authority}-{name}.pin"), &pin(&key));
            }
        }
        Authority { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// nginx with TLS and client certificates in front of `upstream`.
    fn nginx(&self, root: &Path, server: &str, upstream: u16, port: u16) -> Program {
        let config = self.path(&format!("nginx-{server}.conf"));
        let place = self.folder.path().display();
        std::fs::write(
            &config,
            format!(
                "daemon off; master_process off; pid {place}/{server}.pid; error_log stderr; events {{}}\n\
                 http {{ access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;\n\
                 fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
                 server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {place}/{server}.pem;\n\
                 ssl_certificate_key {place}/{server}.key; ssl_client_certificate {place}/ours-ca.pem;\n\
                 ssl_verify_client on; location / {{ proxy_http_version 1.1; proxy_pass http://127.0.0.1:{upstream}; }} }} }}\n"
            ),
        )
        .unwrap();
        let args = ["-c", config.to_str().unwrap(), "-e", "stderr"];
        Program::start(root.join("usr/sbin/nginx"), &args, self.folder.path(), port)
    }

    fn tls(&self, client: Option<&str>) -> TlsParams {
        TlsParams {
            roots: Roots::File(self.path("ours-ca.pem")),
            client_cert: client.map(|name| self.path(&format!("{name}.pem"))),
            client_key: client.map(|name| self.path(&format!("{name}.key"))),
            pin: None,
        }
    }
}

/// Same as `openssl pkey -pubout -outform DER | sha256sum`.
fn pin(key: &rcgen::KeyPair) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use sha2::Digest as _;
    format!(
        "sha256//{}",
        BASE64_STANDARD.encode(sha2::Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(key)))
    )
}

#[test]
fn behind_nginx_with_tls_and_client_certificates_every_event_is_stored_once() {
    let Some(root) = receivers("nginx") else { return };
    let authority = Authority::new();
    let receiver = Server::start([], Behaviour::Accept(200));
    let port = free_port();
    let mut nginx = authority.nginx(&root, "ours-server", port_of(&receiver), port);
    let proxy = Proxy::start(port, 4, 5000);
    let mut kills = 0;
    let http = HttpParams {
        url: format!("https://localhost:{}/events", proxy.port()),
        tls: authority.tls(Some("ours-client")),
        ..HttpParams::default()
    };
    let (report, failures) = stream(http, || {
        nginx.kill();
        pause(Duration::from_millis(300));
        nginx.start_again();
        kills += 1;
    });
    let stored = receiver.stored();
    let tracks = stored.iter().map(|event| event["data"]["track"].as_u64().unwrap());
    let outcome = account(
        "nginx 1.22 TLS, client certificate, SIGKILL",
        report,
        (proxy.faults() + kills, failures),
        tracks,
    );
    assert_eq!(outcome, (0, 0));
    assert!(receiver.deliveries() as u64 > EVENTS, "no acknowledgement was cut off, so nothing was tested");
}

/// Certificate problems are reported with the remedy, cost no event, and end when they are fixed.
#[test]
fn certificate_problems_are_reported_with_a_remedy_and_cost_nothing() {
    let Some(root) = receivers("nginx with wrong certificates") else { return };
    let authority = Authority::new();
    let receiver = Server::start([], Behaviour::Accept(200));
    let (port, old_port) = (free_port(), free_port());
    let _nginx = authority.nginx(&root, "ours-server", port_of(&receiver), port);
    let _old = authority.nginx(&root, "ours-old-server", port_of(&receiver), old_port);
    let good = || authority.tls(Some("ours-client"));
    let key = |name: &str| KeyPin::parse(&std::fs::read_to_string(authority.path(name)).unwrap());
    let cases = [
        ("no client certificate", port, authority.tls(None), "client_cert_file"),
        ("one of another authority", port, authority.tls(Some("other-client")), "certificate"),
        ("an expired one", port, authority.tls(Some("ours-old-client")), "certificate"),
        (
            "another root",
            port,
            TlsParams { roots: Roots::File(authority.path("other-ca.pem")), ..good() },
            "uplink.ca",
        ),
        ("Mozilla's roots", port, TlsParams { roots: Roots::Builtin, ..good() }, "uplink.ca"),
        ("another key", port, TlsParams { pin: key("ours-client.pin"), ..good() }, "uplink.pin"),
        ("an expired server", old_port, good(), "expired"),
    ];
    for (what, port, tls, words) in cases {
        for (trusted, more) in [(true, words), (false, if words == "expired" { "clock" } else { words })] {
            let (kept, text) = one_send(port, "localhost", tls.clone(), trusted);
            assert!(kept && text.contains(more), "{what}: {text}");
        }
    }
    let (kept, text) = one_send(port, "127.0.0.1", good(), true);
    assert!(kept && text.contains("another name"), "{text}");
    assert_eq!(receiver.deliveries(), 0);
    for tls in [good(), TlsParams { pin: key("ours-server.pin"), ..good() }] {
        assert_eq!(one_send(port, "localhost", tls, true), (false, String::new()));
    }
    assert_eq!(receiver.deliveries(), 2);
}

/// The port of one of our own receivers.
fn port_of(receiver: &Server) -> u16 {
    receiver.url().rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap()
}

/// Today's clock, trusted or not.
struct Today(bool);

impl Clock for Today {
    fn mono(&self) -> Mono {
        SystemClock.mono()
    }
    fn wall(&self) -> flytrap::platform::clock::Wall {
        flytrap::platform::clock::Wall { synchronised: self.0, ..SystemClock.wall() }
    }
}

/// Sends one event once: returns whether it is kept, and the error.
fn one_send(port: u16, host: &str, tls: TlsParams, trusted: bool) -> (bool, String) {
    use flytrap::delivery::uplink::session::Failure;
    use flytrap::delivery::uplink::{Batch, SendError, Sink};
    let time = Arc::new(Timekeeper::new(Arc::new(Today(trusted))));
    let http = HttpParams { url: format!("https://{host}:{port}/events"), tls, ..HttpParams::default() };
    let mut sink = HttpSink::new(http, time).unwrap();
    let origin = Origin::new("mast-7", "3f2a", Mono::ZERO);
    let body = Body::Stopping { reason: fixed("test") };
    let event =
        flytrap::event::Event { seq: u64::from(port), at: SystemClock.mono(), camera: fixed(""), body };
    match sink.send(&Batch::new(&origin, SystemClock.sample(), &[event])) {
        Ok(()) => (false, String::new()),
        Err(SendError { failure: Failure::Misconfigured | Failure::Retry { .. }, text, .. }) => (true, text),
        Err(other) => (false, format!("{other:?}")),
    }
}
