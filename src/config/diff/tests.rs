use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::config::table::{Kind, SECTIONS, Setting};
use crate::config::values::Values;
use crate::platform::cores::Machine;

/// Values in force from TOML, unchecked: their meaning does not matter to [`diff`].
fn in_force(text: &str) -> InForce {
    let mut values = Values::new(SECTIONS);
    values.lay_over(text, "x");
    assert!(!values.has_mistakes(), "{text}: {:?}", values.into_mistakes());
    values.in_force()
}

fn load(text: &str) -> Config {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Config::load(Some(file.path()), Vec::new(), &Machine::default())
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A value that differs from the setting's default, as TOML; `n` makes several.
fn other_value(setting: &Setting, n: u8) -> String {
    match (setting.kind, setting.default.value()) {
        (Kind::Switch, Value::Bool(default)) => (!default).to_string(),
        (Kind::Whole(least, most), Value::Int(default)) => {
            let values = [least, most, (least + most) / 2 + 1];
            let values: Vec<i64> = values.into_iter().filter(|value| *value != default).collect();
            values[usize::from(n) % values.len()].to_string()
        }
        (Kind::Number(least, most), Value::Float(default)) => {
            let values = [least, most, least + (most - least) / 3.0];
            let values: Vec<f64> = values.into_iter().filter(|value| *value != default).collect();
            format!("{:?}", values[usize::from(n) % values.len()])
        }
        (Kind::Choice(of), Value::Text(default)) => {
            let names: Vec<&&str> = of.iter().filter(|name| **name != default).collect();
            format!("\"{}\"", names[usize::from(n) % names.len()])
        }
        (Kind::Text, _) => format!("\"other-{n}\""),
        (Kind::Texts, _) => format!("[\"other-{n}\"]"),
        (Kind::Wholes(..), _) => format!("[{n}]"),
        (Kind::Point, _) => format!("[0.25, 0.{n}]"),
        (Kind::Polygons, _) => format!("[[[0.0, 0.0], [1.0, 0.0], [1.0, 0.{n}1]]]"),
        (kind, default) => panic!("{}: {kind:?} with default {default}", setting.key),
    }
}

/// Keys to change: (index of the setting among all, number of the other value).
type Picks = BTreeMap<usize, u8>;

/// The tables that the defaults do not have: without one in both files a change of one of its keys would be a change of all of them.
fn absent() -> impl Iterator<Item = &'static crate::config::table::Section> {
    SECTIONS.iter().filter(|section| section.default_count == 0)
}

fn settings() -> Vec<(&'static str, bool, &'static Setting)> {
    let of = |section: &'static crate::config::table::Section| {
        section.settings.iter().map(|setting| (section.name, section.is_array, setting))
    };
    SECTIONS.iter().flat_map(of).collect()
}

/// A file that changes these keys.
fn file(picks: &Picks) -> String {
    let mut tables: BTreeMap<&str, (bool, String)> = BTreeMap::new();
    for section in absent() {
        let is_picked =
            |setting: &Setting| picks.keys().any(|index| std::ptr::eq(settings()[*index].2, setting));
        let defaults = section.settings.iter().filter(|setting| !is_picked(setting));
        let lines = defaults.map(|setting| format!("{} = {}\n", setting.key, setting.default.value()));
        tables.insert(section.name, (section.is_array, lines.collect()));
    }
    for (index, n) in picks {
        let (section, is_array, setting) = settings()[*index];
        let table = tables.entry(section).or_insert((is_array, String::new()));
        table.1.push_str(&format!("{} = {}\n", setting.key, other_value(setting, *n)));
    }
    let table = |(name, (is_array, lines)): (&&str, &(bool, String))| {
        if *is_array { format!("[[{name}]]\n{lines}") } else { format!("[{name}]\n{lines}") }
    };
    tables.iter().map(table).collect()
}

/// The contents of a file, read by the TOML crate alone: each key with its value as TOML.
fn oracle(text: &str) -> BTreeMap<String, String> {
    fn flatten(prefix: &str, value: &toml::Value, out: &mut BTreeMap<String, String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    flatten(
                        &if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") },
                        value,
                        out,
                    );
                }
            }
            toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
                for (index, item) in items.iter().enumerate() {
                    flatten(&format!("{prefix}[{index}]"), item, out);
                }
            }
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => {
                out.insert(prefix.to_owned(), value.to_string());
            }
        }
    }
    let mut out = BTreeMap::new();
    // Read at run time, not compiled in: a test may just have written it.
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/defaults.toml");
    let defaults = std::fs::read_to_string(place).unwrap();
    flatten("", &toml::Value::Table(defaults.parse().unwrap()), &mut out);
    flatten("", &toml::Value::Table(text.parse().unwrap()), &mut out);
    out
}

fn picks() -> impl Strategy<Value = Picks> {
    proptest::collection::btree_map(0..settings().len(), 0..4_u8, 0..8)
}

proptest! {
    #[test]
    fn the_difference_is_that_of_the_files(old in picks(), new in picks()) {
        let (a, b) = (in_force(&file(&old)), in_force(&file(&new)));
        prop_assert_eq!(diff(&a, &a), Difference::default());
        prop_assert_eq!(diff(&b, &b).needs(), Change::Nothing);

        let there = diff(&a, &b);
        let (x, y) = (oracle(&file(&old)), oracle(&file(&new)));
        let expected: BTreeSet<&str> =
            x.iter().filter(|(key, value)| y[*key] != **value).map(|(key, _)| key.as_str()).collect();
        let found: BTreeSet<&str> = there.changed().iter().map(|changed| changed.key.as_str()).collect();
        prop_assert_eq!(found, expected);

        // The same in both directions.
        prop_assert_eq!(there.clone(), diff(&b, &a));

        // The strongest change that any of the keys needs alone.
        let mut strongest = Change::Nothing;
        for index in old.keys().chain(new.keys()) {
            let mut one = old.clone();
            one.remove(index);
            one.extend(new.get(index).map(|n| (*index, *n)));
            let alone = diff(&a, &in_force(&file(&one)));
            prop_assert!(alone.changed().len() <= 1, "{alone}");
            strongest = strongest.max(alone.needs());
        }
        prop_assert_eq!(there.needs(), strongest);
    }
}

#[test]
fn every_setting_makes_a_difference_alone() {
    let plain = in_force(&file(&Picks::new()));
    for (index, (section, _, setting)) in settings().into_iter().enumerate() {
        for n in 0..3 {
            let found = diff(&plain, &in_force(&file(&Picks::from([(index, n)]))));
            let [Changed { key, needs, .. }] = found.changed() else { panic!("{}: {found}", setting.key) };
            assert_eq!(*needs, setting.needs, "{key}");
            assert!(
                *needs > Change::Nothing && key.starts_with(section) && key.ends_with(setting.key),
                "{key}"
            );
        }
    }
}

#[test]
fn what_a_change_needs() {
    for (text, needs) in [
        ("", Change::Nothing),
        ("[count]\nframes_min = 3\n", Change::Nothing),
        ("[track]\nlost_after_s = 2\n", Change::Nothing),
        ("[count]\nframes_min = 4\n", Change::Live),
        ("[track]\nclasses = [\"car\"]\nscore_new = 0.4\n", Change::Live),
        ("[gate]\nexclude = [[[0, 0], [1, 0], [1, 0.3]]]\n", Change::Live),
        ("[log]\nlevel = \"debug\"\n", Change::RestartProcess),
        ("[[line]]\nname = \"stop line\"\n", Change::Live),
        ("[[line]]\nname = \"a\"\n[[line]]\nname = \"b\"\n", Change::Live),
        ("[camera]\nwidth = 640\n[count]\nframes_min = 4\n", Change::RestartCamera),
        ("[camera]\nsource = \"dir:/\"\n", Change::RestartCamera),
        ("[camera]\ncontrols = [\"gain = 3\"]\n", Change::RestartCamera),
        ("[model]\nthreads = 3\n[camera]\nwidth = 640\n", Change::RestartProcess),
        ("[uplink]\ntarget = \"http://h/\"\n", Change::RestartProcess),
        ("[spool]\nfolder = \"/x\"\n", Change::RestartProcess),
        ("[memory]\nbudget_mb = 256\n", Change::RestartProcess),
        ("[focus]\nenabled = true\n", Change::RestartCamera),
    ] {
        let found = load("").diff(&load(text));
        assert_eq!(found.needs(), needs, "{text}: {found}");
    }
}

#[test]
fn a_line_that_comes_or_goes_changes_each_of_its_keys() {
    let (one, two) =
        (in_force("[[line]]\nname = \"middle\"\n"), in_force("[[line]]\n[[line]]\nname = \"b\"\n"));
    let found = diff(&one, &two);
    let keys: Vec<&str> = found.changed().iter().map(|changed| changed.key.as_str()).collect();
    assert_eq!(keys, ["line[1].backward", "line[1].forward", "line[1].from", "line[1].name", "line[1].to"]);
    assert_eq!(found, diff(&two, &one));
    assert_eq!(
        diff(&one, &in_force("[count]\nframes_min = 4\n[camera]\nheight = 480\n")).to_string(),
        "camera.height restarts the camera; count.frames_min takes effect at once"
    );
}

/// The scopes in which two configurations differ, by comparing the structs that the stages get.
fn scopes(a: &Config, b: &Config) -> BTreeSet<Scope> {
    // Destructured, so that a new scope does not compile until it is handled here.
    let Config {
        device,
        watchdog,
        pins,
        cameras,
        model,
        events,
        uplink,
        spool,
        memory,
        log,
        status,
        kpi,
        alerts,
        in_force: _,
    } = a;
    let differ = [
        (Scope::Device, *device != b.device),
        (Scope::Watchdog, *watchdog != b.watchdog),
        (Scope::Gpio, *pins != b.pins),
        (Scope::Camera, *cameras != b.cameras),
        (Scope::Model, *model != b.model),
        (Scope::Events, *events != b.events),
        (Scope::Uplink, *uplink != b.uplink),
        (Scope::Spool, *spool != b.spool),
        (Scope::Memory, *memory != b.memory),
        (Scope::Log, *log != b.log),
        (Scope::Status, *status != b.status),
        (Scope::Kpi, *kpi != b.kpi),
        (Scope::Alerts, *alerts != b.alerts),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(scope, _)| scope).collect()
}

/// Each setting with a value that loads and differs in effect from [`BASE`].
fn meaningful(section: &str, setting: &Setting) -> String {
    let value = match (section, setting.key) {
        ("camera", "source") => "\"dir:/other\"",
        ("camera", "fps") => "\"12.5\"",
        ("camera", "controls") => "[\"gain = 3\"]",
        ("status", "socket") => "\"/run/other.sock\"",
        ("alerts", "defaults") => "true",
        ("alert", "metric") => "\"machine.cpu_permille\"",
        ("alert", "when") => "\"absent\"",
        ("alert", "limit") => "9",
        ("alert", "clear") => "3",
        ("camera", "tags") => "[\"road=A7\"]",
        ("camera", "restart_first_s") => "2",
        ("focus", "enabled") => "false",
        ("model", "sha256") => "\"71283f2cb4b805e5d03d572028229785d59be9de61994ccc8ec23490094e695d\"",
        ("model", "cores") => "[1]",
        ("track", "score_low") => "0.2",
        ("track", "score_high") => "0.3",
        ("track", "score_new") => "0.6",
        ("sampling", "profile") => "\"low_power\"",
        ("uplink", "target") => "\"https://other/\"",
        ("uplink", "fallbacks") => "[\"https://third/\"]",
        ("uplink", "format") => "\"postcard\"",
        ("uplink", "pin") => "\"sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"",
        ("uplink", "connect_timeout_s" | "response_timeout_s" | "batch_events_max") => "20",
        ("uplink", "whole_timeout_s") => "95",
        ("uplink", "queue_events") => "2000",
        ("spool", "memory_kb") => "256",
        ("spool", "quota_mb") => "128",
        ("spool", "checkpoint_interval_s") => "3000",
        ("spool", "commit_interval_s") => "7",
        ("gpio", "chip") => "\"rppal\"",
        ("gpio", "status_led") => "5",
        ("gpio", "motion_sensor") => "6",
        ("gpio", "light") => "7",
        ("gpio", "inverted") => "[]",
        _ => return other_value(setting, 1),
    };
    value.to_owned()
}

#[test]
fn a_change_reaches_the_struct_of_its_scope_and_no_other() {
    // Everything that other settings depend on is switched on.
    let base = "model = { path = \"x.onnx\" }\nfocus = { enabled = true }\n\
        uplink = { target = \"https://h/\" }\ntrack = { score_new = 0.5 }\ngpio = { light = 3, inverted = [\"light\"] }\n\
        alert = [{ name = \"x\", metric = \"machine.load_permille\", limit = 5 }]\nalerts = { defaults = false }\n";
    let base: toml::Table = base.parse().unwrap();
    let plain = load(&toml::to_string(&base).unwrap());
    for (section, is_array, setting) in settings() {
        let value: toml::Table = format!("v = {}", meaningful(section, setting)).parse().unwrap();
        let mut changed = base.clone();
        let table = changed.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let toml::Value::Table(table) = table {
            table.insert(setting.key.to_owned(), value["v"].clone());
        }
        if let toml::Value::Array(tables) = table {
            if let Some(toml::Value::Table(table)) = tables.first_mut() {
                table.insert(setting.key.to_owned(), value["v"].clone());
            }
        } else if is_array {
            let table = table.clone();
            changed.insert(section.to_owned(), toml::Value::Array(vec![table]));
        }
        let new = load(&toml::to_string(&changed).unwrap());
        let found = plain.diff(&new);
        let [Changed { key, scope, .. }] = found.changed() else { panic!("{}: {found}", setting.key) };
        assert_eq!(
            scopes(&plain, &new),
            BTreeSet::from([*scope]),
            "{key}: the struct of another scope changed, or none"
        );
    }
}
