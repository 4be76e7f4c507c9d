//! Splits a command line into words, without a shell. Pure: starts nothing, expands nothing.

pub use crate::base::mask::masked;

/// Splits a command line into words at whitespace; `'..'` is literal; in `".."` a backslash escapes `"`, `\`, `$` and the backtick; outside
/// quotes it escapes any character. No variables, patterns or pipes: for those use `sh -c '...'`.
///
/// # Errors
/// One line with the remedy: an open quote, a backslash at the end, nothing at all, or a word that needs a shell.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                quoted = true;
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a ' is never closed: add it, or write \\'".to_owned()),
                    }
                }
            }
            '"' => {
                quoted = true;
                double_quoted(&mut chars, word.get_or_insert_default())?;
            }
            '\\' => {
                quoted = true;
                let Some(c) = chars.next() else {
                    return Err("a backslash at the end escapes nothing: write \\\\".to_owned());
                };
                word.get_or_insert_default().push(c);
            }
            c if c.is_whitespace() => {
                finish(&mut words, word.take(), quoted)?;
                quoted = false;
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    finish(&mut words, word, quoted)?;
    if words.first().is_none_or(String::is_empty) {
        return Err("no command: write exec:PROGRAM ARGUMENTS".to_owned());
    }
    Ok(words)
}

fn double_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    loop {
        match chars.next() {
            Some('"') => return Ok(()),
            Some('\\') => match chars.next() {
                Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                Some(c) => word.extend(['\\', c]),
                None => break,
            },
            Some(c) => word.push(c),
            None => break,
        }
    }
    Err("a \" is never closed: add it, or write \\\"".to_owned())
}

/// A lone `|` passed to ffmpeg would cause a confusing error message.
fn finish(words: &mut Vec<String>, word: Option<String>, quoted: bool) -> Result<(), String> {
    let Some(word) = word else { return Ok(()) };
    let shell = matches!(word.as_str(), "|" | "||" | "&" | "&&" | ";" | "<")
        || word.starts_with('>')
        || word.starts_with("2>")
        || word.starts_with("1>");
    if shell && !quoted {
        return Err(format!("'{word}' needs a shell: use exec:sh -c '...', or quote it"));
    }
    words.push(word);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn command_lines_are_split_like_in_a_shell() {
        for (line, words) in [
            ("cat a b", &["cat", "a", "b"][..]),
            ("  cat \t a\n", &["cat", "a"]),
            ("cat 'a b' \"c d\"", &["cat", "a b", "c d"]),
            ("cat a' 'b\"c\"d", &["cat", "a bcd"]),
            (r"cat a\ b \' \\", &["cat", "a b", "'", r"\"]),
            (r#"sh -c "echo \"x\" \$y \n""#, &["sh", "-c", r#"echo "x" $y \n"#]),
            (r"sh -c 'a\b | c'", &["sh", "-c", r"a\b | c"]),
            ("x '' \"\"", &["x", "", ""]),
            (
                "ffmpeg -i rtsp://h/?a=1&b=2 -vf scale=640:-1,fps=5 -",
                &["ffmpeg", "-i", "rtsp://h/?a=1&b=2", "-vf", "scale=640:-1,fps=5", "-"],
            ),
            ("x '|' \\>", &["x", "|", ">"]),
            ("x é'ü'", &["x", "éü"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn ambiguous_commands_are_refused() {
        for (line, part) in [
            ("cat 'a", "never closed"),
            ("cat \"a", "never closed"),
            ("cat \"a\\", "never closed"),
            ("cat a\\", "backslash"),
            ("", "no command"),
            ("   ", "no command"),
            ("'' x", "no command"),
            ("a | b", "sh -c"),
            ("a 2>/dev/null", "sh -c"),
            ("a > b", "sh -c"),
            ("a && b", "sh -c"),
        ] {
            assert!(split(line).unwrap_err().contains(part), "{line}");
        }
    }

    proptest! {
        #[test]
        fn quoted_words_round_trip(words in proptest::collection::vec(".{1,12}", 1..6)) {
            let line = words.iter().map(|w| format!("'{}'", w.replace('\'', r"'\''"))).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split(&line).unwrap(), words);
        }

        #[test]
        fn any_command_line_is_split_or_refused(line in "\\PC{0,60}") {
            let _any = split(&line);
        }
    }
}
