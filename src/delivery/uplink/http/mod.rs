//! HTTP and HTTPS: one POST a batch. The only folder that names `ureq`, whose defaults are not ours.
//!
//! Every phase has a deadline, and so has the whole; no proxy is taken from the environment; a redirect is an answer, not
//! an instruction; a pooled connection is thrown away before a firewall forgets it; of an answer's body at most
//! [`REPLY_BYTES_MAX`] are read. Tokens, keys and certificates come from files, are read again after the receiver
//! has refused them, and are never shown. [`tls`] says who is believed.
//!
//! The confirmation is a 2xx, for InfluxDB a 204. Except when the answer is a web page (the login of a mobile network answers
//! 200 to anything), or JSON that tells an error or ends early. Never retries by itself: that is the session's decision.

mod gzip;
mod place;
mod secret;
pub mod tls;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{HeaderValue, Response, Uri, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};

use crate::base::error::{Error, Kind, Result};
use crate::base::limits::REPLY_BYTES_MAX;
use crate::delivery::uplink::format::Format;
use crate::delivery::uplink::session::Failure;
use crate::delivery::uplink::{Batch, SendError, Sink};
use crate::platform::calendar::Timekeeper;
use gzip::Gzip;
use place::{address, is_loopback};
use secret::{Scheme, read_token};
use tls::{Remedy, TlsParams};

pub use place::{InfluxPlace, redacted};

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
    /// What the receiver takes.
    pub format: Format,
    /// What InfluxDB wants to know besides.
    pub influx: InfluxPlace,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// A file, or `credential:NAME`, whose text is sent as the token.
    pub token_file: Option<PathBuf>,
    /// Who is believed, and who we are.
    pub tls: TlsParams,
    /// `http://HOST:PORT` of a proxy that tunnels (`CONNECT`).
    pub proxy: Option<String>,
    /// The deadlines.
    pub deadlines: Deadlines,
}

/// Posts batches to a URL.
pub struct HttpSink {
    params: HttpParams,
    time: Arc<Timekeeper>,
    /// `None`: its files must be read again.
    agent: Option<ureq::Agent>,
    uri: Uri,
    /// The URL without its query.
    name: String,
    /// `Bearer …`; `None`: none is configured, or it must be read again.
    authorization: Option<HeaderValue>,
    whole: Duration,
    body: Vec<u8>,
    gzip: Option<Gzip>,
    reply: Vec<u8>,
}

impl HttpSink {
    /// Checks the URL, reads the token and the certificates. Connects to nothing. `time` is what certificates are judged by.
    ///
    /// # Errors
    /// [`Kind::Config`], with the remedy: a scheme that is not HTTP, no host, a user or password in the URL, a file that
    /// cannot be read or is not what it should be.
    pub fn new(params: HttpParams, time: Arc<Timekeeper>) -> Result<Self> {
        let url = &params.url;
        let uri = address(url, params.format, &params.influx).map_err(|problem| {
            Error::fatal(Kind::Config, format!("uplink URL '{}': {problem}", redacted(url)))
        })?;
        let query = if uri.query().is_some() { "?…" } else { "" };
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let name = format!("{scheme}://{authority}{}{query}", uri.path());
        if params.token_file.is_some() && scheme == "http" && !is_loopback(&uri) {
            tracing::warn!("the token for {name} travels unencrypted: use https://");
        }
        let mut sink = HttpSink {
            time,
            agent: None,
            uri,
            name,
            authorization: None,
            whole: params.deadlines.whole,
            body: Vec::new(),
            gzip: params.gzip.then(Gzip::new),
            reply: Vec::with_capacity(REPLY_BYTES_MAX as usize),
            params,
        };
        sink.read_files().map_err(|text| Error::fatal(Kind::Config, text))?;
        Ok(sink)
    }

    /// Reads the files whose contents are not known (any more).
    fn read_files(&mut self) -> Result<(), String> {
        if let (Some(path), None) = (&self.params.token_file, &self.authorization) {
            let scheme = match self.params.format {
                Format::CloudEvents | Format::Packed | Format::Packed2 => Scheme::Bearer,
                Format::Influx1 => Scheme::Basic,
                Format::Influx2 => Scheme::Token,
            };
            self.authorization = Some(read_token(path, scheme)?);
        }
        if self.agent.is_none() {
            self.agent = Some(agent(&self.params, &self.time)?);
        }
        Ok(())
    }

    fn post(&mut self, batch: &Batch<'_>) -> Result<Response<ureq::Body>, SendError> {
        self.read_files().map_err(SendError::misconfigured)?;
        let Some(agent) = &self.agent else { return Err(SendError::retry("no client")) };
        let format = self.params.format;
        format.write(batch, &mut self.body);
        let mut request = agent
            .post(&self.uri)
            .header(header::CONTENT_TYPE, format.content_type())
            .header("Idempotency-Key", batch.id().to_string());
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let mut body = &self.body[..];
        if let Some(gzip) = &mut self.gzip {
            request = request.header(header::CONTENT_ENCODING, "gzip");
            body = gzip.pack(body);
        }
        let request = request.config().timeout_global(Some(self.whole)).build();
        let sent = request.send(body);
        sent.map_err(|error| self.failed(&error))
    }

    /// No answer came.
    fn failed(&mut self, error: &ureq::Error) -> SendError {
        let place = format!("POST {}: {error}", self.name);
        let Some(inner) = tls::cause(error) else {
            let kept_here = never_left(error);
            return SendError { kept_here, ..SendError::retry(format!("{place}: {}", remedy_for(error))) };
        };
        let vouched = self.time.map().wall.vouched();
        self.agent = None; // Certificates may have been renewed: read them again before the next try.
        // Nothing is sent before the handshake is done.
        let error = match tls::remedy(inner, vouched) {
            Remedy::Clock => SendError::retry(format!(
                "{place}: this device's clock is not synchronised, so nobody can say whether the certificate is valid: \
                 let it reach a time server"
            )),
            Remedy::Person(what) => SendError::misconfigured(format!("{place}: {what}")),
            Remedy::Retry => {
                return SendError::retry(format!("{place}: check that it speaks TLS there, and the link"));
            }
        };
        SendError { kept_here: true, ..error }
    }

    /// Whether a 2xx is the word of the receiver.
    fn confirmed(&mut self, mut response: Response<ureq::Body>) -> Result<(), SendError> {
        let status = response.status();
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
        self.read_reply(response.body_mut());
        let reply = self.reply.trim_ascii_start();
        let told = if kind.starts_with("text/html") && reply.starts_with(b"<") {
            "a web page answers, not a receiver of events: does the link want a login (mobile network, guest network)?"
        } else if self.params.format.needs_time() && status.as_u16() != 204 {
            "InfluxDB would say 204: check what answers there"
        } else if kind.contains("json") && tells_an_error(reply) {
            "it says yes and tells an error: see its log"
        } else if kind.contains("json") && is_cut(reply) {
            let text = format!("POST {}: {status}: its answer ended early: it may tell an error", self.name);
            return Err(SendError { status: Some(status.as_u16()), ..SendError::retry(text) });
        } else {
            return Ok(());
        };
        let text = format!("POST {}: {status}{}: {told}", self.name, self.quote());
        Err(SendError { status: Some(status.as_u16()), ..SendError::misconfigured(text) })
    }

    /// What the answer says, without our own secret if it repeats that.
    fn quote(&self) -> String {
        let secret =
            self.authorization.as_ref().and_then(|value| value.to_str().ok()?.split(' ').next_back());
        let hint = hint(&self.reply, secret.unwrap_or_default());
        if hint.is_empty() { hint } else { format!(" '{hint}'") }
    }

    /// The error of an answer that is not a 2xx.
    fn refusal(&mut self, mut response: Response<ureq::Body>) -> SendError {
        let status = response.status();
        self.read_reply(response.body_mut());
        let quote = self.quote();
        let after = response.headers().get(header::RETRY_AFTER).and_then(retry_after);
        let (mut failure, mut remedy) = classify(status.as_u16(), after);
        // nginx tells like this that it wants a certificate of ours, or another one.
        if matches!(status.as_u16(), 400 | 403 | 495 | 496)
            && quote.to_ascii_lowercase().contains("certificate")
        {
            (failure, remedy) = (
                Failure::Misconfigured,
                "it wants a certificate of this device: check uplink.client_cert_file",
            );
        }
        if failure == Failure::Misconfigured {
            // What it was may have been renewed: read it again before the next try.
            (self.authorization, self.agent) = (None, None);
        }
        let mut text = format!("POST {}: {status}{quote}: {remedy}", self.name);
        if let Some(to) = response.headers().get(header::LOCATION).filter(|_| status.is_redirection()) {
            // A user and a password may stand in it, also in one that is no URL.
            let to = hint_of(String::from_utf8_lossy(to.as_bytes()).chars());
            let to = redacted(to.rsplit('@').next().unwrap_or_default());
            text = format!("{text} (it points to {to})");
        }
        SendError { failure, status: Some(status.as_u16()), text, kept_here: false }
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
        let response = self.post(batch)?;
        if response.status().is_success() { self.confirmed(response) } else { Err(self.refusal(response)) }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn reserve(&mut self, events: usize) {
        let bytes = self.params.format.bytes_for(events);
        self.body.reserve(bytes);
        if let Some(gzip) = &mut self.gzip {
            gzip.reserve(bytes);
        }
    }

    fn needs_time(&self) -> bool {
        self.params.format.needs_time()
    }

    fn hurry(&mut self, longest: Duration) {
        self.whole = self.whole.min(longest);
    }
}

/// The client, every option said out loud.
fn agent(params: &HttpParams, time: &Arc<Timekeeper>) -> Result<ureq::Agent, String> {
    let proxy = match &params.proxy {
        // With any other kind the connection would go past it.
        Some(url) => Some(
            Some(url)
                .filter(|url| url.starts_with("http://"))
                .and_then(|url| ureq::Proxy::new(url).ok())
                .ok_or_else(|| format!("uplink.proxy '{}': write it like http://host:port", redacted(url)))?,
        ),
        None => None,
    };
    let deadlines = &params.deadlines;
    let config = ureq::Agent::config_builder()
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
        .proxy(proxy)
        .http_status_as_error(false)
        .user_agent(concat!("flytrap/", env!("CARGO_PKG_VERSION")))
        .build();
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(TcpConnector::default())
            .chain(tls::Tls(tls::config(&params.tls, time)?));
    Ok(ureq::Agent::with_parts(config, connector, DefaultResolver::default()))
}

/// Whether an answer in JSON has an `error` or `errors` that says something.
fn tells_an_error(reply: &[u8]) -> bool {
    use serde_json::Value;
    if reply.len() as u64 >= REPLY_BYTES_MAX {
        // Our own limit cut it: it is not read as a whole.
        let text = String::from_utf8_lossy(reply).split_whitespace().collect::<String>();
        return ["\"errors\":true", "\"error\":\"", "\"error\":{"].iter().any(|told| text.contains(told));
    }
    let Ok(Value::Object(answer)) = serde_json::from_slice(reply) else { return false };
    ["error", "errors"].iter().filter_map(|name| answer.get(*name)).any(|told| match told {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    })
}

/// Whether an answer in JSON ends before it should, other than by our own limit.
fn is_cut(reply: &[u8]) -> bool {
    let whole = (reply.len() as u64) < REPLY_BYTES_MAX;
    whole && !reply.is_empty() && serde_json::from_slice::<serde::de::IgnoredAny>(reply).is_err()
}

/// Whether a send failed before anything of the batch was sent.
#[allow(clippy::wildcard_enum_match_arm, reason = "ureq's errors are open-ended")]
fn never_left(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::ConnectProxyFailed(_) => {
            true
        }
        ureq::Error::Timeout(phase) => matches!(phase, ureq::Timeout::Resolve | ureq::Timeout::Connect),
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => false,
    }
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
        // To an Idempotency-Key: the same batch is being worked on.
        408 | 409 | 425 | 429 => (Failure::Retry { after }, "the receiver asks for patience"),
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
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => "check the receiver's certificate",
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => {
            "no HTTP/1.1 server answers there: check the port"
        }
        _ => "check the link and whether the receiver runs",
    }
}

/// The start of an answer's body in a form that is safe in a log line.
fn hint(reply: &[u8], secret: &str) -> String {
    let mut text = String::from_utf8_lossy(reply);
    if !secret.is_empty() && text.contains(secret) {
        text = text.replace(secret, "…").into();
    }
    hint_of(text.chars())
}

fn hint_of(chars: impl Iterator<Item = char>) -> String {
    let printable = chars.map(|c| if c.is_control() { ' ' } else { c });
    printable.take(HINT_CHARS_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time() -> Arc<Timekeeper> {
        Arc::new(Timekeeper::new(Arc::new(crate::platform::clock::SystemClock)))
    }

    #[test]
    fn an_answer_that_says_yes_and_tells_an_error_is_seen() {
        for (reply, told) in [
            ("", false),
            ("[]", false),
            ("{\"error\":null}", false),
            ("{\"errors\":false,\"items\":[]}", false),
            ("{\"error\":\"\"}", false),
            ("{\"error\":\"disk full\"}", true),
            ("{\"errors\":true}", true),
            ("{\"errors\":[{}]}", true),
            ("{\"error\":\"disk", false),
        ] {
            assert_eq!(tells_an_error(reply.as_bytes()), told, "{reply}");
        }
    }

    fn refused(url: &str) -> String {
        let params = HttpParams { url: url.into(), ..HttpParams::default() };
        let error = HttpSink::new(params, time()).err().expect(url);
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
        let sink = HttpSink::new(HttpParams { url, ..HttpParams::default() }, time()).unwrap();
        assert_eq!(sink.name(), "https://example.org:8443/api/v2?…");
    }

    #[test]
    fn statuses_decide_what_becomes_of_a_batch() {
        let after = Some(Duration::from_secs(7));
        for (statuses, failure) in [
            (&[500, 502, 503, 504, 599, 600, 100, 408, 409, 425, 429][..], Failure::Retry { after }),
            (
                &[300, 301, 302, 304, 307, 308, 399, 401, 403, 404, 405, 406, 407, 410, 415],
                Failure::Misconfigured,
            ),
            (&[400, 402, 422, 499], Failure::Refused),
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
        assert_eq!(hint(b"  bad\r\n\x1b[31mevent \xff ", ""), "bad   [31mevent \u{fffd}");
        assert_eq!(hint("ä".repeat(500).as_bytes(), "").chars().count(), HINT_CHARS_MAX);
        let echo = hint(b"no: authorization: Bearer s3cret-0123, s3cret-0123", "s3cret-0123");
        assert_eq!(echo, "no: authorization: Bearer …, …", "a server that shows what it got");
    }
}
