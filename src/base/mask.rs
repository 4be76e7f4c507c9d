//! Removes passwords from everything that is printed: commands, URLs and other programs' output reach the logs, their secrets do not (I10).
//!
//! One pure function, [`masked`], for every place that shows a source, a URL or another program's output. It recognises secrets by their
//! form, since each camera names its parameters differently:
//! ```text
//!   user:password@host       rtsp://***@host, ***@host
//!   name=value               ?pwd=***&channel=1, /user=admin_password=***, --password=***, PASSWORD=***
//!   name: value              "Authorization: ***", {"password": "***"}
//!   option value             -u ***, -su ***, --cert ***, --password ***, sshpass -p ***, openRTSP -u *** ***
//!   /name/value              http://host/token/***/snap.jpg
//!   any of these, encoded    ?url=rtsp***
//! ```
//! Where a text is ambiguous, the reading that hides more applies.

use std::borrow::Cow;
use std::ops::Range;

/// Replaces a secret.
const MASK: &str = "***";

/// `text` with each secret in it replaced by `***`; everything else stays as it is.
pub fn masked(text: &str) -> Cow<'_, str> {
    let text = replaced(text, secrets(text));
    let encoded = encoded(&text);
    if encoded.is_empty() { text } else { Cow::Owned(replaced(&text, encoded).into_owned()) }
}

fn replaced(text: &str, mut spans: Vec<Range<usize>>) -> Cow<'_, str> {
    if spans.is_empty() {
        return Cow::Borrowed(text);
    }
    spans.sort_by_key(|span| span.start);
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for span in spans {
        if span.start >= done {
            out.push_str(&text[done..span.start]);
            out.push_str(MASK);
        }
        done = done.max(span.end);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// The byte ranges of the secrets; they may overlap.
fn secrets(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let words = words(text);
    for (index, word) in words.iter().enumerate() {
        address(text, word, &mut spans);
        let before = index.checked_sub(1).map(|before| &text[words[before].clone()]);
        option(text, word, before, &mut spans);
        user_and_password(text, &words[index..], before, &mut spans);
    }
    for (at, c) in text.char_indices() {
        match c {
            '=' => assignment(text, at, &mut spans),
            ':' if !text[at..].starts_with("://") => field(text, at, &mut spans),
            _ => {}
        }
    }
    spans.retain(|span| !span.is_empty());
    spans
}

/// Runs of characters that are neither whitespace nor quotes.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices() {
        if ends_word(c) {
            words.extend(start.take().map(|start| start..at));
        } else {
            start.get_or_insert(at);
        }
    }
    words.extend(start.map(|start| start..text.len()));
    words
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || is_quote(c)
}

fn is_quote(c: char) -> bool {
    matches!(c, '\'' | '"' | '`')
}

/// `scheme://user:password@host/token/value`, and `user:password@host` without a scheme.
fn address(text: &str, word: &Range<usize>, spans: &mut Vec<Range<usize>>) {
    let mut start = word.start;
    let Some(first) = text[word.clone()].find("://") else {
        return bare_user(text, word, spans);
    };
    let mut from = word.start + first;
    while text[from..word.end].starts_with("://") {
        start = start.max(from + 3);
        let next = text[start..word.end].find("://").map_or(word.end, |at| start + at);
        let rest = &text[start..next];
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        // A password may contain any of `@/?#`: the last `@` ends it, unless it belongs to the value of a parameter.
        let in_query = |at: &usize| rest[..*at].find('?').is_some_and(|query| rest[query..*at].contains('='));
        let end = rest.rmatch_indices('@').map(|(at, _)| at).find(|at| !in_query(at));
        if let Some(end) = end.filter(|_| authority.contains([':', '@'])) {
            spans.push(start..start + end);
        }
        path(rest, start, spans);
        from = next;
    }
}

fn bare_user(text: &str, word: &Range<usize>, spans: &mut Vec<Range<usize>>) {
    let inner = &text[word.clone()];
    let user = inner.rfind(['=', ',', '(', '[']).map_or(0, |at| at + 1);
    if let (Some(colon), Some(at)) = (inner[user..].find(':'), inner.rfind('@')) {
        let colon = user + colon;
        if user < colon && colon + 1 < at && !inner[user..at].contains('/') {
            spans.push(word.start + user..word.start + at);
        }
    }
}

/// `/password/value/` in a URL.
fn path(rest: &str, offset: usize, spans: &mut Vec<Range<usize>>) {
    let mut at = 0;
    let mut secret = false;
    for part in rest.split('/') {
        let end = part.find(['?', '#']).unwrap_or(part.len());
        let announces = (named(part) == NameKind::Secret || part == "pw") && !part.contains('=');
        if std::mem::replace(&mut secret, announces) {
            spans.push(offset + at..offset + at + end);
        }
        at += part.len() + 1;
    }
}

/// `name=value`, with the `=` at `at`.
fn assignment(text: &str, at: usize, spans: &mut Vec<Range<usize>>) {
    let name = name_before(text, at);
    let short = name == "p" && text[..at - 1].ends_with(['?', '&']);
    if short || named(name) != NameKind::Other {
        spans.push(value(text, at + 1, |c| c == '&' || ends_word(c)));
    }
}

/// `name: value`, with the `:` at `at`; the name may be in quotes.
fn field(text: &str, at: usize, spans: &mut Vec<Range<usize>>) {
    let before = text[..at].trim_end_matches(['\\', '"', '\'']);
    let name = name_before(before, before.len());
    if named(name) != NameKind::Secret {
        return;
    }
    let rest = &text[at + 1..];
    let start = at + 1 + (rest.len() - rest.trim_start_matches([' ', '\t', '\\']).len());
    // The value of a header is the rest of its line: "Basic dXNlcjpw", "a=1; b=2".
    let whole =
        ["auth", "cookie"].iter().any(|part| name.to_ascii_lowercase().contains(part)) || name.contains('-');
    // Inside quotes it may contain other quotes: "Digest username='a', response='b'".
    let opened = open_quote(&text[..at]).filter(|_| whole);
    let is_end = |c: char| opened.map_or_else(|| is_quote(c), |opened| c == opened);
    let span = value(text, start, |c| {
        matches!(c, '\r' | '\n') || is_end(c) || !whole && (c.is_whitespace() || ",}&".contains(c))
    });
    // Escaped line breaks (`\n` as two characters).
    let cut = ["\\r", "\\n"].iter().filter_map(|end| text[span.clone()].find(end)).min();
    spans.push(span.start..cut.map_or(span.end, |cut| span.start + cut));
}

/// The quote that is open at the end of `text`, if any: the innermost one.
fn open_quote(text: &str) -> Option<char> {
    let mut open: Vec<char> = Vec::new();
    for quote in text.chars().filter(|c| is_quote(*c)) {
        if open.last() == Some(&quote) {
            open.pop();
        } else {
            open.push(quote);
        }
    }
    open.pop()
}

/// `-u user password … rtsp://host`, as openRTSP takes them; `words` begins with the option, `before` is the word before it.
fn user_and_password(
    text: &str,
    words: &[Range<usize>],
    before: Option<&str>,
    spans: &mut Vec<Range<usize>>,
) {
    let [option, user, password, rest @ ..] = words else { return };
    let of = |word: &Range<usize>| &text[word.clone()];
    let is_value = |word| !of(word).starts_with('-') && !of(word).contains("://");
    // There it is the user to run a command as.
    let is_account =
        before.is_some_and(|before| ["sudo", "runuser", "doas"].iter().any(|name| before.ends_with(name)));
    let has_url = rest.iter().any(|word| of(word).contains("://"));
    if of(option) == "-u" && !is_account && is_value(user) && is_value(password) && has_url {
        let whole = |word: &Range<usize>| {
            let quoted = text[..word.start].ends_with(is_quote);
            value(text, word.start - usize::from(quoted), ends_word)
        };
        spans.extend([whole(user), whole(password)]);
    }
}

/// `-u user:password`, `--password value`; `before` is the word before this one.
fn option(text: &str, word: &Range<usize>, before: Option<&str>, spans: &mut Vec<Range<usize>>) {
    let inner = &text[word.clone()];
    let name = inner.trim_start_matches('-');
    if name.len() == inner.len() || inner.contains('=') {
        return;
    }
    let attached = word.start + 2..word.end;
    let ssh = before.is_some_and(|before| before.ends_with("sshpass"));
    if inner.starts_with("-u") && inner.contains(':') || ssh && inner.starts_with("-p") && name.len() > 1 {
        spans.push(attached);
        return;
    }
    let rest = &text[word.end..];
    let after = rest.strip_prefix(is_quote).unwrap_or(rest);
    let trimmed = after.trim_start();
    if trimmed.len() == after.len() {
        return;
    }
    let span = value(text, text.len() - trimmed.len(), ends_word);
    let given = &text[span.clone()];
    let secret = match name {
        "u" | "U" | "E" | "user" | "proxy-user" | "cert" | "proxy-cert" => given.contains(':'),
        // In other commands this option is a port, a size or a position on the screen.
        "p" => ssh || given.chars().any(char::is_alphabetic),
        // Short options in one word, the last of which takes a value: -su user:password.
        _ => {
            let is_bundled = is_bundle(inner) && given.contains(':') && !given.contains("://");
            is_bundled || named(name) != NameKind::Other
        }
    };
    if secret && !given.starts_with('-') {
        spans.push(span);
    }
}

/// `-su`, `-fsSku`, `-vE`: short options of which the last is followed by a user and a password, or by a certificate and its passphrase.
fn is_bundle(word: &str) -> bool {
    let letters = word.strip_prefix('-').unwrap_or_default();
    letters.len() > 1
        && letters.chars().all(|c| c.is_ascii_alphabetic())
        && letters.ends_with(['u', 'U', 'E'])
}

/// From `start` to the matching quote if there is one, otherwise to where `ends` says; a backslash escapes.
fn value(text: &str, start: usize, ends: impl Fn(char) -> bool) -> Range<usize> {
    let quote = text[start..].chars().next().filter(|c| is_quote(*c));
    let start = start + quote.map_or(0, char::len_utf8);
    let mut protected = false;
    for (at, c) in text[start..].char_indices() {
        let end = quote.map_or_else(|| ends(c), |quote| c == quote);
        if end && !(protected && c == ' ') {
            // An escaped quote ends it with its backslash.
            return start..start + at - usize::from(protected && is_quote(c));
        }
        protected = c == '\\' && !protected;
    }
    start..text.len()
}

fn name_before(text: &str, end: usize) -> &str {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = text[..end].trim_end_matches(is_name);
    &text[name.len()..end]
}

/// What a parameter's name says about its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NameKind {
    /// A secret in any position.
    Secret,
    /// Too common a word in prose; a secret only after `=` or as an option.
    Perhaps,
    Other,
}

fn named(name: &str) -> NameKind {
    let name: String =
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let contains = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let ends = |parts: &[&str]| parts.iter().any(|part| name.ends_with(part));
    if ends(&["file", "path", "folder", "dir"]) {
        return NameKind::Other; // The path of a secret, not the secret.
    }
    let secret = [
        "password",
        "passwd",
        "passwort",
        "passphrase",
        "passcode",
        "pwd",
        "secret",
        "token",
        "credential",
        "apikey",
        "accesskey",
        "privatekey",
        "signature",
        "loginpas",
        "authorization",
        "bearer",
        "cookie",
    ];
    let auth = name.starts_with("auth") && !name.starts_with("author");
    if contains(&secret) || ends(&["pass", "psw", "auth"]) || auth {
        NameKind::Secret
    } else if ends(&["key", "pw", "session", "sessionid"]) || matches!(&*name, "sig" | "sas" | "jwt" | "sid")
    {
        NameKind::Perhaps
    } else {
        NameKind::Other
    }
}

/// Words that contain a secret once their `%XX` are decoded: masked from the first of these characters on.
fn encoded(text: &str) -> Vec<Range<usize>> {
    let hides = |word: &Range<usize>| {
        let decoded = decoded(&text[word.clone()]);
        secrets(&decoded).iter().any(|span| &decoded[span.clone()] != MASK)
    };
    let all = words(text).into_iter().filter(|word| text[word.clone()].contains('%') && hides(word));
    all.filter_map(|word| Some(word.start + text[word.clone()].find('%')?..word.end)).collect()
}

fn decoded(word: &str) -> String {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |at: usize| char::from(*tail.get(at)?).to_digit(16);
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_of_secret_is_masked_and_the_rest_stays() {
        for (text, expect) in [
            ("ffmpeg -i rtsp://u:p@host/1 -", "ffmpeg -i rtsp://***@host/1 -"),
            ("rtsp://u:p@ss@host", "rtsp://***@host"),
            ("rtsp://u:p/s?s#s@host:554/1", "rtsp://***@host:554/1"),
            ("'http://u:p@h' and rtsp://a@b: refused", "'http://***@h' and rtsp://***@b: refused"),
            ("curl admin:pw@cam/snap.jpg", "curl ***@cam/snap.jpg"),
            ("http://h/snap?user=admin&pwd=x&ch=1", "http://h/snap?user=admin&pwd=***&ch=1"),
            ("http://h/cgi?loginuse=a&loginpas=x", "http://h/cgi?loginuse=a&loginpas=***"),
            ("http://h/?u=admin&p=x&q=3", "http://h/?u=admin&p=***&q=3"),
            ("http://h/?Auth=YWRt&X-Amz-Signature=ab/c", "http://h/?Auth=***&X-Amz-Signature=***"),
            (
                "rtsp://h:554/user=admin&password=x&channel=1",
                "rtsp://h:554/user=admin&password=***&channel=1",
            ),
            ("rtsp://h/user=admin_password=x_channel=1 -an", "rtsp://h/user=admin_password=*** -an"),
            ("http://h/token/x/snap.jpg", "http://h/token/***/snap.jpg"),
            ("http://h/?url=rtsp%3A%2F%2Fu%3Ap%40cam", "http://h/?url=rtsp***"),
            ("curl -u admin:x http://h", "curl -u *** http://h"),
            ("curl -uadmin:x http://h", "curl -u*** http://h"),
            ("curl --user 'admin:my word' http://h", "curl --user '***' http://h"),
            ("sh -c 'curl \"-u\" \"a:b\" h'", "sh -c 'curl \"-u\" \"***\" h'"),
            ("x --password x --rtsp_pass y -size 3", "x --password *** --rtsp_pass *** -size 3"),
            ("x --password=x PASSWORD=\"a b\" y", "x --password=*** PASSWORD=\"***\" y"),
            ("curl -fsSku admin:x http://h", "curl -fsSku *** http://h"),
            ("curl -E c.pem:x --cert c.pem:x http://h", "curl -E *** --cert *** http://h"),
            ("curl --oauth2-bearer x http://h", "curl --oauth2-bearer *** http://h"),
            ("openRTSP -u admin x rtsp://h/1", "openRTSP -u *** *** rtsp://h/1"),
            ("openRTSP -u admin 'x y' -t rtsp://h/1", "openRTSP -u *** '***' -t rtsp://h/1"),
            ("x -PASSPHRASE y", "x -PASSPHRASE ***"),
            ("http://h/user/admin/pw/x/1.jpg", "http://h/user/admin/pw/***/1.jpg"),
            ("curl -H \"Authorization: Digest a='x', b='y'\" h", "curl -H \"Authorization: ***\" h"),
            ("sh -c 'curl -H \"Authorization: x\" h'", "sh -c 'curl -H \"Authorization: ***\" h'"),
            ("sshpass -p 1234 ssh cam; sshpass -p1234 ssh", "sshpass -p *** ssh cam; sshpass -p*** ssh"),
            ("mysql -p secret", "mysql -p ***"),
            ("gst rtspsrc user-id=a user-pw=x ! y", "gst rtspsrc user-id=a user-pw=*** ! y"),
            ("curl -H 'Authorization: Basic YWRt' h", "curl -H 'Authorization: ***' h"),
            ("ffmpeg -headers \"X-Api-Key: x y\\r\\nA: b\"", "ffmpeg -headers \"X-Api-Key: ***\\r\\nA: b\""),
            ("> Authorization: Basic YWRt\n> Host: h", "> Authorization: ***\n> Host: h"),
            ("-d {\"password\": \"x\", \"a\": 1}", "-d {\"password\": \"***\", \"a\": 1}"),
            (r#"-d "{\"password\":\"x\",\"a\":1}""#, r#"-d "{\"password\":\"***\",\"a\":1}""#),
        ] {
            assert_eq!(masked(text), expect, "{text}");
        }
    }

    #[test]
    fn text_without_secrets_is_unchanged() {
        for text in [
            "",
            "://",
            "plain a@b",
            "http://host/a@b",
            "http://host:8080/x?mail=a@b&ch=1",
            "file:/data/u:p/a@b.mjpeg",
            "ffmpeg -v error -rtsp_transport tcp -i rtsp://h:554/ch=1&stream=0.sdp -f yuv4mpegpipe -pix_fmt yuv420p -",
            "rpicam-vid -t 0 --codec mjpeg -p 0,0,640,480 --width 640 -o -",
            "sh -c 'cat a.y4m | sed s:x:y:'",
            "x264-params keyint=50:min-keyint=1 -preset fast --token-file /etc/t",
            "401 Unauthorized: check the camera",
            "sim:7,day,clear",
            "sudo -u camera ffmpeg -i rtsp://h/1",
            "sudo -u camera ffplay rtsp://h/1",
            "ffmpeg -nostats -gpu any -i http://h:80/u",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    /// Characters that a password may contain where it is unquoted; both ends are marked, so that a leftover part is noticed.
    fn secret(characters: &str) -> impl Strategy<Value = String> + use<> {
        let set: Vec<char> = ('a'..='z').chain('0'..='9').chain(characters.chars()).collect();
        proptest::collection::vec(proptest::sample::select(set), 0..12)
            .prop_map(|middle| format!("ZQ{}ZQ", middle.into_iter().collect::<String>()))
    }

    /// Positions of secrets: the text before, the characters allowed beside letters and digits, the text after.
    const PLACES: &[(&str, &str, &str)] = &[
        ("exec:ffmpeg -i rtsp://admin:", "@/#:!$*+,;~^.-_%", "@cam.example:554/live -an"),
        ("http://cam.example/snap.cgi?user=admin&pwd=", "@/?#:!$*+,;~^.-_%=", "&channel=1 -an"),
        ("rtsp://cam.example/user=admin&password=", "@/?#:!$*+,;~^.-_%", "&channel=1 -an"),
        ("http://cam.example/password/", "!$*+,;~^.-_", "/snap.jpg -an"),
        ("curl -s -u admin:", "@/?#:!$*+,;~^.-_%&=", " -an"),
        ("curl -fsSku admin:", "@/?#:!$*+,;~^.-_%&=", " -an"),
        ("curl --cert c.pem:", "@/?#:!$*+,;~^.-_%&=", " -an"),
        ("curl --oauth2-bearer ", "@/?#:!$*+,;~^.-_%&=", " -an"),
        ("openRTSP -u admin ", "@?#:!$*+,;~^.-_%&=", " rtsp://cam.example/1 -an"),
        ("curl -s -H \"Authorization: Digest response='", "@/?#:!$*+,;~^.-_%&= ", "\" -an"),
        ("curl -s --user 'admin:", "@/?#:!$*+,;~^.-_%&= ", "' -an"),
        ("program --camera-password ", "@/?#:!$*+,;~^.-_%&=", " -an"),
        ("program --token=", "@/?#:!$*+,;~^.-_%=", " -an"),
        ("curl -s -H 'Authorization: Bearer ", "@/?#:!$*+,;~^.-_%&= ", "' -an"),
        ("curl -s -H \"Cookie: session=", "@/?#:!$*+,;~^.-_%&= ", "\" -an"),
        ("program {\"secret\":\"", "@/?#:!$*+,;~^.-_%&= ", "\"} -an"),
    ];

    proptest! {
        #[test]
        fn no_part_of_a_secret_is_shown(
            (place, secret) in proptest::sample::select(PLACES).prop_flat_map(|place| (Just(place), secret(place.1))),
        ) {
            let (before, _, after) = place;
            let shown = masked(&format!("{before}{secret}{after}")).into_owned();
            prop_assert!(!shown.contains("ZQ"), "{secret}: {shown}");
            // The surrounding text stays, except for a user's name and the scheme of a header.
            let user = ["admin:", "admin ", "c.pem:", "Bearer ", "session=", "Digest response='"];
            let kept = user.iter().find_map(|user| before.strip_suffix(user)).unwrap_or(before);
            prop_assert!(shown.starts_with(kept), "{secret}: {shown}");
            prop_assert!(shown.ends_with(after), "{secret}: {shown}");
            prop_assert_eq!(masked(&shown), shown.as_str(), "masked twice is masked once");
        }

        #[test]
        fn any_text_is_masked_without_harm(text in "(\\PC|[:@/?=&%'\"\\\\ -]){0,60}") {
            let once = masked(&text).into_owned();
            prop_assert!(once.len() <= text.len() + 3 * text.len());
            let _twice = masked(&once);
        }
    }
}
