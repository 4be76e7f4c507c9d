use proptest::prelude::*;

use super::*;
use crate::config::check::check;
use crate::config::diff::Scope;
use crate::config::table::{self, SECTIONS};

/// Four settings of the real table and the lines, so that the messages are those that users see.
fn laid(text: &str) -> Values {
    let mut values = Values::new(SECTIONS);
    values.lay_over(text, "x.toml");
    values
}

#[test]
fn the_users_values_win_and_the_rest_stays() {
    let mut values = laid("sampling.fps = 6\n[sampling]\nprofile = \"low_power\"\n");
    // A dotted key and its table in one file is a mistake of TOML itself.
    assert_eq!(values.mistakes.len(), 1);
    values = laid("[camera]\nwidth = 640\n[sampling]\nfps = 15 # a whole number is a number\n");
    check(&mut values);
    assert_eq!(values.int("camera.width"), 640);
    assert_eq!(values.float("sampling.fps"), 15.0);
    assert_eq!(
        (values.text("camera.name"), values.bool("focus.enabled"), values.count("line")),
        ("camera", false, 1)
    );
    assert_eq!(values.in_force().given().collect::<Vec<_>>(), ["camera.width = 640", "sampling.fps = 15.0"]);
    assert_eq!(values.into_mistakes(), Vec::<String>::new());
}

#[test]
fn all_mistakes_are_reported_at_once_with_line_key_value_and_range() {
    let mut values = laid(
        "[camera]\nwidht = 640\nname = 3\nat_end = 1979-05-27\n\n[sampling]\nfps = 99.0\n\n[[line]]\nname = \"a\"\nform = [0, 1]\n[[lime]]\nposition = 1\n[downlink]\nurl = \"x\"\n",
    );
    check(&mut values);
    values.mistake("line[0].from", "must lie in the picture");
    let mut mistakes = values.into_mistakes();
    mistakes.sort();
    assert_eq!(
        mistakes,
        [
            "defaults: line[0].from = [0.5, 1.0]: must lie in the picture",
            "x.toml: [[lime]] is not a setting",
            "x.toml:11: 'line[0].form' is not a setting; did you mean 'line[].from'?",
            "x.toml:13: 'lime[0].position' is not a setting",
            "x.toml:15: 'downlink.url' is not a setting",
            "x.toml:2: 'camera.widht' is not a setting; did you mean 'camera.width'?",
            "x.toml:3: camera.name = 3: must be a text in quotes",
            "x.toml:4: camera.at_end: a date, which no setting takes; put it in quotes if you mean a text",
            "x.toml:7: sampling.fps = 99.0: must be 0 (the profile's rate) or 0.1..=60.0",
        ]
    );
}

#[test]
fn a_users_tables_replace_the_default_ones() {
    let values = laid("[[line]]\nname = \"a\"\n[[line]]\nfrom = [0.0, 1.0]\n");
    assert_eq!(values.count("line"), 2);
    assert_eq!((values.text("line[0].name"), values.text("line[1].name")), ("a", "middle"));
    assert_eq!(values.list("line[1].from"), [Value::Float(0.0), Value::Float(1.0)]);
    // Tables that do not exist cannot be set.
    let mut values = laid("");
    values.set("line[1].name", Value::Text("b".into()), "--test");
    assert_eq!(values.into_mistakes().len(), 1);
}

#[test]
fn a_syntax_error_names_its_line() {
    let mistakes = laid("[camera]\nwidth = \n").into_mistakes();
    assert!(mistakes.len() == 1 && mistakes[0].starts_with("x.toml:2: "), "{mistakes:?}");
}

#[test]
fn ranges_that_depend_on_each_other_are_checked_in_both_orders_and_at_their_ends() {
    static SETTINGS: [table::Setting; 3] = [
        // The bound comes after the setting that it limits, as with uplink.whole_timeout_s.
        table::test_whole("part", 5, 1, 600, None, Some("t.all")),
        table::test_whole("more", 5, 1, 600, Some("t.part"), None),
        table::test_whole("all", 10, 1, 20, None, None),
    ];
    static TABLE: [table::Section; 1] = [table::Section {
        name: "t",
        is_array: false,
        default_count: 1,
        scope: Scope::Log,
        help: "",
        settings: &SETTINGS,
    }];
    let mistakes = |text: &str| {
        let mut values = Values::new(&TABLE);
        values.lay_over(text, "x");
        check(&mut values);
        (values.int("t.part"), values.int("t.more"), values.int("t.all"), values.into_mistakes())
    };
    let none = Vec::<String>::new;
    assert_eq!(mistakes("t.part = 10\nt.more = 10\n"), (10, 10, 10, none()));
    assert_eq!(mistakes("t.part = 1\nt.more = 1\n"), (1, 1, 10, none()));
    assert_eq!(
        mistakes("t.part = 11\nt.more = 600\n"),
        (10, 600, 10, vec!["x:1: t.part = 11: must be 1..=10".into()])
    );
    assert_eq!(mistakes("t.more = 4\n"), (5, 5, 10, vec!["x:1: t.more = 4: must be 5..=600".into()]));
    // A wrong value is replaced by the nearest allowed one: settings that are right for that are not reported too.
    let (part, _, all, mistakes) = mistakes("t.all = 99\nt.part = 17\nt.more = 17\n");
    assert_eq!((part, all, mistakes.len()), (17, 20, 1), "{mistakes:?}");
}

#[test]
fn a_value_of_the_wrong_type_is_shown_without_its_password() {
    let mistakes = laid(
        "[camera]\nsource = [\"exec:ffmpeg -i rtsp://u:secret@h -\"]\n[uplink]\nfallbacks = \"https://u:secret@h/\"\nproxy = [\"http://u:secret@h/\"]\n",
    )
    .into_mistakes();
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    assert!(!mistakes.join("\n").contains("secret"), "{mistakes:?}");
}

proptest! {
    #[test]
    fn any_text_is_applied_or_refused(text in "\\PC{0,80}", toml in "[a-z\\[\\]=.0-9\"\n ]{0,80}") {
        for text in [text, toml.clone(), format!("[camera]\n{toml}"), format!("[[line]]\n{toml}")] {
            check(&mut laid(&text));
        }
    }
}
