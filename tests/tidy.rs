//! The rules of the house that the compiler does not check: who may import whom, which file is the only home of an outside
//! crate, how long files and functions may be, and what lies at the top. Each rule has an example that breaks it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules each module may name with `crate::`. A module may always name itself. What is not listed may name
/// nobody, and nobody it: a new module needs a line here, and a thought about its place.
const IMPORTS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("stop", &[]),
    ("retry", &[]),
    ("error", &[]),
    ("clock", &[]),
    ("calendar", &["clock"]),
    ("cores", &["error"]),
    ("geometry", &["limits"]),
    ("frame", &["clock", "limits"]),
    ("jpeg", &["frame", "limits"]),
    ("event", &["clock", "geometry", "limits"]),
    ("ring", &["frame", "limits"]),
    ("sample", &["clock"]),
    ("gate", &["clock", "error", "frame", "geometry", "limits"]),
    ("capture", &["clock", "error", "frame", "limits", "retry", "stop"]),
    ("detect", &["error", "event", "frame", "geometry", "limits"]),
    ("eval", &["error"]),
    ("draw", &["detect", "frame", "geometry"]),
    ("track", &["clock", "detect", "error", "event", "geometry", "limits"]),
    ("focus", &["clock", "detect", "error", "gate", "geometry", "track"]),
    ("count", &["clock", "detect", "error", "event", "geometry", "limits", "track"]),
    ("follow", &["clock", "count", "detect", "error", "event", "geometry", "track"]),
    ("batch", &["clock", "error", "event", "limits"]),
    ("spool", &["calendar", "clock", "error", "event", "limits", "retry"]),
    (
        "uplink",
        &["batch", "calendar", "clock", "error", "event", "geometry", "limits", "retry", "spool", "stop"],
    ),
    ("metrics", &["clock", "event"]),
    ("watchdog", &["clock", "error"]),
    ("power", &["clock", "error"]),
    // The pure stages in a row; no I/O, no configuration.
    (
        "pipeline",
        &[
            "clock", "detect", "error", "event", "focus", "follow", "frame", "gate", "geometry", "jpeg",
            "limits", "track",
        ],
    ),
    // Knows the stages that it puts to the test; of them only `app` and `cli` know that it exists.
    (
        "sim",
        &[
            "batch", "calendar", "capture", "clock", "count", "detect", "draw", "error", "event", "follow",
            "frame", "geometry", "jpeg", "limits", "pipeline", "retry", "ring", "sample", "spool", "stop",
            "track", "uplink", "watchdog",
        ],
    ),
    ("selftest", &["detect", "error", "geometry", "jpeg"]),
    // Turns the user's file into every stage's `Params`.
    (
        "config",
        &[
            "batch", "capture", "cores", "count", "detect", "error", "event", "focus", "follow", "frame",
            "gate", "geometry", "limits", "pipeline", "power", "sample", "spool", "track", "uplink",
            "watchdog",
        ],
    ),
    ("app", &["*"]),
    ("cli", &["*"]),
    ("main", &["*"]),
    ("lib", &["*"]),
];

/// Nobody imports these but themselves and `main`.
const TOPS: &[&str] = &["app", "cli"];

/// Words that may stand in one file (or folder) only, below src/.
const HOMES: &[(&str, &[&str])] = &[
    ("tract_", &["detect/engine/tract.rs", "detect/engine/import.rs"]),
    ("ureq", &["uplink/http/"]),
    ("rustls", &["uplink/http/tls.rs"]),
    ("v4l::", &["capture/v4l2/device.rs"]),
    ("rppal", &["power/gpio.rs"]),
    ("gpiocdev", &["power/gpio.rs"]),
    ("zune_jpeg", &["capture/picture.rs"]),
    ("png::", &["capture/picture.rs", "draw.rs"]),
    ("jpeg_encoder", &["draw.rs"]),
    ("plotters", &["draw/"]),
    ("smol::", &["app.rs", "app/"]),
    ("Instant::now", &["clock.rs"]),
    ("SystemTime::now", &["clock.rs"]),
    ("clock_gettime", &["clock.rs"]),
    (
        "unsafe",
        &[
            "main.rs",
            "app/system.rs",
            "clock.rs",
            "capture/v4l2/device.rs",
            "watchdog/device.rs",
            "detect/engine/kernels/",
            "detect/engine/plan/",
        ],
    ),
    ("indicatif", &["cli/"]),
    ("println!", &["cli/"]),
    ("std::process::exit", &[]),
];

/// What may lie at the top of the repository.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    ".cargo",
    "src",
    "models",
    "yocto-layer",
    "scripts",
    "tests", // folders fixed by the user
    "README.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "Cross.toml",
    "deny.toml",
    "clippy.toml",
    "rustfmt.toml",
    ".ci",
    ".git",
    ".gitignore",
    "target",
];

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below src/: (path below src/ with `/`, text without its tests).
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // A package of its own is not ours to keep tidy: generated.
                if !path.join("Cargo.toml").exists() {
                    walk(&path, out);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(&src(), &mut files);
    files.sort();
    let name = |path: &Path| path.strip_prefix(src()).unwrap().to_str().unwrap().replace('\\', "/");
    let all: Vec<_> = files
        .iter()
        .filter(|path| !name(path).ends_with("tests.rs"))
        .map(|path| (name(path), without_tests(&fs::read_to_string(path).unwrap())))
        .collect();
    assert!(all.len() > 10, "found only {} sources", all.len());
    all
}

/// The part before the first `#[cfg(test)]` at the margin, where by custom the tests begin.
fn without_tests(text: &str) -> String {
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).flat_map(|line| [line, "\n"]).collect()
}

/// Code without comments and strings, so that words in prose do not count.
fn code_only(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut in_string = false;
        let mut previous = ' ';
        let chars: Vec<char> = line.chars().collect();
        for (index, &c) in chars.iter().enumerate() {
            let quote_char = previous == '\'' && chars.get(index + 1) == Some(&'\'');
            if c == '"' && previous != '\\' && !quote_char {
                in_string = !in_string;
            } else if !in_string && c == '/' && chars.get(index + 1) == Some(&'/') {
                break;
            } else if !in_string {
                out.push(c);
            }
            previous = c;
        }
        out.push('\n');
    }
    out
}

fn module_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// The modules that a text names with `crate::`, also within braces after `use crate::`.
fn named_modules(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for after in code.split("crate::").skip(1) {
        if let Some(group) = after.strip_prefix('{') {
            let mut depth = 1;
            let mut word = String::new();
            let mut at_start = true;
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 1 && at_start && (c.is_alphanumeric() || c == '_') {
                    word.push(c);
                } else if depth <= 1 {
                    if at_start && !word.is_empty() {
                        found.push(std::mem::take(&mut word));
                    }
                    at_start = c == ',' || (at_start && c.is_whitespace());
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            found.push(after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found.retain(|name| name.starts_with(char::is_lowercase));
    found
}

fn check_imports(files: &[(String, String)]) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (file, text) in files {
        let module = module_of(file);
        let Some(may) = allowed.get(module) else {
            wrong.push(format!("src/{file}: module '{module}' has no line in tests/tidy.rs"));
            continue;
        };
        for named in named_modules(&code_only(text)) {
            let fine = named == module || may.contains(&named.as_str()) || may.contains(&"*");
            let top = TOPS.contains(&named.as_str())
                && named != module
                && !matches!(module, "main" | "lib" | "cli");
            if !fine || top {
                wrong.push(format!("src/{file}: '{module}' may not import '{named}'"));
            }
        }
    }
    wrong
}

fn check_homes(files: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, text) in files {
        let code = code_only(text);
        for (word, homes) in HOMES {
            let at_home =
                homes.iter().any(|home| file == home || (home.ends_with('/') && file.starts_with(home)));
            let is_word = |(at, _): &(usize, &str)| {
                !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_') // `make_tract_` is another word
            };
            let lint_attribute = |(at, _): &(usize, &str)| code[*at..].starts_with("unsafe_");
            if !at_home && code.match_indices(word).any(|hit| is_word(&hit) && !lint_attribute(&hit)) {
                wrong.push(format!("src/{file}: '{word}' belongs into {homes:?}"));
            }
        }
    }
    wrong
}

fn check_lengths(files: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, text) in files {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            wrong.push(format!(
                "src/{file}: {} lines before the tests, {FILE_LINES_MAX} at most",
                lines.len()
            ));
        }
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line.trim_start();
            let is_function = [
                "fn ",
                "pub fn ",
                "pub(crate) fn ",
                "pub(super) fn ",
                "const fn ",
                "pub const fn ",
                "async fn ",
                "pub async fn ",
            ]
            .iter()
            .any(|prefix| head.starts_with(prefix));
            if !is_function || head.ends_with(';') {
                continue;
            }
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == end).map_or(1, |n| n + 1);
            if length > FUNCTION_LINES_MAX {
                wrong.push(format!(
                    "src/{file}:{}: a function of {length} lines, {FUNCTION_LINES_MAX} at most",
                    start + 1
                ));
            }
        }
    }
    wrong
}

/// Each file begins by saying what it is for.
fn check_heads(files: &[(String, String)]) -> Vec<String> {
    let headless = files.iter().filter(|(_, text)| !text.starts_with("//! "));
    headless.map(|(file, _)| format!("src/{file}: does not begin with //! and its duty")).collect()
}

fn none_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn imports_point_down_the_list() {
    none_wrong(&check_imports(&sources()));
}

#[test]
fn outside_crates_and_clocks_stay_in_their_homes() {
    none_wrong(&check_homes(&sources()));
}

#[test]
fn files_and_functions_fit_in_a_head() {
    none_wrong(&check_lengths(&sources()));
}

#[test]
fn every_file_says_what_it_is_for() {
    none_wrong(&check_heads(&sources()));
}

#[test]
fn the_top_level_is_as_agreed() {
    // What is in the repository: what a user's own runs leave here, as `flytrap demo` does, is nobody's business.
    let listed = std::process::Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "ls-files"])
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty());
    let Some(listed) = listed else {
        // Not by a macro, whose output would be kept back.
        let told = "SKIPPED the_top_level_is_as_agreed: this is no git checkout, or there is no git\n";
        std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes()).unwrap();
        return;
    };
    let listed = String::from_utf8(listed.stdout).unwrap();
    let top: std::collections::BTreeSet<&str> =
        listed.lines().map(|path| path.split('/').next().unwrap_or(path)).collect();
    assert!(top.contains("src") && top.contains("tests"), "{top:?}");
    let strangers: Vec<_> = top.iter().filter(|name| !TOP_LEVEL.contains(name)).collect();
    assert!(strangers.is_empty(), "{strangers:?} do not belong at the top");
}

#[test]
fn the_checks_can_fail() {
    let file = |name: &str, text: &str| vec![(name.to_owned(), text.to_owned())];
    for (name, text) in [
        ("gate.rs", "use crate::config::Settings;"),
        ("gate.rs", "use crate::{clock::Mono, metrics::{A, B}};"),
        ("track/kalman.rs", "fn f() { crate::app::run() }"),
        ("uplink/http.rs", "use crate::detect::Detection;"),
        ("newcomer.rs", ""),
        ("config/mod.rs", "use crate::app::App;"),
    ] {
        assert_eq!(check_imports(&file(name, text)).len(), 1, "{name}: {text}");
    }
    for (name, text) in [
        ("gate.rs", "// see crate::config\nuse crate::{clock::{Mono}, error::Error};"),
        ("gate.rs", "const TEXT: &str = \"crate::config\";"),
        ("app.rs", "use crate::config::Settings;"),
    ] {
        assert_eq!(check_imports(&file(name, text)), Vec::<String>::new(), "{name}: {text}");
    }
    for (name, text) in [
        ("gate.rs", "let t = std::time::Instant::now();"),
        ("detect/model.rs", "use tract_onnx::prelude::*;"),
        ("uplink/session.rs", "use ureq::Agent;"),
        ("pipeline.rs", "println!(\"x\");"),
        ("frame.rs", "unsafe { read() }"),
    ] {
        assert_eq!(check_homes(&file(name, text)).len(), 1, "{name}: {text}");
    }
    assert!(check_homes(&file("uplink/http/mod.rs", "use ureq::Agent; // unsafe")).is_empty());
    let long = |lines: usize| format!("//! x\npub fn f() {{\n{}}}\n", "    x();\n".repeat(lines));
    assert!(check_lengths(&file("gate.rs", &long(68))).is_empty());
    assert_eq!(check_lengths(&file("gate.rs", &long(69))).len(), 1);
    assert_eq!(check_lengths(&file("gate.rs", &"\n".repeat(801))).len(), 1);
    assert_eq!(check_heads(&file("gate.rs", "use x;")).len(), 1);
}
