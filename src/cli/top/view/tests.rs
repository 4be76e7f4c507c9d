use super::*;
use crate::cli::top::page::{CameraFigures, Machine, Stats, Storage};

fn camera(name: &str) -> Camera {
    let figures = CameraFigures {
        lost: Some(0),
        last_frame_age_ms: Some(40),
        rate_wanted_millihertz: Some(6000),
        rate_captured_millihertz: Some(29_970),
        rate_processed_millihertz: Some(5980),
        motion_permille: Some(420),
        latency_p50_us: Some(84_000),
        latency_p95_us: Some(131_500),
        tracks: Some(123_456),
        frames_camera_dropped: Some(3),
        frames_ring_dropped: Some(4),
        frames_corrupt: None,
    };
    Camera { name: name.into(), figures, today: Some(1567) }
}

/// A device with cameras of these names.
fn page(cameras: &[&str]) -> Page {
    Page {
        device: "mast-7".into(),
        version: Some("0.1.0".into()),
        stats: Stats {
            uptime_ms: Some(273_600_000),
            events_delivered: Some(10_234),
            events_dropped: Some(0),
            events_refused: Some(0),
            send_failures: Some(2),
            last_delivery_age_ms: Some(3400),
        },
        machine: Machine {
            cpu_permille: Some(412),
            cpu_process_permille: Some(880),
            rss_bytes: Some(191_000_000),
            rss_growth_per_hour_bytes: Some(310_000),
            temperature_millicelsius: Some(52_100),
            throttled: Some(0),
            under_voltage: Some(0),
            clock_synchronised: Some(1),
            load_permille: Some(624),
            rate_factor_permille: Some(1000),
        },
        storage: Some(Storage {
            waiting: Some(12),
            disk_bytes: Some(1_363_148),
            written_day_bytes: Some(4_404_019),
        }),
        cameras: cameras.iter().map(|name| camera(name)).collect(),
        today_since: Some("2026-11-30T00:00:00+01:00".into()),
        alerts: Vec::new(),
        rules: 11,
    }
}

fn alert(camera: Option<&str>, text: &str) -> Alert {
    Alert {
        rule: "rule".into(),
        camera: camera.map(str::to_owned),
        since_s: Some(132),
        text: Some(text.into()),
    }
}

const EIGHT: [&str; 8] = ["north", "south", "east", "west", "bridge", "tunnel", "bus stop", "bicycle lane 2"];

fn text(page: &Page, width: usize, height: Option<usize>) -> String {
    let lines = lines(page, None, Size { width, height });
    lines.iter().map(|line| format!("{}\n", line.text)).collect()
}

#[track_caller]
fn shows(page: &Page, (width, height): (usize, usize), expected: &str) {
    let shown = text(page, width, Some(height));
    assert_eq!(shown.trim_end(), expected.trim_end(), "\n{shown}");
}

#[test]
fn one_camera_at_80x24() {
    shows(
        &page(&["north"]),
        (80, 24),
        "\
mast-7  up 3 d 4 h  flytrap 0.1.0                                         q ends

                   frames a second    latency ms          crossings since 00:00
camera  state   want   capt   proc    p50    p95  motion  tracks  drops   today
north   ok       6.0   30.0    6.0     84    131    42 %    123k      7    1567

device   CPU 41 %, flytrap 88 % of a core, memory 182 MiB, growth 303 KiB/h
board    temperature 52.1 °C, throttled no, under-voltage no, clock synchronised
network  busy 62 %, frame rates at 100 %
spool    12 waiting, 1.3 MiB on disk, 4.2 MiB written in 24 h
uplink   10234 delivered (last 3 s ago), 2 failures, 0 refused, 0 dropped

alerts   no alerts (11 rules)
",
    );
}

#[test]
fn eight_cameras_at_80x24_with_alerts() {
    let mut page = page(&EIGHT);
    page.cameras[1].figures.lost = Some(1);
    page.cameras[2].figures.last_frame_age_ms = None;
    page.alerts = vec![
        alert(Some("south"), "no frame: last_frame_age_ms is 75 s, above 60 s for 0 s"),
        alert(None, "spool nearly full: disk_bytes is 232.1 MiB, above 230.4 MiB for 60 s"),
    ];
    shows(
        &page,
        (80, 24),
        "\
mast-7  up 3 d 4 h  flytrap 0.1.0                                         q ends

                          frames a second  latency ms      crossings since 00:00
camera     state         want  capt  proc   p50   p95 motion tracks drops  today
north      ok             6.0  30.0   6.0    84   131   42 %   123k     7   1567
south      lost           6.0  30.0   6.0    84   131   42 %   123k     7   1567
east       no frame yet   6.0  30.0   6.0    84   131   42 %   123k     7   1567
west       ok             6.0  30.0   6.0    84   131   42 %   123k     7   1567
bridge     ok             6.0  30.0   6.0    84   131   42 %   123k     7   1567
tunnel     ok             6.0  30.0   6.0    84   131   42 %   123k     7   1567
bus stop   ok             6.0  30.0   6.0    84   131   42 %   123k     7   1567
bicycle l… ok             6.0  30.0   6.0    84   131   42 %   123k     7   1567

device   CPU 41 %, flytrap 88 % of a core, memory 182 MiB, growth 303 KiB/h
board    temperature 52.1 °C, throttled no, under-voltage no, clock synchronised
network  busy 62 %, frame rates at 100 %
spool    12 waiting, 1.3 MiB on disk, 4.2 MiB written in 24 h
uplink   10234 delivered (last 3 s ago), 2 failures, 0 refused, 0 dropped

alerts   south: no frame: last_frame_age_ms is 75 s, above 60 s for 0 s
         (began 2 min 12 s ago)
         spool nearly full: disk_bytes is 232.1 MiB, above 230.4 MiB for 60 s
         (began 2 min 12 s ago)
",
    );
    let lines = lines(&page, None, Size { width: 80, height: Some(24) });
    let alarms =
        lines.iter().filter(|line| line.is_alarm).map(|line| line.text.split_whitespace().next().unwrap());
    assert_eq!(alarms.collect::<Vec<_>>(), ["south", "alerts", "(began", "spool", "(began"]);
}

/// A page of a program that knows none of the figures: nothing is shown as 0.
#[test]
fn what_is_absent_is_a_dash() {
    let page = Page {
        device: "mast-7".into(),
        cameras: vec![Camera { name: "north".into(), ..Camera::default() }],
        storage: Some(Storage::default()),
        ..Page::default()
    };
    shows(
        &page,
        (80, 24),
        "\
mast-7  up -  flytrap -                                                   q ends

                   frames a second    latency ms      crossings since the start
camera  state   want   capt   proc    p50    p95  motion  tracks  drops   today
north   -          -      -      -      -      -       -       -      -       -

device   CPU -, flytrap - of a core, memory -, growth -
board    temperature -, throttled -, under-voltage -, clock -
network  busy -, frame rates at -
spool    - waiting, - on disk, - written in 24 h
uplink   - delivered (last -), - failures, - refused, - dropped

alerts   no alerts
",
    );
}

#[test]
fn an_idle_camera_has_no_latency_and_no_share_of_motion() {
    let mut idle = camera("north");
    (idle.figures.latency_p50_us, idle.figures.rate_processed_millihertz) = (Some(0), Some(0));
    assert_eq!((latency(idle.figures.latency_p50_us), motion(&idle)), ("-".into(), "-".into()));
}

#[test]
fn a_small_terminal_keeps_what_matters() {
    let mut page = page(&EIGHT);
    page.alerts = vec![alert(Some("south"), "no frame: last_frame_age_ms is 75 s, above 60 s for 0 s")];
    shows(
        &page,
        (40, 10),
        "\
mast-7  up 3 d 4 h  flytrap 0.1.0
camera         state  proc drops  today
north          ok      6.0     7   1567
south          ok      6.0     7   1567
east           ok      6.0     7   1567
west           ok      6.0     7   1567
… 4 more cameras
alerts   south: no frame:
  last_frame_age_ms is 75 s, above 60 s
  for 0 s (began 2 min 12 s ago)
",
    );
    shows(
        &page,
        (20, 4),
        "\
mast-7  up 3 d 4 h …
… 8 more cameras
alerts   south: no
… 5 more lines
",
    );
}

#[test]
fn a_large_terminal_shows_names_in_full() {
    let name = "the third lane of the southern road";
    let shown = text(&page(&[name, "north"]), 200, Some(60));
    assert!(shown.contains(name) && shown.lines().count() < 20, "{shown}");
}

/// Whatever a device calls itself and whatever it sends: no line is wider than the terminal, and none is too many.
#[test]
fn no_line_is_too_wide_and_none_too_many() {
    let names = [
        "北門のカメラ",
        "ÄÖÜßéèêëàâ",
        "",
        "a name of many words that is much too long for any column of a table",
        "🚗🚗🚗🚗🚗🚗🚗🚗",
    ];
    let mut page = page(&names);
    page.device = "機器".repeat(60);
    page.cameras[0].today = Some(u64::MAX);
    page.cameras[1].figures.rate_wanted_millihertz = Some(u64::MAX);
    page.cameras[2].figures.motion_permille = Some(u64::MAX);
    page.machine.rss_growth_per_hour_bytes = Some(u64::MAX);
    page.machine.temperature_millicelsius = Some(u64::MAX);
    page.stats.last_delivery_age_ms = Some(u64::MAX);
    page.today_since = Some("xxxxxxxxxxé".repeat(9));
    page.alerts =
        vec![alert(Some(names[0]), &"x".repeat(500)), alert(None, &"two words ".repeat(30)), alert(None, "")];
    page.alerts[0].since_s = Some(u64::MAX);
    for width in [0, 1, 2, 5, 9, 10, 20, 39, 40, 79, 80, 200] {
        for height in [0, 1, 2, 3, 5, 10, 24, 60] {
            for silence in [None, Some("no answer for 7 s: retrying")] {
                let lines = lines(&page, silence, Size { width, height: Some(height) });
                assert!(lines.len() <= height, "{width}x{height}: {} lines", lines.len());
                for Line { text, .. } in lines {
                    assert!(columns(&text) <= width, "{width}x{height}: {text}");
                }
            }
        }
    }
}

#[test]
fn every_line_is_there_where_there_is_room() {
    let mut page = page(&EIGHT);
    page.alerts = (0..40).map(|number| alert(None, &format!("rule {number} holds"))).collect();
    let whole = text(&page, 80, None);
    assert!(whole.contains("rule 39 holds") && !whole.contains('…'), "{whole}");
    let cut = text(&page, 80, Some(24));
    assert_eq!(cut.lines().count(), 24);
    assert!(cut.contains("bicycle lane 2") && cut.ends_with(" more lines\n"), "{cut}");
}

#[test]
fn silence_is_the_first_thing_to_see() {
    let lines =
        lines(&page(&["north"]), Some("no answer for 7 s: retrying"), Size { width: 80, height: Some(24) });
    assert_eq!(lines[0], Line { text: "mast-7  no answer for 7 s: retrying".into(), is_alarm: true });
}

#[test]
fn numbers_are_written_for_people() {
    let counts = [0, 99_999, 100_000, 9_999_999, 10_000_000, u64::MAX];
    assert_eq!(
        counts.map(|value| count(Some(value))),
        ["0", "99999", "100k", "9999k", "10M", "18446744073709M"]
    );
    let rates = [0, 6000, 29_970, 99_940, 100_000];
    assert_eq!(rates.map(|value| rate(Some(value))), ["0.0", "6.0", "30.0", "99.9", "100"]);
    let sizes = [0, 1023, 1024, 104_857_600, 1 << 40];
    assert_eq!(sizes.map(|value| bytes(Some(value))), ["0 B", "1023 B", "1.0 KiB", "100 MiB", "1.0 TiB"]);
    let times = [999, 59_999, 61_000, 3_600_000, 90_000_000];
    assert_eq!(times.map(duration), ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    assert_eq!([4, 5, 1000].map(|value| percent(Some(value))), ["0 %", "1 %", "100 %"]);
}

#[test]
fn texts_are_cut_by_columns() {
    for (text, width, expected) in [
        ("north", 5, "north"),
        ("north", 4, "nor…"),
        ("北門北", 6, "北門北"),
        ("北門北", 5, "北門…"),
        ("北門北", 4, "北…"),
        ("e\u{301}te\u{301}", 3, "e\u{301}te\u{301}"),
        ("north", 1, "…"),
        ("north", 0, ""),
    ] {
        assert_eq!(cut(text, width), expected, "{text} {width}");
    }
    assert_eq!((padded("北", 4), padded("north", 3)), ("北  ".into(), "no…".into()));
}
