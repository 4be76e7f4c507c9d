//! What `flytrap top` shows: from a page to lines of text for a size of the terminal. Pure.
//!
//! ```text
//!   head                 device, version, uptime; or for how long there was no answer
//!   cameras              a line each; columns that do not fit are left out, the least important first
//!   device … uplink      a line each, continued on the next where it does not fit
//!   alerts               those that hold, with their texts
//! ```
//! Where there are too few lines, blank ones go first, then the device's, then cameras and alerts beyond the first ones.

use std::iter;

use super::page::{Alert, Camera, Page};

/// A line of the screen, at most as wide as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    /// Something is wrong: shown in colour.
    pub(super) is_alarm: bool,
}

/// Room for the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Columns.
    pub(super) width: usize,
    /// Lines; `None`: as many as needed.
    pub(super) height: Option<usize>,
}

/// Columns of the labels on the left.
const LABEL: usize = 9;
/// What a newcomer to the screen needs to know.
const HINT: &str = "q ends";
/// Below this width, continued lines are not indented as far as the label.
const NARROW: usize = 60;
/// Columns that a camera's name keeps while other columns are left out.
const NAME: usize = 10;

/// The lines of a page. `silence`: why it is old, for the head.
pub(super) fn lines(page: &Page, silence: Option<&str>, size: Size) -> Vec<Line> {
    let Size { width, height } = size;
    let table = table(page, width);
    let device = device(page, width);
    let alerts = alerts(page, width);
    let mut left = height.unwrap_or(usize::MAX).saturating_sub(1);
    // A third for alerts, then cameras, then the device, then the rest of the alerts.
    let first_alerts = alerts.len().min((left / 3).max(2)).min(left);
    left -= first_alerts;
    let rows = table.rows.len();
    let has_titles = left > 1;
    left -= usize::from(has_titles).min(left);
    let shown_rows = rows.min(left);
    left -= shown_rows;
    let shown_device = device.len().min(left);
    left -= shown_device;
    let more_alerts = (alerts.len() - first_alerts).min(left);
    left -= more_alerts;
    let has_groups = left > 0;
    left -= usize::from(has_groups);

    let mut lines = vec![head(page, silence, size)];
    let mut blanks = left.min(3);
    let mut blank = |lines: &mut Vec<Line>| {
        if blanks > 0 {
            blanks -= 1;
            lines.push(plain(String::new()));
        }
    };
    blank(&mut lines);
    lines.extend(has_groups.then_some(plain(table.groups)));
    lines.extend(has_titles.then_some(plain(table.titles)));
    lines.extend(shortened(table.rows, shown_rows, "cameras", width));
    blank(&mut lines);
    lines.extend(device.into_iter().take(shown_device));
    blank(&mut lines);
    lines.extend(shortened(alerts, first_alerts + more_alerts, "lines", width));
    for line in &mut lines {
        line.text = cut(line.text.trim_end(), width);
    }
    lines.truncate(height.unwrap_or(usize::MAX));
    lines
}

/// The first `most` lines; the last of them says how many are missing.
fn shortened(mut lines: Vec<Line>, most: usize, what: &str, width: usize) -> Vec<Line> {
    let all = lines.len();
    if all > most && most > 0 {
        let missing = &lines[most - 1..];
        let is_alarm = missing.iter().any(|line| line.is_alarm);
        let text = cut(&format!("… {} more {what}", missing.len()), width);
        lines.truncate(most - 1);
        lines.push(Line { text, is_alarm });
    }
    lines.truncate(most);
    lines
}

fn head(page: &Page, silence: Option<&str>, size: Size) -> Line {
    if let Some(silence) = silence {
        return Line { text: format!("{}  {silence}", page.device), is_alarm: true };
    }
    let version = page.version.as_deref().unwrap_or("-");
    let uptime = page.stats.uptime_ms.map_or(absent(), duration);
    let mut text = format!("{}  up {uptime}  flytrap {version}", page.device);
    let room = size.width.saturating_sub(columns(&text));
    if size.height.is_some() && room > HINT.len() + 1 {
        text += &format!("{HINT:>room$}");
    }
    plain(text)
}

/// A column of the table of cameras.
struct Column {
    title: &'static str,
    /// Above the titles of its neighbours with the same.
    group: &'static str,
    /// At least, columns of text.
    width: usize,
    /// The lower, the sooner it is left out.
    rank: u8,
    cell: fn(&Camera) -> String,
}

const RATES: &str = "frames a second";
const LATENCY: &str = "latency ms";
/// The group of the last column, which gets a text of its own.
const TODAY: &str = "today";

/// Of numbers: right-aligned, behind the name and the state.
const COLUMNS: [Column; 9] = [
    column("want", RATES, 5, 4, |camera| rate(camera.figures.rate_wanted_millihertz)),
    column("capt", RATES, 5, 5, |camera| rate(camera.figures.rate_captured_millihertz)),
    column("proc", RATES, 5, 9, |camera| rate(camera.figures.rate_processed_millihertz)),
    column("p50", LATENCY, 5, 2, |camera| latency(camera.figures.latency_p50_us)),
    column("p95", LATENCY, 5, 6, |camera| latency(camera.figures.latency_p95_us)),
    column("motion", "", 6, 3, motion),
    column("tracks", "", 6, 1, |camera| count(camera.figures.tracks)),
    column("drops", "", 5, 7, drops),
    column("today", TODAY, 6, 8, |camera| count(camera.today)),
];

const fn column(
    title: &'static str,
    group: &'static str,
    width: usize,
    rank: u8,
    cell: fn(&Camera) -> String,
) -> Column {
    Column { title, group, width, rank, cell }
}

/// The table of cameras.
struct Table {
    groups: String,
    titles: String,
    rows: Vec<Line>,
}

fn table(page: &Page, width: usize) -> Table {
    let widest = |cells: &mut dyn Iterator<Item = &str>| cells.map(columns).max().unwrap_or(0);
    let states: Vec<&str> = page.cameras.iter().map(state).collect();
    let names = widest(&mut page.cameras.iter().map(|camera| camera.name.as_str()).chain(["camera"]));
    let state_width = widest(&mut states.iter().copied().chain(["state"]));
    // Each column that is shown, its cells and its width.
    let mut shown: Vec<(&Column, Vec<String>, usize)> = COLUMNS
        .iter()
        .map(|column| {
            let cells: Vec<String> = page.cameras.iter().map(column.cell).collect();
            let wide = widest(&mut cells.iter().map(String::as_str)).max(column.width);
            (column, cells, wide)
        })
        .collect();
    let used = |shown: &[(&Column, Vec<String>, usize)], gap: usize| {
        state_width + gap + shown.iter().map(|(_, _, wide)| gap + wide).sum::<usize>()
    };
    while used(&shown, 1) + names.min(NAME) > width {
        let Some(least) = (0..shown.len()).min_by_key(|index| shown[*index].0.rank) else { break };
        shown.remove(least);
    }
    let gap = if used(&shown, 2) + names <= width { 2 } else { 1 };
    let name_width = names.min(width.saturating_sub(used(&shown, gap)).max(1));
    let left = |name: &str, state: &str| {
        format!("{}{:gap$}{}", padded(name, name_width), "", padded(state, state_width))
    };
    let mut titles = left("camera", "state");
    let mut groups = " ".repeat(name_width + gap + state_width);
    for (index, (column, _, wide)) in shown.iter().enumerate() {
        titles += &format!("{:gap$}{:>wide$}", "", column.title);
        groups += &" ".repeat(gap + wide);
        let ends = shown.get(index + 1).is_none_or(|(next, _, _)| next.group != column.group);
        if ends && !column.group.is_empty() {
            let texts = if column.group == TODAY { &today(page)[..] } else { &[column.group.to_owned()][..] };
            let room = columns(&groups) - columns(groups.trim_end());
            // A space before it.
            if let Some(text) = texts.iter().find(|text| columns(text) < room) {
                groups.truncate(groups.len() - columns(text));
                groups += text;
            }
        }
    }
    let row = |(index, camera): (usize, &Camera)| {
        let mut text = left(&camera.name, states[index]);
        for (_, cells, wide) in &shown {
            text += &format!("{:gap$}{:>wide$}", "", cells[index]);
        }
        Line { text, is_alarm: camera.figures.lost.is_some_and(|lost| lost > 0) }
    };
    Table { groups, titles, rows: page.cameras.iter().enumerate().map(row).collect() }
}

/// What the last column counts: as long as there is room for, and shorter. ASCII.
fn today(page: &Page) -> [String; 2] {
    let time = page.today_since.as_deref().and_then(|since| Some((since.get(11..16)?, since.ends_with('Z'))));
    let since = match time {
        Some((time, utc)) if time.is_ascii() => format!("{time}{}", if utc { " UTC" } else { "" }),
        _ => "the start".to_owned(),
    };
    [format!("crossings since {since}"), "crossings".to_owned()]
}

fn state(camera: &Camera) -> &'static str {
    match camera.figures.lost {
        None => "-",
        Some(0) if camera.figures.last_frame_age_ms.is_none() => "no frame yet",
        Some(0) => "ok",
        Some(_) => "lost",
    }
}

fn motion(camera: &Camera) -> String {
    // Of no frames there is no share.
    let has_frames = camera.figures.rate_processed_millihertz.is_some_and(|rate| rate > 0);
    percent(camera.figures.motion_permille.filter(|_| has_frames))
}

fn drops(camera: &Camera) -> String {
    let figures = &camera.figures;
    let all = [figures.frames_camera_dropped, figures.frames_ring_dropped, figures.frames_corrupt];
    count(all.into_iter().flatten().reduce(u64::saturating_add))
}

/// The lines about everything but cameras and alerts.
fn device(page: &Page, width: usize) -> Vec<Line> {
    let (machine, stats) = (&page.machine, &page.stats);
    let yes_or_no = |flag: Option<u64>| match flag {
        None => "-",
        Some(0) => "no",
        Some(_) => "yes",
    };
    let clock = match machine.clock_synchronised {
        None => "clock -",
        Some(0) => "clock not synchronised",
        Some(_) => "clock synchronised",
    };
    let temperature = machine.temperature_millicelsius;
    let temperature = temperature.map_or(absent(), |value| format!("{:.1} °C", value as f64 / 1e3));
    let growth = machine.rss_growth_per_hour_bytes;
    let growth = growth.map_or(absent(), |value| format!("{}/h", bytes(Some(value))));
    let age = stats.last_delivery_age_ms.map_or(absent(), |age| format!("{} ago", duration(age)));
    let spool = match &page.storage {
        None => vec!["no folder: events wait in memory".to_owned()],
        Some(storage) => vec![
            format!("{} waiting", count(storage.waiting)),
            format!("{} on disk", bytes(storage.disk_bytes)),
            format!("{} written in 24 h", bytes(storage.written_day_bytes)),
        ],
    };
    let sections = [
        (
            "device",
            vec![
                format!("CPU {}", percent(machine.cpu_permille)),
                format!("flytrap {} of a core", percent(machine.cpu_process_permille)),
                format!("memory {}", bytes(machine.rss_bytes)),
                format!("growth {growth}"),
            ],
        ),
        (
            "board",
            vec![
                format!("temperature {temperature}"),
                format!("throttled {}", yes_or_no(machine.throttled)),
                format!("under-voltage {}", yes_or_no(machine.under_voltage)),
                clock.to_owned(),
            ],
        ),
        (
            "network",
            vec![
                format!("busy {}", percent(machine.load_permille)),
                format!("frame rates at {}", percent(machine.rate_factor_permille)),
            ],
        ),
        ("spool", spool),
        (
            "uplink",
            vec![
                format!("{} delivered (last {age})", count(stats.events_delivered)),
                format!("{} failures", count(stats.send_failures)),
                format!("{} refused", count(stats.events_refused)),
                format!("{} dropped", count(stats.events_dropped)),
            ],
        ),
    ];
    sections.iter().flat_map(|(label, items)| flow(label, items, ", ", width)).map(plain).collect()
}

fn alerts(page: &Page, width: usize) -> Vec<Line> {
    if page.alerts.is_empty() {
        let watched = if page.rules > 0 { format!(" ({} rules)", page.rules) } else { String::new() };
        return flow("alerts", &[format!("no alerts{watched}")], " ", width).into_iter().map(plain).collect();
    }
    let words = |alert: &Alert| {
        let camera = alert.camera.as_ref().map_or(String::new(), |camera| format!("{camera}: "));
        let text = alert.text.as_ref().unwrap_or(&alert.rule);
        let since =
            alert.since_s.map(|since| format!("(began {} ago)", duration(since.saturating_mul(1000))));
        let text = format!("{camera}{text}");
        let words = text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
        words.chain(since).collect::<Vec<_>>()
    };
    let labels = iter::once("alerts").chain(iter::repeat(""));
    let lines = labels.zip(&page.alerts).flat_map(|(label, alert)| flow(label, &words(alert), " ", width));
    lines.map(|text| Line { text, is_alarm: true }).collect()
}

/// `items` behind a label, on as many lines as they need.
fn flow(label: &str, items: &[String], between: &str, width: usize) -> Vec<String> {
    let mut lines = vec![format!("{label:LABEL$}")];
    let indent = if width < NARROW { 2 } else { LABEL };
    let mut is_empty = true;
    for (index, item) in items.iter().enumerate() {
        let between = if index + 1 < items.len() { between } else { "" };
        let line = lines.last_mut().expect("there is one from the beginning");
        if is_empty || columns(line) + columns(item) + columns(between.trim_end()) <= width {
            *line += item;
            *line += between;
        } else {
            lines.push(format!("{:indent$}{item}{between}", ""));
        }
        is_empty = false;
    }
    lines.iter().map(|line| cut(line.trim_end(), width)).collect()
}

const fn plain(text: String) -> Line {
    Line { text, is_alarm: false }
}

fn absent() -> String {
    "-".to_owned()
}

/// A number of things; large ones in thousands or millions.
fn count(value: Option<u64>) -> String {
    match value {
        None => absent(),
        Some(value @ 0..100_000) => value.to_string(),
        Some(value @ 0..10_000_000) => format!("{}k", value / 1000),
        Some(value) => format!("{}M", value / 1_000_000),
    }
}

/// From thousandths of one in a second.
fn rate(value: Option<u64>) -> String {
    match value {
        None => absent(),
        Some(value @ 0..100_000) => format!("{:.1}", value as f64 / 1e3),
        Some(value) => count(Some(value / 1000)),
    }
}

/// From microseconds to milliseconds. 0: of no frame.
fn latency(value: Option<u64>) -> String {
    match value {
        None | Some(0) => absent(),
        Some(value @ 0..10_000) => format!("{:.1}", value as f64 / 1e3),
        Some(value) => count(Some(value / 1000)),
    }
}

/// From thousandths.
fn percent(value: Option<u64>) -> String {
    value.map_or(absent(), |value| format!("{} %", value.saturating_add(5) / 10))
}

fn bytes(value: Option<u64>) -> String {
    let Some(value) = value else { return absent() };
    let (mut shown, mut unit) = (value as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if shown < 1024.0 {
            break;
        }
        (shown, unit) = (shown / 1024.0, larger);
    }
    let places = usize::from(unit != "B" && shown < 100.0);
    format!("{shown:.places$} {unit}")
}

/// From milliseconds, with two units at most.
pub(super) fn duration(millis: u64) -> String {
    let seconds = millis / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Columns that a terminal needs for a text: two for the wide characters of East Asia and pictures, none for combining marks.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

const fn columns_of(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}'
        | '\u{1ab0}'..='\u{1aff}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// A text of at most `width` columns; where it was longer it ends with `…`.
fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(1);
    let fits = |c: &char| {
        let fits = columns_of(*c) <= room;
        room = if fits { room - columns_of(*c) } else { 0 };
        fits
    };
    let mut short: String = text.chars().take_while(fits).collect();
    if width > 0 {
        short.push('…');
    }
    short
}

/// A text of exactly `width` columns.
fn padded(text: &str, width: usize) -> String {
    let mut text = cut(text, width);
    let missing = width - columns(&text).min(width);
    text.extend(iter::repeat_n(' ', missing));
    text
}

#[cfg(test)]
mod tests;
