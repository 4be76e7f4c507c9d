//! The status server from outside: real Prometheus and promtool, and clients that mean no good.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use flytrap::base::limits::STATUS_CONNECTIONS_MAX;
use flytrap::base::stop::Stop;
use flytrap::platform::clock::{Clock, SystemClock};
use flytrap::platform::threads::spawn;
use flytrap::status::csv::{ResourceLog, Row};
use flytrap::status::openmetrics::{Buckets, Decimal, Exposition, Family, Format, Kind, Unit, Value};
use flytrap::status::server::{Counters, Counts, Params, Server};
use flytrap::status::{Page, Pages, Request, Status};
use serde_json::Value as Json;

use crate::common::{say, skip};
use crate::receivers::programs::{self, Program, free_port, pause};

/// How long a well-behaved client waits for its page while the server is under attack.
const PATIENCE: Duration = Duration::from_secs(60);

/// A page with every kind of family, and every character that needs care.
fn every_feature(page: &mut dyn std::fmt::Write, format: Format) -> std::fmt::Result {
    let mut page = page;
    let mut page = Exposition::new(&mut page, format, "flytrap");
    let family = |name, kind, unit, help| Family { name, kind, unit, help };
    let labels = [("camera", "north \"gate\"\\\n\u{e9}")];
    let frames =
        family("frames_captured", Kind::Counter, Unit::None, "Frames that the \"sources\" announced \\ \n.");
    let mut samples = page.family(frames)?;
    samples.sample(&labels, Some(1204))?;
    samples.sample(&[("camera", "south")], Some(u64::MAX))?;
    let processor = family("process_cpu", Kind::Counter, Unit::Seconds, "Processor time.");
    page.family(processor)?.sample(&[], Some(Decimal::from_micros(12_345_678)))?;
    let temperature = family("cpu_temperature", Kind::Gauge, Unit::Celsius, "The hottest sensor.");
    page.family(temperature)?.sample(&[], Some(Decimal::scaled(-12_500, 3)))?;
    let gpu = family("gpu_memory", Kind::Gauge, Unit::Bytes, "There is none.");
    page.family(gpu)?.sample(&[], None::<u64>)?;
    let slope = family("resident_memory_growth", Kind::Gauge, Unit::BytesPerSecond, "Growth of memory.");
    page.family(slope)?.sample(&[], Some(1.5e-7))?;
    let share = family("motion", Kind::Gauge, Unit::Ratio, "Part of the frames with motion.");
    page.family(share)?.sample(&labels, Some(f64::INFINITY))?;
    let buckets =
        Buckets { bounds: &[5_000, 1_000_000, 2_500_000], counts: &[1, 2, 3, 4], sum: 99, places: 6 };
    let time = family("stage", Kind::Histogram, Unit::Seconds, "Time of a stage.");
    let mut samples = page.family(time)?;
    for stage in ["gate", "detect"] {
        samples.histogram(&[("camera", "south"), ("stage", stage)], &buckets)?;
    }
    let latency = family("latency", Kind::Summary, Unit::Seconds, "From capture to event.");
    let quantiles = [(5, 1), (95, 2), (99, 2)].map(|(number, places)| {
        (Decimal::scaled(number, places), Some(Value::from(Decimal::from_millis(40 + number as u64))))
    });
    page.family(latency)?.summary(&labels, &quantiles, Some(Value::Float(12.5)), Some(7))?;
    let build = family("build", Kind::Info, Unit::None, "This program.");
    page.family(build)?.info(&[("version", "0.1.0"), ("engine", "own")])?;
    page.end()
}

/// Every feature at `/metrics`, the server's counts at `/counts`, a large page at `/large`.
struct TestPages(Arc<Counters>);

impl Pages for TestPages {
    fn respond(&mut self, request: &Request<'_>, page: &mut Page<'_>) -> Status {
        let written = match request.path {
            "/metrics" => {
                page.set_content_type(request.format.content_type());
                every_feature(page, request.format)
            }
            "/counts" => {
                let Counts { open, connections, evicted, rejected, timed_out, refused, answered, .. } =
                    self.0.read();
                // Both kinds of `Write` are in scope.
                let page: &mut dyn std::fmt::Write = page;
                write!(
                    page,
                    "open {open} connections {connections} evicted {evicted} rejected {rejected} timed_out {timed_out} \
                     refused {refused} answered {answered}"
                )
            }
            "/large" => (0..LARGE_BYTES / 64).try_for_each(|_| page.write_str(&"x".repeat(64))),
            _ => return Status::NotFound,
        };
        written.map_or(Status::Unavailable, |()| Status::Ok)
    }
}

const LARGE_BYTES: usize = 128 << 10;

/// A server on a thread of this process.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    counters: Arc<Counters>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(token_file: Option<PathBuf>) -> Self {
        Self::with_pages(token_file, TestPages)
    }

    /// `pages`: the pages of a server with these counters.
    pub(crate) fn with_pages<P: Pages + 'static>(
        token_file: Option<PathBuf>,
        pages: impl FnOnce(Arc<Counters>) -> P,
    ) -> Self {
        let address = Some("127.0.0.1:0".parse().unwrap());
        let params = Params { address, on_socket: false, token_file, page_bytes: LARGE_BYTES };
        let mut server = Server::new(params, Arc::new(SystemClock)).unwrap();
        let (address, counters, stop) = (server.listen().unwrap().unwrap(), server.counters(), Stop::new());
        let mut pages = pages(server.counters());
        let ended = stop.clone();
        let thread = spawn("status", move || server.run(&mut pages, &ended)).unwrap();
        Running { address, counters, stop, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.request();
        self.thread.take().map(JoinHandle::join);
    }
}

/// The status code and the body of a page, in a connection of its own; `None`: the connection ended before.
pub(crate) fn get(address: SocketAddr, path: &str, headers: &str) -> Option<(u16, String)> {
    let mut client = TcpStream::connect(address).ok()?;
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    client.write_all(request.as_bytes()).ok()?;
    let mut response = Vec::new();
    client.read_to_end(&mut response).ok()?;
    let response = String::from_utf8(response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n")?;
    let length =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse::<usize>().unwrap();
    (body.len() == length).then(|| (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
}

/// The folder with Prometheus; prints why if there is none.
pub(crate) fn prometheus(test: &str) -> Option<PathBuf> {
    programs::unpacked(&["prometheus"]).map_err(|why| skip(test, &why)).ok()
}

/// Whether `promtool check metrics` finds nothing wrong with a page, and what it says.
pub(crate) fn promtool(folder: &Path, text: &str) -> (bool, String) {
    let mut command = Command::new(folder.join("usr/bin/promtool"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn promtool_finds_nothing_wrong_with_the_text_format() {
    let Some(folder) = prometheus("promtool_finds_nothing_wrong_with_the_text_format") else { return };
    let check = |text: &str| promtool(&folder, text);
    let server = Running::start(None);
    let (code, text) = get(server.address, "/metrics", "").unwrap();
    assert_eq!((code, check(&text)), (200, (true, String::new())), "{text}");
    let (wrong, said) = check(&text.replace("# HELP flytrap_frames_captured_total", "# NOTE"));
    assert!(!wrong && said.contains("no help text"), "the check can fail: {said}");
}

#[test]
fn prometheus_scrapes_every_sample_with_the_token() {
    let Some(programs) = prometheus("prometheus_scrapes_every_sample_with_the_token") else { return };
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret-token\n").unwrap();
    let server = Running::start(Some(token.clone()));
    let config = folder.path().join("prometheus.yml");
    let target = server.address;
    let text = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs:\n- job_name: flytrap\n  authorization: {{ credentials_file: {} }}\n  \
         static_configs: [{{ targets: ['{target}'] }}]\n",
        token.display()
    );
    std::fs::write(&config, text).unwrap();
    let port = free_port();
    let args = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", folder.path().join("data").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let _prometheus = Program::start(programs.join("usr/bin/prometheus"), &args, folder.path(), port);
    let api: SocketAddr = ([127, 0, 0, 1], port).into();
    // The values of a query, by what `label` says.
    let query = |query: &str| -> Option<Json> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (code, body) = get_api(api, &format!("/api/v1/query?query={encoded}"))?;
        let json: Json = serde_json::from_str(&body).ok()?;
        (code == 200).then(|| json["data"]["result"].clone())
    };
    let value = |text: &str| query(text).and_then(|all| Some(all.get(0)?["value"][1].as_str()?.to_owned()));
    let begun = SystemClock.mono();
    while value("up").as_deref() != Some("1") {
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        let targets = get_api(api, "/api/v1/targets");
        let late = SystemClock.mono().since(begun) > Duration::from_secs(60);
        assert!(!late, "not up: {targets:?} {:?} {}", server.counters.read(), log());
        pause(Duration::from_millis(200));
    }
    for (text, expected) in [
        ("flytrap_frames_captured_total{camera='south'}", "18446744073709552000"),
        ("flytrap_process_cpu_seconds_total", "12.345678"),
        ("flytrap_cpu_temperature_celsius", "-12.5"),
        ("flytrap_resident_memory_growth_bytes_per_second", "1.5e-7"),
        ("flytrap_motion_ratio", "+Inf"),
        ("flytrap_stage_seconds_bucket{stage='gate',le='2.5'}", "6"),
        ("flytrap_stage_seconds_sum{stage='gate'}", "0.000099"),
        ("flytrap_latency_seconds{quantile='0.95'}", "0.135"),
        ("flytrap_latency_seconds_count", "7"),
        ("flytrap_build_info{engine='own'}", "1"),
        ("count(flytrap_gpu_memory_bytes) or vector(0)", "0"),
        ("scrape_samples_scraped", "24"),
    ] {
        let found = value(text).unwrap_or_default();
        assert_eq!(found.parse::<f64>().ok(), expected.parse::<f64>().ok(), "{text}: {found}");
    }
    let camera = query("flytrap_motion_ratio").unwrap()[0]["metric"]["camera"].clone();
    assert_eq!(camera, "north \"gate\"\\\n\u{e9}", "labels arrive as they are");
    let metadata = get_api(api, "/api/v1/targets/metadata?metric=flytrap_stage_seconds").unwrap().1;
    assert!(metadata.contains("\"unit\":\"seconds\""), "it reads OpenMetrics: {metadata}");
    let unauthorized = get(server.address, "/metrics", "").unwrap();
    assert_eq!(unauthorized.0, 401);
    let counts = server.counters.read();
    assert_eq!((counts.unauthorized, counts.refused, counts.truncated), (1, 0, 0), "{counts:?}");
}

/// A page of Prometheus itself.
fn get_api(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut client = TcpStream::connect(address).ok()?;
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
    let mut response = String::new();
    client.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A server in a process of its own, so that its memory can be measured: this test binary once more.
struct ServerProcess {
    child: Child,
    address: SocketAddr,
}

const SERVE: &str = "FLYTRAP_TEST_SERVE";

impl ServerProcess {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "status::the_server_of_the_load_test", "--ignored", "--nocapture"]);
        let mut child = command.env(SERVE, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address =
            lines.by_ref().find_map(|line| Some(line.split_once("LISTENS ")?.1.parse().unwrap())).unwrap();
        // Its output is read to the end, or the test harness in it could not write its summary.
        std::thread::spawn(move || lines.for_each(drop));
        ServerProcess { child, address }
    }

    fn proc(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.child.id()).into()
    }

    fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(self.proc("statm")).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
    }

    /// Processor time so far.
    fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(self.proc("stat")).unwrap();
        let fields = text.rsplit_once(')').unwrap().1.split_ascii_whitespace().skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// The server's counts by their names.
    fn counts(&self) -> Option<std::collections::BTreeMap<String, u64>> {
        let (code, text) = get(self.address, "/counts", "")?;
        let words: Vec<_> = text.split(' ').collect();
        (code == 200)
            .then(|| words.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].parse().unwrap())).collect())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

#[test]
#[ignore = "run by the load test, as a process of its own"]
fn the_server_of_the_load_test() {
    if std::env::var_os(SERVE).is_none() {
        return;
    }
    let server = Running::start(None);
    println!("\nLISTENS {}", server.address);
    std::io::stdout().flush().unwrap();
    let _until_the_parent_ends = std::io::stdin().read_to_end(&mut Vec::new());
}

/// What a hostile client does in one connection.
#[derive(Clone, Copy, PartialEq)]
enum Hostile {
    /// Reads its page byte by byte.
    SlowReader,
    /// Asks again and again and never reads.
    NeverReads,
    /// Sends a request byte by byte.
    SlowWriter,
    /// Sends garbage.
    Garbage,
    /// Sends nothing.
    Silent,
    /// Asks as fast as it can, in connection after connection.
    Flood,
}

impl Hostile {
    /// One connection, until the server ends it or `stop`.
    fn attack(self, address: SocketAddr, seed: u64, stop: &Stop) -> Option<()> {
        let mut client = TcpStream::connect(address).ok()?;
        client.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
        client.set_write_timeout(Some(Duration::from_secs(3))).ok()?;
        let request = format!("GET /large HTTP/1.1\r\nHost: {address}\r\n\r\n");
        match self {
            Hostile::SlowReader => {
                client.write_all(request.as_bytes()).ok()?;
                while client.read(&mut [0; 1]).ok()? > 0 && !stop.wait(Duration::from_millis(50)) {}
            }
            Hostile::NeverReads => {
                while !stop.requested() {
                    client.write_all(request.as_bytes()).ok()?;
                }
            }
            Hostile::SlowWriter => {
                for byte in request.as_bytes() {
                    client.write_all(&[*byte]).ok()?;
                    if stop.wait(Duration::from_millis(20)) {
                        break;
                    }
                }
            }
            Hostile::Garbage => {
                let mut state = seed;
                let bytes: Vec<u8> = (0..20_000)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (state >> 56) as u8
                    })
                    .collect();
                client.write_all(&bytes).ok()?;
                let _either_way = client.read(&mut [0; 100]);
            }
            Hostile::Silent => {
                stop.wait(Duration::from_secs(2));
            }
            Hostile::Flood => {
                client.write_all(request.as_bytes()).ok()?;
                let mut page = vec![0; LARGE_BYTES];
                while client.read(&mut page).ok()? > 0 && !stop.requested() {}
            }
        }
        Some(())
    }
}

#[test]
fn two_hundred_hostile_clients_cost_no_memory_and_nobody_else_their_page() {
    const CLIENTS: usize = 200;
    let server = ServerProcess::start();
    let stop = Stop::new();
    (0..100).for_each(|_| assert_eq!(get(server.address, "/metrics", "").unwrap().0, 200));
    let (resident, cpu, begun) = (server.resident_bytes(), server.cpu(), SystemClock.mono());
    let attacks = Arc::new(AtomicUsize::new(0));
    let kinds = [
        Hostile::SlowReader,
        Hostile::NeverReads,
        Hostile::SlowWriter,
        Hostile::Garbage,
        Hostile::Silent,
        Hostile::Flood,
    ];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|index| {
            let (stop, attacks, address) = (stop.clone(), Arc::clone(&attacks), server.address);
            let body = move || {
                for round in 0.. {
                    kinds[index % kinds.len()].attack(address, index as u64 * 1000 + round, &stop);
                    attacks.fetch_add(1, Ordering::Relaxed);
                    if stop.wait(Duration::from_millis(20)) {
                        break;
                    }
                }
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn(body).unwrap()
        })
        .collect();
    let (mut pages, mut busy, mut longest, mut most) = (0, 0, Duration::ZERO, 0);
    while pages < 3 || SystemClock.mono().since(begun) < Duration::from_secs(10) {
        let asked = SystemClock.mono();
        // A 503, or a connection that was closed, is tried again, as a scraper does.
        while get(server.address, "/metrics", "").is_none_or(|(code, _)| code != 200) {
            busy += 1;
            assert!(SystemClock.mono().since(asked) < PATIENCE, "no page after {pages} pages");
            pause(Duration::from_millis(20));
        }
        longest = longest.max(SystemClock.mono().since(asked));
        most = most.max(server.resident_bytes());
        assert!(server.descriptors() <= STATUS_CONNECTIONS_MAX + 10, "{}", server.descriptors());
        pages += 1;
        pause(Duration::from_millis(20));
    }
    let (spent, time) = (server.cpu() - cpu, SystemClock.mono().since(begun));
    stop.request();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let ended = SystemClock.mono();
    let counts = loop {
        let counts = server.counts();
        match counts {
            // This one.
            Some(counts) if counts["open"] == 1 => break counts,
            other => assert!(SystemClock.mono().since(ended) < PATIENCE, "connections stay: {other:?}"),
        }
        pause(Duration::from_millis(100));
    };
    let growth = most.max(server.resident_bytes()).saturating_sub(resident);
    let attacks = attacks.load(Ordering::Relaxed);
    say(&format!(
        "MEASURED status server, {CLIENTS} hostile clients, {attacks} connections of theirs in {time:.1?}: {pages} pages, the slowest \
         after {longest:.2?}, {busy} tries in vain; memory {} kB more than {} kB; {:.1} % of a core; {counts:?}",
        growth >> 10,
        resident >> 10,
        spent.as_secs_f64() / time.as_secs_f64() * 100.0
    ));
    assert!(growth < 2 << 20, "{growth} bytes more than {resident}");
    assert!(attacks >= CLIENTS, "{attacks}");
    assert!(spent < time / 5, "{spent:?} of {time:?}");
}

/// A shell in a mount namespace of its own with a file system of 64 kB at /mnt; its files are below /proc/PID/root/mnt.
struct SmallDisk(Child);

impl SmallDisk {
    fn start(test: &str) -> Option<Self> {
        let mount = "mount -t tmpfs -o size=64k none /mnt && echo mounted && read -r _";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", mount]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let disk = child.map_err(|error| skip(test, &format!("unshare: {error}"))).ok();
        let mut disk = SmallDisk(disk?);
        let mut line = String::new();
        BufReader::new(disk.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line != "mounted\n" {
            skip(test, "no file system may be mounted here");
            return None;
        }
        Some(disk)
    }

    fn folder(&self) -> PathBuf {
        format!("/proc/{}/root/mnt", self.0.id()).into()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn a_full_disk_costs_the_resource_log_rows_and_it_goes_on_afterwards() {
    let test = "a_full_disk_costs_the_resource_log_rows_and_it_goes_on_afterwards";
    let Some(disk) = SmallDisk::start(test) else { return };
    let path = disk.folder().join("resources.csv");
    let mut log = ResourceLog::new(&path, 1 << 20, &["Uptime_s"]);
    let row = Row {
        unix_nanos: Some(1_795_421_730_250_000_000),
        cpu_permille: Some(415),
        memory_bytes: Some(192_098_304),
        fps_thousandths: Some(14_960),
        more: &[Some(Decimal::whole(99))],
    };
    let mut rows = 0;
    let error = loop {
        match log.append(&row) {
            Ok(()) => rows += 1,
            Err(error) => break error,
        }
        assert!(rows < 10_000, "the disk is never full");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    (0..5).for_each(|_| assert!(log.append(&row).is_err()));
    let whole = |path: &Path, rows: usize| {
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("Timestamp,CPU%,Memory_MB,GPU_Memory_MB,FPS,Uptime_s"));
        assert!(lines.clone().all(|line| line == row.to_string()) && text.ends_with('\n'));
        assert_eq!(lines.count(), rows);
    };
    whole(&path, rows);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(9000).unwrap();
    log.append(&row).unwrap();
    let kept =
        (9000 - "Timestamp,CPU%,Memory_MB,GPU_Memory_MB,FPS,Uptime_s\n".len()) / (row.to_string().len() + 1);
    whole(&path, kept + 1);
}
