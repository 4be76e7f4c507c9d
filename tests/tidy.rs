//! House rules that the compiler does not check: which module may import which, which file alone may use an external crate, the length of
//! files and functions, and the contents of the top level. Each rule has an example that breaks it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules each module may name with `crate::`. The longest entry that a path begins with is its module; a group such as `base`
/// stands for everything in it. A module may always name itself. A module without an entry may name none, and none may name it: a new
/// module needs an entry here, and a decision about its place.
const IMPORTS: &[(&str, &[&str])] = &[
    // Available to every module. No I/O, no clock.
    ("base", &[]),
    ("base::limits", &[]),
    ("base::mask", &[]),
    ("base::stop", &[]),
    ("base::retry", &[]),
    ("base::error", &[]),
    ("base::text", &["base::limits"]),
    ("base::geometry", &["base::limits"]),
    // The machine.
    ("platform", &[]),
    ("platform::clock", &[]),
    ("platform::calendar", &["platform::clock"]),
    ("platform::cores", &["base"]),
    ("platform::process", &["base"]),
    ("platform::threads", &["base"]),
    ("platform::log", &["base", "platform::threads"]),
    ("platform::secret", &["base", "platform::process"]),
    ("platform::system", &["base"]),
    ("platform::machine", &["platform::clock"]),
    ("platform::zone", &["platform::clock"]),
    ("platform::watchdog", &["base", "platform::clock", "platform::process"]),
    ("platform::gpio", &["base", "platform::clock"]),
    // The frame path.
    ("capture::frame", &["base", "platform::clock"]),
    ("capture::ring", &["base", "capture::frame"]),
    ("capture::sampler", &["platform::clock"]),
    ("capture", &["base", "platform::clock", "platform::secret", "capture::frame"]),
    ("vision", &[]),
    ("vision::jpeg", &["base", "capture::frame"]),
    ("vision::gate", &["base", "platform::clock", "capture::frame"]),
    ("vision::detect", &["base", "capture::frame", "platform::process", "platform::threads"]),
    ("vision::roi", &["base", "platform::clock", "vision::detect", "vision::gate"]),
    ("vision::draw", &["base", "capture::frame", "vision::detect"]),
    ("vision::selftest", &["base", "vision::detect", "vision::jpeg"]),
    (
        "vision::load",
        &["base", "platform::cores", "platform::system", "vision::detect", "vision::roi", "vision::selftest"],
    ),
    // All counters and gauges: names, units, meaning. The bodies of two events are generated from it.
    ("metrics::table", &[]),
    ("event", &["base", "platform::clock", "metrics::table"]),
    ("analytics::track", &["base", "platform::clock", "vision::detect", "vision::roi", "event"]),
    ("analytics::count", &["base", "platform::clock", "vision::detect", "event", "analytics::track"]),
    (
        "analytics",
        &["base", "platform::clock", "vision::detect", "event", "analytics::track", "analytics::count"],
    ),
    // The pure stages in a row; no I/O, no configuration.
    ("pipeline", &["base", "platform::clock", "capture::frame", "vision", "event", "analytics"]),
    ("delivery", &[]),
    ("delivery::spool", &["base", "platform::clock", "platform::calendar", "platform::process", "event"]),
    (
        "delivery::uplink",
        &[
            "base",
            "platform::clock",
            "platform::calendar",
            "platform::secret",
            "event",
            "metrics::table",
            "delivery::spool",
        ],
    ),
    // Rules over the table.
    ("metrics::alert", &["platform::clock", "metrics::table"]),
    // Names what was measured of the model in use.
    ("metrics::kpi", &["vision::detect"]),
    ("metrics", &["platform::clock", "metrics::table"]),
    // Knows the stages that it tests; of them only `run`, `tools` and `cli` know that it exists.
    (
        "sim",
        &[
            "base",
            "platform",
            "capture",
            "vision",
            "event",
            "metrics::table",
            "analytics",
            "pipeline",
            "delivery",
        ],
    ),
    // Where the status socket is: a setting.
    ("status::socket", &["platform::process"]),
    // Turns the user's file into every stage's `Params`.
    (
        "config",
        &[
            "base",
            "platform",
            "capture",
            "vision",
            "event",
            "analytics",
            "pipeline",
            "delivery",
            "metrics::alert",
            "metrics::kpi",
            "status::socket",
        ],
    ),
    // Figures for others: a server and files. Knows neither counters nor settings.
    ("status", &["base", "platform::clock", "platform::secret", "status::socket"]),
    ("metrics::families", &["metrics::table", "status"]),
    // The wiring of the daemon.
    (
        "run",
        &[
            "base",
            "platform",
            "capture",
            "vision",
            "event",
            "analytics",
            "pipeline",
            "delivery",
            "metrics",
            "sim",
            "config",
            "status",
        ],
    ),
    // The work of the commands.
    ("tools::score", &["base"]),
    ("tools", &["*"]),
    ("cli", &["*"]),
    ("main", &["*"]),
    ("lib", &["*"]),
];

/// Imported only by themselves, the modules named beside them, and `main`.
const TOPS: &[(&str, &[&str])] = &[("run", &["cli", "tools"]), ("tools", &["cli"]), ("cli", &[])];

/// Words that may occur in one file (or folder) only, below src/.
const HOMES: &[(&str, &[&str])] = &[
    ("tract_", &["vision/detect/engine/tract.rs", "vision/detect/engine/import.rs"]),
    ("ureq", &["delivery/uplink/http/"]),
    ("rustls", &["delivery/uplink/http/tls.rs"]),
    ("httparse", &["status/request.rs", "status/client.rs"]),
    ("v4l::", &["capture/v4l2/device.rs"]),
    ("rppal", &["platform/gpio/chip.rs"]),
    ("gpiocdev", &["platform/gpio/chip.rs"]),
    ("zune_jpeg", &["capture/picture.rs"]),
    ("png::", &["capture/picture.rs", "vision/draw/mod.rs"]),
    ("jpeg_encoder", &["vision/draw/mod.rs"]),
    ("plotters", &["vision/draw/"]),
    ("smol::", &["run/"]),
    ("tz::", &["platform/zone.rs"]),
    ("Instant::now", &["platform/clock.rs"]),
    ("SystemTime::now", &["platform/clock.rs"]),
    ("clock_gettime", &["platform/clock.rs"]),
    (
        "unsafe",
        &[
            "main.rs",
            "platform/system.rs",
            "platform/clock.rs",
            "capture/v4l2/device.rs",
            "platform/watchdog/device.rs",
            "vision/detect/engine/kernels/",
            "vision/detect/engine/plan/",
        ],
    ),
    ("indicatif", &["cli/"]),
    ("println!", &["cli/"]),
    ("std::process::exit", &[]),
];

/// What may be at the top of the repository.
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
    "CONTRIBUTING.md",
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
                // A separate, generated package: not checked.
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

/// The part before the first unindented `#[cfg(test)]`, where the tests begin by convention.
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

/// The entry of [`IMPORTS`] that a path of segments belongs to: the longest prefix.
fn module_of_path(path: &[&str]) -> Option<&'static str> {
    (1..=path.len().min(2)).rev().find_map(|length| {
        let name = path[..length].join("::");
        IMPORTS.iter().map(|(module, _)| *module).find(|module| *module == name)
    })
}

fn module_of(file: &str) -> Option<&'static str> {
    let path: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    module_of_path(&path)
}

/// The paths that a text names with `crate::`, as segments, two at most: `crate::base::error::Error` is `base`, `error`. `use crate::{…}`
/// is not allowed: one path per line.
fn named_paths(code: &str) -> Vec<Vec<&str>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let path = |after: &str| -> usize {
        let mut end = 0;
        loop {
            let word = after[end..].chars().take_while(|c| is_word(*c)).count();
            end += word;
            if word == 0 || !after[end..].starts_with("::") {
                return end;
            }
            end += 2;
        }
    };
    let paths = code.split("crate::").skip(1);
    paths
        .map(|after| after[..path(after)].split("::").filter(|word| !word.is_empty()).take(2).collect())
        .collect()
}

/// Whether the module `named` is `allowed`, or belongs to an allowed group.
fn is_within(named: &str, allowed: &str) -> bool {
    named == allowed || named.strip_prefix(allowed).is_some_and(|rest| rest.starts_with("::"))
}

fn check_imports(files: &[(String, String)]) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (file, text) in files {
        let Some(module) = module_of(file) else {
            wrong.push(format!("src/{file}: its module has no line in tests/tidy.rs"));
            continue;
        };
        let may = allowed[module];
        for path in named_paths(&code_only(text)) {
            let Some(named) = module_of_path(&path) else {
                wrong.push(format!("src/{file}: '{}' has no line in tests/tidy.rs", path.join("::")));
                continue;
            };
            let fine =
                named == module || may.iter().any(|allowed| *allowed == "*" || is_within(named, allowed));
            let from = module.split("::").next().unwrap_or(module);
            let top = TOPS.iter().any(|(top, by)| {
                is_within(named, top)
                    && from != *top
                    && !by.contains(&from)
                    && !matches!(from, "main" | "lib")
            });
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

/// Whether a line begins a function, whatever qualifiers precede `fn`.
fn starts_function(head: &str) -> bool {
    let mut words = head.split_whitespace().skip_while(|word| {
        word.starts_with("pub") || matches!(*word, "const" | "async" | "unsafe" | "extern" | "\"C\"")
    });
    words.next() == Some("fn")
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
            let is_function = starts_function(head);
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

/// Each file begins with its purpose.
fn check_heads(files: &[(String, String)]) -> Vec<String> {
    let headless = files.iter().filter(|(_, text)| !text.starts_with("//! "));
    headless.map(|(file, _)| format!("src/{file}: does not begin with //! and its duty")).collect()
}

/// Every text that people read: sources, tests, scripts, documents.
fn texts() -> Vec<(String, String)> {
    fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_text = |path: &Path| {
                let extension = path.extension().and_then(|extension| extension.to_str());
                matches!(extension, Some("rs" | "md" | "toml" | "py" | "sh") | None)
            };
            if path.is_dir() && !path.ends_with("target") && !path.ends_with("sys") {
                walk(&path, out);
            } else if path.is_file() && is_text(&path) {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Cargo.toml"].map(|name| root.join(name)).into();
    for folder in ["src", "tests", "scripts"] {
        walk(&root.join(folder), &mut files);
    }
    files.sort();
    let name = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
    let read = |path: &PathBuf| fs::read_to_string(path).ok().map(|text| (name(path), text));
    files.iter().filter_map(read).filter(|(name, _)| name != "tests/tidy.rs").collect()
}

/// Paths of this repository in a text: `src/…`, `tests/…`, `scripts/…`, with a letter after the slash.
fn cited_paths(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let mut found = Vec::new();
    for folder in ["src/", "tests/", "scripts/"] {
        for (at, _) in text.match_indices(folder) {
            let before = text[..at].chars().next_back();
            let after = &text[at + folder.len()..];
            let word: String = after.chars().take_while(|c| is_part(*c)).collect();
            let open_end = after[word.len()..].starts_with(['*', '…', '{', '$', '<']);
            let begins_here = before.is_none_or(|c| !is_part(c));
            if begins_here && !open_end && word.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                found.push(format!("{folder}{}", word.trim_end_matches(['.', '/', '-'])));
            }
        }
    }
    found
}

/// Numbers cited after one of `letters`, as `I4`, `(S13)`; none where the number continues, as in a hash.
fn cited_numbers(text: &str, letter: char) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(letter) {
        let before = text[..at].chars().next_back();
        let digits: String = text[at + 1..].chars().take_while(char::is_ascii_digit).collect();
        let next = text[at + 1 + digits.len()..].chars().next();
        let apart =
            |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | '"' | '\''));
        if (1..=2).contains(&digits.len()) && apart(before) && apart(next) {
            found.push(format!("{letter}{digits}"));
        }
    }
    found
}

/// Cited files exist; cited invariants are in src/lib.rs, cited systems in src/systems.md.
fn check_citations(files: &[(String, String)]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let systems = fs::read_to_string(root.join("src/systems.md")).unwrap();
    let mut wrong = Vec::new();
    for (file, text) in files {
        for path in cited_paths(text) {
            // `tests/demo` may be tests/demo.rs.
            let exists = root.join(&path).exists() || root.join(format!("{path}.rs")).exists();
            if !exists {
                wrong.push(format!("{file}: there is no {path}"));
            }
        }
        if file.starts_with("src/") && file.ends_with(".rs") {
            let comments: String =
                text.lines().filter(|line| line.contains("//")).flat_map(|line| [line, "\n"]).collect();
            let unknown_invariants =
                cited_numbers(&comments, 'I').into_iter().filter(|id| !map.contains(&format!("**{id} ")));
            let unknown_systems = cited_numbers(&comments, 'S')
                .into_iter()
                .filter(|id| !systems.contains(&format!("| {id} |")));
            let unknown = unknown_invariants.chain(unknown_systems);
            wrong.extend(unknown.map(|id| format!("{file}: {id} is defined nowhere")));
        }
    }
    wrong
}

fn none_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn imports_point_down_the_list() {
    none_wrong(&check_imports(&sources()));
}

#[test]
fn external_crates_and_clocks_are_used_in_their_files_only() {
    none_wrong(&check_homes(&sources()));
}

#[test]
fn files_and_functions_are_short_enough() {
    none_wrong(&check_lengths(&sources()));
}

#[test]
fn every_file_says_what_it_is_for() {
    none_wrong(&check_heads(&sources()));
}

#[test]
fn cited_files_and_invariants_exist() {
    let texts = texts();
    assert!(texts.iter().any(|(_, text)| !cited_paths(text).is_empty()), "no path is cited anywhere");
    none_wrong(&check_citations(&texts));
}

#[test]
fn the_top_level_is_as_agreed() {
    // Files in the repository: output of a user's own runs, such as that of `flytrap demo`, does not count.
    let listed = std::process::Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "ls-files"])
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty());
    let Some(listed) = listed else {
        // Not with a macro, whose output would be captured.
        let line = "SKIPPED the_top_level_is_as_agreed: this is not a git checkout, or there is no git\n";
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
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
        ("vision/gate/mod.rs", "use crate::config::Settings;"),
        ("vision/gate/mod.rs", "use crate::platform::clock::Mono;\nuse crate::metrics::A;"),
        ("vision/gate/mod.rs", "use crate::vision::detect::Detection;"),
        ("vision/gate/mod.rs", "use crate::{base::error::Error};"),
        ("analytics/track/kalman.rs", "fn f() { crate::run::run() }"),
        ("delivery/uplink/http.rs", "use crate::vision::detect::Detection;"),
        ("newcomer.rs", ""),
        ("base/newcomer.rs", "use crate::platform::clock::Mono;"),
        ("config/mod.rs", "use crate::run::App;"),
        ("run/mod.rs", "use crate::tools::bench::measure;"),
        ("status/server.rs", "use crate::metrics::Metrics;"),
        ("tools/bench.rs", "use crate::cli::say;"),
        ("tools/score/coco.rs", "use crate::config::Config;"),
    ] {
        assert_eq!(check_imports(&file(name, text)).len(), 1, "{name}: {text}");
    }
    for (name, text) in [
        ("vision/gate/mod.rs", "// see crate::config\nuse crate::base::error::Error;"),
        ("vision/gate/mod.rs", "const TEXT: &str = \"crate::config\";"),
        ("vision/gate/light.rs", "use crate::vision::gate::Reason;"),
        ("run/mod.rs", "use crate::config::Settings;"),
        ("cli/run.rs", "use crate::tools::score::coco::Figures;"),
    ] {
        assert_eq!(check_imports(&file(name, text)), Vec::<String>::new(), "{name}: {text}");
    }
    for (name, text) in [
        ("vision/gate/mod.rs", "let t = std::time::Instant::now();"),
        ("vision/detect/model.rs", "use tract_onnx::prelude::*;"),
        ("delivery/uplink/session.rs", "use ureq::Agent;"),
        ("pipeline.rs", "println!(\"x\");"),
        ("capture/frame.rs", "unsafe { read() }"),
    ] {
        assert_eq!(check_homes(&file(name, text)).len(), 1, "{name}: {text}");
    }
    assert!(check_homes(&file("delivery/uplink/http/mod.rs", "use ureq::Agent; // unsafe")).is_empty());
    for (text, wrong) in [
        ("//! See src/lib.rs, `tests/tidy.rs`, tests/tidy and src/sim/: (I12), S14.", 0),
        ("//! See src/no/such.rs.", 1),
        ("//! As I13 says; as S20 does.", 2),
        ("//! A hash I9f, the format \"I420\", tests/data/*.hex", 0),
    ] {
        let found = check_citations(&file("src/gate.rs", text));
        assert_eq!(found.len(), wrong, "{text}: {found:?}");
    }
    let long = |lines: usize| format!("//! x\npub fn f() {{\n{}}}\n", "    x();\n".repeat(lines));
    assert!(check_lengths(&file("gate.rs", &long(68))).is_empty());
    assert_eq!(check_lengths(&file("gate.rs", &long(69))).len(), 1);
    assert_eq!(check_lengths(&file("gate.rs", &"\n".repeat(801))).len(), 1);
    assert_eq!(check_heads(&file("gate.rs", "use x;")).len(), 1);
}
