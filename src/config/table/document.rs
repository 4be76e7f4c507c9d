//! `defaults.toml`, written from the table: every setting with its comment, range, unit and default.

use super::{Kind, Section, Setting};

/// Longest line of a comment, characters.
const WIDTH_MAX: usize = 110;

/// The text above all settings.
const INTRODUCTION: &str = "\
Every setting of flytrap with its default. Copy only what you want to change into your own file (flytrap.toml); all \
other settings keep the values below. A key that is not in this file is an error, and all errors are reported at once. \
`flytrap check FILE` checks a file and prints the settings in force.

Units are part of the key: _ms milliseconds, _s seconds, _px pixels, _kb kibibytes (2^10 bytes), _mb mebibytes \
(2^20 bytes). Points in the frame are [x, y] as fractions of its width and height: [0.0, 0.0] is the upper left corner, \
[1.0, 1.0] the lower right one.

This file is generated from src/config/table/; a test keeps both the same.";

/// The text of `defaults.toml` for `sections`.
pub(in crate::config) fn defaults_toml(sections: &[Section]) -> String {
    let mut out = String::new();
    comment(&mut out, INTRODUCTION);
    for section in sections {
        out.push('\n');
        comment(&mut out, section.help);
        let brackets = if section.is_array { ("[[", "]]") } else { ("[", "]") };
        // A table that the defaults do not have is shown as a comment.
        let mark = if section.default_count == 0 { "# " } else { "" };
        out.push_str(&format!("{mark}{}{}{}\n", brackets.0, section.name, brackets.1));
        for (index, setting) in section.settings.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            comment(&mut out, setting.help);
            comment(&mut out, &allowed(setting));
            out.push_str(&format!("{mark}{} = {}\n", setting.key, setting.default.value()));
        }
    }
    out
}

/// One sentence: which values a setting takes; empty where its comment says so already.
fn allowed(setting: &Setting) -> String {
    let (least, most) = match setting.kind {
        Kind::Whole(least, most) => (least.to_string(), most.to_string()),
        Kind::Number(least, most) => (least.to_string(), most.to_string()),
        Kind::Choice(of) => {
            let quoted: Vec<String> = of.iter().map(|name| format!("\"{name}\"")).collect();
            return format!("One of {}.", quoted.join(", "));
        }
        Kind::Switch | Kind::Text | Kind::Texts | Kind::Wholes(..) | Kind::Point | Kind::Polygons => {
            return String::new();
        }
    };
    let mut text = format!("Range: {least} to {most}");
    if !setting.unit.is_empty() {
        text.push_str(&format!(" {}", setting.unit));
    }
    if let Some((value, meaning)) = setting.special {
        text.push_str(&format!("; {value} = {meaning}"));
    }
    let key = |path: &'static str| path.rsplit('.').next().unwrap_or(path);
    if let Some(path) = setting.at_least {
        text.push_str(&format!("; not less than {}", key(path)));
    }
    if let Some(path) = setting.at_most {
        text.push_str(&format!("; not more than {}", key(path)));
    }
    text.push('.');
    text
}

/// `text` as comment lines of at most [`WIDTH_MAX`] characters; lines that begin with a space are kept as they are.
fn comment(out: &mut String, text: &str) {
    for line in text.lines() {
        if line.is_empty() {
            out.push_str("#\n");
        } else if line.starts_with(' ') {
            out.push_str(&format!("# {line}\n"));
        } else {
            wrap(out, line);
        }
    }
}

/// Keeps `x = y` on one line.
fn wrap(out: &mut String, line: &str) {
    let line = line.replace(" = ", "\u{a0}=\u{a0}");
    let mut width = 0;
    for word in line.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if width == 0 || width + 1 + length > WIDTH_MAX {
            out.push_str(if width == 0 { "# " } else { "\n# " });
            width = 2;
        } else {
            out.push(' ');
            width += 1;
        }
        out.push_str(&word.replace('\u{a0}', " "));
        width += length;
    }
    out.push('\n');
}
