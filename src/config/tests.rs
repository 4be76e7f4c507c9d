#![allow(clippy::panic)]
use std::collections::BTreeMap;
use std::io::Write;

use super::table::SECTIONS;
use super::*;
use crate::analytics::count::{self, CountingLine};
use crate::analytics::track;
use crate::capture::CaptureParams;
use crate::delivery::uplink::UplinkParams;
use crate::delivery::uplink::http::Deadlines;
use crate::vision::gate;
use crate::vision::roi;

fn load(text: &str) -> Result<Config, Mistakes> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Config::load(Some(file.path()), Vec::new(), &Machine::default())
}

fn defaults() -> Config {
    Config::load(None, Vec::new(), &Machine::default()).unwrap()
}

/// The mistakes of `text`, without the file's name before the line number.
fn mistakes(text: &str) -> Vec<String> {
    let Mistakes(list) = load(text).expect_err(text);
    list.into_iter()
        .map(|line| {
            line.split_once(".tmp")
                .map_or(line.clone(), |(_, rest)| rest.split_once(':').map_or("", |(_, r)| r).to_owned())
        })
        .collect()
}

#[test]
fn the_defaults_are_those_of_the_stages() {
    let config = defaults();
    let camera = config.first_camera();
    assert_eq!(camera.gate, Some(gate::Params::default()));
    assert_eq!((camera.track, camera.count), (track::Params::default(), count::Params::default()));
    assert_eq!(camera.lines, [CountingLine::middle()]);
    assert_eq!(load("[focus]\nenabled = true\n").unwrap().first_camera().roi, Some(roi::Params::default()));
    assert_eq!(config.watchdog, watchdog::Params::default());
    assert_eq!(config.pins, PinParams::default());
    assert_eq!(config.spool.params, crate::delivery::spool::Params::default());
    assert_eq!(config.uplink.delivery, UplinkParams::default());
    assert_eq!(config.uplink.http.deadlines, Deadlines::default());
    let (capture, default) = (&camera.capture.0, CaptureParams::default());
    assert_eq!(
        (capture.idle_timeout, capture.restart_first, capture.restart_cap, capture.at_end),
        (default.idle_timeout, default.restart_first, default.restart_cap, default.at_end)
    );
    assert_eq!((camera.fps, &camera.source, &config.model.params), (6.0, &None, &None));
    camera.gate.as_ref().unwrap().check().unwrap();
    crate::delivery::uplink::Outbox::new(config.uplink.queue_events).unwrap();
}

#[test]
fn every_key_of_the_table_is_used() {
    // A key that no section reads would be a setting without effect: change each key to something absurd, and expect it to be refused or to
    // change the configuration.
    let without_values = |config: Config| {
        let in_force = InForce::new(SECTIONS, BTreeMap::new(), Vec::new());
        format!("{:?}", Config { in_force, ..config })
    };
    let plain = without_values(defaults());
    let known = Values::new(SECTIONS).settings();
    assert!(known.len() > 100, "{}", known.len());
    for (key, setting) in known {
        let other = match setting.default.value() {
            Value::Bool(value) => Value::Bool(!value),
            Value::Int(value) => Value::Int(value + 1_000_000),
            Value::Float(value) => Value::Float(value + 1e6),
            // Used only if there is a model, see below.
            Value::Text(_) if ["model.sha256", "model.ranges"].contains(&key.as_str()) => continue,
            Value::Text(value) => Value::Text(format!("{value}other")),
            Value::List(_) => Value::List(vec![Value::Text("other".into())]),
        };
        let key: &'static str = key.leak();
        match Config::load(None, vec![(key, other, "--test")], &Machine::default()) {
            Ok(config) => {
                assert_ne!(without_values(config), plain, "{key} changes nothing");
            }
            Err(Mistakes(list)) => assert!(list.iter().any(|line| line.contains(key)), "{key}: {list:?}"),
        }
    }
    assert!(mistakes("[model]\npath = \"x\"\nsha256 = \"abc\"\n")[0].contains("model.sha256"));
    let ranges = |text: &str| load(text).unwrap().model.params.unwrap().ranges().display().to_string();
    assert_eq!(ranges("[model]\npath = \"a/x.onnx\"\n"), "a/x.int8.toml");
    assert_eq!(ranges("[model]\npath = \"x\"\nranges = \"y\"\n"), "y");
    assert_eq!(load("[model]\ncores = [3, 1]\n").unwrap().model.cores, [3, 1]);
}

#[test]
fn mistakes_come_with_line_key_value_and_range() {
    let expected = [
        ("[camera]\nwidth = 5\n", "2: camera.width = 5: must be 0 (automatic) or 16..=8192"),
        (
            "[camera]\nfps = \"fast\"\n",
            "2: camera.fps = \"fast\": 'fast' is not a frame rate: write 25, 29.97 or 30000/1001, within 0.001..=1000 a second",
        ),
        (
            "[model]\ncores = [0, 64]\n",
            "2: model.cores = [0, 64]: must be a list of whole numbers, 0..=63, such as [2, 3]",
        ),
        ("[device]\nname = \"a b\"\n", "2: device.name = \"a b\": must be 1 to 32 of letters, digits, - _ ."),
        (
            "[track]\nscore_low = 0.5\nscore_high = 0.4\nscore_new = 0.9\n",
            "3: track.score_high = 0.4: must be 0.5..=1.0",
        ),
        (
            "[gate]\ninclude = [[[0.1, 0.1], [0.9, 0.9]]]\n",
            "2: gate.include = [[[0.1, 0.1], [0.9, 0.9]]]: polygon 0: has 2 corners, must have 3 to 32",
        ),
        (
            "[gate]\nexclude = [[[0, 0], [0.5, 0.5], [1, 1]]]\n",
            "2: gate.exclude = [[[0, 0], [0.5, 0.5], [1, 1]]]: polygon 0: has no area: its corners lie on a line",
        ),
        (
            "[gate]\nexclude = [[[0, 0], [640, 0], [1, 1]]]\n",
            "2: gate.exclude = [[[0, 0], [640, 0], [1, 1]]]: polygon 0: corner 1: [640, 0] must lie in the picture, 0.0 to 1.0 (parts of its width and height, not pixels)",
        ),
        (
            "[[line]]\nfrom = [0.5, 0.5]\nto = [0.5, 0.501]\n",
            "2: line[0].from: line 'middle': its length is 0.001 of the diagonal, allowed is 0.02 to 1",
        ),
        (
            "[uplink]\nformat = \"influx1\"\n",
            "defaults: uplink.influx_database = \"\": must be set for this uplink.format",
        ),
        (
            "[uplink]\npin = \"sha256//short\"\n",
            "2: uplink.pin = \"sha256//short\": must be sha256//… in base64, the hash of the receiver's public key",
        ),
        (
            "[uplink]\nfallbacks = [\"https://h/\"]\n",
            "2: uplink.fallbacks: these and uplink.target must be http://HOST/PATH or https://HOST/PATH",
        ),
        ("[uplink]\nqueue_events = 10\n", "defaults: uplink.batch_events_max = 100: must be 1..=10"),
        (
            "[uplink]\ntarget = \"ftp://joe:secret@h/\"\n",
            "2: uplink.target: 'ftp://…@h/' must be stdout, file:PATH, http://HOST/PATH or https://HOST/PATH",
        ),
        (
            "[sampling]\nprofile = \"fast\"\n",
            "2: sampling.profile = \"fast\": must be one of \"traffic_analysis\", \"real_time_tracking\", \"security_surveillance\", \"batch_processing\", \"low_power\"",
        ),
    ];
    for (text, line) in expected {
        assert_eq!(mistakes(text), [line], "{text}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once_and_so_is_a_missing_file() {
    let all = mistakes(
        "[camera]\nwidht = 3\nsource = \"tv:1\"\n[track]\nclasses = [1]\n[detect]\nscore_min = 2\n[[line]]\nname = \"a\"\n[[line]]\nname = \"a\"\n",
    );
    assert_eq!(all.len(), 5, "{all:#?}");
    let Mistakes(list) =
        Config::load(Some(Path::new("/nowhere/flytrap.toml")), Vec::new(), &Machine::default()).unwrap_err();
    assert!(list.len() == 1 && list[0].starts_with("/nowhere/flytrap.toml: cannot be opened"), "{list:?}");
}

#[test]
fn secrets_are_not_shown() {
    let config = load("[camera]\nsource = \"exec:ffmpeg -i rtsp://u:secret@h -\"\n[uplink]\ntarget = \"https://h/x?token=secret\"\n").unwrap();
    let shown = config.in_force.lines().collect::<Vec<_>>().join("\n");
    let expected = ["camera.source = \"exec:ffmpeg -i rtsp://***@h -\"", "uplink.target = \"https://h/x?…\""];
    assert_eq!(config.in_force.given().collect::<Vec<_>>(), expected);
    assert!(!shown.contains("secret"), "{shown}");
    assert!(shown.contains("rtsp://***@h") && shown.contains("uplink.target = \"https://h/x?…\""), "{shown}");
    for text in
        ["[camera]\nsource = \"rtsp://u:secret@h/a b\"\n", "[uplink]\ntarget = \"x://u:secret@h/1\"\n"]
    {
        assert!(!mistakes(text).join("\n").contains("secret"));
    }
}

#[test]
fn profiles_have_the_rates_of_the_guide() {
    for (profile, fps) in [
        ("real_time_tracking", 15.0),
        ("traffic_analysis", 6.0),
        ("security_surveillance", 4.0),
        ("batch_processing", 2.0),
        ("low_power", 1.0),
    ] {
        assert_eq!(load(&format!("[sampling]\nprofile = \"{profile}\"\n")).unwrap().first_camera().fps, fps);
    }
    assert_eq!(load("[sampling]\nfps = 7.5\n").unwrap().first_camera().fps, 7.5);
}

#[test]
fn cameras_share_settings_and_have_their_own() {
    let config = load(
        "[gate]\nhold_ms = 500\nabsorb_s = 90\n[[line]]\nname = \"all\"\n\
         [[camera]]\nname = \"a\"\nsource = \"/dev/video0\"\n\
         [camera.gate]\nhold_ms = 700\n[camera.sampling]\nfps = 2.0\n\
         [[camera]]\nname = \"b\"\nsource = \"/dev/video1\"\n\
         [[camera.line]]\nname = \"x\"\n[[camera.line]]\nname = \"y\"\n",
    )
    .unwrap();
    let [a, b] = &config.cameras[..] else { panic!("{}", config.cameras.len()) };
    let gate = |camera: &Camera| camera.gate.as_ref().map(|gate| (gate.hold_ms, gate.absorb_s)).unwrap();
    assert_eq!((gate(a), gate(b)), ((700, 90), (500, 90)));
    assert_eq!((a.fps, b.fps), (2.0, 6.0));
    let lines = |camera: &Camera| camera.lines.iter().map(|line| line.name.to_string()).collect::<Vec<_>>();
    assert_eq!((lines(a), lines(b)), (vec!["all".to_owned()], vec!["x".to_owned(), "y".to_owned()]));
    let shown: Vec<String> = config.in_force.given().collect();
    for line in ["camera[0].gate.hold_ms = 700", "camera[1].gate.hold_ms = 500", "camera[1].name = \"b\""] {
        assert!(shown.contains(&line.to_owned()), "{shown:?}");
    }
    // One camera in either notation is the same, its own tables included.
    let one = load("[[camera]]\nname = \"a\"\n[camera.gate]\nhold_ms = 700\n").unwrap();
    let same = load("[camera]\nname = \"a\"\n[camera.gate]\nhold_ms = 700\n").unwrap();
    assert_eq!(one.cameras, same.cameras);
    assert_eq!(one.in_force.lines().collect::<Vec<_>>(), same.in_force.lines().collect::<Vec<_>>());
    // An option on the command line overrides the only camera's own table.
    let file = {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"[[camera]]\nsource = \"/dev/video0\"\n").unwrap();
        file
    };
    let source = vec![("camera.source", Value::Text("/dev/video7".into()), "--source")];
    let config = Config::load(Some(file.path()), source, &Machine::default()).unwrap();
    assert_eq!(config.cameras[0].source, Some(crate::capture::SourceSpec::V4l2("/dev/video7".into())));
}

#[test]
fn cameras_are_compared_by_name() {
    let file = |names: &[&str], rest: &str| {
        let table = |name: &&str| format!("[[camera]]\nname = \"{name}\"\n");
        load(&format!("{}{rest}", names.iter().map(table).collect::<String>())).unwrap()
    };
    let both = file(&["a", "b"], "");
    assert_eq!(
        both.diff(&file(&["b", "a"], "")).needs(),
        diff::Change::Nothing,
        "their order does not matter"
    );
    let changed = both.diff(&file(&["a", "b"], "[camera.gate]\nhold_ms = 1\n[camera.sampling]\nfps = 1.0\n"));
    assert_eq!(
        changed.to_string(),
        "camera 'b': gate.hold_ms takes effect at once; camera 'b': sampling.fps takes effect at once"
    );
    let added = both.diff(&file(&["a", "b", "c"], ""));
    assert_eq!(added.to_string(), "camera 'c': camera.name needs a restart of the program");
    assert_eq!(file(&["a", "b", "c"], "").diff(&both), added);
    // What waits stays as it was; the rest is taken over.
    let new = file(&["a", "b", "c"], "").in_force;
    let kept = new.without(&both.in_force, added.pending());
    assert_eq!(both.in_force.diff(&kept).needs(), diff::Change::Nothing);
    let (old, new) = (
        load("").unwrap(),
        load("[uplink]\nqueue_events = 99\nbatch_events_max = 9\ndrain_s = 3\n").unwrap(),
    );
    let changed = old.diff(&new);
    let kept = new.in_force.without(&old.in_force, changed.pending());
    let keys: Vec<String> =
        old.in_force.diff(&kept).changed().iter().map(|changed| changed.key.clone()).collect();
    assert_eq!(keys, ["uplink.drain_s"]);
}
