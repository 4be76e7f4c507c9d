//! The KPI table (S1): what a device should reach, what was measured, and whether it was reached. Pure.
//!
//! Figures are those since the start of the program, so that a table at the end of a run and one of a running device mean the same: whether
//! a device is fit for its place. What is wrong at the moment is what alerts are for.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::vision::detect::accuracy::Accuracy;

/// The KPI that every camera has as soon as it is measured.
pub const FRAME_RATE: &str = "frame rate";
/// A frame rate counts as reached up to this part below the target: the clocks of cameras differ, and frames at both ends of the time count
/// or not.
const RATE_TOLERANCE: f64 = 0.02;
/// The original's limit of GPU memory, MiB.
const GPU_MEMORY_MAX_MB: f64 = 4096.0;

/// What a device should reach; see `[kpi]` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Targets {
    /// Lowest frame rate of a camera, frames a second. Of a camera with a lower target rate, that rate.
    pub frame_rate_min: f64,
    /// Longest time from capture to events that 95 % of the frames stay below, milliseconds.
    pub latency_max_ms: f64,
    /// Most resident memory, MiB.
    pub memory_max_mb: f64,
    /// Highest use of the CPU by all programs, of all cores, per cent.
    pub cpu_max_percent: f64,
    /// Lowest mAP50 of the model, per cent.
    pub map50_min_percent: f64,
}

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Of each camera.
    pub cameras: Vec<CameraFigures>,
    /// Most resident memory so far, bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Use of the CPU by all programs, of all cores, thousandths.
    pub cpu_permille: Option<u32>,
    /// Of the model in use.
    pub accuracy: Option<Accuracy>,
}

/// What was measured of one camera.
#[derive(Debug, Clone, Default)]
pub struct CameraFigures {
    /// Its name; none if it is the only one.
    pub name: Option<String>,
    /// Its configured rate, frames a second; none for a measurement as fast as possible.
    pub rate_target: Option<f64>,
    /// Frames that were looked at, a second; none before the first.
    pub rate: Option<f64>,
    /// From capture to events: 95 % of the frames are faster, microseconds; none without inference.
    pub latency_p95_us: Option<u64>,
    /// What there is to know about it.
    pub latency_note: Option<String>,
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The measured value must not be below it.
    AtLeast(f64),
    /// The measured value must not be above it.
    AtMost(f64),
}

/// Whether a target was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was.
    Pass,
    /// It was not.
    Fail,
    /// Nobody knows.
    NotMeasured,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name.
    pub kpi: String,
    /// The camera, if there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub camera: Option<String>,
    /// `at_least` or `at_most`.
    #[serde(flatten)]
    pub limit: Limit,
    /// In `unit`.
    pub measured: Option<f64>,
    /// Unit of the limit and of the measured value.
    pub unit: String,
    /// The verdict.
    pub result: Verdict,
    /// What else there is to know.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
}

impl Row {
    fn new(kpi: &str, limit: Limit, unit: &str, measured: Option<f64>) -> Self {
        let reached = |value: f64| match limit {
            Limit::AtLeast(least) => value >= least,
            Limit::AtMost(most) => value <= most,
        };
        let result = match measured.map(reached) {
            Some(true) => Verdict::Pass,
            Some(false) => Verdict::Fail,
            None => Verdict::NotMeasured,
        };
        Row { kpi: kpi.into(), camera: None, limit, measured, unit: unit.into(), result, note: None }
    }
}

/// The table: every KPI of every camera, then those of the device.
pub fn rows(targets: &Targets, figures: &Figures) -> Vec<Row> {
    let mut rows = Vec::new();
    for camera in &figures.cameras {
        let least = camera.rate_target.map_or(targets.frame_rate_min, |own| own.min(targets.frame_rate_min));
        let mut rate = Row::new(FRAME_RATE, Limit::AtLeast(least), "/s", camera.rate);
        if camera.rate.is_some_and(|rate| rate >= least * (1.0 - RATE_TOLERANCE)) {
            rate.result = Verdict::Pass;
        }
        let p95 = camera.latency_p95_us.map(|us| us as f64 / 1e3);
        let latency = Row::new("latency, p95", Limit::AtMost(targets.latency_max_ms), "ms", p95);
        let latency = Row { note: camera.latency_note.clone(), ..latency };
        rows.extend([rate, latency].map(|row| Row { camera: camera.name.clone(), ..row }));
    }
    let mebibytes = figures.memory_peak_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
    rows.push(Row::new("memory, peak", Limit::AtMost(targets.memory_max_mb), "MiB", mebibytes));
    let note = Some("no GPU is used".to_owned());
    rows.push(Row { note, ..Row::new("GPU memory", Limit::AtMost(GPU_MEMORY_MAX_MB), "MiB", None) });
    let percent = figures.cpu_permille.map(|permille| f64::from(permille) / 10.0);
    rows.push(Row::new("CPU", Limit::AtMost(targets.cpu_max_percent), "%", percent));
    let accuracy = figures.accuracy.as_ref();
    let limit = Limit::AtLeast(targets.map50_min_percent);
    let row = Row::new("accuracy, mAP50", limit, "%", accuracy.map(|accuracy| accuracy.map50));
    let note = match accuracy {
        Some(accuracy) => accuracy.to_string(),
        None => "flytrap eval --record measures it, for this model and precision".to_owned(),
    };
    rows.push(Row { note: Some(note), ..row });
    rows
}

/// Whether no target was missed. What was not measured is not missed.
pub fn passed(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.result != Verdict::Fail)
}

/// The rows as text, a line each below a heading.
pub fn table(rows: &[Row]) -> String {
    let number = |value: f64| match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    let cells: Vec<[String; 4]> = rows
        .iter()
        .map(|row| {
            let name = match &row.camera {
                Some(camera) => format!("{}, {camera}", row.kpi),
                None => row.kpi.clone(),
            };
            let (sign, limit) = match row.limit {
                Limit::AtLeast(limit) => ("≥", limit),
                Limit::AtMost(limit) => ("≤", limit),
            };
            let measured =
                row.measured.map_or_else(|| "-".into(), |value| format!("{} {}", number(value), row.unit));
            let result = match row.result {
                Verdict::Pass => "pass",
                Verdict::Fail => "FAIL",
                Verdict::NotMeasured => "not measured",
            };
            let note = row.note.as_ref().map_or_else(String::new, |note| format!("  ({note})"));
            [name, format!("{sign} {} {}", number(limit), row.unit), measured, format!("{result}{note}")]
        })
        .collect();
    let heading = ["KPI", "target", "measured", ""].map(str::to_owned);
    let lines: Vec<&[String; 4]> = std::iter::once(&heading).chain(&cells).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [name, target, measured, result] in &lines {
        let [first, second, third] = widths;
        let line = format!("{name:<first$}  {target:<second$}  {measured:>third$}  {result}");
        let _fits = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: Targets = Targets {
        frame_rate_min: 6.0,
        latency_max_ms: 200.0,
        memory_max_mb: 128.0,
        cpu_max_percent: 70.0,
        map50_min_percent: 80.0,
    };

    fn figures() -> Figures {
        let north = CameraFigures {
            name: Some("north".into()),
            rate_target: Some(6.0),
            rate: Some(5.9),
            latency_p95_us: Some(84_200),
            latency_note: None,
        };
        let south = CameraFigures {
            name: Some("south".into()),
            rate_target: Some(1.0),
            rate: Some(0.97),
            latency_p95_us: None,
            latency_note: None,
        };
        let accuracy = Accuracy {
            map50: 55.77,
            map50_95: Some(40.73),
            pictures: 79,
            data: "val".into(),
            date: "2026-11-30".into(),
            precision: "fp32".into(),
        };
        Figures {
            cameras: vec![north, south],
            memory_peak_bytes: Some(129 << 20),
            cpu_permille: Some(312),
            accuracy: Some(accuracy),
        }
    }

    #[test]
    fn each_row_says_target_measured_value_and_verdict() {
        let rows = rows(&TARGETS, &figures());
        assert_eq!(
            table(&rows),
            "KPI                  target      measured\n\
             frame rate, north    ≥ 6.00 /s    5.90 /s  pass\n\
             latency, p95, north  ≤ 200 ms     84.2 ms  pass\n\
             frame rate, south    ≥ 1.00 /s    0.97 /s  FAIL\n\
             latency, p95, south  ≤ 200 ms           -  not measured\n\
             memory, peak         ≤ 128 MiB    129 MiB  FAIL\n\
             GPU memory           ≤ 4096 MiB         -  not measured  (no GPU is used)\n\
             CPU                  ≤ 70.0 %      31.2 %  pass\n\
             accuracy, mAP50      ≥ 80.0 %      55.8 %  FAIL  (mAP50-95 40.7 %; fp32, 79 pictures of val, 2026-11-30)\n"
        );
        assert!(!passed(&rows));
    }

    #[test]
    fn at_the_limit_it_is_reached() {
        let mut figures = figures();
        figures.cameras.truncate(1);
        figures.cameras[0].latency_p95_us = Some(200_000);
        figures.memory_peak_bytes = Some(128 << 20);
        figures.cpu_permille = Some(700);
        figures.accuracy = None;
        let all = rows(&TARGETS, &figures);
        assert!(passed(&all), "{all:?}");
        let missed = |change: &dyn Fn(&mut Figures)| {
            let mut figures = figures.clone();
            change(&mut figures);
            let rows = rows(&TARGETS, &figures);
            let missed = rows.into_iter().filter(|row| row.result == Verdict::Fail);
            missed.map(|row| row.kpi).collect::<Vec<_>>()
        };
        assert_eq!(missed(&|figures| figures.cameras[0].latency_p95_us = Some(200_001)), ["latency, p95"]);
        assert_eq!(missed(&|figures| figures.memory_peak_bytes = Some((128 << 20) + 1)), ["memory, peak"]);
        assert_eq!(missed(&|figures| figures.cpu_permille = Some(701)), ["CPU"]);
        assert_eq!(missed(&|figures| figures.cameras[0].rate = Some(5.87)), ["frame rate"]);
        assert_eq!(missed(&|figures| figures.cameras[0].rate = Some(0.0)), ["frame rate"]);
    }

    #[test]
    fn rows_survive_json() {
        let rows = rows(&TARGETS, &figures());
        let text = serde_json::to_string(&rows).unwrap();
        assert!(text.contains(r#"{"kpi":"frame rate","camera":"north","at_least":6.0,"measured":5.9,"unit":"/s","result":"pass"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Vec<Row>>(&text).unwrap(), rows);
    }
}
