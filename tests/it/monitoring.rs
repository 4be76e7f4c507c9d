//! The files below scripts/monitoring against the real servers: alert rules that are those of the program, and dashboards of which every
//! query finds what a running device reports.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flytrap::config::Config;
use flytrap::delivery::uplink::Batch;
use flytrap::delivery::uplink::format::influx::write_batch;
use flytrap::event::{Body, Event, Machine, Origin, fixed};
use flytrap::metrics::alert::{Rule, Watched, When};
use flytrap::metrics::families::families;
use flytrap::metrics::table::{self, Kind, Metric, Unit};
use flytrap::platform::clock::{Clock, SystemClock};
use flytrap::platform::cores;
use flytrap::status::openmetrics::Exposition;
use flytrap::status::{Page, Pages, Request, Status};
use serde_json::Value as Json;

use crate::common::daemon::Daemon;
use crate::common::{flytrap, say, skip};
use crate::real_receivers::{influxdb, receivers};
use crate::receivers::programs::{Program, free_port, pause};
use crate::status::{Running, prometheus};

/// Longest wait until every query has rows: the first road user has to cross the line.
const PATIENCE: Duration = Duration::from_secs(100);

/// A file below scripts/monitoring.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/monitoring").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

// ---- Alert rules

/// A rule of the file for Prometheus.
#[derive(Debug, Clone, PartialEq, Default)]
struct FileRule {
    alert: String,
    /// With single spaces, and none inside parentheses.
    expr: String,
    hold_s: u64,
    recovery_s: u64,
    /// The label `rule`: the name in the program.
    rule: Option<String>,
}

fn without_layout(expr: &str) -> String {
    expr.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(").replace(" )", ")")
}

/// The rules of the file, read by its layout: no more of YAML than it uses.
fn file_rules(text: &str) -> Vec<FileRule> {
    let seconds = |text: &str| {
        let (number, unit) = text.split_at(text.len() - 1);
        number.parse::<u64>().unwrap() * BTreeMap::from([("s", 1), ("m", 60), ("h", 3600)])[unit]
    };
    let mut rules: Vec<FileRule> = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        if let Some(alert) = line.strip_prefix("      - alert: ") {
            rules.push(FileRule { alert: alert.to_owned(), ..FileRule::default() });
            continue;
        }
        let Some(rule) = rules.last_mut() else { continue };
        if let Some(expr) = line.strip_prefix("        expr: ") {
            rule.expr = expr.trim_start_matches('|').to_owned();
        } else if let Some(name) = line.strip_prefix("          rule: ") {
            rule.rule = Some(name.to_owned());
        } else if let Some(time) = line.strip_prefix("        for: ") {
            rule.hold_s = seconds(time);
        } else if let Some(time) = line.strip_prefix("        keep_firing_for: ") {
            rule.recovery_s = seconds(time);
        } else if line.starts_with("        labels:") {
            rule.expr = without_layout(&rule.expr);
        } else if line.starts_with("          ") && !line.contains(": ") {
            write!(rule.expr, " {}", line.trim()).unwrap();
        }
    }
    rules
}

/// Unit and divisor of a metric on `/metrics`.
fn exposed_unit(unit: Unit) -> (&'static str, f64) {
    match unit {
        Unit::Count => ("", 1.0),
        Unit::Bytes => ("_bytes", 1.0),
        Unit::Milliseconds => ("_seconds", 1e3),
        Unit::Microseconds => ("_seconds", 1e6),
        Unit::Permille => ("_ratio", 1e3),
        Unit::Millihertz => ("_hertz", 1e3),
        Unit::Kilohertz => ("_hertz", 1e-3),
        Unit::Millicelsius => ("_celsius", 1e3),
    }
}

/// The name of a metric on `/metrics`, without `_total`.
fn exposed(metric: &Metric) -> String {
    let spool = if metric.event == Some("storage") { "spool_" } else { "" };
    let base = metric.name.trim_end_matches(metric.unit.suffix());
    format!("flytrap_{spool}{base}{}", exposed_unit(metric.unit).0)
}

/// What a rule of the program is in the file.
fn as_file_rule(rule: &Rule) -> FileRule {
    let words = rule.name.split([' ', '-']);
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    let alert = format!("Flytrap{}", words.map(capital).collect::<String>());
    let (metric, of_camera) = (rule.metric.metric(), matches!(rule.metric, Watched::Camera(_)));
    let (value, (_, divisor)) = (exposed(metric), exposed_unit(metric.unit));
    let labels = if of_camera { "job, instance, camera" } else { "job, instance" };
    let (sign, limit, clear) = match rule.when {
        When::Above { limit, clear } => ('>', limit as f64 / divisor, clear as f64 / divisor),
        When::Below { limit, clear } => ('<', limit as f64 / divisor, clear as f64 / divisor),
        When::Absent => panic!("'{}': write down here what absence is in PromQL", rule.name),
    };
    let expr = match metric.kind {
        Kind::Age => {
            assert_eq!((rule.window, limit), (Duration::ZERO, clear), "'{}' needs another form", rule.name);
            let since_start = match of_camera {
                true => "(flytrap_lost * 0 + on (job, instance) group_left () flytrap_uptime_seconds)",
                false => "flytrap_uptime_seconds",
            };
            format!("{value} {sign} {limit} or ({since_start} {sign} {limit} unless on ({labels}) {value})")
        }
        Kind::Gauge | Kind::Reading => {
            let window = rule.window.as_secs();
            let value = if window == 0 { value } else { format!("avg_over_time({value}[{}m])", window / 60) };
            let mut expr = format!("{value} {sign} {limit}");
            if limit != clear {
                let firing = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}");
                write!(expr, " or ({value} {sign} {clear} and on ({labels}) {firing})").unwrap();
            }
            match window {
                0 => expr,
                _ => format!("({expr}) and on (job, instance) flytrap_uptime_seconds >= {window}"),
            }
        }
        Kind::Counter | Kind::Histogram => {
            panic!("'{}': write down here what a counter is in PromQL", rule.name)
        }
    };
    let hold_s = rule.hold.as_secs();
    FileRule { alert, expr, hold_s, recovery_s: hold_s, rule: Some(rule.name.clone()) }
}

fn default_rules() -> Vec<Rule> {
    Config::load(None, Vec::new(), &cores::Machine::default()).unwrap().alerts
}

#[test]
fn every_default_rule_of_the_program_is_a_rule_of_prometheus() {
    let text = read("prometheus/flytrap.rules.yml");
    let rules = default_rules();
    assert!(rules.len() >= 11, "{rules:?}");
    let expected: Vec<FileRule> = rules.iter().map(as_file_rule).collect();
    let in_file = file_rules(&text);
    let (of_program, others): (Vec<_>, Vec<_>) = in_file.into_iter().partition(|rule| rule.rule.is_some());
    assert_eq!(of_program, expected);
    // Whatever the user adds to them has an alert, too, and none of them has two.
    let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    let own = format!("flytrap_alert_active{{rule!~\"{}\"}} > 0", names.join("|"));
    let alerts: Vec<_> = others.iter().map(|rule| rule.alert.as_str()).collect();
    assert_eq!(alerts, ["FlytrapOwnRule", "FlytrapUnreachable", "FlytrapNoTargets", "FlytrapRestarts"]);
    assert_eq!(others[0].expr, own);
    // The comparison sees a limit, a window, a hold time and a limit for recovery that differ.
    for (old, new) in
        [("> 80\n", "> 81\n"), ("ratio[5m]", "ratio[4m]"), ("for: 1h", "for: 2h"), ("> 75", "> 74")]
    {
        assert!(text.contains(old), "{old}");
        let changed: Vec<_> =
            file_rules(&text.replace(old, new)).into_iter().filter(|rule| rule.rule.is_some()).collect();
        assert_ne!(changed, expected, "{old}");
    }
}

/// Runs promtool in `folder`; whether it found nothing wrong, and what it says.
fn promtool(programs: &Path, folder: &Path, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(programs.join("usr/bin/promtool"));
    let output = command.args(args).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), said)
}

#[test]
fn each_alert_fires_and_recovers_and_not_just_inside_its_limit() {
    let test = "each_alert_fires_and_recovers_and_not_just_inside_its_limit";
    let Some(programs) = prometheus(test) else { return };
    let (rules, tests) = (read("prometheus/flytrap.rules.yml"), read("prometheus/flytrap.rules.test.yml"));
    for rule in file_rules(&rules) {
        assert!(tests.contains(&format!("alertname: {}\n        exp_alerts", rule.alert)), "{}", rule.alert);
    }
    let folder = file("prometheus");
    let (fine, said) = promtool(&programs, &folder, &["check", "rules", "flytrap.rules.yml"]);
    assert!(fine && said.contains("SUCCESS: 15 rules found"), "{said}");
    let (fine, said) = promtool(&programs, &folder, &["test", "rules", "flytrap.rules.test.yml"]);
    assert!(fine, "{said}");
    // They can fail.
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put("flytrap.rules.test.yml", &tests);
    put("flytrap.rules.yml", &rules.replace("> 0\n        for: 1m", "> 0\n        for: 30s"));
    let (fine, said) = promtool(&programs, folder.path(), &["test", "rules", "flytrap.rules.test.yml"]);
    assert!(!fine && said.contains("alertname: FlytrapThrottled"), "{said}");
    put("flytrap.rules.yml", &rules.replace("keep_firing_for", "keep_firing"));
    let (fine, said) = promtool(&programs, folder.path(), &["check", "rules", "flytrap.rules.yml"]);
    assert!(!fine && said.contains("keep_firing not found"), "{said}");
}

// ---- Dashboards

/// A query of a dashboard.
#[derive(Debug)]
struct Query {
    panel: String,
    text: String,
    /// At one moment, not over time.
    instant: bool,
}

fn dashboard(name: &str) -> Json {
    serde_json::from_str(&read(&format!("grafana/{name}.json"))).unwrap()
}

fn panels(dashboard: &Json) -> impl Iterator<Item = &Json> {
    dashboard["panels"].as_array().unwrap().iter()
}

fn queries(dashboard: &Json) -> Vec<Query> {
    let mut all = Vec::new();
    for panel in panels(dashboard).filter(|panel| panel["type"] != "row") {
        for target in panel["targets"].as_array().unwrap() {
            let text = target["expr"].as_str().or(target["query"].as_str()).unwrap().to_owned();
            let panel = panel["title"].as_str().unwrap().to_owned();
            all.push(Query { panel, text, instant: target["instant"] == true });
        }
    }
    assert!(all.len() > 40, "{}", all.len());
    all
}

/// The queries of the variables `device` and `camera`.
fn variables(dashboard: &Json) -> Vec<Query> {
    let list = dashboard["templating"]["list"].as_array().unwrap().iter();
    let queries: Vec<_> = list
        .filter(|variable| variable["type"] == "query")
        .map(|variable| Query {
            panel: format!("the variable {}", variable["name"]),
            text: variable["query"]["query"].as_str().or(variable["query"].as_str()).unwrap().to_owned(),
            instant: true,
        })
        .collect();
    assert_eq!(queries.len(), 2);
    queries
}

/// As Grafana replaces variables: here with two values chosen in each.
const DEVICES: &str = "(mast-7|mast-8|mast-9)";
const CAMERAS: &str = "(street|yard)";

fn substituted(text: &str, devices: &str, cameras: &str) -> String {
    let mut text = text.to_owned();
    for (variable, value) in [
        ("$__rate_interval", "10s"),
        ("$__interval", "5s"),
        ("$__range", "10m"),
        ("$timeFilter", "time >= now() - 10m"),
        ("$device", devices),
        ("$camera", cameras),
    ] {
        text = text.replace(variable, value);
    }
    // A dollar before a slash ends a regular expression.
    assert!(!text.replace("$/", "/").contains('$'), "a variable without a value: {text}");
    text
}

/// A server with data.
trait Store {
    /// How many series or rows with a number in them the query finds.
    fn rows(&self, text: &str, instant: bool) -> Result<usize, String>;

    /// The query with each name that it reads replaced by one that does not exist, one at a time.
    fn broken(&self, text: &str) -> Vec<String>;
}

/// Checks that every query of a dashboard finds something, and nothing with a wrong name in it or for a device that does not exist.
fn check(name: &str, store: &impl Store, daemon: &Daemon) {
    let dashboard = dashboard(name);
    let mut all = queries(&dashboard);
    all.extend(variables(&dashboard));
    let found = |query: &Query| {
        let text = substituted(&query.text, DEVICES, CAMERAS);
        store.rows(&text, query.instant).unwrap_or_else(|error| panic!("{}: {text}: {error}", query.panel))
    };
    let begun = SystemClock.mono();
    let mut waiting: Vec<&Query> = all.iter().collect();
    while !waiting.is_empty() {
        let late = SystemClock.mono().since(begun) > PATIENCE;
        assert!(!late, "no rows: {waiting:#?}\n{}", daemon.log());
        pause(Duration::from_millis(300));
        waiting.retain(|query| found(query) == 0);
    }
    let seconds = SystemClock.mono().since(begun).as_secs_f64();
    let mut breaks = 0;
    for query in &all {
        found(query);
        for broken in store.broken(&query.text) {
            let broken = substituted(&broken, DEVICES, CAMERAS);
            assert_eq!(store.rows(&broken, query.instant), Ok(0), "{}: {broken}", query.panel);
            breaks += 1;
        }
        if query.text.contains("$device") {
            let other = substituted(&query.text, "nobody", CAMERAS);
            assert_eq!(store.rows(&other, query.instant), Ok(0), "{}: {other}", query.panel);
        } else {
            assert!(query.panel.contains("\"device\""), "{} shows every device: {}", query.panel, query.text);
        }
    }
    assert!(breaks >= all.len(), "{breaks} names of {} queries", all.len());
    say(&format!(
        "MEASURED {name}: all {} queries with rows after {seconds:.1} s, none with one of {breaks} names broken",
        all.len()
    ));
}

/// The JSON at an address.
fn fetch(url: &str, parameters: &[(&str, &str)]) -> Result<Json, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = parameters.iter().fold(agent.get(url), |request, (name, value)| request.query(name, value));
    let mut response = request.call().map_err(|error| error.to_string())?;
    let body = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
    match response.status().as_u16() {
        200 => serde_json::from_str(&body).map_err(|error| format!("{error}: {body}")),
        _ => Err(body),
    }
}

/// Prometheus, and what has its API.
struct Promql(u16);

impl Promql {
    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Json, String> {
        fetch(&format!("http://127.0.0.1:{}/api/v1/{path}", self.0), parameters)
    }
}

impl Store for Promql {
    fn rows(&self, text: &str, instant: bool) -> Result<usize, String> {
        if let Some(arguments) = text.strip_prefix("label_values(") {
            let (series, label) = arguments.strip_suffix(')').unwrap().rsplit_once(", ").unwrap();
            let found = self.get("series", &[("match[]", series)])?;
            let labels = found["data"].as_array().unwrap().iter().filter_map(|series| series[label].as_str());
            return Ok(labels.collect::<BTreeSet<_>>().len());
        }
        let now = SystemClock.sample().wall.unix_nanos / 1_000_000_000;
        // VictoriaMetrics keeps answers otherwise.
        let common = [("query", text), ("nocache", "1")];
        let found = if instant {
            self.get("query", &common)?
        } else {
            let (start, end) = ((now - 120).to_string(), (now + 1).to_string());
            self.get(
                "query_range",
                &[&common[..], &[("start", &start), ("end", &end), ("step", "5")]].concat(),
            )?
        };
        let is_number = |point: &Json| point[1].as_str().unwrap().parse::<f64>().unwrap().is_finite();
        let series = found["data"]["result"].as_array().unwrap().iter();
        let has_number = |series: &&Json| match series["values"].as_array() {
            Some(points) => points.iter().any(is_number),
            None => is_number(&series["value"]),
        };
        Ok(series.filter(has_number).count())
    }

    fn broken(&self, text: &str) -> Vec<String> {
        // The name of a metric is in front of its labels, or of the comma in label_values.
        let ends = text.match_indices(['{', ',']).map(|(at, _)| at);
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        ends.filter_map(|end| {
            let start = text[..end].rfind(|c| !is_word(c)).map_or(0, |at| at + 1);
            let is_metric = text[end..].starts_with('{') || text[..start] == *"label_values(";
            (is_metric && start < end).then(|| format!("{}no_{}", &text[..start], &text[start..]))
        })
        .collect()
    }
}

/// InfluxDB 1.
struct Influxql(u16);

impl Store for Influxql {
    fn rows(&self, text: &str, _: bool) -> Result<usize, String> {
        let url = format!("http://127.0.0.1:{}/query", self.0);
        let answer = fetch(&url, &[("db", "road"), ("epoch", "ms"), ("q", text)])?;
        let result = &answer["results"][0];
        if let Some(error) = result["error"].as_str() {
            return Err(error.to_owned());
        }
        let series = result["series"].as_array().map_or(&[][..], Vec::as_slice).iter();
        let rows = series.flat_map(|series| series["values"].as_array().unwrap());
        // Apart from the time, and from tags.
        let has_value = |row: &&Json| row.as_array().unwrap().iter().skip(1).any(|value| !value.is_null());
        Ok(rows.filter(has_value).count())
    }

    fn broken(&self, text: &str) -> Vec<String> {
        let from = text.find(" FROM \"").unwrap();
        let measurement = from + " FROM \"".len();
        let mut starts = vec![measurement];
        // Fields: what is in the parentheses of a function. Without one, any of the columns makes a row.
        starts.extend(text[..from].match_indices("(\"").map(|(at, found)| at + found.len()));
        starts.into_iter().map(|start| format!("{}no_{}", &text[..start], &text[start..])).collect()
    }
}

/// Two cameras, a spool, a rule that always holds, and statistics each second. `rest`: more settings, in `[status]` first.
fn settings(folder: &Path, uplink: &str, rest: &str) -> String {
    format!(
        "device.name = \"mast-7\"\nmemory.budget_mb = 512\nevents.stats_interval_s = 1\nspool.folder = \"{}\"\n\
         [uplink]\nbatch_age_max_s = 0.2\nclock_wait_s = 0\n{uplink}\n[status]\n{rest}\n\
         [[alert]]\nname = \"always\"\nmetric = \"machine.rss_bytes\"\nlimit = 1\nwindow_s = 0\nhold_s = 0\n\
         [[camera]]\nname = \"street\"\nsource = \"sim:7,calm,day,overcast,traffic=3\"\n\
         [[camera]]\nname = \"yard\"\nsource = \"sim:8,calm,day,overcast,traffic=3\"\n",
        folder.join("spool").display(),
    )
}

/// What only a board with all sensors reports, and only after an hour: this machine does not.
const SENSORS: [&str; 5] = ["rss_growth", "temperature", "clock_khz", "throttled", "under_voltage"];

fn is_sensor(name: &str) -> bool {
    SENSORS.iter().any(|sensor| name.starts_with(sensor))
}

fn all_sensors() -> Machine {
    Machine {
        rss_growth_per_hour_bytes: 4096,
        temperature_millicelsius: 61_200,
        clock_khz: 1_500_000,
        throttled: 1,
        under_voltage: 1,
        ..Machine::default()
    }
}

/// The sensors' readings as the program sends them, without what this machine does report: it would hide that the program does not.
fn sensors_for_influx() -> String {
    let (now, body) = (SystemClock.mono(), Body::Machine(all_sensors()));
    let event = Event { seq: 0, at: now, camera: fixed(""), body };
    let origin = Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", now);
    let mut line = Vec::new();
    write_batch(&Batch::new(&origin, SystemClock.sample(), &[event]), &mut line);
    let line = String::from_utf8(line).unwrap();
    let (series, (fields, time)) =
        line.split_once(' ').and_then(|(series, rest)| Some((series, rest.rsplit_once(' ')?))).unwrap();
    let fields: Vec<&str> = fields.split(',').filter(|field| is_sensor(field)).collect();
    assert_eq!(fields.len(), SENSORS.len(), "{line}");
    format!("{series} {} {time}", fields.join(","))
}

/// The same readings as the program shows them to Prometheus.
struct SensorPage;

impl Pages for SensorPage {
    fn respond(&mut self, request: &Request<'_>, page: &mut Page<'_>) -> Status {
        page.set_content_type(request.format.content_type());
        let mut exposition = Exposition::new(page, request.format, "flytrap");
        let machine = all_sensors();
        let rows = Machine::METRICS.iter().zip(machine.values()).filter(|(metric, _)| is_sensor(metric.name));
        let written = families(&mut exposition, "", rows).and_then(|()| exposition.end());
        written.map_or(Status::Unavailable, |()| Status::Ok)
    }
}

/// A device whose uplink writes to `port`.
fn sender(port: u16) -> Daemon {
    let uplink = "format = \"influx1\"\ninflux_database = \"road\"";
    let target = |_: &Path| format!("http://127.0.0.1:{port}/");
    let daemon = Daemon::start_to(flytrap(), target, |folder| settings(folder, uplink, ""));
    ureq::post(format!("http://127.0.0.1:{port}/write?db=road")).send(sensors_for_influx()).unwrap();
    daemon
}

#[test]
fn every_query_for_influxdb_finds_what_a_device_sends() {
    let Some(root) = receivers("every_query_for_influxdb_finds_what_a_device_sends") else { return };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let _influxdb = influxdb(&root, folder.path(), port);
    check("influxdb", &Influxql(port), &sender(port));
}

#[test]
fn every_query_for_victoriametrics_finds_what_a_device_sends() {
    let Some(root) = receivers("every_query_for_victoriametrics_finds_what_a_device_sends") else { return };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let data = format!("-storageDataPath={}", folder.path().join("data").display());
    let listen = format!("-httpListenAddr=127.0.0.1:{port}");
    // Otherwise what is younger than 30 s is not shown.
    let args = [&data, &listen, "-memory.allowedBytes=200MB", "-search.latencyOffset=0s"];
    let binary = root.join("usr/bin/victoria-metrics");
    let _victoria = Program::start(binary, &args, folder.path(), port);
    check("victoriametrics", &Promql(port), &sender(port));
}

#[test]
fn every_query_for_prometheus_finds_what_it_scrapes_with_the_shipped_files() {
    let test = "every_query_for_prometheus_finds_what_it_scrapes_with_the_shipped_files";
    let Some(programs) = prometheus(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let (device, nobody, port) = (free_port(), free_port(), free_port());
    let token = folder.path().join("flytrap.token");
    put("flytrap.token", "s3cret-token\n");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    put("flytrap.rules.yml", &read("prometheus/flytrap.rules.yml"));
    // The example, faster, for this device, one with sensors, and one that does not answer.
    let target = |name: &str, address: &str| {
        format!("      - targets: [\"{address}\"]\n        labels: {{device: {name}}}\n")
    };
    let example = read("prometheus/prometheus.yml");
    let shown = target("mast-7", "mast-7.example.org:9464");
    assert!(example.contains(&shown) && example.contains(": 15s"), "{example}");
    let local = |name: &str, port: u16| target(name, &format!("127.0.0.1:{port}"));
    let board = Running::with_pages(Some(token.clone()), |_| SensorPage);
    let targets = local("mast-7", device) + &local("mast-8", nobody) + &local("mast-9", board.address.port());
    put("prometheus.yml", &example.replace(&shown, &targets).replace(": 15s", ": 1s"));
    let (fine, said) = promtool(&programs, folder.path(), &["check", "config", "prometheus.yml"]);
    assert!(fine, "{said}");

    let status = format!("listen = \"127.0.0.1:{device}\"\ntoken_file = \"{}\"", token.display());
    let daemon = Daemon::start(flytrap(), |folder| settings(folder, "", &status));
    let args = [
        format!("--config.file={}", folder.path().join("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", folder.path().join("data").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let _prometheus = Program::start(programs.join("usr/bin/prometheus"), &args, folder.path(), port);
    check("prometheus", &Promql(port), &daemon);

    // The rules find no contradiction in what a real device shows, and see the device that does not answer.
    let rules = Promql(port).get("rules", &[]).unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap().iter();
    let rules: Vec<&Json> = groups.flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert_eq!(rules.len(), file_rules(&read("prometheus/flytrap.rules.yml")).len());
    for rule in &rules {
        assert_eq!((&rule["health"], rule["lastError"].as_str()), (&Json::from("ok"), None), "{rule}");
    }
    let alerts = Promql(port).get("alerts", &[]).unwrap();
    let alerts: BTreeSet<(&str, &str, &str)> = alerts["data"]["alerts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|alert| {
            ["alertname", "device", "rule"].map(|label| alert["labels"][label].as_str().unwrap_or(""))
        })
        .map(|[alert, device, rule]| (alert, device, rule))
        .collect();
    assert!(alerts.contains(&("FlytrapUnreachable", "mast-8", "")), "{alerts:?}");
    assert!(alerts.contains(&("FlytrapOwnRule", "mast-7", "always")), "{alerts:?}");
}

/// All words of a text that begin with `flytrap_`.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("flytrap_")).collect()
}

/// Also the names in rules, which find nothing without saying so.
#[test]
fn every_name_for_prometheus_is_a_metric() {
    let mut known: BTreeSet<String> = ["flytrap_alert_active".to_owned()].into();
    for metric in table::all() {
        let name = exposed(metric);
        known.extend(match metric.kind {
            Kind::Counter => vec![format!("{name}_total")],
            Kind::Gauge | Kind::Age | Kind::Reading => vec![name],
            Kind::Histogram => ["bucket", "sum", "count"].map(|end| format!("{name}_{end}")).into(),
        });
    }
    for name in
        ["grafana/prometheus.json", "prometheus/flytrap.rules.yml", "prometheus/flytrap.rules.test.yml"]
    {
        let text = read(name);
        let names = metric_names(&text);
        assert!(names.len() > 10, "{name}: {names:?}");
        let unknown: Vec<_> = names.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?} are not on /metrics");
    }
    assert!(
        !known.contains("flytrap_temperature_millicelsius") && known.contains("flytrap_temperature_celsius")
    );
}

const DASHBOARDS: [&str; 3] = ["prometheus", "influxdb", "victoriametrics"];

#[test]
fn the_dashboards_are_what_their_generator_writes() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("python3");
    match command.arg(file("grafana/make")).arg(folder.path()).output() {
        Err(error) => skip("the_dashboards_are_what_their_generator_writes", &format!("python3: {error}")),
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            for name in DASHBOARDS {
                let made = std::fs::read_to_string(folder.path().join(format!("{name}.json"))).unwrap();
                let kept = read(&format!("grafana/{name}.json"));
                assert!(made == kept, "{name}.json is out of date: run scripts/monitoring/grafana/make");
            }
        }
    }
}

/// What Grafana needs of a dashboard to show it at once after an import.
#[test]
fn the_dashboards_name_no_data_source_and_no_two_panels_overlap() {
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let kind = if name == "influxdb" { "influxdb" } else { "prometheus" };
        let source = serde_json::json!({"type": kind, "uid": "${datasource}"});
        let list = dashboard["templating"]["list"].as_array().unwrap();
        let names: Vec<_> = list.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["datasource", "device", "camera"], "{name}");
        assert!(list.iter().skip(1).all(|variable| variable["datasource"] == source), "{name}");
        assert_eq!(list[0]["query"], kind);
        let (mut ids, mut cells, mut titles) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()) && titles.insert(title), "{name}: {title}");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
            assert!(w > 0 && h > 0 && x + w <= 24, "{name}: {title}");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(cells.insert(cell), "{name}: '{title}' covers another panel at {cell:?}");
            }
            if panel["type"] == "row" {
                continue;
            }
            let targets = panel["targets"].as_array().unwrap();
            let refs: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
            assert!(!targets.is_empty() && refs.len() == targets.len(), "{name}: {title}");
            let sources = targets.iter().chain([panel]).map(|part| &part["datasource"]);
            assert!(sources.into_iter().all(|used| *used == source), "{name}: {title}");
        }
        for needed in
            ["Active alerts", "Frame rate", "Frames with motion", "Temperature", "Age of the last delivery"]
        {
            assert!(titles.contains(needed), "{name} has no panel '{needed}'");
        }
    }
}
