//! HTTP and HTTPS: one POST a batch. The only file that names `ureq`, whose defaults are not ours.
//!
//! Every phase has a deadline, and so has the whole; no proxy is taken from the environment; a redirect is an answer, not
//! an instruction; a pooled connection is thrown away before a firewall forgets it; of an answer's body at most
//! [`REPLY_BYTES_MAX`] are read. The bearer token comes from a file, is read again after a 401 or 403, and is never shown.
//!
//! TLS: rustls with the root certificates of the `webpki-roots` crate (Mozilla's, as of the build), ureq's default. The
//! system's own roots are not looked at: a read-only image rarely has current ones, and a private CA has no switch yet.
//!
//! A 2xx is the confirmation: once its head is there the batch is delivered, whatever becomes of the answer's body. Never
//! retries by itself: that is the session's decision.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{HeaderValue, Response, Uri, header};

use crate::error::{Error, Kind, Result};
use crate::limits::REPLY_BYTES_MAX;
use crate::uplink::format::cloudevents;
use crate::uplink::session::Failure;
use crate::uplink::{Batch, SendError, Sink};

/// Longest token file, bytes. JSON web tokens with many claims have about 2000.
const TOKEN_BYTES_MAX: u64 = 8 << 10;

/// Characters of an answer's body that an error shows.
const HINT_CHARS_MAX: usize = 120;

/// How long each phase of a send may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Looking the host up.
    pub resolve: Duration,
    /// Connecting, TLS included.
    pub connect: Duration,
    /// Sending the head of the request.
    pub send_request: Duration,
    /// Sending the body: a full batch of about 500 kB over a bad mobile link.
    pub send_body: Duration,
    /// From the end of the request to the end of the answer's head.
    pub response: Duration,
    /// Receiving the answer's body, which nobody needs.
    pub reply_body: Duration,
    /// All of it.
    pub whole: Duration,
    /// How long an idle connection is used again. Mobile carriers and firewalls forget one silently after minutes, many
    /// servers close after 5 to 60 s.
    pub idle: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            resolve: Duration::from_secs(10),
            connect: Duration::from_secs(15),
            send_request: Duration::from_secs(10),
            send_body: Duration::from_secs(60),
            response: Duration::from_secs(30),
            reply_body: Duration::from_secs(5),
            whole: Duration::from_secs(90),
            idle: Duration::from_secs(15),
        }
    }
}

/// Where to send and with what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpParams {
    /// `http://` or `https://`, with no user in it.
    pub url: String,
    /// A file whose text is sent as the bearer token.
    pub token_file: Option<PathBuf>,
    /// The deadlines.
    pub deadlines: Deadlines,
}

/// Posts batches as CloudEvents to a URL.
pub struct HttpSink {
    agent: ureq::Agent,
    uri: Uri,
    /// The URL without its query.
    name: String,
    token_file: Option<PathBuf>,
    /// `Bearer …`; `None`: none is configured, or it must be read again.
    authorization: Option<HeaderValue>,
    whole: Duration,
    body: Vec<u8>,
    reply: Vec<u8>,
}

impl HttpSink {
    /// Checks the URL and reads the token. Connects to nothing.
    ///
    /// # Errors
    /// [`Kind::Config`], with the remedy: a scheme that is not HTTP, no host, a user or password in the URL, a token file
    /// that cannot be read or is no token.
    pub fn new(params: HttpParams) -> Result<Self> {
        let HttpParams { url, token_file, deadlines } = params;
        let uri = checked(&url).map_err(|problem| {
            Error::fatal(Kind::Config, format!("uplink URL '{}': {problem}", redacted(&url)))
        })?;
        let authorization = match &token_file {
            Some(path) => Some(read_token(path).map_err(|text| Error::fatal(Kind::Config, text))?),
            None => None,
        };
        let query = if uri.query().is_some() { "?…" } else { "" };
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let name = format!("{scheme}://{authority}{}{query}", uri.path());
        if authorization.is_some() && scheme == "http" && !is_loopback(&uri) {
            tracing::warn!("the token for {name} travels unencrypted: use https://");
        }
        Ok(HttpSink {
            agent: agent(&deadlines),
            uri,
            name,
            token_file,
            authorization,
            whole: deadlines.whole,
            body: Vec::new(),
            reply: Vec::with_capacity(REPLY_BYTES_MAX as usize),
        })
    }

    fn post(&mut self, batch: &Batch<'_>) -> Result<Response<ureq::Body>, SendError> {
        if let (Some(path), None) = (&self.token_file, &self.authorization) {
            self.authorization = Some(read_token(path).map_err(SendError::misconfigured)?);
        }
        cloudevents::write_batch(batch, &mut self.body);
        let mut request = self
            .agent
            .post(&self.uri)
            .header(header::CONTENT_TYPE, cloudevents::CONTENT_TYPE)
            .header("Idempotency-Key", batch.id().to_string());
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.config().timeout_global(Some(self.whole)).build();
        request.send(&self.body[..]).map_err(|error| {
            let remedy = remedy_for(&error);
            SendError::retry(format!("POST {}: {error}: {remedy}", self.name))
        })
    }

    /// The error of an answer that is not a 2xx.
    fn refusal(&mut self, mut response: Response<ureq::Body>) -> SendError {
        let status = response.status();
        self.read_reply(response.body_mut());
        let hint = hint(&self.reply);
        let text = |name: &str, remedy: &str| {
            let quote = if hint.is_empty() { String::new() } else { format!(" '{hint}'") };
            format!("POST {name}: {status}{quote}: {remedy}")
        };
        let after = response.headers().get(header::RETRY_AFTER).and_then(retry_after);
        let (failure, remedy) = classify(status.as_u16(), after);
        if matches!(status.as_u16(), 401 | 403) && self.token_file.is_some() {
            self.authorization = None; // It may have been renewed: read it again before the next try.
        }
        let text = match response.headers().get(header::LOCATION).filter(|_| status.is_redirection()) {
            Some(to) => {
                let to = redacted(&hint_of(String::from_utf8_lossy(to.as_bytes()).chars()));
                text(&self.name, &format!("{remedy} (it points to {to})"))
            }
            None => text(&self.name, remedy),
        };
        SendError { failure, status: Some(status.as_u16()), text }
    }

    /// Reads the answer's body up to the limit and leaves the rest: the connection is used again only if nothing was left.
    fn read_reply(&mut self, body: &mut ureq::Body) {
        self.reply.clear();
        let mut limited = body.as_reader().take(REPLY_BYTES_MAX);
        if let Err(error) = limited.read_to_end(&mut self.reply) {
            tracing::debug!("the answer of {} ended early: {error}", self.name);
        }
    }
}

impl Sink for HttpSink {
    fn send(&mut self, batch: &Batch<'_>) -> Result<(), SendError> {
        let mut response = self.post(batch)?;
        if response.status().is_success() {
            self.read_reply(response.body_mut());
            return Ok(());
        }
        Err(self.refusal(response))
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn reserve(&mut self, events: usize) {
        self.body.reserve(events * cloudevents::EVENT_BYTES);
    }

    fn hurry(&mut self, longest: Duration) {
        self.whole = self.whole.min(longest);
    }
}

/// The client, every option said out loud.
fn agent(deadlines: &Deadlines) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_resolve(Some(deadlines.resolve))
        .timeout_connect(Some(deadlines.connect))
        .timeout_send_request(Some(deadlines.send_request))
        .timeout_await_100(Some(deadlines.send_request)) // We never ask for a 100; should that change, it has an end.
        .timeout_send_body(Some(deadlines.send_body))
        .timeout_recv_response(Some(deadlines.response))
        .timeout_recv_body(Some(deadlines.reply_body))
        .timeout_per_call(Some(deadlines.whole))
        .timeout_global(Some(deadlines.whole))
        .max_idle_age(deadlines.idle)
        .max_idle_connections(1)
        .max_idle_connections_per_host(1)
        .max_redirects(0)
        .max_response_header_size(16 << 10)
        .no_delay(true)
        .proxy(None)
        .http_status_as_error(false)
        .user_agent(concat!("flytrap/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

/// What a status that is not a 2xx means for the batch, and the remedy. Unknown 4xx count as refused: they are an answer to
/// what was sent, not to when. What any batch would meet at that URL is a matter of configuration.
fn classify(status: u16, after: Option<Duration>) -> (Failure, &'static str) {
    match status {
        401 | 403 => (Failure::Misconfigured, "check the token in token_file and what it may do"),
        404 => (Failure::Misconfigured, "nothing takes events there: check the path of the URL"),
        300..400 => (Failure::Misconfigured, "redirects are not followed: set the URL to the final place"),
        405 | 410 => {
            (Failure::Misconfigured, "nothing takes events there: check host, port and path of the URL")
        }
        406 | 415 => (
            Failure::Misconfigured,
            "it does not take batches of CloudEvents in JSON: check what answers there",
        ),
        407 => (Failure::Misconfigured, "a proxy in between wants a login: open the way for this device"),
        408 | 425 | 429 => (Failure::Retry { after }, "the receiver asks for patience"),
        413 => (Failure::TooLarge, "too large for the receiver: smaller batches are tried"),
        400..500 => (Failure::Refused, "the receiver does not take this: see its log"),
        _ => (Failure::Retry { after }, "the receiver or a gateway before it is in trouble: see its log"),
    }
}

/// The seconds of a `Retry-After`. Its other form, a date, needs a calendar that we may not have, and is ignored.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

/// What to look at after an error of the client.
#[allow(clippy::wildcard_enum_match_arm, reason = "ureq's errors are open-ended")]
fn remedy_for(error: &ureq::Error) -> &'static str {
    match error {
        ureq::Error::HostNotFound => "check the host's name and this device's DNS",
        ureq::Error::Timeout(ureq::Timeout::Resolve) => "check this device's DNS",
        ureq::Error::Timeout(ureq::Timeout::Connect) => "check the link, the port and the firewalls",
        ureq::Error::Timeout(_) => "the link or the receiver is too slow",
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
            "check the receiver's certificate, and this device's calendar"
        }
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => {
            "no HTTP/1.1 server answers there: check the port"
        }
        _ => "check the link and whether the receiver runs",
    }
}

/// The URL if it can be used, else what is wrong and the remedy. Shows nothing of the URL.
fn checked(url: &str) -> Result<Uri, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "not a URL: write it like https://host:port/path")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("use http:// or https://");
    }
    let authority = uri.authority().ok_or("it names no host")?;
    if authority.as_str().contains('@') {
        return Err("a user or password does not belong in a URL: put the token into a file, see token_file");
    }
    if authority.host().is_empty() {
        return Err("it names no host");
    }
    Ok(uri)
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A URL, perhaps a broken one, without what may be secret: everything up to the last `@`, and the query.
pub fn redacted(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        None => ("", url),
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("…@", rest),
        None => ("", rest),
    };
    let (place, query) = match rest.find(['?', '#']) {
        Some(at) => (&rest[..at], "?…"),
        None => (rest, ""),
    };
    let colon = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{colon}{user}{place}{query}")
}

/// `Bearer` and the text of the file. The error names the file, never its text.
fn read_token(path: &Path) -> Result<HeaderValue, String> {
    let place = path.display();
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| format!("read token_file {place}: {error}: it must exist and be readable"))?;
    let token = text.trim();
    let plain = |byte: u8| byte.is_ascii_graphic();
    if token.is_empty() || text.len() as u64 > TOKEN_BYTES_MAX || !token.bytes().all(plain) {
        return Err(format!("token_file {place}: it must hold one line of visible ASCII, the token"));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| format!("token_file {place}: it must hold one line of visible ASCII, the token"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The start of an answer's body in a form that is safe in a log line.
fn hint(reply: &[u8]) -> String {
    hint_of(String::from_utf8_lossy(&reply[..reply.len().min(4 * HINT_CHARS_MAX)]).chars())
}

fn hint_of(chars: impl Iterator<Item = char>) -> String {
    let printable = chars.map(|c| if c.is_control() { ' ' } else { c });
    printable.take(HINT_CHARS_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        let params = HttpParams { url: url.into(), ..HttpParams::default() };
        let error = HttpSink::new(params).err().expect(url);
        assert_eq!(error.kind(), Kind::Config);
        error.to_string()
    }

    #[test]
    fn urls_are_checked_in_words_and_without_secrets() {
        for (url, words) in [
            ("ftp://example.org/", "use http:// or https://"),
            ("/events", "use http:// or https://"),
            ("", "not a URL"),
            ("http://", "not a URL"),
            ("https://joe:hunter2@example.org/events", "token_file"),
            ("https://hunter2@example.org/events?key=hunter2", "token_file"),
            ("ftp://joe:hunter2@example.org/", "use http"),
            ("https://joe:hun ter2/hunter2@example.org/", "not a URL"),
            ("https://exa mple.org/?key=hunter2", "not a URL"),
        ] {
            let text = refused(url);
            assert!(text.contains(words), "{url}: {text}");
            assert!(!text.contains("ter2") && !text.contains("joe"), "{text}");
        }
    }

    #[test]
    fn names_hide_the_query() {
        let url = "https://example.org:8443/api/v2?org=a&token=hunter2".to_owned();
        let sink = HttpSink::new(HttpParams { url, ..HttpParams::default() }).unwrap();
        assert_eq!(sink.name(), "https://example.org:8443/api/v2?…");
    }

    #[test]
    fn tokens_are_one_line_of_text_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret-token\n").unwrap();
        let value = read_token(&path).unwrap();
        assert!(value == "Bearer s3cret-token" && !format!("{value:?}").contains("s3cret"));
        let long = "s3cret".repeat(2000);
        for bad in ["", "\n", "s3cret two", "s3cret\nline", "s3cret\u{7f}", "s3crét", long.as_str()] {
            std::fs::write(&path, bad).unwrap();
            let text = read_token(&path).unwrap_err();
            assert!(text.contains("token_file") && !text.contains("s3cr"), "{text}");
        }
        assert!(read_token(&dir.path().join("none")).unwrap_err().contains("must exist"));
    }

    #[test]
    fn statuses_decide_what_becomes_of_a_batch() {
        let after = Some(Duration::from_secs(7));
        for (statuses, failure) in [
            (&[500, 502, 503, 504, 599, 600, 100, 408, 425, 429][..], Failure::Retry { after }),
            (
                &[300, 301, 302, 304, 307, 308, 399, 401, 403, 404, 405, 406, 407, 410, 415],
                Failure::Misconfigured,
            ),
            (&[400, 402, 409, 422, 499], Failure::Refused),
            (&[413], Failure::TooLarge),
        ] {
            for &status in statuses {
                assert_eq!(classify(status, after).0, failure, "{status}");
            }
        }
    }

    #[test]
    fn retry_after_takes_seconds_only() {
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("4294967295", Some(u64::from(u32::MAX))),
            ("4294967296", None),
            ("-1", None),
            ("1.5", None),
            ("Fri, 31 Dec 1999 23:59:59 GMT", None),
        ] {
            let value = HeaderValue::from_str(text).unwrap();
            assert_eq!(retry_after(&value), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn hints_are_short_and_printable() {
        assert_eq!(hint(b"  bad\r\n\x1b[31mevent \xff "), "bad   [31mevent \u{fffd}");
        assert_eq!(hint("ä".repeat(500).as_bytes()).chars().count(), HINT_CHARS_MAX);
    }
}
