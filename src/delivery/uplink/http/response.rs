//! Interprets a response: the batch is confirmed, or the remedy. Pure.
//!
//! A 2xx confirms (InfluxDB: a 204). Its body only counts against it if it shows that something other than a receiver of events responded:
//! a web page (the login page of a guest or mobile network responds with 200 to everything), or JSON that reports a failure. A body that
//! merely cannot be parsed confirms: a receiver that has stored the batch must not get it for ever. Only HTTP framing can show that a
//! response was cut short.
//!
//! Of the other statuses only [`REFUSALS`] are about the events. All others are about the account, the URL, the proxy or a temporary state,
//! so the events are kept.

use std::io::Read;
use std::time::Duration;

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::base::limits::REPLY_BYTES_MAX;
use crate::delivery::uplink::format::Format;
use crate::delivery::uplink::session::Failure;

/// Statuses by which a receiver refuses the contents: 400 Bad Request, 422 Unprocessable Content.
pub(super) const REFUSALS: [u16; 2] = [400, 422];

/// After this many truncated 2xx responses in a row to the same batch, it counts as confirmed: a server with a wrong `Content-Length` must
/// not get it for ever.
pub(super) const CUT_RESPONSES_MAX: u32 = 3;

/// Texts in an `error` field that do not report an error.
const NO_ERROR: [&str; 10] = ["", "0", "none", "null", "nil", "no", "false", "ok", "success", "no error"];

/// Fields that servers use to report a failure, see [`field_fails`].
const FIELDS: [&str; 9] =
    ["error", "errors", "errorMessage", "success", "ok", "status", "result", "statusCode", "code"];

/// First tags of a web page, in lower case, without the `<`.
const PAGE_TAGS: [&str; 14] = [
    "!doctype html",
    "html",
    "head",
    "body",
    "title",
    "meta",
    "script",
    "frameset",
    "iframe",
    "center",
    "div",
    "form",
    "h1",
    "wispaccessgatewayparam",
];

/// A web page is looked for in this many bytes.
const PAGE_START_BYTES: usize = 2048;

/// A response.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReceiverResponse<'a> {
    pub(super) status: u16,
    /// Its content type, unchanged.
    pub(super) content_type: &'a str,
    /// Its body, up to [`REPLY_BYTES_MAX`].
    pub(super) body: &'a [u8],
    /// It ended before its framing said so.
    pub(super) cut: bool,
}

/// Interpretation of a 2xx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// The receiver has the batch.
    Yes,
    /// The missing part may report a failure.
    Cut,
    /// It did not come from a receiver of events; why, and the remedy.
    No(&'static str),
}

/// Interprets a 2xx.
pub(super) fn confirmation(response: &ReceiverResponse<'_>, format: Format) -> Confirmation {
    let unpacked = gunzip(response.body);
    let body = unpacked.as_deref().unwrap_or(response.body);
    let content_type = response.content_type.to_ascii_lowercase();
    let is_json = content_type.contains("json");
    let is_page = content_type.contains("html");
    if looks_like_a_page(body, is_page) {
        return Confirmation::No(
            "a web page responds, not a receiver of events: does the network require a login (mobile network, guest network)?",
        );
    }
    if format.needs_time() && response.status != 204 {
        return Confirmation::No("InfluxDB would respond with 204: check which program responds there");
    }
    let body = without_bom(body);
    if (is_json || body.starts_with(b"{") || body.starts_with(b"[")) && reports_failure(body) {
        return Confirmation::No("it responds with success but reports a failure: see its log");
    }
    // Over TLS many servers close without notice: a complete response is not truncated.
    let whole = || is_json && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
    if response.cut && (is_json || is_page) && !whole() { Confirmation::Cut } else { Confirmation::Yes }
}

/// Decompresses a gzip body, up to the limit. We do not request it, but some servers compress everything they send.
fn gunzip(body: &[u8]) -> Option<Vec<u8>> {
    if !body.starts_with(&[0x1f, 0x8b]) {
        return None;
    }
    let mut out = Vec::new();
    // The bytes before damage, or before our own limit, are used.
    let _ended = GzDecoder::new(body).take(REPLY_BYTES_MAX).read_to_end(&mut out);
    Some(out)
}

fn without_bom(body: &[u8]) -> &[u8] {
    let body = body.trim_ascii_start();
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start()
}

/// Whether it begins like a web page; `declared`: its content type says so, and any markup is enough.
fn looks_like_a_page(body: &[u8], declared: bool) -> bool {
    // UTF-16 is ASCII with zeros in between, after a byte order mark of two bytes.
    let wide = body.strip_prefix(b"\xff\xfe").or_else(|| body.strip_prefix(b"\xfe\xff")).unwrap_or(body);
    let start: Vec<u8> = wide.iter().copied().filter(|byte| *byte != 0).take(PAGE_START_BYTES).collect();
    let mut text = without_bom(&start);
    loop {
        let behind = [(&b"<?"[..], &b"?>"[..]), (b"<!--", b"-->")].iter().find_map(|(open, close)| {
            let inside = text.strip_prefix(*open)?;
            let end = inside.windows(close.len()).position(|window| window == *close)?;
            Some(inside[end + close.len()..].trim_ascii_start())
        });
        match behind {
            Some(behind) => text = behind,
            None => break,
        }
    }
    let Some(tag) = text.strip_prefix(b"<") else { return false };
    let is_tag = |name: &&str| {
        let ends = tag.get(name.len()).is_none_or(|byte| !byte.is_ascii_alphanumeric());
        ends && tag.get(..name.len()).is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    };
    declared || PAGE_TAGS.iter().any(is_tag)
}

/// Whether JSON reports a failure in one of the fields that servers use for it.
fn reports_failure(body: &[u8]) -> bool {
    for value in serde_json::Deserializer::from_slice(body).into_iter::<Value>() {
        match value {
            Ok(Value::Object(fields)) if fields.iter().any(|(key, value)| field_fails(key, value)) => {
                return true;
            }
            Ok(_) => {}
            // Truncated, or not JSON (NaN, a prefix against script inclusion): the fields are looked for one by one.
            Err(_) => return scan(body),
        }
    }
    false
}

/// [`reports_failure`] for text that is not valid JSON as a whole.
fn scan(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    text.match_indices('"').any(|(at, _)| {
        let Some((key, behind)) = text[at + 1..].split_once('"') else { return false };
        if !FIELDS.iter().any(|name| key.eq_ignore_ascii_case(name)) {
            return false;
        }
        let Some(value) = behind.trim_ascii_start().strip_prefix(':') else { return false };
        let value = value.trim_ascii_start();
        match serde_json::Deserializer::from_str(value).into_iter::<Value>().next() {
            Some(Ok(value)) => field_fails(key, &value),
            // It begins and does not end.
            Some(Err(_)) => value.len() > 1 && value.starts_with(['"', '{', '[']) && names_an_error(key),
            None => false,
        }
    })
}

fn names_an_error(key: &str) -> bool {
    ["error", "errors", "errorMessage"].iter().any(|name| key.eq_ignore_ascii_case(name))
}

fn field_fails(key: &str, value: &Value) -> bool {
    let is = |names: &[&str]| names.iter().any(|name| key.eq_ignore_ascii_case(name));
    if names_an_error(key) {
        return match value {
            Value::Null => false,
            Value::Bool(flag) => *flag,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !NO_ERROR.iter().any(|none| text.trim().eq_ignore_ascii_case(none)),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
        };
    }
    if is(&["success", "ok"]) {
        return match value {
            Value::Bool(flag) => !flag,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => ["false", "0", "no"].iter().any(|no| text.eq_ignore_ascii_case(no)),
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        };
    }
    let failed = ["error", "fail", "failed", "failure"];
    match value {
        Value::String(text) if is(&["status", "result"]) => {
            failed.iter().any(|word| text.eq_ignore_ascii_case(word))
        }
        Value::Number(code) if is(&["status", "statusCode", "code"]) => {
            code.as_u64().is_some_and(|code| (400..600).contains(&code))
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => false,
    }
}

/// What was sent, as far as a refusal may be about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) format: Format,
    pub(super) gzip: bool,
}

/// The meaning of a status other than 2xx for the batch, and the remedy. `hint`: the start of its body, in lower case.
pub(super) fn refusal(
    status: u16,
    after: Option<Duration>,
    sent: Sent,
    hint: &str,
) -> (Failure, &'static str) {
    let wrong = |remedy| (Failure::Misconfigured, remedy);
    match status {
        // nginx reports like this that it requires a certificate from us, another one, or TLS.
        400 | 403 | 495 | 496 if hint.contains("certificate") => {
            wrong("it requires a certificate of this device: check uplink.client_cert_file")
        }
        495 | 496 => wrong("it requires a certificate of this device: check uplink.client_cert_file"),
        400 | 497 if status == 497 || hint.contains("http request was sent to https") => {
            wrong("that port requires TLS: write https:// in the URL")
        }
        _ if REFUSALS.contains(&status) => {
            (Failure::Refused, "the receiver does not accept this: see its log")
        }
        413 if after.is_none() => {
            (Failure::TooLarge, "too large for the receiver: smaller batches are tried")
        }
        // 409, for an Idempotency-Key: the same batch is being processed.
        408 | 409 | 413 | 423 | 424 | 425 | 429 | 449 => {
            (Failure::Retry { after }, "the receiver asks us to wait")
        }
        401 | 403 | 498 => wrong("check the token in token_file and its permissions"),
        402 => wrong("the account there is over its limit or not paid"),
        404 => wrong("nothing accepts events there: check the path of the URL"),
        405 | 410 | 421 => wrong("nothing accepts events there: check host, port and path of the URL"),
        406 | 415 => wrong(content_remedy(sent)),
        407 => wrong("a proxy in between requires a login: allow this device to pass"),
        414 | 431 | 494 => wrong("the URL or the token is too long for it: check both"),
        426 => wrong("it requires another protocol: try https:// in the URL"),
        451 => wrong("it is blocked for legal reasons: ask the operators of the network and the receiver"),
        511 => wrong("the network requires a login (mobile network, guest network)"),
        300..400 => wrong("redirects are not followed: set the URL to the final address"),
        400..500 => wrong("the status is not about the events: check which program responds at that URL"),
        _ => {
            (Failure::Retry { after }, "the receiver or a gateway in front of it has a problem: see its log")
        }
    }
}

fn content_remedy(sent: Sent) -> &'static str {
    match (sent.gzip, sent.format) {
        (true, Format::CloudEvents) => {
            "it does not accept gzip or CloudEvents in JSON: try uplink.gzip = false, else check which program responds there"
        }
        (true, Format::Packed | Format::Packed2 | Format::Packed3) => {
            "it does not accept gzip or postcard: try uplink.gzip = false, else check uplink.format"
        }
        (true, Format::Influx1 | Format::Influx2) => {
            "it does not accept gzip or line protocol: try uplink.gzip = false, else check uplink.format"
        }
        (false, Format::CloudEvents) => {
            "it does not accept batches of CloudEvents in JSON: check which program responds there, and uplink.format"
        }
        (false, Format::Packed | Format::Packed2 | Format::Packed3) => {
            "it does not accept postcard: check which program responds there, and uplink.format"
        }
        (false, Format::Influx1 | Format::Influx2) => {
            "it does not accept line protocol: check which program responds there, and uplink.format"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn says(content_type: &str, body: &[u8]) -> Confirmation {
        confirmation(&ReceiverResponse { status: 200, content_type, body, cut: false }, Format::CloudEvents)
    }

    fn packed(text: &str) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn a_body_that_is_not_json_confirms() {
        for body in [
            "",
            "ok",
            "\u{feff}{}",
            "\u{feff}{\"accepted\":7}",
            "NaN",
            "{\"load\":NaN}",
            "{\"a\":1}{\"b\":2}",
            "{\"a\":1}\n{\"error\":null}\n",
            ")]}',\n{\"a\":1}",
            "{\"accepted\":7",
            "[",
            "{\"error\":null}",
            "{\"error\":\"0\"}",
            "{\"error\":\"None\"}",
            "{\"error\":0}",
            "{\"errors\":false,\"items\":[]}",
            "{\"errors\":[]}",
            "{\"error\":\"\"}",
            "{\"success\":true,\"status\":\"ok\",\"code\":200}",
            "{\"success\":7,\"failed\":0}",
            "{\"status\":202}",
            "{\"items\":[{\"status\":\"error\"}]}",
        ] {
            assert_eq!(says("application/json", body.as_bytes()), Confirmation::Yes, "{body}");
        }
        assert_eq!(says("application/json", &packed("{\"accepted\":7}")), Confirmation::Yes);
        assert_eq!(says("application/json", b"\x1f\x8b broken"), Confirmation::Yes);
    }

    #[test]
    fn json_that_reports_a_failure_is_not_a_confirmation() {
        for body in [
            "{\"error\":\"disk full\"}",
            "\u{feff}{\"error\":\"disk full\"}",
            "{\"Error\":{\"code\":7}}",
            "{\"errors\":true}",
            "{\"errors\":[{}]}",
            "{\"errorMessage\":\"timed out\",\"errorType\":\"X\"}",
            "{\"success\":false}",
            "{\"Success\":\"False\"}",
            "{\"ok\":0}",
            "{\"status\":\"error\"}",
            "{\"status\":\"FAIL\",\"data\":null}",
            "{\"result\":\"failed\"}",
            "{\"statusCode\":502,\"body\":\"\"}",
            "{\"a\":1}\n{\"success\":false}",
            ")]}',\n{\"success\":false}",
            "{\"load\":NaN,\"error\":\"disk full\"}",
            "{\"error\":\"disk",
            "{\"error\": {\"code\"",
        ] {
            for kind in ["application/json", "application/problem+json; charset=utf-8"] {
                assert!(matches!(says(kind, body.as_bytes()), Confirmation::No(_)), "{body}");
            }
        }
        assert!(matches!(says("text/plain", b" {\"success\": false}"), Confirmation::No(_)));
        assert!(matches!(says("", b"{\"status\":\"error\"}"), Confirmation::No(_)));
        assert!(matches!(says("", &packed("{\"error\":\"disk full\"}")), Confirmation::No(_)));
        // Truncated by our own limit.
        let long = format!("{{\"items\":[{}1],\"errors\":true}}", "1,".repeat(40_000));
        let body = &long.as_bytes()[..REPLY_BYTES_MAX as usize];
        assert_eq!(says("application/json", body), Confirmation::Yes, "its end was not read");
        let long = format!("{{\"errors\":true,\"items\":[{}1]}}", "1,".repeat(40_000));
        let body = &long.as_bytes()[..REPLY_BYTES_MAX as usize];
        assert!(matches!(says("application/json", body), Confirmation::No(_)));
        let deep = "[".repeat(REPLY_BYTES_MAX as usize);
        assert_eq!(says("application/json", deep.as_bytes()), Confirmation::Yes);
    }

    #[test]
    fn a_web_page_is_not_a_receiver_whatever_its_content_type() {
        let wide: Vec<u8> =
            [0xff, 0xfe].into_iter().chain("<html>".encode_utf16().flat_map(u16::to_le_bytes)).collect();
        for body in [
            &b"<!doctype html><title>Welcome</title>"[..],
            b"\n\n <!DOCTYPE HTML PUBLIC>",
            b"<html><head>",
            b"<HTML>",
            b"\xef\xbb\xbf<html>",
            b"<?xml version=\"1.0\"?>\n<!DOCTYPE html>",
            b"<!-- portal --> <!-- 2 --><html>",
            b"<script>location='http://login/'</script>",
            b"<meta http-equiv=refresh>",
            &packed("<html>login</html>"),
            &wide,
        ] {
            for kind in ["", "text/plain", "text/html", "application/xhtml+xml", "application/json"] {
                assert!(matches!(says(kind, body), Confirmation::No(_)), "{kind} {body:?}");
            }
        }
        assert!(matches!(says("text/html; charset=utf-8", b"<p>Login"), Confirmation::No(_)));
        for (kind, body) in [
            ("text/html", &b""[..]),
            ("text/html", b"OK"),
            ("text/html", b"{\"accepted\":7}"),
            ("application/xml", b"<?xml version=\"1.0\"?><response status=\"ok\"/>"),
            ("", b"<headers/>"),
            ("text/plain", b"<ok>"),
        ] {
            assert_eq!(says(kind, body), Confirmation::Yes, "{kind} {body:?}");
        }
    }

    #[test]
    fn only_the_framing_shows_that_a_response_was_truncated() {
        let cut = |content_type, body: &'static [u8]| {
            confirmation(
                &ReceiverResponse { status: 200, content_type, body, cut: true },
                Format::CloudEvents,
            )
        };
        assert_eq!(cut("application/json", b"{\"accepted\":7"), Confirmation::Cut);
        assert_eq!(cut("application/json", b"{\"accepted\":7}"), Confirmation::Yes);
        assert_eq!(cut("text/html", b""), Confirmation::Cut);
        assert_eq!(cut("", b"{\"accepted\":7"), Confirmation::Yes);
        assert!(matches!(cut("application/json", b"{\"error\":\"disk"), Confirmation::No(_)));
    }

    #[test]
    fn influx_confirms_by_204_alone() {
        let says = |status| {
            confirmation(
                &ReceiverResponse { status, content_type: "", body: b"", cut: false },
                Format::Influx1,
            )
        };
        assert_eq!(says(204), Confirmation::Yes);
        assert!(matches!(says(200), Confirmation::No(_)));
    }

    fn refused(status: u16, after: Option<Duration>) -> Failure {
        refusal(status, after, Sent { format: Format::CloudEvents, gzip: false }, "").0
    }

    /// Every status other than 2xx: only 400 and 422 give events up, only 413 makes batches smaller.
    #[test]
    fn the_status_decides_what_happens_to_a_batch() {
        let after = Some(Duration::from_secs(7));
        for status in (100..1000).filter(|status| !(200..300).contains(status)) {
            let failure = refused(status, None);
            assert_eq!(failure == Failure::Refused, [400, 422].contains(&status), "{status}");
            assert_eq!(failure == Failure::TooLarge, status == 413, "{status}");
        }
        for status in [100, 408, 409, 413, 423, 424, 425, 429, 500, 502, 503, 504, 599, 600] {
            assert_eq!(refused(status, after), Failure::Retry { after }, "{status}");
        }
        for status in [
            300, 301, 302, 304, 307, 308, 399, 401, 402, 403, 404, 405, 406, 407, 410, 411, 412, 414, 415,
            416, 417, 418, 421, 426, 428, 431, 451, 494, 495, 496, 497, 499, 511,
        ] {
            assert_eq!(refused(status, after), Failure::Misconfigured, "{status}");
        }
    }

    #[test]
    fn remedies_name_what_was_sent() {
        let remedy = |status, gzip, format, hint| refusal(status, None, Sent { format, gzip }, hint).1;
        assert!(remedy(415, true, Format::CloudEvents, "").contains("uplink.gzip = false"));
        assert!(!remedy(415, false, Format::CloudEvents, "").contains("gzip"));
        assert!(remedy(415, false, Format::Packed, "").contains("postcard"));
        assert!(remedy(415, true, Format::Influx2, "").contains("line protocol"));
        let nginx = "<html> 400 the plain http request was sent to https port";
        assert!(remedy(400, false, Format::CloudEvents, nginx).contains("https://"));
        let nginx = "400 no required ssl certificate was sent";
        assert!(remedy(400, false, Format::CloudEvents, nginx).contains("client_cert_file"));
    }
}
