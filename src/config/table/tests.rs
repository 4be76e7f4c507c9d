#![allow(clippy::wildcard_enum_match_arm, reason = "a test")]

use std::collections::BTreeSet;
use std::path::Path;

use super::document::defaults_toml;
use super::*;
use crate::analytics::count;
use crate::analytics::track;
use crate::base::limits::{LINES_MAX, MASK_POLYGONS_MAX, NAME_BYTES_MAX, POLYGON_POINTS_MAX};
use crate::capture::sampler;
use crate::config::Config;
use crate::delivery::uplink::endpoints::ENDPOINTS_MAX;
use crate::platform::cores::Machine;
use crate::vision::gate;

/// A whole number, for the tables of tests.
pub(in crate::config) const fn test_whole(
    key: &'static str,
    default: i64,
    least: i64,
    most: i64,
    at_least: Option<&'static str>,
    at_most: Option<&'static str>,
) -> Setting {
    Setting { at_least, at_most, ..whole(key, default, least, most) }
}

fn all() -> impl Iterator<Item = (String, &'static Section, &'static Setting)> {
    SECTIONS.iter().flat_map(|section| {
        section.settings.iter().map(move |setting| (section.path(setting), section, setting))
    })
}

#[test]
fn defaults_toml_is_what_the_table_says() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/defaults.toml");
    let text = defaults_toml(SECTIONS);
    if std::env::var_os("FLYTRAP_RECORD").is_some() {
        std::fs::write(&place, &text).unwrap();
    }
    let there = std::fs::read_to_string(&place).unwrap();
    let first = there.lines().zip(text.lines()).position(|(there, wanted)| there != wanted);
    let line = first.unwrap_or(there.lines().count().min(text.lines().count()));
    assert!(
        there == text,
        "src/config/defaults.toml differs from the table from line {} on:\n  there: {:?}\n  table: {:?}\n\
         FLYTRAP_RECORD=1 cargo test --lib config::table writes it again",
        line + 1,
        there.lines().nth(line),
        text.lines().nth(line)
    );
}

#[test]
fn defaults_toml_as_a_users_file_changes_nothing() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/defaults.toml");
    let machine = Machine::default();
    let given = Config::load(Some(&place), Vec::new(), &machine).unwrap();
    let with_table = SECTIONS.iter().filter(|section| section.default_count > 0);
    let settings: usize = with_table.map(|section| section.settings.len()).sum();
    assert_eq!(given.in_force.given().count(), settings, "every setting is in the file");
    let plain = Config::load(None, Vec::new(), &machine).unwrap();
    assert_eq!(plain.diff(&given).changed(), []);
}

#[test]
fn every_setting_says_what_it_does_and_names_its_unit() {
    let mut paths = BTreeSet::new();
    for (path, _, setting) in all() {
        assert!(paths.insert(path.clone()), "{path} is there twice");
        let help = setting.help.trim();
        assert!(help.len() > 20 && help.starts_with(|c: char| c.is_ascii_uppercase()), "{path}: {help}");
        // The suffix "_s" of a key is its unit, and numbers with a unit name it.
        let units = [
            ("_s", "seconds"),
            ("_ms", "milliseconds"),
            ("_px", "pixels"),
            ("_kb", "KiB"),
            ("_mb", "MiB"),
            ("_mb_per_day", "MiB"),
            ("_days", "days"),
        ];
        if matches!(setting.kind, Kind::Whole(..) | Kind::Number(..)) {
            for (ending, unit) in units {
                assert!(!setting.key.ends_with(ending) || setting.unit == unit, "{path}: {}", setting.unit);
            }
        }
        assert!(setting.needs > Change::Nothing, "{path}");
    }
    assert!(paths.len() > 100, "{}", paths.len());
    // A setting that bounds another one exists, in the same section and of the same kind.
    for (path, section, setting) in all() {
        for other in [setting.at_least, setting.at_most].into_iter().flatten() {
            let found = all().find(|(path, ..)| path == other).unwrap_or_else(|| panic!("{path}: {other}"));
            assert_eq!(found.1.name, section.name, "{path}: {other}");
            // So that the range between them is never empty.
            let ((least, most), (other_least, other_most)) = (ends(&path), ends(other));
            assert!(setting.at_least != Some(other) || other_most <= most, "{path}: {other}");
            assert!(setting.at_most != Some(other) || other_least >= least, "{path}: {other}");
            assert_eq!(
                std::mem::discriminant(&found.2.kind),
                std::mem::discriminant(&setting.kind),
                "{path}: {other}"
            );
        }
    }
}

#[test]
fn only_settings_of_a_camera_restart_a_camera() {
    for (path, section, setting) in all() {
        assert!(setting.needs != Change::RestartCamera || section.scope == Scope::Camera, "{path}");
    }
}

/// The range of a number.
fn ends(path: &str) -> (f64, f64) {
    match all().find(|(other, ..)| other == path).unwrap().2.kind {
        Kind::Whole(least, most) => (least as f64, most as f64),
        Kind::Number(least, most) => (least, most),
        Kind::Switch
        | Kind::Choice(_)
        | Kind::Text
        | Kind::Texts
        | Kind::Wholes(..)
        | Kind::Point
        | Kind::Polygons => panic!("{path} is not a number"),
    }
}

#[test]
fn stages_take_every_value_that_the_table_allows() {
    // Sets one key of a stage to each end of its range; the stage must accept it. One step beyond it must refuse, so that both ranges are
    // the same (`track.score_low` is stricter here: a score of 0 would match every anchor).
    type Check<'a> = &'a dyn Fn(f64) -> bool;
    let gate = |change: &dyn Fn(&mut gate::Params)| {
        let mut params = gate::Params::default();
        change(&mut params);
        params.check().is_ok()
    };
    let track = |change: &dyn Fn(&mut track::Params)| {
        let mut params = track::Params::default();
        change(&mut params);
        params.check().is_ok()
    };
    let count = |change: &dyn Fn(&mut count::Params)| {
        let mut params = count::Params::default();
        change(&mut params);
        params.check().is_ok()
    };
    let cases: &[(&str, Check<'_>)] = &[
        ("gate.luma_delta_min", &|v| gate(&|p| p.luma_delta_min = v as f32)),
        ("gate.noise_factor", &|v| gate(&|p| p.noise_factor = v as f32)),
        ("gate.area_min_px", &|v| gate(&|p| p.area_min_px = v as u32)),
        ("gate.absorb_s", &|v| gate(&|p| p.absorb_s = v as u32)),
        ("gate.hold_ms", &|v| gate(&|p| p.hold_ms = v as u32)),
        ("gate.refresh_s", &|v| gate(&|p| p.refresh_s = v as u32)),
        ("gate.warmup_frames", &|v| gate(&|p| p.warmup_frames = v as u32)),
        ("track.iou_min", &|v| track(&|p| p.iou_min = v as f32)),
        ("track.iou_low_min", &|v| track(&|p| p.iou_low_min = v as f32)),
        ("track.class_penalty", &|v| track(&|p| p.class_penalty = v as f32)),
        ("track.hits_min", &|v| track(&|p| p.hits_min = v as u32)),
        ("track.lost_after_s", &|v| track(&|p| p.lost_after = std::time::Duration::from_secs_f64(v))),
        ("track.speed_max", &|v| track(&|p| p.speed_max = v as f32)),
        ("count.band_min_px", &|v| count(&|p| p.band_min_px = v as f32)),
        ("count.band_share", &|v| count(&|p| p.band_share = v as f32)),
        ("count.travel_min", &|v| count(&|p| p.travel_min = v as f32)),
        ("count.frames_min", &|v| count(&|p| p.frames_min = v as u32)),
        ("focus.whole_s", &|v| {
            crate::vision::roi::Params { whole: std::time::Duration::from_secs_f64(v) }.check().is_ok()
        }),
    ];
    for (path, takes) in cases {
        let (least, most) = ends(path);
        assert!(takes(least) && takes(most), "{path}: the stage refuses {least} or {most}");
        let step = if least.fract() == 0.0 && most.fract() == 0.0 { 1.0 } else { 0.009 };
        assert!(!takes(most + step), "{path}: the stage takes {}", most + step);
        assert!(least < step || !takes(least - step), "{path}: the stage takes {}", least - step);
    }
    // Scores depend on each other.
    let scores = |low, high, new| {
        track::Params { score_low: low, score_high: high, score_new: new, ..track::Params::default() }
            .check()
            .is_ok()
    };
    let (least, most) = ends("track.score_low");
    assert!(
        scores(least as f32, least as f32, least as f32) && scores(most as f32, most as f32, most as f32)
    );
    assert!(!scores(0.5, 0.4, 0.9) && !scores(0.5, 0.6, 0.5));
    let fps = ends("sampling.fps");
    assert_eq!((fps.0 as f32, fps.1 as f32), (*sampler::FPS_RANGE.start(), *sampler::FPS_RANGE.end()));
}

#[test]
fn figures_in_comments_are_those_of_the_code() {
    let help = |path: &str| {
        let found = all().find(|(other, ..)| other == path).unwrap();
        (found.2.help, found.1.help)
    };
    let name = format!("1 to {NAME_BYTES_MAX} ");
    for path in ["device.name", "camera.name", "line[].name", "line[].forward", "line[].backward"] {
        assert!(help(path).0.contains(&name), "{path}");
    }
    let masks = format!("3 to {POLYGON_POINTS_MAX} corners, at most {MASK_POLYGONS_MAX} polygons");
    assert!(help("gate.include").0.contains(&masks));
    assert!(help("line[].name").1.contains(&format!("at most {LINES_MAX},")));
    assert!(help("uplink.fallbacks").0.contains(&format!("at most {}.", ENDPOINTS_MAX - 1)));
    for (profile, fps) in crate::config::sections::camera::PROFILES {
        assert!(help("sampling.profile").0.contains(&format!("{profile} {fps}")), "{profile}");
    }
}
